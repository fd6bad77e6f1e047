"""What a launch would do, for people and for programs: offers, requests, files. Nothing is created."""

from __future__ import annotations

import json
import shlex
import tempfile
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.cloud.base import Call, Cloud
from orchestrator.cloud.connect import cloud_of
from orchestrator.errors import CloudError
from orchestrator.formatting import WIDTH, counted, megabytes, one_line, price, table
from orchestrator.host import sync
from orchestrator.market import catalog
from orchestrator.market.pools import Offer, Pool
from orchestrator.plan import downloads
from orchestrator.plan.deadline import outlook_lines
from orchestrator.plan.first_look import FirstLook
from orchestrator.plan.job import slots_of
from orchestrator.plan.launch_preparation import LaunchRequest, check_account
from orchestrator.plan.planner import make_plan, measured_speeds
from orchestrator.plan.requests import OWN_ADDRESS, Plan, cost_ceiling
from orchestrator.plan.settings_file import Source
from orchestrator.runs.home import home_id
from orchestrator.runs.spec import RunSpec

MOST_OFFERS_SHOWN = 12
MOST_LEFT_OUT_SHOWN = 10


def offer_rows(ranked: Sequence[Offer]) -> str:
    """Return the table of offers, the first tried on top."""
    rows = []
    for place, offer in enumerate(ranked[:MOST_OFFERS_SHOWN], 1):
        known = catalog.find(offer.pool.instance_type)
        gpu = f"{known.gpus}x {known.gpu}" if known.gpus > 1 else known.gpu
        rows.append([str(place), known.name, gpu, offer.pool.zone, price(offer.price_usd_h), offer.source])
    rate = f"{ranked[0].market.upper()} $/H"  # all offers are of one market
    return table(["#", "TYPE", "GPU", "ZONE", rate, "PRICE FROM"], rows, right=f"# {rate}")


def tree_json(tree: sync.Tree) -> dict[str, Any]:
    """Return what would be sent."""
    return {
        "folder": str(tree.folder),
        "files": list(tree.files),
        "bytes": tree.size_bytes(),
        "left_out": list(tree.left_out),
        "notes": list(tree.notes),
    }


def tree_text(tree: sync.Tree) -> str:
    """Return the same for people, one file a line."""
    last = f"{size_words(tree)} from {one_line(str(tree.folder))}; nothing was sent"
    return "\n".join([*map(one_line, tree.files), *map(filled, not_sent(tree)), last])


def size_words(tree: sync.Tree) -> str:
    """Return the number of files and their size: `12 files, 0.34 MB`."""
    return f"{counted(len(tree.files), 'file')}, {megabytes(tree.size_bytes())}"


def not_sent(tree: sync.Tree) -> list[str]:
    """Return a line that names the files that are left out since they may be secret, and one for each note."""
    lines = []
    if tree.left_out:
        named = ", ".join(map(one_line, tree.left_out[:MOST_LEFT_OUT_SHOWN]))
        more = len(tree.left_out) - MOST_LEFT_OUT_SHOWN
        rest = f" and {more:,} more" if more > 0 else ""
        lines.append(f"Not sent, as they may hold secrets (--include PATH sends one): {named}{rest}.")
    return [*lines, *map(one_line, tree.notes)]


def what_is_sent(spec: RunSpec, tree: sync.Tree, sources: Sequence[Source], seen: FirstLook | None = None) -> list[str]:
    """Return what a person agrees to besides the price: the command, the folder and files, where settings are from,
    what is installed, and what may go wrong."""
    if spec.trainer is not None:
        trainer = spec.trainer
        command = f"the bundled trainer, {trainer.model} on {one_line(trainer.dataset)}, {trainer.steps:,} steps"
    else:
        command = one_line(shlex.join(spec.command))
    lines = [f"Command: {command}", f"Files: {size_words(tree)} from {one_line(str(tree.folder))}"]
    if sources:
        lines.append(f"Settings: {'; '.join(map(str, sources))}")
    return [*lines, *not_sent(tree), *(seen.lines() if seen else [])]


def what_comes_back(spec: RunSpec, offers: Sequence[Offer]) -> str:
    """Return in a sentence which outputs are downloaded, how often, and how much that may cost."""
    first = offers[0]
    has_bucket = spec.bucket is not None
    return downloads.words(spec.downloads, first.pool.region, float(first.price_usd_h), has_bucket=has_bucket)


