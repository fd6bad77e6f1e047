"""The best source of measurements is found, named, and read from the trainer's start on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from infra.instance.metrics import collector as module
from infra.instance.metrics.collector import Collector
from infra.instance.metrics.finding import Finder
from tests.support.event_files import scalar_record, version_record

AT = 1.7e9
LOG, OUT_METRICS, CODE_METRICS = "out/trainer.log", "out/metrics.jsonl", "code/metrics.jsonl"


class Program:
    """A run's folder, what the program writes there, and what is made of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("out", "code", "agent"):
            (root / name).mkdir()

    def begin(self, patterns: Mapping[str, str] | None = None) -> None:
        """Look at what is there; what comes now is the program's."""
        self.collector = Collector(str(self.root), patterns or {})

    def writes(self, name: str, text: str | bytes) -> None:
        """Append to a file."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(text if isinstance(text, bytes) else text.encode())

    def found(self) -> list[dict[str, Any]]:
        """Return all measurements after the program's end, without times that are now."""
        while self.collector.round(is_last=True):
            continue
        return self.written()

    def written(self) -> list[dict[str, Any]]:
        path = self.root / "agent" / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        for line in lines:
            if abs(line.get("time", 0) - time.time()) < 3600:
                del line["time"]
        return lines

    @property
    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((self.root / "agent" / "metrics.json").read_text())
        return facts


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


# -- each source


@pytest.mark.parametrize("place", [OUT_METRICS, CODE_METRICS])
def test_metrics_jsonl_is_taken_with_every_number_and_gets_the_time_that_it_lacks(program: Program, place: str) -> None:
    program.begin()
    program.writes(place, '{"step": 1, "loss": 0.5, "note": "a"}\n{"epoch": 2, "val": {"loss": 1}}\n')
    assert program.found() == [
        {"step": 1, "loss": 0.5, "note": "a"},
        {"step": 2, "unit": "epoch", "epoch": 2, "val/loss": 1},
    ]
    assert "time" in (program.root / "agent" / "metrics.jsonl").read_text()
    assert program.facts["source"] == "metrics.jsonl"


def test_one_metrics_file_under_two_names_is_read_once(program: Program) -> None:
    (program.root / CODE_METRICS).symlink_to(program.root / OUT_METRICS)
    program.begin()
    program.writes(OUT_METRICS, '{"step": 1, "loss": 0.5}\n')
    assert program.found() == [{"step": 1, "loss": 0.5}]


def test_event_files_are_found_anywhere_and_two_folders_are_told_apart(program: Program) -> None:
    program.begin()
    train, valid = (f"code/logs/a/{name}/events.out.tfevents.1.host" for name in ("train", "validation"))
    program.writes(
        train, version_record(AT) + scalar_record(AT, 1, loss=0.5, acc=0.1) + scalar_record(AT + 2, 2, loss=0.4)
    )
    program.writes(valid, version_record(AT) + scalar_record(AT + 3, 2, loss=0.6))
    found = program.found()
    assert sorted(key for one in found for key in one if "loss" in key) == ["loss", "loss", "validation/loss"]
    assert found[0] == {"step": 1, "time": AT, "loss": 0.5, "acc": 0.1}
    assert program.facts["source"] == "TensorBoard's event files (logs/a/train/events.out.tfevents.1.host)"


def test_lightnings_metrics_csv_is_read_when_it_is_written_anew_with_more_columns(program: Program) -> None:
    program.begin()
    path = program.root / "code/lightning_logs/version_0/metrics.csv"
    path.parent.mkdir(parents=True)
    path.write_text("epoch,step,train_loss\n0,9,0.5\n0,19,0.4\n")
    program.collector.round(is_last=True)
    path.write_text("epoch,step,train_loss,val_loss\n0,9,0.5,\n0,19,0.4,\n0,19,,0.7\n1,29,0.3")  # a row is half there
    assert program.found() == [
        {"step": 9, "epoch": 0.0, "train_loss": 0.5},
        {"step": 19, "epoch": 0.0, "train_loss": 0.4},
        {"step": 19, "epoch": 0.0, "val_loss": 0.7},
    ]
    assert program.facts["source"] == "metrics.csv (lightning_logs/version_0/metrics.csv)"


def state(*entries: dict[str, Any]) -> str:
    return json.dumps({"global_step": 1, "log_history": list(entries)})


