"""A run's copy in S3, seen from this machine: whether the bucket is usable, and what the instances stored.

The layout below a run's prefix is that of `infra/instance/checkpoint_uploader.py`, which writes it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from orchestrator.cloud.aws.errors import map_boto_errors
from orchestrator.cloud.aws.session import open_client, open_session
from orchestrator.errors import CloudError, CredentialsError, SpecError
from orchestrator.runs import bounded_json
from orchestrator.runs.files import check_room, part_path, sha256_of, sync_folder
from orchestrator.runs.outputs import CHECKPOINT_NAME, Output

SMALL_BYTES = 64 << 20  # metrics and logs are read whole up to here


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

    def checkpoints(self, most: int = 20) -> list[Output]:
        """Return the newest stored checkpoints, oldest first, with the digests that they were stored with."""
        found: list[tuple[int, str, int]] = []
        with self._door():
            pages = self._s3.get_paginator("list_objects_v2")
            folder = f"{self.prefix}/checkpoints/"  # what an instance puts below it in another folder is none of them
            for page in pages.paginate(Bucket=self.bucket, Prefix=folder, Delimiter="/"):
                for entry in page.get("Contents", []):
                    match = CHECKPOINT_NAME.fullmatch(entry["Key"].rpartition("/")[2])
                    if match:
                        found.append((int(match[1]), match[0], int(entry["Size"])))
            return [Output(name, step, size, self._digest(name)) for step, name, size in sorted(found)[-most:]]

    def _digest(self, name: str) -> str:
        head = self._s3.head_object(Bucket=self.bucket, Key=f"{self.prefix}/checkpoints/{name}")
        return _sha256(head)

    def newest_below(self, place: str) -> tuple[str, Output] | None:
        """Return (key, checkpoint) of the checkpoint with this key, or of the newest one below it; None without any.

        A checkpoint that was copied there by hand has no digest: its sha256 is "".
        """
        found: list[tuple[int, str, int]] = []
        with self._door(f"s3://{self.bucket}/{place}"):
            for prefix in (place, f"{place}/", f"{place}/checkpoints/"):
                for page in self._s3.get_paginator("list_objects_v2").paginate(
                    Bucket=self.bucket, Prefix=prefix, Delimiter="/"
                ):
                    for entry in page.get("Contents", []):
                        match = CHECKPOINT_NAME.fullmatch(entry["Key"].rpartition("/")[2])
                        if match and (prefix != place or entry["Key"] == place):
                            found.append((int(match[1]), entry["Key"], int(entry["Size"])))
            if not found:
                return None
            step, key, size = max(found)
            head = self._s3.head_object(Bucket=self.bucket, Key=key)
        return key, Output(key.rpartition("/")[2], step, size, _sha256(head))

    def fetch(self, output: Output, destination: Path, key: str | None = None) -> bool:
        """Download a checkpoint, whole and with its digest, or not at all (False).

        Args:
            output: the checkpoint.
            destination: its local path.
            key: of a checkpoint of another run, which may have no digest.
        """
        check_room(destination.parent, output.size_bytes)
        part = part_path(destination, output.sha256)
        source = key or f"{self.prefix}/checkpoints/{output.name}"
        with self._door(writes_to=destination.parent):
            if int(self._s3.head_object(Bucket=self.bucket, Key=source)["ContentLength"]) != output.size_bytes:
                return False  # replaced since it was listed
            self._s3.download_file(self.bucket, source, str(part))
        if (output.sha256 or key is None) and sha256_of(part) != output.sha256:
            part.unlink()
            return False
        os.replace(part, destination)
        sync_folder(destination.parent)
        return True

    def file(self, instance_id: str, name: str) -> bytes:
        """Return what an instance stored as `metrics.jsonl` or `trainer.log`; b"" if it stored none."""
        try:
            with self._door():
                answer = self._s3.get_object(
                    Bucket=self.bucket,
                    Key=f"{self.prefix}/attempts/{instance_id}/{name}",
                    Range=f"bytes=0-{SMALL_BYTES - 1}",
                )
                return bytes(answer["Body"].read())
        except CloudError as error:
            if error.code in ("NoSuchKey", "InvalidRange", "404"):
                return b""
            raise

    def last_words(self, instance_id: str) -> dict[str, Any]:
        """Return the agent's state as the instance stored it last; {} if it stored none."""
        return next(bounded_json.objects([self.file(instance_id, "state.json")]), {})


def _sha256(head: Mapping[str, Any]) -> str:
    """Return the digest that an instance stored with a checkpoint, "" for none or for a text that is none."""
    digest = str(head["Metadata"].get("sha256", ""))
    return digest if re.fullmatch(r"[0-9a-f]{64}", digest) else ""
