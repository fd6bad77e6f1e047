"""From flags and a YAML file to a RunSpec. Flags win. Nothing is created here; every error is one line."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from model.config import TrainConfig, config_from_settings
from model.errors import ConfigError
from orchestrator.clock import SystemClock
from orchestrator.cloud.connect import EMBEDDED_POLICY, regions_for
from orchestrator.errors import SpecError
from orchestrator.export.trackers import check_trackers
from orchestrator.market.gpus import any_types_with, rentable_with
from orchestrator.plan import downloads
from orchestrator.plan.deadline import check_deadline
from orchestrator.plan.group import check_nodes
from orchestrator.plan.image_reference import check_image
from orchestrator.plan.program_settings import check_metrics, check_notify, check_stop_signal
from orchestrator.plan.requests import NOBODY
from orchestrator.plan.settings_file import FileSettings, read_settings
from orchestrator.plan.validators import (
    ENV_GRAMMAR,
    check_amount,
    check_bucket,
    check_cidr,
    check_cloud,
    check_data,
    check_disk,
    check_env,
    check_instances,
    check_key,
    check_prepare,
    check_price,
    check_profile,
    check_proxy,
    check_subnets,
    check_tags,
    check_texts,
    check_user,
    check_workdir,
    duration_s,
    split_command,
)
from orchestrator.runs.home import fresh_name
from orchestrator.runs.spec import Deadline, Limits, ProgramSpec, RecoveryPolicy, RunSpec, check_name

SSM_PROXY = (
    "aws ssm start-session --region %r --target %i --document-name AWS-StartSSHSession --parameters portNumber=%p"
)
"""https://docs.aws.amazon.com/systems-manager/latest/userguide/session-manager-getting-started-enable-ssh-connections.html"""
RETRY_UNTIL_UP_S = 24 * 3600.0
LARGEST_ENV_FILE_BYTES = 1 << 20
TRAINER_FLAGS = ("model", "dataset", "steps", "checkpoint_every")


def spec_from(flags: Mapping[str, Any], command: Sequence[str], files: FileSettings | None = None) -> RunSpec:
    """Return the run that the flags and the files ask for.

    Args:
        flags: by the names of the command's flags; None, False or an empty list: not given.
        command: of a program of the user's own; empty for the bundled trainer.
        files: the settings of files; None reads them.

    Raises:
        SpecError: it cannot work as asked.
    """
    files = read_settings(flags.get("file")) if files is None else files
    file = files.values

    def given(name: str, default: Any = None) -> Any:
        flag = flags.get(name)
        return flag if flag not in (None, [], False) else file.get(name, default)

    cloud = check_cloud(given("cloud"))
    instances = _instances(flags, cloud) or _instances(file, cloud)
    if not instances:
        raise SpecError("--instance is missing; give a type, for example --instance g4dn.xlarge, or a GPU: --gpu T4")
    check_texts(flags, command)
    words = _unquoted(tuple(command) or _words(file.get("command")))
    if cloud == "aws":
        files.check_spending(flags)
    include = tuple(_list(given("include", [])))
    workdir = check_workdir(given("workdir"), words, include)
    trainer = None if words else _trainer(flags, file)
    if words:
        _refuse_trainer_settings(flags, file)
    name = given("name")
    stem = f"{trainer.model}-{trainer.dataset}" if trainer else Path(str(workdir)).name
    market = _market(flags, file, has_deadline=given("deadline") is not None)
    price = given("max_price")
    if price is not None and market != "spot":
        raise SpecError("on-demand prices are fixed; drop --max-price or use --spot")
    prepare = _preparation(trainer, given("prepare"))
    return RunSpec(
        run=check_name(name) if name is not None else fresh_name(stem),
        cloud=cloud,
        instances=instances,
        market=market,  # type: ignore[arg-type]  # one of two words
        regions=regions_for(cloud, tuple(_list(given("region", []))), given("profile")),
        max_price_usd_h=check_price(price) if price is not None else None,
        trainer=trainer,
        command=words,
        workdir=workdir,
        data_url=check_data(trainer, given("data_bucket"), prepare.get("source")),
        prepare=prepare,
        include=include,
        program=ProgramSpec(**_program(given, trainer, cloud, flags, file)),
        env=check_env({**_env_file(given("env_file")), **_file_env(file), **_env_pairs(flags.get("env"))}),
        **_machine(given, file),
        recovery=_policy(cloud, retry=bool(given("retry_until_up")), owner_timeout=given("owner_timeout")),
        limits=_limits(given("budget"), given("max_duration"), given("idle_minutes_to_autostop")),
    )


