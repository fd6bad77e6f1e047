"""What is decided between the settings of a launch and the run that is led."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import SpecError
from orchestrator.host.sync import Tree
from orchestrator.plan.launch_preparation import (
    PreparedLaunch,
    changes_since_launch,
    check_home,
    create_run,
    prepare_existing_run,
    prepare_launch,
    read_request,
)
from orchestrator.plan.preview import dry_run, tree_text
from orchestrator.plan.requests import Plan
from orchestrator.runs.events import StateChanged
from orchestrator.runs.store import RunStore
from tests.support.memory import MemoryCloud, VirtualClock
from tests.support.report_runs import Had, write_run

FLAGS: Mapping[str, Any] = {
    "instance": "g4dn.xlarge,g5.xlarge",
    "spot": True,
    "cloud": "aws",
    "region": ["us-east-1"],
    "name": "new",
    "steps": 1000,
    "instance_profile": "mine",
}


@pytest.fixture
def cloud() -> MemoryCloud:
    """Give an in-memory cloud, where both types have one price."""
    return MemoryCloud(VirtualClock())


def measure(home: Path, **images_per_s: float) -> None:
    """Write a run on AWS that has measured each of these types."""
    for name, speed in images_per_s.items():
        write_run(home, f"measured-{name}", [Had(f"{name}.xlarge", images_per_s=speed)])


def prepared(home: Path, cloud: MemoryCloud) -> PreparedLaunch:
    """Return the launch of FLAGS, prepared."""
    request = read_request(FLAGS, [], home)
    check_home(request, home)
    return prepare_launch(request, cloud, home)


def first_type(plan: Plan) -> str:
    """Return the type that is tried first."""
    return plan.offers[0].pool.instance_type


def test_launch_and_attach_rank_by_measured_dollars_per_image(home: Path, cloud: MemoryCloud) -> None:
    measure(home, g4dn=100.0, g5=900.0)
    launch = prepared(home, cloud)
    assert launch.plan.is_ranked_by_value
    assert first_type(launch.plan) == "g5.xlarge"
    store = create_run(launch).store
    for verb in ("attach", "stop", "resume"):
        plan = prepare_existing_run(store, cloud, verb).plan  # type: ignore[arg-type]  # three of the four
        assert (plan.is_ranked_by_value, first_type(plan)) == (True, "g5.xlarge")


def test_a_type_that_was_not_measured_leaves_the_order_by_price(home: Path, cloud: MemoryCloud) -> None:
    measure(home, g5=900.0)
    plan = prepared(home, cloud).plan
    assert not plan.is_ranked_by_value
    assert [o.price_usd_h for o in plan.offers] == sorted(o.price_usd_h for o in plan.offers)
    assert first_type(plan) == "g4dn.xlarge"


def test_a_dry_run_shows_the_order_of_the_launch(
    home: Path, cloud: MemoryCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(home, g4dn=100.0, g5=900.0)
    monkeypatch.setattr("orchestrator.plan.preview.cloud_of", lambda spec, home: nullcontext(cloud))
    monkeypatch.setattr("orchestrator.plan.preview.check_account", lambda spec: None)
    shown = dry_run(read_request(FLAGS, [], home), home)
    assert shown.details["offers"][0]["instance_type"] == "g5.xlarge"


def test_nothing_is_created_before_create_run(home: Path, cloud: MemoryCloud) -> None:
    launch = prepared(home, cloud)
    assert RunStore.all(home) == []
    assert cloud.calls == []
    run = create_run(launch)
    assert (run.verb, run.store.state().state) == ("launch", "PENDING")
    with pytest.raises(SpecError, match="there is a run called new already"):
        check_home(read_request(FLAGS, [], home), home)


def test_a_run_whose_key_cannot_be_read_is_not_created(home: Path, cloud: MemoryCloud, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text("no key")
    request = read_request({**FLAGS, "key": str(key)}, [], home)
    with pytest.raises(SpecError):
        create_run(prepare_launch(request, cloud, home))
    assert RunStore.all(home) == []


def test_a_file_name_makes_no_line_of_its_own_in_a_preview(tmp_path: Path) -> None:
    (tmp_path / "a\n12:00:00 SUCCEEDED").write_text("x")
    shown = tree_text(Tree(tmp_path, ("a\n12:00:00 SUCCEEDED",)))
    assert shown.splitlines()[0] == "a\\n12:00:00 SUCCEEDED"


def test_a_run_outlives_the_folder_that_it_was_launched_from(home: Path, cloud: MemoryCloud, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "train.py").write_text("print(1)")
    flags = {**FLAGS, "steps": None, "workdir": str(work)}
    request = read_request(flags, ["python", "train.py"], home)
    check_home(request, home)
    launched = create_run(prepare_launch(request, cloud, home))
    assert launched.lock is not None
    launched.store.append(StateChanged(at=2.0, state="STOPPED", reason="stop"))
    launched.lock.release()
    shutil.rmtree(work)
    again = read_request({"resume": "new"}, [], home)
    assert any("is not there any more: the files of the launch are sent" in note for note in again.tree.notes)
    assert changes_since_launch(again) == ""
    resumed = create_run(prepare_launch(again, cloud, home))
    assert resumed.tree.files == ("train.py",)
    assert (resumed.tree.folder / "train.py").read_text() == "print(1)"
