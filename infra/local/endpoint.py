"""endpoint.json.

Where the running embedded cloud is, and the key to it. Standard library only; client and server use it.
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
        """All at once: who finds the file finds it whole."""
        partial = path.with_name(".endpoint.json.part")
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(self), file, indent=2)
        partial.rename(path)

    @classmethod
    def read(cls, path: Path) -> "Endpoint | None":
        """None if there is no file, or one that is not ours."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def is_alive(self) -> bool:
        """Whether its process runs: the same one, not another that has got its pid since."""
        return is_running(self.pid) and process_start(self.pid) == self.pid_start
