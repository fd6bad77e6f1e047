"""CloudFormation: the account's stack, its bucket, and its instance profile."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from orchestrator.cloud.aws.errors import map_boto_errors
from orchestrator.cloud.aws.session import open_client, open_session
from orchestrator.errors import AccessError, CloudError, CredentialsError

DEFAULT_NAME = "pixel-orch"
"""Of the stack, its role and its instance profile."""
BOUNDARY = "pixel-orch-boundary"
"""The managed policy that bounds every role that `setup` makes; `infra/account/policies/boundary.json`."""
LIMIT_S = 900.0
NOT_MADE = ("REVIEW_IN_PROGRESS", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED")  # CloudFormation can only delete these
BATCH = 1000  # objects in one DeleteObjects


def _client(service: str, region: str | None, endpoint: Mapping[str, str] | None, profile: str | None) -> Any:
    with map_boto_errors("credentials"):
        session = open_session(profile, endpoint=endpoint)
        retries = {"mode": "standard", "total_max_attempts": 4}
        return open_client(session, service, region or "us-east-1", endpoint=endpoint, retries=retries, read_timeout=60)


def has_profile(name: str, *, endpoint: Mapping[str, str] | None = None, profile: str | None = None) -> bool:
    """Return whether there is an instance profile of that name; False also if the policy does not allow to ask."""
    try:
        with map_boto_errors(f"instance profile {name}"):
            _client("iam", None, endpoint, profile).get_instance_profile(InstanceProfileName=name)
    except CredentialsError:
        raise
    except AccessError:
        return False
    except CloudError as error:
        if error.code == "NoSuchEntity":
            return False
        raise
    return True


def _is_missing(error: CloudError) -> bool:
    """Return whether there is no such stack: CloudFormation has no code for that, only a ValidationError's text."""
    return error.code == "ValidationError" and "does not exist" in str(error)


@dataclass(frozen=True)
class StackEvent:
    """One line of a deployment: a resource, its state, and why it failed."""

    resource: str
    kind: str
    status: str
    reason: str


@dataclass(frozen=True)
class Contents:
    """What a bucket holds."""

    objects: int
    size_bytes: int


