"""S3 of the embedded cloud: moto's, with its objects kept on disk, and instances' roles held to their policies.

The process ends with the last instance, and AWS's buckets do not: what is put is also written to `s3/<bucket>/`, one
file for each object and one for its metadata, and read back by the next process that is asked for S3.
"""

import io
import json
import logging
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote
from xml.sax.saxutils import escape

from infra.local import ec2
from infra.local.cloud import Cloud
from infra.local.faults import Call
from infra.local.permissions import action_of, may, role_policies
from infra.local.wire import STATUS_LINES, ApiError, Form

log = logging.getLogger("pixel-orch.local")
StartResponse = Callable[..., Any]
Moto = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


class Storage:
    """S3, path style: /bucket/key.

    Args:
        folder: where buckets are kept.
        moto: moto's WSGI application.
    """

    def __init__(self, folder: Path, moto: Moto, cloud: Cloud) -> None:
        self._folder = folder
        self._moto = moto
        self._cloud = cloud
        self._lock = threading.RLock()
        self._is_read = False

    def answer(self, environ: dict[str, Any], start_response: StartResponse, role: str | None) -> Iterable[bytes]:
        """Answer one request; `role` is the instance's role that signed it, None for the account's own key."""
        bucket, _, key = environ.get("PATH_INFO", "/").lstrip("/").partition("/")
        query = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
        operation, action = action_of(environ["REQUEST_METHOD"], key, query)
        self._cloud.count(operation)
        try:
            self._cloud.faults.strike(Call(operation))
            if role is not None:
                self._check(role, action, bucket, key, query)
        except ApiError as error:
            return _refuse(environ, start_response, error)
        size = int(environ.get("CONTENT_LENGTH") or 0)
        body_in = io.BytesIO(environ["wsgi.input"].read(size))  # before the lock: a client may freeze while it sends
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

    def _check(self, role: str, action: str, bucket: str, key: str, query: dict[str, str]) -> None:
        resource = f"arn:aws:s3:::{bucket}/{key}" if key else f"arn:aws:s3:::{bucket}"
        context = {"s3:prefix": query.get("prefix", ""), "aws:SecureTransport": "true"}
        if not may(role_policies(ec2.ACCOUNT_ID, role), action, resource, context):
            who = f"arn:aws:sts::{ec2.ACCOUNT_ID}:assumed-role/{role}"
            text = f"User: {who} is not authorized to perform: {action} on resource: {resource}"
            raise ApiError("AccessDenied", text, 403)

    # --- on disk -----------------------------------------------------------------------------------------------------

    def read_back(self) -> None:
        """Let moto have what is on disk, once."""
        if self._is_read:
            return
        self._is_read = True
        from moto.s3.models import s3_backends

        backend = s3_backends[ec2.ACCOUNT_ID]["aws"]
        for folder in sorted(path for path in self._folder.glob("*") if path.is_dir()):
            name = folder.name
            if name not in backend.buckets:
                backend.create_bucket(name, (folder / ".region").read_text())
            for path in sorted(folder.glob("*.object")):
                kept = backend.put_object(name, unquote(path.stem), path.read_bytes())
                kept.set_metadata(json.loads(path.with_suffix(".json").read_text()))

    def _write_down(self, bucket: str, key: str) -> None:
        """Make the disk as moto's bucket is: one object, or (deletes of many) the bucket."""
        from moto.s3.models import s3_backends

        found = s3_backends[ec2.ACCOUNT_ID]["aws"].buckets.get(bucket)
        folder = self._folder / bucket
        if found is None:
            self._forget(folder)
            return
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / ".region").write_text(str(found.region_name))
        if key and key in found.keys:
            kept = found.keys[key]
            path = folder / f"{quote(key, safe='')}.object"
            path.with_suffix(".json").write_text(json.dumps(dict(kept.metadata)))
            part = path.with_suffix(".part")
            part.write_bytes(kept.value)
            part.replace(path)
        for path in folder.glob("*.object"):
            if unquote(path.stem) not in found.keys:
                path.unlink()
                path.with_suffix(".json").unlink(missing_ok=True)

    @staticmethod
    def _forget(folder: Path) -> None:
        if folder.is_dir():
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()


