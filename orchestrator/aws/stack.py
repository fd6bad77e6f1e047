"""CloudFormation: the stack of what stands between runs, and the questions that others ask about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import boto3
from botocore.config import Config

from orchestrator.aws.errors import at_the_sill
from orchestrator.errors import AccessError, CloudError

DEFAULT_NAME = "pixel-orch"
"""Of the stack, its role and its instance profile."""


def _client(service: str, region: str | None, endpoint: Mapping[str, str] | None, profile: str | None) -> Any:
    session = boto3.session.Session(profile_name=profile)
    config = Config(
        retries={"mode": "standard", "total_max_attempts": 4}, read_timeout=60, user_agent_extra="pixel-orch"
    )
    return session.client(service, region_name=region or "us-east-1", config=config, **dict(endpoint or {}))


def has_profile(name: str, *, endpoint: Mapping[str, str] | None = None, profile: str | None = None) -> bool:
    """Return whether there is an instance profile of that name; False also if we may not know."""
    try:
        with at_the_sill(f"instance profile {name}"):
            _client("iam", None, endpoint, profile).get_instance_profile(InstanceProfileName=name)
    except AccessError:
        return False
    except CloudError as error:
        if error.code == "NoSuchEntity":
            return False
        raise
    return True
