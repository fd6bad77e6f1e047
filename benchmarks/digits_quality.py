"""What each network learns of the digits in a minute of one CPU core: `python benchmarks/digits_quality.py`.

Scikit-learn's 1,797 digits, split by `numpy.random.default_rng(0).permutation`: the first 360 are the test images, the
next 180 the validation images, the rest trains. Each network trains for 60 s of this process's CPU time with one
thread; validation and start-up do not count. The weights with the best validation are the ones that are tested.
"""

from __future__ import annotations

import argparse
import copy
import math
import platform
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from model.config import TrainConfig
from model.config.presets import preset
from model.data import Dataset, Prepared, load
from model.device import cpu_name
from model.networks.likelihood import Score, evaluate
from model.training.state import Training

VALIDATIONS = 20  # over the whole budget


@dataclass(frozen=True)
class Contender:
    """A network, its settings, and what it is to reach."""

    config: TrainConfig
    wanted: float  # test nats per image


def contenders(seed: int) -> list[Contender]:
    """The three networks with the settings of their presets; the steps are as many as the time allows."""
    wanted = {"digits-pixelcnn": 80.8, "digits-row": 78.0, "digits-diagonal": 77.2}
    common = {"seed": seed, "device": "cpu"}
    return [Contender(TrainConfig(**preset(name).settings, **common), nats) for name, nats in wanted.items()]


@dataclass(frozen=True)
class Outcome:
    """What a minute of training came to."""

    steps: int
    cpu_s: float
    best_step: int
    valid: Score
    test: Score


def train(config: TrainConfig, data: Dataset | Prepared, budget_s: float, *, validate: int | None = None) -> Outcome:
    """Train for so many seconds of CPU time, the learning rate falling over half a cosine to nothing at their end.

    Args:
        config: the settings; `steps` has no meaning here.
        data: the data set.
        budget_s: CPU time of the steps, in seconds.
        validate: the first so many validation images choose the weights; all of them if not given.
    """
    run = Training(config, data, torch.device("cpu"))
    valid = torch.from_numpy(data.split("valid"))[:validate]
    spent, validated = 0.0, 0
    best: tuple[float, int, Score, torch.nn.Module] | None = None
    while spent < budget_s:
        began = time.process_time()
        run.advance(config.learning_rate * 0.5 * (1 + math.cos(math.pi * spent / budget_s)))
        spent += time.process_time() - began
        if spent >= budget_s * (validated + 1) / VALIDATIONS:
            validated += 1
            run.check()
            score = evaluate(run.eval_net, valid)
            if best is None or score.nats < best[0]:
                best = (score.nats, run.step, score, copy.deepcopy(run.eval_net))
    if best is None:
        raise SystemExit("the budget is too small for a single validation")
    return Outcome(run.step, spent, best[1], best[2], evaluate(best[3], torch.from_numpy(data.split("test"))))


def main() -> None:
    """Train all three and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="CPU time for each network (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and data order (default: 0)")
    parser.add_argument("--model", action="append", help="only this network; may be repeated")
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = load("digits")
    print(f"$ python {shlex.join(sys.argv)}")
    print(f"{cpu_name()}, 1 thread, torch {torch.__version__}, Python {platform.python_version()}; test images: 360")
    print(f"{args.seconds:g} s of CPU time each; (+- is one standard error of the mean)\n")
    print("network          layers  h  test nats        bits/dim  valid nats  wanted    best/steps  images/CPU-s")
    for contender in contenders(args.seed):
        config = contender.config
        if args.model and config.model not in args.model:
            continue
        made = train(config, data, args.seconds)
        verdict, test = "met" if made.test.nats <= contender.wanted else "MISSED", made.test
        print(
            f"{config.model:<15}  {config.layers:>6} {config.hidden:>2}  {test.nats:6.2f} +- {test.nats_se:4.2f}  "
            f"{test.bits_per_dim:8.3f}  {made.valid.nats:10.2f}  {contender.wanted:.1f} {verdict:<6}"
            f"{made.best_step:>6}/{made.steps:<6}{made.steps * config.batch_size / made.cpu_s:>10,.0f}",
            flush=True,
        )
    print("\nfor comparison, test nats: uniform 181.33, a histogram for each pixel 107.46, MADE 96.96,")
    print("a logistic regression for each pixel on all before it 88.93")


if __name__ == "__main__":
    main()
