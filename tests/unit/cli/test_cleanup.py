"""`cleanup`: orphaned instances are listed, and ended only when told."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import cleanup
from orchestrator.cli.main import main
from orchestrator.cloud.base import OWNER_TAG, RUN_TAG, Instance, Leftover
from orchestrator.errors import AccessError
from orchestrator.runs.events import RunCreated
from orchestrator.runs.home import home_id
from orchestrator.runs.spec import RunSpec
from orchestrator.runs.store import RunStore

CLEANUP = ["cleanup", "--region", "us-east-1"]


class Left:
    """A cloud with instances that somebody has left."""

    def __init__(self) -> None:
        self.found: dict[str, Instance] = {}
        self.left: list[Leftover] = []
        self.in_use: set[str] = set()
        self.refuses = False

    def add(self, name: str, home: str) -> None:
        """Let one run."""
        tags = {RUN_TAG: "lost-1", OWNER_TAG: home}
        self.found[name] = Instance(name, "g5.2xlarge", "us-east-1a", "us-east-1", "spot", "running", 0.0, tags=tags)

    def instances(self, run: str | None = None) -> list[Instance]:
        """Return all."""
        return list(self.found.values())

    def terminate(self, region: str, instance_ids: Sequence[str]) -> None:
        """End them at once."""
        for name in instance_ids:
            self.found[name] = replace(self.found[name], state="terminated")

    def leftovers(self, home_id: str) -> list[Leftover]:
        """Return what is left of this home."""
        if self.refuses:
            raise AccessError("DescribeVolumes: you may not")
        return list(self.left)

    def remove_leftover(self, left: Leftover) -> bool:
        """Delete one, unless an instance has it."""
        if left.name in self.in_use:
            return False
        self.left.remove(left)
        return True

    def close_security_group(self, region: str, run: str, home_id: str = "") -> None:
        """There is none."""


@pytest.fixture
def left(home: Path, monkeypatch: pytest.MonkeyPatch) -> Left:
    """Give such a cloud as AWS, and no terminal."""
    cloud = Left()
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    monkeypatch.setattr(cleanup, "open_cloud", lambda *_: nullcontext(cloud))
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    return cloud


@pytest.mark.parametrize("more", [[], ["--dry-run"], ["--dry-run", "-y"]])
def test_it_lists_what_is_billed_and_ends_nothing(left: Left, home: Path, capsys: Any, more: list[str]) -> None:
    left.add("i-1", home_id(home))
    left.add("i-2", "another")
    assert main([*CLEANUP, *more]) == 1
    out, err = capsys.readouterr()
    assert "i-1" in out
    assert "g5.2xlarge" in out
    assert "left alone: i-2" in out
    assert "cleanup -y ends it" in out
    assert err == ""
    assert left.found["i-1"].state == "running"


def test_for_programs_it_only_lists_without_leave(left: Left, home: Path, capsys: Any) -> None:
    left.add("i-1", home_id(home))
    assert main([*CLEANUP, "-o", "json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert [(one["instance_id"], one["run"]) for one in said["billed"]] == [("i-1", "lost-1")]
    assert (said["ended"], left.found["i-1"].state) == ([], "running")
    assert main([*CLEANUP, "-o", "json", "-y"]) == 0
    assert json.loads(capsys.readouterr().out)["ended"] == ["i-1"]
    assert left.found["i-1"].state == "terminated"


GROUP = Leftover("placement group", "pixel-orch-lost-1", "us-east-1", "lost-1")
VOLUME = Leftover("volume", "vol-1", "us-east-1", "lost-2", "50 GiB")


def test_what_a_run_has_left_besides_instances_is_listed_and_removed(left: Left, capsys: Any) -> None:
    left.left = [GROUP, VOLUME]
    assert main([*CLEANUP]) == 1
    out = capsys.readouterr().out
    assert "left: placement group pixel-orch-lost-1 (of lost-1)" in out
    assert "left: volume vol-1 (of lost-2, 50 GiB)" in out
    assert left.left == [GROUP, VOLUME]
    assert main([*CLEANUP, "-o", "json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert [(one["kind"], one["name"], one["run"]) for one in said["left"]] == [
        ("placement group", "pixel-orch-lost-1", "lost-1"),
        ("volume", "vol-1", "lost-2"),
    ]
    assert main([*CLEANUP, "-y"]) == 0
    out = capsys.readouterr().out
    assert "removed volume vol-1" in out
    assert "nothing to do" not in out
    assert left.left == []
    assert main([*CLEANUP, "-y", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["removed"] == []


def test_what_an_instance_still_has_is_said_and_is_no_success(left: Left, capsys: Any) -> None:
    left.left, left.in_use = [GROUP, VOLUME], {GROUP.name}
    assert main([*CLEANUP, "-y"]) == 1
    out, err = capsys.readouterr()
    assert "removed volume vol-1" in out
    assert err.count("\n") == 1
    assert "placement group pixel-orch-lost-1 (of lost-1) still has an instance; repeat the command" in err


def test_a_group_of_an_instance_that_is_ended_goes_with_it(left: Left, home: Path, capsys: Any) -> None:
    left.add("i-1", home_id(home))
    left.left = [GROUP]
    assert main([*CLEANUP]) == 1
    assert "left: placement group" not in capsys.readouterr().out, "its instance is there: nothing is left yet"
    assert main([*CLEANUP, "-y"]) == 0
    assert "removed placement group pixel-orch-lost-1" in capsys.readouterr().out


def test_what_a_run_that_is_led_has_made_stays(left: Left, home: Path, capsys: Any) -> None:
    spec = RunSpec(run="lost-1", cloud="aws", instances=("p2.xlarge",), market="spot", regions=("us-east-1",))
    left.left = [GROUP]
    with RunStore.create(home, spec).owned():
        assert main([*CLEANUP, "-y"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert left.left == [GROUP]


def test_a_policy_that_hides_volumes_does_not_hide_instances(left: Left, home: Path, capsys: Any) -> None:
    left.add("i-1", home_id(home))
    left.refuses = True
    assert main([*CLEANUP, "-y"]) == 0
    out, err = capsys.readouterr()
    assert "terminated i-1" in out
    assert err == "pixel-orch cleanup: volumes and groups were not looked for: DescribeVolumes: you may not\n"


def test_nothing_to_do_is_0_however_it_is_asked(left: Left, capsys: Any) -> None:
    left.add("i-2", "another")
    for more in ([], ["--dry-run"], ["-y"], ["-o", "json"]):
        assert main([*CLEANUP, *more]) == 0, "what another home rents is that one's"
        capsys.readouterr()


def test_a_run_of_an_embedded_cloud_that_is_gone_is_listed_too(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    spec = RunSpec(run="lost", cloud="local", instances=("p2.xlarge",), market="spot", regions=("us-east-1",))
    store = RunStore.create(home, spec)
    store.append(RunCreated(at=1.0, run="lost", cloud="embedded cloud"))
    assert main(["cleanup", "--cloud", "local"]) == 1
    assert "runs that no process leads: lost" in capsys.readouterr().out
    assert not store.state().is_final
    assert main(["cleanup", "--cloud", "local", "-y"]) == 0
    assert store.state().state == "CANCELLED"


def test_the_old_name_works_and_says_that_it_goes(left: Left, capsys: Any) -> None:
    assert main(["sweep", "--region", "us-east-1"]) == 0
    out, err = capsys.readouterr()
    assert out == "nothing to do: no orphaned instances found\n"
    assert err == "pixel-orch: sweep is now called cleanup; the old name will be removed\n"
