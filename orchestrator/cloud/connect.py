"""Opens the cloud that a run is on: AWS, or the embedded cloud of this home."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cloud.base import Cloud
from orchestrator.errors import SpecError
from orchestrator.market import catalog
from orchestrator.runs.spec import EMBEDDED_TITLE, RecoveryPolicy, RunSpec

if TYPE_CHECKING:
    from infra.local import EmbeddedCloud

EMBEDDED_REGION = "us-east-1"

EMBEDDED_POLICY = RecoveryPolicy(
    poll_s=0.5, boot_timeout_s=60.0, answer_timeout_s=10.0, unreachable_after_s=8.0, stop_timeout_s=30.0
)
"""The embedded cloud gives 10 s of notice, not 120, and answers at once: the same rules in a tenth of the time."""


def regions_for(
    cloud: str, asked: tuple[str, ...], profile: str | None = None, *, are_credentials_first: bool = True
) -> tuple[str, ...]:
    """Return the regions to use: the given ones, else the configured one; us-east-1 for the embedded cloud.

    Args:
        cloud: "aws" or "local".
        asked: by the user.
        profile: of ~/.aws/config.
        are_credentials_first: where neither region nor credentials are set, say that the credentials are missing.

    Raises:
        SpecError: no region is configured, or there is no such region.
    """
    if asked:
        return tuple(dict.fromkeys(catalog.check_region(name) for name in asked))
    if cloud == "local":
        return (EMBEDDED_REGION,)
    from orchestrator.cloud.aws import configured_region

    configured = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or configured_region(profile)
    if not configured:
        if are_credentials_first:
            check_credentials(profile)
        raise SpecError("no AWS region is set; give --region, for example --region us-east-1, or run `aws configure`")
    return (catalog.check_region(configured),)


def check_credentials(profile: str | None = None) -> None:
    """Raise AccessError if there are no AWS credentials; the error says what to do. Sends no request."""
    from orchestrator.cloud.aws import AwsCloud

    AwsCloud((EMBEDDED_REGION,), profile=profile)


@contextmanager
def open_cloud(name: str, regions: tuple[str, ...], home: Path, profile: str | None = None) -> Iterator[Cloud]:
    """Open the cloud called `name`; an embedded cloud that is idle at the end is stopped before this returns.

    Raises:
        AccessError: there are no credentials for AWS.
        SpecError: the embedded cloud's extra is not installed, or it does not start.
    """
    from orchestrator.cloud.aws import AwsCloud

    if name == "aws":
        yield AwsCloud(regions, profile=profile)
        return
    with embedded_endpoint(home) as endpoint:
        yield AwsCloud(regions, endpoint=endpoint, title=EMBEDDED_TITLE)


@contextmanager
def embedded_endpoint(home: Path) -> Iterator[dict[str, str]]:
    """Open the embedded cloud and give its endpoint and key; it is stopped at the end if it is idle.

    Raises:
        SpecError: its extra is not installed, or it does not start.
    """
    with _in_use(home) as is_last_user:
        embedded = start_embedded(home)
        try:
            yield client_settings(embedded)
        finally:
            if is_last_user():
                embedded.stop_if_idle()


def cloud_of(spec: RunSpec, home: Path) -> AbstractContextManager[Cloud]:
    """Open the cloud of a run; see `open_cloud`."""
    return open_cloud(spec.cloud, spec.regions, home, spec.profile)


@contextmanager
def _in_use(home: Path) -> Iterator[Callable[[], bool]]:
    """Keep one command from stopping the idle embedded cloud while another is about to use it.

    Commands share a lock. The command that can get it exclusively is the last, and stops the cloud. The kernel releases
    the lock of a killed command.
    """
    (home / "local").mkdir(parents=True, exist_ok=True, mode=0o700)
    with (home / "local" / "in-use").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)

        def is_last_user() -> bool:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        yield is_last_user


def start_embedded(home: Path) -> EmbeddedCloud:
    """Find or start the embedded cloud of this home.

    Raises:
        SpecError: it does not start; the message names the missing extra, or the end of its log.
    """
    from infra.local import EmbeddedCloud, EmbeddedCloudError

    try:
        return EmbeddedCloud.ensure(home)
    except EmbeddedCloudError as error:
        raise SpecError(f"--cloud local: {error}") from None


def client_settings(embedded: EmbeddedCloud) -> dict[str, str]:
    """Return the endpoint and key with which boto3 speaks to the embedded cloud."""
    environment = embedded.environment()
    return {
        "endpoint_url": environment["AWS_ENDPOINT_URL"],
        "aws_access_key_id": environment["AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": environment["AWS_SECRET_ACCESS_KEY"],
    }
