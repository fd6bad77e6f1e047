"""A machine that is alone gets the variables of a group of one, so that one line starts a program on both."""

from __future__ import annotations

from pathlib import Path

from tests.support.story import Story


def variables(story: Story, config: bytes | None) -> dict[str, str]:
    """Return the variables of pixel-orch that the program of the first machine got."""
    story.engine(config_json=config).run()
    job = story.cloud.machines[0].job
    assert job is not None
    return {name: value for name, value in job.env.items() if name.startswith("PIXEL_ORCH_")}


def test_a_program_on_one_machine_is_told_where_its_processes_meet(home: Path) -> None:
    assert variables(Story(home), None) == {
        "PIXEL_ORCH_NODES": "1",
        "PIXEL_ORCH_NODE_RANK": "0",
        "PIXEL_ORCH_NODE_IPS": "10.0.0.1",
        "PIXEL_ORCH_GPUS_PER_NODE": "1",
        "PIXEL_ORCH_MASTER_ADDR": "10.0.0.1",
        "PIXEL_ORCH_MASTER_PORT": "29500",
        "PIXEL_ORCH_GENERATION": "1",
    }


def test_the_bundled_trainer_on_one_machine_is_told_how_many_processes_there_are(home: Path) -> None:
    assert variables(Story(home), b"{}") == {"PIXEL_ORCH_GPUS_PER_NODE": "1"}
