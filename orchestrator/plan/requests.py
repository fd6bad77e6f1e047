"""The plan of a run, and the exact requests that follow from it. Pure: a dry run prints them, a launch sends them."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from orchestrator.cloud.base import ATTEMPT_TAG, MANAGED_TAG, OWNER_TAG, RUN_TAG, Call, Image, Network, admission
from orchestrator.market.pools import Offer, Pool
from orchestrator.runs.spec import RunSpec

LATER_GROUP = "<the security group made above>"
OWN_ADDRESS = "<this machine's address>"
LATER_USER_DATA = "<cloud-config: host key, authorized key, guard>"
NOBODY = "none"  # --ssh-cidr none: no rule, for SSH through SSM


def login_user(spec: RunSpec, image: Image) -> str:
    """Return who logs in on an image: who was asked for, else the image's own user."""
    return spec.login_user or image.login_user


def root_disk_gib(spec: RunSpec, image: Image) -> int:
    """Return the size of the root disk: what was asked for, but not less than the image needs."""
    return max(spec.disk_gib, image.least_disk_gib)


@dataclass(frozen=True)
class Plan:
    """What a launch does: the offers in the order in which they are tried, and what they share."""

    spec: RunSpec
    offers: tuple[Offer, ...]
    images: Mapping[str, Image]  # by region
    born_at: float  # part of the client tokens: two runs may have had one name
    home_id: str
    networks: Mapping[str, Network] = field(default_factory=dict)  # by region
    images_per_s: Mapping[str, float] = field(default_factory=dict)  # by type, measured; empty: ranked by price
    on_demand: tuple[Offer, ...] = ()  # beside the spot offers, for a run with a deadline
    cluster_types: frozenset[str] = frozenset()  # that can be put into a cluster placement group

    @property
    def is_ranked_by_value(self) -> bool:
        """Whether the offers are in the order of measured dollars per image: every type was measured."""
        return bool(self.images_per_s) and all(offer.pool.instance_type in self.images_per_s for offer in self.offers)

    def image(self, region: str) -> Image:
        """Return the image that instances of that region start from; an empty one if the plan has none."""
        return self.images.get(region, Image(""))

    def disk_gib(self, region: str) -> int:
        """Return the size of the root disk of instances of that region."""
        return root_disk_gib(self.spec, self.image(region))

    def security_group(self, region: str) -> Call:
        """Return the request for the security group."""
        parameters: dict[str, Any] = {
            "GroupName": f"pixel-orch-{self.spec.run}",
            "Description": "pixel-orch: SSH from the caller only",
            "TagSpecifications": [{"ResourceType": "security-group", "Tags": self._tags()}],
        }
        if self._network(region).vpc_id:
            parameters["VpcId"] = self._network(region).vpc_id
        return Call("CreateSecurityGroup", region, parameters)

    def placement_group_name(self, pool: Pool) -> str:
        """Return the name of the cluster placement group of the run's machines in a pool; of another zone another."""
        return f"pixel-orch-{self.spec.run}-{self.home_id}-{pool.instance_type}-{pool.zone}"

    def placement_group(self, pool: Pool) -> Call:
        """Return the request for it.

        Inside of a cluster placement group one TCP connection may carry 10 Gbit/s, outside of it 5
        (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-network-bandwidth.html).
        """
        parameters = {
            "GroupName": self.placement_group_name(pool),
            "Strategy": "cluster",
            "TagSpecifications": [{"ResourceType": "placement-group", "Tags": self._tags()}],
        }
        return Call("CreatePlacementGroup", pool.region, parameters)

    def client_token(self, offer: Offer, attempt: int, turn: int, count: int = 1) -> str:
        """Return the token of one request: a repetition has the same one, any other request another."""
        pool = offer.pool
        text = f"{self.home_id}|{self.spec.run}|{self.born_at}|{attempt}|{pool}|{offer.market}|{turn}"
        text += f"|{count}" if count > 1 else ""
        return "po-" + hashlib.sha256(text.encode()).hexdigest()[:40]

    def launch(
        self,
        offer: Offer,
        attempt: int,
        turn: int,
        group: str,
        user_data: str,
        *,
        count: int = 1,
        is_placed: bool = False,
    ) -> Call:
        """Return the RunInstances request for one offer.

        Args:
            offer: the pool and the market.
            attempt: its number; with several instances that of the first.
            turn: the number of the request among those for this attempt.
            group: the security group's id.
            user_data: the cloud-config; all instances of the request have the same.
            count: instances, all or none.
            is_placed: whether they are put into the placement group of the pool.
        """
        parameters: dict[str, Any] = {
            "InstanceType": offer.pool.instance_type,
            "MinCount": count,
            "MaxCount": count,
            "ClientToken": self.client_token(offer, attempt, turn, count),
            **self._common(offer.pool.region, attempt, group, user_data),
            "TagSpecifications": self._tag_specifications(attempt),
        }
        subnet = self._network(offer.pool.region).subnets.get(offer.pool.zone)
        if subnet is None:
            parameters["Placement"] = {"AvailabilityZone": offer.pool.zone}
        elif "NetworkInterfaces" in parameters:
            parameters["NetworkInterfaces"][0]["SubnetId"] = subnet
        else:
            parameters["SubnetId"] = subnet
        if is_placed:
            placement = parameters.get("Placement", {})
            parameters["Placement"] = {**placement, "GroupName": self.placement_group_name(offer.pool)}
        if offer.market == "spot":
            options: dict[str, Any] = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
            if self.spec.max_price_usd_h is not None:
                options["MaxPrice"] = str(self.spec.max_price_usd_h)
            parameters["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": options}
        return Call("RunInstances", offer.pool.region, parameters)

    def fleet(self, offers: Sequence[Offer], attempt: int, turn: int, group: str, user_data: str) -> tuple[Call, Call]:
        """Return (CreateLaunchTemplate, CreateFleet) for offers of one region and market: EC2 chooses among them.

        An `instant` fleet answers at once, with what it started and what each pool refused, and needs no deletion
        afterwards (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instant-fleet.html).
        """
        region, market = offers[0].pool.region, offers[0].market
        name = f"pixel-orch-{self.spec.run}-{self.home_id}-{attempt}-{turn}"  # two homes may have a run of one name
        common = self._common(region, attempt, group, user_data)
        common["UserData"] = base64.b64encode(user_data.encode()).decode()  # boto3 encodes it for RunInstances
        template = Call(
            "CreateLaunchTemplate",
            region,
            {
                "LaunchTemplateName": name,
                "LaunchTemplateData": {**common, "TagSpecifications": self._tag_specifications(attempt)},
                "TagSpecifications": [{"ResourceType": "launch-template", "Tags": self._tags(attempt)}],
            },
        )
        config = {
            "LaunchTemplateSpecification": {"LaunchTemplateName": name, "Version": "$Latest"},
            "Overrides": [self._override(offer) for offer in offers],
        }
        parameters: dict[str, Any] = {
            "Type": "instant",
            "ClientToken": self.fleet_token(region, market, attempt, turn),
            "LaunchTemplateConfigs": [config],
            "TargetCapacitySpecification": {"TotalTargetCapacity": 1, "DefaultTargetCapacityType": market},
            "TagSpecifications": [{"ResourceType": "fleet", "Tags": self._tags(attempt)}],
        }
        if market == "spot":
            parameters["SpotOptions"] = {
                "AllocationStrategy": "price-capacity-optimized",
                "InstanceInterruptionBehavior": "terminate",
            }
        else:
            parameters["OnDemandOptions"] = {"AllocationStrategy": "lowest-price"}
        return template, Call("CreateFleet", region, parameters)

    def _override(self, offer: Offer) -> dict[str, Any]:
        override: dict[str, Any] = {"InstanceType": offer.pool.instance_type}
        subnet = self._network(offer.pool.region).subnets.get(offer.pool.zone)
        if subnet is None:
            override["AvailabilityZone"] = offer.pool.zone
        else:
            override["SubnetId"] = subnet
        if offer.market == "spot" and self.spec.max_price_usd_h is not None:
            override["MaxPrice"] = str(self.spec.max_price_usd_h)
        return override

    def fleet_token(self, region: str, market: str, attempt: int, turn: int) -> str:
        """Return the token of one CreateFleet."""
        text = f"{self.home_id}|{self.spec.run}|{self.born_at}|{attempt}|{region}|{market}|fleet|{turn}"
        return "po-" + hashlib.sha256(text.encode()).hexdigest()[:40]

    def _common(self, region: str, attempt: int, group: str, user_data: str) -> dict[str, Any]:
        image = self.images.get(region, Image("<the Deep Learning AMI>"))
        common: dict[str, Any] = {
            "ImageId": image.image_id,
            "UserData": user_data,
            "InstanceInitiatedShutdownBehavior": "terminate",
            # IMDSv2 only: a forged request (SSRF) on the instance cannot read the role's credentials.
            "MetadataOptions": {"HttpTokens": "required", "HttpEndpoint": "enabled", "HttpPutResponseHopLimit": 1},
            "BlockDeviceMappings": [
                {
                    "DeviceName": image.root_device,
                    "Ebs": {
                        "VolumeSize": self.disk_gib(region),
                        "VolumeType": "gp3",
                        "Encrypted": True,
                        "DeleteOnTermination": True,
                    },
                }
            ],
        }
        if self.spec.instance_profile is not None:
            common["IamInstanceProfile"] = {"Name": self.spec.instance_profile}
        if self.spec.is_private or self._network(region).subnets:  # only a default subnet assigns a public address
            is_public = not self.spec.is_private
            interface = {"DeviceIndex": 0, "AssociatePublicIpAddress": is_public, "Groups": [group]}
            return {**common, "NetworkInterfaces": [interface]}
        return {**common, "SecurityGroupIds": [group]}

    def _tag_specifications(self, attempt: int) -> list[dict[str, Any]]:
        return [{"ResourceType": kind, "Tags": self._tags(attempt)} for kind in ("instance", "volume")]

    def _network(self, region: str) -> Network:
        return self.networks.get(region, Network())

    def calls(self, cidr: str = OWN_ADDRESS) -> list[Call]:
        """Return the requests of a first attempt in the order in which they are sent, without those that only read.

        A RunInstances is sent only if the one before it found no capacity.

        Args:
            cidr: our public address; may connect unless the spec names a network.
        """
        regions = list(dict.fromkeys(offer.pool.region for offer in self.offers))
        groups: list[Call] = []
        for region in regions:
            groups.append(self.security_group(region))
            admitted = self.spec.ssh_cidr or cidr
            if admitted != NOBODY:
                groups.append(admission(region, LATER_GROUP, admitted))
        if self.spec.strategy == "price":
            return groups + self._launches()
        fleets: list[Call] = []
        for region in regions:
            there = [offer for offer in self.offers if offer.pool.region == region]
            template, fleet = self.fleet(there, 1, 1, LATER_GROUP, LATER_USER_DATA)
            template.parameters["LaunchTemplateData"]["UserData"] = LATER_USER_DATA
            name = {"LaunchTemplateName": template.parameters["LaunchTemplateName"]}
            fleets += [template, fleet, Call("DeleteLaunchTemplate", region, name)]
        return groups + fleets

    def _launches(self) -> list[Call]:
        """Return the RunInstances of a first attempt, each after the request for its placement group."""
        count = self.spec.group.max_nodes
        calls = []
        for offer in self.offers:
            is_placed = self.spec.is_group and offer.pool.instance_type in self.cluster_types
            calls += [self.placement_group(offer.pool)] if is_placed else []
            launch = self.launch(offer, 1, 1, LATER_GROUP, LATER_USER_DATA, count=count, is_placed=is_placed)
            calls.append(launch)
        return calls

    def _tags(self, attempt: int | None = None) -> list[dict[str, str]]:
        tags = {
            **self.spec.tags,
            MANAGED_TAG: "true",
            RUN_TAG: self.spec.run,
            OWNER_TAG: self.home_id,
            "Name": f"pixel-orch-{self.spec.run}",
        }
        if attempt is not None:
            tags[ATTEMPT_TAG] = str(attempt)
        return [{"Key": key, "Value": value} for key, value in tags.items()]


