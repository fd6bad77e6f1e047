#!/usr/bin/env python3
"""Takes a run's checkpoints to S3: a process beside the agent, with the credentials of the instance's role.

    checkpoint_uploader.py watch ROOT PLACE          store each finished checkpoint, the metrics and the log
    checkpoint_uploader.py restore ROOT PLACE STEP   fetch the newest whole checkpoints of STEP and later into `out/`

PLACE is a JSON object: bucket, prefix, region. Below the prefix there are

    checkpoints/checkpoint-<step>.pt     as the trainer wrote it; its metadata has `sha256` and `step`
    attempts/<instance id>/              metrics.jsonl, trainer.log, and state.json: how the trainer and the agent ended

It needs boto3, which the bootstrap installs; the agent needs nothing but Python. A checkpoint counts as stored when S3
has it whole: the SHA-256 of each part is checked by S3, and the file's own digest is the same before and after. What
is stored stands in `agent/s3.json`, which the agent tells to the orchestrator. Nothing is ever deleted here.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from typing import Any

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from infra.instance.metadata import Metadata
from infra.instance.trainer_files import CHECKPOINT, outputs, read_json, sha256_of, write_json

PART_BYTES = 16 << 20
LOOK_EVERY_S = 1.0
LONGEST_WAIT_S = 30.0  # between two tries after a failure
METRICS_EVERY_S = 30.0
RESTORED = 2  # the newest, and the one before it should the trainer refuse the newest
TRIED = 4  # so many of the newest are looked at for whole ones
FAILURES = (ClientError, BotoCoreError, Boto3Error, OSError)


def client(region: str) -> Any:
    """An S3 client with the role's credentials, which boto3 finds in the instance metadata and renews."""
    retries = {"mode": "standard", "total_max_attempts": 4}
    return boto3.client("s3", region_name=region, config=Config(retries=retries, connect_timeout=10, read_timeout=60))


