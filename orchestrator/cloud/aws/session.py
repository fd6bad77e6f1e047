"""Sessions and clients of boto3: one for the user's account, one for the embedded cloud.

The user's session has the user's settings. Its credential helpers get a time limit, and it asks for an MFA code only
where somebody can type one. The embedded cloud's session has none of the user's settings: no profile, no AWS_*
variable, no proxy.
"""

from __future__ import annotations

import getpass
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES, ConfigChainFactory, ConfigValueStore
from botocore.credentials import ProcessProvider

from orchestrator.cloud.aws.sdk_errors import HelperError, PromptRefusedError
from orchestrator.cloud.aws.server_date import confirm_clock
from orchestrator.version import VERSION

USER_AGENT = f"pixel-orch/{VERSION}"  # appears in AWS's logs beside boto3's own name
HELPER_TIMEOUT_S = 60.0  # a person may have to press a key on a token, or log in in a browser
HELPER_REST_S = 60.0  # after a helper hung it is not started again for so long: a poll must not wait for it each time

_assumed_roles: dict[str, Any] = {}  # of this process: a role that needs an MFA code is assumed once
_prompted: set[str] = set()
_hung: dict[str, float] = {}  # helper -> when it may be started again (monotonic)
_lock = threading.Lock()


def open_session(profile: str | None = None, *, endpoint: Mapping[str, str] | None = None) -> Any:
    """Return a boto3 session: the user's, or with an endpoint that of the embedded cloud.

    Raises what botocore raises: call it within `map_boto_errors`.
    """
    if endpoint:
        return boto3.session.Session(botocore_session=_embedded_core())
    session = boto3.session.Session(profile_name=profile)
    _tame_providers(session._session)
    return session


def open_client(
    session: Any, service: str, region: str | None, *, endpoint: Mapping[str, str] | None = None, **options: Any
) -> Any:
    """Return a client of a session of `open_session`; `options` are those of `botocore.config.Config`.

    A client of the embedded cloud goes through no proxy: none reaches 127.0.0.1.
    """
    if endpoint:
        options["proxies"] = {}
    config = Config(user_agent_extra=USER_AGENT, **options)
    client = session.client(service, region_name=region, config=config, **dict(endpoint or {}))
    if not endpoint:  # the embedded cloud has this machine's own clock
        confirm_clock(client)
    return client


def _embedded_core() -> Any:
    """Return a botocore session that reads no file and no variable of the user."""
    core = botocore.session.Session()
    chains = ConfigChainFactory(session=core, environ={})
    settings = {
        name: chains.create_config_chain(name, variables, in_file, default, conversion)
        for name, (in_file, variables, default, conversion) in BOTOCORE_DEFAUT_SESSION_VARIABLES.items()
    }
    core.register_component("config_store", ConfigValueStore(mapping=settings))
    for name in ("config_file", "credentials_file"):
        core.set_config_variable(name, os.devnull)
    return core


# -- the credential providers of the user's session


def _tame_providers(core: Any) -> None:
    """Give helpers a time limit and prompts a condition. The attributes are private to botocore: none has a setter."""
    for provider in core.get_component("credential_provider").providers:
        if hasattr(provider, "_popen"):
            provider._popen = Helper
        if hasattr(provider, "_prompter"):
            provider._prompter = ask_for_code
            provider.cache = _assumed_roles
        builder: Any = getattr(provider, "_profile_provider_builder", None)
        if hasattr(builder, "_create_process_provider"):  # of a role's source profile
            builder._create_process_provider = lambda profile_name: ProcessProvider(
                profile_name, lambda: core.full_config, popen=Helper
            )


def forget_assumed_roles() -> None:
    """Assume roles anew: AWS has refused the keys of one, for example because its sessions were revoked."""
    _assumed_roles.clear()


def ask_for_code(prompt: str) -> str:
    """Ask for an MFA code, once in a process: in the middle of a run nobody waits at the terminal.

    Raises:
        PromptRefusedError: standard input is no terminal, or the code was asked for before.
    """
    with _lock:
        is_first = prompt not in _prompted
        _prompted.add(prompt)
    if not is_first or not is_terminal():
        raise PromptRefusedError(prompt)
    return getpass.getpass(prompt)


def is_terminal() -> bool:
    """Return whether somebody can be asked: both standard input and standard error are a terminal."""
    return all(stream is not None and not stream.closed and stream.isatty() for stream in (sys.stdin, sys.stderr))


class Helper(subprocess.Popen[bytes]):
    """A `credential_process` helper: ends within a minute, and reads no input unless there is a terminal.

    Raises:
        HelperError: it cannot be started, hangs, or prints no JSON object. The text names the program without its
            arguments, which may hold secrets.
    """

    def __init__(self, words: list[str], **options: Any) -> None:
        self.name = words[0] if words else "(empty)"
        with _lock:
            rests_until = _hung.get(self.name, 0.0)
        if time.monotonic() < rests_until:
            raise HelperError(f"the helper {self.name} gave no answer within {HELPER_TIMEOUT_S:.0f} s")
        if not is_terminal():
            options["stdin"] = subprocess.DEVNULL
        try:
            super().__init__(words, **options)
        except (OSError, ValueError, IndexError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise HelperError(f"the helper {self.name} cannot be started: {why}") from error

    def communicate(self, input: bytes | None = None, timeout: float | None = None) -> tuple[bytes, bytes]:
        """Return what it printed on (standard output, standard error)."""
        try:
            output, errors = super().communicate(input, HELPER_TIMEOUT_S if timeout is None else timeout)
        except subprocess.TimeoutExpired:
            with _lock:
                _hung[self.name] = time.monotonic() + HELPER_REST_S
            self.kill()
            super().wait()
            raise HelperError(f"the helper {self.name} gave no answer within {HELPER_TIMEOUT_S:.0f} s") from None
        if self.returncode == 0 and not _is_json_object(output):
            raise HelperError(f"the helper {self.name} printed no JSON object")
        return output, errors.decode(errors="replace").encode()


def _is_json_object(output: bytes) -> bool:
    try:
        return isinstance(json.loads(output), dict)
    except (ValueError, RecursionError):
        return False