def _refuse(environ: dict[str, Any], start_response: StartResponse, error: ApiError) -> Iterable[bytes]:
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))  # or the client's upload breaks before it reads
    text = f"<Error><Code>{escape(error.code)}</Code><Message>{escape(error.message)}</Message></Error>"
    body = b"" if environ["REQUEST_METHOD"] == "HEAD" else f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode()
    line = STATUS_LINES.get(error.status, f"{error.status} Status")
    start_response(line, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


class Journal:
    """What was changed in IAM and CloudFormation, so that the next process has it too.

    The requests themselves are kept, and are answered again by moto, in their order, when one of these services is
    next asked for. Names stay; ids that moto makes up differ.
    """

    _READS = ("Get", "List", "Describe", "Validate", "Simulate", "Generate", "Estimate")

    def __init__(self, path: Path, moto: Moto) -> None:
        self._path = path
        self._moto = moto
        self._is_read = False
        self._stacks: dict[str, dict[str, str]] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nothing stands: then no service need be loaded to know that there is nothing."""
        return not self._path.exists()

    def replay(self) -> None:
        """Let moto have what stands, once."""
        if self._is_read:
            return
        self._is_read = True
        if self.is_empty:
            return
        for line in self._path.read_text(encoding="utf-8").splitlines():
            kept = json.loads(line)
            body = kept["body"].encode("latin-1")
            self._note_stack(Form.parse(body))
            environ = {**kept["environ"], "wsgi.input": io.BytesIO(body), "wsgi.errors": io.StringIO()}
            b"".join(self._moto(environ, lambda *_: None))

    def _note_stack(self, form: Form) -> None:
        name = form.get("StackName") or ""
        if form.get("Action") in ("CreateStack", "UpdateStack"):
            self._stacks[name] = _asked(form)
        elif form.get("Action") == "DeleteStack":
            self._stacks = {key: value for key, value in self._stacks.items() if key != name and key not in name}

    def refuse_no_change(self, body: bytes) -> None:
        """Refuse an UpdateStack that changes nothing, as CloudFormation does and moto does not. Raises ApiError."""
        form = Form.parse(body)
        if form.get("Action") == "UpdateStack" and self._stacks.get(form.get("StackName") or "") == _asked(form):
            raise ApiError("ValidationError", "No updates are to be performed.")

    def keep(self, environ: dict[str, Any], body: bytes, operation: str) -> None:
        """Write a request down that has changed something; forget all of them when nothing stands any more."""
        if operation.startswith(self._READS):
            return
        self._note_stack(Form.parse(body))
        kept = {key: value for key, value in environ.items() if isinstance(value, str) and not key.startswith("wsgi.i")}
        line = json.dumps({"environ": kept, "body": body.decode("latin-1")})
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
        self._path.chmod(0o600)
        if operation.startswith(("Delete", "Remove")) and nothing_stands():
            self._path.unlink()


def _asked(form: Form) -> dict[str, str]:
    """What a request wants of a stack."""
    return {key: value for key, value in form.values.items() if key not in ("Action", "Version", "ClientRequestToken")}


def nothing_stands() -> bool:
    """Whether there is no stack, role or instance profile. Buckets are kept by themselves."""
    from moto.iam.models import iam_backends

    iam = iam_backends[ec2.ACCOUNT_ID]["aws"]
    if iam.get_roles() or iam.instance_profiles:
        return False
    loaded = sys.modules.get("moto.cloudformation.models")  # its import takes seconds; without it there is no stack
    regions = loaded.cloudformation_backends[ec2.ACCOUNT_ID].values() if loaded else ()
    return not any(region.stacks for region in regions)
