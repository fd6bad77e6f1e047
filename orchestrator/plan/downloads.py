"""Which outputs are downloaded, and how often: from flags and settings to `Downloads`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.errors import SpecError
from orchestrator.formatting import nearest
from orchestrator.market.download_budget import hourly_bytes
from orchestrator.plan.validators import duration_s
from orchestrator.runs.output_tree import TEMPORARY
from orchestrator.runs.spec import Downloads

NAMES = ("outputs", "ignore_outputs", "download", "download_every", "keep_outputs_for")
"""The settings, as the flags are named."""

MODES = ("newest", "all", "none")
MOST_PATTERNS, MOST_PATTERN = 100, 1_000


def downloads_from(given: Callable[[str], Any], *, has_bucket: bool, old: Downloads | None = None) -> Downloads:
    """Return what was asked for.

    Args:
        given: returns a setting by its name, None where it is not given.
        has_bucket: whether outputs go to S3 too.
        old: of a run that is resumed; what is not given stays.

    Raises:
        SpecError: it cannot work.
    """
    changes: dict[str, Any] = {}
    for name, field in (("outputs", "only"), ("ignore_outputs", "ignored")):
        if given(name):
            changes[field] = _patterns(given(name), flag="--" + name.replace("_", "-"))
    if given("download") is not None:
        changes["mode"] = _mode(str(given("download")))
    if given("download_every") is not None:
        changes["every_s"] = duration_s(str(given("download_every")), flag="--download-every", example="10m")
    if given("keep_outputs_for") is not None:
        changes["keep_s"] = duration_s(str(given("keep_outputs_for")), flag="--keep-outputs-for", example="30m")
    found = (old or Downloads()).model_copy(update=changes)
    if found.mode == "none" and not has_bucket:
        raise SpecError("--download none: without --bucket the outputs would be nowhere; add --bucket, or drop it")
    if found.mode != "newest" and "every_s" in changes:
        raise SpecError(f"--download-every is for --download newest; drop it, or --download {found.mode}")
    return found if found.mode == "newest" else found.model_copy(update={"every_s": None})


def _mode(text: str) -> str:
    if text in MODES:
        return text
    near = nearest(text, {mode: mode for mode in MODES})
    hint = f"did you mean {near}?" if near else "use newest, all or none"
    raise SpecError(f"--download: {text[:40]!r} is unknown; {hint}")


def _patterns(value: Any, *, flag: str) -> tuple[str, ...]:
    patterns: Sequence[str] = [value] if isinstance(value, str) else list(value)
    if len(patterns) > MOST_PATTERNS:
        raise SpecError(f"{flag}: {len(patterns)} patterns; at most {MOST_PATTERNS} are taken")
    for pattern in patterns:
        problem = _problem(pattern)
        if problem:
            raise SpecError(f"{flag}: {str(pattern)[:60]!r} {problem}; for example {flag} 'results/**'")
    return tuple(patterns)


def _problem(pattern: Any) -> str:
    """Return why a pattern cannot name outputs, "" if it can."""
    if not isinstance(pattern, str) or not pattern.strip().strip("./") or len(pattern) > MOST_PATTERN:
        return "is no pattern of file names"
    if pattern.startswith(("/", "~")):
        return "is not below the working folder; outputs are what is below it, or in $PIXEL_ORCH_OUT"
    if ".." in pattern.split("/"):
        return "leads out of the working folder"
    if any(ord(one) < 32 for one in pattern):
        return "has a control character"
    if re.search(r"\[[^\]]*$", pattern):
        return "has a [ without its ]"
    return ""


def words(downloads: Downloads, region: str, price_usd_h: float, *, has_bucket: bool) -> str:
    """Return in a sentence which outputs come, how often, and what that costs at most. Pure."""
    only = f"what {' and '.join(downloads.only)} name" if downloads.only else "all files that it writes"
    beside = f" but {', '.join(downloads.ignored)}" if downloads.ignored else ""
    what = f"Outputs: {only} in its folder and $PIXEL_ORCH_OUT{beside}"
    if downloads.mode == "none":
        return f"{what}; they go to S3 only"
    stored = "; each state goes to S3 too" if has_bucket else ""
    if downloads.mode == "all":
        return f"{what}; downloaded as soon as they are complete{stored}"
    if downloads.every_s is not None:
        return f"{what}; downloaded every {downloads.every_s / 60:g} min at most, and at the end{stored}"
    most = hourly_bytes(region, price_usd_h)
    rate = "" if most == float("inf") else f", at most {most / 1e6:.0f} MB an hour (a tenth of the price)"
    return f"{what}; downloaded as they change{rate}, and all at the end{stored}"


def as_json(downloads: Downloads) -> Mapping[str, Any]:
    """Return it for programs."""
    return {
        "download": downloads.mode,
        "download_every_s": downloads.every_s,
        "outputs": list(downloads.only),
        "ignore_outputs": list(downloads.ignored),
        "never_outputs_unless_named": list(TEMPORARY),
        "keep_outputs_for_s": downloads.keep_s,
    }
