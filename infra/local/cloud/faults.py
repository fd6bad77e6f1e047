"""The grammar of faults that can be injected into the embedded cloud, from a YAML or JSON file or from Python.

A file is a list, or a mapping with `faults` (the list) and `seed`. An entry is one of three kinds:

    - {operation: RunInstances, error: InsufficientInstanceCapacity, zone: us-east-1a, times: 2}    # refuses calls
    - {event: interruption, type: p2.xlarge, after_s: 20, notice_s: 5, probability: 0.5}    # applies to instances
    - {state: quota, code: L-7212CCBC, vcpus: 0}    # takes effect at once

`region`, `zone`, `type` and `market` select calls and instances. Of the selected ones, the first `skip` pass, at most
`times` are affected, each with `probability`; the same `seed` gives the same sequence. infra/README.md has the table of
all faults; `table` generates it.
"""

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.local.aws import operations, quotas, spot_market
from infra.local.aws.errors import NOT_IN_A_DRY_RUN, STATUS_AND_TEXT, error_from
from infra.local.aws.wire import ApiError

WHERE = ("region", "zone", "type", "market")
LARGEST_FILE_BYTES = 256 << 10
DEEPEST = 8
HOW_OFTEN = ("times", "skip", "probability", "seed")
NUMBERS = {  # key -> smallest value
    "after_s": 0.0,
    "for_s": 0.0,
    "notice_s": 0.0,
    "boot_s": 0.0,
    "skew_s": float("-inf"),
    "after_bytes": 0.0,
    "count": 0.0,
    "vcpus": 0.0,
    "usd_h": 0.0,
    "factor": 0.0,
}


@dataclass(frozen=True)
class Shape:
    """The grammar of one kind of entry: its required keys, its optional keys, and its effect."""

    must: tuple[str, ...]
    may: tuple[str, ...]
    does: str


EVENTS: dict[str, Shape] = {
    "slow-boot": Shape(("boot_s",), (), "stays `pending` for `boot_s` seconds"),
    "failed-boot": Shape((), (), "ends from `pending` with Server.InternalError"),
    "not-found": Shape(("for_s",), (), "for `for_s` seconds after the launch no describe call returns it"),
    "interruption": Shape((), ("after_s", "notice_s"), "a spot interruption: notice, then termination"),
    "interruption-without-notice": Shape((), ("after_s",), "a spot interruption without a notice"),
    "notice-without-interruption": Shape((), ("after_s", "notice_s"), "a notice that no termination follows"),
    "rebalance": Shape((), ("after_s",), "a rebalance recommendation"),
    "frozen-host": Shape(
        (), ("after_s", "for_s"), "the host hangs (permanently without `for_s`): TCP connects, nothing answers"
    ),
    "cut-link": Shape(
        (),
        ("after_s", "for_s", "after_bytes"),
        "SSH connections are reset; none is accepted for `for_s` seconds; or the next one breaks after `after_bytes`",
    ),
    "full-disk": Shape((), ("after_s", "for_s"), "no file of its commands can grow (errno EFBIG, not ENOSPC)"),
    "wrong-host-key": Shape((), (), "its SSH server presents another host key than the one in user-data"),
    "clock-skew": Shape(("skew_s",), (), "its clock is `skew_s` ahead (behind if negative), for Python and `date`"),
}
STATES: dict[str, Shape] = {
    "capacity": Shape(("type", "zone", "count"), (), "the pool has room for `count` instances"),
    "quota": Shape(("code", "vcpus"), ("region",), "the vCPU quota allows `vcpus`"),
    "spot-price": Shape(
        (),
        ("type", "zone", "region", "usd_h", "factor", "after_s"),
        "after `after_s` the price is `usd_h`, or `factor` times the price before, at most the on-demand price."
        " Instances with a lower max price are interrupted",
    ),
    "no-cluster": Shape(("type",), (), "the type cannot be in a cluster placement group, as burstable types are"),
    "no-image": Shape((), ("region",), "the Deep Learning AMIs do not exist: parameter, image by name and by id"),
}


