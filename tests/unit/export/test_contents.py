"""What leaves this machine: each step once, bounded, and no secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.export import points
from orchestrator.export.contents import contents_of
from orchestrator.export.points import points_of
from orchestrator.runs.events import StateChanged
from orchestrator.runs.spec import ProgramSpec
from tests.support.report_runs import BORN, PNG, Had, write_run

NOW = BORN + 100_000


def lines(values: dict[int, float], key: str = "loss") -> list[str]:
    """Return lines of metrics."""
    return [json.dumps({"step": step, key: value}) for step, value in values.items()]


def steps_of(home: Path, attempts: list[Had], key: str = "loss") -> dict[int, float]:
    """Return the exported values of a run by their steps."""
    store = write_run(home, "own", attempts, trainer=None, command=("python", "t.py"))
    return {one.step: one.value for one in points_of(store, store.state()).get(key, ())}


def test_steps_that_were_trained_again_have_the_last_value(home: Path) -> None:
    first = Had(ended_by="aws", last_step=6, lines=lines({1: 1.0, 4: 4.0, 6: 6.0}))
    second = Had(first_step=4, last_step=7, lines=lines({5: 50.0, 7: 70.0}))
    assert steps_of(home, [first, second]) == {1: 1.0, 5: 50.0, 7: 70.0}


def test_a_machine_that_was_lost_before_it_trained_takes_no_step_back(home: Path) -> None:
    first = Had(ended_by="aws", last_step=6, lines=lines({1: 1.0, 6: 6.0}))
    third = Had(first_step=7, last_step=8, lines=lines({8: 8.0}))
    store = write_run(home, "own", [first, Had(ended_by="aws", lines=[]), third], trainer=None, command=("t",))
    log = store.folder / "events.jsonl"
    kept = [json.loads(line) for line in log.read_text().splitlines()]
    kept = [one for one in kept if not (one.get("attempt") == 2 and one["kind"] in ("trainer_started", "progress"))]
    log.write_text("".join(json.dumps(one) + "\n" for one in kept))
    assert [one.step for one in points_of(store, store.state())["loss"]] == [1, 6, 8]


def test_a_value_that_is_told_twice_for_a_step_counts_once(home: Path) -> None:
    assert steps_of(home, [Had(lines=[*lines({1: 1.0}), *lines({1: 2.0})])]) == {1: 2.0}


def test_a_better_source_replaces_what_was_read_before(home: Path) -> None:
    told = [*lines({1: 1.0}), '{"event": "source", "source": "metrics.csv"}', *lines({2: 2.0})]
    assert steps_of(home, [Had(lines=told)]) == {2: 2.0}


def test_what_is_no_number_is_left_out(home: Path) -> None:
    told = ['{"step": 1, "loss": NaN}', '{"step": 2, "loss": "low"}', '{"step": 3, "loss": 3}', "half a li"]
    assert steps_of(home, [Had(lines=told)]) == {3: 3.0}


def test_a_long_curve_is_thinned_to_measured_points_and_keeps_the_last(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(points, "MOST_POINTS", 50)
    found = steps_of(home, [Had(lines=lines({step: step / 2 for step in range(1, 1002)}))])
    assert 20 <= len(found) <= 50
    assert max(found) == 1001
    assert all(value == step / 2 for step, value in found.items())
    gaps = [later - earlier for earlier, later in zip(sorted(found), sorted(found)[1:], strict=False)]
    assert max(gaps) <= 2 * 1001 / 20, "the early part is as dense as the late one"


def test_a_point_has_the_time_at_which_it_was_measured(home: Path) -> None:
    told = [json.dumps({"step": 1, "loss": 1.0, "time": BORN + 77}), json.dumps({"step": 1, "acc": 0.5})]
    store = write_run(home, "own", [Had(lines=told)], trainer=None, command=("t",))
    found = points_of(store, store.state())
    assert [found["loss"][0].at, found["acc"][0].at] == [BORN + 77, BORN + 77]


def test_no_secret_of_the_run_leaves_this_machine(home: Path) -> None:
    told = [json.dumps({"step": 1, "sk-value-of-env": 1.0, "loss": 1.0})]
    store = write_run(
        home,
        "own",
        [Had(lines=told, last_step=1)],
        trainer=None,
        command=("python", "t.py", "--key", "sk-value-of-env", "--hf-token=hf-flag"),
        workdir="/somewhere/private/project",
        env={"KEY": "sk-value-of-env", "PIN": "9876"},
        key="/somewhere/private/id_ed25519",
        ssh_proxy="ssh -W %h:%p bastion.internal",
        program=ProgramSpec(setup="pip install --index-url https://u:pip-secret@h", notify="https://hooks/secret-hook"),
    )
    contents = contents_of(store, NOW)
    text = repr(contents)
    for secret in ("sk-value", "hf-flag", "9876", "private", "bastion", "pip-secret", "secret-hook", str(home)):
        assert secret not in text, secret
    assert contents.params["command"] == "python t.py --key *** --hf-token=***"
    assert contents.params["folder"] == "project"
    assert len(contents.curves) == 2


def test_a_secret_in_a_reason_is_not_cut_in_half(home: Path) -> None:
    store = write_run(home, "digits", [Had()], env={"KEY": "sk-value-of-env"})
    store.append(StateChanged(at=NOW - 1, state="FAILED", reason="x" * 190 + " sk-value-of-env"))
    reason = contents_of(store, NOW).tags["reason"]
    assert "sk-" not in reason
    assert len(reason) <= 200


def test_a_run_without_a_machine_is_exported_too(home: Path) -> None:
    contents = contents_of(write_run(home, "digits", []), NOW)
    assert (contents.tags["attempts"], contents.params["instance_type"]) == ("0", "g4dn.xlarge")
    assert contents.figures["bill/total_usd"] == 0.0


def test_samples_are_pictures_few_and_small(home: Path) -> None:
    store = write_run(home, "digits", [Had()])
    for step in range(12):
        (store.folder / f"samples-{step}.png").write_bytes(PNG)
    (store.folder / "samples-12.png").write_bytes(PNG + b"\0" * (1 << 20))
    (store.folder / "samples-13.png").write_bytes(b"no picture")
    (store.folder / "samples-14.png").symlink_to("/etc/passwd")
    assert [one.step for one in contents_of(store, NOW).samples] == [6, 7, 8, 9, 10, 11]


def test_the_embedded_cloud_is_named(home: Path) -> None:
    contents = contents_of(write_run(home, "digits", [Had()], cloud="embedded cloud"), NOW)
    assert contents.params["cloud"] == "embedded cloud"
    assert "nothing was paid" in contents.tags["note"]


def test_the_id_is_that_of_one_run_of_one_home(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (home / "id").write_text("aaaa")
    other.mkdir()
    (other / "id").write_text("bbbb")
    ids = {
        contents_of(write_run(home, "digits", [Had()]), NOW).id,
        contents_of(write_run(other, "digits", [Had()]), NOW).id,
        contents_of(write_run(home, "digits-2", [Had()]), NOW).id,
    }
    assert len(ids) == 3
    assert all(one.startswith("digits-") for one in ids)
