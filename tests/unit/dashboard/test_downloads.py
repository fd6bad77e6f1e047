"""Only regular files of a run that may be shared are offered; a log is read in parts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.dashboard import downloads
from orchestrator.dashboard.downloads import files_of, is_offered, log_part, open_offered


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a run's folder with files, links and a key."""
    folder = tmp_path / "run"
    for name in ("checkpoints/checkpoint-1.pt", "outputs/eval/a b ä.csv", "outputs/x.bin", "samples-4.png", "key"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    (folder / "attempts/1").mkdir(parents=True)
    (folder / "attempts/1/trainer.log").write_text("log\n")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("secret")
    (folder / "outputs/link").symlink_to(tmp_path / "secret")
    (folder / "outputs/folder").symlink_to(tmp_path / "outside")
    os.mkfifo(folder / "outputs/fifo")
    return folder


def test_the_list_has_regular_files_only(folder: Path) -> None:
    found = files_of(folder)
    assert [file["path"] for file in found["shown"]] == [
        "checkpoints/checkpoint-1.pt",
        "outputs/x.bin",
        "outputs/eval/a b ä.csv",
    ]
    for file in found["shown"]:
        with open_offered(folder, file["path"]) as opened:
            assert opened.read() == file["path"].encode()


@pytest.mark.parametrize(
    "name",
    ["key", "spec.json", "known_hosts", "events.jsonl", "", "/etc/passwd", "../secret", "outputs/../key", "outputs",
     "outputs/", "outputs//x.bin", "outputs/link", "outputs/folder/file", "outputs/fifo", "outputs/eval",
     "outputs/nothing", "checkpoints/../../secret", "attempts/1/digest.json", "attempts/01/trainer.log",
     "outputs/x.bin\0", "outputs/\udcff", "attempts/1/../../key", "samples-x.png", "outputs/" + "a/" * 500 + "b"],
)  # fmt: skip
def test_nothing_else_can_be_opened(folder: Path, name: str) -> None:
    with pytest.raises((OSError, ValueError)):
        open_offered(folder, name).close()


def test_a_whole_folder_that_is_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    (folder / "outputs").rename(tmp_path / "elsewhere")
    (folder / "outputs").symlink_to(tmp_path / "elsewhere")
    assert [file["path"] for file in files_of(folder)["shown"]] == ["checkpoints/checkpoint-1.pt"]
    with pytest.raises(OSError, match=r"outputs|symbolic|directory"):
        open_offered(folder, "outputs/x.bin").close()


def test_samples_logs_and_metrics_are_offered() -> None:
    assert is_offered("samples-4.png")
    assert is_offered("attempts/12/trainer.log")
    assert is_offered("attempts/1/metrics.jsonl")


def test_a_long_list_is_cut_and_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "MOST_SHOWN", 2)
    found = files_of(folder)
    assert (len(found["shown"]), found["more"]) == (2, 1)


def test_a_name_with_bytes_that_are_no_text_is_counted_only(folder: Path) -> None:
    (Path(os.fsdecode(os.fsencode(folder / "outputs") + b"/\xff.bin"))).write_bytes(b"")
    found = files_of(folder)
    assert (len(found["shown"]), found["more"]) == (3, 1)


def test_a_log_is_followed_from_byte_to_byte(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes("one\ntwö\nthr".encode())
    part = log_part(path, -1)
    assert (part["text"], part["rest"], part["next"], part["size"]) == ("one\ntwö\n", "thr", 9, 12)
    with path.open("a") as file:
        file.write("ee\nfour")
    part = log_part(path, part["next"])
    assert (part["text"], part["rest"]) == ("three\n", "four")
    path.write_text("new\n")
    assert log_part(path, part["next"])["text"] == "new\n", "it was written anew"


def test_a_long_log_begins_near_its_end_at_a_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("".join(f"line {n}\n" for n in range(50_000)))
    part = log_part(path, -1)
    assert part["text"].startswith("line ")
    assert part["text"].endswith("line 49999\n")
    assert len(part["text"]) <= downloads.LOG_BYTES
    first = log_part(path, 0)
    again = log_part(path, first["next"])
    assert int(again["text"].split()[1]) == int(first["text"].split()[-1]) + 1


def test_a_log_is_text_without_control_characters_and_a_bar_shows_its_newest_state(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"\x1b[2Jred\x1b[0m <b>\xff\n 1%\r 50%\r100%\r\nrest\r\x07")
    part = log_part(path, 0)
    assert part["text"] == "\\x1b[2Jred <b>\ufffd\n100%\n"
    assert part["rest"] == "\\x07"


def test_a_log_is_shown_without_its_colours(tmp_path: Path) -> None:
    path = tmp_path / "trainer.log"
    path.write_text("\x1b[1m14/20\x1b[0m \x1b[32m--\x1b[0m\n\x1b[1mnewest\x1b[0m")
    part = log_part(path, 0)
    assert (part["text"], part["rest"]) == ("14/20 --\n", "newest")


def test_a_line_without_an_end_is_shown_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 200_000)
    place, length = 0, 0
    for _ in range(3):
        part = log_part(path, place)
        place, length = part["next"], length + len(part["text"])
    assert (place, length) == (3 * downloads.LOG_BYTES, 3 * downloads.LOG_BYTES)


@pytest.mark.parametrize("how", ["missing", "folder"])
def test_a_log_that_is_none_is_empty(tmp_path: Path, how: str) -> None:
    path = tmp_path / "log"
    if how == "folder":
        path.mkdir()
    assert log_part(path, -1) == {"start": 0, "next": 0, "size": 0, "text": "", "rest": ""}
