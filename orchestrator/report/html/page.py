"""The report as one self-contained HTML file: SVG charts, tables, samples; for light, dark, narrow and print."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from importlib import resources

from orchestrator.formatting import counted, one_line, span
from orchestrator.report.forms import (
    Table,
    attempts_table,
    left_out_table,
    members_table,
    predicted_table,
    runs_table,
    sizes_table,
    types_table,
)
from orchestrator.report.html import charts, epoch_cost, price_speed
from orchestrator.report.html.axes import part
from orchestrator.report.html.bill_bar import bill_bar
from orchestrator.report.html.charts import Curve
from orchestrator.report.html.price_history import History, price_history
from orchestrator.report.html.story_chart import FEW_STORIES, MANY_RUNS, MOST_STORIES, story_picture
from orchestrator.report.html.svg import Picture, check_library
from orchestrator.report.html.units import readable, usd_words
from orchestrator.report.html.value_charts import ValueCurves, value_charts
from orchestrator.report.rows import Report
from orchestrator.report.text import basis_words, compact, ranked_types, start_of, when

MOST_ROWS = 1500  # of a table; the JSON form has them all
MOST_GALLERY_BYTES = 1_000_000
WORD_COLUMNS = {
    "run", "state", "type", "market", "cloud", "workload", "zone", "ended by", "started, UTC", "price", "problem",
    "instance",
}  # fmt: skip

LONG_COLUMNS = {"workload", "problem"}  # these may wrap


@dataclass(frozen=True)
class Sample:
    """A grid of images that a run sampled."""

    step: int
    png: bytes


@dataclass(frozen=True)
class Gallery:
    """The grids of one run, in the order of their steps."""

    run: str
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Exhibits:
    """What the page shows in addition to the report's figures."""

    curves: tuple[Curve, ...] = ()
    values: tuple[ValueCurves, ...] = ()  # of programs of the user's own
    histories: tuple[History, ...] = ()
    galleries: tuple[Gallery, ...] = ()
    drawn: int = 0  # runs that have sampled images


def as_html(report: Report, exhibits: Exhibits) -> str:
    """Return the page.

    Raises:
        SpecError: the drawing library is not installed.
    """
    check_library()
    if not report.runs and not report.broken:
        return _document("pixel-orch: no runs yet", _empty())
    workloads = list(dict.fromkeys(row.workload for row in report.types))
    sections = [
        _head(report),
        *_workloads(report, workloads),
        *_common(report, exhibits),
        _tables(report),
        _foot(report),
    ]
    return _document("pixel-orch report", "\n".join(sections))


def _document(title: str, body: str) -> str:
    package = resources.files("orchestrator.report.html")
    style = package.joinpath("page.css").read_text(encoding="utf-8")
    script = package.joinpath("page.js").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#main">Skip to the figures</a>\n'
        f"{body}\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def _empty() -> str:
    return (
        '<header><h1>No runs yet</h1></header><main id="main"><p>Start with: <code>pixel-orch launch --cloud local '
        "--instance p2.xlarge --spot</code></p></main>"
    )


def _e(text: object) -> str:
    return html.escape(one_line(text))


# -- the header


def _cards(report: Report) -> list[tuple[str, str, str]]:
    """Return the cards: a figure, what it is, a detail."""
    runs = report.runs
    done = sum(run.state == "SUCCEEDED" for run in runs)
    attempts = sum(run.instances for run in runs)
    mark = "~" if any(run.is_estimate for run in runs) else ""
    total = sum((run.cost_usd for run in runs), Decimal(0))
    name = "runs" if len(runs) != 1 else "run"
    cards = [
        (str(len(runs)), name, f"{done} succeeded, {counted(attempts, 'instance')}"),
    ]
    if not all(run.on_demand_usd for run in runs):  # else the bar below has it
        cards.append((f"{mark}{usd_words(total)}", "billed", "instances, disks, addresses, data out"))
    interruptions, lost = sum(r.interruptions for r in runs), sum(r.steps_lost for r in runs)
    cards.append(
        (
            str(interruptions),
            "interruption" if interruptions == 1 else "interruptions",
            f"{counted(lost, 'step')} trained again, in all runs" if lost else "no step was trained again",
        )
    )
    start_usd, data_s = sum((r.to_first_step_usd for r in runs), Decimal(0)), sum(r.data_s for r in runs)
    if start_usd:
        detail = f"boot and set-up; data ready after {span(data_s)}" if data_s else "boot and set-up"
        cards.append((f"{mark}{usd_words(start_usd)}", f"before {start_of(runs)}", detail))
    waited_usd, waited_s = sum((r.group_wait_usd for r in runs), Decimal(0)), sum(r.group_wait_s for r in runs)
    if waited_s >= 1:
        waited = f"{span(waited_s)} of machine time, while others were replaced"
        cards.append((f"{mark}{usd_words(waited_usd)}", "waiting for the group", waited))
    best = next((row for row in ranked_types(report.types) if row.is_ranked and row.images_per_usd), None)
    if best is not None:
        cards.append((compact(best.images_per_usd), "images per dollar", f"the best: {best.label}, {best.market}"))
    return cards


