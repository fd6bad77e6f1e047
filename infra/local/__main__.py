"""The embedded cloud's process, and two questions to it.

python -m infra.local --dump [HOME]     what the running one of HOME (or PIXEL_ORCH_HOME) holds, as JSON
python -m infra.local --faults          all that a faults file may say
python -m infra.local STATE_FOLDER READY_FD SETTINGS_JSON     is how `EmbeddedCloud.ensure` starts it
"""

import json
import os
import sys
from pathlib import Path


def detach() -> None:
    """Become a child of init; the session is our own already, so no Ctrl-C, hangup or end of the starter reaches us.

    The starter only ever sees the short-lived parent, and has no zombie to collect later.
    """
    if os.fork() > 0:
        os._exit(0)


def dump(words: list[str]) -> None:
    """Print the state of the running embedded cloud."""
    from infra.local.client import EmbeddedCloud

    home = Path(words[0] if words else os.environ.get("PIXEL_ORCH_HOME", "~/.pixel-orch")).expanduser()
    found = EmbeddedCloud.find(home)
    if found is None:
        sys.exit(f"no embedded cloud runs for {home}; name its home: python -m infra.local --dump HOME")
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
        detach()  # before moto is imported: a second of it, and no thread may be there when a process forks
        from infra.local.server import main

        main(sys.argv[1:])
