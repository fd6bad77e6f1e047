"""A run's copy in S3, seen from this machine: whether the bucket is usable, and what the instances stored.

The layout below a run's prefix is that of `infra/instance/s3_layout.py`. Each machine writes to its own folder, and
only the folders of the run's own instances are read: what another machine wrote below the prefix is never used.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from threading import Event
from typing import Any

from botocore.exceptions import ClientError

from infra.instance import s3_layout
from orchestrator.cloud.aws.errors import map_boto_errors
from orchestrator.cloud.aws.session import open_client, open_session
from orchestrator.errors import CloudError, CredentialsError, NotFoundError, PixelOrchError, SpecError
from orchestrator.runs import bounded_json
from orchestrator.runs.files import check_room, part_path, sha256_of, sync_folder
from orchestrator.runs.output_tree import MOST_STATE_BYTES, TreeFile
from orchestrator.runs.outputs import CHECKPOINT_NAME, Output, step_in_name

SMALL_BYTES = 64 << 20  # metrics and logs are read whole up to here
SMALL_OBJECT_BYTES = 16 << 20  # a smaller content of the outputs is read in one request
FILES_AT_ONCE = 8
MISSING = ("NoSuchKey", "InvalidRange", "404")  # codes of what is not there


class _TooLongError(PixelOrchError):
    """More comes than was listed."""


class S3Store:
    """The place of one run in a bucket.

    Args:
        bucket: its name.
        prefix: the run's part of it, without a slash at the end.
        endpoint: as for `AwsCloud`.
        profile: of ~/.aws/config.
    """

    def __init__(
        self, bucket: str, prefix: str, *, endpoint: Mapping[str, str] | None = None, profile: str | None = None
    ) -> None:
        self.bucket = bucket
        self.prefix = prefix
        self._endpoint = dict(endpoint or {})
        self._profile = profile

    @property
    def url(self) -> str:
        """Its address for people."""
        return f"s3://{self.bucket}/{self.prefix}"

    @contextmanager
    def _door(self, where: str = "", *, writes_to: Path | None = None) -> Iterator[None]:
        """Map boto3's errors; after one of the credentials read them again, as `AwsCloud` does."""
        try:
            with map_boto_errors(where or self.url, writes_to=writes_to):
                yield
        except CredentialsError:
            self.__dict__.pop("_s3", None)
            raise

    @cached_property
    def _s3(self) -> Any:
        with map_boto_errors("S3"):
            session = open_session(self._profile, endpoint=self._endpoint)
            return open_client(
                session,
                "s3",
                session.region_name or "us-east-1",
                endpoint=self._endpoint,
                retries={"mode": "standard", "total_max_attempts": 4},
                connect_timeout=10,
                read_timeout=60,
            )

    def check(self, flag: str = "--bucket") -> str:
        """Return the bucket's region.

        Args:
            flag: that names it.

        Raises:
            SpecError: there is no such bucket, or the policy does not allow to read it; nothing is rented yet.
        """
        with self._door(f"bucket {self.bucket}"):
            answer = self._head_bucket(flag)
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        return str(answer.get("BucketRegion") or headers.get("x-amz-bucket-region") or "us-east-1")

    def _head_bucket(self, flag: str) -> dict[str, Any]:
        try:
            return dict(self._s3.head_bucket(Bucket=self.bucket))
        except ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if status == 404:
                raise SpecError(
                    f"{flag}: there is no bucket {self.bucket}; `pixel-orch setup` creates one and prints its name"
                ) from None
            if status == 403:
                raise SpecError(
                    f"{flag}: {self.bucket} is another account's, or the policy does not let you list it "
                    "(s3:ListBucket); choose another one"
                ) from None
            if status != 301:
                raise
            return dict(error.response)  # it is in another region, which the answer names

    def checkpoints(self, instance_ids: Sequence[str], most: int = 20) -> list[Output]:
        """Return the newest stored checkpoints, oldest first, with the digests that they were stored with.

        Args:
            instance_ids: of the run, in the order of their launch; of two checkpoints of one name the later one's.
            most: how many, at most.
        """
        with self._door():
            newest: dict[str, tuple[s3_layout.StoredCheckpoint, int]] = {}
            for sizes in self._pages(f"{self.prefix}/"):
                for one in s3_layout.checkpoints(self.prefix, sizes, instance_ids):
                    if CHECKPOINT_NAME.fullmatch(one.name) and (one.name not in newest or one > newest[one.name][0]):
                        newest[one.name] = one, sizes[one.key]
                # Machines write there: however many objects there are, memory is bounded.
                newest = dict(sorted(newest.items(), key=lambda item: item[1])[-most:])
            return [self._output(one.key, size_bytes) for one, size_bytes in newest.values()]

    def newest_below(self, place: str) -> Output | None:
        """Return the checkpoint with this key, or the newest one below it; None without any.

        Below the prefix of a run those of every machine count: which instances were the run's is not known here. One
        that was copied there by hand has no digest: its sha256 is "".
        """
        with self._door(f"s3://{self.bucket}/{place}"):
            sizes = {key: size for key, size in self._sizes(place, deep=False).items() if key == place}
            sizes |= self._sizes(f"{place}/", deep=False)
            named = ((key, CHECKPOINT_NAME.fullmatch(key.rpartition("/")[2])) for key in sizes)
            found = {key: int(match[1]) for key, match in named if match}
            below = self._sizes(f"{place}/checkpoints/", deep=False) | self._sizes(f"{place}/{s3_layout.MACHINES}/")
            for one in s3_layout.checkpoints(place, below, None):
                if CHECKPOINT_NAME.fullmatch(one.name):
                    found[one.key] = one.step
            if not found:
                return None
            key = max(found, key=lambda key: (found[key], key))
            return self._output(key, {**sizes, **below}[key])

    def _sizes(self, prefix: str, *, deep: bool = True) -> dict[str, int]:
        """Return {key: size in bytes} of the objects whose key begins so; if not `deep`, without a slash after it."""
        return {key: size for page in self._pages(prefix, deep=deep) for key, size in page.items()}

    def _pages(self, prefix: str, *, deep: bool = True) -> Iterator[dict[str, int]]:
        """Yield {key: size in bytes} of up to 1,000 objects at a time, see `_sizes`."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=prefix, **({} if deep else {"Delimiter": "/"})
        )
        for page in pages:
            yield {entry["Key"]: int(entry["Size"]) for entry in page.get("Contents", [])}

    def _output(self, key: str, size_bytes: int) -> Output:
        name = key.rpartition("/")[2]
        head = self._s3.head_object(Bucket=self.bucket, Key=key)
        return Output(name, step_in_name(name) or 0, size_bytes, _sha256(head), key)

    def fetch(self, output: Output, destination: Path, *, needs_digest: bool = True) -> bool:
        """Download a checkpoint, whole and with its digest, or not at all (False).

        A machine may replace an object after it was listed: what is more than the listed size is not received.

        Args:
            output: the checkpoint, as `checkpoints` or `newest_below` returned it.
            destination: its local path.
            needs_digest: False for a checkpoint of another run, which may have none.
        """
        check_room(destination.parent, output.size_bytes)
        part = part_path(destination, output.sha256)
        received = 0

        def count(size_bytes: int) -> None:
            nonlocal received
            received += size_bytes  # below zero when a part is asked for again
            if received > output.size_bytes:
                raise _TooLongError

        try:
            with self._door(writes_to=destination.parent):
                if int(self._s3.head_object(Bucket=self.bucket, Key=output.key)["ContentLength"]) != output.size_bytes:
                    return False
                self._s3.download_file(self.bucket, output.key, str(part), Callback=count)
        except _TooLongError:
            return False
        if (output.sha256 or needs_digest) and sha256_of(part) != output.sha256:
            part.unlink()
            return False
        os.replace(part, destination)
        sync_folder(destination.parent)
        return True

    def file(self, instance_id: str, name: str) -> bytes:
        """Return what an instance stored as `metrics.jsonl` or `trainer.log`; b"" if it stored none."""
        folders = [f"{folder}/" for folder in self._machine_folders(instance_id)]
        for folder in (*folders, f"{self.prefix}/attempts/{instance_id}/"):
            content = self._read(folder + name)
            if content:
                return content
        return b""

    def _machine_folders(self, instance_id: str) -> list[str]:
        """Return the folders that are of an instance: one, or none where it has written nothing."""
        folder = f"{self.prefix}/{s3_layout.MACHINES}/"
        with self._door():
            pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=folder, Delimiter="/")
            user_ids = [one["Prefix"][len(folder) : -1] for page in pages for one in page.get("CommonPrefixes", [])]
        own = [user_id for user_id in user_ids if s3_layout.instance_of(user_id) == instance_id]
        return [s3_layout.machine_folder(self.prefix, user_id) for user_id in own]

    def _read(self, key: str, *, most_bytes: int = SMALL_BYTES) -> bytes:
        try:
            with self._door():
                answer = self._s3.get_object(Bucket=self.bucket, Key=key, Range=f"bytes=0-{most_bytes - 1}")
                return bytes(answer["Body"].read())
        except CloudError as error:
            if error.code in MISSING:
                return b""
            raise

    # -- outputs

    def output_state(self, instance_id: str) -> bytes:
        """Return the list of the newest state of the outputs that an instance stored whole; b"" if it stored none."""
        for folder in self._machine_folders(instance_id):
            content = self._read(f"{folder}/{s3_layout.OUTPUT_STATE}", most_bytes=MOST_STATE_BYTES + 1)
            if content:
                return content
        return b""

    def fetch_outputs(self, instance_id: str, files: Sequence[TreeFile], folder: Path) -> frozenset[str]:
        """Download contents that an instance stored, each under its SHA-256, whole and compared by it.

        Args:
            instance_id: of the run.
            files: of its state; no digest twice.
            folder: where they go.

        Returns:
            The digests that are there now. What is missing is damaged in S3, or is not there.

        Raises:
            CloudError: S3 does not answer.
            OSError: they cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        check_room(folder, sum(file.size_bytes for file in files))
        machines = self._machine_folders(instance_id)
        if not machines or not files:
            return frozenset()
        self._s3  # noqa: B018  (made in this thread: a session is not to be made in two)
        is_over = Event()

        def fetch(file: TreeFile) -> str:
            if is_over.is_set():
                return ""
            try:
                key = f"{machines[0]}/{s3_layout.output_object(file.sha256)}"
                return file.sha256 if self._fetch_content(key, file, folder / file.sha256) else ""
            except BaseException:
                is_over.set()
                raise

        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            here = frozenset(digest for digest in pool.map(fetch, files) if digest)
        sync_folder(folder)
        return here

    def _fetch_content(self, key: str, file: TreeFile, destination: Path) -> bool:
        """Download one content; return whether it is the announced one. No more than announced is received."""
        try:
            if file.size_bytes > SMALL_OBJECT_BYTES:
                return self.fetch(Output(file.path, 0, file.size_bytes, file.sha256, key), destination)
            with self._door(writes_to=destination.parent):
                content = bytes(self._s3.get_object(Bucket=self.bucket, Key=key)["Body"].read(file.size_bytes + 1))
        except CloudError as error:
            if error.code in MISSING:
                return False
            raise
        if hashlib.sha256(content).hexdigest() != file.sha256:
            return False
        part = part_path(destination, file.sha256)
        part.write_bytes(content)
        os.replace(part, destination)
        return True

    # -- uploads that were broken off

    def broken_uploads(self, prefix: str) -> list[tuple[str, str]]:
        """Return (key, upload id) of the uploads to the bucket that are not complete; S3 bills their parts.

        Args:
            prefix: with which their keys begin.

        Raises:
            CloudError: S3 does not answer, or the policy lacks s3:ListBucketMultipartUploads.
        """
        with self._door(f"bucket {self.bucket}"):
            pages = self._s3.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=prefix)
            return [(str(one["Key"]), str(one["UploadId"])) for page in pages for one in page.get("Uploads", [])]

    def abort_upload(self, key: str, upload_id: str) -> bool:
        """Abort one of them, which deletes its parts; one that is gone or complete by now is no error. Return True."""
        with suppress(NotFoundError), self._door(f"s3://{self.bucket}/{key}"):
            self._s3.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload_id)
        return True

    def last_words(self, instance_id: str) -> dict[str, Any]:
        """Return the agent's state as the instance stored it last; {} if it stored none."""
        return next(bounded_json.objects([self.file(instance_id, "state.json")]), {})


def _sha256(head: Mapping[str, Any]) -> str:
    """Return the digest that an instance stored with a checkpoint, "" for none or for a text that is none."""
    digest = str(head["Metadata"].get("sha256", ""))
    return digest if re.fullmatch(r"[0-9a-f]{64}", digest) else ""
