"""The entry point of the trainer: `python -m model train | evaluate | sample | complete | figures | data`."""

from __future__ import annotations

import sys
import time

from model.training.stop import StopFlag

BEGAN_S = time.monotonic()


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit codes are those of `model.cli.main.run`."""
    stop = StopFlag()
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["train"]:
        stop.install()
    from model.cli.main import run  # takes 0.2 s; the signal handlers must be installed before

    return run(words, stop, began_s=BEGAN_S)


if __name__ == "__main__":
    sys.exit(main())
