"""The dashboard in a real browser while a run goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.runs.events import Progress, StateChanged
from tests.support import browser
from tests.support.report_runs import BORN, PNG, Had, write_run
from tests.support.stage import Stage, staged

pytestmark = [pytest.mark.slow, pytest.mark.skipif(browser.find() is None, reason=browser.WHY_NOT)]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Give a stage."""
    yield from staged(tmp_path)


def test_it_follows_a_run_live_and_ends_with_ctrl_c(stage: Stage, tmp_path: Path) -> None:
    stage.home.mkdir()
    store = write_run(stage.home, "tiny", [Had(ended_by=None)])
    (store.folder / "samples-50.png").write_bytes(PNG)
    server = stage.start("dashboard")
    url = stage.until(lambda: "Ctrl-C" in stage.said(server) and stage.said(server).split()[0], "the address")
    assert url.startswith("http://127.0.0.1:")
    with browser.page() as page:
        for width, scheme in ((1280, "light"), (390, "dark")):
            page.size(width)
            page.media(scheme=scheme)
            page.go(url)
            page.until("document.querySelector('article h2')?.textContent.startsWith('tiny')")
            page.until("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
            assert page.run("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
            page.picture(tmp_path / f"dashboard-{width}.png")
        store.append(Progress(at=BORN + 200, attempt=1, step=777, images_per_s=4321.0))
        page.until("document.body.textContent.includes('4,321')")
        assert page.run("document.querySelector('progress').value") == 777
        store.append(StateChanged(at=BORN + 300, state="FAILED", reason="<b>the loss is not a number</b>"))
        page.until("document.querySelector('.state').textContent === 'FAILED'")
        assert "<b>the loss" in page.run("document.querySelector('.reason').textContent"), "text, not markup"
        assert page.complaints == []
        assert {one.split("/")[2] for one in page.requests if one.startswith("http")} == {url.split("/")[2]}
        os.kill(server.pid, signal.SIGINT)
        assert server.wait(15) == 0, stage.said(server)
    assert "Traceback" not in stage.said(server)