def _head(report: Report) -> str:
    runs = report.runs
    cards = _cards(report)
    shown = "".join(
        f'<div class="card"><b>{_e(figure)}</b><span>{_e(name)}</span><small>{_e(detail)}</small></div>'
        for figure, name, detail in cards
    )
    notes = "".join(f'<p class="notice" role="note">{_e(note[0].upper() + note[1:])}</p>' for note in report.notes)
    return (
        f'<header><p class="brand">pixel-orch</p><h1>Cost and speed of instance types</h1>'
        f'<p class="when">{counted(len(runs), "run")}, as of {when(report.generated_at)}</p>'
        f'{notes}<div class="cards n{len(cards)}">{shown}</div></header>\n<main id="main">{bill_bar(runs)}'
    )


# -- the charts


Origin = tuple[Picture | None, str]  # a picture, and where its figures come from


def _figures(pictures: Sequence[Origin]) -> str:
    """Return the figures in rows of two of the same height; a last one without a neighbour has its words beside it."""
    known = [(picture, origin) for picture, origin in pictures if picture is not None]
    halves = [picture.key for picture, _ in known if not picture.is_full]
    alone = halves[-1] if len(halves) % 2 else ""
    parts = []
    for picture, origin in known:
        kind = "full" if picture.is_full else "alone" if picture.key == alone else "half"
        parts.append(
            f'<figure id="{picture.key}" class="{kind}"><h3>{_e(picture.title)} '
            f'<span class="origin">{_e(origin)}</span></h3>'
            f"<figcaption>{_e(picture.caption)}</figcaption>{picture.svg}</figure>"
        )
    return f'<div class="figures">{"".join(parts)}</div>' if parts else ""


def _workloads(report: Report, workloads: Sequence[str]) -> list[str]:
    """Return a section for each of the newest workloads: the types compared."""
    newest = list(dict.fromkeys(run.workload for run in reversed(report.runs) if run.workload in workloads))
    sections = []
    for index, workload in enumerate(newest[: charts.MOST_WORKLOADS]):
        bars = epoch_cost.epoch_bars(report, workload)
        wide, narrow = price_speed.heights_of(report, workload)
        height = max(wide, epoch_cost.height_of(bars) if bars else 0.0)  # of both: they stand in one row
        lead = price_speed.lead(report, workload, f"speed-{index}", (height, narrow))
        epoch = epoch_cost.cost_per_epoch(bars, workload, f"epoch-{index}", (height, epoch_cost.height_of(bars) + 0.3))
        origin = _origin(report, workload)
        is_price = lead is not None and lead.title == price_speed.PRICE_ALONE
        drawn = _figures([(lead, price_speed.origin_of(report, workload) if is_price else origin), (epoch, origin)])
        if not drawn:
            drawn = f'<p class="none">{_no_figures(report, workload)}</p>'
        sections.append(
            f"<section><h2>{_e(workload or 'Workload not recorded')}</h2>{drawn}"
            f"{_prediction_note(report, workload)}</section>"
        )
    left = len(newest) - len(sections)
    if left > 0:
        sections.append(f'<p class="none">{left} older workloads appear in the tables only.</p>')
    return sections


def _no_figures(report: Report, workload: str) -> str:
    """Return why the types of a workload are not drawn."""
    if any(row.workload == workload and row.seconds_per_step for row in report.types):
        return "No program here tells images or epochs; the seconds and dollars of a step are in the table of types."
    return "No attempt has measured a speed yet."


def _origin(report: Report, workload: str) -> str:
    mine = [row for row in report.types if row.workload == workload and (row.images_per_s or row.usd_per_epoch)]
    kinds = ["measured"] if any(row.is_ranked for row in mine) else []
    kinds += ["measured on this CPU"] if any(row.is_embedded for row in mine) else []
    kinds += ["predicted"] if any(row.workload == workload for row in report.predicted) else []
    return ", ".join(kinds)


def _prediction_note(report: Report, workload: str) -> str:
    mine = [row for row in report.predicted if row.workload == workload]
    if not mine:
        return ""
    text = basis_words(report, workload)
    return f'<p class="basis">{_e(text)}</p>'