@dataclass(frozen=True)
class Call:
    """The attributes that faults are matched on: the operation and, for a launch, the requested pool."""

    operation: str
    zone: str | None = None
    type: str | None = None
    market: str | None = None
    max_price: str | None = None
    dry_run: bool = False
    region: str | None = None


@dataclass
class Fault:
    """One entry: `operation` and `error`, or `event`, or `state`. `struck` counts how often it was applied."""

    operation: str = ""
    error: str = ""
    event: str = ""
    state: str = ""
    region: str | None = None
    zone: str | None = None
    type: str | None = None
    market: str | None = None
    times: int | None = None
    skip: int = 0
    probability: float = 1.0
    seed: int | str = 0
    message: str | None = None
    served: bool = False
    numbers: dict[str, float] = field(default_factory=dict)
    code: str = ""
    struck: int = 0
    _seen: int = 0
    _random: random.Random | None = None

    @property
    def name(self) -> str:
        """Its name in the table."""
        return self.event or self.state or self.error

    def is_meant(self, call: Call) -> bool:
        """Whether the fault selects the call or the instance."""
        if call.dry_run and self.error in NOT_IN_A_DRY_RUN:
            return False
        region = call.region or (spot_market.region_of(call.zone) if call.zone else None)
        return self.operation == call.operation and all(
            wanted is None or wanted == given
            for wanted, given in (
                (self.region, region),
                (self.zone, call.zone),
                (self.type, call.type),
                (self.market, call.market),
            )
        )

    def strikes(self, call: Call) -> bool:
        """Whether the fault applies to this call or instance; counts it if so."""
        if not self.is_meant(call) or (self.times is not None and self.struck >= self.times):
            return False
        self._seen += 1
        if self._seen <= self.skip:
            return False
        if self._random is None:
            self._random = random.Random(f"{self.seed}/{self.operation}/{self.name}")  # noqa: S311 - not a secret
        if self._random.random() >= self.probability:
            return False
        self.struck += 1
        return True

    def get(self, key: str, otherwise: float = 0.0) -> float:
        """Return one of its numbers."""
        return self.numbers.get(key, otherwise)

    def described(self) -> dict[str, Any]:
        """Return its name, its match and its count, for the dump."""
        words = {"operation": self.operation, "zone": self.zone, "type": self.type, "market": self.market}
        return {"name": self.name, **{k: v for k, v in words.items() if v}, **self.numbers, "struck": self.struck}


# --- reading ---------------------------------------------------------------------------------------------------------


def parse_fault(raw: object) -> Fault:
    """Return a fault from a dict. Raises ValueError with one line that says what is wrong."""
    if not isinstance(raw, Mapping):
        raise ValueError(f"a fault must be a mapping, not {type(raw).__name__}: {raw!r}")
    entry = {str(key): value for key, value in raw.items()}
    kinds = [kind for kind in ("operation", "event", "state") if kind in entry]
    if len(kinds) != 1:
        raise ValueError(f"fault {entry!r} must have exactly one of 'operation', 'event' and 'state'")
    must, may = _keys(kinds[0], entry)
    known = {kinds[0], *must, *may}
    unknown = sorted(set(entry) - known)
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r} in fault {entry!r}; known: {', '.join(sorted(known))}")
    missing = [key for key in must if entry.get(key) is None]
    if missing:
        raise ValueError(f"fault {entry!r} lacks {missing[0]!r}")
    _check_words(entry)
    _check_numbers(entry)
    _check_places(entry)
    if "operation" in entry:
        operations.check(entry["operation"])
    fields = {key: value for key, value in entry.items() if key not in NUMBERS and value is not None}
    numbers = {key: float(value) for key, value in entry.items() if key in NUMBERS and value is not None}
    return Fault(**fields, numbers=numbers)


