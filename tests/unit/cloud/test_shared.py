"""Many engines, one cloud: describes are shared, and EC2's rates are kept."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from orchestrator.cloud.base import RUN_TAG, Instance
from orchestrator.cloud.shared import RATES, SharedCloud, TokenBucket
from tests.support.memory import MemoryCloud, VirtualClock


class Watch:
    """A monotonic clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.at = 0.0

    def now(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds


def test_a_bucket_lets_a_burst_through_and_then_its_rate() -> None:
    watch = Watch()
    bucket = TokenBucket(5, 2.0, now=watch.now, sleep=watch.sleep)
    times = []
    for _ in range(11):
        bucket.take()
        times.append(watch.at)
    assert times[:5] == [0.0] * 5
    assert times[5:] == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    watch.sleep(100)
    before = watch.at
    for _ in range(5):
        bucket.take()
    assert watch.at == before, "it has filled up, to the brim and no further"
    bucket.take()
    assert watch.at == before + 0.5


class Counting(MemoryCloud):
    """Counts describes."""

    described = 0

    def instances(self, run: str | None = None) -> list[Instance]:
        self.described += 1
        assert run is None, "one list for all runs"
        return [_instance(f"i-{n}", f"run-{n}") for n in range(200)]


def _instance(name: str, run: str) -> Instance:
    return Instance(name, "g4dn.xlarge", "us-east-1a", "us-east-1", "spot", "running", 0.0, tags={RUN_TAG: run})


def test_two_hundred_runs_that_look_every_5_s_are_one_describe_every_5_s() -> None:
    watch = Watch()
    cloud = Counting(VirtualClock())
    shared = SharedCloud(cloud, fresh_s=5.0, now=watch.now, sleep=watch.sleep)
    for _ in range(12):  # a minute
        for n in range(200):
            (instance,) = shared.instances(f"run-{n}")
            assert instance.instance_id == f"i-{n}"
        watch.sleep(5.0)
    assert cloud.described == 12
    assert len(shared.instances()) == 200
    assert shared.instances("nobody") == []


def test_threads_that_ask_at_once_share_one_answer() -> None:
    began = threading.Barrier(8)
    calls: list[int] = []

    class Slow(Counting):
        def offerings(self, instance_types: Sequence[str]):  # type: ignore[no-untyped-def]
            calls.append(1)
            return super().offerings(instance_types)

    shared = SharedCloud(Slow(VirtualClock()), fresh_s=60.0)

    def ask() -> None:
        began.wait()
        shared.offerings(["g4dn.xlarge"])

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [1]


def test_launches_keep_to_two_a_second() -> None:
    assert RATES["launch"] == (5, 2.0)
    watch = Watch()
    cloud = MemoryCloud(VirtualClock())
    shared = SharedCloud(cloud, fresh_s=5.0, now=watch.now, sleep=watch.sleep)
    cloud.launch = lambda call, template=None: _instance("i-1", "run-1")  # type: ignore[method-assign]
    for _ in range(45):
        shared.launch(None)  # type: ignore[arg-type]
    assert watch.at == 20.0