def test_hugging_faces_history_is_read_once_from_all_its_checkpoints(program: Program) -> None:
    first, second = {"epoch": 0.5, "loss": 2.0, "step": 10}, {"epoch": 1.0, "loss": 1.0, "step": 20}
    program.begin()
    program.writes("code/results/checkpoint-10/trainer_state.json", state(first))
    program.collector.round(is_last=True)
    program.writes("code/results/checkpoint-20/trainer_state.json", state(first, second))
    assert program.found() == [{"step": 10, "epoch": 0.5, "loss": 2.0}, {"step": 20, "epoch": 1.0, "loss": 1.0}]
    assert program.facts["source"] == "Hugging Face's Trainer (results/checkpoint-*/trainer_state.json)"


def test_the_dicts_of_hugging_face_get_the_step_of_its_bar_and_are_not_told_twice(program: Program) -> None:
    program.begin()
    program.writes(LOG, "\r  2%|2         | 10/500 [00:02<01:40,  4.90it/s]")
    program.writes(LOG, "{'loss': 2.1, 'grad_norm': '0.5', 'learning_rate': 4.9e-05, 'epoch': 0.02}\n")
    program.writes(LOG, "\r  2%|2         | 10/500 [00:02<01:40,  4.90it/s]\r  2%|2| 11/500 [00:02<01:40,  4.90it/s]")
    program.writes(
        "code/results/checkpoint-20/trainer_state.json",
        state({"loss": 2.1, "epoch": 0.02, "step": 10}, {"loss": 1.9, "epoch": 0.04, "step": 20}),
    )
    assert program.found() == [
        {"step": 10, "epoch": 0.02, "loss": 2.1, "grad_norm": 0.5, "learning_rate": 4.9e-05},
        {"step": 20, "epoch": 0.04, "loss": 1.9},
    ]


def test_json_lines_on_the_standard_output_are_taken_if_they_measure(program: Program) -> None:
    program.begin()
    program.writes(
        LOG, '{"level": "info", "ts": 17.5, "msg": "start"}\nhello\n{"global_step": 4, "train": {"loss": 0.5}}\n'
    )
    program.writes(LOG, '{"step": 5, "loss": NaN, "ok": true}\n')
    found = program.found()
    assert found[0] == {"step": 4, "train/loss": 0.5}
    assert found[1]["step"] == 5 and found[1]["loss"] != found[1]["loss"] and "ok" not in found[1]
    assert program.facts["source"] == "JSON lines in the log"


def test_patterns_give_values_and_the_step_or_epoch_that_they_belong_to(program: Program) -> None:
    program.begin({"loss": r"loss[=: ]+([0-9.eE+-]+)", "epoch": r"Epoch (\d+)/"})
    program.writes(LOG, "Epoch 1/3\n  loss: 0.53.\nnothing\nEpoch 2/3 loss=4e-1\n")
    assert program.found() == [
        {"step": 1, "unit": "epoch", "epoch": 1.0, "loss": 0.53},
        {"step": 2, "unit": "epoch", "epoch": 2.0, "loss": 0.4},
    ]
    assert program.facts["source"] == "the patterns of --metric"


def test_a_pattern_is_what_the_user_asks_for_and_wins_over_what_is_found(program: Program) -> None:
    program.begin({"step": r"it (\d+)", "mine": r"mine (\S+)"})
    program.writes(LOG, "it 7 mine 0.25\n")
    program.writes(OUT_METRICS, '{"step": 1, "loss": 0.5}\n')
    assert program.found() == [{"step": 7, "mine": 0.25}]


def test_a_pattern_that_matches_nothing_is_named_and_something_else_is_used(program: Program) -> None:
    program.begin({"loss": "los=([0-9]+)"})
    program.writes(LOG, '{"step": 1, "loss": 0.5}\n')
    assert program.found() == [{"step": 1, "loss": 0.5}]
    assert program.facts["problem"] == "no line of the log has matched the pattern of loss"
    assert program.facts["source"] == "JSON lines in the log"


def test_a_bar_ends_its_lines_by_cr_and_begins_again_with_each_epoch(program: Program) -> None:
    program.begin()
    bar = "\rEpoch {epoch}:  {done}%|###   | {done}/50 [00:01<00:09, {rate}it/s, loss={loss}]"
    program.writes(LOG, "\rDownloading: 100%|#| 9000/9000 [00:01<00:00, 12kB/s]\n")
    program.writes(LOG, bar.format(epoch=0, done=10, rate="4.2", loss="0.5"))
    program.collector.round()
    program.writes(LOG, bar.format(epoch=0, done=50, rate="4.2", loss="0.4") + "\n")
    program.writes(LOG, "\rValidation:  50%|#| 40/90 [00:01<00:09, 9.0it/s]")
    program.writes(LOG, bar.format(epoch=1, done=20, rate="2.0", loss="0.3"))
    assert program.found()[-1] == {"step": 70, "epoch": 1, "steps_per_s": 2.0, "loss": 0.3}
    assert program.facts["source"] == "progress bars in the log"


