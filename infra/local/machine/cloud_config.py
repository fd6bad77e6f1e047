"""The parts of user-data that an embedded instance supports. Pure."""

import contextlib
import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class CloudConfig:
    """The supported parts of user-data, by cloud-init's names (cloudinit.readthedocs.io)."""

    host_key: str | None = None
    authorized_keys: tuple[str, ...] = ()
    boot_commands: tuple[str | list[str], ...] = field(default=())  # at every boot
    commands: tuple[str | list[str], ...] = field(default=())  # at the first boot

    @classmethod
    def parse(cls, user_data: bytes) -> "CloudConfig":
        """Parse user-data: `#cloud-config` followed by JSON or YAML.

        Anything else is ignored; cloud-init logs it.
        """
        text = user_data.decode("utf-8", "replace")
        if not text.startswith("#cloud-config"):
            return cls()
        raw = _parse_mapping(text.partition("\n")[2])
        keys = raw.get("ssh_keys") or {}
        return cls(
            host_key=keys.get("ed25519_private"),
            authorized_keys=tuple(str(key) for key in raw.get("ssh_authorized_keys") or ()),
            boot_commands=_commands(raw.get("bootcmd")),
            commands=_commands(raw.get("runcmd")),
        )


def _commands(raw: Any) -> tuple[str | list[str], ...]:
    return tuple(
        [str(word) for word in command] if isinstance(command, list) else str(command) for command in raw or ()
    )


def _parse_mapping(text: str) -> dict[str, Any]:
    try:
        raw = json.loads(text)
    except ValueError:
        with contextlib.suppress(ImportError):
            import yaml

            with contextlib.suppress(yaml.YAMLError):
                raw = yaml.safe_load(text)
                return raw if isinstance(raw, dict) else {}
        return {}
    return raw if isinstance(raw, dict) else {}
