"""Checks the settings of a program of the user's own: what is read from its log, and how it is told to stop."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from model.config import TrainConfig
from orchestrator.errors import SpecError
from orchestrator.formatting import nearest, one_line

METRIC_NAME = re.compile(r"[A-Za-z][\w./ -]{0,99}", re.ASCII)
MOST_PATTERNS = 32
LONGEST_PATTERN = 500
LONGEST_URL = 2000
EXAMPLE = "--metric 'loss=loss[=: ]+([0-9.eE+-]+)'"
STOP_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")


def check_metrics(given: Any, trainer: TrainConfig | None) -> dict[str, str]:
    """Return the patterns for the log by the names of their values.

    Args:
        given: NAME=PATTERN texts, or a mapping, as a file may have it.
        trainer: the bundled trainer, which needs none.

    Raises:
        SpecError: a pattern does not compile, has no group, or has no name.
    """
    if not given:
        return {}
    if trainer is not None:
        raise SpecError(
            "--metric reads the log of a program of your own; the bundled trainer writes its metrics itself"
        )
    pairs = list(given.items()) if isinstance(given, Mapping) else [_pair(text) for text in _texts(given)]
    if len(pairs) > MOST_PATTERNS:
        raise SpecError(f"--metric: {len(pairs)} patterns; at most {MOST_PATTERNS} are read")
    found: dict[str, str] = {}
    for name, pattern in ((str(key).strip(), value) for key, value in pairs):
        if name in found:
            raise SpecError(f"--metric: {one_line(name)[:60]} is given twice; give one pattern, with | for either")
        found[name] = _pattern(name, pattern)
    return found


def _texts(given: str | Sequence[str]) -> Sequence[str]:
    return [given] if isinstance(given, str) else given


def _pair(text: str) -> tuple[str, str]:
    name, equals, pattern = str(text).partition("=")
    if not equals or not pattern:
        raise SpecError(f"--metric: {one_line(str(text))[:60]!r} is not NAME=PATTERN; give for example {EXAMPLE}")
    return name, pattern


def _pattern(name: str, pattern: Any) -> str:
    shown = one_line(name)[:60]
    if not METRIC_NAME.fullmatch(name):
        raise SpecError(
            f"--metric: {shown!r} is not a name; use letters, digits and _./- and give for example {EXAMPLE}"
        )
    if not isinstance(pattern, str) or not pattern or len(pattern) > LONGEST_PATTERN:
        raise SpecError(f"--metric: {shown}: give a regular expression of at most {LONGEST_PATTERN} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            groups = re.compile(pattern).groups
    except (re.error, OverflowError, RecursionError) as error:
        raise SpecError(f"--metric: {shown}: {one_line(pattern)[:60]!r} is no regular expression: {error}") from None
    if not groups:
        raise SpecError(
            f"--metric: {shown}: {one_line(pattern)[:60]!r} has no group; put ( ) around the number: {EXAMPLE}"
        )
    return pattern


def check_stop_signal(name: str | None) -> str:
    """Return the signal that tells the program to save and end.

    Raises:
        SpecError: it is not one that a program can handle.
    """
    if name is None:
        return "SIGTERM"
    full = str(name).upper()
    full = full if full.startswith("SIG") else f"SIG{full}"
    if full in STOP_SIGNALS:
        return full
    near = nearest(full, STOP_SIGNALS)
    hint = f"did you mean {near}?" if near else f"use one of {', '.join(STOP_SIGNALS)}"
    raise SpecError(f"--stop-signal: {one_line(str(name))[:60]!r} is not a signal that a program can handle; {hint}")


def check_notify(url: str | None) -> str | None:
    """Return the address that is told what happens to a run; None for none, and for "".

    The address itself is not repeated in an error: that of a webhook is a secret.

    Raises:
        SpecError: it is no address of the web.
    """
    if not url:
        return None
    try:
        parts = urlsplit(url)
        is_web = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_web = False
    if not is_web or len(url) > LONGEST_URL or not url.isascii() or not url.isprintable() or " " in url:
        raise SpecError("--notify: it is no web address; give https://HOST/PATH")
    return url
