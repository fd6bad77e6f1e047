"""The instance metadata service, version 2 (IMDSv2). Standard library only, Python 3.8 and later.

It is on a link-local address, so no proxy can reach it, and a proxy that answers in its place hides the interruption
notice. `http_proxy` in /etc/environment applies to every login; it is never used here. The trainer, pip and the
uploads do use it.
"""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
from typing import MutableMapping

MOST_BYTES = 1 << 16
ADDRESSES = ("169.254.169.254", "[fd00:ec2::254]", "169.254.170.2")  # metadata over IPv4 and IPv6; keys of a container
OWN_ADDRESSES = ("localhost", "127.0.0.1", "::1")  # what runs on this machine: another one has something else there
PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def endpoint() -> str:
    """Return the URL of the service, without a slash at the end."""
    return (os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or "http://169.254.169.254").rstrip("/")


def take_proxies(environ: MutableMapping[str, str]) -> None:
    """Add the proxies of /etc/environment that a login did not bring: not each SSH server reads that file."""
    path = os.path.join(os.path.dirname(os.environ.get("PIXEL_ORCH_ETC_SSH", "/etc/ssh")), "environment")
    try:
        with open(path, errors="replace") as file:
            lines = file.read(MOST_BYTES).splitlines()
    except OSError:
        return
    for line in lines:
        name, _, value = line.strip().partition("=")
        name = name.split()[-1] if name.startswith("export ") else name
        if name.lower() in (*PROXIES, "no_proxy") and not environ.get(name):
            environ[name] = value.split(" #")[0].strip().strip("\"'")
    keep_from_proxy(environ)


def keep_from_proxy(environ: MutableMapping[str, str]) -> None:
    """Add the service, and this machine, to `no_proxy`: programs such as boto3 ask it in their own way."""
    if not any(environ.get(name) or environ.get(name.upper()) for name in PROXIES):
        return
    own = endpoint().split("://", 1)[-1].split("/", 1)[0]
    known = [name.strip() for name in (environ.get("no_proxy") or environ.get("NO_PROXY") or "").split(",")]
    names = [name for name in known if name]
    names += [name for name in (*ADDRESSES, *OWN_ADDRESSES, own) if name not in names]
    environ["no_proxy"] = environ["NO_PROXY"] = ",".join(names)


class Metadata:
    """A client of the instance metadata service, version 2.

    Every failure reads as "no value": a failed poll must not end the watch process. `problem` says why the last
    question had no answer; it is "" after an answer, which "there is no such value" is too.
    """

    def __init__(self) -> None:
        self.base = endpoint() + "/latest/"
        self.token: str | None = None
        self.problem = ""
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def _ask(self, path: str, method: str = "GET", headers: dict[str, str] | None = None) -> str:
        request = urllib.request.Request(self.base + path, method=method, headers=headers or {})
        with self._opener.open(request, timeout=2) as answer:
            return str(answer.read(MOST_BYTES).decode())

    def get(self, path: str) -> str | None:
        """Return the text at `path`, or None."""
        for _ in range(2):
            try:
                if self.token is None:
                    self.token = self._ask("api/token", "PUT", {"X-aws-ec2-metadata-token-ttl-seconds": "21600"})
                text = self._ask("meta-data/" + path, headers={"X-aws-ec2-metadata-token": self.token})
                self.problem = ""
                return text
            except urllib.error.HTTPError as error:
                self.token = None if error.code == 401 else self.token  # the token has expired: request a new one, once
                self.problem = "" if error.code == 404 and self.token is not None else "HTTP status %d" % error.code
                if error.code != 401:
                    return None
            except (OSError, ValueError, http.client.HTTPException) as error:
                self.problem = str(getattr(error, "reason", "") or error or type(error).__name__)
                return None
        return None
