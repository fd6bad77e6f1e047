"""What a program prints in plain lines is measured without a pattern; what only looks like it is not."""

from __future__ import annotations

import time
from typing import Any

import pytest

from infra.instance.metrics.patterns import Patterns
from infra.instance.metrics.plain_lines import PlainLines
from infra.instance.metrics.sources import Log


def measured(text: str) -> list[dict[str, Any]]:
    """Return what lines measure, without the time."""
    lines = PlainLines()
    for line in text.splitlines():
        lines.take(line, 1.7e9)
    made = lines.new()
    return [{key: value for key, value in one.items() if key != "time"} for one in made]


def epoch(number: int, **values: float) -> dict[str, Any]:
    return {"step": number, "unit": "epoch", "epoch": number, **values}


@pytest.mark.parametrize(
    ("line", "made"),
    [
        ("epoch 3/20 loss 0.6532", epoch(3, loss=0.6532)),
        ("Epoch [1/5], Loss: 0.5012, Acc: 91.25%", epoch(1, Loss=0.5012, Acc=91.25)),
        ("2026-11-29 12:00:01,123 INFO Epoch 0: train_loss=1e-3 val_acc=0.8", epoch(0, train_loss=1e-3, val_acc=0.8)),
        ("\x1b[32mEpoch: 7\x1b[0m | trainLoss 0.5 | val loss: nan", None),
        ("iter 100: loss 2.5134, time 123.40ms, mfu 1.20%", {"step": 100, "loss": 2.5134}),
        ("step 250: train loss 1.9650, val loss 2.0321", {"step": 250, "train loss": 1.965, "val loss": 2.0321}),
        ("global_step=40 lr=1e-4 loss=-3.5", {"step": 40, "loss": -3.5, "lr": 1e-4}),
        ("iteration 1000 reward=12", {"step": 1000, "reward": 12.0}),
        ("Step 10 | Loss: 1,234.5", {"step": 10, "Loss": 1234.5}),
        ("Iteration 100, loss = 0.53.", {"step": 100, "loss": 0.53}),
    ],
)
def test_a_line_with_a_place_and_a_value_is_a_measurement(line: str, made: dict[str, Any] | None) -> None:
    found = measured(line)
    assert len(found) == 1
    assert made is None or found == [made]


@pytest.mark.parametrize(
    "line",
    [
        "epochs=20 lr=0.001 loss=mse batch_size=32",
        "Namespace(epochs=20, max_step=100, step_size=3, loss_weight=0.5)",
        "loss 0.5",
        "epoch 3 done in 4.2 s, lr 0.1",
        "Epoch 3/5",
        "saved step-100/loss-0.5.pt",
        "loading checkpoints/epoch=3-loss=0.25.ckpt",
        "step 3: download 12:30 lossless 4",
        "epoch 1.5 loss 0.2",
        "epoch 9999999999999999999 loss 1",
        "x" * 5000 + " epoch 3 loss 1",
        "loss " * 200_000,
        "a." * 200_000,
    ],
)
def test_what_only_looks_like_it_is_passed_over_at_once(line: str) -> None:
    began = time.process_time()
    assert measured(line) == []
    assert time.process_time() - began < 0.25


def test_an_epoch_of_several_lines_counts_when_it_is_over() -> None:
    line = "Train Epoch: {} [{}/60000 ({}%)]\tLoss: {}\n"
    text = "".join(line.format(e, n * 640, n, 3 - e + n / 10) for e in (1, 2) for n in range(3))
    assert [(one.get("step"), one["Loss"]) for one in measured(text)] == [
        (None, 2.0), (None, 2.1), (None, 2.2),  # nobody knows whether there are more
        (1, 2.2),  # the second one has begun
        (None, 1.0), (None, 1.1), (2, 1.2),  # it has as many lines as the first one
    ]  # fmt: skip


def test_lines_under_a_heading_belong_to_its_epoch() -> None:
    text = "".join(
        f"Epoch {e}/2\n----------\ntrain Loss: 0.{e} Acc: 0.7\nval Loss: 0.{e}5 Acc: 0.8\n\n" for e in (0, 1)
    )
    found = measured(text)
    assert [one.get("step") for one in found] == [None, None, 0, None, 1]
    assert found[-1] == epoch(1, **{"train Loss": 0.1, "train Acc": 0.7, "val Loss": 0.15, "val Acc": 0.8})


def test_a_share_is_a_value_and_the_line_of_a_test_is_named() -> None:
    found = measured("Epoch 2\nTest set: Average loss: 0.05, Accuracy: 9842/10000 (98%)")
    assert found == [{"epoch": 2, "test Average loss": 0.05, "test Accuracy": 98.0}]


def test_epoch_and_batch_of_pytorchs_tutorial() -> None:
    found = measured("[1,  2000] loss: 2.173\n[1,  4000] loss: 1.854\n[2,  2000] loss: 1.3")
    assert [(one.get("step"), one["epoch"], one["loss"]) for one in found] == [
        (None, 1, 2.173), (None, 1, 1.854), (1, 1, 1.854), (None, 2, 1.3),
    ]  # fmt: skip


def test_a_step_within_an_epoch_is_no_step_of_the_training() -> None:
    found = measured("Epoch [1/5], Step [100/600], Loss: 0.5\nEpoch [1/5], Step [200/600], Loss: 0.4")
    assert [one.get("step") for one in found] == [None, None]
    assert measured("Epoch: [0][ 10/5005]\tTime 0.3 ( 0.5)\tLoss 6.9e+00 (7.0e+00)\tAcc@1   0.10 ( 0.1)") == [
        {"epoch": 0, "Loss": 6.9, "Acc@1": 0.1}
    ]


def test_between_the_states_of_a_bar_its_step_counts(tmp_path: Any) -> None:
    (tmp_path / "out").mkdir()
    log = Log(str(tmp_path), Patterns({}))
    (tmp_path / "out" / "trainer.log").write_text(
        "\r 4%|#| 2/50 [00:01<00:09, 4.0it/s]\rEpoch 1 loss 0.5\n\r 6%|#| 3/50 [00:01<00:09, 4.0it/s]\r"
    )
    log.lines.file.offset = 0
    log.read(1.7e9, is_last=True)
    assert [(one["step"], one.get("loss")) for one in log.bars.new()] == [(2, 0.5), (3, None)]
