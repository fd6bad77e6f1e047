"""The dashboard in a real browser while a run goes on."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from orchestrator.runs.events import PriceChanged, Progress, StateChanged
from orchestrator.runs.spec import Limits
from orchestrator.runs.store import RunStore
from tests.support import axe, browser
from tests.support.report_runs import BORN, PNG, Had, write_run
from tests.support.stage import Stage, staged

pytestmark = [pytest.mark.slow, pytest.mark.skipif(browser.find() is None, reason=browser.WHY_NOT)]
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
LIVE = "document.getElementById('live').textContent === 'live'"


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Give a stage."""
    yield from staged(tmp_path)


@pytest.fixture
def url(stage: Stage) -> str:
    """Start the dashboard, and give its address."""
    stage.home.mkdir(exist_ok=True)
    server = stage.start("dashboard")
    found = stage.until(lambda: "Ctrl-C" in stage.said(server) and stage.said(server).split()[0], "the address")
    assert found.startswith("http://127.0.0.1:")
    return str(found)


def run_url(url: str, run: str) -> str:
    return url.replace("/?", f"/run/{run}?")


def lines(first: int, last: int, key: str = "loss") -> list[str]:
    return [json.dumps({"step": step, key: 3 - step / 100, "lr": 1e-3}) for step in range(first, last + 1)]


def a_run(home: Path, name: str = "tiny") -> RunStore:
    """Write a run that was interrupted once and goes on, with samples, a log, a checkpoint and an output."""
    moves = [PriceChanged(at=BORN + 90, attempt=1, since=BORN + 900, price_usd_h=0.3)]
    had = [
        Had(last_step=60, ended_by="aws", lines=lines(1, 60), extra=list(moves)),
        Had(first_step=51, last_step=100, ended_by=None, lines=lines(51, 100)),
    ]
    store = write_run(home, name, had, limits=Limits(budget_usd=Decimal(5)))
    store.append(StateChanged(at=BORN + 1900, state="RUNNING"))
    for step in (50, 100):
        (store.folder / f"samples-{step}.png").write_bytes(PNG)
    store.log_path(2).write_text("first line\n<i>second</i> line\n")
    (store.checkpoints / "checkpoint-100.pt").write_bytes(b"weights")
    (store.outputs / "eval").mkdir(parents=True)
    (store.outputs / "eval" / "a&b.csv").write_text("1,2\n")
    return store


def test_the_list_follows_its_runs_and_ends_with_ctrl_c(stage: Stage, tmp_path: Path) -> None:
    stage.home.mkdir()
    store = write_run(stage.home, "tiny", [Had(ended_by=None)])
    write_run(stage.home, "broken", [Had()]).folder.joinpath("spec.json").unlink()
    server = stage.start("dashboard")
    url = stage.until(lambda: "Ctrl-C" in stage.said(server) and stage.said(server).split()[0], "the address")
    with browser.page() as page:
        for width, scheme in ((1280, "light"), (390, "dark")):
            page.size(width)
            page.media(scheme=scheme)
            page.go(url)
            page.until("document.querySelector('#runs .name')?.textContent === 'tiny'")
            assert page.run(OVERFLOW) == 0
            page.picture(tmp_path / f"dashboard-{width}.png")
        store.append(Progress(at=BORN + 200, attempt=1, step=777, images_per_s=4321.0))
        page.until("document.body.textContent.includes('4,321')")
        assert page.run("document.querySelector('progress').value") == pytest.approx(0.777)
        store.append(StateChanged(at=BORN + 300, state="FAILED", reason="<b>the loss is not a number</b>"))
        page.until("document.querySelector('.state').textContent === 'FAILED'")
        shown = page.run("[...document.querySelectorAll('.reason')].map((one) => one.textContent).join()")
        assert "cannot be read: spec.json is missing" in shown
        assert page.run("document.querySelectorAll('#runs b').length") == 0, "text, not markup"
        assert page.complaints == []
        assert {one.split("/")[2] for one in page.requests if one.startswith("http")} == {url.split("/")[2]}
        os.kill(server.pid, signal.SIGINT)
        assert server.wait(15) == 0, stage.said(server)
    assert "Traceback" not in stage.said(server)


