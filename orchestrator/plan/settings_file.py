"""Settings from YAML files: `--file`, `pixel-orch.yaml`, `~/.config/pixel-orch/config.yaml`."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.errors import SpecError

KEYS: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "cloud": str,
    "instance": (str, list),
    "spot": bool,
    "on_demand": bool,
    "max_price": (int, float, str),
    "region": (str, list),
    "model": str,
    "dataset": str,
    "steps": int,
    "checkpoint_every": int,
    "set": dict,
    "env": dict,
    "workdir": str,
    "command": (str, list),
    "include": (str, list),
    "ami": str,
    "budget": (int, float, str),
    "max_duration": (int, float, str),
    "idle_minutes_to_autostop": (int, float, str),
    "retry_until_up": bool,
    "strategy": str,
    "subnet": (str, list),
    "private": bool,
    "ssh_cidr": str,
    "ssh_proxy": str,
    "via_ssm": bool,
    "key": str,
    "tag": dict,
    "disk_size": int,
    "login_user": str,
    "bucket": str,
    "data_bucket": str,
    "prepare": dict,
    "owner_timeout": (int, float, str),
    "instance_profile": str,
    "allow_cpu": bool,
    "profile": str,
    "env_file": str,
}
ONLY_FLAGS = ("yes", "detach", "resume", "from", "dry_run", "sync_dry_run", "output", "faults", "interrupt_after")
LAUNCH_SETTINGS = frozenset({*KEYS, *ONLY_FLAGS, "file", "start_from"} - {"from"})
"""Everything that a launch may be given, by the names of the flags."""


def settings_file(named: str | None) -> dict[str, Any]:
    """Return the settings of the file that is named, else of the default files.

    `pixel-orch.yaml` of the working folder wins over `~/.config/pixel-orch/config.yaml`; flags win over both.
    """
    if named:
        return read_file(named)
    config = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "pixel-orch" / "config.yaml"
    found: dict[str, Any] = {}
    for path in (config, Path("pixel-orch.yaml")):
        if path.is_file():
            found.update(read_file(str(path)))
    return found


def read_file(path_text: str) -> dict[str, Any]:
    """Return the settings of a YAML file, its keys in the form of the flags' names.

    Raises:
        SpecError: it cannot be read, is not a YAML mapping, or has an unknown key or a value of the wrong type.
    """
    import yaml

    path = Path(path_text).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"-f: cannot read {path_text}: {error.strerror}; check the path") from None
    except UnicodeDecodeError:
        raise SpecError(f"-f: {path_text} is not a text file; give a YAML file") from None
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it is not YAML"
        raise SpecError(f"-f: {path_text}{where}: {' '.join(str(problem).split())}; give key: value lines") from None
    if raw is None:
        raise SpecError(f"-f: {path_text} is empty; give key: value lines, for example instance: g4dn.xlarge")
    if not isinstance(raw, dict):
        raise SpecError(f"-f: {path_text} holds a {type(raw).__name__}; give key: value lines")
    return {key: _checked(path_text, key, value) for key, value in _renamed(path_text, raw).items()}


def _renamed(path: str, raw: Mapping[Any, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for key, value in raw.items():
        name = str(key).replace("-", "_")
        if key is True or name in ONLY_FLAGS:  # YAML reads `yes` and `on` as true
            flag = "yes" if key is True else name.replace("_", "-")
            raise SpecError(f"-f: {path}: {flag} is not a setting of a run; give --{flag} on the command line")
        if name not in KEYS:
            near = difflib.get_close_matches(name, KEYS, n=1)
            hint = (
                f"did you mean {near[0].replace('_', '-')}?" if near else f"known: {', '.join(KEYS).replace('_', '-')}"
            )
            raise SpecError(f"-f: {path}: unknown key {key!r}; {hint}")
        settings[name] = value
    return settings


def _checked(path: str, key: str, value: Any) -> Any:
    kinds = KEYS[key]
    is_bool_for_number = isinstance(value, bool) and kinds is not bool
    if not isinstance(value, kinds) or is_bool_for_number:
        want = " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
        raise SpecError(f"-f: {path}: {key.replace('_', '-')} must be {want}, not {value!r}")
    return value
