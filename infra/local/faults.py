"""The API faults that the embedded cloud can be told to answer, with EC2's own codes, texts and HTTP statuses.

A fault is a dict, matched on each call from the first in the list on:

    {"operation": "RunInstances", "error": "InsufficientInstanceCapacity", "zone": "us-east-1a", "times": 2}

`operation` and `error` are required; `zone`, `type` and `market` ("spot" or "on-demand") narrow a RunInstances fault
and are all if missing; `times` is how often it strikes (missing or null: always); `message` replaces EC2's text.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.local import market
from infra.local.wire import ApiError

# Codes, texts and statuses as EC2 was seen to give them in public issue threads (skypilot#656, ray#20774,
# hammertime#29), or as the EC2 API reference's list of error codes has them. InsufficientInstanceCapacity is a 500:
# SDKs retry it.
STATUS_AND_TEXT: dict[str, tuple[int, str]] = {
    "InsufficientInstanceCapacity": (
        500,
        "We currently do not have sufficient {type} capacity in the Availability Zone you requested ({zone}). Our"
        " system will be working on provisioning additional capacity. You can currently get {type} capacity by not"
        " specifying an Availability Zone in your request or choosing {others}.",
    ),
    "Unsupported": (
        400,
        "Your requested instance type ({type}) is not supported in your requested Availability Zone ({zone})."
        " Please retry your request by not specifying an Availability Zone or choosing {others}.",
    ),
    "VcpuLimitExceeded": (
        400,
        "You have requested more vCPU capacity than your current vCPU limit of {vcpu_limit} allows for the instance"
        " bucket that the specified instance type belongs to. Please visit"
        " http://aws.amazon.com/contact-us/ec2-request to request an adjustment to this limit.",
    ),
    "MaxSpotInstanceCountExceeded": (400, "Max spot instance count exceeded"),
    "SpotMaxPriceTooLow": (
        400,
        "Your Spot request price of {max_price} is lower than the minimum required Spot request fulfillment price of"
        " {spot_price}.",
    ),
    "RequestLimitExceeded": (503, "Request limit exceeded."),
    "UnauthorizedOperation": (
        403,
        "You are not authorized to perform this operation. User: arn:aws:iam::123456789012:user/embedded is not"
        " authorized to perform: ec2:{operation} because no identity-based policy allows the ec2:{operation} action.",
    ),
    "InsufficientFreeAddressesInSubnet": (400, "Not enough free addresses in subnet"),
    "InternalError": (500, "An internal error has occurred"),
}
NOT_IN_A_DRY_RUN = {
    "InsufficientInstanceCapacity",
    "Unsupported",
    "VcpuLimitExceeded",
    "MaxSpotInstanceCountExceeded",
    "SpotMaxPriceTooLow",
    "InsufficientFreeAddressesInSubnet",
}
"""A dry run asks for no capacity, so that none of these can be its answer."""
_KEYS = {"operation", "error", "zone", "type", "market", "times", "message"}


@dataclass(frozen=True)
class Call:
    """What a fault is matched on: the operation and, for RunInstances, the pool that was asked for."""

    operation: str
    zone: str | None = None
    type: str | None = None
    market: str | None = None
    max_price: str | None = None
    dry_run: bool = False


@dataclass
class Fault:
    """One fault; `times` counts down as it strikes, None is for ever."""

    operation: str
    error: str
    zone: str | None = None
    type: str | None = None
    market: str | None = None
    times: int | None = None
    message: str | None = None

    def matches(self, call: Call) -> bool:
        """Whether it strikes this call."""
        if self.operation != call.operation or self.times == 0:
            return False
        if call.dry_run and self.error in NOT_IN_A_DRY_RUN:
            return False
        return all(
            wanted is None or wanted == given
            for wanted, given in ((self.zone, call.zone), (self.type, call.type), (self.market, call.market))
        )


def parse_fault(raw: object) -> Fault:
    """A fault from its dict. Raises ValueError with one line that says what is wrong."""
    if not isinstance(raw, Mapping):
        raise ValueError(f"a fault is a mapping, not {type(raw).__name__}: {raw!r}")
    unknown = sorted(set(raw) - _KEYS, key=str)
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r} in fault {dict(raw)!r}; known: {', '.join(sorted(_KEYS))}")
    for key in ("operation", "error"):
        if not raw.get(key):
            raise ValueError(f"fault {dict(raw)!r} lacks {key!r}")
    for key in _KEYS - {"times"}:
        if raw.get(key) is not None and not isinstance(raw[key], str):
            raise ValueError(f"{key!r} in fault {dict(raw)!r} must be a string")
    if raw["error"] not in STATUS_AND_TEXT:
        raise ValueError(f"unknown error {raw['error']!r} in a fault; known: {', '.join(STATUS_AND_TEXT)}")
    if raw.get("market") not in (None, "spot", "on-demand"):
        raise ValueError(f"market {raw['market']!r} in a fault must be 'spot' or 'on-demand'")
    times = raw.get("times")
    if times is not None and (not isinstance(times, int) or isinstance(times, bool) or times < 1):
        raise ValueError(f"times {times!r} in a fault must be a whole number from 1 on, or null for always")
    return Fault(**{str(key): value for key, value in raw.items()})


def parse_faults(raw: object) -> list[Fault]:
    """Faults from a list of dicts. Raises ValueError as parse_fault does."""
    if not isinstance(raw, Sequence) or isinstance(raw, str | bytes):
        raise ValueError(f"faults are a list, not {type(raw).__name__}")
    return [parse_fault(item) for item in raw]


def load_faults(path: Path) -> list[dict[str, Any]]:
    """The faults of a JSON or YAML file (a list, or a mapping with the key `faults`), checked.

    Raises ValueError with one line that names the file and what is wrong, a file that cannot be read included.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
    raw = _parse_text(path, text)
    if isinstance(raw, Mapping):
        raw = raw.get("faults")
    try:
        parse_faults(raw)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return [dict(item) for item in raw]


def _parse_text(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as json_error:
        try:
            import yaml
        except ImportError:
            raise ValueError(f"{path}: is no JSON ({json_error}), and YAML needs the package pyyaml") from json_error
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"{path}: is neither JSON nor YAML: {' '.join(str(error).split())}") from error


class FaultList:
    """The faults in force."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Append one; those before it strike first."""
        self._faults.append(fault)

    def clear(self) -> None:
        """Forget all."""
        self._faults.clear()

    def strike(self, call: Call, only: Callable[[Fault], bool] = lambda _: True) -> None:
        """Raise the ApiError of the first fault that matches, and count it; return if none does."""
        for fault in self._faults:
            if only(fault) and fault.matches(call):
                if fault.times is not None:
                    fault.times -= 1
                raise api_error(fault.error, call, fault.message)


def api_error(
    code: str, call: Call, message: str | None = None, *, spot_usd_h: float | None = None, vcpu_limit: str = "0"
) -> ApiError:
    """EC2's answer for a code of STATUS_AND_TEXT, its text filled in from the call."""
    status, text = STATUS_AND_TEXT[code]
    offering = market.offering_zones(call.type or "", market.region_of(call.zone or ""))
    others = [zone for zone in offering if zone != call.zone]
    filled = text.format(
        operation=call.operation,
        type=call.type or "the requested",
        zone=call.zone or "any",
        others=", ".join(others) or "another region",
        vcpu_limit=vcpu_limit,
        max_price=call.max_price or "0.0010",
        spot_price=f"{spot_usd_h:.4f}" if spot_usd_h is not None else "0.2700",
    )
    return ApiError(code, message or filled, status)
