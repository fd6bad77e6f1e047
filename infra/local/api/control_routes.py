"""The routes under /_pixel-orch/, beside AWS's APIs: controls for tests and `--interrupt-after`, and the instances'
power route. A control needs the access key id in `X-Pixel-Orch-Key`, the power route its instance's secret in the
path."""

import json
import re
import secrets
import time
from collections.abc import Callable
from typing import Any

from infra.local.api.dump import dump
from infra.local.aws.wire import Reply, json_reply
from infra.local.cloud.cloud import Cloud
from infra.local.cloud.faults import parse_faults
from infra.local.cloud.instances import RefusedError
from infra.local.machine.processes import is_running

CONTROL_PREFIX = "/_pixel-orch/"
_EXPECT_S = 5.0
"""Seconds to wait for a launch after `ensure`; a command takes 1 to 3 s."""
_POWER = re.compile(re.escape(CONTROL_PREFIX) + r"instances/(i-[0-9a-f]+)/([\w-]+)/power")


class ControlRoutes:
    """POST /_pixel-orch/<verb> with a JSON object. The answer is one too; a refusal has `error` and status 4xx."""

    def __init__(self, cloud: Cloud, access_key_id: str, shut_down: Callable[[], object]) -> None:
        self._cloud = cloud
        self._access_key_id = access_key_id
        self._shut_down = shut_down
        self._expected: dict[int, float] = {}
        self._verbs: dict[str, Callable[[dict[str, Any]], object]] = {
            "health": lambda _: {"cloud_id": cloud.cloud_id, "has_own_addresses": cloud.addresses.are_own},
            "instances": lambda _: {"instances": cloud.instances.describe()},
            "interrupt": self._interrupt,
            "rebalance": lambda body: cloud.rebalance(body["instance_id"]),
            "freeze": lambda body: cloud.freeze(body["instance_id"]),
            "thaw": lambda body: cloud.freeze(body["instance_id"], thaw=True),
            "cut": lambda body: cloud.cut(body["instance_id"], body.get("after_bytes")),
            "add-faults": self._add_faults,
            "clear-faults": lambda _: cloud.clear_faults(),
            "fill-disk": lambda body: cloud.fill_disk(body["instance_id"], full=bool(body.get("full", True))),
            "set-link": lambda body: cloud.set_link(body["instance_id"], down=bool(body["down"])),
            "dump": lambda _: dump(cloud),
            "capacity": self._set_capacity,
            "quota": self._set_quota,
            "expect": self._expect,
            "stop": lambda _: self._stop(),
            "stop-if-idle": self._stop_if_idle,
        }

    def reply(self, path: str, body: bytes, key: str) -> Reply:
        """Answer one request."""
        try:
            if (power := _POWER.fullmatch(path)) is not None:
                content = json.loads(body)
                self._cloud.power(power[1], power[2], str(content["action"]), float(content["delay_s"]))
                return json_reply({})
            if not secrets.compare_digest(key.encode(), self._access_key_id.encode()):
                return json_reply({"error": "AuthFailure: wrong key; the key is in the cloud's endpoint.json"}, 403)
            content = json.loads(body or b"{}")
            verb = path.removeprefix(CONTROL_PREFIX)
            if verb not in self._verbs:
                return json_reply({"error": f"unknown control {verb!r}; known: {', '.join(self._verbs)}"}, 404)
            if verb not in ("health", "stop-if-idle"):
                self._cloud.last_request = time.monotonic()
            return json_reply(self._verbs[verb](content) or {})
        except RefusedError as refusal:
            return json_reply({"error": str(refusal)}, 400)
        except (KeyError, TypeError, ValueError) as error:
            return json_reply({"error": f"bad control request: {error}"}, 400)

    def _interrupt(self, body: dict[str, Any]) -> None:
        notice_s = body.get("notice_s")
        self._cloud.interrupt_together(
            body["instance_ids"] if "instance_ids" in body else [body["instance_id"]],
            notice=bool(body.get("notice", True)),
            notice_s=None if notice_s is None else float(notice_s),
            terminate=bool(body.get("terminate", True)),
        )

    def _add_faults(self, body: dict[str, Any]) -> None:
        for fault in parse_faults(body["faults"]):
            self._cloud.apply(fault)

    def _set_capacity(self, body: dict[str, Any]) -> None:
        count = body.get("count")
        conditions = self._cloud.conditions
        conditions.set_capacity(str(body["type"]), str(body["zone"]), None if count is None else int(count))

    def _set_quota(self, body: dict[str, Any]) -> None:
        vcpus = body.get("vcpus")
        account = self._cloud.conditions.account
        account.set(str(body["code"]), None if vcpus is None else float(vcpus), body.get("region"))

    def _expect(self, body: dict[str, Any]) -> None:
        """Note a process that is about to launch. `notice_s`, if given, becomes the default length of a notice."""
        self._expected[int(body["pid"])] = time.monotonic()
        if body.get("notice_s") is not None:
            self._cloud.settings.notice_s = float(body["notice_s"])

    def _stop(self) -> None:
        self._cloud.stopping = True
        self._shut_down()

    def _stop_if_idle(self, body: dict[str, Any]) -> dict[str, object]:
        with self._cloud.lock:  # no launch may happen between the check and the decision
            idle = self._cloud.instances.is_idle()
            wait_s = self._wait_s(int(body["pid"])) if idle else 0.0
            stopping = idle and wait_s <= 0
            self._cloud.stopping = self._cloud.stopping or stopping
        if stopping:
            self._shut_down()
        return {"stopping": stopping, "wait_s": wait_s}

    def _wait_s(self, caller: int) -> float:
        """Return how many seconds to wait for launches of other running processes that have just called `ensure`."""
        others = [since for pid, since in self._expected.items() if pid != caller and is_running(pid)]
        return max(0.0, max(others) + _EXPECT_S - time.monotonic()) if others else 0.0
