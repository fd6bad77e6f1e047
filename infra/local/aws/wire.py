"""The wire formats of the overlay: form parameters of requests, EC2's XML and JSON of answers."""

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode
from xml.sax.saxutils import escape

EC2_NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"
STATUS_LINES = {
    200: "200 OK",
    400: "400 Bad Request",
    401: "401 Unauthorized",
    403: "403 Forbidden",
    404: "404 Not Found",
    500: "500 Internal Server Error",
    405: "405 Method Not Allowed",
    412: "412 Precondition Failed",
    503: "503 Service Unavailable",
}


class ApiError(Exception):
    """An error answer: `code` and `message` are AWS's, `status` is the HTTP status."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status


@dataclass(frozen=True)
class Reply:
    """An HTTP answer."""

    status: int
    content_type: str
    body: bytes


@dataclass
class Form:
    """The parameters of an EC2 query request with their flat names: `InstanceId.1`, `Placement.AvailabilityZone`."""

    values: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, body: bytes) -> "Form":
        """Parse a urlencoded body."""
        return cls(dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)))

    def encode(self) -> bytes:
        """Return the urlencoded body."""
        return urlencode(self.values).encode()

    def get(self, name: str) -> str | None:
        """Return a parameter, or None if it is missing or empty."""
        return self.values.get(name) or None

    def flag(self, name: str) -> bool:
        """Return a boolean parameter; a missing one is False."""
        return self.values.get(name, "").lower() == "true"

    def numbered(self, name: str) -> list[str]:
        """Return a list parameter: `InstanceId` -> the values of InstanceId.1, InstanceId.2 ..."""
        found: list[str] = []
        while (value := self.values.get(f"{name}.{len(found) + 1}")) is not None:
            found.append(value)
        return found

    def filters(self) -> dict[str, list[str]]:
        """Return Filter.N.Name and Filter.N.Value.M as one mapping."""
        found: dict[str, list[str]] = {}
        number = 1
        while (name := self.values.get(f"Filter.{number}.Name")) is not None:
            found[name] = self.numbered(f"Filter.{number}.Value")
            number += 1
        return found


Xml = str | Mapping[str, "Xml"] | Iterable["Xml"] | None


def xml_reply(operation: str, content: Mapping[str, Xml]) -> Reply:
    """Return an EC2 success answer. A mapping becomes elements, another iterable `<item>`s, None omits the element."""
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<{operation}Response xmlns="{EC2_NAMESPACE}">'
    body += f"<requestId>{uuid.uuid4()}</requestId>{_xml(content)}</{operation}Response>"
    return Reply(200, "text/xml;charset=UTF-8", body.encode())


def _xml(content: Xml) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return escape(content)
    if isinstance(content, Mapping):
        return "".join(f"<{key}>{_xml(value)}</{key}>" for key, value in content.items() if value is not None)
    return "".join(f"<item>{_xml(item)}</item>" for item in content)


def ec2_error(error: ApiError) -> Reply:
    """Return an EC2 error answer, the XML that SDKs parse."""
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<Response><Errors><Error>'
        f"<Code>{escape(error.code)}</Code><Message>{escape(error.message)}</Message></Error></Errors>"
        f"<RequestID>{uuid.uuid4()}</RequestID></Response>"
    )
    return Reply(error.status, "text/xml;charset=UTF-8", body.encode())


def query_reply(operation: str, content: Mapping[str, Xml]) -> Reply:
    """Return a success answer of the query protocol, as STS gives it."""
    body = f'<{operation}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
    body += f"<{operation}Result>{_xml(content)}</{operation}Result>"
    body += f"<ResponseMetadata><RequestId>{uuid.uuid4()}</RequestId></ResponseMetadata></{operation}Response>"
    return Reply(200, "text/xml", body.encode())


def query_error(error: ApiError) -> Reply:
    """Return an error answer of the query protocol, which STS, IAM and CloudFormation use."""
    body = (
        '<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>'
        f"<Code>{escape(error.code)}</Code><Message>{escape(error.message)}</Message></Error>"
        f"<RequestId>{uuid.uuid4()}</RequestId></ErrorResponse>"
    )
    return Reply(error.status, "text/xml", body.encode())


def json_error(error: ApiError) -> Reply:
    """Return an error answer of the JSON protocol, which SSM uses."""
    return Reply(
        error.status,
        "application/x-amz-json-1.1",
        json.dumps({"__type": error.code, "message": error.message}).encode(),
    )


def json_reply(content: object, status: int = 200) -> Reply:
    """Return a plain JSON answer, for the control routes."""
    return Reply(status, "application/json", json.dumps(content).encode())
