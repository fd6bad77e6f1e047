"""`python -m orchestrator.cli` is `pixel-orch`."""

import sys

from orchestrator.cli.main import main

sys.exit(main())
