"""The running embedded cloud: the launch, interruption and termination of its instances.

API calls run in threads, hosts run in the event loop. `lock` guards moto's records, which are not thread-safe; a host
is used in the loop's thread only.
"""

import asyncio
import base64
import contextlib
import logging
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import timezone
from pathlib import Path
from typing import Any

from infra.local.aws import moto_ec2
from infra.local.aws.moto_ec2 import Ec2Instance
from infra.local.aws.price_moves import Move
from infra.local.cloud import fault_effects
from infra.local.cloud.conditions import Conditions
from infra.local.cloud.faults import Call, Fault, FaultList
from infra.local.cloud.instances import Instances, RefusedError
from infra.local.cloud.state_reasons import (
    StateReason,
    ended_by_interruption,
    ended_by_itself,
    ended_by_user,
    failed_to_launch,
)
from infra.local.machine.addresses import Addresses
from infra.local.machine.host import EmbeddedHost, HostFacts
from infra.local.machine.processes import Children

SSH_PORT_TAG = "pixel-orch-local:ssh-port"
log = logging.getLogger("pixel-orch.local")


@dataclass
class Settings:
    """Settings that are given at the start."""

    notice_s: float = 10.0
    """Seconds from the interruption notice to the termination; 120 on EC2."""
    boot_s: float = 0.3
    """Seconds from the launch to the state running."""
    hidden_describes: int = 1
    """Number of describe calls by id that do not find a new instance yet."""
    idle_s: float = 3600.0
    """The cloud stops after so many seconds without an instance and without a request."""


