"""No traceback reaches a user: closed streams, errors of our own, Ctrl-C, values of any length."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli import __main__ as entry
from orchestrator.cli import main as cli
from orchestrator.errors import SpecError
from orchestrator.formatting import columns, shortened
from orchestrator.runs.home import home_id

ODD = [RecursionError("maximum recursion depth"), KeyError("x"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
       ValueError("of\ntwo lines \x1b[2J"), MemoryError(), AssertionError(), ValueError("x" * 100_000)]  # fmt: skip


@pytest.mark.parametrize("error", ODD, ids=lambda error: type(error).__name__)
def test_an_error_of_our_own_is_one_line(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> int:
        raise error

    monkeypatch.setenv("PIXEL_ORCH_HOME", str(tmp_path))
    monkeypatch.setattr(cli, "_command", broken)
    assert cli.main(["status"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"pixel-orch status: internal error: {type(error).__name__}")
    assert said.count("\n") == 1
    assert len(said) < 600
    assert "\x1b" not in said
    monkeypatch.setenv(cli.TRACEBACK, "1")
    with pytest.raises(type(error)):
        cli.main(["status"])


def test_ctrl_c_is_heard_from_the_first_import_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "main", interrupted)
    assert entry.run() == 130


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_a_stream_that_the_caller_closed_leads_nowhere(tmp_path: Path, closed: tuple[int, ...]) -> None:
    """Else the first file that is opened gets its number, and is written into by whatever prints."""
    code = "import os, sys; [os.close(n) for n in map(int, sys.argv[1].split(','))]; os.execv(sys.executable, " + (
        "[sys.executable, '-m', 'orchestrator.cli', 'status', 'nobody'])"
    )
    env = {**os.environ, "PIXEL_ORCH_HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path.cwd())}
    words = [sys.executable, "-c", code, ",".join(map(str, closed))]
    done = subprocess.run(words, env=env, capture_output=True, timeout=60, check=False)
    assert done.returncode == SpecError.exit_code
    assert b"Traceback" not in done.stdout + done.stderr


def test_a_word_of_a_whole_file_is_cut_and_a_path_is_not() -> None:
    path = "/" + "/".join(["folder"] * 100)
    assert shortened(f"cannot read {path}") == f"cannot read {path}"
    assert len(shortened(f"--set: {'x' * 100_000!r} is not NAME=VALUE")) < 400


@pytest.mark.parametrize("asked", ["", "0", "-5", "²", "٣", "9" * 5000, "80 ", "1e3", "x"])
def test_an_odd_width_of_a_terminal_is_none(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", asked)
    assert columns(Terminal()) == 80
    monkeypatch.setenv("COLUMNS", "44")
    assert columns(Terminal()) == 44


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"a b", b"a\nb", b"x" * 5000, b"\x1b[2J", b"-oX"])
def test_an_id_of_a_home_that_is_none_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "id").write_bytes(content)
    with pytest.raises(SpecError, match="PIXEL_ORCH_HOME: ") as caught:
        home_id(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_id_of_a_home_may_be_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "id")
    with pytest.raises(SpecError, match="a FIFO"):
        home_id(tmp_path)


def test_the_ids_that_homes_have_are_taken(tmp_path: Path) -> None:
    made = home_id(tmp_path)
    assert home_id(tmp_path) == made == (tmp_path / "id").read_text()


def test_the_include_of_ssh_keeps_what_the_file_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file may be a link into a folder of dotfiles, and hold bytes that are no UTF-8."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(tmp_path / "home"))
    (tmp_path / "dotfiles").mkdir()
    (tmp_path / ".ssh").mkdir()
    kept = tmp_path / "dotfiles" / "config"
    kept.write_bytes(b"# gr\xfc\xdfe\nHost x\n")
    (tmp_path / ".ssh" / "config").symlink_to(kept)
    assert cli.main(["ssh", "--add-include"]) == 0
    assert cli.main(["ssh", "--add-include"]) == 0
    assert (tmp_path / ".ssh" / "config").is_symlink()
    assert kept.read_bytes().endswith(b"\n\n# gr\xfc\xdfe\nHost x\n")
    assert kept.read_bytes().count(b"Include") == 1
    monkeypatch.setenv("PIXEL_ORCH_HOME", f"{tmp_path}/a\nProxyCommand x")
    assert cli.main(["ssh", "--add-include"]) == SpecError.exit_code
    assert b"ProxyCommand" not in kept.read_bytes()
    capsys.readouterr()
