"""`--image URI`: the reference of a Docker image, checked before anything is rented.

The grammar is that of https://pkg.go.dev/github.com/distribution/reference: `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`.
"""

from __future__ import annotations

import re
from typing import Any

from orchestrator.errors import SpecError
from orchestrator.formatting import one_line

MOST_LETTERS = 255  # of the name, without tag and digest
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = rf"(?:localhost|{_LABEL}(?:\.{_LABEL})+|{_LABEL}(?=:)|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_NAME = rf"(?:{_HOST}/)?{_PART}(?:/{_PART})*"
_TAG = r"[\w][\w.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"
_REFERENCE = re.compile(rf"({_NAME})(?::({_TAG}))?(?:@({_DIGEST}))?", re.ASCII)
EXAMPLE = "pytorch/pytorch:2.7.0-cuda12.8-cudnn9-runtime"


def check_image(text: Any, *, cloud: str, is_own: bool, has_setup: bool) -> str | None:
    """Return the reference of the image that a program runs in, None for none.

    Args:
        text: as it was given.
        cloud: where it would run.
        is_own: whether it is a program of the user's own.
        has_setup: whether `--setup` is given.

    Raises:
        SpecError: it is no reference, or no container can be used here.
    """
    if text is None:
        return None
    if cloud == "local":
        raise SpecError("--image: the embedded cloud cannot run Docker images; drop it, or launch on AWS")
    if not is_own:
        raise SpecError("--image is for your own program: give --workdir DIR and its command after --")
    if has_setup:
        raise SpecError("--image and --setup exclude each other: the image brings what the program needs")
    problem = _problem(text)
    if problem:
        raise SpecError(f"--image: {one_line(text)[:80]!r} is no image: {problem}; give for example --image {EXAMPLE}")
    return str(text)


def _problem(text: str) -> str:
    """Return why a text is no reference, "" if it is one."""
    is_long = len(text) > 3 * MOST_LETTERS
    found = None if is_long else _REFERENCE.fullmatch(text)
    if found and len(found[1]) <= MOST_LETTERS:
        return ""
    reasons = (
        (not text.strip(), "it is empty"),
        (is_long or found is not None, f"its name has more than {MOST_LETTERS} characters"),
        ("://" in text, f"drop {text.partition('://')[0]}://"),
        (any(letter.isspace() for letter in text), "it has a blank"),
        (is_long or _REFERENCE.fullmatch(text.lower()), "a repository is written in lower case"),
        ("@" in text, "a digest is sha256: with 64 digits"),
        (text.endswith(":") or text.count(":") > 1, "a tag has letters, digits, '_', '.' and '-'"),
    )
    return next(
        (why for holds, why in reasons if holds), "a repository has a-z, 0-9, '.', '_', '-', and '/' in between"
    )