def test_the_list_sorts_and_filters_and_compares_what_is_chosen(stage: Stage, url: str) -> None:
    for number, steps in enumerate((300, 100, 200)):
        odd = ["constructor", "__proto__"] if number == 0 else []  # names that every object of a script has
        told = [*lines(1, steps), *(line for name in odd for line in lines(1, 3, name))]
        write_run(stage.home, f"run-{number}", [Had(last_step=steps, lines=told)], born=BORN + number)
    failed = write_run(stage.home, "other", [Had(last_step=5)], born=BORN - 9)
    failed.append(StateChanged(at=BORN + 9999, state="FAILED", reason="no"))
    names = "[...document.querySelectorAll('#runs .name')].map((one) => one.textContent).join(' ')"
    with browser.page() as page:
        page.size(1280)
        page.go(url)
        page.until(f"{names} === 'run-2 run-1 run-0 other'")
        page.run("document.querySelector('[data-sort=share] button').click()")
        assert page.run(names) == "run-0 run-2 run-1 other"
        assert page.run("document.querySelector('[data-sort=share]').getAttribute('aria-sort')") == "descending"
        page.run("document.querySelector('[data-sort=share] button').click()")
        assert page.run(names) == "other run-1 run-2 run-0"
        page.run("words.value = 'run g4dn'; words.dispatchEvent(new Event('input'))")
        assert page.run(names) == "run-1 run-2 run-0"
        page.ask("Page.reload")
        page.until(f"{names} === 'run-1 run-2 run-0'")
        page.run("state.value = 'FAILED'; words.value = ''; state.dispatchEvent(new Event('input'))")
        assert page.run(names) == "other"
        page.run("state.value = ''; state.dispatchEvent(new Event('input'))")
        assert page.run("compare.hasAttribute('href')") is False
        page.run("for (const box of document.querySelectorAll('#runs input')) box.click()")
        page.go(page.run("compare.href"))
        page.until("document.querySelectorAll('.chart .line').length >= 8")
        assert page.run("document.querySelectorAll('#heads tbody tr').length") == 4
        assert page.run("[...document.querySelectorAll('.chart h3')].map((one) => one.textContent)[0]") == "loss"
        assert page.run(OVERFLOW) == 0
        assert page.complaints == []


def test_the_page_of_a_run_updates_while_it_trains(stage: Stage, url: str, tmp_path: Path) -> None:
    store = a_run(stage.home)
    with browser.page() as page:
        for width, scheme in ((390, "dark"), (1280, "light")):
            page.size(width)
            page.media(scheme=scheme)
            page.go(run_url(url, "tiny"))
            page.until("document.querySelectorAll('.chart .line').length === 2")
            page.until("[...document.images].every((one) => one.complete && one.naturalWidth > 0)")
            assert page.run(OVERFLOW) == 0
            page.picture(tmp_path / f"run-{width}.png")
        assert page.run("document.querySelectorAll('.chart .flag').length") == 2, "an interruption in each chart"
        assert "<i>second</i> line" in page.run("document.getElementById('log').textContent"), "text, not markup"
        page.run("window.kept = document.querySelector('.chart .line'); window.was = kept.getAttribute('d')")
        with store.metrics_path(2).open("a") as file:
            file.write("\n".join([*lines(101, 200), *lines(101, 200, "my/metric")]) + "\n")
        store.append(Progress(at=BORN + 2500, attempt=2, step=200, images_per_s=4321.0))
        with store.log_path(2).open("a") as log:
            log.write("third line\nhalf of a ")
        (store.folder / "samples-200.png").write_bytes(PNG)
        page.until("document.getElementById('facts').textContent.includes('200 / 1,000')")
        page.until("[...document.querySelectorAll('.chart h3')].some((one) => one.textContent === 'my/metric')")
        page.until("kept.isConnected && kept.getAttribute('d') !== was")
        page.until("document.getElementById('log').textContent.endsWith('third line\\nhalf of a ')")
        page.until("document.getElementById('sample-step').textContent === 'step 200'")
        links = "[...document.querySelectorAll('#files a')]"
        saved = page.run(f"Promise.all({links}.map((one) => fetch(one.href).then((got) => got.text())))")
        assert saved == ["weights", "1,2\n"]
        assert "token=" in page.run("document.getElementById('all').href")
        store.append(StateChanged(at=BORN + 2600, state="FAILED", reason="<b>out of memory</b>"))
        page.until("document.getElementById('reason').textContent === '<b>out of memory</b>'")
        assert page.complaints == []


