"""The output of nvidia-smi is summarised, and kept with the attempt."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.instance.gpu import gpu_facts
from orchestrator.runs.events import GpuSeen, InstanceStarted
from orchestrator.runs.state import fold


def test_the_output_of_nvidia_smi_is_summarised(tmp_path: Path) -> None:
    path = tmp_path / "gpu.csv"
    path.write_text(
        "Tesla T4, 585, 5000, 0, 300, 15360\nTesla T4, 1590, 5000, 98, 3100, 15360\ntorn, 1\n"
        "Tesla T4, [N/A], 5000, 94, 3072, 15360\n"
    )
    facts = gpu_facts(str(path))
    assert facts["name"] == "Tesla T4"
    assert (facts["sm_clock_mhz"], facts["memory_peak_mib"]) == (1590, 3100)
    assert facts["utilization_percent"] == pytest.approx(64)
    assert gpu_facts(str(tmp_path / "none")) == {}
    path.write_text("No devices were found\n")
    assert gpu_facts(str(path)) == {}
    started = InstanceStarted(at=1, attempt=1, instance_id="i", instance_type="t", zone="z", region="r", market="spot",
                              price_usd_h=1)  # fmt: skip
    assert fold([started, GpuSeen(at=2, attempt=1, facts=facts)]).attempts[0].gpu == facts


def test_the_newest_lines_say_how_busy_and_how_hot_it_is_now(tmp_path: Path) -> None:
    path = tmp_path / "gpu.csv"
    used = [10, 20, 90, 80, 100]
    path.write_text("".join(f"Tesla T4, 585, 5000, {use}, {1000 + use}, 15360, {use // 2}\n" for use in used))
    facts = gpu_facts(str(path))
    assert facts["utilization_percent"] == pytest.approx(60)
    assert (facts["utilization_now_percent"], facts["memory_now_mib"], facts["temperature_c"]) == (90, 1100, 50)
    path.write_text("Tesla T4, 585, 5000, 40, [N/A], 15360, [N/A]\n")
    facts = gpu_facts(str(path))
    assert (facts["utilization_now_percent"], facts["memory_now_mib"], facts["temperature_c"]) == (40, None, None)
