"""moto's IAM: instance profiles and the policies of roles. moto's IAM is imported on first use."""

import json
from typing import Any

from infra.local.aws.moto_ec2 import ACCOUNT_ID


def _backend() -> Any:
    from moto.iam.models import iam_backends

    return iam_backends[ACCOUNT_ID]["aws"]


def has_profile(name: str) -> bool:
    """Whether IAM has an instance profile with that name."""
    return any(profile.name == name for profile in _backend().instance_profiles.values())


def is_empty() -> bool:
    """Whether IAM has no role and no instance profile."""
    iam = _backend()
    return not iam.get_roles() and not iam.instance_profiles


def role_policies(role_name: str) -> list[dict[str, Any]]:
    """Return the role's policy documents, inline and attached; an empty list for an unknown role."""
    role = next((role for role in _backend().get_roles() if role.name == role_name), None)
    if role is None:
        return []
    texts = [*role.policies.values(), *(policy.versions[-1].document for policy in role.managed_policies.values())]
    return [text if isinstance(text, dict) else json.loads(text) for text in texts]


def user_id(role_name: str, instance_id: str) -> str:
    """Return the `aws:userid` of an instance with that role; "" for an unknown role.

    IAM User Guide, "IAM JSON policy elements: Variables and tags": it is ROLE-ID:INSTANCE-ID.
    """
    role = next((role for role in _backend().get_roles() if role.name == role_name), None)
    return f"{role.id}:{instance_id}" if role is not None else ""


def boundary_of(role_name: str) -> dict[str, Any] | None:
    """Return the permissions boundary of a role, None if it has none; one that was deleted allows nothing."""
    role = next((role for role in _backend().get_roles() if role.name == role_name), None)
    arn = role.permissions_boundary_arn if role is not None else None
    if not arn:
        return None
    policy = _backend().managed_policies.get(arn)
    if policy is None:
        return {"Statement": []}
    document = policy.versions[-1].document
    return document if isinstance(document, dict) else dict(json.loads(document))
