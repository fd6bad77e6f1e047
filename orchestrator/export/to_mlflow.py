"""Writes a run into MLflow, by its client alone. Needs the package mlflow or mlflow-skinny.

MLflow appends: a value can be added to a metric and not replaced, a parameter can be set once. So what is there already
is read first, and only the rest is written. A step whose value is another by now was trained again: then the tracker's
run is deleted (MLflow keeps it in its trash) and written anew, with the tags that people gave it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from orchestrator.errors import SpecError
from orchestrator.export.contents import Contents
from orchestrator.export.names import not_a_folder, without_login

PLACE = "MLFLOW_TRACKING_URI"
FILE_STORE = "MLFLOW_ALLOW_FILE_STORE"  # MLflow 3 asks for it; a folder that PLACE names is meant
EXPERIMENT = "MLFLOW_EXPERIMENT_NAME"
DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # MLflow's 7 take four minutes with a server that is down
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
OURS = "pixel_orch."
ID = f"{OURS}id"
NOTE = "mlflow.note.content"
BATCH = 1000  # metrics of a request, https://mlflow.org/docs/latest/api_reference/rest-api.html#log-batch
PARAMS_BATCH = 100
STATUS = {"SUCCEEDED": "FINISHED", "FAILED": "FAILED", "CANCELLED": "KILLED", "STOPPED": "KILLED"}


def check_place(flag: str = "--export") -> str:
    """Return where MLflow is, from the environment.

    Args:
        flag: by which MLflow was asked for.

    Raises:
        SpecError: it is not said, or depends on the current folder: a run in the background has another one.
    """
    uri = os.environ.get(PLACE, "").strip()
    if not uri:
        raise SpecError(
            f"{flag} mlflow: {PLACE} is not set; give the address of your server, for example "
            f"{PLACE}=http://127.0.0.1:5000, or a folder: {PLACE}=file://$HOME/mlruns"
        )
    if _is_relative(uri):
        raise SpecError(
            f"{flag} mlflow: {PLACE}={without_login(uri)} depends on the current folder, and a run in the background "
            "has another one; give an absolute path: file:///PATH, sqlite:////PATH"
        )
    return uri


def _is_relative(uri: str) -> bool:
    if uri.startswith("sqlite:"):  # SQLAlchemy's form: four slashes before an absolute path
        return not uri.startswith("sqlite:////")
    if uri.startswith("file:"):
        return not uri.removeprefix("file:").removeprefix("//").startswith("/")
    return ":" not in uri and not uri.startswith(("/", "databricks"))


def write(contents: Contents, home: Path) -> str:
    """Write the run; return where it is found.

    Raises:
        SpecError: the environment does not say where MLflow is.
        Exception: MLflow's own, if it does not answer or refuses.
    """
    uri = check_place()
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    if "://" not in uri or uri.startswith("file:"):
        os.environ.setdefault(FILE_STORE, "true")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = _experiment(client)
    metrics = _metrics(contents)
    run = _found(client, experiment, contents)
    there = _there(client, run) if run is not None else {}
    kept: dict[str, str] = {}
    if run is not None and _contradicts(there, metrics, is_over=contents.is_over):
        kept, there = _foreign_tags(run), {}
        client.delete_run(run.info.run_id)
        run = None
    if run is None:
        tags = {**kept, ID: contents.id, "mlflow.source.name": "pixel-orch", "mlflow.source.type": "JOB"}
        run = client.create_run(experiment, start_time=_ms(contents.began_at), run_name=contents.run, tags=tags)
    _write_into(client, run, contents, [one for one in metrics if not _is_there(there, one)])
    return _address(uri, experiment, run.info.run_id)


def _experiment(client: Any) -> str:
    name = os.environ.get(EXPERIMENT) or "pixel-orch"
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found is not None else client.create_experiment(name))


def _found(client: Any, experiment: str, contents: Contents) -> Any:
    """Return the tracker's run of an export before this one, None if there is none."""
    return next(iter(client.search_runs([experiment], f"tags.`{ID}` = '{contents.id}'")), None)