class RemoteStore:
    """The place in S3 of one run, and what of this instance is there."""

    def __init__(self, root: str, place: dict[str, Any], s3: Any) -> None:
        self.root = root
        self.bucket: str = place["bucket"]
        self.prefix: str = place["prefix"].rstrip("/")
        self.s3 = s3
        self.ledger = os.path.join(root, "agent", "s3.json")
        known = read_json(self.ledger, {})
        self.stored: dict[str, dict[str, Any]] = {entry["sha256"]: entry for entry in known.get("stored", [])}
        self.problem = ""
        self._sent: dict[str, tuple[int, int]] = {}  # file -> (size, mtime) as it was sent last
        self._state_sent: dict[str, Any] = {}
        self.is_done = False  # the trainer has ended, and all that it left is stored
        self._metrics_at = 0.0
        self._instance_id = ""

    # -- uploading

    def watch(self) -> None:
        """Carry what is new, until the machine is gone. A failure is told, and tried again after a growing wait."""
        wait_s = LOOK_EVERY_S
        self.write_ledger()
        while True:
            try:
                self.upload_new_files()
                if self.problem:
                    self.problem = ""
                    self.write_ledger()
                wait_s = LOOK_EVERY_S
            except FAILURES as error:
                self.problem = told(error)
                self.write_ledger()
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
            time.sleep(wait_s)

    def upload_new_files(self) -> None:
        """One round: the checkpoints first, so that a state that says "ended" in S3 has all of them beside it."""
        state = read_json(os.path.join(self.root, "agent", "state.json"), {})
        for output in outputs(self.root, state.get("started_at", 0.0)):
            if output["sha256"] not in self.stored and output["name"].startswith("checkpoint-"):
                self.store(output)
        has_ended = state.get("trainer", {}).get("state") == "exited"
        if has_ended or time.monotonic() - self._metrics_at > METRICS_EVERY_S:
            self._metrics_at = time.monotonic()
            self.send("out/metrics.jsonl", "metrics.jsonl")
            self.send("out/trainer.log", "trainer.log")
        if state != self._state_sent:  # as it was before the checkpoints were looked for, not as it is by now
            self.put("state.json", json.dumps(state).encode())
            self._state_sent = state
        if has_ended and not self.is_done:
            self.is_done = True
            self.write_ledger()

    def store(self, output: dict[str, Any]) -> None:
        """Carry one checkpoint. It is in the ledger only when S3 has it whole."""
        path = self.find(output["name"])
        if path is None:
            return  # pruned by the trainer
        key = f"{self.prefix}/checkpoints/{output['name']}"
        metadata = {"sha256": output["sha256"], "step": str(output["step"])}
        self.s3.upload_file(
            path,
            self.bucket,
            key,
            ExtraArgs={"Metadata": metadata, "ChecksumAlgorithm": "SHA256"},
            Config=TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=4),
        )
        head = self.s3.head_object(Bucket=self.bucket, Key=key)
        is_same = head["ContentLength"] == output["size_bytes"] and head["Metadata"].get("sha256") == output["sha256"]
        if is_same and os.path.exists(path) and sha256_of(path) == output["sha256"]:
            self.stored[output["sha256"]] = output
            self.write_ledger()

    def find(self, name: str) -> str | None:
        """Where the trainer left a file of that name."""
        paths = (os.path.join(self.root, folder, name) for folder in ("out", "code"))
        return next((path for path in paths if os.path.isfile(path)), None)

    def send(self, name: str, target: str) -> None:
        """Carry a small file if it has changed since it was sent last."""
        path = os.path.join(self.root, name)
        try:
            status = os.stat(path)
            seen = (status.st_size, status.st_mtime_ns)
            if self._sent.get(name) == seen:
                return
            with open(path, "rb") as file:
                content = file.read()
        except FileNotFoundError:
            return
        self.put(target, content)
        self._sent[name] = seen

    def put(self, target: str, content: bytes) -> None:
        """Store a small file of this instance's."""
        key = f"{self.prefix}/attempts/{self.instance_id()}/{target}"
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=content, ChecksumAlgorithm="SHA256")

    def instance_id(self) -> str:
        """Who we are, by the instance metadata."""
        if not self._instance_id:
            self._instance_id = Metadata().get("instance-id") or "unknown"
        return self._instance_id

    def write_ledger(self) -> None:
        """Tell what is stored; on a full disk the next round tells it."""
        with contextlib.suppress(OSError):
            told = {"stored": list(self.stored.values()), "problem": self.problem, "done": self.is_done}
            write_json(self.ledger, told)

    # -- fetching

    def restore(self, least_step: int) -> dict[str, Any]:
        """Fetch the newest whole checkpoints, none of a step before `least_step`; say which, and which are damaged."""
        restored: list[dict[str, Any]] = []
        refused: list[dict[str, str]] = []
        for step, name, key in self.newest()[:TRIED]:
            if step < least_step or len(restored) == RESTORED:
                break
            part, final = (os.path.join(self.root, "out", one) for one in (f".{name}.part", name))
            wanted = self.s3.head_object(Bucket=self.bucket, Key=key)["Metadata"].get("sha256", "")
            self.s3.download_file(self.bucket, key, part)
            found = sha256_of(part)
            if found != wanted:
                os.unlink(part)
                refused.append({"name": name, "reason": "its digest in S3 is not what was stored"})
                continue
            os.replace(part, final)
            size = os.stat(final).st_size
            restored.append({"name": name, "step": step, "size_bytes": size, "sha256": found})
            self.stored[found] = restored[-1]
        self.write_ledger()
        return {"restored": restored, "refused": refused}

    def newest(self) -> list[tuple[int, str, str]]:
        """(step, name, key) of the stored checkpoints, newest first."""
        found = []
        pages = self.s3.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self.bucket, Prefix=f"{self.prefix}/checkpoints/"):
            for entry in page.get("Contents", []):
                name = entry["Key"].rpartition("/")[2]
                match = CHECKPOINT.fullmatch(name)
                if match:
                    found.append((int(match.group(1)), name, entry["Key"]))
        return sorted(found, reverse=True)


def told(error: Exception) -> str:
    """One line that names what S3, or the way to it, refused."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def main(argv: list[str]) -> int:
    """Do one verb; see the module's text."""
    verb, root, place = argv[1], os.path.abspath(os.path.expanduser(argv[2])), json.loads(argv[3])
    store = RemoteStore(root, place, client(place["region"]))
    if verb == "watch":
        store.watch()
    elif verb == "restore":
        os.makedirs(os.path.join(root, "out"), exist_ok=True)
        try:
            answer = store.restore(int(argv[4]))
        except FAILURES as error:
            answer = {"restored": [], "refused": [], "problem": told(error)}
        print(json.dumps(answer))
    else:
        raise SystemExit(f"checkpoint_uploader.py: unknown verb {verb!r}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
