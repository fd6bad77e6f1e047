"""Lines that scripts print for people are measurements: the forms of well-known examples."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest

from infra.instance.metrics.printed_lines import PrintedLines


def measured(*lines: str) -> list[dict[str, Any]]:
    """Return what some lines measure, without their time."""
    printed = PrintedLines()
    for line in lines:
        printed.take(line.strip(), 1e9)
    return [{key: value for key, value in one.items() if key != "time"} for one in printed.new()]


def epoch(number: int, **values: float) -> dict[str, Any]:
    return {"step": number, "unit": "epoch", "epoch": number, **values}


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["epoch 20/20 loss 0.0955"], [epoch(20, loss=0.0955)]),
        (["Epoch [1/5], Step [100/600], Loss: 0.5321"], [epoch(1, Loss=0.5321)]),
        (["12:00:00 INFO Epoch 3: train_loss=0.53 val_acc=83.2%"], [epoch(3, train_loss=0.53, val_acc=83.2)]),
        (["Train Epoch: 1 [0/60000 (0%)]\tLoss: 2.3", "Test set: Average loss: 0.05, Accuracy: 9842/10000 (98%)"],
         [epoch(1, Train_Loss=2.3), epoch(1, Test_Average_loss=0.05, Test_Accuracy=98.0)]),
        (["iter 100: loss 1.2345, time 30.12ms, mfu 3.2%", "step 250: train loss 1.2, val loss 1.3"],
         [{"step": 100, "loss": 1.2345}, {"step": 250, "train_loss": 1.2, "val_loss": 1.3}]),
        (["| epoch   1 |   200/ 2928 batches | lr 20.00 | ms/batch 8.50 | loss  7.65 | ppl  2107.57"],
         [epoch(1, lr=20.0, loss=7.65, ppl=2107.57)]),
        (["Epoch: [0][  10/5005]\tTime  0.5 ( 0.9)\tLoss 6.9e+00 (7.0e+00)\tAcc@1   0.00 (  0.10)", " * Acc@1 12.3"],
         [epoch(0, **{"Loss": 6.9, "Acc@1": 0.0}), epoch(0, **{"Acc@1": 12.3})]),
        (["[1,  2000] loss: 2.173"], [epoch(1, loss=2.173)]),
        (["Epoch 3/24", "----------", "train Loss: 0.5123 Acc: 0.7812", "val Loss: 0.4 Acc: 0.8"],
         [epoch(3, train_Loss=0.5123, train_Acc=0.7812), epoch(3, val_Loss=0.4, val_Acc=0.8)]),
        (["step=100 loss=0.5 acc=.75"], [{"step": 100, "loss": 0.5, "acc": 0.75}]),
        (["Iteration 100, loss = 0.53."], [{"step": 100, "loss": 0.53}]),
        (["Step 10 | Loss: 1,234.5"], [{"step": 10, "Loss": 1234.5}]),
        (["EPOCH 2 LOSS 3"], [epoch(2, LOSS=3.0)]),
        (["epoch 3: mean reward -12.5 return=4e2"], [epoch(3, mean_reward=-12.5, **{"return": 400.0})]),
    ],
)  # fmt: skip
def test_the_lines_of_well_known_scripts(lines: list[str], expected: list[dict[str, Any]]) -> None:
    assert measured(*lines) == expected


@pytest.mark.parametrize(
    "line",
    [
        "Namespace(epochs=20, lr=0.1, loss='mse')",
        "epochs 20 lr 0.1",
        "epoch 20 lr 0.1",
        "loss 0.5",
        "error 404 at step 3",
        "downloaded 5 files in epoch 2",
        "Epoch 3 of the data set v1.2.3",
        "loss-1.py: line 3: step 4",
    ],
)
def test_other_lines_with_numbers_measure_nothing(line: str) -> None:
    assert measured(line) == []


def test_what_is_counted_first_is_counted_to_the_end() -> None:
    found = measured("step 100 loss 0.5", "Epoch 1: val loss 0.4", "step 200 loss 0.3")
    assert found == [
        {"step": 100, "loss": 0.5},
        {"step": 100, "val_loss": 0.4},
        {"step": 200, "loss": 0.3},
    ]


def test_a_loss_that_is_no_number_is_told() -> None:
    assert math.isnan(measured("epoch 1 loss nan")[0]["loss"])


def test_no_line_takes_long() -> None:
    printed = PrintedLines()
    began = time.process_time()
    for text in ("a ", "loss ", "1", "train_", "loss:" + " " * 50, "epoch ", "[ ", "a-", "a@/", "- ", "1,", "1,000,"):
        printed.take(text * 2000 + "1", 1e9)
        printed.take((text * 2000)[:1990] + "1", 1e9)
    assert time.process_time() - began < 1
