"""Sends the contents of a program's outputs to the owner, and writes those that the owner sends to the next machine.

Standard library only, Python 3.8 and later.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any, BinaryIO

from infra.instance.outputs.files import FOLDERS, mark_of
from infra.instance.outputs.frames import FrameReader, write_file, write_gone
from infra.instance.outputs.mirror import DIFFERENCE, PINNED, folder_of, sealed_state
from infra.instance.trainer_files import read_json, touch, write_json

SIGN_EVERY_S = 5.0  # of life while contents are sent
PIECE = 1 << 20
MOST_MANIFEST_BYTES = 256 << 20


class SignOfLife:
    """Tells the watch process that the owner is here, and what it reads, while contents are sent."""

    def __init__(self, root: str) -> None:
        self._paths = [os.path.join(root, "agent", "heard"), os.path.join(folder_of(root), "fetching")]
        self._at = float("-inf")

    def give(self) -> None:
        """Give it, every few seconds."""
        if time.monotonic() - self._at > SIGN_EVERY_S:
            self._at = time.monotonic()
            with contextlib.suppress(OSError):
                for path in self._paths:
                    touch(path)


def send_contents(root: str, asked: list[list[Any]], write: Callable[[bytes], Any]) -> None:
    """Write contents of the newest state as frames.

    Args:
        root: the run's folder.
        asked: (name, SHA-256, from which byte on) of each file.
        write: takes bytes.
    """
    entry_of, sign = newest_entries(root), SignOfLife(root)

    def send(data: bytes) -> None:
        sign.give()
        write(data)

    for number, (name, digest, offset) in enumerate(asked):
        entry = entry_of(name, digest)
        if entry is None:
            write_gone(send, number)
            continue
        path = os.path.join(root, FOLDERS[entry["root"]], entry["path"])
        if entry["copied"]:
            path = os.path.join(folder_of(root), "copies", digest)
        try:
            with open(path, "rb") as file:
                file.seek(offset)
                write_file(send, file, max(0, entry["size"] - offset), number)
        except OSError:
            write_gone(send, number)


def newest_entries(root: str) -> Callable[[str, str], dict[str, Any] | None]:
    """Return what finds a file of the newest state, or of the one that is being read, by its name and SHA-256.

    What is new is in a short list. The whole states, which take a tenth of a second for 20,000 files, are read once it
    is not there.
    """
    new = read_json(os.path.join(folder_of(root), DIFFERENCE), {}).get("files", {})
    states = [{name: entry for name, (entry, _) in new.items()}]

    def find(name: str, digest: str) -> dict[str, Any] | None:
        found = next((state[name] for state in states if is_of(state.get(name), digest)), None)
        if found is None and len(states) == 1:
            states.extend(sealed_state(root, of)["files"] for of in ("sealed.json", PINNED))
            return find(name, digest)
        return found

    return find


def is_of(entry: dict[str, Any] | None, digest: str) -> bool:
    """Return whether an entry is there and has this content."""
    return entry is not None and entry.get("sha256") == digest


class Restorer:
    """Writes a state that the owner sends: to the same paths, with the same times.

    The stream has the length of the list (8 bytes, big endian), the list as JSON, and the contents of its files as
    frames, in its order. A state that was written before on this machine is removed first.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.folder = folder_of(root)
        os.makedirs(os.path.join(self.folder, "copies"), exist_ok=True)
        self.part = os.path.join(self.folder, "copies", ".restored")
        self.files: list[dict[str, Any]] = []
        self.damaged: list[str] = []
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()
        self._contents: list[dict[str, Any]] = []
        self._at = 0

    def path_of(self, entry: dict[str, Any]) -> str:
        """Return where a file belongs."""
        return os.path.join(self.root, FOLDERS[entry["root"]], entry["path"])

    def run(self, stream: BinaryIO) -> dict[str, Any]:
        """Read the stream to its end; return how many files were restored, and which arrived damaged."""
        length = int.from_bytes(_exactly(stream, 8), "big")
        if length > MOST_MANIFEST_BYTES:
            raise SystemExit(f"restore: a list of {length} bytes is too long")
        state = json.loads(_exactly(stream, length))
        self.begin(state["files"])
        reader = FrameReader(self._write, self._skip, self._end)
        while self._at < len(self._contents):
            piece = stream.read1(PIECE) if hasattr(stream, "read1") else stream.read(PIECE)
            if not piece:
                raise SystemExit(f"restore: the stream ended after {self._at} of {len(self._contents)} files")
            reader.feed(piece)
        self.put_links()
        if not self.damaged:
            self.save(state["state"])
        return {"restored": len(self.files) - len(self.damaged), "damaged": self.damaged[:20]}

    def begin(self, files: list[dict[str, Any]]) -> None:
        """Begin to write a state, and note its files: should it stay half of one, the next call removes them."""
        self._remove_earlier()
        self.files = files
        self._contents = [entry for entry in files if entry["kind"] == "file"]
        write_json(os.path.join(self.folder, "restored.json"), [self.path_of(entry) for entry in files])

    def put(self, entry: dict[str, Any], content: str) -> None:
        """Move a whole content, which is at this path, to where the file belongs."""
        self._make_way(entry)
        os.chmod(content, entry["mode"] & 0o777 | 0o600)
        os.utime(content, ns=(entry["mtime_ns"], entry["mtime_ns"]))
        os.replace(content, self.path_of(entry))

    def put_links(self) -> None:
        """Make the links."""
        for entry in self.files:
            if entry["kind"] == "link":
                self._make_way(entry)
                os.symlink(entry["target"], self.path_of(entry))

    def _remove_earlier(self) -> None:
        """Remove what an earlier call wrote: it may be another state, and half of one."""
        for path in read_json(os.path.join(self.folder, "restored.json"), []):
            with contextlib.suppress(OSError):
                os.unlink(path)
        for name in ("home", "home.json", "sealed.json", DIFFERENCE):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self.folder, name))

    def _open(self) -> BinaryIO:
        if self._file is None:
            self._file = open(self.part, "wb")  # noqa: SIM115 (closed in `_end`)
            self._digest = hashlib.sha256()
        return self._file

    def _write(self, data: bytes) -> None:
        self._open().write(data)
        self._digest.update(data)

    def _skip(self, zeros: int) -> None:
        file = self._open()
        file.seek(zeros, os.SEEK_CUR)
        while zeros:
            piece = bytes(min(zeros, PIECE))
            self._digest.update(piece)
            zeros -= len(piece)

    def _end(self, number: int, is_whole: bool) -> None:
        entry = self._contents[self._at]
        file = self._open()
        file.truncate(file.tell())
        file.close()
        self._file = None
        self._at += 1
        if not is_whole or self._digest.hexdigest() != entry["sha256"]:
            self.damaged.append(entry["path"])
            return
        self.put(entry, self.part)

    def _make_way(self, entry: dict[str, Any]) -> None:
        """Make the folder of a file, and remove what has its name: it was sent, and the program replaced it."""
        path = self.path_of(entry)
        top = os.path.join(self.root, FOLDERS[entry["root"]])
        at = top
        for part in entry["path"].split("/")[:-1]:
            at = os.path.join(at, part)
            if os.path.islink(at) or (os.path.lexists(at) and not os.path.isdir(at)):
                os.unlink(at)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.unlink(path)

    def save(self, number: int, *, is_home: bool = True) -> None:
        """Note the files with the marks that they have here.

        Args:
            number: of the state.
            is_home: whether the owner has it; else it is a state that is still to be downloaded.
        """
        files = {}
        for entry in self.files:
            status = os.lstat(self.path_of(entry))
            mark: list[Any] = mark_of(status) if entry["kind"] == "file" else ["->" + entry["target"]]
            files[entry["root"] + "/" + entry["path"]] = {**entry, "mark": mark, "copied": False, "is_part": False}
        state = {"state": number, "files": files, "is_final": False}
        home = state if is_home else {"state": 0, "files": {}, "is_final": False}
        write_json(os.path.join(self.folder, "home.json"), home)
        write_json(os.path.join(self.folder, "home"), home["state"])
        if not is_home:
            write_json(os.path.join(self.folder, "sealed.json"), {**state, "began": number})


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise SystemExit("restore: the stream ended early")
    return data


def restore(root: str) -> dict[str, Any]:
    """Run `agent.py restore`."""
    return Restorer(root).run(sys.stdin.buffer)
