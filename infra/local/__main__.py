"""`python -m infra.local STATE_FOLDER READY_FD SETTINGS_JSON` is the embedded cloud.

`EmbeddedCloud.ensure` starts it.
"""

import os
import sys


def detach() -> None:
    """Become a child of init; the session is our own already, so no Ctrl-C, hangup or end of the starter reaches us.

    The starter only ever sees the short-lived parent, and has no zombie to collect later.
    """
    if os.fork() > 0:
        os._exit(0)


if __name__ == "__main__":
    detach()  # before moto is imported: a second of it, and no thread may be there when a process forks
    from infra.local.server import main

    main(sys.argv[1:])
