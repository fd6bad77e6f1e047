"""IAM and CloudFormation of the embedded cloud: requests with changes are recorded and replayed.

The process stops after its last instance, but roles, instance profiles and stacks of an account persist.
"""

import io
import json
from pathlib import Path
from typing import Any

from infra.local.api.s3 import Moto
from infra.local.aws import moto_cloudformation, moto_iam
from infra.local.aws.wire import ApiError, Form


class RequestJournal:
    """The changes of IAM and CloudFormation, for the next process.

    The journal stores the requests. moto answers them again, in order, before the first use of one of these services.
    Names stay the same; ids that moto generates differ.
    """

    _READS = ("Get", "List", "Describe", "Validate", "Simulate", "Generate", "Estimate")

    def __init__(self, path: Path, moto: Moto) -> None:
        self._path = path
        self._moto = moto
        self._is_read = False
        self._stacks: dict[str, dict[str, str]] = {}

    @property
    def is_empty(self) -> bool:
        """Whether there is no request to replay; then no service needs to be loaded."""
        return not self._path.exists()

    def replay(self) -> None:
        """Replay the recorded requests to moto, once."""
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
            self._stacks[name] = _stack_parameters(form)
        elif form.get("Action") == "DeleteStack":
            self._stacks = {key: value for key, value in self._stacks.items() if key != name and key not in name}

    def refuse_no_change(self, body: bytes) -> None:
        """Raise ApiError for an UpdateStack without changes, as CloudFormation does and moto does not."""
        form = Form.parse(body)
        known = self._stacks.get(form.get("StackName") or "")
        if form.get("Action") == "UpdateStack" and known == _stack_parameters(form):
            raise ApiError("ValidationError", "No updates are to be performed.")

    def keep(self, environ: dict[str, Any], body: bytes, operation: str) -> None:
        """Record a request that has changed something; delete the journal when no role, profile or stack exists."""
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


def _stack_parameters(form: Form) -> dict[str, str]:
    """Return the parameters of a request that define a stack."""
    return {key: value for key, value in form.values.items() if key not in ("Action", "Version", "ClientRequestToken")}
