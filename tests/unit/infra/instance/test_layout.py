"""What is sent to a machine runs there: Python alone, no installed package, none of this repository."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from infra.instance.layout import files_to_send

REAL = str(Path(sys._base_executable).resolve())  # type: ignore[attr-defined]  # without our environment's packages
OLDEST_PYTHON = (3, 8)
SENT = files_to_send(has_bucket=True, has_dataset=True)
NEWER_THAN_3_8 = {"removeprefix", "removesuffix", "bit_count", "pairwise", "batched"}


def lay_out(folder: Path, files: dict[str, bytes]) -> Path:
    """Write the files as they lie on a machine; return the agent."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder / "bin" / "agent.py"


def test_the_agent_runs_from_the_files_that_are_sent(tmp_path: Path) -> None:
    agent = lay_out(tmp_path / "run", files_to_send(has_bucket=False, has_dataset=False))
    words = [REAL, "-S", "-E", str(agent), "status", str(tmp_path / "run"), "0", "0"]
    (tmp_path / "run" / "agent").mkdir()
    done = subprocess.run(words, cwd=tmp_path, env={}, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["trainer"] == {"state": "absent"}


def test_an_installed_package_of_the_same_name_is_not_taken(tmp_path: Path) -> None:
    agent = lay_out(tmp_path / "run", files_to_send(has_bucket=False, has_dataset=False))
    (tmp_path / "site" / "infra").mkdir(parents=True)
    (tmp_path / "site" / "infra" / "__init__.py").write_text("raise SystemExit('another package')")
    words = [REAL, "-S", str(agent), "manifest", str(tmp_path / "run" / "code")]
    env = {"PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {}


def test_only_what_a_run_needs_is_sent() -> None:
    least = set(files_to_send(has_bucket=False, has_dataset=False))
    modules = ("outputs/downloader", "outputs/stored_state", "outputs/uploader", "s3_layout")
    for_bucket = {"bin/checkpoint_uploader.py", *(f"bin/infra/instance/{name}.py" for name in modules)}
    assert set(files_to_send(has_bucket=True, has_dataset=False)) - least == for_bucket
    assert set(files_to_send(has_bucket=False, has_dataset=True)) - least == {"bin/data.sh", "bin/dataset_sync.py"}


@pytest.mark.parametrize("name", [name for name in SENT if name.endswith(".py")])
def test_a_module_imports_no_file_that_is_not_sent_and_is_python_3_8(name: str) -> None:
    tree = ast.parse(SENT[name], feature_version=OLDEST_PYTHON)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("infra."):
            assert f"bin/{(node.module or '').replace('.', '/')}.py" in SENT
        if isinstance(node, ast.Attribute):
            assert node.attr not in NEWER_THAN_3_8, f"{name}: .{node.attr} is not in Python 3.8"
