"""The instance metadata service, version 2 (IMDSv2). Standard library only, Python 3.8 and later."""

from __future__ import annotations

import os
import urllib.error
import urllib.request


class Metadata:
    """A client of the instance metadata service, version 2.

    Every failure reads as "no value": a failed poll must not end the watch process.
    """

    def __init__(self) -> None:
        base = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or "http://169.254.169.254"
        self.base = base.rstrip("/") + "/latest/"
        self.token: str | None = None

    def _ask(self, path: str, method: str = "GET", headers: dict[str, str] | None = None) -> str:
        request = urllib.request.Request(self.base + path, method=method, headers=headers or {})
        with urllib.request.urlopen(request, timeout=2) as answer:
            return str(answer.read().decode())

    def get(self, path: str) -> str | None:
        """Return the text at `path`, or None."""
        for _ in range(2):
            try:
                if self.token is None:
                    self.token = self._ask("api/token", "PUT", {"X-aws-ec2-metadata-token-ttl-seconds": "21600"})
                return self._ask("meta-data/" + path, headers={"X-aws-ec2-metadata-token": self.token})
            except urllib.error.HTTPError as error:
                self.token = None if error.code == 401 else self.token  # the token has expired: request a new one, once
                if error.code != 401:
                    return None
            except (OSError, ValueError):
                return None
        return None
