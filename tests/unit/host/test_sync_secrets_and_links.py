"""What never leaves the laptop unasked: credentials, what links lead to, and a program of the folder's is never run."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from orchestrator.errors import SpecError
from orchestrator.host.file_list import Inside
from orchestrator.host.secret_names import is_secret
from orchestrator.host.sync import workdir_tree
from tests.unit.host.test_sync import fill, git

SECRET = [
    ".env",
    ".env.local",
    ".ENV",
    "prod.env",
    ".aws/credentials",
    ".ssh/config",
    "id_rsa",
    "id_ed25519",
    "id_work",
]
SECRET += ["a/.netrc", "server.pem", "KEY.PEM", "tls.key", "credentials", "credentials.json", "gcp-credentials.json"]
SECRET += [".git-credentials", ".pypirc", ".npmrc", ".docker/config.json", ".kube/config", ".config/gcloud/x.db"]
SECRET += ["service-account.json", "secrets.toml", ".streamlit/secrets.toml", "kaggle.json", "infra/terraform.tfstate"]
SECRET += [".bash_history", "id_rsa.bak", ".env.d/token", "a/credentials/key"]
PLAIN = [
    "train.py",
    "id_map.json",
    "id_tools.py",
    "id_rsa.pub",
    "environment.yml",
    "env.py",
    "keys.py",
    "docker/config.json",
]
PLAIN += ["monkey.txt", "my.keyboard", "config.json", "data/pem.csv", "history.json", "tokenizer.json", "secrets.py"]


@pytest.mark.parametrize("name", SECRET)
def test_a_name_of_credentials_is_known(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize("name", PLAIN)
def test_an_ordinary_name_is_not_taken_for_one(name: str) -> None:
    assert not is_secret(name)


@pytest.mark.parametrize("is_tracked", [False, True], ids=["without git", "tracked by git"])
def test_credentials_are_left_out_and_named(tmp_path: Path, is_tracked: bool) -> None:
    fill(tmp_path, {".env": "KEY=1", "a.py": "", ".aws/credentials": "", "deep/id_rsa": "", "data/.env": ""})
    if is_tracked:
        git(tmp_path, "init", "-q")
        git(tmp_path, "add", "-A")
    tree = workdir_tree(tmp_path)
    assert tree.files == ("a.py",)
    assert tree.left_out == (".aws/credentials", ".env", "data/.env", "deep/id_rsa")


def test_credentials_are_sent_where_they_are_asked_for_by_name(tmp_path: Path) -> None:
    fill(tmp_path, {".env": "KEY=1", "a.py": "", ".aws/credentials": "", "data/.env": "", "data/x.bin": ""})
    assert workdir_tree(tmp_path, [".env"]).files == (".env", "a.py", "data/x.bin")
    assert ".aws/credentials" in workdir_tree(tmp_path, [".aws/"]).files
    tree = workdir_tree(tmp_path, ["data", "."])
    assert tree.left_out == (".aws/credentials", ".env", "data/.env"), "who names a folder does not mean each file"
    assert workdir_tree(tmp_path, ["data/.env"]).files == ("a.py", "data/.env", "data/x.bin")


def test_a_folder_with_nothing_but_credentials_says_so(tmp_path: Path) -> None:
    fill(tmp_path, {".env": ""})
    with pytest.raises(SpecError, match=r"no file to send: it holds only what may be secret \('.env'\)"):
        workdir_tree(tmp_path)


# -- links


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Give a folder beside a file and a folder that are not to be sent."""
    fill(tmp_path, {"secret": "x", "elsewhere/private.txt": "x", "work/a.py": "", "work/sub/b.py": ""})
    return tmp_path / "work"


def test_a_link_is_followed_over_its_whole_chain(work: Path) -> None:
    (work / "one").symlink_to("two")
    (work / "two").symlink_to("three")
    (work / "three").symlink_to("../secret")
    (work / "in").symlink_to("in2")
    (work / "in2").symlink_to("sub/b.py")
    (work / "loop").symlink_to("loop")
    (work / "up").symlink_to("..")
    (work / "self").symlink_to(".")
    (work / "back").symlink_to("../work/a.py")
    (work / "absolute").symlink_to(work / "a.py")
    (work / "later").symlink_to("sub/not-yet.txt")
    (work / "folder").symlink_to("sub")
    sent = workdir_tree(work).files
    assert sent == ("a.py", "back", "folder", "in", "in2", "later", "sub/b.py")


