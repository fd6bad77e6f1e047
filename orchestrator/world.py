"""The real clouds and hosts.

Built here and nowhere else, so that everything above this file can be told to use others.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.config import REGISTRY, checked, words_of
from orchestrator import catalog, sync
from orchestrator.cloud import BucketPlace, Cloud, Host, Instance, Job
from orchestrator.errors import CloudError, SpecError
from orchestrator.host_key import known_hosts_lines
from orchestrator.spec import RecoveryPolicy, RunSpec
from orchestrator.store import write_atomically

if TYPE_CHECKING:
    from infra.local import EmbeddedCloud
    from orchestrator.aws.s3 import S3Home
    from orchestrator.engine import Connect
    from orchestrator.store import RunStore

EMBEDDED_TITLE = "embedded cloud"
EMBEDDED_REGION = "us-east-1"
AWS_METADATA_POLL_S = 5.0  # as AWS recommends

EMBEDDED_POLICY = RecoveryPolicy(
    poll_s=0.5, boot_timeout_s=60.0, answer_timeout_s=10.0, unreachable_after_s=8.0, stop_timeout_s=30.0
)
"""The embedded cloud gives 10 s of notice, not 120, and answers at once: the same rules in a tenth of the time."""


def regions_for(cloud: str, asked: tuple[str, ...], profile: str | None = None) -> tuple[str, ...]:
    """Return the regions to use: those asked for, else the configured one, else (embedded) us-east-1.

    Raises:
        SpecError: no region is known, or it is none.
    """
    if asked:
        return tuple(dict.fromkeys(catalog.check_region(name) for name in asked))
    if cloud == "local":
        return (EMBEDDED_REGION,)
    from orchestrator.aws import configured_region

    configured = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or configured_region(profile)
    if not configured:
        check_credentials(profile)  # without an account, a region is not what is missing
        raise SpecError("no AWS region is set; say --region, for example --region us-east-1, or run `aws configure`")
    return (catalog.check_region(configured),)


def check_credentials(profile: str | None = None) -> None:
    """Raise AccessError if there are no AWS credentials; it says both ways on. Asks nobody."""
    from orchestrator.aws import AwsCloud

    AwsCloud((EMBEDDED_REGION,), profile=profile)


@contextmanager
def open_cloud(name: str, regions: tuple[str, ...], home: Path, profile: str | None = None) -> Iterator[Cloud]:
    """Give the cloud called `name`; an embedded one that is idle at the end is ended before this returns.

    Raises:
        AccessError: there are no credentials for AWS.
        SpecError: the embedded cloud's extra is not installed, or it does not start.
    """
    from orchestrator.aws import AwsCloud

    if name == "aws":
        yield AwsCloud(regions, profile=profile)
        return
    with embedded_endpoint(home) as endpoint:
        yield AwsCloud(regions, endpoint=endpoint, title=EMBEDDED_TITLE)


@contextmanager
def embedded_endpoint(home: Path) -> Iterator[dict[str, str]]:
    """Give the endpoint and key of the embedded cloud; one that is idle at the end is ended before this returns.

    Raises:
        SpecError: its extra is not installed, or it does not start.
    """
    with _in_use(home) as is_last_user:
        embedded = start_embedded(home)
        try:
            yield _client_settings(embedded)
        finally:
            if is_last_user():
                embedded.stop_if_idle()


def cloud_of(spec: RunSpec, home: Path) -> AbstractContextManager[Cloud]:
    """Give the cloud that a run is on; see `open_cloud`."""
    return open_cloud(spec.cloud, spec.regions, home, spec.profile)


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


def address_of(instance: Instance, spec: RunSpec) -> str:
    """Return where to knock: through a proxy without a public address, at the private one."""
    if spec.is_private or (spec.ssh_proxy and not instance.address):
        return instance.private_address or instance.instance_id
    return instance.address


def proxy_of(instance: Instance, spec: RunSpec) -> str | None:
    """Return the ProxyCommand for this instance; %h and %p are left to who runs it."""
    return spec.ssh_proxy and spec.ssh_proxy.replace("%i", instance.instance_id).replace("%r", instance.region)


def connector(store: RunStore, spec: RunSpec) -> Connect:
    """Return the function that connects to an instance of this run by SSH."""
    policy = spec.recovery

    def connect(instance: Instance, user: str, host_key: str) -> Host:
        from orchestrator.host import SshHost
        from orchestrator.ssh import SshShell

        shell = SshShell(
            address=address_of(instance, spec),
            port=instance.ssh_port,
            user=user,
            key_path=store.key_path,
            host_key=host_key,
            connect_timeout_s=policy.answer_timeout_s,
            proxy_command=proxy_of(instance, spec),
        )
        shell.open()
        _write_ssh_config(store, instance, user, spec, host_key)
        return SshHost(
            shell,
            answer_timeout_s=policy.answer_timeout_s,
            setup_timeout_s=policy.setup_timeout_s,
            renewed=lambda key: _write_ssh_config(store, instance, user, spec, key),
        )

    return connect


def ssh_config_folder(home: Path) -> Path:
    """Return the folder with one entry for each run that is reachable; ~/.ssh/config may include it."""
    return home / "ssh_config.d"


def _write_ssh_config(store: RunStore, instance: Instance, user: str, spec: RunSpec, host_key: str) -> None:
    address, proxy = address_of(instance, spec), proxy_of(instance, spec)
    store.known_hosts.write_text("\n".join(known_hosts_lines(address, instance.ssh_port, host_key)) + "\n")
    lines = [
        f"Host pixel-orch-{store.run}",
        f"  HostName {address}",
        f"  Port {instance.ssh_port}",
        f"  User {user}",
        f'  IdentityFile "{store.key_path}"',
        "  IdentitiesOnly yes",
        "  StrictHostKeyChecking yes",
        f'  UserKnownHostsFile "{store.known_hosts}"',
        *([f"  ProxyCommand {proxy}"] if proxy else []),
    ]
    folder = ssh_config_folder(store.home)
    folder.mkdir(mode=0o700, exist_ok=True)
    write_atomically(folder / store.run, ("\n".join(lines) + "\n").encode(), mode=0o600)


def forget_ssh_config(store: RunStore) -> None:
    """Remove the entry of a run that is over."""
    (ssh_config_folder(store.home) / store.run).unlink(missing_ok=True)


def make_run_key(store: RunStore, own: str | None = None) -> None:
    """Make the run's SSH key, for its owner's eyes only; or point to one of the user's own.

    Raises:
        SpecError: that one cannot be read.
    """
    from orchestrator.ssh import make_key_pair, public_half

    if own is not None:
        store.key_path.with_suffix(".pub").write_text(public_half(Path(own)) + "\n")
        store.key_path.symlink_to(own)
        return

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


def settled(spec: RunSpec, home: Path) -> RunSpec:
    """Return the spec with what only AWS knows of its second home: that the bucket is usable, its region, the role.

    Raises:
        SpecError: a bucket is missing or not ours, or no instance profile lets the machine use it.
    """
    if spec.data_url is not None:
        spec = spec.model_copy(update={"instance_profile": _data_profile(spec, home)})
    if spec.is_embedded and spec.bucket is None:
        return spec  # IAM on the embedded cloud is there for whoever asks for it
    if spec.bucket is None:
        with suppress(CloudError):  # it would be of use for Systems Manager only: no reason to refuse a launch
            return spec.model_copy(update={"instance_profile": spec.instance_profile or _standing_profile(spec, home)})
        return spec
    profile = spec.instance_profile or _standing_profile(spec, home)
    place = second_home(spec, home)
    region = place.check() if place is not None else ""
    if profile is None:
        raise SpecError(
            "--bucket: no instance profile lets the machine write to it; run `pixel-orch setup`, or name one with "
            "--instance-profile"
        )
    prefix = spec.bucket_prefix or f"pixel-orch/{spec.run}-{secrets.token_hex(4)}"
    return spec.model_copy(update={"instance_profile": profile, "bucket_region": region, "bucket_prefix": prefix})


def _data_profile(spec: RunSpec, home: Path) -> str:
    """Return the instance profile by which the machine reads `--data-bucket`, once the bucket is seen to be there."""
    bucket = str(spec.data_url).removeprefix("s3://").partition("/")[0]
    s3_files(spec, home, bucket).check("--data-bucket")
    profile = spec.instance_profile or _standing_profile(spec, home)
    if profile is None:
        raise SpecError(
            "--data-bucket: no instance profile lets the machine read it; run `pixel-orch setup`, or name one with "
            "--instance-profile"
        )
    return profile


def _standing_profile(spec: RunSpec, home: Path) -> str | None:
    """Return the instance profile that `setup` made, None if there is none or we may not know."""
    from orchestrator.aws.stack import DEFAULT_NAME, has_profile

    return DEFAULT_NAME if has_profile(DEFAULT_NAME, endpoint=_endpoint_of(spec, home), profile=spec.profile) else None


def second_home(spec: RunSpec, home: Path) -> S3Home | None:
    """Return the run's place in S3, None if it has none."""
    if spec.bucket is None:
        return None
    from orchestrator.aws.s3 import S3Home

    return S3Home(spec.bucket, spec.bucket_prefix, endpoint=_endpoint_of(spec, home), profile=spec.profile)


