"""Reads AWS's Spot Instance Advisor: how often spot instances of a type were interrupted in a region in the last month.

The file is what https://spot-bid-advisor.s3.amazonaws.com/spot-advisor-data.json gives. Its range `r` is 0 (under 5 %
of the instances), 1 (5 to 10 %), 2 (10 to 15 %), 3 (15 to 20 %) or 4 (over 20 %), of a month.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from orchestrator.errors import SpecError
from orchestrator.formatting import one_line
from orchestrator.runs.bounded_json import BadJsonError, loads
from orchestrator.runs.files import read_bounded

MOST_BYTES = 64 << 20
RANGES = ("under 5 %", "5 to 10 %", "10 to 15 %", "15 to 20 %", "over 20 %")
FACTORS = (0.25, 0.6, 1.0, 1.4, 2.0)
"""How often capacity is lost, compared with the shipped counts, by the range. Their pools are of no known range: the
middle one is taken for them. So this ranks markets rightly, and its size is an assumption."""


def read_range(path: Path, instance_types: Iterable[str], regions: Iterable[str], *, flag: str) -> int:
    """Return the lowest range of these types in these regions: the best of them is what a run would be on.

    Raises:
        SpecError: the file is none of the Spot Advisor, or has none of them.
    """
    try:
        told = loads(read_bounded(path, MOST_BYTES), most_bytes=MOST_BYTES)
    except OSError as error:
        raise SpecError(f"{flag}: cannot read {path} ({error.strerror or error})") from None
    except (BadJsonError, ValueError) as error:
        raise SpecError(f"{flag}: {one_line(path.name)} is no JSON: {one_line(str(error))[:100]}") from None
    advisor = told.get("spot_advisor") if isinstance(told, dict) else None
    if not isinstance(advisor, dict):
        raise SpecError(f"{flag}: {one_line(path.name)} is no file of the Spot Advisor: it has no spot_advisor")
    found = []
    for region in regions:
        of_region = advisor.get(region)
        linux = of_region.get("Linux") if isinstance(of_region, dict) else None
        for name in instance_types:
            entry = linux.get(name) if isinstance(linux, dict) else None
            place = entry.get("r") if isinstance(entry, dict) else None
            if isinstance(place, int) and not isinstance(place, bool) and 0 <= place < len(RANGES):
                found.append(place)
    if not found:
        raise SpecError(f"{flag}: {one_line(path.name)} has none of the types in the regions of this run")
    return min(found)
