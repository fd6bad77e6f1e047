"""The lines and the live view of a run on several machines at once."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from orchestrator.cli.live_panel import RunPanel
from orchestrator.engine.progress_lines import ProgressLines
from orchestrator.errors import PixelOrchError
from orchestrator.report.event_text import event_words
from orchestrator.report.group_text import EventLines
from orchestrator.runs import events as ev
from orchestrator.runs.group_events import GroupFormed
from orchestrator.runs.spec import GroupSpec, ProgramSpec
from tests.support.groups import at_step, group_story, led, shrinking
from tests.support.memory import Machine, VirtualClock
from tests.support.story import Story


def lines_of(story: Story) -> list[str]:
    """Return what is printed of a run, without its checkpoints."""
    told = EventLines()
    texts = (told.words(event, event.at) for event in led(story).store.events())
    return [line for text in texts for line in text.splitlines() if "checkpoint-" not in line]


def one_notice(home: Path) -> Story:
    """Return a run of three machines whose node 1 gets a notice."""
    story = group_story(home)
    at_step(story, 40, lambda: story.cloud.interrupt(story.cloud.machines[1]))
    return story


def test_the_lines_tell_of_generations_and_nodes(home: Path) -> None:
    assert lines_of(one_notice(home)) == [
        "requesting 3 machines g4dn.xlarge (spot) in us-east-1b at $0.3000/h each",
        "attempt 1: 3 machines g4dn.xlarge (spot) in us-east-1b",
        "  all 3 hosts ready after 0.0 s of set-up, code synced",
        "  training from step 1",
        "INTERRUPTION NOTICE: 120 s left for node 1 (i-00000000000000002); saving a checkpoint",
        "  trainer stopped on request at step 40 (exit code 143)",
        "  node 1 (i-00000000000000002) lost: interruption notice",
        "RECOVERING: node 1 is replaced; 2 machines wait",
        "requesting g4dn.xlarge (spot) in us-east-1b at $0.3000/h",
        "attempt 2: 3 machines g4dn.xlarge (spot) in us-east-1b",
        "  node 1 is new (i-00000000000000004)",
        "  node 1: host ready after 0.0 s of set-up, code synced",
        "  training from step 41 (resumed)",
        "  trainer finished at step 100 (exit code 0)",
        "  terminating 3 machines",
        "  3 machines terminated (by pixel-orch)",
        "  node 1 (i-00000000000000002) terminated (by AWS)",
    ]


def test_a_group_that_shrinks_and_grows_says_so(home: Path) -> None:
    lines = lines_of(shrinking(home))
    assert "  the group goes on with 2 machines" in lines
    assert "  the group grows from 2 to 3 machines" in lines
    assert "RECOVERING: the group grows by 1" in lines
    waits = next(line for line in lines if line.startswith("  no capacity"))
    assert "2 machines wait, and are billed; next request at " in waits
    assert any("joins the group once it is set up" in line for line in lines)


def test_a_run_on_one_machine_at_a_time_has_its_own_lines(home: Path) -> None:
    story = Story(home, fate=lambda number, machine: None)
    at_step(story, 40, lambda: story.cloud.interrupt(story.cloud.machines[0]))
    told = EventLines()
    for event in led(story).store.events():
        assert told.words(event, event.at) == event_words(event, event.at)


def test_a_process_that_takes_over_knows_the_machines(home: Path) -> None:
    """Its first lines name the node, too: it has read the events of before."""
    events = led(one_notice(home)).store.events()
    place = next(place for place, event in enumerate(events) if isinstance(event, ev.InterruptionNoticed))
    said: list[str] = []
    ProgressLines(said.append, 100, VirtualClock(), events[:place]).event(events[place])
    assert "for node 1 (i-00000000000000002)" in said[0]


def test_the_live_view_has_a_row_for_each_machine(home: Path) -> None:
    """Under the notice of one, between two generations, and while the others wait for the new one."""
    events = led(one_notice(home)).store.events()
    panel = RunPanel("story", 100, None)
    seen: list[str] = []
    for event in events:
        panel.event(event)
        rows = panel.rows(event.at)
        assert len(rows) <= 12
        seen.append("\n".join(f"{row.label} {row.text}" for row in rows))
    noticed = next(text for text, event in zip(seen, events, strict=True) if isinstance(event, ev.InterruptionNoticed))
    assert "machine 3 x g4dn.xlarge spot in us-east-1b at $0.3000/h each" in noticed
    assert "node 0 i-00000000000000001  trains  us-east-1b" in noticed
    assert "node 1 i-00000000000000002  notice, 2m00s left  us-east-1b" in noticed
    assert "notice AWS ends node 1 in 2m00s" in noticed
    assert any("phase node 1 is replaced; 2 machines wait" in text for text in seen)
    assert any("phase set-up of 1 of 3 machines; the others wait" in text for text in seen)
    second = [place for place, event in enumerate(events) if isinstance(event, GroupFormed)][1]
    assert "node 1 i-00000000000000004" in seen[second]
    assert "attempt 2, 1 interruption" in seen[second]
    assert not any("4 machines" in text for text in seen)


def test_outputs_of_another_node_are_said_to_be_where_they_are(home: Path) -> None:
    def fate(number: int, machine: Machine) -> None:
        machine.has_tree = True

    story = group_story(home, "2", fate)
    story.engine(config_json=None).run()
    told = EventLines()
    lines = [told.words(event, event.at) for event in story.store.events()]
    assert any(line.startswith("  node 1: ") and "in nodes/1/outputs/: " in line for line in lines)
    assert any("downloaded" in line and "; in outputs/: " in line for line in lines)


def test_a_resumed_group_joins_and_grows_nothing(home: Path) -> None:
    """All its machines are new, whatever the size of the earlier one was."""

    def fate(number: int, machine: Machine) -> None:
        machine.has_checkpoints = number > 2

    story = group_story(home, "2", fate)
    engine = story.engine()
    at_step(story, 20, lambda: engine.request_stop("SIGINT"))
    with suppress(PixelOrchError):
        engine.run()
    story.recorder.on_tick = None
    group = GroupSpec(min_nodes=3, max_nodes=3)
    story.spec = story.spec.model_copy(update={"program": ProgramSpec(group=group)})
    story.engine().run("resume")
    told = EventLines()
    text = "\n".join(told.words(event, event.at) for event in story.store.events())
    assert "attempt 2: 3 machines" in text
    assert "joins the group" not in text and "grows" not in text
