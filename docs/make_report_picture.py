"""Makes the picture of the report: `python docs/make_report_picture.py [--home FOLDER]`, about three minutes.

It measures two types and interrupts a run on the embedded cloud of this machine, writes the page of `report --html`,
opens it in a headless Chromium, and writes `docs/images/report.png`, from the top to the story of the interruption.
With `--home` the runs of an earlier call are shown again.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.support import browser  # noqa: E402  (the checkout is found first)

PICTURE = ROOT / "docs" / "images" / "report.png"
EMBEDDED = ["--cloud", "local", "--spot", "-y"]
COMMANDS = [
    ["bench", *EMBEDDED, "--instance", "g4dn.xlarge,g5.xlarge", "--steps", "60", "--name", "bench"],
    [
        "launch",
        *EMBEDDED,
        "--instance",
        "p2.xlarge",
        "--steps",
        "400",
        "--interrupt-after",
        "14",
        "--name",
        "digits-spot",
    ],
]
WIDTH = 1280
BOTTOM = "Math.ceil(document.querySelector('#story-0').getBoundingClientRect().bottom + scrollY + 24)"


def run(home: Path, *words: str) -> None:
    """Run a command of pixel-orch in the home."""
    environment = {**os.environ, "PIXEL_ORCH_HOME": str(home), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "orchestrator.cli", *words], check=True, cwd=ROOT, env=environment)


def take(path: Path) -> None:
    """Open the page and write the picture of its upper part."""
    with browser.page() as page:
        page.size(WIDTH)
        page.media(scheme="light")
        page.go(path.as_uri())
        page.size(WIDTH, page.run(BOTTOM))
        page.picture(PICTURE, whole=False)
        if page.complaints:
            raise SystemExit(f"the console says: {page.complaints}")
    with_its_colours(Image.open(io.BytesIO(PICTURE.read_bytes())).convert("RGB")).save(PICTURE, optimize=True)
    print(f"{PICTURE}: {PICTURE.stat().st_size / 1e3:.0f} kB")


def with_its_colours(image: Image.Image) -> Image.Image:
    """Return the picture in its 256 most frequent colours: an average would lose the thin lines and the page's grey."""
    counted = sorted(image.getcolors(image.width * image.height) or [], reverse=True)[:256]
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for _, colour in counted for part in colour])
    return image.quantize(palette=palette, dither=Image.Dither.NONE)


def main() -> None:
    """Measure, unless there are runs, and take the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--home", type=Path, help="keep the runs here, and show them again")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = (args.home or Path(folder) / "home").resolve()
        if not (home / "runs").is_dir():
            home.mkdir(parents=True, exist_ok=True)
            for words in COMMANDS:
                run(home, *words)
        page = Path(folder) / "report.html"
        run(home, "report", "--html", str(page))
        take(page)


if __name__ == "__main__":
    main()