def test_a_linked_parent_folder_leads_nowhere(work: Path, tmp_path: Path) -> None:
    """Git still lists a tracked file whose folder has become a link."""
    fill(work, {"data/private.txt": "ours"})
    git(work, "init", "-q")
    git(work, "add", "-A")
    (work / "data" / "private.txt").unlink()
    (work / "data").rmdir()
    (work / "data").symlink_to("../elsewhere")
    (work / "deep").mkdir()
    (work / "deep" / "out").symlink_to("../../elsewhere")
    assert workdir_tree(work).files == ("a.py", "sub/b.py")
    for entry in (
        "data",
        "data/private.txt",
        "deep/out",
        "../secret",
        "sub/../../secret",
        str(tmp_path / "secret"),
        "..",
    ):
        with pytest.raises(SpecError, match=r"--include: .* is outside of"):
            workdir_tree(work, [entry])


def test_an_included_link_brings_what_it_leads_to(work: Path) -> None:
    fill(work, {".gitignore": "big*\n", "big.real/x.bin": ""})
    git(work, "init", "-q")
    (work / "big").symlink_to("big.real")
    assert workdir_tree(work, ["big"]).files == (".gitignore", "a.py", "big", "big.real/x.bin", "sub/b.py")


def test_pipes_and_sockets_are_left_out(work: Path) -> None:
    os.mkfifo(work / "pipe")
    assert workdir_tree(work).files == ("a.py", "sub/b.py")


def test_a_path_of_many_folders_is_no_trouble(tmp_path: Path) -> None:
    assert not Inside(tmp_path).may_send("d/" * 3000 + "a.py")


# -- git


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """Give the path of a file that a program of the folder's would make."""
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\nexit 1\n")
    program.chmod(0o755)
    return tmp_path / "ran"


def programs(folder: Path, program: Path) -> None:
    """Name a program wherever a folder's configuration may name one."""
    hooks = folder / ".git" / "my-hooks"
    hooks.mkdir()
    for name in ("post-index-change", "reference-transaction", "pre-auto-gc", "fsmonitor-watchman", "post-checkout"):
        (hooks / name).write_bytes(program.read_bytes())
        (hooks / name).chmod(0o755)
    keys = ("core.fsmonitor", "core.pager", "pager.ls-files", "core.sshCommand", "core.editor", "core.askPass")
    keys += (
        "diff.external",
        "filter.x.clean",
        "filter.x.process",
        "filter.x.smudge",
        "credential.helper",
        "gpg.program",
    )
    keys += ("core.alternateRefsCommand", "core.gitProxy", "uploadpack.packObjectsHook", "remote.origin.uploadpack")
    for key in (*keys, "alias.ls-files", "alias.rev-parse"):
        git(folder, "config", key, str(program) if not key.startswith("alias") else f"!{program}")
    for key, value in (
        ("core.hooksPath", str(hooks)),
        ("core.fsmonitorHookVersion", "2"),
        ("protocol.ext.allow", "always"),
        ("remote.origin.url", f"ext::{program}"),
        ("remote.origin.promisor", "true"),
        ("extensions.partialClone", "origin"),
        ("core.repositoryformatversion", "1"),
        ("core.untrackedCache", "true"),
    ):
        git(folder, "config", key, value)


def test_a_folder_s_own_configuration_runs_no_program(work: Path, canary: Path) -> None:
    fill(work, {".gitattributes": "* filter=x diff=x\n", ".gitignore": "sub\n", "third/.keep": ""})
    git(work, "init", "-q")
    git(work, "add", ".gitignore", "a.py")
    programs(work, canary.parent / "program")
    assert workdir_tree(work).files == (".gitattributes", ".gitignore", "a.py", "third/.keep")
    assert not canary.exists()


def test_a_missing_object_is_not_fetched(work: Path, canary: Path) -> None:
    """Git reads the rules of a sparse `.gitignore` from its objects, and fetches those that a partial clone lacks."""
    fill(work, {"sub/.gitignore": "*.log\n"})
    git(work, "init", "-q")
    git(work, "add", "-A")
    git(work, "update-index", "--skip-worktree", "sub/.gitignore")
    (work / "sub" / ".gitignore").unlink()
    for path in (work / ".git" / "objects").glob("??/*"):
        path.unlink()
    programs(work, canary.parent / "program")
    git(work, "config", "remote.origin.url", str(canary.parent))
    with suppress(SpecError):  # git may say that the object is missing
        workdir_tree(work)
    assert not canary.exists()


