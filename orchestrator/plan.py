"""Pure: what was asked for, plus offers, gives the exact requests.

A dry run is this, printed; a launch is this, sent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.cloud import ATTEMPT_TAG, MANAGED_TAG, OWNER_TAG, RUN_TAG, Call, Offer
from orchestrator.spec import RunSpec

DISK_GIB = 100  # the Deep Learning AMI alone takes 65

LATER_GROUP = "<the security group made above>"
LATER_USER_DATA = "<cloud-config: host key, authorized key, shutdown timer>"


@dataclass(frozen=True)
class Plan:
    """What a launch will do: the offers in the order in which they are tried, and what is the same for all of them."""

    spec: RunSpec
    offers: tuple[Offer, ...]
    images: dict[str, str]  # AMI by region
    born_at: float  # tells two runs of one name apart
    home_id: str

    def door(self, region: str) -> Call:
        """Return the request for the security group. Its one rule admits SSH from the caller's address."""
        return Call(
            "CreateSecurityGroup",
            region,
            {
                "GroupName": f"pixel-orch-{self.spec.run}",
                "Description": "pixel-orch: SSH from the caller only",
                "TagSpecifications": [{"ResourceType": "security-group", "Tags": self._tags()}],
            },
        )

    def client_token(self, offer: Offer, attempt: int, turn: int) -> str:
        """Return the token of one request: the same for a repetition of it, another for any other."""
        pool = offer.pool
        text = f"{self.home_id}|{self.spec.run}|{self.born_at}|{attempt}|{pool}|{offer.market}|{turn}"
        return "po-" + hashlib.sha256(text.encode()).hexdigest()[:40]

    def launch(self, offer: Offer, attempt: int, turn: int, group: str, user_data: str) -> Call:
        """Return the RunInstances request for one offer."""
        parameters: dict[str, Any] = {
            "ImageId": self.images.get(offer.pool.region, "<the Deep Learning AMI>"),
            "InstanceType": offer.pool.instance_type,
            "MinCount": 1,
            "MaxCount": 1,
            "Placement": {"AvailabilityZone": offer.pool.zone},
            "SecurityGroupIds": [group],
            "ClientToken": self.client_token(offer, attempt, turn),
            "UserData": user_data,
            "InstanceInitiatedShutdownBehavior": "terminate",
            # IMDSv2 only: a request forged by a server-side program on the instance cannot read the role's credentials.
            "MetadataOptions": {"HttpTokens": "required", "HttpEndpoint": "enabled", "HttpPutResponseHopLimit": 1},
            "BlockDeviceMappings": [
                {
                    "DeviceName": "/dev/sda1",
                    "Ebs": {
                        "VolumeSize": DISK_GIB,
                        "VolumeType": "gp3",
                        "Encrypted": True,
                        "DeleteOnTermination": True,
                    },
                }
            ],
            "TagSpecifications": [
                {"ResourceType": kind, "Tags": self._tags(attempt)} for kind in ("instance", "volume")
            ],
        }
        if offer.market == "spot":
            options: dict[str, Any] = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
            if self.spec.max_price_usd_h is not None:
                options["MaxPrice"] = str(self.spec.max_price_usd_h)
            parameters["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": options}
        return Call("RunInstances", offer.pool.region, parameters)

    def calls(self) -> list[Call]:
        """Return the requests of a first attempt in the order in which they are sent.

        A launch is sent only if the one before it found no capacity.
        """
        regions = list(dict.fromkeys(offer.pool.region for offer in self.offers))
        launches = [self.launch(offer, 1, 1, LATER_GROUP, LATER_USER_DATA) for offer in self.offers]
        return [self.door(region) for region in regions] + launches

    def _tags(self, attempt: int | None = None) -> list[dict[str, str]]:
        tags = {
            MANAGED_TAG: "true",
            RUN_TAG: self.spec.run,
            OWNER_TAG: self.home_id,
            "Name": f"pixel-orch-{self.spec.run}",
        }
        if attempt is not None:
            tags[ATTEMPT_TAG] = str(attempt)
        return [{"Key": key, "Value": value} for key, value in tags.items()]


def user_data(host_key_private: str, host_key_public: str, authorized_key: str, shutdown_after_min: int) -> str:
    """Return the cloud-config of one instance.

    The host key is made by us, so that it is known before the first connection; it is the one secret that user-data
    holds. The shutdown timer ends the machine should we die before the agent runs; the agent, once it watches,
    cancels it.
    """
    config = {
        "ssh_deletekeys": True,
        "ssh_keys": {"ed25519_private": host_key_private, "ed25519_public": host_key_public},
        "ssh_authorized_keys": [authorized_key],
        "runcmd": [["shutdown", "-h", f"+{shutdown_after_min}"]],
    }
    return "#cloud-config\n" + json.dumps(config)


def cost_ceiling(offers: Sequence[Offer]) -> tuple[float, float]:
    """Return the lowest and the highest price per hour among the offers."""
    prices = [offer.price_usd_h for offer in offers]
    return min(prices), max(prices)
