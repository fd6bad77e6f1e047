"""S3 of the embedded cloud: moto's S3, with objects on disk and with the policies of instances' roles.

The process stops after its last instance, but AWS's buckets persist. So each object is also written to `s3/<bucket>/`,
one file for its content and one for its metadata, and the next process reads them at the first S3 request.
"""

import io
import json
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote
from xml.sax.saxutils import escape

from infra.local.aws import moto_ec2, moto_iam, moto_s3
from infra.local.aws.permissions import action_of, may
from infra.local.aws.wire import STATUS_LINES, ApiError
from infra.local.cloud.cloud import Cloud
from infra.local.cloud.faults import Call

StartResponse = Callable[..., Any]
Moto = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


class S3:
    """S3, path style: /bucket/key.

    Args:
        folder: the folder that holds the buckets.
        moto: moto's WSGI application.
    """

    def __init__(self, folder: Path, moto: Moto, cloud: Cloud) -> None:
        self._folder = folder
        self._moto = moto
        self._cloud = cloud
        self._lock = threading.RLock()
        self._is_read = False

    def answer(
        self, environ: dict[str, Any], start_response: StartResponse, signer: tuple[str, str] | None
    ) -> Iterable[bytes]:
        """Answer one request; `signer` is the role and the instance that signed it, or None for the account's key."""
        bucket, _, key = environ.get("PATH_INFO", "/").lstrip("/").partition("/")
        query = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
        operation, action = action_of(environ["REQUEST_METHOD"], key, query)
        self._cloud.count(operation)
        try:
            self._cloud.faults.strike(Call(operation))
            if signer is not None:
                asked = {"s3:prefix": query.get("prefix", "")}
                if "HTTP_IF_NONE_MATCH" in environ:
                    asked["s3:if-none-match"] = environ["HTTP_IF_NONE_MATCH"]
                self._check(signer, action, bucket, key, asked)
        except ApiError as error:
            return _refuse(environ, start_response, error)
        size = int(environ.get("CONTENT_LENGTH") or 0)
        body_in = io.BytesIO(environ["wsgi.input"].read(size))  # before the lock: a client may hang while it sends
        environ = {**environ, "wsgi.input": body_in}
        with self._lock:
            self.read_back()
            answered: list[int] = []

            def noted(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
                answered.append(int(status.split(" ", 1)[0]))
                return start_response(status, headers, *more)

            body = b"".join(self._moto(environ, noted))
            if answered and answered[0] < 300 and environ["REQUEST_METHOD"] in ("PUT", "POST", "DELETE"):
                self._write_down(bucket, key)
        return [body]

    def _check(self, signer: tuple[str, str], action: str, bucket: str, key: str, asked: dict[str, str]) -> None:
        role, instance_id = signer
        resource = f"arn:aws:s3:::{bucket}/{key}" if key else f"arn:aws:s3:::{bucket}"
        context = {
            **asked,
            "aws:SecureTransport": "true",
            "aws:userid": moto_iam.user_id(role, instance_id),
            "aws:PrincipalAccount": moto_ec2.ACCOUNT_ID,
            "aws:ResourceAccount": moto_ec2.ACCOUNT_ID,
        }
        policies, boundary = moto_iam.role_policies(role), moto_iam.boundary_of(role)
        if not may(policies, action, resource, context, boundary=boundary):
            who = f"arn:aws:sts::{moto_ec2.ACCOUNT_ID}:assumed-role/{role}/{instance_id}"
            text = f"User: {who} is not authorized to perform: {action} on resource: {resource}"
            raise ApiError("AccessDenied", text, 403)

    # --- on disk -----------------------------------------------------------------------------------------------------

    def read_back(self) -> None:
        """Load the objects on disk into moto, once."""
        if self._is_read:
            return
        self._is_read = True
        for folder in sorted(path for path in self._folder.glob("*") if path.is_dir()):
            moto_s3.add_bucket(folder.name, (folder / ".region").read_text())
            for path in sorted(folder.glob("*.object")):
                metadata = json.loads(path.with_suffix(".json").read_text())
                moto_s3.add_object(folder.name, unquote(path.stem), moto_s3.StoredObject(path.read_bytes(), metadata))

    def _write_down(self, bucket: str, key: str) -> None:
        """Update the disk from moto: one object, or for a delete of many objects the whole bucket."""
        region = moto_s3.bucket_region(bucket)
        folder = self._folder / bucket
        if region is None:
            self._forget(folder)
            return
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / ".region").write_text(region)
        stored = moto_s3.get_object(bucket, key) if key else None
        if stored is not None:
            path = folder / f"{quote(key, safe='')}.object"
            path.with_suffix(".json").write_text(json.dumps(stored.metadata))
            part = path.with_suffix(".part")
            part.write_bytes(stored.content)
            part.replace(path)
        keys = moto_s3.keys(bucket)
        for path in folder.glob("*.object"):
            if unquote(path.stem) not in keys:
                path.unlink()
                path.with_suffix(".json").unlink(missing_ok=True)

    @staticmethod
    def _forget(folder: Path) -> None:
        if folder.is_dir():
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()


def _refuse(environ: dict[str, Any], start_response: StartResponse, error: ApiError) -> Iterable[bytes]:
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))  # unread input would break the client's upload
    text = f"<Error><Code>{escape(error.code)}</Code><Message>{escape(error.message)}</Message></Error>"
    body = b"" if environ["REQUEST_METHOD"] == "HEAD" else f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode()
    line = STATUS_LINES.get(error.status, f"{error.status} Status")
    start_response(line, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]
