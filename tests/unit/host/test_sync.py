"""What is sent: what git ignores is not, `.git` never, and only what changed."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.errors import SpecError
from orchestrator.host.sync import Tree, bundled_tree, changes, manifest, workdir_tree, write_tar

AGENT = Path(__file__).parents[3] / "infra" / "instance" / "agent.py"


def fill(folder: Path, files: dict[str, str]) -> Path:
    """Write files."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def git(folder: Path, *words: str) -> None:
    """Run git there."""
    subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True)


def send(tree: Tree, target: Path) -> dict[str, str]:
    """Do what `host.py` does, with the real agent, without SSH; return what was sent and deleted."""
    theirs = subprocess.run([sys.executable, AGENT, "manifest", target], capture_output=True, check=True)
    import json

    to_send, to_delete = changes(manifest(tree), json.loads(theirs.stdout))
    stream = io.BytesIO()
    write_tar(tree, to_send, to_delete, stream.write)
    subprocess.run([sys.executable, AGENT, "apply", target], input=stream.getvalue(), check=True, capture_output=True)
    return {**dict.fromkeys(to_send, "sent"), **dict.fromkeys(to_delete, "deleted")}


def test_only_the_bundled_trainer_is_sent_without_a_workdir() -> None:
    tree = bundled_tree()
    assert all(name.startswith("model/") and name.endswith((".py", ".json")) for name in tree.files)
    assert "model/config/train_config.py" in tree.files


def test_without_git_the_usual_is_left_out(tmp_path: Path) -> None:
    fill(tmp_path, {"a.py": "", "__pycache__/a.pyc": "", ".venv/x": "", "sub/b.txt": "", ".git/config": ""})
    assert workdir_tree(tmp_path).files == ("a.py", "sub/b.txt")


def test_what_git_ignores_is_left_out_also_by_nested_rules_and_for_a_subfolder(tmp_path: Path) -> None:
    fill(
        tmp_path,
        {
            ".gitignore": "data/\n*.log\n!keep.log\n",
            "sub/.gitignore": "*.tmp\n",
            "sub/a.py": "",
            "sub/x.tmp": "",
            "sub/data/big.bin": "",
            "sub/t.log": "",
            "sub/keep.log": "",
            "b.py": "",
        },
    )
    git(tmp_path, "init", "-q")
    assert workdir_tree(tmp_path / "sub").files == (".gitignore", "a.py", "keep.log")
    assert workdir_tree(tmp_path / "sub", ["data"]).files == (".gitignore", "a.py", "data/big.bin", "keep.log")


def test_a_tracked_file_that_was_deleted_is_not_sent(tmp_path: Path) -> None:
    fill(tmp_path, {"a.py": "", "b.py": ""})
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    (tmp_path / "b.py").unlink()
    assert workdir_tree(tmp_path).files == ("a.py",)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    fill(tmp_path, {"secret": "x", "work/a.py": ""})
    (tmp_path / "work" / "out").symlink_to("../secret")
    (tmp_path / "work" / "in").symlink_to("a.py")
    assert workdir_tree(tmp_path / "work").files == ("a.py", "in")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no file to send"):
        workdir_tree(tmp_path)


def test_what_changed_is_sent_what_is_gone_is_deleted_the_rest_stays(tmp_path: Path) -> None:
    work, target = fill(tmp_path / "work", {"a.py": "1", "b.py": "2", "s p/ü 'x'.py": "3"}), tmp_path / "code"
    os.chmod(work / "b.py", 0o755)
    assert set(send(workdir_tree(work), target)) == {"a.py", "b.py", "s p/ü 'x'.py"}
    assert os.access(target / "b.py", os.X_OK)
    fill(target, {"made-there.txt": "kept"})
    (work / "a.py").unlink()
    fill(work, {"b.py": "changed", "c.py": "new"})
    assert send(workdir_tree(work), target) == {"b.py": "sent", "c.py": "sent", "a.py": "deleted"}
    assert sorted(p.name for p in target.iterdir()) == ["b.py", "c.py", "made-there.txt", "s p"]
    assert (target / "b.py").read_text() == "changed"
    assert send(workdir_tree(work), target) == {}


def test_a_link_is_sent_as_a_link(tmp_path: Path) -> None:
    work, target = fill(tmp_path / "work", {"a.py": "1"}), tmp_path / "code"
    (work / "l").symlink_to("a.py")
    send(workdir_tree(work), target)
    assert os.readlink(target / "l") == "a.py"
    assert send(workdir_tree(work), target) == {}


def test_a_file_becomes_a_link_without_writing_through_it(tmp_path: Path) -> None:
    work, target = fill(tmp_path / "work", {"a.py": "1", "l": "file"}), tmp_path / "code"
    send(workdir_tree(work), target)
    (work / "l").unlink()
    (work / "l").symlink_to("a.py")
    send(workdir_tree(work), target)
    (work / "l").unlink()
    (work / "l").write_text("again a file")
    send(workdir_tree(work), target)
    assert (target / "a.py").read_text() == "1"
    assert (target / "l").read_text() == "again a file"
