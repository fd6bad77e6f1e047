"""Imports point one way: between the folders of each half, inside each folder, and between the halves."""

from __future__ import annotations

import ast
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.imports import Import, all_imports, circles, modules

ROOT = Path(__file__).parents[2]

# Each folder, with the folders that it may import, besides itself. `ground` is the files beside the folders.
ORCHESTRATOR = {
    "ground": [],
    "runs": ["ground"],
    "market": ["ground", "runs"],
    "policy": ["ground", "runs", "market"],
    "cloud": ["ground", "runs", "market", "policy"],
    "host": ["ground", "runs", "market", "cloud"],
    "report": ["ground", "runs", "market"],
    "export": ["ground", "runs", "market", "report"],
    "plan": ["ground", "runs", "market", "policy", "cloud", "host", "report", "export"],
    "engine": ["ground", "runs", "market", "policy", "cloud", "host", "report", "export", "plan"],
    "dashboard": ["ground", "runs", "market", "report"],
    "notebook": ["ground", "runs", "market", "report"],
    "api": ["ground", "runs", "market", "cloud", "host", "report", "export", "plan", "engine", "notebook"],
    "cli": ["ground", "runs", "market", "policy", "cloud", "host", "report", "export", "plan", "engine", "dashboard"],
    "face": ["ground", "api"],
}
GROUND_OF_ORCHESTRATOR = {"errors", "clock", "version", "formatting", "callbacks"}
MODEL = ["ground", "config", "data", "networks", "sampling", "training", "evaluation", "cli", "door"]
LOCAL = {
    "aws": [],
    "machine": [],
    "ground": ["machine"],  # `client` and `endpoint`: find the embedded cloud's process
    "face": ["ground", "cloud"],  # `infra.local` itself
    "cloud": ["ground", "aws", "machine"],
    "api": ["ground", "aws", "machine", "cloud"],
    "server": ["ground", "aws", "machine", "cloud", "api"],
}
DOORS = {  # a vendor's package, and the only place that may import it
    "boto3": ("orchestrator.cloud.aws",),
    "botocore": ("orchestrator.cloud.aws",),
    "fabric": ("orchestrator.host.link",),
    "paramiko": ("orchestrator.host.link",),
    "matplotlib": ("orchestrator.report",),
    "numpy": ("orchestrator.policy",),
    "textalloc": ("orchestrator.report.html",),
    "mlflow": ("orchestrator.export.to_mlflow",),
    "wandb": ("orchestrator.export.to_wandb",),
    "tensorboard": ("orchestrator.export.to_tensorboard",),
}
BRIDGE = {"model", "model.config", "model.errors"}  # what the orchestrator may import of the trainer


def room_of_orchestrator(name: str) -> str:
    """Return the folder of a module, `ground` for a file that every folder may use, `face` for the package itself."""
    parts = name.split(".")
    if len(parts) == 1:
        return "face"
    return "ground" if parts[1] in GROUND_OF_ORCHESTRATOR else parts[1]


def against_the_direction(root: Path) -> list[Import]:
    """Return the imports within `orchestrator/` that the table above does not allow."""
    wrong = []
    for found in all_imports(root, "orchestrator"):
        if found.target.split(".")[0] == "orchestrator":
            here, there = room_of_orchestrator(found.source), room_of_orchestrator(found.target)
            if here != there and there not in ORCHESTRATOR.get(here, []):
                wrong.append(found)
    return wrong


def past_a_door(root: Path) -> list[Import]:
    """Return the imports of the orchestrator that go to a vendor, to the trainer or to numbers by another way."""
    wrong = []
    for found in all_imports(root, "orchestrator"):
        top = found.target.split(".")[0]
        is_at_door = top not in DOORS or any(f"{found.source}.".startswith(f"{door}.") for door in DOORS[top])
        is_bridge = top != "model" or found.target in BRIDGE
        if top in ("torch", "tests") or not is_at_door or not is_bridge:
            wrong.append(found)
    return wrong


def test_every_folder_of_the_orchestrator_is_in_the_table() -> None:
    assert {room_of_orchestrator(name) for name in modules(ROOT, "orchestrator")} <= set(ORCHESTRATOR)


def test_the_orchestrator_imports_only_what_its_folders_may() -> None:
    assert [str(found) for found in against_the_direction(ROOT)] == []


def test_vendors_and_the_trainer_are_reached_by_one_door_each() -> None:
    assert [str(found) for found in past_a_door(ROOT)] == []


@pytest.mark.parametrize("package", ["orchestrator", "model", "infra"])
def test_no_import_goes_in_a_circle(package: str) -> None:
    assert circles(all_imports(ROOT, package)) == []