def test_a_bar_of_keras_with_its_colours_is_a_bar(program: Program) -> None:
    program.begin()
    program.writes(
        LOG, "Epoch 1/5\n\r\x1b[1m12/500\x1b[0m \x1b[32m-\x1b[0m 12s 25ms/step - accuracy: 0.9100 - loss: 0.32"
    )
    assert program.found() == [{"step": 12, "epoch": 1, "steps_per_s": 40.0, "accuracy": 0.91, "loss": 0.32}]


def test_a_bar_of_keras_that_resumes_counts_the_epochs_before_it(program: Program) -> None:
    program.begin()
    program.writes(LOG, "Epoch 11/20\n\r12/500 - 12s 25ms/step - loss: 0.32")
    assert program.found() == [{"step": 5012, "epoch": 11, "steps_per_s": 40.0, "loss": 0.32}]
    assert program.facts["total"] == 10_000


OLD_BAR = "[=========>....................]"  # of Keras 2
FULL_BAR = "[==============================]"


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (f"Epoch 1/3\n\r100/469 {OLD_BAR} - ETA: 1:02 - loss: 0.5", {"step": 100, "epoch": 1, "loss": 0.5}),
        (
            f"Epoch 1/3\n\r469/469 {FULL_BAR} - 3s 5ms/step - loss: 0.5\nEpoch 2/3\n469/469 {FULL_BAR} - 3s 5ms/step - "
            "loss: 0.25 - val_loss: 0.5\n",
            {"step": 938, "epoch": 2, "steps_per_s": 200.0, "loss": 0.25, "val_loss": 0.5},
        ),
        (
            "Epoch 1/3\n469/469 - 3s - loss: 0.5 - 3s/epoch - 5ms/step\nEpoch 2/3\n469/469 - 3s - loss: 0.25 - "
            "3s/epoch - 5ms/step\n",
            {"step": 938, "epoch": 2, "steps_per_s": 200.0, "loss": 0.25},
        ),
        (
            "Epoch 1/3\n469/469 - 3s - 5ms/step - loss: 0.5\nEpoch 2/3\n469/469 - 3s - 5ms/step - loss: 0.25\n",
            {"step": 938, "epoch": 2, "steps_per_s": 200.0, "loss": 0.25},
        ),
    ],
)
def test_bars_of_older_kerases_and_one_line_an_epoch_are_read(
    program: Program, text: str, read: dict[str, float]
) -> None:
    program.begin()
    program.writes(LOG, text)
    assert program.found() == [read]
    assert program.facts["total"] == 3 * 469


@pytest.mark.parametrize(
    ("name", "text", "total"),
    [
        (LOG, "epoch 3/20 loss 0.51\n", 20),
        (LOG, "Epoch [3 / 20], Loss: 0.5\n", 20),
        (LOG, "Train Epoch: 3 of 20 loss 0.5\n", 20),
        (LOG, "Epoch 3/19\n-----\ntrain Loss: 0.5 Acc: 0.7\nEpoch 4/19\n-----\n", 19),
        (LOG, "step 100/5000 loss 0.5\n", 5000),
        (LOG, "epoch 3/2 loss 0.51\n", 0),
        (LOG, "Train Epoch: 1 [640/60000 (1%)]  Loss: 2.3\n", 0),
        (LOG, "Epoch 1/20\nstep 100/600 loss 0.5\n", 0),  # the steps of one epoch
        (LOG, "Epoch 2/5\n\r12/500 - 12s 25ms/step - loss: 0.32", 2500),
        (LOG, "\rEpoch 1:  20%|# | 10/50 [00:01<00:09, 4.2it/s]", 0),
        (LOG, "\r 20%|# | 10/50 [00:01<00:09, 4.2it/s]", 0),  # it may be one of many epochs
        (LOG, "\r 20%|# | 4/20 [00:01<00:09, 4.2epoch/s, loss=0.5]", 20),
        ("code/r/checkpoint-5/trainer_state.json", '{"max_steps": 500, "log_history": [{"loss": 2, "step": 5}]}', 500),
        ("code/r/checkpoint-5/trainer_state.json", '{"max_steps": -1, "log_history": [{"loss": 2, "step": 5}]}', 0),
        ("code/r/checkpoint-5/trainer_state.json", '{"max_steps": "x", "log_history": [{"loss": 2, "step": 5}]}', 0),
    ],
)
def test_how_much_there_is_to_do_is_told_where_the_program_says_it(
    program: Program, name: str, text: str, total: int
) -> None:
    program.begin()
    program.writes(name, text)
    assert program.found()
    assert program.facts["total"] == total