def _keys(kind: str, entry: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the required and the optional keys of an entry. Raises ValueError for an unknown name."""
    if kind == "operation":
        if entry.get("error") is not None and entry["error"] not in STATUS_AND_TEXT:
            raise ValueError(f"unknown error {entry['error']!r} in a fault; known: {', '.join(STATUS_AND_TEXT)}")
        return ("operation", "error"), (*WHERE, *HOW_OFTEN, "message", "served")
    shapes = EVENTS if kind == "event" else STATES
    shape = shapes.get(entry[kind]) if isinstance(entry[kind], str) else None
    if shape is None:
        raise ValueError(f"unknown {kind} {entry[kind]!r} in a fault; known: {', '.join(shapes)}")
    if entry[kind] == "spot-price" and ("usd_h" in entry) == ("factor" in entry):
        raise ValueError(f"fault {entry!r} must have exactly one of 'usd_h' and 'factor'")
    return shape.must, (*shape.may, *((*WHERE, *HOW_OFTEN) if kind == "event" else ("seed",)))


def _check_words(entry: dict[str, Any]) -> None:
    for key in ("operation", "error", *WHERE, "message", "code"):
        if entry.get(key) is not None and not isinstance(entry[key], str):
            raise ValueError(f"{key!r} in fault {entry!r} must be a string")
    if entry.get("market") not in (None, "spot", "on-demand"):
        raise ValueError(f"market {entry['market']!r} in a fault must be 'spot' or 'on-demand'")
    if not isinstance(entry.get("served", False), bool):
        raise ValueError(f"'served' in fault {entry!r} must be true or false")


def _check_numbers(entry: dict[str, Any]) -> None:
    for key, least in (("times", 1), ("skip", 0)):
        value = entry.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            hint = ", or null for no limit" if key == "times" else ""
            raise ValueError(f"{key} {value!r} in a fault must be a whole number of at least {least}{hint}")
    chance = entry.get("probability")
    if chance is not None and (not isinstance(chance, int | float) or isinstance(chance, bool) or not 0 <= chance <= 1):
        raise ValueError(f"probability {chance!r} in a fault must be a number from 0 to 1")
    for key, low in NUMBERS.items():
        value = entry.get(key)
        if value is None:
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not low <= value < float("inf"):
            raise ValueError(f"{key} {value!r} in a fault must be a number{'' if low < 0 else ' of at least 0'}")


def _check_places(entry: dict[str, Any]) -> None:
    """Refuse a region, zone, type or quota that does not exist: the fault would never apply."""
    every_zone = [zone for region in spot_market.regions() for zone in spot_market.zones(region)]
    for key, known in (("region", spot_market.regions()), ("zone", every_zone), ("type", spot_market.instance_types())):
        if entry.get(key) is not None and entry[key] not in known:
            raise ValueError(f"unknown {key} {entry[key]!r} in a fault; known: {', '.join(known)}")
    if entry.get("code") is not None and quotas.find(entry["code"]) is None:
        codes = ", ".join(quota.code for quota in quotas.QUOTAS)
        raise ValueError(f"unknown quota {entry['code']!r} in a fault; known: {codes}")


def parse_faults(raw: object) -> list[Fault]:
    """Return faults from a list of dicts. Raises ValueError as parse_fault does."""
    if not isinstance(raw, Sequence) or isinstance(raw, str | bytes):
        raise ValueError(f"faults must be a list, not {type(raw).__name__}")
    return [parse_fault(item) for item in raw]


def load_faults(path: Path) -> list[dict[str, Any]]:
    """Return the checked faults of a JSON or YAML file, each with its own seed or one derived from the file's.

    Raises ValueError with one line that names the file and the problem, also for a file that cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE_BYTES + 1)
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
    if len(data) > LARGEST_FILE_BYTES:
        raise ValueError(f"{path}: is larger than {LARGEST_FILE_BYTES >> 10} KiB")
    raw: Any = _parse_text(path, text)
    seed = None
    if isinstance(raw, Mapping):
        unknown = sorted(str(key) for key in set(raw) - {"faults", "seed"})
        if unknown:
            raise ValueError(f"{path}: unknown key {unknown[0]!r}; known: 'faults' and 'seed'")
        raw, seed = raw.get("faults"), raw.get("seed")
    try:
        parse_faults(raw)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    entries = [dict(item) for item in raw]
    return entries if seed is None else [{"seed": f"{seed}/{n}", **entry} for n, entry in enumerate(entries)]


