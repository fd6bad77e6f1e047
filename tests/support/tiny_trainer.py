"""A trainer of the standard library: a chain of digests for weights, so that a wrong resume cannot end right.

    python tiny_trainer.py STEPS STEP_S [--every N] [--size BYTES] [--crash-at STEP] [--slow-write]

Writes what docs/design.md asks of any program; resumes from the newest whole checkpoint.
"""

import argparse
import hashlib
import json
import os
import re
import signal
import sys
import time


def out() -> str:
    """The folder to write to."""
    return os.environ["PIXEL_ORCH_OUT"]


def advance(weights: str, step: int) -> str:
    """One step: the next link of the chain."""
    return hashlib.sha256(f"{weights} {step}".encode()).hexdigest()


def expected(steps: int) -> str:
    """The weights after so many steps without interruption."""
    weights = "seed"
    for step in range(1, steps + 1):
        weights = advance(weights, step)
    return weights


def save(step: int, weights: str, size: int, slow: bool) -> None:
    """Write a checkpoint under a temporary name, then rename it."""
    body = json.dumps({"step": step, "weights": weights, "padding": "x" * size})
    text = json.dumps({"digest": hashlib.sha256(body.encode()).hexdigest(), "body": body})
    temporary = os.path.join(out(), f".checkpoint-{step}.tmp")
    with open(temporary, "w") as file:
        half = len(text) // 2
        file.write(text[:half])
        file.flush()
        if slow:
            time.sleep(0.5)
        file.write(text[half:])
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, os.path.join(out(), f"checkpoint-{step}.pt"))


def load(path: str) -> dict:
    """Read a checkpoint and compare its digest."""
    with open(path) as file:
        outer = json.load(file)
    if hashlib.sha256(outer["body"].encode()).hexdigest() != outer["digest"]:
        raise ValueError("its digest differs")
    return json.loads(outer["body"])


def newest() -> tuple[int, str, list]:
    """Return (step, weights, refused) of the newest whole checkpoint."""
    found = [(int(m.group(1)), n) for n in os.listdir(out()) if (m := re.fullmatch(r"checkpoint-(\d+)\.pt", n))]
    refused = []
    for step, name in sorted(found, reverse=True):
        try:
            return step, load(os.path.join(out(), name))["weights"], refused
        except (ValueError, KeyError) as error:
            refused.append({"name": name, "reason": str(error)})
    return 0, "seed", refused


def main() -> int:
    """Train."""
    parser = argparse.ArgumentParser()
    parser.add_argument("steps", type=int)
    parser.add_argument("step_s", type=float)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--size", type=int, default=100)
    parser.add_argument("--crash-at", type=int)
    parser.add_argument("--slow-write", action="store_true")
    args = parser.parse_args()
    told: list = []
    signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    step, weights, refused = newest()
    metrics = open(os.path.join(out(), "metrics.jsonl"), "a", buffering=1)  # noqa: SIM115
    start = {"event": "start", "resumed_from": step, "refused": refused, "device_name": "tiny"}
    metrics.write(json.dumps(start) + "\n")
    began = time.time()
    while step < args.steps:
        step += 1
        time.sleep(args.step_s)
        weights = advance(weights, step)
        line = {"step": step, "images_per_s": 1 / args.step_s, "wall_s": time.time() - began}
        metrics.write(json.dumps(line) + "\n")
        print(f"step {step} weights {weights[:8]}", flush=True)
        if step == args.crash_at:
            print("ValueError: the loss is not a number", file=sys.stderr, flush=True)
            return 7
        if told or step % args.every == 0 or step == args.steps:
            save(step, weights, args.size, args.slow_write)
        if told and step < args.steps:
            return 143
    os.makedirs(os.path.join(out(), "results", "deep"), exist_ok=True)
    for name in ("results/scores.csv", "results/deep/a b.txt", "final.pt"):
        with open(os.path.join(out(), name), "w") as file:
            file.write(f"{name} after {step}")
    os.symlink("/etc/hostname", os.path.join(out(), "results", "elsewhere"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