def test_without_anything_there_is_no_source(program: Program) -> None:
    program.begin()
    program.writes(LOG, "training 3/4 of the data in /a/b\nratio 1/2\n")
    assert program.found() == []
    assert program.facts["source"] == ""


# -- the order


def test_the_first_of_the_order_is_used(program: Program) -> None:
    writers = [
        lambda: program.writes(LOG, "\r 4%|#| 3/50 [00:01<00:09, 4.0it/s]"),
        lambda: program.writes(LOG, '\n{"step": 4, "loss": 0.4}\n'),
        lambda: program.writes("code/r/trainer_state.json", state({"step": 5, "loss": 0.5})),
        lambda: program.writes("code/x/metrics.csv", "step,loss\n6,0.6\n"),
        lambda: program.writes("code/y/events.out.tfevents.1", scalar_record(AT, 7, loss=0.7)),
        lambda: program.writes(OUT_METRICS, '{"step": 8, "loss": 0.8}\n'),
    ]
    program.begin()
    for write in writers:
        write()
    assert [one["step"] for one in program.found()] == [8]


def test_a_better_source_that_comes_later_is_used_from_then_on(program: Program) -> None:
    program.begin()
    program.writes(LOG, "\r 4%|#| 3/50 [00:01<00:09, 4.0it/s]")
    program.collector.round(is_last=True)
    program.writes("code/y/events.out.tfevents.1", scalar_record(AT, 7, loss=0.75))
    found = program.found()
    assert [one.get("event", one.get("step")) for one in found] == [3, "source", 7]
    assert found[1]["source"] == "TensorBoard's event files"


def test_bars_wait_for_something_better(program: Program) -> None:
    program.begin()
    program.writes(LOG, "\r 4%|#| 3/50 [00:01<00:09, 4.0it/s]\r")
    program.collector.round()
    assert program.written() == []
    assert [one["step"] for one in program.found()] == [3]


# -- what was there before


def test_files_of_an_earlier_attempt_are_not_read_as_new(program: Program) -> None:
    history = [{"epoch": 0.5, "loss": 2.0, "step": 10}]
    program.writes(OUT_METRICS, '{"step": 1, "loss": 9}\n')
    program.writes(LOG, '{"step": 2, "loss": 9}\n')
    program.writes("code/x/events.out.tfevents.1", scalar_record(AT, 3, loss=9.0))
    program.writes("code/x/metrics.csv", "step,loss\n4,9\n")
    program.writes("code/r/checkpoint-10/trainer_state.json", state(*history))
    program.begin()
    assert program.found() == []
    program.writes("code/r/checkpoint-20/trainer_state.json", state(*history, {"epoch": 1.0, "loss": 1.0, "step": 20}))
    assert [one["step"] for one in program.found()] == [20]
    program.writes("code/x/metrics.csv", "5,0.5\n")
    program.writes("code/x/events.out.tfevents.1", scalar_record(AT, 6, loss=0.25))
    program.writes(OUT_METRICS, '{"step": 7, "loss": 1}\n')
    steps = [one.get("step") for one in program.found()]
    assert set(steps) - {None} == {20, 6, 7} or set(steps) - {None} == {20, 7}
    assert steps[-1] == 7


def test_a_file_that_the_program_begins_anew_is_read_from_its_beginning(program: Program) -> None:
    program.writes(OUT_METRICS, '{"step": 1, "loss": 9}\n' * 3)
    program.begin()
    (program.root / OUT_METRICS).write_text("".join(f'{{"step": {n}, "loss": 0.5}}\n' for n in range(1, 9)))
    assert [one["step"] for one in program.found()] == list(range(1, 9))