def _parse_text(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{path}: lists inside of lists, too deep to read") from error
    except ValueError as json_error:
        try:
            import yaml
        except ImportError:
            raise ValueError(f"{path}: is not JSON ({json_error}); for YAML install pyyaml") from json_error
        try:
            depth = 0
            for event in yaml.parse(text, Loader=yaml.SafeLoader):
                depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
                if isinstance(event, yaml.AliasEvent) or depth > DEEPEST:  # a few lines could stand for any number
                    raise ValueError(f"{path}: has an alias, or lists inside of lists; write each fault out")
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"{path}: is neither JSON nor YAML: {' '.join(str(error).split())}") from error
        except (ArithmeticError, AttributeError, LookupError) as error:  # of a tag whose value is none: !!int x
            raise ValueError(f"{path}: has a value that YAML cannot read: {error}") from error


def table() -> str:
    """Return all faults as a Markdown table, which infra/README.md contains."""
    rows = ["| fault | keys | what it does |", "|---|---|---|"]
    where, often = ", ".join(f"`{key}`" for key in WHERE), ", ".join(f"`{key}`" for key in HOW_OFTEN)
    rows.append(
        f"| `operation`: an API call, with `error`: a code | {where}, {often}, `message`, `served` | refuses the"
        " call with AWS's own text and status; with `served: true` the call is executed and only its answer is lost |"
    )
    for kind, shapes in (("event", EVENTS), ("state", STATES)):
        for name, shape in shapes.items():
            keys = [f"`{key}`" for key in shape.must] + [f"[`{key}`]" for key in shape.may]
            more = f"{', '.join(keys)}{', ' if keys else ''}match and count" if kind == "event" else ", ".join(keys)
            rows.append(f"| `{kind}: {name}` | {more} | {shape.does} |")
    codes = ", ".join(f"`{code}`" for code in STATUS_AND_TEXT)
    return "\n".join([*rows, "", f"Error codes: {codes}."])


# --- striking --------------------------------------------------------------------------------------------------------


class FaultList:
    """The active faults: refusals of calls, and events of instances."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Append a fault; earlier ones take precedence."""
        self._faults.append(fault)

    def clear(self) -> None:
        """Remove all faults."""
        self._faults.clear()

    def all(self) -> list[Fault]:
        """Return the active faults in order."""
        return list(self._faults)

    def strike(self, call: Call, only: Callable[[Fault], bool] = lambda _: True, *, served: bool = False) -> None:
        """Raise the ApiError of the first fault that applies to this call; return if none does.

        Called twice for each call: before its execution, and with `served` after it, for faults that lose the answer.
        """
        for fault in self._faults:
            if fault.operation and fault.served == served and only(fault) and fault.strikes(call):
                raise api_error(fault.error, call, fault.message)

    def strike_instance(self, instance: Call) -> Iterable[Fault]:
        """Return the events that apply to a new instance, and count them."""
        return [fault for fault in self._faults if fault.event and fault.strikes(instance)]


def api_error(
    code: str, call: Call, message: str | None = None, *, spot_usd_h: float | None = None, vcpu_limit: str = "0"
) -> ApiError:
    """Return AWS's error for a code, with its text filled in from the call."""
    values = {
        "operation": call.operation,
        "type": call.type or "",
        "zone": call.zone or "",
        "vcpu_limit": vcpu_limit,
        "max_price": call.max_price or "",
        **({} if spot_usd_h is None else {"spot_price": f"{spot_usd_h:.4f}"}),
    }
    return error_from(code, values, message)
