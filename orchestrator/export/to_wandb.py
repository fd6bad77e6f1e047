"""Writes a run into Weights & Biases. Needs the package wandb.

Its history is appended by step and cannot be replaced, so that only steps that no machine will train again are written,
and those that are there already are passed over.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from orchestrator.export.contents import Contents

PROJECT = "WANDB_PROJECT"
ITS_FOLDER = "wandb"  # in the home; the variable WANDB_DIR wins
OURS = "pixel_orch"
QUIET = {"WANDB_SILENT": "true", "WANDB_CONSOLE": "off", "WANDB_DISABLE_GIT": "true", "WANDB_DISABLE_CODE": "true"}


def write(contents: Contents, home: Path) -> str:
    """Write the run; return where it is found. Offline that is a folder, which replaces the one of an export before.

    Raises:
        Exception: wandb's own, if there is no key, or it does not answer.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import wandb

    folder = Path(os.environ.get("WANDB_DIR") or home)
    folder.mkdir(parents=True, exist_ok=True)
    run: Any = wandb.init(
        project=os.environ.get(PROJECT) or "pixel-orch",
        id=contents.id,
        name=contents.run,
        resume="allow",
        dir=str(folder),
        config=dict(contents.params),
        allow_val_change=True,
        settings=_settings(wandb),
    )
    try:
        _log(run, contents)
        run.summary.update({**contents.figures, **{f"{OURS}/{key}": value for key, value in contents.tags.items()}})
        _save_samples(run, contents)
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish(exit_code=0 if contents.state == "SUCCEEDED" or not contents.is_over else 1)
    if run.url:
        return str(run.url)
    written = Path(run.dir).parent
    for old in written.parent.glob(f"offline-run-*-{contents.id}"):
        if old != written:  # both would be sent
            shutil.rmtree(old, ignore_errors=True)
    return f"{written} (offline: wandb sync sends it)"


def _settings(wandb: Any) -> Any:
    """Return settings by which nothing of this machine is sent: no code, packages, hardware, load, or output."""
    return wandb.Settings(
        console="off",
        disable_git=True,
        disable_code=True,
        save_code=False,
        x_save_requirements=False,
        x_disable_stats=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
    )


def _log(run: Any, contents: Contents) -> None:
    rows: dict[int, dict[str, float]] = {}
    for name, points in contents.settled.items():
        for point in points:
            row = rows.setdefault(point.step, {"_timestamp": point.at})
            row[name] = point.value
    first = run.step if run.resumed else 0  # the step after the last that is there
    for step in sorted(rows):
        if step >= first:
            run.log(rows[step], step=step, commit=True)


def _save_samples(run: Any, contents: Contents) -> None:
    folder = Path(run.dir) / "samples"
    for one in contents.samples:
        folder.mkdir(exist_ok=True)
        (folder / one.name).write_bytes(one.png)
    if contents.samples:
        run.save(str(folder / "*.png"), base_path=run.dir, policy="end")
