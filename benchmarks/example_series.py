"""Each example interrupted at five moments, with notice and without: `python benchmarks/example_series.py`.

A run without pixel-orch says how long the training takes, and what it computes. Then each example is launched on the
embedded cloud and its machine taken away after a tenth, three, five, seven and nine tenths of that time, counted from
the program's start. At the end the number of epochs, the files that are home and, where the program is deterministic,
the weights are those of the run without an interruption.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.example_runs import Example, ExampleRun, alone, examples, python_with_packages
from tests.support.stage import staged

SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)


def one(folder: Path, python: Path, example: Example, after_s: float, expected: object, *, notice: bool) -> bool:
    """Run it once and print a line; return whether all is as it should be."""
    folder.mkdir()
    for stage in staged(folder):
        run = ExampleRun(stage, python, example)
        is_running = run.until_moment(after_s) and run.interrupt(notice=notice)
        outcome = run.outcome(expected)
        how = "with notice" if notice else "without notice"
        if not is_running:
            how = "was over before it"
        went_on = "restored" if outcome.restored else "not restored" if outcome.had_saved else "nothing saved"
        words = "; ".join(outcome.problems) or "as without an interruption"
        print(
            f"{example.name:12} {after_s:5.1f} s  {how:18}  {outcome.machines} machines  "
            f"{went_on:13}  {outcome.wall_s:5.0f} s  {words}",
            flush=True,
        )
        return not outcome.problems
    raise AssertionError("a stage is given once")


def main() -> int:
    """Measure and print; exit code 1 if a run was not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", metavar="NAME", help="one example")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--shares", type=float, nargs="+", default=list(SHARES))
    args = parser.parse_args()
    python, why = python_with_packages()
    if python is None:
        print(why)
        return 1
    print(f"python {' '.join(sys.argv)}")
    print(
        f"{time.strftime('%Y-%m-%d')}, Python {platform.python_version()}, {os.cpu_count()} cores, shared", flush=True
    )
    bad = 0
    for example in examples(args.epochs):
        if args.only not in (None, example.name):
            continue
        with tempfile.TemporaryDirectory(prefix="series-") as made:
            taken_s = alone(python, example, Path(made) / "alone")
            epochs, expected = example.result(Path(made) / "alone")
            told = "weights are compared" if expected is not None else "epochs and files are compared"
            print(f"{example.name}: {epochs} epochs, {taken_s:.0f} s alone; {told}", flush=True)
            for share in args.shares:
                for notice in (True, False):
                    place = Path(made) / f"{share}-{notice}"
                    bad += not one(place, python, example, share * taken_s, expected, notice=notice)
    print(f"{bad} of them not as they should be")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
