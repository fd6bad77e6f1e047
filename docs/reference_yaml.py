"""The page of the YAML keys, for `docs.make_reference`."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from model.config import TrainConfig
from model.config.data_flags import add_prepare
from orchestrator.cli.flags_launch import launch
from orchestrator.plan.settings_file import KEYS, OF_A_FOLDER, ONLY_FLAGS
from orchestrator.runs.spec import Downloads, ProgramSpec, RecoveryPolicy, RunSpec

DEFAULTS: dict[str, tuple[type[BaseModel], str]] = {
    "model": (TrainConfig, "model"),
    "dataset": (TrainConfig, "dataset"),
    "steps": (TrainConfig, "steps"),
    "checkpoint_every": (TrainConfig, "checkpoint_every"),
    "strategy": (RunSpec, "strategy"),
    "disk_size": (RunSpec, "disk_gib"),
    "private": (RunSpec, "is_private"),
    "allow_cpu": (RunSpec, "allow_cpu"),
    "download": (Downloads, "mode"),
    "keep_outputs_for": (Downloads, "keep_s"),
    "stop_signal": (ProgramSpec, "stop_signal"),
    "notify": (ProgramSpec, "notify"),
    "owner_timeout": (RecoveryPolicy, "owner_timeout_s"),
}
"""The field that has the default of a key; a key that is not here has none, or one that its line tells."""

WORDS = {
    "cloud": "`aws`",
    "name": "generated",
    "region": "the configured one",
    "spot": "one of `spot`, `on-demand` is needed",
    "on_demand": "one of `spot`, `on-demand` is needed",
    "instance": "one of `instance`, `gpu` is needed",
    "nodes": "1",
    "slots": "one for each GPU",
    "gpu": "one of `instance`, `gpu` is needed",
}

EXAMPLES: dict[str, str] = {
    "name": "name: digits-1",
    "cloud": "cloud: local",
    "instance": "instance: [g4dn.xlarge, g5.xlarge]",
    "gpu": "gpu: T4",
    "spot": "spot: true",
    "on_demand": "on-demand: true",
    "max_price": "max-price: 0.35",
    "region": "region: [us-east-1, us-west-2]",
    "model": "model: row-lstm",
    "dataset": "dataset: cifar10",
    "steps": "steps: 5000",
    "checkpoint_every": "checkpoint-every: 250",
    "set": "set: {learning_rate: 0.001, batch_size: 64}",
    "env": 'env: {SEED: 1, DEBUG: "on"}',
    "workdir": "workdir: .",
    "command": "command: python train.py --epochs 20",
    "include": "include: [data/small.npz]",
    "setup": "setup: pip install -r requirements.txt",
    "no_setup": "no-setup: true",
    "image": "image: pytorch/pytorch:latest",
    "outputs": "outputs: ['results/**', '*.pt']",
    "ignore_outputs": "ignore-outputs: ['*.log']",
    "download": "download: all",
    "download_every": "download-every: 10m",
    "keep_outputs_for": "keep-outputs-for: 1h",
    "metrics": "metrics: {loss: 'loss=([0-9.]+)'}",
    "stop_signal": "stop-signal: SIGUSR1",
    "notify": "notify: https://example.org/hook",
    "export": "export: [mlflow, tensorboard]",
    "ami": "ami: ami-0123456789abcdef0",
    "budget": "budget: 5",
    "deadline": "deadline: 12h",
    "policy": "policy: planned",
    "work": "work: 10h",
    "max_duration": "max-duration: 12h",
    "idle_minutes_to_autostop": "idle-minutes-to-autostop: 30",
    "retry_until_up": "retry-until-up: true",
    "strategy": "strategy: any",
    "nodes": "nodes: 2",
    "slots": "slots: 4",
    "subnet": "subnet: subnet-0123456789abcdef0",
    "private": "private: true",
    "ssh_cidr": "ssh-cidr: 10.0.0.0/16",
    "ssh_proxy": "ssh-proxy: ssh -W %h:%p bastion",
    "via_ssm": "via-ssm: true",
    "key": "key: ~/.ssh/id_ed25519",
    "tag": "tag: {team: vision}",
    "disk_size": "disk-size: 200",
    "login_user": "login-user: ubuntu",
    "bucket": "bucket: my-runs",
    "data_bucket": "data-bucket: s3://my-runs/data",
    "prepare": "prepare: {levels: 8, holdout: 5000}",
    "owner_timeout": "owner-timeout: 1h",
    "instance_profile": "instance-profile: pixel-orch-instance",
    "allow_cpu": "allow-cpu: true",
    "profile": "profile: research",
    "env_file": "env-file: train.env",
}

FILES = {
    "The bundled trainer, within a budget": """\
instance: [g4dn.xlarge, g5.xlarge]
spot: true
region: us-east-1
max-price: 0.35
budget: 5
model: row-lstm
steps: 5000
set:
  learning_rate: 0.001
  batch_size: 64
""",
    "Your own program": """\
name: finetune
gpu: T4
spot: true
region: [us-east-1, us-west-2]
workdir: .
command: python train.py --epochs 20
env:
  SEED: 1
  DEBUG: "on"
outputs: ['results/**', '*.pt']
metrics:
  loss: 'loss[=: ]+([0-9.eE+-]+)'
budget: 10
max-duration: 12h
""",
    "A machine without a public address": """\
