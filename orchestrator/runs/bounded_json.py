"""Reads JSON that an instance, a trainer or a damaged disk wrote.

The standard reader accepts what later breaks the program: lists that are nested deeper than the stack, an integer of
4,000 digits that no float can hold, NaN, half a surrogate pair that no terminal can print. This one refuses or replaces
them. Everything that it raises is a `BadJsonError`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

MOST_LINE_BYTES = 1 << 20  # of one line of metrics or events
MOST_DEPTH = 32  # of lists and objects in each other
MOST_DIGITS = 19  # of an integer: below 2**63

_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")


class BadJsonError(ValueError):
    """The text is not JSON within the bounds. The message says why, in one line."""


def loads(
    text: str | bytes,
    *,
    most_bytes: int = MOST_LINE_BYTES,
    keeps_surrogates: bool = False,
    keeps_infinite: bool = False,
) -> Any:
    """Return the value of a JSON text. A number that is not finite becomes None, a lone surrogate becomes "?".

    Args:
        text: UTF-8 if it is bytes.
        most_bytes: a longer text is refused before it is read.
        keeps_surrogates: leave lone surrogates in: the caller encodes them back into the bytes that they stand for.
        keeps_infinite: NaN and infinite numbers stay what they are, for a caller that counts them.

    Raises:
        BadJsonError: it is no JSON, too long, nested too deep, or holds an integer of too many digits.
    """
    if len(text) > most_bytes:
        raise BadJsonError(f"{len(text)} bytes are more than the {most_bytes} allowed")
    try:
        plain = text.decode() if isinstance(text, bytes) else text
        value = json.loads(plain, parse_int=_integer) if keeps_infinite else _FINITE.decode(plain)
        if not keeps_surrogates and (_HALF_PAIR.search(plain) or (plain is text and not is_encodable(plain))):
            value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    except BadJsonError:
        raise
    except UnicodeDecodeError:
        raise BadJsonError("it is not UTF-8") from None
    except ValueError as error:
        raise BadJsonError(str(error)) from None
    except RecursionError:
        raise BadJsonError(f"it is nested more than {MOST_DEPTH} deep") from None
    opened = ("{", "[") if isinstance(text, str) else (b"{", b"[")
    if sum(map(text.count, opened)) > MOST_DEPTH:  # type: ignore[arg-type]
        _check_depth(value)
    return value


def objects(lines: Iterable[str | bytes]) -> Iterator[dict[str, Any]]:
    """Yield the objects of JSON lines; a line that is torn, outside the bounds, or no object is skipped."""
    for line in lines:
        try:
            value = loads(line)
        except BadJsonError:
            continue
        if isinstance(value, dict):
            yield value


def is_encodable(text: str) -> bool:
    """Return whether a text has no lone surrogate, which no file and no terminal takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _integer(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise BadJsonError(f"an integer of {len(digits)} digits; at most {MOST_DIGITS} are read")
    return int(digits)


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MOST_DEPTH):
        inner = [each for each in level if isinstance(each, (dict, list))]
        level = [child for each in inner for child in (each.values() if isinstance(each, dict) else each)]
        if not level:
            return
    if any(isinstance(each, (dict, list)) for each in level):
        raise BadJsonError(f"it is nested more than {MOST_DEPTH} deep")


_FINITE = json.JSONDecoder(parse_int=_integer, parse_float=_finite, parse_constant=lambda _: None)
"""Made once: `json.loads` makes one for each text."""
