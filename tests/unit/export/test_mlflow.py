"""A run in MLflow: each step once, again and again; in a store in memory, and in a real one of files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import SpecError
from orchestrator.export.to_mlflow import check_place
from orchestrator.export.trackers import export, is_installed
from orchestrator.runs.events import StateChanged
from orchestrator.runs.store import RunStore
from tests.support import memory_mlflow
from tests.support.report_runs import BORN, PNG, Had, write_run

NOW = BORN + 100_000
INTERRUPTED = [Had(ended_by="aws", seconds=600, last_step=60), Had(first_step=41, last_step=80)]


@pytest.fixture(params=["in memory", "files"])
def client(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a client of the store that the export writes into."""
    uri = f"file://{tmp_path}/mlruns"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    if request.param == "in memory":
        return memory_mlflow.install(monkeypatch)
    if not is_installed("mlflow"):
        pytest.skip("mlflow takes 120 MB: make test-exports")
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)


def the_run(client: Any) -> Any:
    """Return the only run of the tracker that is not deleted."""
    experiment = client.get_experiment_by_name("pixel-orch").experiment_id
    (run,) = client.search_runs([experiment], "tags.`mlflow.source.name` = 'pixel-orch'")
    return run


def points(client: Any, run: Any, name: str) -> list[tuple[int, float]]:
    """Return (step, value) of a metric."""
    return [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, name)]


def everything(client: Any) -> dict[str, Any]:
    """Return all that the tracker has of the run."""
    run = the_run(client)
    history = {name: points(client, run, name) for name in run.data.metrics}
    return {"history": history, "tags": run.data.tags, "params": run.data.params, "status": run.info.status}


def test_a_run_has_its_metrics_bill_parameters_tags_and_samples(home: Path, client: Any) -> None:
    store = write_run(home, "digits", INTERRUPTED)
    (store.folder / "samples-80.png").write_bytes(PNG)
    place = export(store, "mlflow", NOW)
    run = the_run(client)
    assert run.info.run_id in place
    nats = points(client, run, "nats")
    assert [step for step, _ in nats] == list(range(1, 81)), "steps 41 to 60 were trained twice"
    assert [step for step, _ in points(client, run, "valid/nats")] == [50]
    metrics = run.data.metrics
    parts = [metrics[f"bill/{part}_usd"] for part in ("instance", "disk", "address", "data_out")]
    assert metrics["bill/total_usd"] == pytest.approx(sum(parts))
    assert metrics["bill/saving_usd"] == pytest.approx(metrics["bill/on_demand_usd"] - metrics["bill/total_usd"])
    params, tags = run.data.params, run.data.tags
    assert (params["instance_type"], params["region"], params["seed"]) == ("g4dn.xlarge", "us-east-1", "0")
    assert (tags["pixel_orch.state"], tags["pixel_orch.attempts"], tags["pixel_orch.interruptions"]) == (
        "SUCCEEDED",
        "2",
        "1",
    )
    assert [Path(one.path).name for one in client.list_artifacts(run.info.run_id, "samples")] == ["samples-80.png"]
    assert (run.info.status, run.info.run_name, run.info.start_time) == ("FINISHED", "digits", BORN * 1000)


def test_a_second_export_changes_nothing(home: Path, client: Any) -> None:
    store = write_run(home, "digits", INTERRUPTED)
    export(store, "mlflow", NOW)
    before = everything(client)
    export(store, "mlflow", NOW + 1000)
    assert everything(client) == before


def test_a_run_that_goes_on_has_the_steps_that_no_machine_will_train_again(home: Path, client: Any) -> None:
    store = write_run(home, "digits", [Had(last_step=60, ended_by=None)])
    lines = store.metrics_path(1).read_text().splitlines()
    more = [line.replace('"step": 60,', f'"step": {step},') for line in lines[-1:] for step in range(61, 71)]
    store.metrics_path(1).write_text("\n".join([*lines, *more]) + "\n")
    export(store, "mlflow", NOW)
    run = the_run(client)
    assert run.info.status == "RUNNING"
    assert points(client, run, "nats")[-1][0] == 60, "that is the newest checkpoint"
    store.append(StateChanged(at=NOW, state="STOPPED"))
    export(store, "mlflow", NOW + 10)
    run = the_run(client)
    assert run.info.status == "KILLED"
    assert [step for step, _ in points(client, run, "nats")] == list(range(1, 71))


def test_steps_that_were_trained_again_after_the_export_are_written_anew(home: Path, client: Any) -> None:
    store = write_run(home, "digits", [Had(last_step=60)])
    export(store, "mlflow", NOW)
    old = the_run(client)
    client.set_tag(old.info.run_id, "team", "vision")
    shutil.rmtree(store.folder)
    write_run(home, "digits", [Had(last_step=60), Had(first_step=41, last_step=50, images_per_s=500.0)])
    export(RunStore.open(home, "digits"), "mlflow", NOW)
    run = the_run(client)
    assert run.info.run_id != old.info.run_id
    assert run.data.tags["team"] == "vision"
    speeds = points(client, run, "images_per_s")
    assert [step for step, _ in speeds] == list(range(1, 51)), "51 to 60 are gone: they belong to what was given up"
    assert dict(speeds)[45] == 500.0


def test_names_of_a_stranger_are_taken(home: Path, client: Any) -> None:
    line = '{"step": 1, "loss": 1.0, "loss/kl": 2.0, "../up": 3.0, "bill/total_usd": -5.0, "a\\u001b[2J": 4.0, "": 5.0}'
    store = write_run(home, "own", [Had(lines=[line], last_step=1)], trainer=None, command=("python", "t.py"))
    export(store, "mlflow", NOW)
    metrics = the_run(client).data.metrics
    assert metrics["loss.value"] == 1.0, "a store of files cannot have a file and a folder of one name"
    assert metrics["loss/kl"] == 2.0
    assert metrics["bill/total_usd"] > 0, "a program does not write its own bill"
    assert sorted(value for value in metrics.values() if value in (-5.0, 3.0, 4.0, 5.0)) == [-5.0, 3.0, 4.0, 5.0]
    before = everything(client)
    export(store, "mlflow", NOW)
    assert everything(client) == before


def test_a_parameter_that_changed_is_a_tag(home: Path, client: Any) -> None:
    store = write_run(home, "digits", [Had(last_step=10)])
    export(store, "mlflow", NOW)
    shutil.rmtree(store.folder)
    write_run(home, "digits", [Had(last_step=10, instance_type="g5.xlarge")])
    export(RunStore.open(home, "digits"), "mlflow", NOW)
    run = the_run(client)
    assert run.data.params["instance_type"] == "g4dn.xlarge"
    assert run.data.tags["pixel_orch.instance_type"] == "g5.xlarge"


@pytest.mark.parametrize("uri", ["mlruns", "./mlruns", "file:mlruns", "file://mlruns", "sqlite:///mlflow.db"])
def test_a_place_that_depends_on_the_current_folder_is_refused(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(SpecError, match=f"--export mlflow: MLFLOW_TRACKING_URI={uri} depends on the current folder"):
        check_place()


@pytest.mark.parametrize(
    "uri",
    ["/srv/mlruns", "file:///srv/mlruns", "sqlite:////srv/mlflow.db", "http://h:5000", "databricks", "databricks://x"],
)
def test_any_other_place_is_taken(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert check_place() == uri


def test_no_place_is_refused_with_two_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(SpecError, match=r"MLFLOW_TRACKING_URI is not set.*http://127.0.0.1:5000.*file://"):
        check_place()
