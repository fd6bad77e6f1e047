"""endpoint.json: the address and the access key of the running embedded cloud.

Standard library only; client and server use it.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from infra.local.machine.processes import is_running, process_start


@dataclass(frozen=True)
class Endpoint:
    """The contents of `local/endpoint.json` (mode 0600 in a folder of mode 0700)."""

    endpoint_url: str
    access_key_id: str
    secret_access_key: str
    cloud_id: str
    pid: int
    pid_start: str
    regions: list[str]

    def write(self, path: Path) -> None:
        """Write the file atomically: a reader never sees a part of it."""
        partial = path.with_name(".endpoint.json.part")
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(self), file, indent=2)
        partial.rename(path)

    @classmethod
    def read(cls, path: Path) -> "Endpoint | None":
        """Return the endpoint, or None if the file is missing or has another format."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def is_alive(self) -> bool:
        """Whether its process still runs, and not another process with the same pid."""
        return is_running(self.pid) and process_start(self.pid) == self.pid_start
