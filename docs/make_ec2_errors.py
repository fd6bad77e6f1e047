"""Writes `docs/ec2-errors.md` from the table that the code uses: `python -m docs.make_ec2_errors`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from orchestrator.cloud.aws.errors import MEANINGS, translate

SCOPES = {
    "pool": "this type in this zone; the next pool is tried",
    "zone": "every type in this zone; the next zone is tried",
    "quota": "every type of the same quota family and market in this region",
    "region": "everything in this region; the next `--region` is tried",
    "account": "everything: the run ends",
    "request": "this request, wherever it is sent: the run ends",
    "moment": "nothing: the same request again",
}
EXAMPLES = ("VcpuLimitExceeded", "ExpiredToken", "InvalidAMIID.NotFound", "InsufficientInstanceCapacity")


def error_page() -> str:
    """Return the page."""
    lines = [
        "# What each EC2 error means to pixel-orch",
        "",
        "Written by `python -m docs.make_ec2_errors` from `orchestrator/cloud/aws/errors.py`; a test compares them.",
        "A code that is not here is passed on unchanged, and nothing else is tried.",
        'A hint in one of AWS\'s texts ("choosing us-east-1b...") is printed, not followed: such hints can be wrong.',
        "",
        "| scope | what it rules out |",
        "|---|---|",
        *(f"| {scope} | {words} |" for scope, words in SCOPES.items()),
        "",
        "| code | our error | scope | what pixel-orch does, or you do |",
        "|---|---|---|---|",
    ]
    for code, meaning in MEANINGS.items():
        lines.append(f"| `{code}` | {meaning.kind.__name__} | {meaning.scope} | {meaning.does} |")
    lines += ["", "What the user reads, for example:", "", "```"]
    for code in EXAMPLES:
        answer: Any = {"Error": {"Code": code, "Message": "(what AWS says)"}}
        lines.append(str(translate(ClientError(answer, "RunInstances"), "g4dn.xlarge in us-east-1a")))
    return "\n".join([*lines, "```", ""])


if __name__ == "__main__":
    (Path(__file__).parent / "ec2-errors.md").write_text(error_page())
