"""Settings are checked before anything is billed, and each refusal is one line that says what to do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from model.config import DATASETS, MODELS, TrainConfig, config_from_settings, load_config, parse_assignments
from model.errors import ConfigError


def refusal(**settings: str | int | float) -> str:
    with pytest.raises(ConfigError) as caught:
        config_from_settings(settings)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 500
    return text


def test_the_config_needs_neither_torch_nor_numpy() -> None:
    code = "import model.config, sys; print([n for n in ('torch', 'numpy', 'sklearn', 'PIL') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_strings_become_the_types_of_their_fields() -> None:
    config = config_from_settings(
        {"steps": "1e3", "batch_size": "8", "learning_rate": "1e-3", "optimizer": "rmsprop", "grad_clip": "0"}
    )
    assert (config.steps, config.batch_size, config.learning_rate) == (1000, 8, 0.001)
    assert (config.optimizer, config.grad_clip) == ("rmsprop", 0.0)
    assert type(config.steps) is int


def test_rmsprop_has_defaults_of_its_own() -> None:
    config = config_from_settings({"optimizer": "rmsprop"})
    assert (config.learning_rate, config.weight_decay) == (0.003, 0.0)
    given = config_from_settings({"optimizer": "rmsprop", "weight_decay": "0.1", "learning_rate": "0.02"})
    assert (given.learning_rate, given.weight_decay) == (0.02, 0.1)
    assert TrainConfig.model_validate(given.model_dump()) == given
    assert TrainConfig(optimizer="adamw") == TrainConfig()


def test_a_flag_of_its_own_and_a_setting_must_not_both_give_a_field() -> None:
    assert config_from_settings({"hidden": "8"}, steps="7", model=None).steps == 7
    with pytest.raises(ConfigError, match="steps is given by --steps and by --set; give it once"):
        config_from_settings({"steps": "5"}, steps="7")


def test_a_misspelt_setting_is_told_the_nearest_name() -> None:
    assert refusal(lerning_rate="1") == "unknown setting lerning_rate in --set; did you mean learning_rate?"
    assert "known: model, dataset, steps" in refusal(zzzqqq="1")


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "nan", "inf", "", "abc", "9" * 5000, "1e400", "0x10", True, 2.5])
def test_a_number_that_cannot_be_is_told_the_range(value: str | float) -> None:
    text = refusal(steps=value)
    assert text.startswith("steps = ")
    assert "give a whole number at least 1, at most 1000000000 (total optimizer steps; default" in text


@pytest.mark.parametrize("value", ["0", "-0.1", "nan", "inf", "-inf", "1e-999", "11", "1,5"])
def test_a_rate_must_be_a_positive_finite_number(value: str) -> None:
    assert "give a number above 0, at most 10" in refusal(learning_rate=value)


def test_names_are_told_the_names_that_are_known() -> None:
    assert "give rmsprop or adamw" in refusal(optimizer="sgd")
    assert "give pixelcnn" in refusal(model="gan")
    assert "give a registered name such as digits" in refusal(dataset="\n")


def test_every_field_has_a_description_and_a_default() -> None:
    for name, field in TrainConfig.model_fields.items():
        assert field.description, name
        assert not field.is_required(), name


def test_json_round_trip() -> None:
    config = config_from_settings({"learning_rate": 0.1 + 0.2, "seed": 2**32 - 1})
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config
    assert TrainConfig.model_validate(json.loads(config.model_dump_json())) == config


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        TrainConfig().steps = 3  # type: ignore[misc]


def test_facts_are_there_for_every_data_set() -> None:
    assert MODELS == ("pixelcnn", "row-lstm", "diagonal-bilstm")
    facts = DATASETS["digits"]
    assert (facts.dims, facts.train + facts.valid + facts.test) == (64, 1797)
    assert TrainConfig(steps=1257, batch_size=2).epochs == 2


@pytest.mark.parametrize("word", ["steps", "=5", "", "steps 5"])
def test_a_word_that_is_no_assignment_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match="is not KEY=VALUE"):
        parse_assignments([word])


def test_assignments_are_read_once_each() -> None:
    assert parse_assignments(["a=1", " b = x=y "]) == {"a": "1", "b": "x=y"}
    with pytest.raises(ConfigError, match="--set gives a twice"):
        parse_assignments(["a=1", "a=2"])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"\x80\x81\x00", "is not text"),
        (b"\x00\x00", "is not JSON"),
        (b"{", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[1]", "is not a JSON object"),
        (b'{"stepz": 1}', "unknown setting stepz in"),
        (b'{"steps": "5"}', "give a whole number"),
        (b'{"learning_rate": NaN}', "give a number above 0"),
        (b'{"steps": true}', "give a whole number"),
    ],
)
def test_a_config_file_that_cannot_be_is_one_line(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_config_file_may_leave_out_what_it_does_not_care_about(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"steps": 5}')
    assert load_config(path) == TrainConfig(steps=5)
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="directory"):
        load_config(tmp_path)
