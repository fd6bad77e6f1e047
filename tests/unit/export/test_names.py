"""Names of metrics become such that each tracker takes them, and secrets of the run are in no text."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.export.names import LONGEST_TEXT, Secrets, not_a_folder, safe_name, without_login

TAKEN = re.compile(r"[A-Za-z0-9.-][A-Za-z0-9_./ -]{0,149}", re.ASCII)


@pytest.mark.parametrize("name", ["loss", "valid/loss", "train loss", "top-5.acc", "a/b/c", "lr_1"])
def test_a_plain_name_stays(name: str) -> None:
    assert safe_name(name) == name


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.text(max_size=300), st.text(max_size=300))
def test_any_name_is_taken_and_two_stay_two(one: str, other: str) -> None:
    names = [safe_name(one), safe_name(other)]
    for name in names:
        assert TAKEN.fullmatch(name), name
        assert not any(part in ("", ".", "..") for part in name.split("/")), name
        assert name == name.strip()
    assert (names[0] == names[1]) == (one == other)


@pytest.mark.parametrize("name", ["bill/total_usd", "Bill/x", "run/usd_per_step", "samples"])
def test_no_program_writes_what_is_ours(name: str) -> None:
    assert safe_name(name).startswith("program/")


def test_a_metric_whose_name_is_a_folder_of_others_gets_another() -> None:
    assert not_a_folder(["loss", "loss/kl", "a/b/c", "a", "acc"]) == {
        "loss": "loss.value",
        "loss/kl": "loss/kl",
        "a/b/c": "a/b/c",
        "a": "a.value",
        "acc": "acc",
    }


def test_values_of_variables_are_hidden_and_short_harmless_ones_are_not() -> None:
    secrets = Secrets({"WANDB_API_KEY": "abc", "SEED": "1", "URL": "https://h/long", "EMPTY": ""})
    assert secrets.hide("abc 1 https://h/long/x") == "*** 1 ***/x"


def test_what_looks_like_a_credential_in_a_command_is_hidden() -> None:
    words = ["python", "t.py", "--api-key", "k1", "--token=k2", "--epochs", "3", "--password", "-v", "HF_TOKEN=k3"]
    shown = Secrets({}).words([*words, "https://me:pw@host/x"])
    assert shown == ("python t.py --api-key *** --token=*** --epochs 3 --password -v HF_TOKEN=*** https://***@host/x")


def test_a_text_is_one_line_and_short() -> None:
    shown = Secrets({}).hide("a\x1b[2J\n" + "x" * 1000)
    assert shown.startswith("a\\x1b[2J\\nxxx")
    assert len(shown) == LONGEST_TEXT


def test_an_address_is_shown_without_its_login() -> None:
    assert without_login("refused: http://me:pw@host:5000/api") == "refused: http://host:5000/api"