def _program(
    given: Callable[..., Any],
    trainer: TrainConfig | None,
    cloud: str,
    flags: Mapping[str, Any],
    file: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the fields of the spec that say how a program is set up, measured and stopped, and what is downloaded."""
    is_own = trainer is None
    setup = _setup(flags, file, is_own=is_own)
    return {
        **setup,
        "image": check_image(given("image"), cloud=cloud, is_own=is_own, has_setup=setup["setup"] is not None),
        "downloads": downloads.downloads_from(given, has_bucket=bool(given("bucket"))),
        "metric_patterns": check_metrics(given("metrics"), trainer),
        "stop_signal": check_stop_signal(given("stop_signal")),
        "notify": check_notify(given("notify")),
        "export": check_trackers(given("export")),
        "deadline": check_deadline(given("deadline"), given("policy"), given("work")),
        "group": check_nodes(*(file.get(key) if flags.get(key) is None else flags[key] for key in ("nodes", "slots"))),
    }


def resumed_spec(flags: Mapping[str, Any], command: Sequence[str], old: RunSpec) -> RunSpec:
    """Return the spec of a run that is resumed: the old one, with what may change taken from the flags.

    Raises:
        SpecError: a flag changes what may not change.
    """
    check_texts(flags, command)
    fixed = ("set", "env", "env_file", "workdir", "include", "key", "data_bucket", "prepare", "metrics", "stop_signal")
    for key in ("file", "name", "cloud", *TRAINER_FLAGS, *fixed):
        if flags.get(key):
            flag = "--" + ("metric" if key == "metrics" else key.replace("_", "-"))
            raise SpecError(f"{flag}: cannot change when {old.run} is resumed; drop it")
    if command:
        raise SpecError(f"--resume: {old.run} keeps its command; drop what follows --")
    program = _resumed_program(flags, old)
    changes: dict[str, Any] = {"program": program}
    instances = _instances(flags, old.cloud)
    if instances:
        changes["instances"] = instances
    if program.deadline is not None or flags.get("spot") or flags.get("on_demand"):
        changes["market"] = _market(flags, {}, has_deadline=program.deadline is not None)
    if flags.get("max_price") is not None:
        changes["max_price_usd_h"] = check_price(flags["max_price"])
    if flags.get("region"):
        changes["regions"] = regions_for(old.cloud, tuple(flags["region"]), flags.get("profile") or old.profile)
    changes.update(_machine(lambda name, default=None: flags.get(name) or default, {}, only_given=True))
    new = _limits(flags.get("budget"), flags.get("max_duration"), flags.get("idle_minutes_to_autostop"))
    given = {key: value for key, value in new.model_dump().items() if value is not None}
    changes["limits"] = old.limits.model_copy(update=given)
    timeout = flags.get("owner_timeout") or old.recovery.owner_timeout_s
    changes["recovery"] = _policy(old.cloud, retry=bool(flags.get("retry_until_up")), owner_timeout=timeout)
    if changes.get("bucket", old.bucket) != old.bucket:
        changes.update(bucket_prefix="", bucket_region="")
    if changes.get("market", old.market) == "on-demand":
        changes["max_price_usd_h"] = None
    return old.model_copy(update=changes)


def _resumed_program(flags: Mapping[str, Any], old: RunSpec) -> ProgramSpec:
    """Return how the program of a run that is resumed is run, with what may change taken from the flags."""
    changes: dict[str, Any] = {}
    if flags.get("setup") is not None or flags.get("no_setup"):
        changes |= _setup(flags, {}, is_own=bool(old.command))
    setup = changes.get("setup", old.program.setup)
    image = flags.get("image") or old.program.image
    changes["image"] = check_image(image, cloud=old.cloud, is_own=bool(old.command), has_setup=setup is not None)
    if any(flags.get(name) for name in downloads.NAMES):
        has_bucket = bool(flags.get("bucket") or old.bucket)
        changes["downloads"] = downloads.downloads_from(flags.get, has_bucket=has_bucket, old=old.downloads)
    if flags.get("notify") is not None:
        changes["notify"] = check_notify(flags["notify"])
    changes["export"] = check_trackers(flags.get("export") or old.program.export)
    changes["deadline"] = _resumed_deadline(flags, old)
    nodes, slots = flags.get("nodes"), flags.get("slots")
    if nodes is not None or slots is not None:
        nodes = f"{old.group.min_nodes}:{old.group.max_nodes}" if nodes is None else nodes
        changes["group"] = check_nodes(nodes, old.group.slots if slots is None else slots)
    return old.program.model_copy(update=changes)


def _resumed_deadline(flags: Mapping[str, Any], old: RunSpec) -> Deadline | None:
    """Return the deadline of a run that is resumed: a new one, or the old one if it still lies ahead."""
    new = flags.get("deadline")
    if new is not None:
        made = check_deadline(new, flags.get("policy"), flags.get("work"))
        if made is not None and made.work_s is None and old.deadline is not None:
            made = made.model_copy(update={"work_s": old.deadline.work_s})
        return made
    if old.deadline is None:
        return check_deadline(None, flags.get("policy"), flags.get("work"))
    if old.deadline.at <= SystemClock().now():
        raise SpecError(f"--resume: the deadline of {old.run} is past; give a new --deadline")
    asked = check_deadline("1h", flags.get("policy") or old.deadline.policy, flags.get("work"))
    work_s = old.deadline.work_s if asked is None or asked.work_s is None else asked.work_s
    return asked and asked.model_copy(update={"at": old.deadline.at, "work_s": work_s})


def _instances(asked: Mapping[str, Any], cloud: str) -> tuple[str, ...]:
    """Return the types that the flags, or a file, ask for, by name or by their GPU; () for none."""
    instance, gpu = (_joined(asked.get(name)) for name in ("instance", "gpu"))
    if instance is not None and gpu is not None:
        raise SpecError("--instance and --gpu both say what is rented; give one of them")
    if gpu is not None:
        return any_types_with(gpu) if cloud == "local" else rentable_with(gpu)
    return () if instance is None else check_instances(instance)


def _joined(value: Any) -> str | None:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value


def _setup(flags: Mapping[str, Any], file: Mapping[str, Any], *, is_own: bool) -> dict[str, Any]:
    """Return the fields of the spec that say what is installed for the user's program; flags win over the file."""
    asked = flags if flags.get("setup") is not None or flags.get("no_setup") else file
    command, without = asked.get("setup"), bool(asked.get("no_setup"))
    if command is None and not without:
        return {"setup": None, "installs_dependencies": is_own}
    if not is_own:
        flag = "--no-setup" if without else "--setup"
        raise SpecError(f"{flag} is for your own program; the bundled trainer needs no set-up: drop it")
    if command is not None and without:
        raise SpecError("--setup and --no-setup exclude each other; give one of them")
    if command is not None and not command.strip():
        raise SpecError("--setup: it is empty; give a command, for example --setup 'pip install -r requirements.txt'")
    return {"setup": command, "installs_dependencies": False}


def _preparation(trainer: TrainConfig | None, given: Any) -> dict[str, str]:
    """Return the settings of `data prepare`, from flags or from a file."""
    pairs = _pairs(given, flag="--prepare") if isinstance(given, list) else given or {}
    return check_prepare(trainer, {str(key).replace("-", "_"): _word(value) for key, value in pairs.items()})


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _machine(given: Callable[..., Any], file: Mapping[str, Any], *, only_given: bool = False) -> dict[str, Any]:
    """Return the fields of the spec that say what is rented and how it is reached."""
    cidr, proxy = given("ssh_cidr"), given("ssh_proxy")
    if given("via_ssm"):
        proxy, cidr = proxy or SSM_PROXY, cidr or NOBODY
    if given("private") and not cidr:
        raise SpecError(
            "--private needs the network that connects to the instance: give --ssh-cidr 10.0.0.0/16 (of the VPC, the "
            "bastion or the VPN), or --via-ssm"
        )
    strategy = given("strategy", "price")
    if strategy not in ("price", "any"):
        raise SpecError(f"--strategy: {strategy!r} is unknown; use price (cheapest first) or any (EC2 chooses)")
    key, tags, disk = given("key"), given("tag"), given("disk_size")
    tags = _pairs(tags, flag="--tag") if isinstance(tags, list) else tags
    fields = {
        "ami": given("ami"),
        "login_user": check_user(given("login_user")),
        "strategy": strategy,
        "subnets": check_subnets(_list(given("subnet"))),
        "is_private": bool(given("private")),
        "ssh_cidr": check_cidr(cidr),
        "ssh_proxy": check_proxy(proxy),
        "key": check_key(key),
        "tags": check_tags({str(k): str(v) for k, v in {**(file.get("tag") or {}), **(tags or {})}.items()}),
        "disk_gib": check_disk(disk) if disk is not None else 100,
        "bucket": check_bucket(given("bucket")),
        "instance_profile": check_profile(given("instance_profile")),
        "allow_cpu": bool(given("allow_cpu")),
        "profile": given("profile"),
    }
    if not only_given:
        return fields
    asked = {"disk_gib": disk is not None, "strategy": bool(given("strategy"))}
    return {name: value for name, value in fields.items() if asked.get(name, bool(value))}


def _policy(cloud: str, *, retry: bool, owner_timeout: Any = None) -> RecoveryPolicy:
    policy = EMBEDDED_POLICY if cloud == "local" else RecoveryPolicy()
    changes: dict[str, float] = {"first_capacity_wait_s": RETRY_UNTIL_UP_S} if retry else {}
    if owner_timeout is not None:
        changes["owner_timeout_s"] = duration_s(str(owner_timeout), flag="--owner-timeout", example="30m")
    return policy.model_copy(update=changes)


def _limits(budget: Any, max_duration: Any, idle_minutes: Any) -> Limits:
    return Limits(
        budget_usd=None if budget is None else check_amount(budget, flag="--budget", example="5"),
        max_duration_s=None
        if max_duration is None
        else duration_s(str(max_duration), flag="--max-duration", example="12h"),
        idle_s=None
        if idle_minutes is None
        else 60 * float(check_amount(idle_minutes, flag="--idle-minutes-to-autostop", example="30")),
    )


def _market(flags: Mapping[str, Any], file: Mapping[str, Any], *, has_deadline: bool = False) -> str:
    spot, on_demand = flags.get("spot"), flags.get("on_demand")
    if not spot and not on_demand:  # flags win over the file, as a pair
        spot, on_demand = bool(file.get("spot")), bool(file.get("on_demand"))
    if spot and on_demand:
        raise SpecError("--spot and --on-demand are two markets; give one")
    if has_deadline:
        if on_demand:
            raise SpecError("--deadline takes both markets; drop --on-demand, or give --policy on-demand")
        return "spot"
    if not spot and not on_demand:
        raise SpecError("no market is given; add --spot (cheaper, may be interrupted) or --on-demand")
    return "spot" if spot else "on-demand"


def trainer_of(flags: Mapping[str, Any]) -> TrainConfig:
    """Return the settings of the bundled trainer that flags ask for.

    Raises:
        SpecError: one of them is wrong.
    """
    return _trainer(flags, {})


def _trainer(flags: Mapping[str, Any], file: Mapping[str, Any]) -> TrainConfig:
    settings: dict[str, Any] = dict(file.get("set") or {})
    own: dict[str, Any] = _pairs(flags.get("set"), flag="--set")
    overrides: dict[str, Any] = {}
    for key in TRAINER_FLAGS:
        value = flags.get(key)
        if value is None and key not in own:
            value = file.get(key)
            settings.pop(key, None) if value is not None else None
        elif value is not None:
            settings.pop(key, None)
        if value is not None:
            overrides[key] = value
    try:
        return config_from_settings({**settings, **own}, **overrides)
    except ConfigError as error:
        raise SpecError(str(error)) from None


def _refuse_trainer_settings(flags: Mapping[str, Any], file: Mapping[str, Any]) -> None:
    for key in (*TRAINER_FLAGS, "set"):
        if flags.get(key) or file.get(key):
            flag = "--" + key.replace("_", "-")
            raise SpecError(f"{flag} is a setting of the bundled trainer; give your program's settings after --")


def _pairs(texts: Sequence[str] | None, flag: str = "--env") -> dict[str, str]:
    pairs = {}
    for text in texts or []:
        key, equals, value = text.partition("=")
        if not equals or not key:
            example = "SEED=1" if flag == "--env" else "seed=1"
            raise SpecError(f"{flag}: {text!r} is not NAME=VALUE; give for example {flag} {example}")
        pairs[key.strip()] = value
    return pairs


def _env_pairs(texts: Sequence[str] | None) -> dict[str, str]:
    """Return NAME=VALUE pairs; a NAME alone is read from the environment, so that its value is in no process list."""
    pairs = {}
    for text in texts or []:
        if "=" in text or text not in os.environ:
            if "=" not in text and ENV_GRAMMAR.fullmatch(text):
                raise SpecError(f"--env: {text} is not set here; give --env {text}=VALUE, or set it first")
            pairs.update(_pairs([text]))
        else:
            pairs[text] = os.environ[text]
    return pairs


def _env_file(path_text: str | None) -> dict[str, str]:
    """Return the variables of a file of NAME=VALUE lines; # begins a comment, a value is taken literally."""
    if path_text is None:
        return {}
    path = Path(os.path.expanduser(path_text))
    try:
        with path.open("rb") as file:  # a FIFO of the shell is one too, and a device may have no end
            content = file.read(LARGEST_ENV_FILE_BYTES + 1)
        if len(content) > LARGEST_ENV_FILE_BYTES:
            raise SpecError(f"--env-file: {path_text} is larger than {LARGEST_ENV_FILE_BYTES >> 20} MiB")
        lines = [line.removesuffix("\r") for line in content.decode("utf-8-sig").split("\n")]
    except OSError as error:
        raise SpecError(f"--env-file: cannot read {path_text}: {error.strerror}; check the path") from None
    except UnicodeDecodeError:
        raise SpecError(f"--env-file: {path_text} is not a text file; give NAME=VALUE lines") from None
    pairs = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not ENV_GRAMMAR.fullmatch(name.strip()):
            raise SpecError(f"--env-file: {path_text}, line {number} is not NAME=VALUE")  # its value may be a secret
        pairs[name.strip()] = value
    return pairs


def _file_env(file: Mapping[str, Any]) -> dict[str, str]:
    return {str(key): str(value) for key, value in (file.get("env") or {}).items()}


def _words(command: str | list[Any] | None) -> tuple[str, ...]:
    if command is None:
        return ()
    words = split_command(command, "command") if isinstance(command, str) else tuple(map(str, command))
    if not words:
        raise SpecError("command: it is empty; give the command of your program, or remove the line")
    return words


def _unquoted(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return the command; refuse one that is quoted as a single word: it would only fail on a billed instance."""
    if len(words) == 1 and len(words[0].split()) > 1:
        line = words[0].strip()
        raise SpecError(f"--: {line!r} is quoted as one word; give -- {line}, or -- sh -c {line!r}")
    return words


def _list(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(part) for part in value] if isinstance(value, (list, tuple)) else [str(value)]
