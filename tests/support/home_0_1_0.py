"""A copy of the home that version 0.1.0 made, ready to be used; see tests/fixtures/home_0_1_0/README.md."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from orchestrator.host.shell import make_key_pair
from orchestrator.runs.events import RunCreated
from orchestrator.runs.store import RunStore

FIXTURE = Path(__file__).parents[1] / "fixtures" / "home_0_1_0"
WORKDIR = "/home/ada/digits"  # as spec.json has it


def copied(home: Path, *, workdir: Path | None = None) -> Path:
    """Copy the home into `home`, which does not exist yet.

    Args:
        home: where to.
        workdir: the folder of the user's program, in place of the recorded one.
    """
    shutil.copytree(FIXTURE / "home", home)
    for spec in home.glob("runs/*/spec.json"):
        if workdir is not None:
            spec.write_text(spec.read_text().replace(json.dumps(WORKDIR), json.dumps(str(workdir))))
        created = next(e for e in RunStore(home, spec.parent.name).events() if isinstance(e, RunCreated))
        os.utime(spec, (created.at, created.at))  # runs are listed in the order of these times; git keeps none
        key = spec.parent / "key"  # the repository holds no private key
        private, public = make_key_pair(f"pixel-orch-{spec.parent.name}")
        key.write_text(private)
        key.chmod(0o600)
        key.with_suffix(".pub").write_text(public + "\n")
    return home


def expected(home: Path) -> dict[str, Any]:
    """Return what version 0.1.0 said of the home, had it been at `home`."""
    text = (FIXTURE / "expected.json").read_text()
    said: dict[str, Any] = json.loads(text)
    return dict(json.loads(text.replace(json.dumps(said["home"])[1:-1], json.dumps(str(home))[1:-1])))


def schema_1() -> dict[str, Any]:
    """Return the fields of events and of `spec.json` in version 0.1.0."""
    return dict(json.loads((FIXTURE / "schema_1.json").read_text()))
