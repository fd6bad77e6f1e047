"""Checks of single settings; each error is one line that names the flag and what to do."""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Literal

from model.config import REGISTRY, TrainConfig, checked
from model.errors import DataError
from orchestrator.errors import SpecError
from orchestrator.formatting import one_line, unwritable
from orchestrator.market import catalog

CloudName = Literal["aws", "local"]

BUCKET_GRAMMAR = re.compile(r"(?!\d+\.\d+\.\d+\.\d+$)[a-z0-9](?:[a-z0-9.-]{1,61})[a-z0-9]")

PROFILE_GRAMMAR = re.compile(r"[\w+=,.@-]{1,128}", re.ASCII)

ENV_GRAMMAR = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

LEAST_AMOUNT, MOST_AMOUNT = Decimal("1e-9"), Decimal("1e12")
LONGEST_S = 100 * 365 * 86400.0

LOWEST_MAX_PRICE_USD_H = Decimal("0.001")  # EC2 wants MaxPrice above this (API reference, SpotMarketOptions)


def check_cloud(name: str | None) -> CloudName:
    """Return the name of a cloud; AWS if none is given.

    Raises:
        SpecError: there is no such cloud.
    """
    if name is None or name == "aws":
        return "aws"
    if name == "local":
        return "local"
    raise SpecError(f"--cloud: unknown cloud {name!r}; use aws, or local for the embedded cloud")


def check_instances(text: str) -> tuple[str, ...]:
    """Split `a,b,c` into known instance types, in the order given.

    Raises:
        SpecError: it is empty, or names a type that the catalog does not know.
    """
    names = [part.strip() for part in text.split(",")]
    if not all(names):
        raise SpecError(f"--instance: {text!r} names no instance type; give one, for example --instance g4dn.xlarge")
    return tuple(dict.fromkeys(catalog.find(name).name for name in names))


def check_price(text: str | float, *, flag: str = "--max-price") -> Decimal:
    """Return dollars per hour as a decimal.

    Raises:
        SpecError: it is not a finite number above EC2's lowest price.
    """
    try:
        price = Decimal(str(text))
    except InvalidOperation:
        raise SpecError(f"{flag}: {text!r} is not a price; give dollars per hour, for example {flag} 0.35") from None
    if not price.is_finite() or price <= LOWEST_MAX_PRICE_USD_H:
        raise SpecError(f"{flag}: {text} is not a price; give dollars per hour above {LOWEST_MAX_PRICE_USD_H}")
    return price


def check_amount(text: str | float, *, flag: str, example: str) -> Decimal:
    """Return a number above zero as a decimal.

    Raises:
        SpecError: it is not one.
    """
    try:
        amount = Decimal(str(text))
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or amount <= 0:
        what = "above zero" if amount.is_finite() else "a number"
        raise SpecError(f"{flag}: {text!r} is not {what}; write for example {flag} {example}")
    if not LEAST_AMOUNT <= amount <= MOST_AMOUNT:
        raise SpecError(f"{flag}: {text!r} is out of all proportion; write for example {flag} {example}")
    return amount


def check_cidr(text: str | None) -> str | None:
    """Return who may connect by SSH, as a network in CIDR form, or "none".

    Raises:
        SpecError: it is not an IPv4 network, or it is wider than a /8.
    """
    if text is None or text == "none":
        return text
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise SpecError(f"--ssh-cidr: {text!r} is not a network; give for example --ssh-cidr 203.0.113.7/32") from None
    if network.version != 4:
        raise SpecError(f"--ssh-cidr: {text} is IPv6; give an IPv4 network")
    if network.prefixlen < 8:
        raise SpecError(f"--ssh-cidr: {text} is too wide; use a /8 or smaller")
    return str(network)


def check_disk(size_gib: int) -> int:
    """Return the size of the root disk in GiB.

    Raises:
        SpecError: gp3 has no such size.
    """
    if 8 <= size_gib <= 16384:
        return size_gib
    raise SpecError(f"--disk-size: {size_gib} GiB is not a size of a gp3 disk; give 8 to 16384")


def check_key(path_text: str | None) -> str | None:
    """Return the absolute path of a private key of the user's own.

    Raises:
        SpecError: there is no such file.
    """
    if path_text is None:
        return None
    path = Path(os.path.expanduser(path_text)).resolve()
    if not path.is_file():
        raise SpecError(f"--key: {path_text} is not a file; give a private key, or drop --key to have one made")
    return str(path)


