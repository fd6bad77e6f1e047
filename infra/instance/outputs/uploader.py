"""Uploads the states of a program's outputs to S3, in a thread of `checkpoint_uploader.py`.

    outputs/objects/SHA256   contents; each is uploaded once by each machine
    outputs/state.json       the newest state whose contents are all there (`stored_state.py`)

A state is stored when S3 has all of it: `state.json` is written after the last content, so a reader never finds half of
one. What is uploaded is what was digested: each content is digested as it is read, S3 checks the SHA-256 of what
arrives, and an upload whose digest is another one is not completed. Nothing is deleted.

    agent/outputs/uploading  touched while a state is uploaded: no new state replaces it, unless the machine is hurried
    agent/outputs/uploaded   the digests that this machine's folder in S3 has, one a line
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, BinaryIO

from infra.instance.digests import alone
from infra.instance.outputs.files import FOLDERS
from infra.instance.outputs.mirror import folder_of, sealed_state
from infra.instance.outputs.stored_state import DIGEST, to_bytes
from infra.instance.s3_layout import OUTPUT_STATE, output_object
from infra.instance.trainer_files import touch

PART_BYTES = 16 << 20  # a smaller file is one request
MOST_PARTS = 9_000  # S3 takes 10,000
PARTS_AT_ONCE, FILES_AT_ONCE = 4, 8
SIGN_EVERY_S = 5.0
LOOK_EVERY_S, LONGEST_WAIT_S = 1.0, 30.0  # between two looks; after failures


class ReplacedError(Exception):
    """There is a newer state: the one that is being uploaded is given up for it."""


class GoneError(Exception):
    """A content is not there any more as it was: the program has written to the file."""


def one_line(error: Exception) -> str:
    """Return the message of an error of S3 or of the connection as one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


