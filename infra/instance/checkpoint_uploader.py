#!/usr/bin/env python3
"""Uploads a run's checkpoints to S3. It runs beside the agent, with the credentials of the instance's role.

    checkpoint_uploader.py watch ROOT PLACE          upload each finished checkpoint, the metrics and the log
    checkpoint_uploader.py restore ROOT PLACE STEP   download the newest whole checkpoints from STEP on into `out/`
    checkpoint_uploader.py restore-outputs ROOT PLACE KNOWN
                                                     write the newest state of the outputs to its paths, unless the
                                                     owner has a newer one; KNOWN: {instance id: number} of the owner's

PLACE is a JSON object: bucket, prefix, region; to restore also `instances`, the ids of the run's instances in the
order of their launch. This machine writes to a folder of its own below the prefix (`s3_layout.py`), which holds

    checkpoints/checkpoint-<step>.pt         as the trainer wrote it; its metadata has `sha256` and `step`
    outputs/                                 the newest state of the program's outputs, see `outputs/uploader.py`
    metrics.jsonl, trainer.log, state.json   the last one says how the trainer and the agent ended

It reads what the run's other instances wrote to theirs, and nothing of an instance that is not the run's.

It needs boto3, which the bootstrap installs; the agent needs the standard library only. A checkpoint counts as stored
when S3 has it whole: S3 checks the SHA-256 of each part, and the file's own digest is the same before and after the
upload. `agent/s3.json` lists the stored checkpoints, and names the stored state of the outputs; the agent reports it to
the orchestrator. Nothing is deleted.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as BotoConnectionError

from infra.instance.digests import alone, outputs
from infra.instance.metadata import Metadata, keep_from_proxy
from infra.instance.metrics_process import collected_path
from infra.instance.outputs.answers import told
from infra.instance.outputs.downloader import OutputDownloader
from infra.instance.outputs.uploader import OutputUploader, one_line
from infra.instance.s3_layout import StoredCheckpoint, checkpoints, instance_of, machine_folder
from infra.instance.trainer_files import metrics_path, own_path, read_json, sha256_of, write_json

PART_BYTES = 16 << 20
LOOK_EVERY_S = 1.0
LONGEST_WAIT_S = 30.0  # between two attempts after a failure
METRICS_EVERY_S = 30.0
DIGESTS_WITHIN_S = 900.0  # after the trainer's end
OUTPUTS_WITHIN_S = 900.0  # after the trainer's end, while nothing of them is uploaded
LEDGER_EVERY_S = 2.0  # while outputs are uploaded
RESTORED = 2  # the newest, and the one before it in case the trainer refuses the newest
TRIED = 4  # how many of the newest checkpoints are checked for whole ones
FAILURES = (ClientError, BotoCoreError, Boto3Error, OSError)


def client(service: str, region: str) -> Any:
    """Return a client with the role's credentials, which boto3 reads from the instance metadata and renews."""
    keep_from_proxy(os.environ)  # boto3 asks the metadata for the role's keys
    os.environ.setdefault("AWS_STS_REGIONAL_ENDPOINTS", "regional")  # an endpoint of a VPC has this name only
    retries = {"mode": "standard", "total_max_attempts": 4}
    config = Config(retries=retries, connect_timeout=10, read_timeout=60)
    return boto3.client(service, region_name=region, config=config)


@contextlib.contextmanager
def not_by_proxy(host: str) -> Iterator[None]:
    """Let new clients ask a host without a proxy: a VPC has its own endpoint for it, which a proxy does not see."""
    keep_from_proxy(os.environ)  # there is a `no_proxy` now, where there is a proxy
    before = {name: os.environ[name] for name in ("no_proxy", "NO_PROXY") if os.environ.get(name)}
    os.environ.update({name: f"{value},{host}" for name, value in before.items()})
    try:
        yield
    finally:
        os.environ.update(before)


def own_user_id(place: dict[str, Any]) -> str:
    """Return this machine's `aws:userid`, as S3 will see it.

    Raises:
        PermissionError: the credentials are not those of an instance's role: no reader would take what they write.
    """
    region = Metadata().get("placement/region") or place["region"]
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    try:
        with not_by_proxy(f"sts.{region}.{suffix}"):
            user_id = str(client("sts", region).get_caller_identity()["UserId"])
    except (BotoConnectionError, HTTPClientError):  # only the proxy leads out
        user_id = str(client("sts", region).get_caller_identity()["UserId"])
    if not instance_of(user_id):
        raise PermissionError(
            f"boto3 finds credentials of {user_id}, which are not those of this instance's role; "
            "remove them (AWS_ACCESS_KEY_ID, ~/.aws), so that the role's are used"
        )
    return user_id


