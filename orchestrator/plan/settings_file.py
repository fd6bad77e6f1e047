"""Settings from YAML files: `--file`, `pixel-orch.yaml`, `~/.config/pixel-orch/config.yaml`.

A file that is named with `-f` and the one below `~/.config` are the user's own. `pixel-orch.yaml` in the current folder
is whoever's the folder is: of a cloned repository, a stranger's. It is read without being asked for, so that it may say
what is trained, and nothing else (`OF_A_FOLDER`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.config import REGISTRY
from orchestrator.errors import SpecError
from orchestrator.formatting import nearest, one_line
from orchestrator.plan.validators import check_amount, duration_s
from orchestrator.plan.yaml_reader import by_key, read_mapping

KEYS: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "cloud": str,
    "instance": (str, list),
    "gpu": (str, list),
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
    "setup": str,
    "no_setup": bool,
    "image": str,
    "outputs": (str, list),
    "ignore_outputs": (str, list),
    "download": str,
    "download_every": (int, float, str),
    "keep_outputs_for": (int, float, str),
    "metrics": (str, list, dict),
    "stop_signal": str,
    "notify": str,
    "export": (str, list),
    "deadline": (int, float, str),
    "policy": str,
    "work": (int, float, str),
    "ami": str,
    "budget": (int, float, str),
    "max_duration": (int, float, str),
    "idle_minutes_to_autostop": (int, float, str),
    "retry_until_up": bool,
    "strategy": str,
    "nodes": (int, str),
    "slots": int,
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
OF_A_FOLDER = {
    "name": "the name of the run",
    "region": "where it is rented",
    "spot": "the market; on-demand costs more, so that `on-demand` is not one of them",
    "model": "of the bundled trainer",
    "dataset": "a registered one, not a folder",
    "steps": "of the bundled trainer",
    "checkpoint_every": "of the bundled trainer",
    "set": "other settings of the bundled trainer",
    "workdir": "the folder itself, or one in it",
    "metrics": "patterns for the log of the folder's own program; they run on the machine",
    "stop_signal": "the signal that the folder's own program handles",
    "budget": "only lowers the user's own",
    "max_duration": "only lowers the user's own",
    "idle_minutes_to_autostop": "only lowers the user's own",
}
"""The settings that `pixel-orch.yaml` may hold where it is found, and not named. No other one is: what is left out
could run a program here (`ssh_proxy`, `command`; `env` with LD_PRELOAD, `setup` or the folder's program, with
`cloud: local`), read other files (`env_file`, `key`, `include`), decide who may connect (`ssh_cidr`, `subnet`, a `tag`
that a policy asks for), who is told (`notify`, `export`), which account, bucket or image is used, or raise what is
spent (`instance`, `gpu`, `nodes`, `disk_size`)."""

BILLED = ("region", "model", "dataset", "steps", "set")
"""Those of them that change the price of an hour or the number of hours: on AWS the user sets a limit then."""

ONLY_FLAGS = (
    "yes",
    "detach",
    "resume",
    "from",
    "dry_run",
    "sync_dry_run",
    "output",
    "plain",
    "faults",
    "spot_advisor",
    "interrupt_after",
)
LAUNCH_SETTINGS = frozenset({*KEYS, *ONLY_FLAGS, "file", "start_from"} - {"from"})
"""Everything that a launch may be given, by the names of the flags."""

TEXTS = frozenset({name for name, kind in KEYS.items() if kind in (str, (str, list))} | {"env", "tag", "metrics"})
"""Settings whose values are texts: what YAML would read as another value than what is written is an error."""

FOLDER_FILE = "pixel-orch.yaml"


@dataclass(frozen=True)
class Source:
    """A file of which settings were read."""

    path: str
    keys: tuple[str, ...]  # as flags are named

    def __str__(self) -> str:
        return f"{', '.join(self.keys)} from {one_line(self.path)}"


@dataclass(frozen=True)
class FileSettings:
    """The settings of all files by the names of the flags, and which file has which."""

    values: Mapping[str, Any]
    sources: tuple[Source, ...] = ()
    of_folder: frozenset[str] = frozenset()  # whose value a file has that nobody named

    def check_spending(self, flags: Mapping[str, Any]) -> None:
        """Refuse a setting of a found file that changes what is billed, where no limit of the user's own bounds it.

        Args:
            flags: the values of the flags by their names.

        Raises:
            SpecError: there is no limit.
        """
        own = [key for key in ("budget", "max_duration") if flags.get(key) is not None]
        own += [key for key in ("budget", "max_duration") if key in self.values and key not in self.of_folder]
        billed = [key for key in BILLED if key in self.of_folder and (key == "set" or not flags.get(key))]
        if billed and not own:
            raise SpecError(
                f"{FOLDER_FILE}: {_flag(billed[0])} changes what is billed; add --budget or "
                f"--max-duration, or name the file: -f {FOLDER_FILE}"
            )


def read_settings(named: str | None) -> FileSettings:
    """Return the settings of the file that is named, else of the default files.

    `pixel-orch.yaml` of the working folder wins over `~/.config/pixel-orch/config.yaml`, but for limits, of which the
    lower one holds; flags win over both.

    Raises:
        SpecError: a file cannot be read, or holds what it may not.
    """
    if named:
        values = read_file(named)
        return FileSettings(values, _sources(named, values))
    config = _config_folder() / "pixel-orch" / "config.yaml"
    if os.path.lexists(config) and not config.is_file():  # limits in it would not hold
        raise SpecError(f"{config}: it is no file, or a link to none; mend or remove it")
    own = read_file(str(config), is_named=False) if config.is_file() else {}
    sources = _sources(str(config), own)
    if not os.path.lexists(FOLDER_FILE):
        return FileSettings(own, sources)
    found = _of_folder()
    return FileSettings(
        {**own, **{key: _lower(key, value, own.get(key)) for key, value in found.items()}},
        (*sources, *_sources(f"./{FOLDER_FILE}", found)),
        frozenset(found),
    )


def settings_file(named: str | None) -> dict[str, Any]:
    """Return the values of `read_settings`."""
    return dict(read_settings(named).values)


def _sources(path: str, values: Mapping[str, Any]) -> tuple[Source, ...]:
    return (Source(path, tuple(map(_flag, values))),) if values else ()


def _config_folder() -> Path:
    """Return `$XDG_CONFIG_HOME`; a relative one is to be ignored (XDG base directory specification), as it would be
    below the current folder."""
    given = Path(os.environ.get("XDG_CONFIG_HOME") or "")
    return given if given.is_absolute() else Path(os.path.expanduser("~/.config"))


def _flag(key: str) -> str:
    return key.replace("_", "-")


def _of_folder() -> dict[str, Any]:
    """Return the settings of `pixel-orch.yaml` in the current folder.

    Raises:
        SpecError: it is a link or no file, or holds a key or a value that needs the file to be named.
    """
    path = Path(FOLDER_FILE)
    if path.is_symlink() or not path.is_file():
        raise SpecError(f"{FOLDER_FILE}: it is not a plain file; remove it, or name a file with -f")
    found = read_file(FOLDER_FILE, is_named=False)
    for key, value in found.items():
        why = _refused(key, value)
        if why:
            raise SpecError(
                f"{FOLDER_FILE}: {_flag(key)} {why} in a file that is only found in the current folder; if you trust "
                f"it, name it: -f {FOLDER_FILE}"
            )
    return found


def _refused(key: str, value: Any) -> str:
    """Return why a key of a found file is refused, "" if it is not."""
    if key not in OF_A_FOLDER:
        return "is not allowed"
    if key == "workdir":
        here, there = Path.cwd().resolve(), Path(os.path.expanduser(value)).resolve()
        return "" if there == here or here in there.parents else "leads out of the folder, which is not allowed"
    dataset = value if key == "dataset" else value.get("dataset") if key == "set" else None
    if dataset is not None and str(dataset) not in REGISTRY:
        return f"names {one_line(str(dataset))[:60]!r}, which is no registered data set; that is not allowed"
    if key == "spot" and value is False:
        return "is false, which may cost more and is not allowed"
    return ""


def _lower(key: str, found: Any, own: Any) -> Any:
    """Return the lower of two limits; of another setting the one that was found."""
    if own is None or key not in ("budget", "max_duration", "idle_minutes_to_autostop"):
        return found
    if key == "max_duration":
        one, other = (duration_s(str(value), flag="--max-duration", example="12h") for value in (found, own))
    else:
        one, other = (float(check_amount(value, flag=f"--{_flag(key)}", example="5")) for value in (found, own))
    return found if one < other else own


def read_file(path_text: str, *, is_named: bool = True) -> dict[str, Any]:
    """Return the settings of a YAML file, its keys in the form of the flags' names.

    Args:
        path_text: of the file.
        is_named: whether it is named with `-f`, for errors.

    Raises:
        SpecError: it cannot be read, is not a YAML mapping, or has an unknown key or a value of the wrong type.
    """
    file = ("-f: " if is_named else "") + one_line(path_text)
    entries = read_mapping(Path(os.path.expanduser(path_text)), file=file, is_text=TEXTS.__contains__)
    for entry in entries:
        _check_known(file, entry.key)
    return {key: _checked(file, key, entry.value) for key, entry in by_key(entries, file).items()}


def _check_known(file: str, key: str) -> None:
    name = key.replace("-", "_")
    if name in ONLY_FLAGS:
        raise SpecError(f"{file}: {_flag(name)} is not a setting of a run; give --{_flag(name)} on the command line")
    if name not in KEYS:
        near = nearest(name, KEYS)
        hint = f"did you mean {_flag(near)}?" if near else f"known: {', '.join(map(_flag, KEYS))}"
        raise SpecError(f"{file}: unknown key {one_line(key)[:60]!r}; {hint}")


def _checked(file: str, key: str, value: Any) -> Any:
    kinds = KEYS[key]
    is_bool_for_number = isinstance(value, bool) and kinds is not bool
    is_nested = isinstance(value, (list, dict)) and key not in ("set", "prepare") and _has_collections(value)
    if not isinstance(value, kinds) or is_bool_for_number or is_nested:
        want = " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
        shown = one_line(repr(value))
        raise SpecError(f"{file}: {_flag(key)} must be {want}, not {shown if len(shown) <= 60 else shown[:57] + '...'}")
    return value


def _has_collections(value: list[Any] | dict[str, Any]) -> bool:
    parts = value.values() if isinstance(value, dict) else value
    return any(isinstance(part, (list, dict)) for part in parts)