def _common(report: Report, exhibits: Exhibits) -> list[str]:
    prices = price_history(report, exhibits.histories, "prices")
    sections = []
    stories = _stories(report)
    if stories:
        went_on = any(run.story is not None and len(run.story.chapters) > 1 for run in report.runs)
        sections.append(f"<section><h2>Interrupted{' and resumed' if went_on else ''}</h2>{stories}</section>")
    drawn = _figures(
        [
            (prices, "spot market"),
            (charts.learning(exhibits.curves, "learning", len(report.runs)), "measured"),
            *((picture, "measured") for picture in value_charts(exhibits.values, "value")),
            (charts.timeline(report, "attempts"), "billed"),
        ]
    )
    if drawn:
        sections.append(f"<section><h2>History of the runs</h2>{drawn}</section>")
    gallery = _galleries(exhibits, len(report.runs))
    return sections + ([gallery] if gallery else [])


def _stories(report: Report) -> str:
    """Return the pictures of the newest runs that lost an instance, "" without any."""
    known = [run.story for run in report.runs if run.story is not None and run.story.chapters]
    shown = known[-(FEW_STORIES if len(report.runs) > MANY_RUNS else MOST_STORIES) :][::-1]
    drawn = _figures(
        [(story_picture(story, f"story-{place}"), "measured, billed") for place, story in enumerate(shown)]
    )
    left = part(len(shown), len(known), "newest", "runs that lost an instance; the others are in the tables")
    return f'{drawn}<p class="none">{left.strip()}</p>' if left else drawn


def _galleries(exhibits: Exhibits, of: int) -> str:
    room, parts, left_out = MOST_GALLERY_BYTES, [], 0
    for gallery in reversed(exhibits.galleries):  # the newest run first
        pictures = []
        for sample in gallery.samples:
            room -= len(sample.png) * 4 // 3
            if room < 0:
                left_out += 1
                continue
            data = base64.b64encode(sample.png).decode()
            pictures.append(
                f'<figure><img src="data:image/png;base64,{data}" '
                f'alt="Images sampled by {_e(gallery.run)} at step {sample.step}">'
                f"<figcaption>step {sample.step:,}</figcaption></figure>"
            )
        if pictures:
            parts.append(f'<div><h3>{_e(gallery.run)}</h3><div class="samples">{"".join(pictures)}</div></div>')
    if not parts:
        return ""
    note = f"{exhibits.drawn} of {of} runs have sampled images." if exhibits.drawn < of else ""
    note += f" The newest {len(parts)} are shown." if len(parts) < exhibits.drawn else ""
    note += f" {left_out} older grids are left out to keep the file small." if left_out else ""
    more = f'<p class="none">{note.strip()}</p>' if note else ""
    return f'<section><h2>Samples over the training</h2><div class="galleries">{"".join(parts)}</div>{more}</section>'


# -- the tables


def _tables(report: Report) -> str:
    problems: Table = (["run", "problem"], [[run, text] for run, text in report.problems])
    tables = [
        ("Instance types", "measured, billed", "types", types_table(report)),
        ("Types without a run", "predicted", "predicted", predicted_table(report)),
        ("Error of the predictions", "each type predicted from the others", "left-out", left_out_table(report)),
        ("Runs", "measured, billed", "runs", runs_table(report)),
        ("Attempts", "measured, billed", "all-attempts", attempts_table(report)),
        ("Groups, by their size", "measured, billed", "sizes", sizes_table(report)),
        ("Machines of groups", "billed", "members", members_table(report)),
        ("Problems in the data", "", "problems", problems),
    ]
    shown = "".join(_table(*one) for one in tables if one[3][1])
    return f'<section><h2>All figures</h2><p class="hint">Click a column header to sort by it.</p>{shown}</section>'


def _table(title: str, origin: str, key: str, table: Table) -> str:
    head, rows = readable(table)
    cut = f" The first {MOST_ROWS:,} of {len(rows):,} rows; -o json has them all." if len(rows) > MOST_ROWS else ""
    heads = "".join(
        f'<th scope="col"{"" if name in WORD_COLUMNS else " class=n"}><button type="button">{_e(name)}</button></th>'
        for name in head
    )
    kinds = [" class=w" if name in LONG_COLUMNS else "" if name in WORD_COLUMNS else " class=n" for name in head]
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{_e(cell)}</td>" for cell, kind in zip(row, kinds, strict=True)) + "</tr>"
        for row in rows[:MOST_ROWS]
    )  # fmt: skip
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{_e(title)}"><table id="table-{key}">'
        f'<caption>{_e(title)} <span class="origin">{_e(origin)}</span>{_e(cut)}'
        '<span class="more">more columns to the right: scroll &rarr;</span></caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _foot(report: Report) -> str:
    return f"</main>\n<footer><p>{_e(report.billing_note)}</p></footer>"