Measured = tuple[str, int, float, int]  # name, step, value, milliseconds


def _metrics(contents: Contents) -> list[Measured]:
    curves, figures = contents.settled, contents.figures
    names = not_a_folder([*curves, *figures])
    found = [(names[name], one.step, one.value, _ms(one.at)) for name, points in curves.items() for one in points]
    at = _ms(contents.seen_at)
    return found + [(names[name], contents.steps, value, at) for name, value in figures.items()]


def _there(client: Any, run: Any) -> dict[str, dict[int, float]]:
    """Return the values that the tracker has, by metric and step, the newest last; of several at a step the newest."""
    found: dict[str, dict[int, float]] = {}
    for name in run.data.metrics:
        values = found[name] = {}
        for one in sorted(client.get_metric_history(run.info.run_id, name), key=lambda one: one.timestamp):
            values.pop(one.step, None)
            values[one.step] = one.value
    return found


def _is_ours(name: str) -> bool:
    return name.startswith(("bill/", "run/"))


def _is_there(there: dict[str, dict[int, float]], one: Measured) -> bool:
    name, step, value, _ = one
    values = there.get(name, {})
    if _is_ours(name):  # figures of the whole run change while it goes on: each change is a point
        return value in list(values.values())[-1:]
    return values.get(step) == value


def _contradicts(there: dict[str, dict[int, float]], metrics: Sequence[Measured], *, is_over: bool) -> bool:
    """Whether the tracker has a value of a step that is another one here, or a step that was never done again."""
    here: dict[str, dict[int, float]] = {}
    for name, step, value, _ in metrics:
        if not _is_ours(name):
            here.setdefault(name, {})[step] = value
    for name, values in here.items():
        told = there.get(name, {})
        if is_over and max(told, default=0) > max(values):
            return True
        if any(told.get(step, value) != value for step, value in values.items()):
            return True
    return False


def _foreign_tags(run: Any) -> dict[str, str]:
    """Return the tags that people gave a run, its note among them."""
    return {key: value for key, value in run.data.tags.items() if key == NOTE or not key.startswith(("mlflow.", OURS))}


def _write_into(client: Any, run: Any, contents: Contents, metrics: Sequence[Measured]) -> None:
    from mlflow.entities import Metric, Param, RunTag

    number, old = run.info.run_id, run.data.params
    tags = {f"{OURS}{key}": value for key, value in contents.tags.items()}
    tags |= {f"{OURS}{key}": value for key, value in contents.params.items() if old.get(key, value) != value}
    params = [Param(key, value) for key, value in contents.params.items() if key not in old]
    for some in _batches(params, PARAMS_BATCH):
        client.log_batch(number, params=some)
    for some in _batches([RunTag(key, value) for key, value in tags.items()], PARAMS_BATCH):
        client.log_batch(number, tags=some)
    for some in _batches([Metric(name, value, at, step) for name, step, value, at in metrics], BATCH):
        client.log_batch(number, metrics=some)
    _write_samples(client, number, contents)
    if contents.is_over:
        client.set_terminated(number, STATUS.get(contents.state, "FINISHED"), end_time=_ms(contents.seen_at))
    else:
        client.update_run(number, status="RUNNING")


def _write_samples(client: Any, number: str, contents: Contents) -> None:
    there = {Path(one.path).name for one in client.list_artifacts(number, "samples")} if contents.samples else set()
    with tempfile.TemporaryDirectory(prefix="pixel-orch-") as folder:
        for one in contents.samples:
            if one.name not in there:
                path = Path(folder) / one.name
                path.write_bytes(one.png)
                client.log_artifact(number, str(path), "samples")


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[first : first + size] for first in range(0, len(items), size))


def _ms(at: float) -> int:
    return round(at * 1000)


def _address(uri: str, experiment: str, number: str) -> str:
    if urlsplit(uri).scheme in ("http", "https"):
        return f"{without_login(uri).rstrip('/')}/#/experiments/{experiment}/runs/{number}"
    return f"run {number} in {without_login(uri)}"
