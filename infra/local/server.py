"""The server process of the embedded cloud.

It writes to READY_FD (a pipe) when it is ready. It exits on SIGTERM, on request, or after a long time without use. At
its exit it kills all processes of the instances and removes endpoint.json.
"""

import asyncio
import json
import logging
import os
import secrets
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from werkzeug.serving import BaseWSGIServer, make_server

from infra.local.api.control_routes import ControlRoutes
from infra.local.api.overlay import Overlay
from infra.local.aws import spot_market
from infra.local.cloud.cloud import Cloud, Settings
from infra.local.cloud.faults import load_faults, parse_faults
from infra.local.endpoint import Endpoint
from infra.local.machine import processes

log = logging.getLogger("pixel-orch.local")
_HOUSEKEEPING_S = 5.0


class Server:
    """Creates the parts of the cloud and runs until a stop is requested."""

    def __init__(self, state: Path, settings: Settings, loop: asyncio.AbstractEventLoop) -> None:
        self._endpoint_file = state / "endpoint.json"
        self._instances = state / "instances"
        shutil.rmtree(self._instances, ignore_errors=True)  # left by a cloud that was killed
        self._loop = loop
        self._stop = asyncio.Event()
        self._cloud = Cloud(state, settings, loop)
        self._key = f"AKIA{secrets.token_hex(16).upper()}"
        control = ControlRoutes(self._cloud, self._key, lambda: self._loop.call_soon_threadsafe(self._stop.set))
        self._overlay = Overlay(self._cloud, self._key, control, state)
        self._web: BaseWSGIServer = make_server("127.0.0.1", 0, self._overlay, threaded=True)
        self._cloud.api_url = f"http://127.0.0.1:{self._web.server_port}"

    def add_faults(self, path: Path) -> None:
        """Apply the faults of a file from the start on. Raises ValueError for a bad file."""
        for fault in parse_faults(load_faults(path)):
            self._cloud.apply(fault)

    async def run(self, ready_fd: int) -> None:
        """Serve until a stop is requested."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop.set)
        threading.Thread(target=self._web.serve_forever, name="api", daemon=True).start()
        Endpoint(
            endpoint_url=self._cloud.api_url,
            access_key_id=self._key,
            secret_access_key=secrets.token_urlsafe(30),
            cloud_id=self._cloud.cloud_id,
            pid=os.getpid(),
            pid_start=processes.process_start(os.getpid()),
            regions=spot_market.regions(),
        ).write(self._endpoint_file)
        os.write(ready_fd, b"ready\n")
        os.close(ready_fd)
        log.info("ready at %s", self._cloud.api_url)
        threading.Thread(target=self._overlay.warm_up, name="warm-up", daemon=True).start()
        housekeeping = self._loop.create_task(self._stop_when_unused())
        await self._stop.wait()
        housekeeping.cancel()
        await self._end()

    async def _stop_when_unused(self) -> None:
        """Request a stop after a long time without use, or when the state folder has been removed."""
        while True:
            await asyncio.sleep(_HOUSEKEEPING_S)
            if not self._endpoint_file.exists():
                log.info("stopping: endpoint.json was removed, so no command can find this process")
                self._stop.set()
            unused_s = time.monotonic() - self._cloud.last_request
            if unused_s > self._cloud.settings.idle_s and await asyncio.to_thread(self._cloud.instances.is_idle):
                log.info("stopping: no request for %.0f s", unused_s)
                self._stop.set()

    async def _end(self) -> None:
        """End all instances, kill their processes, and remove endpoint.json last."""
        self._cloud.stopping = True
        await self._cloud.end_all()
        survivors = await asyncio.to_thread(processes.kill_all, f"{self._cloud.cloud_id}/")
        if survivors:
            log.error("processes %s survived SIGKILL", survivors)
        shutil.rmtree(self._instances, ignore_errors=True)
        self._endpoint_file.unlink(missing_ok=True)
        log.info("stopped")


def main(argv: list[str]) -> None:
    """Run the server: STATE_FOLDER READY_FD SETTINGS_JSON."""
    state, ready_fd, options = Path(argv[0]), int(argv[1]), json.loads(argv[2])
    os.umask(0o077)
    os.set_inheritable(ready_fd, False)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    processes.become_subreaper()
    faults: Any = options.pop("faults", None)

    async def serve() -> None:
        server = Server(state, Settings(**options), asyncio.get_running_loop())
        if faults is not None:
            server.add_faults(Path(faults))
        await server.run(ready_fd)

    try:
        asyncio.run(serve())
    except ValueError as error:
        sys.exit(f"error: {error}")
    logging.shutdown()
    os._exit(0)  # freeing moto's objects one by one takes half a second, and API threads need no clean end