@dataclass(frozen=True)
class Draft:
    """What a launch would do; nothing of it is done."""

    plan: Plan
    title: str  # of the cloud
    cidr: str  # our public address
    tree: sync.Tree
    look: FirstLook | None = None
    outlook: tuple[str, ...] = ()  # of a run with a deadline

    def as_json(self) -> dict[str, Any]:
        """Return it for programs; `requests` are in the order in which they would be sent."""
        low, high = cost_ceiling(self.plan.offers)
        return {
            "run": self.plan.spec.run,
            "cloud": self.title,
            "dry_run": True,
            "requests": [_call_json(call) for call in self.plan.calls(self.cidr)],
            "offers": [_offer_json(offer) for offer in self.plan.offers],
            "sync": {
                "files": len(self.tree.files),
                "bytes": self.tree.size_bytes(),
                "left_out": list(self.tree.left_out),
            },
            "estimated_usd_h": [self.plan.spec.group.max_nodes * low, self.plan.spec.group.max_nodes * high],
            "nodes": [self.plan.spec.group.min_nodes, self.plan.spec.group.max_nodes],
            "notes": [*unused_gpus(self.plan), *self.outlook],
            "downloads": downloads.as_json(self.plan.spec.downloads),
            **(self.look.as_json() if self.look and self.look.is_own else {}),
        }

    def as_text(self) -> str:
        """Return it for people, within 80 columns but for the requests."""
        spec, tree = self.plan.spec, self.tree
        low, high = cost_ceiling(self.plan.offers)
        lines = [f"Plan for {spec.run} on {self.title}; nothing is created.\n", offer_rows(self.plan.offers)]
        each = " for each machine" if spec.is_group else ""
        order = "Requests, in this order; a RunInstances is sent only if the one before it found no capacity:"
        lines += ["", filled(order)]
        for index, call in enumerate(self.plan.calls(self.cidr), 1):
            lines.append(f"{index}. {call.operation} ({call.region})")
            lines += [f" {line}" for line in json.dumps(dict(call.parameters), indent=2).splitlines()[1:-1]]
        size = f"{counted(len(tree.files), 'file')} ({megabytes(tree.size_bytes())})"
        texts = [] if spec.is_embedded or spec.program.image else [
            "If the image has no torch, it is installed: 2 to 3 GB, some billed minutes."
        ]  # fmt: skip
        texts.append(what_comes_back(spec, self.plan.offers) + ".")
        if spec.bucket:
            place = f"s3://{spec.bucket}/"
            texts.append(f"Checkpoints also go to {place}, with the role of the instance profile (pixel-orch setup).")
        texts += [*not_sent(tree), *(self.look.lines() if self.look else [])]
        texts.append(f"Then: sync {size}, train, download checkpoints, terminate, delete the security group.")
        texts.append(
            f"Estimate: ${price(low)} to ${price(high)} an hour{each}; the duration is known after a first run "
            "(report)."
        )
        for text in (*texts, *machines_line(self.plan), *self.outlook, *unused_gpus(self.plan)):
            lines += ["", filled(text)]
        return "\n".join(lines)


@dataclass(frozen=True)
class DryRun:
    """What a launch would do, or (`--sync-dry-run`) would send: for programs and for people."""

    run: str
    details: dict[str, Any]
    text: str


def dry_run(request: LaunchRequest, home: Path) -> DryRun:
    """Ask for prices, image and address, and return what `launch` would do. Nothing is created.

    The embedded cloud that answers for the prices lives in a folder of its own, and is removed with it.

    Raises:
        SpecError: it cannot work as asked.
        CloudError: the cloud does not answer.
    """
    check_account(request.spec)
    with tempfile.TemporaryDirectory(prefix="pixel-orch-dry-") as folder:
        drafted = _draft(request, home, Path(folder) if request.spec.is_embedded else home)
    return DryRun(request.spec.run, drafted.as_json(), drafted.as_text())


def sync_dry_run(request: LaunchRequest) -> DryRun:
    """Return what `launch` would send."""
    return DryRun(request.spec.run, tree_json(request.tree), tree_text(request.tree))


def _draft(request: LaunchRequest, home: Path, cloud_home: Path) -> Draft:
    spec = request.spec
    with cloud_of(spec, cloud_home) as cloud:
        plan = make_plan(spec, cloud, home_id(home, write=False), images_per_s=measured_speeds(home, spec))
        cidr = OWN_ADDRESS
        if spec.ssh_cidr is None:
            with suppress(CloudError):  # AWS answers and the address service does not: the placeholder stands for it
                cidr = cloud.caller_cidr()
        return Draft(plan, cloud.title, cidr, request.tree, request.look, tuple(outlook_lines(plan, home)))


def title_of(cloud: Cloud, spec: RunSpec) -> str:
    """Return where a run is, for people."""
    if spec.is_embedded:
        return "the embedded cloud (on this machine; nothing is billed)"
    return f"{cloud.title} {', '.join(spec.regions)}"


def unused_gpus(plan: Plan) -> list[str]:
    """Return a line that names the types of which the bundled trainer leaves GPUs idle, if there are some."""
    if plan.spec.trainer is None:
        return []
    names = dict.fromkeys(offer.pool.instance_type for offer in plan.offers)
    several = [known for known in map(catalog.find, names) if known.gpus > slots_of(plan.spec, known.name)]
    if not several:
        return []
    told = ", ".join(f"{known.name} has {known.gpus}" for known in several)
    slots = slots_of(plan.spec, several[0].name)
    uses = "one process trains on each machine" if slots == 1 else f"{slots} processes train on each machine"
    why = "; the embedded cloud's machines have no GPU" if plan.spec.is_embedded else ""
    return [f"Of these GPUs not all are used ({uses}{why}): {told}, and all of them are billed."]


def machines_line(plan: Plan) -> list[str]:
    """Return a line that says how many machines are rented at once, if it is more than one."""
    group = plan.spec.group
    if not plan.spec.is_group:
        return []
    few = f", {group.min_nodes} at least" if group.min_nodes < group.max_nodes else ""
    low, high = (price(group.max_nodes * each) for each in cost_ceiling(plan.offers))
    usd_h = f"${low}" if low == high else f"${low} to ${high}"
    return [f"{group.max_nodes} machines at once{few}, all of one zone: together {usd_h} an hour."]


def filled(text: str) -> str:
    """Return a text wrapped at 80 columns."""
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _call_json(call: Call) -> dict[str, Any]:
    return {"operation": call.operation, "region": call.region, "parameters": dict(call.parameters)}


def _offer_json(offer: Offer) -> dict[str, Any]:
    pool: Pool = offer.pool
    return {
        "instance_type": pool.instance_type,
        "zone": pool.zone,
        "region": pool.region,
        "market": offer.market,
        "price_usd_h": offer.price_usd_h,
        "price_from": offer.source,
    }
