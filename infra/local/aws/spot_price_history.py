"""DescribeSpotPriceHistory from the spot market's price changes (EC2 API reference: DescribeSpotPriceHistory)."""

import re
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timezone

from infra.local.aws import spot_market
from infra.local.aws.wire import ApiError, Form, Reply, Xml, xml_reply

PRODUCT = "Linux/UNIX"
_PRODUCTS = {PRODUCT, "Linux/UNIX (Amazon VPC)"}
_PAGE = 1000
History = Callable[[str, str, float, float], Iterable[spot_market.PriceChange]]
_FILTERS = {"availability-zone", "instance-type", "product-description", "spot-price", "timestamp"}


def describe_spot_price_history(
    region: str, form: Form, now: float | None = None, history: History = spot_market.history
) -> Reply:
    """Return one page, newest first: the changes in the window, and for each pool the last one before it."""
    now = time.time() if now is None else now
    filters = form.filters()
    for name in filters:
        if name not in _FILTERS:
            raise ApiError("InvalidParameterValue", f"The filter '{name}' is invalid")
    start = max(_time(form, "StartTime", now - spot_market.HISTORY_S), now - spot_market.HISTORY_S)
    end = min(_time(form, "EndTime", now), now)
    zones = spot_market.zones(region)
    changes = [
        change
        for instance_type in _wanted(
            form.numbered("InstanceType"), filters.get("instance-type"), spot_market.instance_types()
        )
        for zone in _wanted(_one(form.get("AvailabilityZone")), filters.get("availability-zone"), zones)
        for change in history(instance_type, zone, start, end)
        if _matches(f"{change.usd_h:.6f}", filters.get("spot-price"))
        and _matches(_iso(change.time), filters.get("timestamp"))
    ]
    products = _wanted(form.numbered("ProductDescription"), filters.get("product-description"), sorted(_PRODUCTS))
    if not products:
        changes = []
    changes.sort(key=lambda change: (-change.time, change.instance_type, change.zone))
    page, token = _page(len(changes), form)
    rows: list[Xml] = [
        {
            "instanceType": change.instance_type,
            "productDescription": PRODUCT,
            "spotPrice": f"{change.usd_h:.6f}",
            "timestamp": _iso(change.time),
            "availabilityZone": change.zone,
        }
        for change in changes[page]
    ]
    return xml_reply("DescribeSpotPriceHistory", {"spotPriceHistorySet": rows, "nextToken": token})


def _page(total: int, form: Form) -> tuple[slice, str]:
    """Return the rows and the token of the next page ("" on the last). EC2's token is opaque; this one is an offset."""
    token = form.get("NextToken") or "0"
    if not token.isdigit():
        raise ApiError("InvalidNextToken", "The NextToken is invalid")
    try:
        size = int(form.get("MaxResults") or _PAGE)
    except ValueError:
        raise ApiError("InvalidParameterValue", "MaxResults must be a whole number") from None
    first = int(token)
    last = first + max(1, min(size, _PAGE))
    return slice(first, last), str(last) if last < total else ""


def _one(value: str | None) -> list[str]:
    return [value] if value is not None else []


def _wanted(asked: list[str], filtered: list[str] | None, known: list[str]) -> list[str]:
    return [name for name in known if (not asked or name in asked) and _matches(name, filtered)]


def _matches(value: str, patterns: list[str] | None) -> bool:
    """Whether one of the filter's values matches; * and ? are wildcards."""
    if patterns is None:
        return True
    return any(
        re.fullmatch(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), value) is not None
        for pattern in patterns
    )


def _iso(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _time(form: Form, name: str, otherwise: float) -> float:
    text = form.get(name)
    if text is None:
        return otherwise
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise ApiError("InvalidParameterValue", f"Invalid value '{text}' for {name}.") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
