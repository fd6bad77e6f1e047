"""MLflow in memory: the part of its client that the export uses, with the rules of its stores.

Values are appended, a parameter is set once, a deleted run is not found. The tests hold it and a real file store to the
same behaviour.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import pytest


class Metric(NamedTuple):
    """A value of a metric."""

    key: str
    value: float
    timestamp: int
    step: int


class Param(NamedTuple):
    """A parameter."""

    key: str
    value: str


RunTag = Param


class Server:
    """What all clients see."""

    def __init__(self) -> None:
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, SimpleNamespace] = {}


class Client:
    """A client of one server.

    Args:
        server: the server.
    """

    def __init__(self, server: Server) -> None:
        self.server = server

    def get_experiment_by_name(self, name: str) -> Any:
        """Return the experiment, None if there is none."""
        number = self.server.experiments.get(name)
        return None if number is None else SimpleNamespace(experiment_id=number, name=name)

    def create_experiment(self, name: str) -> str:
        """Make an experiment; return its id."""
        self.server.experiments[name] = str(len(self.server.experiments) + 1)
        return self.server.experiments[name]

    def create_run(self, experiment: str, start_time: int, tags: dict[str, str], run_name: str) -> Any:
        """Make a run."""
        info = SimpleNamespace(
            run_id=f"run{len(self.server.runs)}", experiment_id=experiment, run_name=run_name, status="RUNNING",
            start_time=start_time, end_time=None, lifecycle_stage="active",
        )  # fmt: skip
        self.server.runs[info.run_id] = SimpleNamespace(
            info=info, tags=dict(tags), params={}, history={}, artifacts={}, metrics={}
        )
        return self.get_run(info.run_id)

    def get_run(self, number: str) -> Any:
        """Return a run as it is now."""
        run = self.server.runs[number]
        newest = {
            key: max(values, key=lambda one: (one.step, one.timestamp)).value for key, values in run.history.items()
        }
        data = SimpleNamespace(tags=dict(run.tags), params=dict(run.params), metrics=newest)
        return SimpleNamespace(info=run.info, data=data)

    def search_runs(self, experiments: Sequence[str], words: str) -> list[Any]:
        """Return the runs with a tag that are not deleted, the newest first."""
        found = re.fullmatch(r"tags\.`([^`]+)` = '([^']*)'", words)
        assert found, words
        return [
            self.get_run(number)
            for number, run in reversed(self.server.runs.items())
            if run.info.experiment_id in experiments
            and run.info.lifecycle_stage == "active"
            and run.tags.get(found[1]) == found[2]
        ]

    def delete_run(self, number: str) -> None:
        """Put a run into the trash."""
        self.server.runs[number].info.lifecycle_stage = "deleted"

    def get_metric_history(self, number: str, key: str) -> list[Metric]:
        """Return all values of a metric."""
        return list(self.server.runs[number].history.get(key, []))

    def log_batch(
        self, number: str, metrics: Sequence[Metric] = (), params: Sequence[Param] = (), tags: Sequence[Param] = ()
    ) -> None:
        """Append values, set parameters and tags."""
        run = self.server.runs[number]
        assert len(metrics) <= 1000
        assert len(params) <= 100
        assert len(tags) <= 100
        for one in metrics:
            assert re.fullmatch(r"[\w./ -]+", one.key, re.ASCII), one.key
            assert not any(part in ("", ".", "..") for part in one.key.split("/")), one.key
            assert not any(key.startswith(f"{one.key}/") or one.key.startswith(f"{key}/") for key in run.history), (
                one.key
            )
            run.history.setdefault(one.key, []).append(one)
        for param in params:
            if run.params.setdefault(param.key, param.value) != param.value:
                raise ValueError(f"Changing param values is not allowed: {param.key}")
        run.tags.update({tag.key: tag.value for tag in tags})

    def set_tag(self, number: str, key: str, value: str) -> None:
        """Set a tag."""
        self.server.runs[number].tags[key] = value

    def list_artifacts(self, number: str, path: str) -> list[Any]:
        """Return the files in a folder."""
        return [
            SimpleNamespace(path=name) for name in self.server.runs[number].artifacts if name.startswith(f"{path}/")
        ]

    def log_artifact(self, number: str, path: str, folder: str) -> None:
        """Take a file."""
        self.server.runs[number].artifacts[f"{folder}/{Path(path).name}"] = Path(path).read_bytes()

    def set_terminated(self, number: str, status: str, end_time: int) -> None:
        """End a run."""
        info = self.server.runs[number].info
        info.status, info.end_time = status, end_time

    def update_run(self, number: str, status: str) -> None:
        """Set the status of a run."""
        self.server.runs[number].info.status = status


def install(monkeypatch: pytest.MonkeyPatch) -> Client:
    """Let `import mlflow` give MLflow in memory; return a client."""
    server = Server()
    mlflow, tracking, entities = (ModuleType(name) for name in ("mlflow", "mlflow.tracking", "mlflow.entities"))
    tracking.MlflowClient = lambda tracking_uri: Client(server)  # type: ignore[attr-defined]
    entities.Metric, entities.Param, entities.RunTag = Metric, Param, RunTag  # type: ignore[attr-defined]
    for module in (mlflow, tracking, entities):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return Client(server)