def user_data(
    host_key_private: str, host_key_public: str, authorized_key: str, alone_min: int, most_min: int = 0
) -> str:
    """Return the cloud-config of one instance.

    The host key is generated here, so that it is known before the first connection; it is the only secret in the
    user-data. The guard (`infra/instance/guard.sh`) terminates the instance if this process dies before the agent
    runs, or if the agent dies.

    Args:
        host_key_private: in OpenSSH's format.
        host_key_public: its public half.
        authorized_key: the public key that may log in.
        alone_min: minutes without a sign of life after which the instance terminates.
        most_min: minutes after which it terminates even if a long set-up asked for more; 0: no such limit.
    """
    guard = resources.files("infra.instance").joinpath("guard.sh").read_text()
    config = {
        "ssh_deletekeys": True,
        "ssh_keys": {"ed25519_private": host_key_private, "ed25519_public": host_key_public},
        "ssh_authorized_keys": [authorized_key],
        "bootcmd": [["sh", "-c", guard, "pixel-orch-guard", str(alone_min), str(most_min)]],
    }
    return "#cloud-config\n" + json.dumps(config)


def cost_ceiling(offers: Sequence[Offer]) -> tuple[float, float]:
    """Return the lowest and the highest price per hour among the offers."""
    prices = [offer.price_usd_h for offer in offers]
    return min(prices), max(prices)