# -- what is made to confuse


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000 + "\n",
        '{"step": ' + "1" * 400 + ', "loss": 1}\n',
        '{"step": -4}\n',
        '{"step": 1e999}\n',
        '{"loss": "' + "x" * 3_000_000 + '"}\n',
        "\0\0\0\n",
        '{"a": ' * 5000 + "1" + "}" * 5000 + "\n",
        "9/0 [?it/s] 99999999999999999999/1 [1it/s] 5/3 [1it/s]\n",
        "{'" + "a" * 100_000 + "': 1}\n",
        '"\ud83d"\n',
    ],
)
@pytest.mark.parametrize("place", [OUT_METRICS, LOG])
def test_what_is_no_measurement_is_passed_over_and_what_follows_is_read(
    program: Program, place: str, text: str
) -> None:
    program.begin()
    program.writes(place, text.encode("utf-8", "surrogatepass") + b'{"step": 3, "loss": 0.5}\n')
    assert program.found()[-1] == {"step": 3, "loss": 0.5}


@pytest.mark.parametrize("name", ["metrics.jsonl", "metrics.csv", "trainer_state.json", "events.out.tfevents.1"])
def test_a_pipe_a_folder_or_a_device_of_such_a_name_is_passed_over(program: Program, name: str) -> None:
    program.begin()
    os.mkfifo(program.root / "code" / name)
    (program.root / "out" / name).symlink_to("/dev/zero")
    (program.root / "code" / "deep" / name).mkdir(parents=True)
    assert program.found() == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.csv", b"step,loss\n\0\0,\xff\n"),
        ("metrics.csv", b'step,loss\n"1,2\n3,4\n'),
        ("metrics.csv", b"a" * 200_000 + b"\n1\n"),
        ("trainer_state.json", b"[1, 2]"),
        ("trainer_state.json", b'{"log_history": {"a": 1}}'),
        ("trainer_state.json", b'{"log_history": [1, {"step": "x", "loss": []}]}'),
        ("trainer_state.json", b"[" * 200_000),
        ("trainer_state.json", b"\xff\xfe"),
    ],
)
def test_a_file_that_is_damaged_stops_nothing(program: Program, name: str, content: bytes) -> None:
    program.begin()
    program.writes(f"code/{name}", content)
    program.writes(LOG, '{"step": 3, "loss": 0.5}\n')
    assert program.found()[-1] == {"step": 3, "loss": 0.5}


def test_a_pattern_that_never_ends_is_given_up_and_the_others_go_on(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.instance.metrics.patterns.SEARCH_S", 0.02)
    program.begin({"bad": r"((a+)+)+b(\d)", "loss": r"loss (\S+)"})
    program.writes(LOG, ("a" * 400 + "! loss 0.5\n") * 5)
    assert len(program.found()) == 5
    assert "takes too long" in program.facts["problem"]


def test_a_full_disk_loses_no_measurement(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    program.begin()
    (program.root / "agent" / "metrics.jsonl").mkdir()
    program.writes(OUT_METRICS, '{"step": 1, "loss": 0.5}\n')
    program.collector.round()
    (program.root / "agent" / "metrics.jsonl").rmdir()
    program.writes(OUT_METRICS, '{"step": 2, "loss": 0.5}\n')
    assert [one["step"] for one in program.found()] == [1, 2]


def test_no_more_is_written_than_the_owner_reads(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 1000)
    program.begin()
    for n in range(60):
        program.writes(OUT_METRICS, f'{{"step": {n}, "loss": 0.5}}\n')
        program.collector.round()
    assert (program.root / "agent" / "metrics.jsonl").stat().st_size <= 1000
    assert "longer than" in program.facts["problem"]


# -- saves, and the cost


def test_the_time_between_two_saves_is_seen_in_the_files(program: Program) -> None:
    program.writes("code/old.pt", b"old")
    os.utime(program.root / "code/old.pt", (AT - 500, AT - 500))
    program.begin()
    for n in range(4):
        for part in ("model.safetensors", "optimizer.pt"):
            name = f"code/checkpoint-{n}/{part}"
            program.writes(name, b"x")
            moment = AT + 100 * n + (part == "optimizer.pt")
            os.utime(program.root / name, (moment, moment))
    program.found()
    assert program.facts["saves"] == {"count": 4, "every_s": 100.0}


def test_the_folders_are_looked_through_the_less_often_the_longer_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("infra.instance.metrics.finding.time.monotonic", lambda: now[0])
    looks = []

    def slow(folders: tuple[str, ...]) -> Any:
        looks.append(now[0])
        now[0] += 0.1
        return None

    monkeypatch.setattr("infra.instance.metrics.finding.look", slow)
    finder = Finder((str(tmp_path),))
    for _ in range(100):
        finder.look()
        now[0] += 1.0
    assert len(looks) == 4, "0.1 s of each 30 s"
