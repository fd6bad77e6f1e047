"""`--gpu T4`, `--gpu A10G:1`: from a GPU's name and a count to the instance types that have it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.errors import SpecError
from orchestrator.market import catalog
from orchestrator.market.catalog import InstanceType

MOST_GPUS = 999
_MAKERS = re.compile(r"^(nvidia|tesla|grid|geforce|quadro)")
_MEMORY = re.compile(r"[ -]\d+ ?GB$")


@dataclass(frozen=True)
class WithGpu:
    """The types that have a GPU, in the catalog's order, and those that are left out since AWS rents them no more."""

    names: tuple[str, ...]
    retired: tuple[str, ...] = ()

    @property
    def are_retired(self) -> bool:
        """Whether no other type has the GPU: then the retired ones are the answer."""
        return not self.names


def types_with(text: str, *, flag: str = "--gpu") -> WithGpu:
    """Return the types of `NAME[:COUNT]`, or of several with commas between them; a count that is missing is 1.

    A name is compared without its case, its maker and its punctuation. Without its memory it means all sizes: `A100` is
    both `A100-40GB` and `A100-80GB`.

    Raises:
        SpecError: there is no such GPU, or no type has that many; the message names what there is.
    """
    found: list[InstanceType] = []
    for part in text.split(","):
        found += _of(part.strip(), text, flag)
    names = dict.fromkeys(known.name for known in found if not known.is_retired)
    gone = dict.fromkeys(known.name for known in found if known.is_retired)
    return WithGpu(tuple(names), tuple(gone))


def any_types_with(text: str, *, flag: str = "--gpu") -> tuple[str, ...]:
    """Return the same for a table that rents nothing: retired types only where no other type has the GPU."""
    found = types_with(text, flag=flag)
    return found.names or found.retired


def rentable_with(text: str) -> tuple[str, ...]:
    """Return the types to rent.

    Raises:
        SpecError: AWS has retired all of them; the message names a replacement.
    """
    found = types_with(text)
    if found.are_retired:
        first = catalog.find(found.retired[0])
        raise SpecError(
            f"--gpu: {text} is in {', '.join(found.retired)} only, retired by AWS ({first.retired}); it cannot be "
            f"rented. Use --instance {first.replacement}, or --cloud local"
        )
    return found.names


def name_of(known: InstanceType) -> str:
    """Return how a person names a type's GPU: `T4`, `A100-80GB`."""
    return re.sub(r"^(GRID|Tesla) ", "", known.gpu).replace(" ", "-")


def _of(part: str, text: str, flag: str) -> Sequence[InstanceType]:
    name, colon, count_text = part.partition(":")
    key = _key(name)
    if not key:
        raise SpecError(f"{flag}: {text!r} names no GPU; give one, for example {flag} T4 or {flag} A10G:4")
    if colon and not (count_text.isascii() and count_text.isdigit() and 0 < int(count_text) <= MOST_GPUS):
        raise SpecError(f"{flag}: {part!r}: {count_text!r} is no number of GPUs; give for example {flag} {name}:1")
    count = int(count_text) if colon else 1
    same = [known for known in catalog.all_types() if key in (_key(known.gpu), _key(_without_memory(known.gpu)))]
    if not same:
        raise SpecError(f"{flag}: unknown GPU {name[:40]!r}; {_hint(key)}")
    fitting = [known for known in same if known.gpus == count]
    if not fitting:
        counts = ", ".join(f"{name}:{each}" for each in sorted({known.gpus for known in same}))
        raise SpecError(f"{flag}: no type has {count} of {name}; there are {counts}")
    return fitting


def _without_memory(name: str) -> str:
    return _MEMORY.sub("", name)


def _key(name: str) -> str:
    """Return a name as it is compared: `NVIDIA A100-80G` and `a100 80gb` are one."""
    key = re.sub(r"[^a-z0-9]", "", name.lower())
    while _MAKERS.match(key):
        key = _MAKERS.sub("", key)
    return re.sub(r"(?<=\d0)g$", "gb", key)


def _hint(key: str) -> str:
    names = list(dict.fromkeys(name_of(known) for known in catalog.all_types()))
    keys = {_key(name): name for name in names} | {_key(short): short for short in map(_without_memory, names)}
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.4)
    known = f"known: {', '.join(names)}"
    return f"did you mean {keys[near[0]]}? {known}" if near else known
