"""The entry point of the trainer: `python -m model train | evaluate | sample | complete | figures | data`."""

from __future__ import annotations

import os
import sys
import time
import traceback

from model.training import launcher
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


def rank_main() -> int:
    """Run the command as one of several processes, and return its exit code also where it fails."""
    launcher.end_with_the_launcher()
    try:
        return main()
    except SystemExit as ended:  # argparse
        return ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001 - told here, because the interpreter would wait for torch's threads
        traceback.print_exc()
        return 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["train"] and launcher.is_a_rank(os.environ):
        launcher.leave(rank_main())
    sys.exit(main())