def test_what_is_selected_survives_an_update(stage: Stage, url: str) -> None:
    store = a_run(stage.home)
    with browser.page() as page:
        page.size(1280, 700)
        page.go(run_url(url, "tiny"))
        page.until("document.querySelectorAll('.chart .line').length === 2")
        page.until("document.getElementById('log').textContent.includes('second')")
        page.run("slider.value = 0; slider.dispatchEvent(new Event('input'))")
        page.run("document.querySelector('.chart svg').focus(); scrollTo(0, 300)")
        page.run("getSelection().selectAllChildren(document.querySelector('#events li'))")
        chosen = page.run("getSelection().toString()")
        page.ask("Input.dispatchKeyEvent", type="keyDown", key="ArrowLeft", code="ArrowLeft", windowsVirtualKeyCode=37)
        at = page.run("document.activeElement.getAttribute('aria-valuenow')")
        assert at == "99"
        with store.metrics_path(2).open("a") as file:
            file.write("\n".join(lines(101, 150)) + "\n")
        (store.folder / "samples-150.png").write_bytes(PNG)
        with store.log_path(2).open("a") as log:
            log.write("third line\n")
        store.append(Progress(at=BORN + 2500, attempt=2, step=150, images_per_s=4321.0))
        store.append(StateChanged(at=BORN + 2600, state="RECOVERING"))
        page.until("document.querySelector('.chart svg').getAttribute('aria-valuemax') === '150'")
        page.until("document.getElementById('state').textContent === 'RECOVERING'")
        page.until("document.getElementById('log').textContent.includes('third')")
        page.until("slider.max === '2'")
        assert chosen
        assert page.run("getSelection().toString()") == chosen
        assert page.run("document.activeElement.getAttribute('aria-valuenow')") == at
        assert page.run("document.getElementById('sample-step').textContent") == "step 50"
        assert page.run("scrollY") == 300
        page.go(url)
        page.until("document.querySelector('#runs .name')?.textContent === 'tiny'")
        page.run("getSelection().selectAllChildren(document.querySelector('#runs .name'))")
        write_run(stage.home, "newer", [Had()], born=BORN + 999)
        store.append(Progress(at=BORN + 2700, attempt=2, step=160, images_per_s=4321.0))
        page.until("document.querySelectorAll('#runs .name').length === 2")
        page.until("document.body.textContent.includes('160 / 1,000')")
        assert page.run("getSelection().toString()") == "tiny"
        assert page.complaints == []


def test_no_serious_fault_for_a_keyboard_or_a_screen_reader(stage: Stage, url: str) -> None:
    if axe.source() is None:
        pytest.skip(axe.WHY_NOT)
    for name in ("tiny", "other"):
        a_run(stage.home, name)
    pages = {
        "list": url,
        "run": run_url(url, "tiny"),
        "compare": url.replace("/?", "/compare?run=tiny&run=other&"),
    }
    with browser.page() as page:
        for width, scheme in ((1280, "light"), (390, "dark")):
            page.size(width)
            page.media(scheme=scheme)
            for name, address in pages.items():
                page.go(address)
                page.until(LIVE)
                page.until("!document.getElementById('charts') || !!document.querySelector('.chart .line')")
                assert axe.faults(page) == [], f"{name} at {width}"
