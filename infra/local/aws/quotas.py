"""EC2's vCPU quotas by instance family and market, and the Service Quotas API.

Codes and names are those of "Amazon EC2 service quotas" and of answers of ListServiceQuotas in public code. A quota
counts the default vCPUs of instances that are pending, running or shutting down. A new AWS account has 0 for the GPU
families ("Spot Instance quotas", EC2 User Guide); the embedded account has PLENTY_VCPUS by default.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from infra.local.aws import spot_market
from infra.local.aws.wire import ApiError

PLENTY_VCPUS = 20_000.0
OPERATIONS = ("GetServiceQuota", "ListServiceQuotas", "GetAWSDefaultServiceQuota")


@dataclass(frozen=True)
class Quota:
    """One vCPU quota. `family` is its class in the AWS/Usage metrics; `market` is "spot" or "on-demand"."""

    code: str
    name: str
    family: str
    market: str


QUOTAS = (
    Quota("L-DB2E81BA", "Running On-Demand G and VT instances", "G", "on-demand"),
    Quota("L-417A185B", "Running On-Demand P instances", "P", "on-demand"),
    Quota("L-1216C47A", "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances", "Standard", "on-demand"),
    Quota("L-3819A6DF", "All G and VT Spot Instance Requests", "G", "spot"),
    Quota("L-7212CCBC", "All P4, P3 and P2 Spot Instance Requests", "P", "spot"),
    Quota("L-C4BD4855", "All P5 Spot Instance Requests", "P5", "spot"),
    Quota("L-34B43A08", "All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests", "Standard", "spot"),
)


def quota_for(instance_type: str, market_name: str) -> Quota:
    """Return the quota that counts an instance of that type ("p2.xlarge") and market ("spot" or "on-demand")."""
    letters = re.match(r"[a-z]+", instance_type)
    family = {"g": "G", "gr": "G", "vt": "G", "p": "P"}.get(letters[0] if letters else "", "Standard")
    if family == "P" and market_name == "spot" and instance_type.startswith("p5"):
        family = "P5"
    return next(quota for quota in QUOTAS if (quota.family, quota.market) == (family, market_name))


def find(code: str) -> Quota | None:
    """Return the quota with that code, or None."""
    return next((quota for quota in QUOTAS if quota.code == code), None)


class Account:
    """The quotas of one account: values by code and region, in vCPUs."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str | None], float] = {}

    def set(self, code: str, vcpus: float | None, region: str | None = None) -> None:
        """Set a quota for one region or (None) for all. `vcpus` None restores the default.

        Raises ValueError for an unknown code or a negative number.
        """
        if find(code) is None:
            raise ValueError(f"unknown quota {code!r}; known: {', '.join(quota.code for quota in QUOTAS)}")
        if vcpus is not None and not vcpus >= 0:
            raise ValueError(f"quota {code}: {vcpus!r} vCPUs is not valid; give a number of at least 0")
        if vcpus is None:
            self._values.pop((code, region), None)
        else:
            self._values[(code, region)] = float(vcpus)

    def clear(self) -> None:
        """Restore the default of all quotas."""
        self._values.clear()

    def described(self) -> list[dict[str, Any]]:
        """Return the quotas that were set: code, region (None: all), vcpus."""
        return [{"code": code, "region": region, "vcpus": n} for (code, region), n in self._values.items()]

    def value(self, code: str, region: str) -> float:
        """Return the number of vCPUs that the quota allows in the region."""
        everywhere = self._values.get((code, None), PLENTY_VCPUS)
        return self._values.get((code, region), everywhere)

    def has_room(self, quota: Quota, region: str, running: Iterable[tuple[str, str, str]], more_vcpus: int) -> bool:
        """Whether the quota allows `more_vcpus`; `running` has (type, market, region) of each counted instance."""
        used = sum(
            vcpus(instance_type)
            for instance_type, market_name, where in running
            if where == region and quota_for(instance_type, market_name) == quota
        )
        return used + more_vcpus <= self.value(quota.code, region)

    def answer(self, operation: str, request: dict[str, Any], region: str, account_id: str) -> dict[str, Any]:
        """Answer GetServiceQuota, ListServiceQuotas or GetAWSDefaultServiceQuota. Raises ApiError as the API does."""
        if request.get("ServiceCode") != "ec2":
            raise ApiError(
                "NoSuchResourceException", "The request failed because the specified service does not exist."
            )
        if operation == "ListServiceQuotas":
            asked = request.get("QuotaCode")
            chosen = [quota for quota in QUOTAS if asked in (None, quota.code)]
            first, size = int(request.get("NextToken") or 0), int(request.get("MaxResults") or 100)
            answer: dict[str, Any] = {
                "Quotas": [self._entry(quota, region, account_id) for quota in chosen[first : first + size]]
            }
            if first + size < len(chosen):
                answer["NextToken"] = str(first + size)
            return answer
        quota = find(str(request.get("QuotaCode")))
        if quota is None:
            raise ApiError("NoSuchResourceException", "The request failed because the specified quota does not exist.")
        entry = self._entry(quota, region, account_id)
        if operation == "GetAWSDefaultServiceQuota":
            entry["Value"] = 0.0 if quota.family != "Standard" else 5.0
        return {"Quota": entry}

    def _entry(self, quota: Quota, region: str, account_id: str) -> dict[str, Any]:
        return {
            "ServiceCode": "ec2",
            "ServiceName": "Amazon Elastic Compute Cloud (Amazon EC2)",
            "QuotaArn": f"arn:aws:servicequotas:{region}:{account_id}:ec2/{quota.code}",
            "QuotaCode": quota.code,
            "QuotaName": quota.name,
            "Value": self.value(quota.code, region),
            "Unit": "None",
            "Adjustable": True,
            "GlobalQuota": False,
            "UsageMetric": {
                "MetricNamespace": "AWS/Usage",
                "MetricName": "ResourceCount",
                "MetricDimensions": {
                    "Class": f"{quota.family}/{'Spot' if quota.market == 'spot' else 'OnDemand'}",
                    "Resource": "vCPU",
                    "Service": "EC2",
                    "Type": "Resource",
                },
                "MetricStatisticRecommendation": "Maximum",
            },
        }


def vcpus(instance_type: str) -> int:
    """Return the default number of vCPUs of a type. Raises KeyError for an unknown type."""
    return int(spot_market.load_pools()["types"][instance_type]["vcpus"])
