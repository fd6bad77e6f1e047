"""The Price List API: GetProducts for AmazonEC2 with the on-demand prices of the recorded pools. Reads the pool file
only.

The formats are those of "Using the AWS Price List Query API" (AWS Billing User Guide) and of recorded answers in the
tests of public price tools. As on AWS, each entry is a string of JSON, and each type has three rows: `capacitystatus`
Used is the price of a running instance, the two others are for capacity reservations and must be filtered out. Retired
types (g2, p2, p3) are listed: a price does not imply availability.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from infra.local.aws import spot_market
from infra.local.aws.wire import ApiError

ENDPOINTS = ("us-east-1", "eu-central-1", "ap-south-1")
"""The only regions that have an endpoint of this API."""
_LOCATIONS = {
    "us-east-1": "US East (N. Virginia)",
    "us-west-2": "US West (Oregon)",
    "ap-northeast-1": "Asia Pacific (Tokyo)",
}
_USAGE_PREFIX = {"us-east-1": "", "us-west-2": "USW2-", "ap-northeast-1": "APN1-"}  # us-east-1 has no prefix
_CAPACITY = {
    "Used": "BoxUsage",
    "UnusedCapacityReservation": "UnusedBox",
    "AllocatedCapacityReservation": "Reservation",
}
_OFFER_TERM, _RATE = "JRTCKXETXF", "6YS6EN2CT7"  # AWS's codes for on-demand and for an hour
_PUBLISHED = "2026-11-20T00:00:00Z"
_MOST_ROWS = 100


def get_products(request: dict[str, Any]) -> dict[str, Any]:
    """Return one page of GetProducts. Raises ApiError with the API's error."""
    service = request.get("ServiceCode")
    if not service:
        raise ApiError("InvalidParameterException", "ServiceCode is required")
    if service != "AmazonEC2":
        raise ApiError("NotFoundException", f"The embedded cloud has a price list for AmazonEC2 only, not '{service}'")
    filters = [_checked(one) for one in request.get("Filters") or []]
    rows = [row for row in _rows() if all(_matches(row["product"]["attributes"], one) for one in filters)]
    first = _offset(request.get("NextToken"))
    size = request.get("MaxResults") or _MOST_ROWS
    if not isinstance(size, int) or not 1 <= size <= _MOST_ROWS:
        raise ApiError("InvalidParameterException", f"MaxResults must be from 1 to {_MOST_ROWS}")
    answer: dict[str, Any] = {
        "FormatVersion": "aws_v1",
        "PriceList": [json.dumps(row) for row in rows[first : first + size]],
    }
    if first + size < len(rows):
        answer["NextToken"] = f"po{first + size}"
    return answer


def _checked(one: Any) -> dict[str, str]:
    if not isinstance(one, dict) or not all(one.get(key) for key in ("Type", "Field", "Value")):
        raise ApiError("InvalidParameterException", "A filter needs Type, Field and Value")
    if one["Type"] not in ("TERM_MATCH", "EQUALS", "CONTAINS", "ANY_OF", "NONE_OF"):
        raise ApiError("InvalidParameterException", f"Unknown filter type '{one['Type']}'")
    return {key: str(value) for key, value in one.items()}


def _matches(attributes: dict[str, str], one: dict[str, str]) -> bool:
    """Whether a product matches a filter. As on AWS, a field that the product does not have matches no filter."""
    value = attributes.get(one["Field"])
    if value is None:
        return False
    wanted = one["Value"]
    if one["Type"] == "CONTAINS":
        return wanted.lower() in value.lower()
    if one["Type"] in ("ANY_OF", "NONE_OF"):
        return (value in wanted.split(",")) == (one["Type"] == "ANY_OF")
    return value.lower() == wanted.lower()


def _offset(token: Any) -> int:
    text = str(token or "po0")
    if not text.startswith("po") or not text[2:].isdigit():
        raise ApiError("InvalidNextTokenException", "The pagination token is invalid")
    return int(text[2:])


def _rows() -> Iterator[dict[str, Any]]:
    for name in spot_market.instance_types():
        for region in spot_market.regions():
            if spot_market.offering_zones(name, region):
                for capacity in _CAPACITY:
                    yield _row(name, region, capacity)


def _row(name: str, region: str, capacity: str) -> dict[str, Any]:
    usage = f"{_USAGE_PREFIX[region]}{_CAPACITY[capacity]}:{name}"
    sku = hashlib.sha256(f"{usage}|Linux|Shared".encode()).hexdigest()[:16].upper()
    usd_h = 0.0 if capacity == "AllocatedCapacityReservation" else spot_market.on_demand_usd_h(name, region)
    term, rate = f"{sku}.{_OFFER_TERM}", f"{sku}.{_OFFER_TERM}.{_RATE}"
    dimension = {
        "unit": "Hrs",
        "beginRange": "0",
        "endRange": "Inf",
        "description": f"${usd_h:g} per On Demand Linux {name} Instance Hour",
        "appliesTo": [],
        "rateCode": rate,
        "pricePerUnit": {"USD": f"{usd_h:.10f}"},
    }
    on_demand = {
        "sku": sku,
        "offerTermCode": _OFFER_TERM,
        "effectiveDate": "2026-11-01T00:00:00Z",
        "termAttributes": {},
        "priceDimensions": {rate: dimension},
    }
    return {
        "product": {
            "productFamily": "Compute Instance",
            "sku": sku,
            "attributes": {**_hardware(name), **_placement(region), "usagetype": usage, "capacitystatus": capacity},
        },
        "serviceCode": "AmazonEC2",
        "terms": {"OnDemand": {term: on_demand}},
        "version": "20261120000000",
        "publicationDate": _PUBLISHED,
    }


def _hardware(name: str) -> dict[str, str]:
    known = spot_market.load_pools()["types"][name]
    return {
        "instanceType": name,
        "instanceFamily": "GPU instance",
        "currentGeneration": "Yes" if known["current_generation"] else "No",
        "vcpu": str(known["vcpus"]),
        "memory": f"{known['memory_mib'] / 1024:g} GiB",
        "gpu": str(known["gpu"]["count"]),
        "gpuMemory": f"{known['gpu']['count'] * known['gpu']['memory_mib'] / 1024:g} GB",
        "processorArchitecture": "64-bit",
    }


def _placement(region: str) -> dict[str, str]:
    return {
        "servicecode": "AmazonEC2",
        "servicename": "Amazon Elastic Compute Cloud",
        "location": _LOCATIONS[region],
        "locationType": "AWS Region",
        "regionCode": region,
        "operatingSystem": "Linux",
        "preInstalledSw": "NA",
        "licenseModel": "No License required",
        "tenancy": "Shared",
        "operation": "RunInstances",
        "marketoption": "OnDemand",
    }
