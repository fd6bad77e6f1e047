"""The real clouds and hosts.

Built here and nowhere else, so that everything above this file can be told to use others.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator import catalog, sync
from orchestrator.cloud import Cloud, Host, Instance, Job
from orchestrator.errors import SpecError
from orchestrator.spec import RecoveryPolicy, RunSpec

if TYPE_CHECKING:
    from infra.local import EmbeddedCloud
    from orchestrator.engine import Connect
    from orchestrator.store import RunStore

EMBEDDED_TITLE = "embedded cloud"
EMBEDDED_REGION = "us-east-1"
AWS_METADATA_POLL_S = 5.0  # as AWS recommends
EMBEDDED_METADATA_POLL_S = 0.5

EMBEDDED_POLICY = RecoveryPolicy(
    poll_s=0.5, boot_timeout_s=60.0, answer_timeout_s=10.0, unreachable_after_s=8.0, stop_timeout_s=30.0
)
"""The embedded cloud gives 10 s of notice, not 120, and answers at once: the same rules in a tenth of the time."""


def regions_for(cloud: str, asked: tuple[str, ...]) -> tuple[str, ...]:
    """Return the regions to use: those asked for, else the configured one, else (embedded) us-east-1.

    Raises:
        SpecError: no region is known, or it is none.
    """
    if asked:
        return tuple(dict.fromkeys(catalog.check_region(name) for name in asked))
    if cloud == "local":
        return (EMBEDDED_REGION,)
    configured = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or _configured_region()
    if not configured:
        check_credentials()  # without an account, a region is not what is missing
        raise SpecError("no AWS region is set; say --region, for example --region us-east-1, or run `aws configure`")
    return (catalog.check_region(configured),)


def check_credentials() -> None:
    """Raise AccessError if there are no AWS credentials; it says both ways on. Asks nobody."""
    from orchestrator.aws import AwsCloud

    AwsCloud((EMBEDDED_REGION,))


def _configured_region() -> str | None:
    import boto3

    name = boto3.session.Session().region_name
    return str(name) if name else None


@contextmanager
def open_cloud(name: str, regions: tuple[str, ...], home: Path) -> Iterator[Cloud]:
    """Give the cloud called `name`; an embedded one that is idle at the end is ended before this returns.

    Raises:
        AccessError: there are no credentials for AWS.
        SpecError: the embedded cloud's extra is not installed, or it does not start.
    """
    from orchestrator.aws import AwsCloud

    if name == "aws":
        yield AwsCloud(regions)
        return
    with _in_use(home) as is_last_user:
        embedded = start_embedded(home)
        try:
            yield AwsCloud(regions, endpoint=_client_settings(embedded), title=EMBEDDED_TITLE)
        finally:
            if is_last_user():
                embedded.stop_if_idle()


@contextmanager
def _in_use(home: Path) -> Iterator[Callable[[], bool]]:
    """Keep the embedded cloud from being ended, as idle, by one command while another is about to use it.

    Each command shares a lock; the one that can have it alone is the last, and ends the cloud. A killed one lets go.
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
        SpecError: it does not start; the message says which extra is missing, or what its log says.
    """
    from infra.local import EmbeddedCloud, EmbeddedCloudError

    try:
        return EmbeddedCloud.ensure(home)
    except EmbeddedCloudError as error:
        raise SpecError(f"--cloud local: {error}") from None


def _client_settings(embedded: EmbeddedCloud) -> dict[str, str]:
    environment = embedded.environment()
    return {
        "endpoint_url": environment["AWS_ENDPOINT_URL"],
        "aws_access_key_id": environment["AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": environment["AWS_SECRET_ACCESS_KEY"],
    }


def connector(store: RunStore, policy: RecoveryPolicy) -> Connect:
    """Return the function that connects to an instance of this run by SSH."""

    def connect(instance: Instance, user: str, host_key: str) -> Host:
        from orchestrator.host import SshHost
        from orchestrator.ssh import SshShell

        shell = SshShell(
            address=instance.address,
            port=instance.ssh_port,
            user=user,
            key_path=store.key_path,
            host_key=host_key,
            connect_timeout_s=policy.answer_timeout_s,
        )
        shell.open()
        return SshHost(shell, answer_timeout_s=policy.answer_timeout_s, setup_timeout_s=policy.setup_timeout_s)

    return connect


def make_run_key(store: RunStore) -> None:
    """Make the run's SSH key, for its owner's eyes only."""
    from orchestrator.ssh import make_key_pair

    private, public = make_key_pair(f"pixel-orch-{store.run}")
    descriptor = os.open(store.key_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(private)
    store.key_path.with_suffix(".pub").write_text(public + "\n")


def tree_for(spec: RunSpec) -> sync.Tree:
    """Return what is sent for this run: the bundled trainer, or the user's folder."""
    if spec.workdir is None:
        return sync.bundled_tree()
    return sync.workdir_tree(Path(spec.workdir), spec.include)


def job_for(spec: RunSpec, tree: sync.Tree) -> Job:
    """Return what is run on a host for this run."""
    if spec.trainer is not None:
        command: tuple[str, ...] = (
            "{python}",
            "-m",
            "model",
            "train",
            "--config",
            "{root}/config.json",
            "--out",
            "{root}/out",
        )
        config: bytes | None = spec.trainer.model_dump_json(indent=1).encode()
    else:
        command, config = spec.command, None
    return Job(
        root=f"pixel-orch/{spec.run}",
        command=command,
        env=spec.env,
        config_json=config,
        tree=tree.folder,
        files=tree.files,
        owner_timeout_s=spec.recovery.owner_timeout_s,
        stop_timeout_s=spec.recovery.stop_timeout_s,
        metadata_poll_s=EMBEDDED_METADATA_POLL_S if spec.is_embedded else AWS_METADATA_POLL_S,
    )


def home_id(home: Path, *, write: bool = True) -> str:
    """Return the random name by which instances are known to belong to this home; made at the first launch."""
    path = home / "id"
    if path.exists():
        return path.read_text().strip()
    if not write:
        return "<this home>"
    path.write_text(uuid.uuid4().hex[:12])
    return path.read_text()


def fresh_name(stem: str) -> str:
    """Return a name for a run that was given none."""
    return f"{stem[:30].strip('-')}-{secrets.token_hex(2)}"


class InterruptOnce:
    """A `Watcher` of the embedded cloud: interrupts the first attempt as EC2 would, once.

    Args:
        embedded: whom to ask.
        after_s: seconds from the first step on.
        steps: all steps; at half of them it interrupts even if `after_s` is not over.
        now: the time.
    """

    def __init__(self, embedded: EmbeddedCloud, after_s: float, steps: int | None, now: Any) -> None:
        self.embedded = embedded
        self.after_s = after_s
        self.steps = steps
        self.now = now
        self.is_done = False

    def event(self, event: object) -> None:
        """Look at nothing."""

    def tick(self, attempt: Any, step: int, images_per_s: float | None) -> None:
        """Interrupt, if it is time."""
        if self.is_done or attempt.first_step_at is None or attempt.number != 1:
            return
        at_half = self.steps is not None and step >= self.steps / 2
        if at_half or self.now() - attempt.first_step_at >= self.after_s:
            self.is_done = True
            self.embedded.interrupt(attempt.instance_id)
