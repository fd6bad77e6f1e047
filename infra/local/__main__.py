"""The entry point of the embedded cloud's process, and two commands about it.

python -m infra.local --dump [HOME]     print the state of the running cloud of HOME (or PIXEL_ORCH_HOME) as JSON
python -m infra.local --faults          print the table of all faults
python -m infra.local STATE_FOLDER READY_FD SETTINGS_JSON     start the process; called by `EmbeddedCloud.ensure`
"""

import json
import os
import sys
from pathlib import Path


def detach() -> None:
    """Become a child of init.

    The process has its own session already, so no Ctrl-C, hangup or exit of the starter reaches it. The starter waits
    for the short-lived parent only, so no zombie remains.
    """
    if os.fork() > 0:
        os._exit(0)


def dump(words: list[str]) -> None:
    """Print the state of the running embedded cloud."""
    from infra.local.client import EmbeddedCloud

    home = Path(words[0] if words else os.environ.get("PIXEL_ORCH_HOME", "~/.pixel-orch")).expanduser()
    found = EmbeddedCloud.find(home)
    if found is None:
        sys.exit(f"no embedded cloud runs for {home}; give its home folder: python -m infra.local --dump HOME")
    print(json.dumps(found.dump(), indent=1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--dump"]:
        dump(sys.argv[2:])
    elif sys.argv[1:] == ["--faults"]:
        from infra.local.cloud.faults import table

        print(table())
    elif len(sys.argv) != 4:
        sys.exit(f"usage:{(__doc__ or '').partition('.')[2]}")
    else:
        detach()  # before moto is imported: that takes a second, and a process must not fork with threads
        from infra.local.server import main

        main(sys.argv[1:])