instance: g5.xlarge
spot: true
region: us-east-1
private: true
via-ssm: true
subnet: subnet-0123456789abcdef0
instance-profile: pixel-orch-instance
tag: {team: vision}
workdir: .
command: [python, train.py]
bucket: my-runs
download: none
""",
}
"""Whole files; a test gives each to the reader that a launch uses."""

KINDS = {str: "text", list: "list", bool: "true or false", int: "whole number", float: "number", dict: "mapping"}


def yaml_page(note: str) -> str:
    """Return the page."""
    lines = [
        "# YAML keys",
        "",
        note,
        "",
        "A settings file holds what `launch` and `bench` take as flags: a key is the flag without its dashes, with `-`",
        "or `_` in it. Flags win over files. [Settings, and what is sent](../settings.md) says which file is read",
        "when, and how values are written. `pixel-orch launch -f run.yaml --dry-run` checks a file, and creates",
        "nothing.",
        "",
        "## Whole files",
    ]
    for title, text in FILES.items():
        lines += ["", f"**{title}**", "", "```yaml", *text.splitlines(), "```"]
    lines += [
        "",
        "## Keys",
        "",
        "*Found*: `pixel-orch.yaml` of the current folder may hold the key, also where it is not named with `-f`.",
        f"These are flags only, and no file holds them: {', '.join(f'`{flag(key)}`' for key in ONLY_FLAGS)}.",
        "",
        "| key | type | default | meaning | example | found |",
        "|---|---|---|---|---|---|",
        *(key_line(key) for key in KEYS),
        *set_lines(),
        *prepare_lines(),
    ]
    return "\n".join([*lines, ""])


def key_line(key: str) -> str:
    """Return the row of a key."""
    found = "yes" if key in OF_A_FOLDER else ""
    return (
        f"| `{flag(key)}` | {kind(KEYS[key])} | {default(key)} | {cell(meaning(key))} | `{EXAMPLES[key]}` | {found} |"
    )


def flag(key: str) -> str:
    """Return a key as a flag is written."""
    return key.replace("_", "-")


def kind(kinds: type | tuple[type, ...]) -> str:
    """Return the types of YAML that a key takes."""
    given = kinds if isinstance(kinds, tuple) else (kinds,)
    return " or ".join(KINDS[one] for one in given if not (one is int and float in given))


def meaning(key: str) -> str:
    """Return what the flag of the same name does."""
    if key == "command":
        return "the command of your own program; on the command line it follows `--`"
    sub = argparse.ArgumentParser()
    launch(sub)
    found = {action.dest: action.help or "" for action in sub._actions}
    return found[key].replace("%%", "%")


def default(key: str) -> str:
    """Return the default of a key."""
    if key in WORDS:
        return WORDS[key]
    if key not in DEFAULTS:
        return "false" if KEYS[key] is bool else ""
    model, field = DEFAULTS[key]
    value = model.model_fields[field].default
    if field.endswith("_s"):
        return f"`{value / 60:g}m`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def set_lines() -> list[str]:
    """Return the part about the settings of the bundled trainer."""
    lines = [
        "",
        "## Settings of the bundled trainer",
        "",
        "They stand below `set:`, or follow `--set` as `KEY=VALUE`.",
        "",
        "| key | type | default | meaning |",
        "|---|---|---|---|",
    ]
    for name, field in TrainConfig.model_fields.items():
        if name != "facts":  # the trainer fills it in
            value = f"`{field.default}`" if field.default != "" else ""
            lines.append(f"| `{name}` | {bounded(field)} | {value} | {cell(field.description or '')} |")
    return lines


def bounded(field: FieldInfo) -> str:
    """Return the type of a model's field with its bounds: `number, at least 0, below 1`."""
    annotation: Any = field.annotation
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    words = [KINDS[annotation]]
    for sign, name in (("at least", "ge"), ("above", "gt"), ("at most", "le"), ("below", "lt")):
        limits = [getattr(one, name) for one in field.metadata if getattr(one, name, None) is not None]
        words += [f"{sign} {limit:,.10g}" for limit in limits]
    return ", ".join(words)


def prepare_lines() -> list[str]:
    """Return the part about the settings of `data prepare` on the machine."""
    sub = argparse.ArgumentParser()
    add_prepare(sub)
    lines = [
        "",
        "## Settings of `data prepare` on the machine",
        "",
        "They stand below `prepare:`, or follow `--prepare` as `KEY=VALUE`, for a registered data set that does not",
        "come with the trainer. [Data](../data.md) says which set takes which.",
        "",
        "| key | meaning |",
        "|---|---|",
    ]
    for action in sub._actions:
        if action.option_strings and action.dest not in ("help", "out"):
            lines.append(f"| `{action.dest}` | {cell((action.help or '').replace('%%', '%'))} |")
    return lines


def cell(text: str) -> str:
    """Return a text for a cell of a table, in which `|`, `<` and `*` stand for themselves."""
    return re.sub(r"([|*])", r"\\\1", " ".join(text.split())).replace("<", "&lt;")


def write_files(folder: Path) -> list[Path]:
    """Write each of the whole files into a folder, and return their paths."""
    paths = [folder / f"{number}.yaml" for number in range(len(FILES))]
    for path, text in zip(paths, FILES.values(), strict=True):
        path.write_text(text)
    return paths
