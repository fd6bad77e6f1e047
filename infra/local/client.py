"""The client of the embedded cloud: find, start and stop it, and trigger what EC2 does to instances.

Standard library only, so that the import is fast: moto, asyncssh and flask are imported in the server's process.
"""

import contextlib
import fcntl
import importlib.util
import json
import os
import select
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.local.endpoint import Endpoint
from infra.local.machine import processes

_NEEDED = ("moto", "asyncssh", "flask", "boto3")
_START_LIMIT_S = 60.0
_ANSWER_LIMIT_S = 10.0
_SETTINGS = {  # settings that the environment can set, and their types
    "notice_s": float,
    "boot_s": float,
    "hidden_describes": int,
    "idle_s": float,
    "faults": str,
}


class EmbeddedCloudError(Exception):
    """The embedded cloud cannot start, does not answer, or refuses a request; the message says which and what to do."""


@dataclass(frozen=True)
class EmbeddedCloud:
    """A running embedded cloud. Its state is in `<home>/local`."""

    home: Path
    endpoint: Endpoint

    @property
    def endpoint_url(self) -> str:
        """The URL of the AWS APIs, for example http://127.0.0.1:40123."""
        return self.endpoint.endpoint_url

    @property
    def regions(self) -> list[str]:
        """The regions of the embedded cloud; requests to others are refused."""
        return list(self.endpoint.regions)

    @property
    def has_own_addresses(self) -> bool:
        """Whether each instance has a private address of its own (Linux); else all have 127.0.0.1."""
        return bool(self._post("health", {})["has_own_addresses"])

    @property
    def log_path(self) -> Path:
        """The path of the server's log."""
        return self.home / "local" / "server.log"

    @classmethod
    def find(cls, home: Path) -> "EmbeddedCloud | None":
        """Return the running cloud, or None. Processes and endpoint.json of a killed one are removed.

        Raises EmbeddedCloudError if its process runs but does not answer for 10 s.
        """
        state = home / "local"
        endpoint = Endpoint.read(state / "endpoint.json")
        if endpoint is None:
            return None
        if not endpoint.is_alive():
            _clear_left_over(state, endpoint)
            return None
        found = cls(home, endpoint)
        return found if found._answers() else None

    @classmethod
    def ensure(cls, home: Path, *, notice_s: float | None = None) -> "EmbeddedCloud":
        """Return the running cloud, or start one that is detached from this process.

        `notice_s` (seconds from an interruption notice to the termination, 10 by default) applies to a running cloud
        too. `PIXEL_ORCH_LOCAL_NOTICE_S`, `_BOOT_S`, `_HIDDEN_DESCRIBES`, `_IDLE_S` and `_FAULTS` (a file) set the
        defaults of a new one. Raises EmbeddedCloudError with the last lines of its log if it cannot start.
        """
        state = home / "local"
        _private_folder(home, state)
        with _locked(state / "lock"):
            found = cls.find(home)
            if found is None:
                _start(state)
                found = cls.find(home)
            if found is None:
                raise EmbeddedCloudError(f"the embedded cloud exited right after its start; see {state}/server.log")
            # Until the first launch no other command may consider it idle; see stop_if_idle.
            found._post("expect", {"pid": os.getpid(), **({} if notice_s is None else {"notice_s": notice_s})})
        return found

    def environment(self) -> dict[str, str]:
        """The environment variables that make boto3 use this cloud only."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.endpoint.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.endpoint.secret_access_key,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_DEFAULT_REGION": self.endpoint.regions[0],
        }

    def interrupt(
        self, instance_id: str, *, notice: bool = True, notice_s: float | None = None, terminate: bool = True
    ) -> None:
        """Interrupt a spot instance: the notice at once, the termination `notice_s` later (None: the cloud's default).

        Without `notice` it is terminated at once; without `terminate` it gets the notice only. Raises
        EmbeddedCloudError if it is not running or not spot.
        """
        self._post(
            "interrupt",
            {"instance_id": instance_id, "notice": notice, "notice_s": notice_s, "terminate": terminate},
        )

    def interrupt_together(
        self,
        instance_ids: Sequence[str],
        *,
        notice: bool = True,
        notice_s: float | None = None,
        terminate: bool = True,
    ) -> None:
        """Interrupt spot instances at one moment, as `interrupt` does one.

        Raises EmbeddedCloudError, and interrupts none, if one of them is not running or not spot.
        """
        self._post(
            "interrupt",
            {"instance_ids": list(instance_ids), "notice": notice, "notice_s": notice_s, "terminate": terminate},
        )

    def rebalance(self, instance_id: str) -> None:
        """Put a rebalance recommendation into the instance's metadata."""
        self._post("rebalance", {"instance_id": instance_id})

    def freeze(self, instance_id: str) -> None:
        """Make the host hang: its processes stop, TCP connections are accepted and stay open without an answer."""
        self._post("freeze", {"instance_id": instance_id})

    def thaw(self, instance_id: str) -> None:
        """Let the host continue where freeze stopped it."""
        self._post("thaw", {"instance_id": instance_id})

    def cut(self, instance_id: str, *, after_bytes: int | None = None) -> None:
        """Reset its SSH connections now, or the next one after `after_bytes` bytes to the client."""
        self._post("cut", {"instance_id": instance_id, "after_bytes": after_bytes})

    def fill_disk(self, instance_id: str, *, full: bool = True) -> None:
        """Prevent files of its commands from growing (errno EFBIG), or allow it again."""
        self._post("fill-disk", {"instance_id": instance_id, "full": full})

    def set_link(self, instance_id: str, *, down: bool) -> None:
        """Take its network link down or up. While it is down, SSH connections are reset and none is accepted."""
        self._post("set-link", {"instance_id": instance_id, "down": down})

    def dump(self) -> dict[str, Any]:
        """Return the cloud's state: instances, security groups, faults with their counts, capacity, quotas, price
        moves, and the number of requests by operation."""
        return self._post("dump", {})

    def add_fault(self, fault: dict[str, Any]) -> None:
        """Add a fault (see `infra.local.cloud.faults`). Raises EmbeddedCloudError for an invalid one."""
        self._post("add-faults", {"faults": [fault]})

    def clear_faults(self) -> None:
        """Remove all faults, price moves, capacity limits and quotas."""
        self._post("clear-faults", {})

    def set_capacity(self, instance_type: str, zone: str, count: int | None) -> None:
        """Limit a capacity pool to `count` instances; None (the default) is no limit."""
        self._post("capacity", {"type": instance_type, "zone": zone, "count": count})

    def set_quota(self, code: str, vcpus: float | None, *, region: str | None = None) -> None:
        """Set a vCPU quota (codes: `infra.local.aws.quotas`) in one region or in all; None restores the default."""
        self._post("quota", {"code": code, "vcpus": vcpus, "region": region})

    def instances(self) -> list[dict[str, Any]]:
        """Return all instances: id, state, zone, type, market, reason, launch_index, private_address, placement_group,
        ssh_port, frozen, folder, pids."""
        found: list[dict[str, Any]] = self._post("instances", {})["instances"]
        return found

    def stop_if_idle(self) -> bool:
        """Stop the cloud unless an instance is pending, running or shutting down. Returns whether it has stopped.

        Waits up to 5 s if another running process has just called `ensure`, since that one is about to launch.
        """
        while self.endpoint.is_alive():
            with _locked(self.home / "local" / "lock"):  # no other command may find it while it stops
                try:
                    answer = self._post("stop-if-idle", {"pid": os.getpid()})
                except EmbeddedCloudError:
                    if self.endpoint.is_alive():
                        raise
                    return True
                if answer["stopping"]:
                    self._wait_until_gone()
                elif answer["wait_s"] <= 0:
                    return False
            time.sleep(answer["wait_s"])
        return True

    def stop(self) -> None:
        """Stop the cloud and every process of every instance. Returns after its exit."""
        with _locked(self.home / "local" / "lock"):
            with contextlib.suppress(EmbeddedCloudError):
                self._post("stop", {})
            self._wait_until_gone()

    def _wait_until_gone(self) -> None:
        give_up = time.monotonic() + 30
        while self.endpoint.is_alive():
            if time.monotonic() > give_up:
                raise EmbeddedCloudError(
                    f"the embedded cloud (pid {self.endpoint.pid}) does not stop; see {self.log_path}"
                )
            time.sleep(0.01)

    def _answers(self) -> bool:
        """Whether it answers; False if it has exited. Raises EmbeddedCloudError if it runs but does not answer."""
        give_up = time.monotonic() + _ANSWER_LIMIT_S
        while True:
            try:
                return bool(self._post("health", {}, timeout_s=_ANSWER_LIMIT_S)["cloud_id"] == self.endpoint.cloud_id)
            except EmbeddedCloudError:
                if not self.endpoint.is_alive():
                    return False
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.05)

    def _post(self, verb: str, body: dict[str, Any], *, timeout_s: float = 60.0) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310 - always http://127.0.0.1
            f"{self.endpoint_url}/_pixel-orch/{verb}",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "X-Pixel-Orch-Key": self.endpoint.access_key_id},
        )
        # A proxy from the environment must not see the key, and it cannot reach 127.0.0.1.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=timeout_s) as response:
                answer: dict[str, Any] = json.load(response)
                return answer
        except urllib.error.HTTPError as refusal:
            with contextlib.suppress(ValueError, AttributeError):
                raise EmbeddedCloudError(json.load(refusal)["error"]) from None
            raise EmbeddedCloudError(f"the embedded cloud answered {refusal.code} to {verb}") from None
        except OSError as error:
            raise EmbeddedCloudError(
                f"the embedded cloud at {self.endpoint_url} (pid {self.endpoint.pid}) does not answer: {error};"
                f" see {self.log_path}"
            ) from error


