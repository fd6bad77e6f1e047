"""Writes the newest state of a program's outputs from S3 to this machine, before the program starts.

What the run's other machines stored is taken, and nothing of a machine that is not the run's. All contents of a state
are here, each compared by its digest, before the first file is written to its place. A state with a damaged or missing
content is refused; then that of the machine before is looked at.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from infra.instance.outputs.mirror import folder_of
from infra.instance.outputs.stored_state import MOST_BYTES, StoredState, from_bytes
from infra.instance.outputs.stream import Restorer
from infra.instance.outputs.uploader import FILES_AT_ONCE, PART_BYTES, one_line
from infra.instance.s3_layout import MACHINES, OUTPUT_STATE, folders_of, output_object
from infra.instance.trainer_files import sha256_of

SAY_EVERY_S = 10.0
LEAST_FREE_BYTES = 1 << 30
MOST_REFUSED = 20  # that are named


class DamagedError(Exception):
    """A content in S3 is missing, or is not what its name says."""


class OutputDownloader:
    """Restores outputs from S3.

    Args:
        root: the run's folder on this machine.
        s3: the boto3 client.
        place: bucket, prefix, and the run's instances in the order of their launch.
    """

    def __init__(self, root: str, s3: Any, place: dict[str, Any]) -> None:
        self.root = root
        self.s3 = s3
        self.bucket: str = place["bucket"]
        self.prefix: str = place["prefix"].rstrip("/")
        self.ranks = {instance_id: rank for rank, instance_id in enumerate(place.get("instances", []))}
        self.incoming = os.path.join(folder_of(root), "incoming")
        self._lock = threading.Lock()
        self._done_bytes = self._all_bytes = 0
        self._said_at = time.monotonic()

    def restore(self, known: dict[str, int]) -> dict[str, Any]:
        """Write the newest state, unless the owner's is newer.

        Args:
            known: of the state that the owner has: {instance id: the number that this instance knows it by}.

        Returns:
            `instance` and `number` of the state ("" and 0 if none was written), `files`, `bytes`, `refused` (what could
            not be used, and why), `problem` (why S3 cannot be read).
        """
        answer: dict[str, Any] = {"instance": "", "number": 0, "files": 0, "bytes": 0, "refused": [], "problem": ""}
        try:
            for instance_id, folder in folders_of(self.prefix, self._user_ids(), list(self.ranks)):
                state = self._state(instance_id, folder, answer["refused"])
                if state is None or not state.is_own or not self._is_wanted(instance_id, state.number, known):
                    continue
                try:
                    self._fetch(folder, state)
                except DamagedError as error:
                    answer["refused"].append(f"the outputs of {instance_id} in S3: {error}")
                    continue
                self._place(state, is_known=known.get(instance_id) == state.number)
                size = sum(entry["size"] for entry in state.files)
                answer.update(instance=instance_id, number=state.number, files=len(state.files), bytes=size)
                break
        except Exception as error:  # noqa: BLE001  (of S3, of the network, of this disk: the owner sends its own)
            answer["problem"] = one_line(error)
        finally:
            shutil.rmtree(self.incoming, ignore_errors=True)
        answer["refused"] = answer["refused"][:MOST_REFUSED]
        return answer

    def _user_ids(self) -> list[str]:
        folder = f"{self.prefix}/{MACHINES}/"
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=folder, Delimiter="/")
        return [one["Prefix"][len(folder) : -1] for page in pages for one in page.get("CommonPrefixes", [])]

    def _is_wanted(self, instance_id: str, number: int, known: dict[str, int]) -> bool:
        """Return whether a state is newer than the owner's, or the same: the way from S3 is the shorter one."""
        newest = max([(self.ranks[one], at) for one, at in known.items() if one in self.ranks], default=(-1, -1))
        return number > 0 and ((self.ranks[instance_id], number) > newest or known.get(instance_id) == number)

    def _state(self, instance_id: str, folder: str, refused: list[str]) -> StoredState | None:
        try:
            raw = self._object(f"{folder}/{OUTPUT_STATE}", MOST_BYTES)
        except DamagedError:
            return None  # it has stored none
        try:
            return from_bytes(raw)
        except ValueError as error:
            refused.append(f"the list of outputs of {instance_id} in S3 makes no sense: {error}")
            return None

    def _object(self, key: str, most_bytes: int) -> bytes:
        """Return an object; of one that is longer, one byte more than `most_bytes`.

        Raises:
            DamagedError: there is none.
        """
        try:
            body = self.s3.get_object(Bucket=self.bucket, Key=key)["Body"]
        except Exception as error:
            if _code_of(error) in ("NoSuchKey", "404"):
                raise DamagedError(f"{key.rpartition('/')[2]} is missing") from None
            raise
        return bytes(body.read(most_bytes + 1))

    # -- contents

    def _fetch(self, folder: str, state: StoredState) -> None:
        """Download each content once, into a folder of its own.

        Raises:
            DamagedError: one is not what it should be.
            OSError: this disk is too small.
        """
        os.makedirs(self.incoming, exist_ok=True)
        wanted = {entry["sha256"]: entry for entry in state.files if entry["kind"] == "file"}
        self._done_bytes, self._all_bytes = 0, sum(entry["size"] for entry in wanted.values())
        free = shutil.disk_usage(self.incoming).free
        if self._all_bytes > free - LEAST_FREE_BYTES:
            raise OSError(f"the outputs have {self._all_bytes >> 20} MB, and this disk has room for {free >> 20} MB")
        small = [entry for entry in wanted.values() if entry["size"] <= PART_BYTES]
        stop = threading.Event()

        def one(entry: Any) -> None:
            if not stop.is_set():
                try:
                    self._fetch_small(folder, entry)
                except BaseException:
                    stop.set()
                    raise

        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            list(pool.map(one, small))
        for entry in wanted.values():
            if entry["size"] > PART_BYTES:
                self._fetch_large(folder, entry)

    def _fetch_small(self, folder: str, entry: Any) -> None:
        target = os.path.join(self.incoming, entry["sha256"])
        content = self._object(f"{folder}/{output_object(entry['sha256'])}", entry["size"])
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise DamagedError(f"{entry['path']} has another SHA-256")
        with open(target, "wb") as file:
            file.write(content)
        self._count(len(content))

    def _fetch_large(self, folder: str, entry: Any) -> None:
        target = os.path.join(self.incoming, entry["sha256"])
        key = f"{folder}/{output_object(entry['sha256'])}"
        try:
            size = self.s3.head_object(Bucket=self.bucket, Key=key)["ContentLength"]
        except Exception as error:
            if _code_of(error) in ("NoSuchKey", "404"):
                raise DamagedError(f"{entry['path']} is missing") from None
            raise
        if size != entry["size"]:
            raise DamagedError(f"{entry['path']} has another size")
        self.s3.download_file(self.bucket, key, target, Callback=self._count)
        if sha256_of(target) != entry["sha256"]:
            raise DamagedError(f"{entry['path']} has another SHA-256")

    def _count(self, size_bytes: int) -> None:
        with self._lock:
            self._done_bytes += size_bytes
            if time.monotonic() - self._said_at > SAY_EVERY_S:
                self._said_at = time.monotonic()
                done, of = self._done_bytes >> 20, self._all_bytes >> 20
                with contextlib.suppress(OSError):
                    print(f"data: restoring outputs from S3: {done} of {of} MB", file=sys.stderr, flush=True)

    # -- to their places

    def _place(self, state: StoredState, *, is_known: bool) -> None:
        restorer = Restorer(self.root)
        restorer.begin(state.files)
        uses: dict[str, int] = {}
        for entry in state.files:
            if entry["kind"] == "file":
                uses[entry["sha256"]] = uses.get(entry["sha256"], 0) + 1
        for entry in state.files:
            if entry["kind"] != "file":
                continue
            content = os.path.join(self.incoming, entry["sha256"])
            uses[entry["sha256"]] -= 1
            if uses[entry["sha256"]]:
                shutil.copyfile(content, restorer.part)
                content = restorer.part
            restorer.put(entry, content)
        restorer.put_links()
        restorer.save(state.number, is_home=is_known)


def _code_of(error: Exception) -> str:
    """Return the code of an error of S3, "" of another one."""
    return str((getattr(error, "response", None) or {}).get("Error", {}).get("Code", ""))
