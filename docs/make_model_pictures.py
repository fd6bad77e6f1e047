"""Makes the pictures of the bundled model: `python -m docs.make_model_pictures [FOLDER]`, seven minutes of one core.

It trains four networks into FOLDER (default: build/model-pictures) with data that are bundled, and writes
`docs/images/` from their figures and animations. A training that is in FOLDER already is not repeated: the trainer
resumes at its end.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from model import image_files
from model.captions import captioned
from model.evaluation.measured import described
from model.evaluation.over_training import config_in

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
FOLDER = ROOT / "build" / "model-pictures"
MOST_BYTES = 1_000_000  # of an animation


@dataclass(frozen=True)
class Made:
    """A training, and the pictures that are made from it."""

    train: str  # the flags of `train`
    figures: dict[str, str] = field(default_factory=dict)  # file of `figures` -> name in docs/images
    grid: str = ""  # name of the picture of the last samples
    drawn: str = ""  # name of the animation of images being drawn
    drawn_flags: str = ""
    grown: str = ""  # name of the animation of the samples over training


TRAININGS = {
    "demo": Made(train="", grid="demo-samples.png", grown="demo-training.gif"),
    "row-lstm": Made(
        train="--model row-lstm --set layers=3 --steps 1500 --set validate_every=100",
        figures={
            "predictions.png": "row-lstm-predictions.png",
            "samples.png": "row-lstm-samples.png",
            "completions.png": "row-lstm-completions.png",
            "training.png": "row-lstm-training.png",
        },
        drawn="row-lstm-drawn.gif",
        drawn_flags="--count 9",
        grown="row-lstm-over-training.gif",
    ),
    "digits-multiscale": Made(
        train="--preset digits-multiscale",
        figures={"scales.png": "multiscale-digits.png"},
    ),
    "photos16-multiscale": Made(
        train="--preset photos16-multiscale",
        figures={
            "scales.png": "multiscale-photos.png",
            "samples.png": "multiscale-photos-samples.png",
            "predictions.png": "multiscale-photos-predictions.png",
        },
        drawn="multiscale-photos-drawn.gif",
        drawn_flags="--count 9",
    ),
}


def commands(name: str, folder: Path) -> list[list[str]]:
    """Return the trainer's commands for a training, in order; they write below `folder`."""
    made, out = TRAININGS[name], folder / name
    found = [["train", *made.train.split(), "--out", str(out)]]
    if made.figures:
        found.append(["figures", "--checkpoint", str(out), "--out", str(out / "figures")])
    if made.grown:
        found.append(["figures", "--checkpoint", str(out), "--animate", str(out / made.grown)])
    if made.drawn:
        found.append(
            ["sample", "--checkpoint", str(out), *made.drawn_flags.split(), "--animate", str(out / made.drawn)]
        )
    return found


def pictures(name: str) -> list[str]:
    """Return the names of the pictures that are made from a training."""
    made = TRAININGS[name]
    return [one for one in (*made.figures.values(), made.grid, made.drawn, made.grown) if one]


def make(name: str, folder: Path) -> None:
    """Train, and write the pictures."""
    made, out = TRAININGS[name], folder / name
    for words in commands(name, folder):
        print("$ python -m model", *words, flush=True)
        subprocess.run([sys.executable, "-m", "model", *words], check=True, cwd=ROOT)
    for figure, picture in made.figures.items():
        shutil.copy(out / "figures" / figure, IMAGES / picture)
    for animated in (made.drawn, made.grown):
        if animated:
            if (out / animated).stat().st_size > MOST_BYTES:
                raise SystemExit(f"{out / animated} has more than {MOST_BYTES:,} bytes; draw fewer images")
            shutil.copy(out / animated, IMAGES / animated)
    if made.grid:
        newest = max(out.glob("samples-*.png"), key=lambda path: int(path.stem.partition("-")[2]))
        config = config_in(out)
        if config is None:
            raise SystemExit(f"{out} has no checkpoint")
        with Image.open(newest) as image:
            pixels = np.asarray(image)
        canvas = pixels if pixels.ndim == 3 else pixels[:, :, None]
        caption = f"{config.samples} samples of a {described(config)}, step {config.steps:,}, seed {config.seed}."
        image_files.save(IMAGES / made.grid, captioned(canvas, caption))
    for picture in pictures(name):
        print(f"{picture}: {(IMAGES / picture).stat().st_size / 1e3:.0f} kB", flush=True)


def main() -> None:
    """Make the pictures of all trainings, or of those that are named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER, help="of the trainings")
    parser.add_argument("--only", choices=tuple(TRAININGS), action="append", help="this training; may be repeated")
    args = parser.parse_args()
    for name in args.only or TRAININGS:
        make(name, args.folder.resolve())


if __name__ == "__main__":
    main()