def test_the_user_s_own_ignore_file_holds_whatever_the_folder_says(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "gitconfig"
    own.write_text(f"[core]\n\texcludesFile = {tmp_path}/ignored\n")
    (tmp_path / "ignored").write_text("private.*\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(own))
    fill(work, {"private.txt": "x"})
    git(work, "init", "-q")
    git(work, "config", "core.excludesFile", os.devnull)
    assert workdir_tree(work).files == ("a.py", "sub/b.py")


def test_another_repository_s_variables_do_not_count(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a hook of git, GIT_DIR and GIT_INDEX_FILE are those of the hook's repository."""
    git(work, "init", "-q")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "nowhere" / "index"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "elsewhere"))
    assert workdir_tree(work).files == ("a.py", "sub/b.py")


def test_a_git_that_refuses_is_an_error_with_its_words(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(work, {".gitignore": ".env\nbig\n", "big": ""})
    git(work, "init", "-q")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    with pytest.raises(SpecError, match=r"git cannot list .*detected dubious ownership.*safe\.directory") as caught:
        workdir_tree(work)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["config", "HEAD", "file", "index", "bare"])
def test_a_damaged_repository_is_not_a_folder_without_git(work: Path, damage: str) -> None:
    fill(work, {".gitignore": "big\n", "big": ""})
    git(work, "init", "-q")
    git(work, "add", "-A")
    if damage == "file":
        subprocess.run(["rm", "-r", work / ".git"], check=True)
        (work / ".git").write_text("gitdir: ../nowhere\n")
    elif damage == "HEAD":
        (work / ".git" / "HEAD").unlink()
    elif damage == "bare":
        git(work, "config", "core.worktree", "/nowhere")
    else:
        (work / ".git" / damage).write_text("[broken")
    with pytest.raises(SpecError, match=r"git|work tree") as caught:
        workdir_tree(work)
    assert "\n" not in str(caught.value)


def test_a_repository_without_an_installed_git_is_an_error(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(work, "init", "-q")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SpecError, match="git is not installed"):
        workdir_tree(work / "sub")


# -- repositories inside


def commit(folder: Path) -> None:
    """Commit all files."""
    git(folder, "add", "-A")
    git(folder, "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-qm", "x")


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Give a repository with rules of its own."""
    folder = fill(tmp_path / "lib", {"mylib.py": "X = 1", ".gitignore": "*.log\n", "x.log": "", "id_rsa": ""})
    git(folder, "init", "-q")
    commit(folder)
    return folder


def test_a_submodule_is_sent_by_its_own_rules(work: Path, library: Path) -> None:
    git(work, "init", "-q")
    git(work, "-c", "protocol.file.allow=always", "submodule", "-q", "add", str(library), "third")
    fill(work, {"third/new.py": "", "third/y.log": ""})
    tree = workdir_tree(work)
    assert tree.files == (".gitmodules", "a.py", "sub/b.py", "third/.gitignore", "third/mylib.py", "third/new.py")
    assert tree.left_out == ("third/id_rsa",)
    assert tree.notes == ()


def test_a_submodule_that_is_not_checked_out_is_said(work: Path, library: Path, tmp_path: Path) -> None:
    git(work, "init", "-q")
    git(work, "-c", "protocol.file.allow=always", "submodule", "-q", "add", str(library), "third")
    commit(work)
    subprocess.run(["git", "clone", "-q", work, tmp_path / "again"], check=True)
    tree = workdir_tree(tmp_path / "again")
    assert tree.files == (".gitmodules", "a.py", "sub/b.py")
    assert tree.notes == (
        "third is a submodule that is not checked out, so that nothing of it is sent: git submodule update --init",
    )


@pytest.mark.parametrize("has_git", [True, False])
def test_a_clone_inside_is_sent_by_its_own_rules(work: Path, library: Path, has_git: bool) -> None:
    if has_git:
        git(work, "init", "-q")
    subprocess.run(["git", "clone", "-q", library, work / "vendored"], check=True)
    subprocess.run(["git", "clone", "-q", library, work / "vendored" / "inner"], check=True)
    fill(work, {"vendored/y.log": ""})
    expected = {f"{place}/{name}" for place in ("vendored", "vendored/inner") for name in (".gitignore", "mylib.py")}
    assert set(workdir_tree(work).files) == {"a.py", "sub/b.py"} | expected