def s3_files(spec: RunSpec, home: Path, bucket: str) -> S3Home:
    """Return a bucket's files, whether or not they are this run's."""
    from orchestrator.aws.s3 import S3Home

    return S3Home(bucket, "", endpoint=_endpoint_of(spec, home), profile=spec.profile)


def _endpoint_of(spec: RunSpec, home: Path) -> dict[str, str]:
    return _client_settings(start_embedded(home)) if spec.is_embedded else {}


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
    place = BucketPlace(spec.bucket, spec.bucket_prefix, spec.bucket_region) if spec.bucket else None
    known = REGISTRY[spec.trainer.dataset] if spec.trainer else None
    data = known.name if known and known.kind != "builtin" else None
    asked = checked(known.name, spec.prepare).asked(known) if known and spec.prepare else None
    return Job(
        bucket=place,
        root=f"pixel-orch/{spec.run}",
        command=command,
        env={**({"PIXEL_ORCH_DATA": "~/pixel-orch/data"} if data else {}), **spec.env},
        data=data,
        data_url=spec.data_url,
        data_words=tuple(words_of(spec.prepare)),
        data_asked=asked,
        config_json=config,
        tree=tree.folder,
        files=tree.files,
        owner_timeout_s=spec.recovery.owner_timeout_s,
        stop_timeout_s=spec.recovery.stop_timeout_s,
        metadata_poll_s=min(AWS_METADATA_POLL_S, spec.recovery.poll_s),  # the embedded cloud's notice is shorter
        # the engine, if there is one, sees it first, and saves and brings home what there is
        idle_s=None if spec.limits.idle_s is None else spec.limits.idle_s + spec.recovery.stop_timeout_s,
        has_gpu=not spec.is_embedded and all(catalog.find(name).gpus for name in spec.instances),
        allow_cpu=spec.allow_cpu,
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


def torch_has_kernels(compute_capability: str) -> bool:
    """Return whether one of the torch builds that the bootstrap installs runs on such a GPU.

    Binaries run on the same major version from their own minor version upwards (CUDA C Programming Guide).
    """
    table = json.loads(resources.files("infra.instance").joinpath("torch_builds.json").read_text())
    major, _, minor = compute_capability.partition(".")
    for build in table["builds"]:
        for known in build["capabilities"]:
            a, _, b = known.partition(".")
            if a == major and b.isdigit() and int(b) <= int(minor or 0):
                return True
    return False


def fresh_name(stem: str) -> str:
    """Return a name for a run that was given none, from any text: a folder's name, a model's."""
    plain = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:30].strip("-")
    return f"{plain or 'run'}-{secrets.token_hex(2)}"


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