class RemoteStore:
    """The location of one run in S3, and what this instance has stored there.

    Args:
        root: the run's folder on this machine.
        place: bucket, prefix, and for `restore` the run's instances.
        s3: the boto3 client.
        user_id: asks for this machine's `aws:userid`; called before the first upload, and until it has answered.
    """

    def __init__(self, root: str, place: dict[str, Any], s3: Any, user_id: Callable[[], str]) -> None:
        self.root = root
        self.bucket: str = place["bucket"]
        self.prefix: str = place["prefix"].rstrip("/")
        self.instances: list[str] = place.get("instances", [])
        self.s3 = s3
        self.ledger = os.path.join(root, "agent", "s3.json")
        known = read_json(self.ledger, {})
        self.stored: dict[tuple[str, str], dict[str, Any]] = {
            (entry["name"], entry["sha256"]): entry for entry in known.get("stored", [])
        }
        self.problem = ""
        self._sent: dict[str, tuple[str, int, int]] = {}  # file -> (path, size, mtime) at its last upload
        self._state_sent: dict[str, Any] = {}
        self.is_done = False  # the trainer has exited, and all its checkpoints and outputs are stored
        self.outputs = OutputUploader(root, s3, self.bucket, self.key)
        self._told: Any = None  # in the ledger, of the outputs
        self._told_at = self._moved_at = 0.0
        self._moved_bytes = -1
        self._metrics_at = self._waiting_since = 0.0
        self._ask_user_id = user_id
        self._user_id = ""

    # -- uploading

    def watch(self) -> None:
        """Upload new files until the machine ends. A failure is recorded and retried after a growing wait."""
        wait_s = LOOK_EVERY_S
        self.write_ledger()
        self.outputs.start()
        while True:
            try:
                self.upload_new_files()
                self.tell_of_outputs()
                if self.problem:
                    self.problem = ""
                    self.write_ledger()
                wait_s = LOOK_EVERY_S
            except FAILURES as error:
                self.problem = one_line(error)
                self.write_ledger()
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
            time.sleep(wait_s)

    def upload_new_files(self) -> None:
        """Run one round. Checkpoints go first: a state in S3 that says "exited" then has all of them beside it.

        It has the outputs beside it too, unless they cannot be stored.
        """
        state = read_json(os.path.join(self.root, "agent", "state.json"), {})
        found, waiting = outputs(self.root, state)
        for output in found:
            is_new = (output["name"], output["sha256"]) not in self.stored
            if is_new and output["name"].startswith("checkpoint-"):
                self.store(output)
        has_ended = state.get("trainer", {}).get("state") == "exited"
        if has_ended and waiting:  # the last checkpoint may be among those without a digest
            self._waiting_since = self._waiting_since or time.monotonic()
            if time.monotonic() - self._waiting_since < DIGESTS_WITHIN_S:
                return
        if has_ended or time.monotonic() - self._metrics_at > METRICS_EVERY_S:
            self._metrics_at = time.monotonic()
            self.send(collected_path(self.root) or metrics_path(self.root, state), "metrics.jsonl")
            self.send(os.path.join(self.root, "out", "trainer.log"), "trainer.log")
        if has_ended and self.are_outputs_on_their_way():
            self.note_done(False)
            return
        words = {**state, "outputs": told(self.root)} if has_ended else state
        if words != self._state_sent:  # the state before the checkpoints were listed, not the present one
            self.put("state.json", json.dumps(words).encode())
            self._state_sent = words
        self.note_done(has_ended and self.outputs.is_whole())

    def note_done(self, is_done: bool) -> None:
        """Write down whether S3 has all of an ended trainer; a process that it left behind may write more."""
        if is_done != self.is_done:
            self.is_done = is_done
            self.write_ledger()

    def are_outputs_on_their_way(self) -> bool:
        """Return whether the last state of the outputs is not in S3 yet, and more of it has come there lately."""
        if self.outputs.is_whole():
            return False
        if self.outputs.sent_bytes != self._moved_bytes:
            self._moved_bytes, self._moved_at = self.outputs.sent_bytes, time.monotonic()
        return time.monotonic() - self._moved_at < OUTPUTS_WITHIN_S

    def tell_of_outputs(self) -> None:
        """Bring the ledger up to date with what the other thread has done."""
        now = (self.outputs.told(), self.outputs.problem)
        is_more_only = self._told is not None and {**now[0], "bytes": 0} == {**self._told[0], "bytes": 0}
        is_more_only = is_more_only and now[1] == self._told[1]
        if now != self._told and not (is_more_only and time.monotonic() - self._told_at < LEDGER_EVERY_S):
            self.write_ledger()

    def store(self, output: dict[str, Any]) -> None:
        """Upload one checkpoint. It enters the ledger only when S3 has it whole."""
        path = self.find(output["name"])
        if path is None:
            return  # pruned by the trainer
        key = self.key(f"checkpoints/{output['name']}")
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
        if is_same and self.digest_now(path) == output["sha256"]:
            self.stored[output["name"], output["sha256"]] = output
            self.write_ledger()

    def digest_now(self, path: str) -> str:
        """Return the SHA-256 of a file as it is now, "" if the trainer has pruned it."""
        with contextlib.suppress(FileNotFoundError), alone(self.root):
            return sha256_of(path)
        return ""

    def find(self, name: str) -> str | None:
        """Return the path of a trainer's file, or None."""
        found = own_path(self.root, read_json(os.path.join(self.root, "agent", "state.json"), {}), name)
        return None if found is None else found[0]

    def send(self, path: str, target: str) -> None:
        """Upload a small file if it has changed since its last upload."""
        try:
            status = os.stat(path)
            seen = (path, status.st_size, status.st_mtime_ns)
            if self._sent.get(target) == seen:
                return
            with open(path, "rb") as file:
                content = file.read()
        except FileNotFoundError:
            return
        self.put(target, content)
        self._sent[target] = seen

    def put(self, target: str, content: bytes) -> None:
        """Write a small object to this machine's folder."""
        self.s3.put_object(Bucket=self.bucket, Key=self.key(target), Body=content, ChecksumAlgorithm="SHA256")

    def key(self, name: str) -> str:
        """Return the key of a file of this machine: the role's policy lets it write no other."""
        self._user_id = self._user_id or self._ask_user_id()
        return f"{machine_folder(self.prefix, self._user_id)}/{name}"

    def write_ledger(self) -> None:
        """Write the list of stored checkpoints. If the disk is full, the next round tries again."""
        with contextlib.suppress(OSError):
            now = (self.outputs.told(), self.outputs.problem)
            content = {"stored": list(self.stored.values()), "problem": self.problem or now[1], "done": self.is_done}
            write_json(self.ledger, {**content, "outputs": now[0]})
            self._told, self._told_at = now, time.monotonic()

    # -- downloading

    def restore(self, least_step: int) -> dict[str, Any]:
        """Download the newest whole checkpoints from `least_step` on; return which, and which are damaged."""
        restored: list[dict[str, Any]] = []
        refused: list[dict[str, str]] = []
        for step, _, name, key in self.newest()[:TRIED]:
            if step < least_step or len(restored) == RESTORED:
                break
            if any(name == one["name"] for one in restored):
                continue  # an earlier machine's of the same step
            part, final = (os.path.join(self.root, "out", one) for one in (f".{name}.part", name))
            wanted = self.s3.head_object(Bucket=self.bucket, Key=key)["Metadata"].get("sha256", "")
            self.s3.download_file(self.bucket, key, part)
            found = sha256_of(part)
            if found != wanted:
                os.unlink(part)
                refused.append({"name": name, "reason": "its SHA-256 differs from the one in the object's metadata"})
                continue
            os.replace(part, final)
            size = os.stat(final).st_size
            restored.append({"name": name, "step": step, "size_bytes": size, "sha256": found})
            self.stored[name, found] = restored[-1]
        self.write_ledger()
        return {"restored": restored, "refused": refused}

    def newest(self) -> list[StoredCheckpoint]:
        """Return the checkpoints that the run's instances stored, newest first."""
        keys = []
        pages = self.s3.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self.bucket, Prefix=f"{self.prefix}/"):
            keys += [entry["Key"] for entry in page.get("Contents", [])]
        return checkpoints(self.prefix, keys, self.instances)[::-1]


def main(argv: list[str]) -> int:
    """Run one verb; see the module's docstring."""
    verb, root, place = argv[1], os.path.abspath(os.path.expanduser(argv[2])), json.loads(argv[3])
    store = RemoteStore(root, place, client("s3", place["region"]), lambda: own_user_id(place))
    if verb == "watch":
        store.watch()
    elif verb == "restore":
        os.makedirs(os.path.join(root, "out"), exist_ok=True)
        try:
            answer = store.restore(int(argv[4]))
        except FAILURES as error:
            answer = {"restored": [], "refused": [], "problem": one_line(error)}
        print(json.dumps(answer))
    elif verb == "restore-outputs":
        print(json.dumps(OutputDownloader(root, store.s3, place).restore(json.loads(argv[4]))))
    else:
        raise SystemExit(f"checkpoint_uploader.py: unknown verb {verb!r}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
