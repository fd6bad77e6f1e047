"""The Date header of AWS's answers: the one clock that all machines of a run can agree on."""

from __future__ import annotations

from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any

from orchestrator.clock import OF_THIS_PROCESS


def confirm_clock(client: Any) -> None:
    """Let the answers to a client of boto3 correct this process's clock."""
    client.meta.events.register("after-call", _read_date)


def _read_date(http_response: Any = None, **_: Any) -> None:
    headers = getattr(http_response, "headers", None) or {}
    with suppress(KeyError, TypeError, ValueError, OverflowError):
        OF_THIS_PROCESS.confirm(parsedate_to_datetime(str(headers["Date"])).timestamp())