class Stack:
    """One CloudFormation stack and the bucket that belongs to it.

    Args:
        name: of the stack.
        region: where it is.
        endpoint, profile: as for `AwsCloud`.
        look_every_s: pause between two polls of a deployment.
    """

    def __init__(
        self,
        name: str,
        region: str,
        *,
        endpoint: Mapping[str, str] | None = None,
        profile: str | None = None,
        look_every_s: float = 3.0,
    ) -> None:
        self.name = name
        self.region = region
        self.look_every_s = look_every_s
        self._where = f"stack {name} in {region}"
        self._cloudformation = _client("cloudformation", region, endpoint, profile)
        self._ec2 = _client("ec2", region, endpoint, profile)
        self._s3 = _client("s3", region, endpoint, profile)
        self._sts = _client("sts", region, endpoint, profile)
        self._iam = _client("iam", region, endpoint, profile)

    # -- read

    def account(self) -> str:
        """Return the number of the account."""
        with map_boto_errors("caller identity"):
            return str(self._sts.get_caller_identity()["Account"])

    def default_vpc(self) -> str:
        """Return the id of the region's default VPC, "" if it has none."""
        with map_boto_errors(self._where):
            found = self._ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
        return str(found[0]["VpcId"]) if found else ""

    def describe(self) -> dict[str, Any] | None:
        """Return the stack as CloudFormation describes it; None if there is none."""
        try:
            with map_boto_errors(self._where):
                found = self._cloudformation.describe_stacks(StackName=self.name)["Stacks"]
        except CloudError as error:
            if _is_missing(error):
                return None
            raise
        return dict(found[0]) if found and found[0]["StackStatus"] != "DELETE_COMPLETE" else None

    def parameters(self) -> dict[str, str]:
        """Return the parameters that the stack was deployed with."""
        found = self.describe() or {}
        return {one["ParameterKey"]: one.get("ParameterValue", "") for one in found.get("Parameters", [])}

    def outputs(self) -> dict[str, str]:
        """Return the outputs of the stack: Bucket, InstanceProfile, SecurityGroup."""
        found = self.describe() or {}
        return {one["OutputKey"]: one["OutputValue"] for one in found.get("Outputs", [])}

    def resources(self) -> dict[str, str]:
        """Return the type of each resource of the stack, by its logical name."""
        with map_boto_errors(self._where):
            found = self._cloudformation.describe_stack_resources(StackName=self.name)["StackResources"]
        return {one["LogicalResourceId"]: one["ResourceType"] for one in found if "LogicalResourceId" in one}

    # -- change

    def _boundary_arn(self) -> str:
        with map_boto_errors("caller identity"):
            caller = str(self._sts.get_caller_identity()["Arn"])
        partition = caller.split(":")[1]
        return f"arn:{partition}:iam::{self.account()}:policy/{BOUNDARY}"

    def ensure_boundary(self, document: str) -> bool:
        """Make the permissions boundary of the stack's role unless it is there; return whether it was made.

        Whoever may change it is not bound by it: the policy of `setup` does not allow that.

        Raises:
            AccessError: it is not there, and these credentials may not make it.
        """
        arn = self._boundary_arn()
        try:
            with map_boto_errors(f"policy {BOUNDARY}"):
                self._iam.get_policy(PolicyArn=arn)
            return False
        except CloudError as error:
            if error.code != "NoSuchEntity":
                raise
        try:
            with map_boto_errors(f"policy {BOUNDARY}"):
                self._iam.create_policy(PolicyName=BOUNDARY, PolicyDocument=document)
        except CredentialsError:
            raise
        except AccessError as error:
            raise AccessError(
                f"the policy {BOUNDARY}, which bounds the role of the stack, is missing, and these credentials may not "
                f"make it; an administrator makes it once: aws iam create-policy --policy-name {BOUNDARY} "
                "--policy-document file://infra/account/policies/boundary.json",
                code=error.code,
            ) from error
        return True

    def delete_boundary(self) -> None:
        """Delete the boundary, unless another role has it or these credentials may not: it costs nothing."""
        with suppress(CloudError), map_boto_errors(f"policy {BOUNDARY}"):
            self._iam.delete_policy(PolicyArn=self._boundary_arn())

    def deploy(self, template: str, parameters: Mapping[str, str], tags: Mapping[str, str]) -> Iterator[StackEvent]:
        """Create or update the stack; yield its events. Without a change it yields none.

        Raises:
            CloudError: CloudFormation refused, or a resource failed; then the stack is rolled back.
        """
        request = {
            "StackName": self.name,
            "TemplateBody": template,
            "Parameters": [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
            "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
            "Capabilities": ["CAPABILITY_NAMED_IAM"],
        }
        before = self.describe()
        if before is not None and before["StackStatus"] in NOT_MADE:
            yield from self.delete()
            before = None
        seen = self._event_ids()
        try:
            with map_boto_errors(self._where):
                if before is None:
                    self._cloudformation.create_stack(**request)
                else:
                    self._cloudformation.update_stack(**request)
        except CloudError as error:
            if "No updates are to be performed" in str(error):
                return
            raise
        yield from self._follow(seen)

    def delete(self) -> Iterator[StackEvent]:
        """Delete the stack and its resources except the bucket; yield its events. No stack is no error."""
        found = self.describe()
        if found is None:
            return
        self.name, by_name = str(found["StackId"]), self.name  # a deleted stack is found by its id only
        try:
            seen = self._event_ids()
            with map_boto_errors(self._where):
                self._cloudformation.delete_stack(StackName=self.name)
            yield from self._follow(seen)
        finally:
            self.name = by_name

    def _event_ids(self) -> set[str]:
        return {str(raw["EventId"]) for raw in self._raw_events()}

    def _raw_events(self) -> list[dict[str, Any]]:
        """Return the events, oldest first; none without a stack."""
        try:
            with map_boto_errors(self._where):
                pages = self._cloudformation.get_paginator("describe_stack_events").paginate(StackName=self.name)
                found = [dict(raw) for page in pages for raw in page["StackEvents"]]
        except CloudError as error:
            if _is_missing(error):
                return []
            raise
        return found[::-1]

    def _follow(self, seen: set[str]) -> Iterator[StackEvent]:
        give_up_at = time.monotonic() + LIMIT_S
        failure = ""
        while True:
            status = self._status()
            for raw in self._raw_events():
                if raw["EventId"] in seen:
                    continue
                seen.add(raw["EventId"])
                event = StackEvent(
                    raw["LogicalResourceId"],
                    raw["ResourceType"],
                    raw["ResourceStatus"],
                    raw.get("ResourceStatusReason", ""),
                )
                if event.status.endswith("_FAILED") and not failure:
                    failure = f"{event.resource} ({event.kind}): {event.reason}"
                yield event
            if not status.endswith("_IN_PROGRESS"):
                break
            if time.monotonic() > give_up_at:
                raise CloudError(f"{self._where} is still {status} after {LIMIT_S:.0f} s; look at it in the console")
            time.sleep(self.look_every_s)
        if "ROLLBACK" in status or status.endswith("_FAILED"):
            raise CloudError(f"{self._where} is {status}: {failure or 'see its events in the console'}", code=status)

    def _status(self) -> str:
        try:
            with map_boto_errors(self._where):
                return str(self._cloudformation.describe_stacks(StackName=self.name)["Stacks"][0]["StackStatus"])
        except CloudError as error:
            if _is_missing(error):
                return "DELETE_COMPLETE"
            raise

    # -- the bucket

    def contents(self, bucket: str) -> Contents | None:
        """Return what a bucket holds; None if there is no such bucket of this account."""
        objects = size = 0
        try:
            with map_boto_errors(f"bucket {bucket}"):
                for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
                    for entry in page.get("Contents", []):
                        objects, size = objects + 1, size + int(entry["Size"])
        except CloudError as error:
            if error.code in ("NoSuchBucket", "404", "AccessDenied", "403"):
                return None
            raise
        return Contents(objects, size)

    def delete_bucket(self, bucket: str) -> None:
        """Delete a bucket with all objects, versions and unfinished uploads."""
        with map_boto_errors(f"bucket {bucket}"):
            for page in self._s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
                entries = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
                keys = [{"Key": entry["Key"], "VersionId": entry["VersionId"]} for entry in entries]
                for first in range(0, len(keys), BATCH):
                    self._s3.delete_objects(Bucket=bucket, Delete={"Objects": keys[first : first + BATCH]})
            for page in self._s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket):
                for upload in page.get("Uploads", []):
                    self._s3.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
            self._s3.delete_bucket(Bucket=bucket)