class Cloud:
    """The life cycle of instances. `instances` lists them; `conditions` holds capacity, quotas, prices and images."""

    def __init__(self, state: Path, settings: Settings, loop: asyncio.AbstractEventLoop) -> None:
        self.settings = settings
        self.cloud_id = secrets.token_hex(8)
        self.faults = FaultList()
        self.conditions = Conditions()
        self.instances = Instances(state / "instances")
        self.addresses = Addresses()
        self.requests: dict[str, int] = {}
        self.lock = threading.RLock()
        self.api_url = ""
        self.last_request = time.monotonic()
        self.stopping = False
        self._loop = loop
        self._children = Children(loop)
        self._ending = threading.Lock()
        self._planned_power: dict[str, asyncio.TimerHandle] = {}
        self._background: set[asyncio.Task[Any]] = set()
        Ec2Instance.new_address = self.addresses.take
        Ec2Instance.on_stop = self._on_stop
        Ec2Instance.on_start = self._on_start
        Ec2Instance.on_reboot = self._on_reboot

    # --- launching ---------------------------------------------------------------------------------------------------

    def add(self, record: Ec2Instance) -> None:
        """Create and boot the host of a new record. Call with the lock held, from an API thread."""
        facts = self._facts(record)
        folder = self.instances.folder / record.id
        events = list(self.faults.strike_instance(Call("", facts.zone, facts.instance_type, facts.lifecycle)))
        host = EmbeddedHost(
            facts,
            folder=folder,
            cloud_id=self.cloud_id,
            api_url=self.api_url,
            children=self._children,
            quirks=fault_effects.quirks(events),
        )
        self.instances.add(
            record, host, hidden_s=fault_effects.hidden_s(events), hidden_describes=self.settings.hidden_describes
        )
        record.add_tag(SSH_PORT_TAG, str(host.ssh_port))
        self.in_loop(lambda: self._spawn(self._boot(record, host, events)))
        log.info("%s launched: %s %s %s", record.id, facts.instance_type, facts.zone, facts.lifecycle)

    def _facts(self, record: Ec2Instance) -> HostFacts:
        backend = moto_ec2.backend(record.region_name)
        pair = backend.key_pairs.get(record.key_name) if record.key_name else None
        user_data = str(record.user_data) if record.user_data else ""
        return HostFacts(
            instance_id=record.id,
            region=record.region_name,
            zone=str(record.availability_zone),
            instance_type=record.instance_type,
            image_id=record.image_id,
            lifecycle="spot" if record.is_spot else "on-demand",
            account_id=moto_ec2.ACCOUNT_ID,
            private_ip=str(record.private_ip),
            launched=record.launch_time.replace(tzinfo=timezone.utc),
            user_data=base64.b64decode(user_data) if user_data else b"",
            authorized_keys=(_public_line(pair),) if pair is not None else (),
            role=moto_ec2.role_of(record),
            role_key_id=self.instances.new_role_key(record),
            launch_index=int(record.ami_launch_index),
            placement_group=record.placement.group_name,
        )

    async def _boot(self, record: Ec2Instance, host: EmbeddedHost, events: list[Fault]) -> None:
        began = time.monotonic()
        boot_s = fault_effects.boot_s(events, self.settings.boot_s)
        try:
            if boot_s is not None:
                await host.boot()
        except Exception:
            log.exception("%s did not boot", record.id)
            boot_s = None
        if boot_s is None:
            self.end(record, failed_to_launch())
            return
        await asyncio.sleep(max(0.0, began + boot_s - time.monotonic()))
        if record.state == "pending":
            record.set_public_ip("127.0.0.1")
            record.set_state("running", 16)
            fault_effects.plan(self, record.id, events, self._later)

    def _later(self, delay_s: float, action: Callable[[], object]) -> None:
        """Run an action on an instance after a delay; if it has ended by then, nothing happens."""

        def act() -> None:
            with contextlib.suppress(RefusedError):
                action()

        if delay_s > 0:
            self._loop.call_later(delay_s, act)
        else:
            act()

    # --- ending ------------------------------------------------------------------------------------------------------

    def end(self, record: Ec2Instance, reason: StateReason, *, state: str = "terminated") -> None:
        """Start to end an instance, from any thread: shutting-down at once, `state` after its processes have ended."""
        with self._ending:  # the timer of an interruption and TerminateInstances may run at the same time
            if record.state in ("terminated", "shutting-down"):
                return
            record.set_reasons(reason.code, reason.message, reason.transition)
            record.set_state(*(("shutting-down", 32) if state == "terminated" else ("stopping", 64)))
        log.info("%s is ending: %s", record.id, reason.code)
        self.in_loop(lambda: self._spawn(self._finish(record, state)))

    async def _finish(self, record: Ec2Instance, state: str) -> None:
        host = self.instances.hosts.pop(record.id, None)
        if host is not None:
            survivors = await host.end()
            if survivors:
                log.error("%s: processes %s survived SIGKILL", record.id, survivors)
        with contextlib.suppress(KeyError):
            self._planned_power.pop(record.id).cancel()
        await asyncio.to_thread(self._release, record, state)

    def _release(self, record: Ec2Instance, state: str) -> None:
        with self.lock:
            if state == "stopped" and record.state != "stopping":
                return  # terminated while it was stopping
            if state == "terminated":
                record.release()
            record.set_public_ip(None)
            record.set_state(state, 48 if state == "terminated" else 80)
        if state == "terminated":
            for name in ("home", "bin"):  # the log of its first boot is kept for diagnosis
                shutil.rmtree(self.instances.folder / record.id / name, ignore_errors=True)

    def _on_stop(self, record: Ec2Instance) -> None:
        reason = ended_by_user()
        record.set_state("running", 16)  # moto has set stopped; `end` sets stopping first
        self.end(record, reason, state="stopped")

    def _on_start(self, record: Ec2Instance) -> None:
        self.add(record)

    def _on_reboot(self, record: Ec2Instance) -> None:
        host = self.instances.hosts.get(record.id)
        if host is not None:
            self.in_loop(lambda: self._spawn(host.reboot()))

    # --- what EC2 does to an instance --------------------------------------------------------------------------------

    def interrupt(self, instance_id: str, *, notice: bool, notice_s: float | None, terminate: bool) -> None:
        """Interrupt a spot instance. Raises RefusedError if there is no such running spot instance."""
        self.interrupt_together([instance_id], notice=notice, notice_s=notice_s, terminate=terminate)

    def interrupt_together(
        self, instance_ids: Sequence[str], *, notice: bool, notice_s: float | None, terminate: bool
    ) -> None:
        """Interrupt spot instances at one moment, or none of them.

        Raises RefusedError if one is not a running spot instance.
        """
        found = [self.instances.running(instance_id) for instance_id in instance_ids]
        for record, _ in found:
            if not record.is_spot:
                raise RefusedError(f"{record.id} is on-demand; EC2 interrupts spot instances only")
        delay_s = (self.settings.notice_s if notice_s is None else notice_s) if notice else 0.0
        log.info("%s interrupted, notice %s s", ", ".join(instance_ids), delay_s if notice else "none")

        def give_notice() -> None:
            for _, host in found:
                host.give_notice(delay_s)

        def end_all() -> None:
            for record, _ in found:
                self.end(record, ended_by_interruption())

        if notice:
            self.in_loop(give_notice)
        if not terminate:
            return
        if delay_s <= 0:
            self.in_loop(end_all)
        else:
            self.in_loop(lambda: self._loop.call_later(delay_s, end_all))

    def rebalance(self, instance_id: str) -> None:
        """Recommend a rebalance in the instance metadata. Raises RefusedError if the instance is not running."""
        _, host = self.instances.running(instance_id)
        self.in_loop(host.recommend_rebalance)

    def freeze(self, instance_id: str, *, thaw: bool = False) -> None:
        """Make the host hang, or continue. Raises RefusedError if the instance is not running."""
        _, host = self.instances.running(instance_id)
        self.in_loop(host.thaw if thaw else host.freeze)

    def cut(self, instance_id: str, after_bytes: int | None) -> None:
        """Reset its SSH connections. Raises RefusedError if the instance is not running."""
        _, host = self.instances.running(instance_id)
        self.in_loop(lambda: host.cut(after_bytes))

    def set_link(self, instance_id: str, *, down: bool) -> None:
        """Take its network link down or up. Raises RefusedError if the instance is not running."""
        _, host = self.instances.running(instance_id)
        self.in_loop(lambda: host.set_link(down=down))

    def fill_disk(self, instance_id: str, *, full: bool) -> None:
        """Prevent its files from growing, or allow it. Raises RefusedError if the instance is not running."""
        _, host = self.instances.running(instance_id)
        self.in_loop(lambda: host.fill_disk(full=full))

    def apply(self, fault: Fault) -> None:
        """Add a fault. A state takes effect at once; other faults apply to later calls and instances."""
        if fault.state:
            fault_effects.apply_state(self, self.conditions, fault)
        self.faults.add(fault)

    def clear_faults(self) -> None:
        """Remove all faults, price moves, capacity limits and quotas."""
        self.faults.clear()
        self.conditions.clear()

    def move_prices(self, move: Move) -> None:
        """Move spot prices; instances with a max price below the new price are interrupted, with notice."""
        self.conditions.prices.add(move)
        delay_s = max(0.0, move.time - time.time())
        self.in_loop(lambda: self._loop.call_later(delay_s, self._interrupt_outbid, move))

    def _interrupt_outbid(self, move: Move) -> None:
        for record in self.instances.all():
            pool = (record.instance_type, str(record.availability_zone))
            if record.state != "running" or record.max_price_usd_h is None or not move.is_meant(*pool):
                continue
            if self.conditions.prices.spot_usd_h(*pool, time.time()) > record.max_price_usd_h:
                with contextlib.suppress(RefusedError):
                    self.interrupt(record.id, notice=True, notice_s=None, terminate=True)

    def power(self, instance_id: str, secret: str, action: str, delay_s: float) -> None:
        """Carry out the instance's own `shutdown` or `reboot`. Raises RefusedError for a wrong secret."""
        host = self.instances.hosts.get(instance_id)
        if host is None or not secrets.compare_digest(host.power_secret, secret):
            raise RefusedError("no such instance")
        record = self.instances.record(instance_id)
        self.in_loop(lambda: self._plan_power(record, action, delay_s))

    def _plan_power(self, record: Ec2Instance, action: str, delay_s: float) -> None:
        if (planned := self._planned_power.pop(record.id, None)) is not None:
            planned.cancel()
        if action == "reboot":
            self._planned_power[record.id] = self._loop.call_later(delay_s, self._on_reboot, record)
        elif action == "shutdown":
            self._planned_power[record.id] = self._loop.call_later(delay_s, self._shut_down, record)

    def _shut_down(self, record: Ec2Instance) -> None:
        stops = record.instance_initiated_shutdown_behavior == "stop" and not record.is_spot
        self.end(record, ended_by_itself(), state="stopped" if stops else "terminated")

    def count(self, operation: str) -> None:
        """Count a request."""
        self.requests[operation] = self.requests.get(operation, 0) + 1

    # --- the loop ----------------------------------------------------------------------------------------------------

    def in_loop(self, action: Callable[[], object]) -> None:
        """Run an action in the event loop's thread and wait for it; in that thread, run it directly."""
        if threading.current_thread() is threading.main_thread():
            action()
            return
        done = threading.Event()

        def act() -> None:
            try:
                action()
            finally:
                done.set()

        self._loop.call_soon_threadsafe(act)
        done.wait(30)

    def _spawn(self, work: Coroutine[Any, Any, object]) -> None:
        task = self._loop.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a background task failed", exc_info=task.exception())

    async def end_all(self) -> None:
        """End all instances at once, before the process exits."""
        hosts = list(self.instances.hosts.values())
        self.instances.hosts.clear()
        await asyncio.gather(*(host.end() for host in hosts))


def _public_line(pair: Any) -> str:
    material = pair.material_public
    return material.decode() if isinstance(material, bytes) else str(material)