class OutputUploader:
    """Stores the newest state, again and again.

    Args:
        root: the run's folder on this machine.
        s3: the boto3 client.
        bucket: its name.
        key: returns the key of a file of this machine.
    """

    def __init__(self, root: str, s3: Any, bucket: str, key: Callable[[str], str]) -> None:
        self.root = root
        self.s3 = s3
        self.bucket = bucket
        self.key = key
        self.folder = folder_of(root)
        self.problem = ""
        self.sent_bytes = 0
        self.stored: tuple[int, bool] | None = None  # number, and whether it is the final one
        self.there = self._read_uploaded()
        self._lock = threading.Lock()
        self._signed_at = float("-inf")
        self._number = 0
        self._mark: Any = None  # of the list that is being uploaded
        self._done_mark: Any = None  # of the list that is stored
        self._gone_at: dict[tuple[int, bool], float] = {}  # when a state turned out to be incomplete here

    # -- again and again

    def start(self) -> None:
        """Begin, until the process ends."""
        threading.Thread(target=self.run, name="outputs", daemon=True).start()

    def run(self) -> None:
        """Store each state; a failure is told and tried again after a growing wait."""
        wait_s = LOOK_EVERY_S
        while True:
            try:
                self.upload_newest()
                self.problem, wait_s = "", LOOK_EVERY_S
            except Exception as error:  # noqa: BLE001  (whatever it is, the next try may succeed, and it is told)
                self.problem, wait_s = f"outputs: {one_line(error)}", min(2 * wait_s, LONGEST_WAIT_S)
            time.sleep(wait_s)

    def is_whole(self) -> bool:
        """Return whether S3 has the final state; True where the agent makes no states."""
        if not os.path.isdir(self.folder):
            return True
        if self.stored is None or not self.stored[1]:
            return False
        return self._mark_now() == self._done_mark or self._now() == self.stored

    def told(self) -> dict[str, Any]:
        """Return what the ledger says of the outputs."""
        number, is_final = self.stored or (0, False)
        return {"state": number, "is_final": is_final, "bytes": self.sent_bytes}

    def upload_newest(self) -> bool:
        """Store the newest state, if it is not stored; return whether it is now."""
        mark = self._mark_now()
        if mark is None or mark == self._done_mark:
            return False
        sealed = sealed_state(self.root)
        this = (sealed["state"], bool(sealed["is_final"]))
        if this == self.stored:
            self._done_mark = mark
            return False
        if time.monotonic() - self._gone_at.get(this, float("-inf")) < LONGEST_WAIT_S:
            return False
        self._mark, self._number = mark, this[0]
        try:
            self._sign()
            self._upload(sealed["files"].values())
            content = to_bytes(*this, sealed["files"].values(), is_own=sealed.get("began", 0) != this[0])
            self.s3.put_object(Bucket=self.bucket, Key=self.key(OUTPUT_STATE), Body=content, ChecksumAlgorithm="SHA256")
        except ReplacedError:
            return False
        except GoneError as error:
            self._gone_at = {this: time.monotonic()}
            if this[1]:
                raise OSError(f"{error} was changed before it was stored") from None
            return False
        finally:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self.folder, "uploading"))
        self.stored, self._done_mark = this, mark
        return True

    def _now(self) -> tuple[int, bool]:
        sealed = sealed_state(self.root)
        return sealed["state"], bool(sealed["is_final"])

    def _mark_now(self) -> Any:
        try:
            status = os.stat(os.path.join(self.folder, "sealed.json"))
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size

    def _check(self) -> None:
        """Go on, unless there is a newer state."""
        self._sign()
        mark = self._mark_now()
        if mark != self._mark:
            if sealed_state(self.root)["state"] != self._number:
                raise ReplacedError
            self._mark = mark  # it is the final one now

    def _sign(self) -> None:
        if time.monotonic() - self._signed_at > SIGN_EVERY_S or not os.path.exists(self._marker):
            self._signed_at = time.monotonic()
            with contextlib.suppress(OSError):  # the disk is full
                touch(self._marker)

    @property
    def _marker(self) -> str:
        return os.path.join(self.folder, "uploading")

    # -- contents

    def _upload(self, entries: Any) -> None:
        """Upload what this machine's folder lacks: small files side by side, large ones in parts.

        Raises:
            ReplacedError, GoneError: see there.
        """
        missing = {e["sha256"]: e for e in entries if e["kind"] == "file" and e["sha256"] not in self.there}
        small = [entry for entry in missing.values() if entry["size"] <= PART_BYTES]
        large = [entry for entry in missing.values() if entry["size"] > PART_BYTES]
        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            self._in_turn(pool, ((self._upload_small, (entry,)) for entry in small), 2 * FILES_AT_ONCE)
        for entry in sorted(large, key=lambda entry: int(entry["size"])):
            self._check()
            self._upload_large(entry)

    def _in_turn(self, pool: ThreadPoolExecutor, calls: Iterator[Any], most: int) -> list[Any]:
        """Make calls in threads, at most so many at a time; return the results. The first error ends it."""
        running: set[Future[Any]] = set()
        results: list[Any] = []
        try:
            for function, arguments in calls:
                self._check()
                running.add(pool.submit(function, *arguments))
                while len(running) >= most:
                    running = self._some_done(running, results)
            while running:
                running = self._some_done(running, results)
        finally:
            for one in running:
                one.cancel()
        return results

    def _some_done(self, running: set[Future[Any]], results: list[Any]) -> set[Future[Any]]:
        done, left = wait(running, timeout=SIGN_EVERY_S, return_when=FIRST_COMPLETED)
        results += [one.result() for one in done]
        self._check()
        return left

    @contextlib.contextmanager
    def _opened(self, entry: Any) -> Iterator[BinaryIO]:
        """Open a content: its copy, or the file itself.

        Raises:
            GoneError: it is not there.
        """
        path = os.path.join(self.root, FOLDERS[entry["root"]], entry["path"])
        if entry.get("copied"):
            path = os.path.join(self.folder, "copies", entry["sha256"])
        try:
            file = open(path, "rb")  # noqa: SIM115 (closed below)
        except OSError:
            raise GoneError(entry["path"]) from None
        with file:
            yield file

    def _upload_small(self, entry: Any) -> None:
        with self._opened(entry) as file:
            content = file.read(entry["size"])
        digest = hashlib.sha256(content)
        if digest.hexdigest() != entry["sha256"]:
            raise GoneError(entry["path"])
        key, checksum = self.key(output_object(entry["sha256"])), base64.b64encode(digest.digest()).decode()
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=content, ChecksumSHA256=checksum)
        self._note(entry, len(content))

    def _upload_large(self, entry: Any) -> None:
        """Upload a file in parts; it is read once, and completed only if that was the content that was sealed."""
        place = {"Bucket": self.bucket, "Key": self.key(output_object(entry["sha256"]))}
        upload = self.s3.create_multipart_upload(ChecksumAlgorithm="SHA256", **place)["UploadId"]
        try:
            digest, parts = hashlib.sha256(), []
            with self._opened(entry) as file, ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
                pieces = self._pieces(file, entry["size"], digest)
                calls = (
                    (self._upload_part, (place, upload, number, piece)) for number, piece in enumerate(pieces, start=1)
                )
                parts = self._in_turn(pool, calls, PARTS_AT_ONCE + 1)
            if digest.hexdigest() != entry["sha256"]:
                raise GoneError(entry["path"])
            listed = {"Parts": sorted(parts, key=lambda part: int(part["PartNumber"]))}
            self.s3.complete_multipart_upload(UploadId=upload, MultipartUpload=listed, **place)
        except BaseException:
            with contextlib.suppress(Exception):  # the bucket removes what is left of it after two days
                self.s3.abort_multipart_upload(UploadId=upload, **place)
            raise
        self._note(entry, 0)

    def _pieces(self, file: BinaryIO, size: int, digest: Any) -> Iterator[bytes]:
        part_bytes, left = max(PART_BYTES, -(-size // MOST_PARTS)), size
        while left:
            with alone(self.root):
                piece = file.read(min(part_bytes, left))
            if not piece:
                return  # it is shorter by now, so that its digest differs
            digest.update(piece)
            left -= len(piece)
            yield piece

    def _upload_part(self, place: dict[str, str], upload: str, number: int, piece: bytes) -> dict[str, Any]:
        checksum = base64.b64encode(hashlib.sha256(piece).digest()).decode()
        answer = self.s3.upload_part(UploadId=upload, PartNumber=number, Body=piece, ChecksumSHA256=checksum, **place)
        with self._lock:
            self.sent_bytes += len(piece)
        return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": checksum}

    # -- what is there

    def _note(self, entry: Any, sent_bytes: int) -> None:
        with self._lock:
            self.sent_bytes += sent_bytes
            self.there.add(entry["sha256"])
            with contextlib.suppress(OSError), open(os.path.join(self.folder, "uploaded"), "a") as file:
                file.write(entry["sha256"] + "\n")

    def _read_uploaded(self) -> set[str]:
        try:
            with open(os.path.join(self.folder, "uploaded")) as file:
                return {line.strip() for line in file if line.endswith("\n") and DIGEST.fullmatch(line.strip())}
        except OSError:
            return set()
