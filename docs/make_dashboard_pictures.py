"""Makes the pictures of the dashboard: `python docs/make_dashboard_pictures.py [--home FOLDER]`, about four minutes.

It trains three networks on the embedded cloud of this machine, one of them interrupted, opens the dashboard's pages in
a headless Chromium, and writes `docs/images/dashboard*.png`. With `--home` the runs of an earlier call are shown again.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.support import browser  # noqa: E402  (the checkout is found first)

IMAGES = ROOT / "docs" / "images"
RUNS = {
    "digits-narrow": ["--set", "hidden=8", "--steps", "300"],
    "digits-wide": ["--set", "hidden=32", "--steps", "300"],
    "digits-spot": ["--steps", "400", "--interrupt-after", "12", "--budget", "0.05"],
}
COMPARED = "".join(f"run={name}&" for name in RUNS)
PICTURES = {  # path, width, height (0: all of it), colour scheme
    "dashboard": ("/run/digits-spot?", 1280, 0, "light"),
    "dashboard-runs": ("/?", 1280, 430, "light"),
    "dashboard-compare": (f"/compare?{COMPARED}", 1280, 0, "dark"),
    "dashboard-phone": ("/run/digits-spot?", 390, 1300, "dark"),
}


def train(home: Path) -> None:
    """Launch the runs, one after the other."""
    for name, words in RUNS.items():
        launch = ["launch", "--cloud", "local", "--instance", "p2.xlarge", "--spot", "-y", "--name", name, *words]
        subprocess.run([sys.executable, "-m", "orchestrator.cli", *launch], check=True, cwd=ROOT, env=environment(home))


def environment(home: Path) -> dict[str, str]:
    """Return the environment of a command that knows the home."""
    return {**os.environ, "PIXEL_ORCH_HOME": str(home), "PYTHONPATH": str(ROOT)}


def take(home: Path) -> None:
    """Open the pages, and write the pictures."""
    command = [sys.executable, "-m", "orchestrator.cli", "dashboard"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=environment(home))
    address = server.stdout.readline() if server.stdout else b""
    base, _, token = address.decode().strip().partition("/?")
    try:
        with browser.page() as page:
            for name, (path, width, height, scheme) in PICTURES.items():
                page.size(width, height or 600)
                page.media(scheme=scheme)
                page.go(f"{base}{path}{token}")
                page.until("document.getElementById('live').textContent === 'live'")
                page.until("!document.getElementById('charts') || !!document.querySelector('.chart .line')")
                page.until("[...document.images].every((one) => one.complete)")
                raw = IMAGES / f"{name}.png"
                page.picture(raw, whole=not height)
                small = Image.open(io.BytesIO(raw.read_bytes())).convert("RGB").quantize(256)
                small.save(raw, optimize=True)
                print(f"{raw}: {raw.stat().st_size / 1e3:.0f} kB")
            if page.complaints:
                raise SystemExit(f"the console says: {page.complaints}")
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


def main() -> None:
    """Train, unless there are runs, and take the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--home", type=Path, help="keep the runs here, and show them again")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = (args.home or Path(folder) / "home").resolve()
        if not (home / "runs").is_dir():
            train(home)
        take(home)


if __name__ == "__main__":
    main()
