#!/usr/bin/env python3
"""Downloads a prepared data set from S3 to the instance; the trainer starts after the first shard.

    dataset_sync.py fetch FOLDER s3://BUCKET/PREFIX [ASKED]
    dataset_sync.py keep FOLDER s3://BUCKET/PREFIX

The prefix holds `manifest.json` and the shards, as `pixel-orch data prepare` wrote them. `fetch` downloads the manifest
and the first training shard and returns. A background process then downloads the rest: the small splits, then the
training shards in the order in which the first epoch reads them. A file gets its final name only after its SHA-256
matches the manifest; it is then recorded as checked. The last line of output is a JSON object. ASKED (JSON) is the
recipe that the data must have been prepared with; a manifest with another recipe is refused. Exit code 4: there is no
manifest yet.

`keep` uploads a folder that was prepared here. The manifest is uploaded last, so that its presence means that the data
are complete. A file that is already there is not uploaded again, and no object is overwritten: S3 is told so with each
upload (`If-None-Match`), and the role's policy allows no other upload.

It needs boto3, which finds the credentials of the instance's role.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from infra.instance.metadata import take_proxies
from infra.instance.programs import outlive_login

MANIFEST, CHECKED, STATE = "manifest.json", ".checked.jsonl", ".fetching.json"
PIECE = 1 << 20
TRIES = 6  # consecutive attempts for one file
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
NOTHING_THERE = 4
MISSING = ("404", "NoSuchKey")
FINAL = ("404", "NoSuchKey", "NoSuchBucket", "403", "AccessDenied")  # a retry would not help
FAILURES = (ClientError, BotoCoreError, Boto3Error, OSError)


class DataError(Exception):
    """The data cannot be transferred; the message is one line."""


class NothingThereError(DataError):
    """The bucket has no manifest."""


class Source:
    """The location of a data set in S3.

    Args:
        url: `s3://bucket/prefix`.
        s3: the boto3 client.
        sleep: waits so many seconds between two attempts.
    """

    def __init__(self, url: str, s3: Any, sleep: Callable[[float], None] = time.sleep) -> None:
        bucket, _, prefix = url[len("s3://") :].partition("/")
        if not url.startswith("s3://") or not bucket:
            raise DataError(f"{url} is not an S3 URL; give s3://BUCKET/PREFIX")
        self.bucket, self.prefix, self.s3, self.sleep = bucket, prefix.strip("/"), s3, sleep

    def key(self, name: str) -> str:
        """Return the key of the object for a file name."""
        return f"{self.prefix}/{name}" if self.prefix else name

    def fetch(self, name: str, folder: str, sha256: str | None) -> int:
        """Download a file whole and return its size in bytes; 0 for a file that is already there.

        Raises:
            DataError: S3 does not have the file, or its content does not match `sha256`.
        """
        path = os.path.join(folder, name)
        if os.path.exists(path) and (sha256 is None or hash_of(path) == sha256):
            return 0
        return self._tried(f"fetch s3://{self.bucket}/{self.key(name)}", lambda: self._transfer(name, path, sha256))

    def keep(self, name: str, folder: str, sha256: str) -> int:
        """Upload a file and return its size in bytes; 0 for a file that is already there.

        Raises:
            DataError: S3 refuses the file, or has another file under this name.
        """
        return self._tried(f"write s3://{self.bucket}/{self.key(name)}", lambda: self._put(name, folder, sha256))

    def _tried(self, what: str, does: Callable[[], int]) -> int:
        wait_s, problem, kind = FIRST_WAIT_S, "", DataError
        for number in range(TRIES):
            if number:
                self.sleep(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
            try:
                return does()
            except FAILURES as error:
                problem = " ".join(str(error).split())[:200]
                code = error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
                kind = NothingThereError if code in MISSING else DataError
                if code in FINAL:
                    break
        raise kind(f"cannot {what}: {problem}")

    def _put(self, name: str, folder: str, sha256: str) -> int:
        place = {"Bucket": self.bucket, "Key": self.key(name)}
        try:
            there = self.s3.head_object(**place)["Metadata"].get("sha256")
        except ClientError as error:
            if error.response["Error"]["Code"] not in MISSING:
                raise
        else:
            if there == sha256:
                return 0
            raise DataError(f"s3://{self.bucket}/{self.key(name)} has other content; give another --data-bucket")
        path = os.path.join(folder, name)
        with open(path, "rb") as body:
            self.s3.put_object(**place, Body=body, Metadata={"sha256": sha256})
        return os.path.getsize(path)

    def _transfer(self, name: str, path: str, sha256: str | None) -> int:
        part = f"{os.path.dirname(path)}/.{name}.part"
        body = self.s3.get_object(Bucket=self.bucket, Key=self.key(name))["Body"]
        hasher, size = hashlib.sha256(), 0
        with open(part, "wb") as file:
            while piece := body.read(PIECE):
                file.write(piece)
                hasher.update(piece)
                size += len(piece)
            file.flush()
            os.fsync(file.fileno())
        if sha256 is not None and hasher.hexdigest() != sha256:
            os.unlink(part)
            raise OSError(f"its SHA-256 is {hasher.hexdigest()}, the manifest says {sha256}")
        os.replace(part, path)
        return size


def hash_of(path: str) -> str:
    """Return the SHA-256 of a file as hex digits."""
    hasher = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            hasher.update(piece)
    return hasher.hexdigest()


def files_in_order(manifest: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """Return (name, SHA-256, whether it is a shard): one training shard, the small splits, the other shards."""
    train = [shard for shard in manifest["shards"] if shard["split"] == "train"]
    others = [shard for shard in manifest["shards"] if shard["split"] != "train"]
    found: list[tuple[str, str, bool]] = []
    for shard in [*train[:1], *others, *train[1:]]:
        if shard["columns_sha256"]:
            found.append((shard["file"][: -len(".npy")] + ".columns.npy", shard["columns_sha256"], False))
        found.append((shard["file"], shard["sha256"], True))
    return found


def note_checked(folder: str, name: str, sha256: str) -> None:
    """Record that a shard is whole, so that the trainer does not read it again to check it."""
    status = os.stat(os.path.join(folder, name))
    mark = {"file": name, "bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256}
    with open(os.path.join(folder, CHECKED), "a", encoding="utf-8") as file:
        file.write(json.dumps(mark, sort_keys=True) + "\n")


def fill(source: Source, folder: str, leave: Callable[[dict[str, Any]], None], asked: Any = None) -> dict[str, Any]:
    """Download the whole data set; `leave` is called when the trainer can start.

    Args:
        source: the location in S3.
        folder: the folder to fill.
        leave: called once, with the progress so far.
        asked: the recipe that the data must have been prepared with; None accepts any.

    Returns:
        The progress at the end: the total of bytes and of seconds.

    Raises:
        DataError: a file cannot be downloaded, or the recipe is another one.
    """
    began_s = time.monotonic()
    os.makedirs(folder, exist_ok=True)
    size = source.fetch(MANIFEST, folder, None)
    with open(os.path.join(folder, MANIFEST), encoding="utf-8") as file:
        try:
            manifest = json.load(file)
            wanted, made = files_in_order(manifest), manifest["recipe"]["asked"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"s3://{source.bucket}/{source.key(MANIFEST)} is not a manifest ({error!r})") from None
    if asked is not None and asked != made:
        os.unlink(os.path.join(folder, MANIFEST))
        raise DataError(
            f"s3://{source.bucket}/{source.prefix} was prepared with {json.dumps(made)}, not {json.dumps(asked)}; "
            "give another --data-bucket, or leave out --prepare"
        )
    progress = {"bytes": size, "seconds": 0.0, "files": 1, "of": len(wanted) + 1}
    can_begin = False
    for name, sha256, is_shard in wanted:
        progress["bytes"] += source.fetch(name, folder, sha256)
        progress["files"] += 1
        progress["seconds"] = round(time.monotonic() - began_s, 3)
        if is_shard:
            note_checked(folder, name, sha256)
        write_progress(folder, progress)
        if is_shard and not can_begin:
            can_begin = True
            leave(progress)
    return progress


def keep(source: Source, folder: str) -> dict[str, Any]:
    """Upload a prepared folder to S3, the manifest last.

    Raises:
        DataError: S3 refuses a file, or has another file under its name.
    """
    began_s, size = time.monotonic(), 0
    with open(os.path.join(folder, MANIFEST), encoding="utf-8") as file:
        files = [(name, sha256) for name, sha256, _ in files_in_order(json.load(file))]
    for name, sha256 in [*files, (MANIFEST, hash_of(os.path.join(folder, MANIFEST)))]:
        size += source.keep(name, folder, sha256)
    return {"bytes": size, "files": len(files) + 1, "seconds": round(time.monotonic() - began_s, 3)}


def write_progress(folder: str, progress: dict[str, Any]) -> None:
    """Write the progress, or the problem, to `.fetching.json` in the folder."""
    path = os.path.join(folder, STATE)
    with open(path + ".tmp", "w", encoding="utf-8") as file:
        json.dump(progress, file)
    os.replace(path + ".tmp", path)


def leave_behind(progress: dict[str, Any]) -> None:
    """Print the progress and continue in a background process; the command itself exits."""
    outlive_login("data")
    print(json.dumps(progress), flush=True)
    if os.fork():
        os._exit(0)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)


def overwrite_nothing(s3: Any) -> None:
    """Let each upload of a boto3 client fail with 412 if there is an object of that name.

    An older boto3 does not know the parameter `IfNoneMatch`, so the header is added before the request is signed.
    """

    def add(params: dict[str, Any], **_: Any) -> None:
        params["headers"]["If-None-Match"] = "*"

    s3.meta.events.register("before-call.s3.PutObject", add)


def main(argv: list[str]) -> int:
    """Run `fetch` or `keep`; see the module's docstring."""
    verb, folder, url = argv[1], os.path.abspath(os.path.expanduser(argv[2])), argv[3]
    asked = json.loads(argv[4]) if len(argv) > 4 and argv[4] else None
    take_proxies(os.environ)  # boto3 asks the metadata for the role's keys, without a proxy
    if verb == "keep":
        print(outlive_login("data"), file=sys.stderr, flush=True)
    retries = {"mode": "standard", "total_max_attempts": 4}
    s3 = boto3.client("s3", config=Config(retries=retries, connect_timeout=10, read_timeout=60))
    overwrite_nothing(s3)
    try:
        if verb == "keep":
            print(json.dumps(keep(Source(url, s3), folder)), flush=True)
        else:
            fill(Source(url, s3), folder, leave_behind, asked)
    except NothingThereError as error:
        print(f"dataset_sync.py: {error}", file=sys.stderr)
        return NOTHING_THERE
    except DataError as error:
        if verb == "fetch" and os.path.isdir(folder):
            write_progress(folder, {"problem": str(error)})
        print(f"dataset_sync.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
