"""IAM and CloudFormation of the embedded cloud: the requests that changed something are kept and answered again.

The process ends with its last instance; roles, instance profiles and stacks of an account outlive it.
"""

import io
import json
from pathlib import Path
from typing import Any

from infra.local.api.s3 import Moto
from infra.local.aws import moto_cloudformation, moto_iam
from infra.local.aws.wire import ApiError, Form


class RequestJournal:
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
        if operation.startswith(("Delete", "Remove")) and moto_iam.is_empty() and not moto_cloudformation.has_stacks():
            self._path.unlink()


def _asked(form: Form) -> dict[str, str]:
    """What a request wants of a stack."""
    return {key: value for key, value in form.values.items() if key not in ("Action", "Version", "ClientRequestToken")}
