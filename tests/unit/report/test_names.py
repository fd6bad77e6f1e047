"""Names that are cut for a chart stay apart."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.report.names import LEAST_WIDTH, short_names

ALIKE = st.lists(
    st.builds(
        "".join,
        st.lists(st.sampled_from(["sweep-", "digits-", "lr", "0.001", "0.002", "a", "-", "…", "#1"]), max_size=12),
    ),
    max_size=12,
)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(ALIKE | st.lists(st.text(max_size=60), max_size=12), st.integers(LEAST_WIDTH, 30))
def test_names_that_differ_stay_different_and_fit(names: list[str], width: int) -> None:
    short = short_names(names, width)
    assert len(set(zip(names, short, strict=True))) == len(set(names)) == len(set(short))
    assert all(len(one) <= width for one in short)
    assert all(one == name for name, one in zip(names, short, strict=True) if len(name) <= width)


def test_what_is_kept_is_what_tells_them_apart() -> None:
    ends = short_names(["pixelcnn-digits-2026-11-24-a", "pixelcnn-digits-2026-11-24-b"], 14)
    assert all(one.endswith(f"-24-{end}") for one, end in zip(ends, "ab", strict=True))
    middles = short_names(["experiment-lr-0.001-cosine-schedule", "experiment-lr-0.002-cosine-schedule"], 14)
    assert "1" in middles[0]
    assert "2" in middles[1]
    assert short_names(["run-1", "run-2"], 14) == ["run-1", "run-2"]
