"""Short names that stay apart: of long names, cut in the middle, those that differ still differ. Pure."""

from __future__ import annotations

from collections.abc import Sequence

LEAST_WIDTH = 8
GAP = "…"


def short_names(names: Sequence[str], width: int) -> list[str]:
    """Return the names, each of at most `width` letters; two names that differ are never cut to the same.

    A name that fits stays whole. Of a longer one the middle is left out. Where that makes two of them equal, the
    letters that are kept are those where the names begin to differ. Where even these do not tell them apart, they are
    numbered.

    Args:
        names: may hold a name several times; it has then the same short one.
        width: at least `LEAST_WIDTH`.
    """
    width = max(width, LEAST_WIDTH)
    whole = list(dict.fromkeys(names))
    taken = {name for name in whole if len(name) <= width}
    short = {name: name for name in taken}
    longer = [name for name in whole if name not in taken]
    for ways in (_both_ends, _where_they_differ, _numbered):
        tried = dict(zip(longer, ways(longer, width), strict=True))
        for name, text in tried.items():
            if text not in taken and list(tried.values()).count(text) == 1:
                short[name] = text
        taken |= set(short.values())
        longer = [name for name in longer if name not in short]
    for name in longer:  # a number that is the whole name of another
        short[name] = next(text for n in range(len(names) + 1) if (text := f"{GAP}#{n}") not in taken)
        taken.add(short[name])
    return [short[name] for name in names]


def _both_ends(names: Sequence[str], width: int) -> list[str]:
    """Cut the middle out: generated names differ at their end."""
    tail = width // 2
    return [f"{name[: width - tail - 1]}{GAP}{name[-tail:]}" for name in names]


def _where_they_differ(names: Sequence[str], width: int) -> list[str]:
    """Keep a beginning, and the letters from the place on where a name leaves the one that is most alike."""
    head = min(4, width // 3)
    found = []
    for name in names:
        place = max((_common(name, other) for other in names if other != name), default=0)
        room = width - head - 2
        first = max(min(place - 1, len(name) - room), 0)
        end = "" if first + room >= len(name) else GAP
        found.append(f"{name[:head]}{GAP}{name[first : first + room]}{end}"[:width])
    return found


def _common(one: str, other: str) -> int:
    """Return how many letters two names have in common from their beginning."""
    same = 0
    for mine, its in zip(one, other, strict=False):
        if mine != its:
            break
        same += 1
    return same


def _numbered(names: Sequence[str], width: int) -> list[str]:
    """Number them: what is left differs by more letters than there is room for."""
    found = []
    for number, name in enumerate(names, 1):
        mark = f"{GAP}#{number}"
        found.append(name[: max(width - len(mark), 0)] + mark)
    return found
