"""What is refused before anything is rented, and what a tracker that refuses leads to."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import orchestrator
from orchestrator.cli.main import main
from orchestrator.errors import SpecError
from orchestrator.export.trackers import Exported, ExportError, check_trackers, is_installed, words_of
from orchestrator.plan.settings import resumed_spec, spec_from
from orchestrator.plan.settings_file import FileSettings
from orchestrator.runs.spec import ProgramSpec
from tests.support.report_runs import Had, write_run

ASKED: dict[str, Any] = {"instance": "p2.xlarge", "spot": True, "cloud": "local"}


def all_there(package: str) -> bool:
    return True


@pytest.fixture(autouse=True)
def _place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")


def test_names_are_given_once_or_several_times_with_or_without_commas() -> None:
    assert check_trackers(["mlflow, wandb", "MLflow", "tensorboard"], has=all_there) == (
        "mlflow",
        "wandb",
        "tensorboard",
    )
    assert check_trackers("wandb", has=all_there) == ("wandb",)
    assert check_trackers(None) == check_trackers("") == check_trackers([""]) == ()


def test_an_unknown_tracker_is_refused_with_the_nearest() -> None:
    with pytest.raises(SpecError, match="--export: 'mlfow' is no tracker; did you mean mlflow"):
        check_trackers("mlfow")
    with pytest.raises(SpecError, match="use mlflow, wandb, tensorboard"):
        check_trackers("\x1b[2J")


@pytest.mark.parametrize("name", ["mlflow", "wandb", "tensorboard"])
def test_a_missing_package_is_one_line_with_the_remedy(name: str) -> None:
    line = rf"^--export {name}: the package {name} is missing; pip install 'pixel-orch\[{name}\]'$"
    with pytest.raises(SpecError, match=line):
        check_trackers(name, has=lambda package: False)


def test_a_folder_that_is_called_as_a_package_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "not_a_tracker").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not is_installed("not_a_tracker")
    assert is_installed("json")


def test_a_launch_takes_trackers_from_flags_and_files_and_flags_win() -> None:
    file = FileSettings({"export": ["tensorboard"]})
    assert spec_from(ASKED, (), file).program.export == ("tensorboard",)
    assert spec_from({**ASKED, "export": [""]}, (), file).program.export == ()
    with pytest.raises(SpecError, match="'nobody' is no tracker"):
        spec_from({**ASKED, "export": ["nobody"]}, (), file)


def test_a_resumed_run_keeps_its_trackers_or_gets_others() -> None:
    old = spec_from(ASKED, (), FileSettings({"export": "tensorboard"}))
    assert resumed_spec({}, (), old).program.export == ("tensorboard",)
    assert resumed_spec({"export": [""]}, (), old).program.export == ()


def test_a_found_file_of_a_stranger_exports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    Path("pixel-orch.yaml").write_text("export: tensorboard\n")
    with pytest.raises(SpecError, match="export"):
        spec_from(ASKED, ())


@pytest.mark.parametrize("given", ["nobody", ["tensorboard", "nobody"]])
def test_a_launch_from_python_takes_a_name_or_several(given: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    with pytest.raises(SpecError, match="--export: 'nobody' is no tracker"):
        orchestrator.launch(**ASKED, settings={"steps": 10}, export=given, dry_run=True)


def test_a_run_exports_itself_from_python(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    write_run(home, "digits", [Had()])
    run = orchestrator.result("digits")
    with pytest.raises(SpecError, match=r"^export\(\): name a tracker: mlflow, wandb, tensorboard$"):
        run.export()
    with pytest.raises(SpecError, match=r"^export\(\): 'mlfow' is no tracker; did you mean mlflow\?$"):
        run.export("mlfow")
    monkeypatch.setattr("orchestrator.api.export_elsewhere", lambda store, name: Exported(name, f"{store.run} there"))
    assert run.export("tensorboard") == ["digits there"]
    monkeypatch.setattr("orchestrator.api.export_elsewhere", lambda store, name: Exported(name, problem="it is down"))
    with pytest.raises(ExportError, match="it is down"):
        run.export("tensorboard")


@pytest.fixture
def broken(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a home with a run, and an MLflow that prints and refuses."""

    def refuse(tracking_uri: str) -> None:
        print("noise of a library")
        raise ConnectionError("refused: http://me:pw@127.0.0.1:9/api\nsecond line")

    for name in ("mlflow", "mlflow.tracking"):
        module = ModuleType(name)
        module.__spec__ = type("Spec", (), {"origin": "here"})()  # type: ignore[assignment]
        module.MlflowClient = refuse  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    write_run(home, "digits", [Had()])
    write_run(home, "asked", [Had()], program=ProgramSpec(export=("mlflow",)))
    return home


@pytest.mark.usefixtures("broken")
def test_a_tracker_that_refuses_is_one_line_without_its_password(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "digits", "--to", "mlflow"]) == 1
    out, err = capsys.readouterr()
    assert out == "", "what a library prints is not ours"
    assert "digits: mlflow: refused: http://127.0.0.1:9/api" in err
    assert "Traceback" not in err


@pytest.mark.usefixtures("broken")
def test_json_names_each_export(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "asked", "-o", "json"]) == 1
    (told,) = json.loads(capsys.readouterr().out)["exports"]
    assert (told["run"], told["tracker"], told["place"]) == ("asked", "mlflow", None)
    assert "refused" in told["problem"]


@pytest.mark.usefixtures("broken")
def test_a_run_without_trackers_needs_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "digits"]) == 2
    assert "--to is missing; digits was launched without --export" in " ".join(capsys.readouterr().err.split())
    assert main(["export", "digits", "--to", "nobody"]) == 2
    assert main(["export", "nobody", "--to", "mlflow"]) == 2


def test_the_cause_of_a_connection_that_fails_is_said() -> None:
    text = (
        "API request to http://h:9/api/2.0/x failed with exception HTTPConnectionPool(host='h', port=9): Max retries "
        "exceeded (Caused by NewConnectionError(\"HTTPConnection(host='h'): Failed: [Errno 111] Connection refused\"))"
    )
    assert words_of(ValueError(text)) == "API request to http://h:9/api/2.0/x failed: Connection refused"


def test_an_error_of_a_disk_is_said_once() -> None:
    assert words_of(PermissionError(13, "Permission denied", "/x")) == "[Errno 13] Permission denied: '/x'"


def test_a_long_error_keeps_both_ends() -> None:
    text = words_of(ValueError("begin " + "x " * 500 + "end"))
    assert text.startswith("begin")
    assert text.endswith("end")
    assert len(text) < 190
    assert words_of(ValueError()) == "ValueError"
