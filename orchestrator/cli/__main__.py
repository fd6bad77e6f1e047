"""`python -m orchestrator.cli` is `pixel-orch`."""

import sys


def run() -> int:
    """Run one command; Ctrl-C is heard from the first import on."""
    try:
        from orchestrator.cli.main import main

        return main()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(run())