@pytest.mark.parametrize("package", ["orchestrator", "model", "infra"])
def test_imports_are_absolute(package: str) -> None:
    assert [str(found) for found in all_imports(ROOT, package) if found.target.startswith(".")] == []


def test_every_folder_says_in_one_sentence_what_is_in_it() -> None:
    for package in ("orchestrator", "model", "infra"):
        for init in (ROOT / package).rglob("__init__.py"):
            assert ast.get_docstring(ast.parse(init.read_text())), f"{init.relative_to(ROOT)} says nothing"


# -- model, infra


def room_below(name: str, top: str, order: list[str], last: str) -> str:
    """Return the folder of a module below `top`; its `__main__` is the last room, other files beside it the ground."""
    rest = name.removeprefix(top).lstrip(".").split(".")
    if rest == [""]:
        return "face" if "face" in order else "ground"
    if rest[0] == "__main__":
        return last
    return rest[0] if rest[0] in order else "ground"


def test_the_folders_of_the_model_import_one_way() -> None:
    for found in all_imports(ROOT, "model"):
        assert found.target.split(".")[0] not in ("boto3", "botocore", "fabric", "orchestrator", "infra"), str(found)
        if found.target.split(".")[0] == "model":
            here, there = (room_below(name, "model", MODEL, "door") for name in (found.source, found.target))
            assert MODEL.index(there) <= MODEL.index(here), str(found)


def test_the_folders_of_the_embedded_cloud_import_one_way() -> None:
    for found in all_imports(ROOT, "infra"):
        assert found.target.split(".")[0] != "orchestrator", str(found)
        if found.source.startswith("infra.local") and found.target.startswith("infra.local"):
            here, there = (
                room_below(name, "infra.local", list(LOCAL), "server") for name in (found.source, found.target)
            )
            assert there == here or there in LOCAL[here], str(found)


def test_the_settings_need_neither_torch_nor_numpy() -> None:
    for found in all_imports(ROOT, "model"):
        if found.source in ("model", "model.errors") or found.source.startswith("model.config"):
            assert found.target.split(".")[0] not in ("torch", "numpy"), str(found)
            is_own = found.target.startswith(("model.config", "model.errors")) or found.target == "model"
            assert is_own or found.target.split(".")[0] != "model", str(found)


# -- the rules themselves


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Give a copy of the orchestrator, to break the rules in."""
    shutil.copytree(ROOT / "orchestrator", tmp_path / "orchestrator", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.mark.parametrize(
    "line",
    [
        "from orchestrator.engine import engine\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from orchestrator.cloud.base import Cloud\n",
        "def late():\n    import orchestrator.cli.main\n",
    ],
)
def test_an_import_against_the_direction_is_found(copy: Path, line: str) -> None:
    file = copy / "orchestrator" / "runs" / "files.py"
    file.write_text(file.read_text() + line)
    assert {found.source for found in against_the_direction(copy)} == {"orchestrator.runs.files"}


@pytest.mark.parametrize(
    "line",
    ["import boto3\n", "import paramiko\n", "import torch\n", "import model.networks\n", "__import__('boto3')\n"],
)
def test_an_import_past_a_door_is_found(copy: Path, line: str) -> None:
    file = copy / "orchestrator" / "plan" / "settings.py"
    file.write_text(file.read_text() + f"def late():\n    {line}")
    assert {found.source for found in past_a_door(copy)} == {"orchestrator.plan.settings"}


def test_a_circle_inside_a_folder_is_found(copy: Path) -> None:
    file = copy / "orchestrator" / "runs" / "events.py"
    file.write_text(file.read_text() + "def late():\n    from orchestrator.runs.state import fold\n")
    assert any("orchestrator.runs.events" in circle for circle in circles(all_imports(copy, "orchestrator")))


# -- what is sent to a machine


def test_the_agent_needs_the_standard_library_only() -> None:
    sent = {
        f"infra.instance.{name}"
        for name in (
            "agent",
            "deadline",
            "descendants",
            "digests",
            "docker",
            "gpu",
            "group_side",
            "metadata",
            "metrics_process",
            "outputs.answers",
            "outputs.complete_files",
            "outputs.files",
            "outputs.frames",
            "outputs.mirror",
            "outputs.readiness",
            "outputs.stream",
            "program_side",
            "programs",
            "renewal",
            "trainer_files",
            "watch",
            "watch_state",
        )
    }
    sent |= {name for name in modules(ROOT, "infra") if name.startswith("infra.instance.metrics.")}
    for found in all_imports(ROOT, "infra"):
        if found.source in sent:
            assert found.target in sent or found.target.split(".")[0] in sys.stdlib_module_names, str(found)
