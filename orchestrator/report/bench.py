"""The results of a bench, one row per instance type, with the column names of `sky bench`.

The speed is that of the steady state: the steps of the warm-up do not count. $ are of the instances alone, at their
price per hour; BILLED $ is the bill of the bench itself, disks included. Of a group of machines, images/s and dollars
are of the whole group; beside them stands what `market.scaling` estimates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from model.config import TrainConfig
from orchestrator.formatting import money, number, one_line, prose_width, table
from orchestrator.report.forms import plain
from orchestrator.report.groups import group_rows, named
from orchestrator.report.metrics import Digest
from orchestrator.report.rows import PredictedRow, RunRow
from orchestrator.report.text import compact
from orchestrator.runs.checked import is_figure
from orchestrator.runs.spec import EMBEDDED_TITLE


@dataclass(frozen=True)
class BenchRow:
    """The result of one type: its measurements, or the reason why there are none."""

    instance_type: str
    run: str
    state: str
    says: str  # the problem, "" if there is none
    is_embedded: bool
    market: str
    zone: str
    price_usd_h: Decimal | None
    images_per_s: float | None
    slow_images_per_s: float | None
    fast_images_per_s: float | None
    seconds_per_step: float | None
    usd_per_step: Decimal | None
    est_hours: float | None  # of the full training
    est_usd: Decimal | None
    usd_per_epoch: Decimal | None
    images_per_usd: float | None
    usd_to_target: Decimal | None
    target_bits: float | None
    device: str
    gpu: Mapping[str, Any]  # from nvidia-smi: name, clocks, utilisation, memory; empty without a GPU
    billed_usd: Decimal
    steps: int
    nodes: int = 1  # machines
    efficiency: float | None = None  # images/s of a machine over that of a machine in the smallest measured group
    estimated_images_per_s: float | None = None  # of a group; None where nothing is estimated
    estimated_low_images_per_s: float | None = None
    estimated_high_images_per_s: float | None = None
    estimated_usd_per_epoch: Decimal | None = None
    estimate_basis: str = ""

    @property
    def label(self) -> str:
        """The type, or the machines in words: `4 x g5.xlarge`."""
        return self.instance_type if self.nodes == 1 else named(self.instance_type, self.nodes)


def bench_row(
    instance_type: str,
    run: RunRow | None,
    digest: Digest,
    *,
    full_steps: int | None,
    target_bits: float | None,
    says: str,
    gpu: Mapping[str, Any] | None = None,
    attempt: int | None = None,
    nodes: int = 1,
) -> BenchRow:
    """Return the row of one type.

    Args:
        instance_type: the requested type.
        run: the run on this type; None if it could not be created.
        digest: the digest of its metrics, without the warm-up.
        full_steps: the steps of the full training that the bench estimates.
        target_bits: the bits/dim to reach.
        says: the problem, "" if there is none.
        gpu: what the instance reports of its GPU.
        attempt: the number of the measured attempt; None: the last one.
        nodes: machines of the run, each at the attempt's price.
    """
    measured = [row for row in run.attempts if attempt in (None, row.number)] if run else []
    last = measured[-1] if measured else None
    price = last.price_usd_h * nodes if last else None
    step_s = 1 / digest.steps_per_s if digest.steps_per_s else None
    usd_per_step = None if price is None or step_s is None else Decimal(repr(step_s)) * price / 3600
    per_image = None if not price or not digest.images_per_s else price / 3600 / Decimal(repr(digest.images_per_s))
    to_target = steps_to(digest, target_bits)
    return BenchRow(
        instance_type=instance_type,
        run=run.run if run else "",
        state=run.state if run else "FAILED",
        says=says,
        is_embedded=bool(run and run.cloud == EMBEDDED_TITLE),
        market=last.market if last else "",
        zone=last.zone if last else "",
        price_usd_h=price,
        images_per_s=digest.images_per_s,
        slow_images_per_s=digest.slow_images_per_s,
        fast_images_per_s=digest.fast_images_per_s,
        seconds_per_step=step_s,
        usd_per_step=usd_per_step,
        est_hours=None if step_s is None or not full_steps else step_s * full_steps / 3600,
        est_usd=None if usd_per_step is None or not full_steps else usd_per_step * full_steps,
        usd_per_epoch=_usd_per_epoch(digest, per_image, usd_per_step),
        images_per_usd=None if not per_image else float(1 / per_image),
        usd_to_target=None if usd_per_step is None or to_target is None else usd_per_step * to_target,
        target_bits=target_bits,
        device=digest.device or (last.device if last else ""),
        gpu=gpu or {},
        billed_usd=run.cost_usd if run else Decimal(0),
        steps=run.steps if run else 0,
        nodes=nodes,
    )


def with_efficiency(rows: Sequence[BenchRow]) -> list[BenchRow]:
    """Return the rows with the efficiency of each group: 1 for the smallest group of the type that was measured."""
    made = []
    for row in rows:
        of_type = [one for one in rows if one.instance_type == row.instance_type and _rate(one)]
        rate, smallest = _rate(row), min(of_type, key=lambda one: one.nodes, default=None)
        base = _rate(smallest) if smallest is not None and len({one.nodes for one in rows}) > 1 else None
        if smallest is None or not rate or not base:
            made.append(row)
            continue
        made.append(replace(row, efficiency=rate / row.nodes / (base / smallest.nodes)))
    return made


def _rate(row: BenchRow) -> float | None:
    """Return images/s, else steps/s: their ratios are the same where the batch is."""
    return row.images_per_s or (1 / row.seconds_per_step if row.seconds_per_step else None)


def beside_estimates(rows: Sequence[BenchRow], config: TrainConfig | None) -> list[BenchRow]:
    """Return the rows with what their groups are estimated to do, where a group of several machines is among them.

    The estimates build on the speed of one machine with one GPU where that was measured on AWS; on the embedded cloud,
    which measures this machine's CPU, and otherwise, on the prediction for one GPU. There is none for a program of the
    user's own: its gradients are not known.
    """
    if config is None or all(row.nodes == 1 for row in rows):
        return list(rows)
    measured = {
        row.instance_type: row.images_per_s
        for row in rows
        if row.nodes == 1 and row.images_per_s and not row.is_embedded
    }
    made = []
    for row in rows:
        (told,) = group_rows([row.instance_type], [row.nodes], config, measured=measured, prices=())
        if told.group is None:
            made.append(replace(row, estimate_basis=told.why_not))
            continue
        speed = told.group.images_per_s
        price = None if row.price_usd_h is None else float(row.price_usd_h) / row.nodes
        epoch = told.usd_of_epoch(price)
        made.append(
            replace(
                row,
                estimated_images_per_s=speed.mid,
                estimated_low_images_per_s=speed.low,
                estimated_high_images_per_s=speed.high,
                estimated_usd_per_epoch=None if epoch is None else Decimal(repr(epoch.mid)),
                estimate_basis=told.basis,
            )
        )
    return made


def _usd_per_epoch(digest: Digest, per_image: Decimal | None, per_step: Decimal | None) -> Decimal | None:
    if per_image is not None:
        return per_image * Decimal(repr(digest.images_per_epoch)) if digest.images_per_epoch else None
    return None if per_step is None or not digest.steps_per_epoch else per_step * Decimal(repr(digest.steps_per_epoch))


def steps_to(digest: Digest, target_bits: float | None) -> int | None:
    """Return the first step whose validation loss (without validation: training loss) is at most the target."""
    if target_bits is None:
        return None
    curve = digest.valid_curve or digest.train_curve
    return next((step for step, bits in curve if bits <= target_bits), None)


def common_target(digests: Sequence[Digest]) -> float | None:
    """Return the lowest bits/dim that every type with a curve has reached."""
    best = [min(bits for _, bits in curve) for d in digests if (curve := d.valid_curve or d.train_curve)]
    return max(best) if best else None


def ranked(rows: Sequence[BenchRow]) -> list[BenchRow]:
    """Return the rows by images per dollar, else by the cost of a step; types without figures come last, embedded
    ones keep their order."""

    def place(row: BenchRow) -> tuple[bool, float, float]:
        if row.is_embedded:
            return True, 0.0, 0.0
        return False, -(row.images_per_usd or 0), float("inf") if row.usd_per_step is None else float(row.usd_per_step)

    return sorted(rows, key=place)


def as_text(rows: Sequence[BenchRow], predicted: Sequence[PredictedRow], notes: Sequence[str]) -> str:
    """Return the text that a bench prints at its end, as wide as the terminal has room."""
    good = [row for row in ranked(rows) if row.images_per_s or row.seconds_per_step]
    is_embedded = any(row.is_embedded for row in rows)
    parts: list[str] = []
    if good:
        title = "Measured" + (" on this machine's CPU (embedded cloud); the types are not ranked" * is_embedded)
        parts += [title, _measured(good), "", _more(good)]
    if any(row.nodes > 1 for row in rows) and good:
        parts += ["", "Groups, measured beside the estimate", _groups(good)]
    failed = [row for row in rows if row.says]
    if failed:
        parts += ["" if parts else "nothing was measured", *_problems(failed)]
    if predicted:
        parts += ["", "Predicted for these types on AWS, not measured", _predicted(predicted)]
    return "\n".join([*parts, "", *notes])


def _measured(rows: Sequence[BenchRow]) -> str:
    head = ["TYPE", "IMAGES/S", "SEC/STEP", "$/STEP", "EST(hr)", "EST($)", "$/EPOCH"]
    cells = [
        [
            row.label,
            number(row.images_per_s),
            number(row.seconds_per_step),
            money(row.usd_per_step),
            number(row.est_hours),
            money(row.est_usd),
            money(row.usd_per_epoch),
        ]
        for row in rows
    ]
    return table(head, cells, " ".join(head[1:]), drop=("EST(hr)", "$/STEP", "SEC/STEP", "EST($)"))


def _more(rows: Sequence[BenchRow]) -> str:
    target = next((row.target_bits for row in rows if row.target_bits is not None), None)
    reach = "$ TO TARGET" if target is None else f"$ TO {target:.3g}"
    head = ["TYPE", "$/H", "MARKET", "10-90 %", "IMAGES/$", reach, "BILLED $", "GPU"]
    cells = [
        [
            row.label,
            money(row.price_usd_h),
            row.market,
            f"{number(row.slow_images_per_s)}-{number(row.fast_images_per_s)}",
            compact(row.images_per_usd),
            money(row.usd_to_target),
            money(row.billed_usd),
            gpu_words(row),
        ]
        for row in rows
    ]
    return table(head, cells, " ".join(head[1:2] + head[3:7]), drop=("GPU", "10-90 %", "MARKET", "IMAGES/$"))


def _groups(rows: Sequence[BenchRow]) -> str:
    """The measured groups beside the estimates, by type and number of machines."""
    head = ["TYPE", "N", "IMAGES/S", "EFF", "$/STEP", "$/EPOCH", "EST IMAGES/S", "BETWEEN", "EST $/EPOCH"]
    types = list(dict.fromkeys(row.instance_type for row in rows))
    cells = [
        [
            row.instance_type,
            str(row.nodes),
            compact(row.images_per_s),
            "-" if row.efficiency is None else f"{100 * row.efficiency:.0f} %",
            money(row.usd_per_step),
            money(row.usd_per_epoch),
            compact(row.estimated_images_per_s),
            "-"
            if row.estimated_images_per_s is None
            else f"{compact(row.estimated_low_images_per_s)}-{compact(row.estimated_high_images_per_s)}",
            money(row.estimated_usd_per_epoch),
        ]
        for row in sorted(rows, key=lambda one: (types.index(one.instance_type), one.nodes))
    ]
    return table(head, cells, " ".join(head[1:]), drop=("$/STEP", "BETWEEN", "EST $/EPOCH", "$/EPOCH", "EST IMAGES/S"))


def gpu_words(row: BenchRow) -> str:
    """Return the known facts of the device: `Tesla T4, 1590 MHz, 97 %, 3.1 GiB`."""
    if not row.gpu:
        return row.device or "-"
    words = [one_line(row.gpu.get("name", ""))[:80]]
    clock, used, memory = (row.gpu.get(key) for key in ("sm_clock_mhz", "utilization_percent", "memory_peak_mib"))
    if is_figure(clock) and clock:
        words.append(f"{clock:.0f} MHz")
    if is_figure(used):
        words.append(f"{used:.0f} %")
    if is_figure(memory) and memory:
        words.append(f"{memory / 1024:.1f} GiB")
    return ", ".join(words)


def _problems(rows: Sequence[BenchRow]) -> list[str]:
    import textwrap

    return [
        textwrap.fill(f"{row.label}: {row.says}", prose_width(), initial_indent="- ", subsequent_indent="  ")
        for row in rows
    ]


def _predicted(rows: Sequence[PredictedRow]) -> str:
    head = ["TYPE", "IMAGES/S", "90 % BETWEEN", "$/H", "PRICE", "$/EPOCH", "IMAGES/$"]
    cells = [
        [
            row.instance_type,
            compact(row.images_per_s),
            f"{compact(row.low_images_per_s)} - {compact(row.high_images_per_s)}",
            money(row.price_usd_h),
            row.price_source.removeprefix("spot, "),
            money(row.usd_per_epoch),
            compact(row.images_per_usd),
        ]
        for row in rows
    ]
    return table(
        head, cells, "IMAGES/S 90 % BETWEEN $/H $/EPOCH IMAGES/$", drop=("PRICE", "IMAGES/$", "$/H", "90 % BETWEEN")
    )


def as_json(
    name: str, rows: Sequence[BenchRow], predicted: Sequence[PredictedRow], notes: Sequence[str]
) -> dict[str, Any]:
    """Return the bench for `-o json`, the types in ranked order."""
    return {
        "bench": name,
        "types": [{**plain(row), "gpu": dict(row.gpu), "origin": "measured", "is_ranked": not row.is_embedded}
                  for row in ranked(rows)],
        "predicted": [{**plain(row), "origin": "predicted"} for row in predicted],
        "billed_usd": float(sum((row.billed_usd for row in rows), Decimal(0))),
        "notes": list(notes),
    }  # fmt: skip