def check_subnets(names: Sequence[str]) -> tuple[str, ...]:
    """Return subnet ids.

    Raises:
        SpecError: one is not a subnet id.
    """
    for name in names:
        if not re.fullmatch(r"subnet-[0-9a-f]{8,17}", name):
            raise SpecError(f"--subnet: {name!r} is not a subnet id, for example subnet-0123456789abcdef0")
    return tuple(dict.fromkeys(names))


def check_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags for everything that is created.

    Raises:
        SpecError: AWS would refuse one, or it is reserved (https://docs.aws.amazon.com/tag-editor/latest/userguide/tagging.html).
    """
    for key, value in tags.items():
        if not key or len(key) > 128 or len(value) > 256:
            raise SpecError(f"--tag: {key[:40]!r}: a key has 1 to 128 characters, a value up to 256")
        if key.lower().startswith(("aws:", "pixel-orch")):
            raise SpecError(f"--tag: {key} is reserved; choose another key")
    if len(tags) > 40:
        raise SpecError(f"--tag: {len(tags)} tags are too many; give up to 40")
    return dict(tags)


def check_user(name: str | None) -> str | None:
    """Return the login user.

    Raises:
        SpecError: it is not a user name.
    """
    if name is None or re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", name):
        return name
    raise SpecError(f"--login-user: {name!r} is not a user name; give one, for example ubuntu or ec2-user")


def check_data(trainer: TrainConfig | None, data_url: str | None, mirror: str | None = None) -> str | None:
    """Return the S3 place of the prepared data, after checking that an instance can get the data set.

    Args:
        trainer: the bundled trainer's settings.
        data_url: the S3 place that is read or filled.
        mirror: a URL of the published files.

    Raises:
        SpecError: it is a folder of this machine, or no server has its files.
    """
    if data_url is not None and not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{2,62}(/[^\s'\"]*)?", data_url):
        raise SpecError(f"--data-bucket: {data_url!r} is not an S3 URL; give one, for example s3://my-data/cifar10")
    if trainer is None:
        if data_url is not None:
            raise SpecError("--data-bucket is for the bundled trainer; your own program fetches its own data")
        return None
    known = REGISTRY.get(trainer.dataset)
    if known is None:
        raise SpecError(
            f"--dataset {trainer.dataset} is a folder of this machine; copy it to S3, then give the data set's name "
            "and --data-bucket s3://BUCKET/PREFIX"
        )
    if known.kind == "builtin":
        if data_url is not None:
            raise SpecError(f"--data-bucket: {known.name} comes with the trainer; drop the flag")
        return None
    can_fetch = not known.own and (mirror is not None or all(file.urls for file in known.files))
    if data_url is None and not can_fetch:
        raise SpecError(
            f"--dataset {known.name}: no server has its files; prepare it here (pixel-orch data prepare {known.name}), "
            "copy the folder to S3, and give --data-bucket s3://BUCKET/PREFIX"
            + ("" if known.own else "; or give a mirror: --prepare source=https://...")
        )
    return data_url


def check_prepare(trainer: TrainConfig | None, pairs: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of `data prepare` on the instance.

    Raises:
        SpecError: there is nothing to prepare, or `data prepare` would refuse them.
    """
    if not pairs:
        return {}
    if trainer is None:
        raise SpecError("--prepare is for the bundled trainer; your own program prepares its own data")
    known = REGISTRY.get(trainer.dataset)
    if known is None:
        raise SpecError("--prepare is for a data set that is known by name; a folder is prepared already")
    if known.kind == "builtin":
        raise SpecError(f"--prepare: {known.name} comes with the trainer; drop the flag")
    if "out" in pairs:
        raise SpecError("--prepare out: the instance has its own data folder; drop it")
    source = pairs.get("source")
    if source is not None and not re.match(r"https?://[^/]", source):
        raise SpecError(f"--prepare source: {source!r} is not a URL; give http://... or https://...")
    try:
        checked(known.name, pairs)
    except DataError as error:
        raise SpecError(f"--prepare: {error}") from None
    return dict(pairs)


def check_bucket(name: str | None) -> str | None:
    """Return the name of an S3 bucket.

    Raises:
        SpecError: S3 allows no such name.
    """
    if name is None:
        return None
    bare = name.removeprefix("s3://").rstrip("/")
    if not BUCKET_GRAMMAR.fullmatch(bare) or ".." in bare:
        raise SpecError(
            f"--bucket: {name!r} is not a bucket name; use 3 to 63 of a-z, 0-9, '-' and '.', for example my-runs"
        )
    return bare


def check_profile(name: str | None) -> str | None:
    """Return the name of an instance profile.

    Raises:
        SpecError: it is none.
    """
    if name is not None and not PROFILE_GRAMMAR.fullmatch(name):
        raise SpecError(f"--instance-profile: {name!r} is not a profile's name; give the name, not the ARN")
    return name


def check_env(pairs: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for the trainer.

    Raises:
        SpecError: a name is not a variable name, or a value holds a NUL byte.
    """
    for name, value in pairs.items():
        if not ENV_GRAMMAR.fullmatch(name):
            raise SpecError(f"--env: {name!r} is not a variable name; give --env NAME=VALUE")
        if name.startswith("PIXEL_ORCH_"):
            raise SpecError(f"--env: {name} is set by pixel-orch itself; choose another name")
        if unwritable(value):
            raise SpecError(f"--env: the value of {name} {unwritable(value)}; remove it")
    return dict(pairs)


def check_workdir(workdir: str | None, command: tuple[str, ...], include: tuple[str, ...]) -> str | None:
    """Return the folder to send as an absolute path, or None for the bundled trainer.

    Raises:
        SpecError: the folder is missing, or folder and command are not given together.
    """
    if workdir is None:
        if command:
            raise SpecError("a command after -- needs --workdir DIR: the folder to send and to run it in")
        if include:
            raise SpecError("--include needs --workdir DIR")
        return None
    path = Path(os.path.expanduser(workdir)).resolve()
    if unwritable(str(path)):
        raise SpecError(f"--workdir: {one_line(str(path))} {unwritable(str(path))}; rename the folder")
    if not path.is_dir():
        raise SpecError(f"--workdir: {workdir} is not a folder; give the folder that holds your program")
    if not command:
        raise SpecError("--workdir needs a command: add -- COMMAND, for example -- python my_train.py")
    for entry in include:
        if not (path / entry).exists():
            raise SpecError(f"--include: {entry} is not in {workdir}; give a path relative to --workdir")
    return str(path)


def check_proxy(command: str | None) -> str | None:
    """Return a ProxyCommand; it is split into words while a machine is billed, so that it is split here first.

    Raises:
        SpecError: it is empty, has several lines (the second would be one of ssh's configuration), or an open quote.
    """
    if command is None:
        return None
    if not split_command(command, "--ssh-proxy") or len(command.splitlines()) != 1:
        raise SpecError("--ssh-proxy: give one command in one line, for example --ssh-proxy 'ssh -W %h:%p bastion'")
    return command


def check_texts(flags: Mapping[str, Any], command: Sequence[str] = ()) -> None:
    """Refuse a text that cannot be written down or given to a program: with a NUL byte or a lone surrogate.

    Raises:
        SpecError: it names the flag.
    """
    for name, value in {**flags, "": list(command)}.items():
        for text in _texts(value):
            problem = unwritable(text)
            if problem:
                raise SpecError(f"--{name.replace('_', '-')}: {one_line(text)[:60]} {problem}; remove it")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, (str, Path)):
        yield str(value)
    elif isinstance(value, Mapping):
        for pair in value.items():
            yield from (str(part) for part in pair)
    elif isinstance(value, (list, tuple)):
        yield from map(str, value)


def split_command(text: str, flag: str) -> tuple[str, ...]:
    """Return the words of a command as a shell splits them.

    Raises:
        SpecError: a quote is not closed, or the text ends with a backslash.
    """
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        shown = one_line(text)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        raise SpecError(f"{flag}: {shown!r}: {str(error).lower()}; close the quote, or give a list of words") from None


def duration_s(text: str, *, flag: str, example: str) -> float:
    """Return the seconds of `90m`, `12h`, `2d` or a plain number.

    Raises:
        SpecError: it is not a duration.
    """
    unit_s = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(text[-1:], 0)
    number = text[:-1] if unit_s else text
    try:
        float(number)
    except ValueError:
        raise SpecError(
            f"{flag}: {text!r} is not a duration; give seconds, or a number with s, m, h or d: {flag} {example}"
        ) from None
    seconds = float(check_amount(number, flag=flag, example=example)) * (unit_s or 1)
    if not 0 < seconds < LONGEST_S:
        raise SpecError(f"{flag}: {text[:40]!r} is too short, or longer than 100 years; for example {flag} {example}")
    return seconds