def _private_folder(home: Path, state: Path) -> None:
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        state.mkdir(exist_ok=True, mode=0o700)
        state.chmod(0o700)
    except OSError as error:
        raise EmbeddedCloudError(f"the embedded cloud cannot keep its state in {state}: {error}") from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock between processes; the kernel releases it when its holder exits."""
    with open(path, "a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _start(state: Path) -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise EmbeddedCloudError(f"the embedded cloud needs {' and '.join(missing)}: pip install 'pixel-orch[local]'")
    options = _options_from_environment()
    # The instances' processes must not keep the starter's terminal, nor import the project before their own modules.
    environment = {**without_user_settings(os.environ), "PYTHONPATH": str(Path(__file__).parents[2])}
    log_path = state / "server.log"
    with contextlib.suppress(FileNotFoundError):
        log_path.replace(state / "server.log.1")
    ready, ready_writer = os.pipe()
    with open(log_path, "wb") as log, open(ready, "rb", buffering=0) as reading:
        log_path.chmod(0o600)
        try:
            subprocess.run(
                [sys.executable, "-m", "infra.local", str(state.resolve()), str(ready_writer), json.dumps(options)],
                cwd="/",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(ready_writer,),
                start_new_session=True,
                check=False,
            )
        finally:
            os.close(ready_writer)
        readable, _, _ = select.select([reading], [], [], _START_LIMIT_S)
        message = reading.read(16) if readable else None
    if message != b"ready\n":
        last = log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-10:]
        what = "did not start" if message is not None else f"was not ready in {_START_LIMIT_S:.0f} s"
        raise EmbeddedCloudError("\n".join([f"the embedded cloud {what}; the end of {log_path}:", *last]))


def without_user_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which boto3 finds no setting, no credentials and no proxy of the user.

    moto uses boto3 itself: a profile that does not exist or a configuration file with an error would stop it.
    """
    kept = {
        name: value
        for name, value in environ.items()
        if not name.upper().startswith(("AWS_", "BOTO_")) and not name.lower().endswith("_proxy")
    }
    return {
        **kept,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def _options_from_environment() -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, kind in _SETTINGS.items():
        variable = f"PIXEL_ORCH_LOCAL_{name.upper()}"
        text = os.environ.get(variable)
        if text is None:
            continue
        try:
            options[name] = kind(text)
        except ValueError:
            raise EmbeddedCloudError(f"{variable} must be a number, not {text!r}") from None
    return options


def _clear_left_over(state: Path, endpoint: Endpoint) -> None:
    """Kill the instances' processes of a server that was killed, and remove its endpoint.json."""
    processes.kill_all(f"{endpoint.cloud_id}/")
    with contextlib.suppress(FileNotFoundError):
        if Endpoint.read(state / "endpoint.json") == endpoint:
            (state / "endpoint.json").unlink()
