"""Counts traces into what `planned` knows beforehand: `orchestrator/policy/prior.json`.

    python benchmarks/policy_prior.py DIR [--output orchestrator/policy/prior.json]

DIR has traces ZONE_TYPE.json (docs/deadline.md has the form). The shipped counts are of the six files of us-west-2 that
were published with Wu et al., "Can't Be Late", NSDI 2024, in the repository skypilot-org/spot-traces (2022-10-26 on);
the traces themselves have no licence, and are not here.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from orchestrator.policy.cells import AGES_S, MEMORY_S, SHARES_DOWN, SHARES_UP, STEP_S, Counts
from orchestrator.policy.forecast import SHIPPED, Prior
from orchestrator.policy.traces import markets_of, read_folder

SOURCE = (
    "the shipped counts: V100 and K80 instances in two zones of us-west-2 in October and November 2022, from the "
    "traces of Wu et al., NSDI 2024"
)


def main() -> None:
    """Count, and write."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("traces", type=Path)
    options.add_argument("--output", type=Path, default=SHIPPED)
    asked = options.parse_args()
    traces = read_folder(asked.traces, flag="traces")
    prior = Prior.from_archive(markets_of(traces, "region", spot_price=0.33, flag="traces"), SOURCE)
    told = {
        "source": SOURCE,
        "cells": {"step_s": STEP_S, "ages_s": AGES_S, "shares_up": SHARES_UP, "shares_down": SHARES_DOWN,
                  "memory_s": MEMORY_S},
        "one": _shown(prior.one),
        "several": _shown(prior.several),
    }  # fmt: skip
    asked.output.write_text(json.dumps(told, separators=(",", ":")).replace("]],", "]],\n") + "\n")


def _shown(counts: Counts) -> dict[str, list[list[float]]]:
    return {
        "moves": [[round(float(value), 2) for value in row] for row in counts.moves],
        "switches": [[round(float(value), 2) for value in row] for row in counts.switches],
    }


if __name__ == "__main__":
    main()
