"""What runs on an instance: the command, its environment, the files that are sent."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

from model.config import REGISTRY, checked, words_of
from orchestrator.host import sync
from orchestrator.host.base import BucketPlace, Job
from orchestrator.market import catalog
from orchestrator.plan.dependencies import order_for
from orchestrator.runs.output_tree import TEMPORARY
from orchestrator.runs.spec import RunSpec

AWS_METADATA_POLL_S = 5.0  # as AWS recommends


def tree_for(spec: RunSpec) -> sync.Tree:
    """Return the files that are sent for a run: the bundled trainer, or the user's folder."""
    if spec.workdir is None:
        return sync.bundled_tree()
    return sync.workdir_tree(Path(spec.workdir), spec.include)


def job_for(spec: RunSpec, tree: sync.Tree) -> Job:
    """Return what a host runs for this run."""
    if spec.trainer is not None:
        command: tuple[str, ...] = (
            "{python}",
            "-m",
            "model",
            "train",
            "--config",
            "{root}/config.json",
            "--out",
            "{root}/out",
        )
        config: bytes | None = spec.trainer.model_dump_json(indent=1).encode()
    else:
        command, config = spec.command, None
    place = BucketPlace(spec.bucket, spec.bucket_prefix, spec.bucket_region) if spec.bucket else None
    known = REGISTRY[spec.trainer.dataset] if spec.trainer else None
    data = known.name if known and known.kind != "builtin" else None
    asked = checked(known.name, spec.prepare).asked(known) if known and spec.prepare else None
    return Job(
        bucket=place,
        root=f"pixel-orch/{spec.run}",
        command=command,
        env={**({"PIXEL_ORCH_DATA": "~/pixel-orch/data"} if data else {}), **spec.env},
        metric_patterns=spec.program.metric_patterns,
        stop_signal=spec.program.stop_signal,
        data=data,
        data_url=spec.data_url,
        data_words=tuple(words_of(spec.prepare)),
        data_asked=asked,
        config_json=config,
        tree=tree.folder,
        files=tree.files,
        digests=tree.digests,
        owner_timeout_s=spec.recovery.owner_timeout_s,
        stop_timeout_s=spec.recovery.stop_timeout_s,
        metadata_poll_s=min(AWS_METADATA_POLL_S, spec.recovery.poll_s),  # the embedded cloud gives a shorter notice
        # later than the engine, which saves and downloads if it still runs
        idle_s=None if spec.limits.idle_s is None else spec.limits.idle_s + spec.recovery.stop_timeout_s,
        has_gpu=not spec.is_embedded and all(catalog.find(name).gpus for name in spec.instances),
        allow_cpu=spec.allow_cpu,
        output_rules=output_rules(spec),
        keep_outputs_s=spec.downloads.keep_s,
        user_setup=order_for(spec, tree),
    )


def slots_of(spec: RunSpec, instance_type: str) -> int:
    """Return how many processes train on one machine: one for each of its GPUs, unless `--slots` says otherwise.

    A machine of the embedded cloud shares this computer with all others, and has one.
    """
    if spec.group.slots is not None:
        return spec.group.slots
    return 1 if spec.is_embedded else max(1, catalog.find(instance_type).gpus)


def output_rules(spec: RunSpec) -> dict[str, tuple[str, ...]]:
    """Return which files that a program writes are outputs, as patterns."""
    return {"only": spec.downloads.only, "ignored": TEMPORARY, "never": spec.downloads.ignored}


def torch_has_kernels(compute_capability: str) -> bool:
    """Return whether one of the torch builds that the bootstrap installs runs on such a GPU.

    Binaries run on the same major version from their own minor version upwards (CUDA C Programming Guide).
    """
    table = json.loads(resources.files("infra.instance").joinpath("torch_builds.json").read_text())
    major, _, minor = compute_capability.partition(".")
    for build in table["builds"]:
        for known in build["capabilities"]:
            a, _, b = known.partition(".")
            if a == major and b.isdigit() and int(b) <= int(minor or 0):
                return True
    return False
