"""A bucket in memory, behind the methods of boto3's S3 client that pixel-orch calls, with the policy of a role."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from infra.local.aws.permissions import may

POLICIES = Path(__file__).parents[2] / "infra" / "account" / "policies"


@dataclass(frozen=True)
class Bucket:
    """The bucket as one principal sees it.

    Args:
        objects: (content, metadata) by key, shared between the principals.
        user_id: `aws:userid` of an instance; "" for the account's own key, which may do everything.
        policy: the file of the instance's policy.
        uploads, numbers: of uploads in parts.
    """

    objects: dict[str, tuple[bytes, dict[str, str]]] = field(default_factory=dict)
    user_id: str = ""
    policy: str = "instance.json"
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)  # in parts, that are not complete
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def of(self, user_id: str) -> Bucket:
        """The same bucket with the keys of an instance's role."""
        return replace(self, user_id=user_id)

    def _check(self, action: str, key: str = "", prefix: str = "") -> None:
        document = json.loads((POLICIES / self.policy).read_text().replace("BUCKET", "b"))
        resource = f"arn:aws:s3:::b/{key}" if key else "arn:aws:s3:::b"
        if self.user_id and not may([document], action, resource, {"aws:userid": self.user_id, "s3:prefix": prefix}):
            raise ClientError({"Error": {"Code": "AccessDenied", "Message": f"{action} on {resource}"}}, action)

    def put_object(
        self,
        *,
        Bucket: str,
        Key: str,
        Body: bytes,
        Metadata: Mapping[str, str] | None = None,
        ChecksumSHA256: str = "",
        **_: Any,
    ) -> None:
        self._check("s3:PutObject", Key)
        self._compare(Body, ChecksumSHA256)
        self.objects[Key] = (Body, dict(Metadata or {}))

    @staticmethod
    def _compare(content: bytes, checksum: str) -> None:
        if checksum and base64.b64encode(hashlib.sha256(content).digest()).decode() != checksum:
            raise ClientError({"Error": {"Code": "BadDigest", "Message": "the SHA-256 differs"}}, "PutObject")

    def create_multipart_upload(self, *, Bucket: str, Key: str, ChecksumAlgorithm: str) -> dict[str, str]:
        self._check("s3:PutObject", Key)
        upload = f"upload-{next(self.numbers)}"
        self.uploads[upload] = {}
        return {"UploadId": upload}

    def upload_part(
        self, *, Bucket: str, Key: str, UploadId: str, PartNumber: int, Body: bytes, ChecksumSHA256: str
    ) -> dict[str, str]:
        self._check("s3:PutObject", Key)
        self._compare(Body, ChecksumSHA256)
        self.uploads[UploadId][PartNumber] = Body
        return {"ETag": f"etag-{PartNumber}"}

    def complete_multipart_upload(
        self, *, Bucket: str, Key: str, UploadId: str, MultipartUpload: dict[str, list[dict[str, Any]]]
    ) -> None:
        self._check("s3:PutObject", Key)
        parts = self.uploads.pop(UploadId)
        numbers = [part["PartNumber"] for part in MultipartUpload["Parts"]]
        assert numbers == sorted(parts), "S3 refuses parts that are not in order"
        self.objects[Key] = (b"".join(parts[number] for number in numbers), {})

    def abort_multipart_upload(self, *, Bucket: str, Key: str, UploadId: str) -> None:
        self._check("s3:AbortMultipartUpload", Key)
        self.uploads.pop(UploadId)

    def upload_file(self, path: str, bucket: str, key: str, *, ExtraArgs: dict[str, Any], Config: Any) -> None:
        self.put_object(Bucket=bucket, Key=key, Body=Path(path).read_bytes(), Metadata=ExtraArgs["Metadata"])

    def head_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        content, metadata = self._get(Key, "404")
        return {"ContentLength": len(content), "Metadata": metadata}

    def get_object(self, *, Bucket: str, Key: str, Range: str = "") -> dict[str, Any]:
        return {"Body": io.BytesIO(self._get(Key, "NoSuchKey")[0])}

    def download_file(self, bucket: str, key: str, path: str, Callback: Callable[[int], None] = lambda _: None) -> None:
        content = self._get(key, "404")[0]
        Callback(len(content))
        Path(path).write_bytes(content)

    def _get(self, key: str, missing: str) -> tuple[bytes, dict[str, str]]:
        self._check("s3:GetObject", key)
        if key not in self.objects:
            raise ClientError({"Error": {"Code": missing, "Message": "there is no such key"}}, "GetObject")
        return self.objects[key]

    def get_paginator(self, operation: str) -> Bucket:
        assert operation == "list_objects_v2"
        return self

    def paginate(self, *, Bucket: str, Prefix: str, Delimiter: str = "") -> Iterator[dict[str, Any]]:
        self._check("s3:ListBucket", prefix=Prefix)
        folders = set()
        for key in sorted(key for key in self.objects if key.startswith(Prefix)):
            head, slash, _ = key[len(Prefix) :].partition(Delimiter) if Delimiter else (key, "", "")
            if slash:
                folders.add(f"{Prefix}{head}/")
            else:
                yield {"Contents": [{"Key": key, "Size": len(self.objects[key][0])}]}
        yield {"CommonPrefixes": [{"Prefix": folder} for folder in sorted(folders)]}
