"""The trainer's settings, validated before torch is imported and before anything is billed.

No torch or numpy is imported: the orchestrator imports this file on laptops without them.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import annotated_types
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from model.config.datasets import DATASETS, DatasetFacts, check_name, prepared_facts, size_of
from model.errors import ConfigError

ModelName = Literal["pixelcnn", "row-lstm", "diagonal-bilstm"]
Setting = str | int | float


MODELS: tuple[str, ...] = get_args(ModelName)


SET_BY_THE_TRAINER = ("facts",)

WITH_RMSPROP = {"learning_rate": 0.003, "weight_decay": 0.0}  # defaults that differ from AdamW's

# The settings that a checkpoint's weights depend on; the optimizer's state depends on them and on `optimizer`.
NETWORK_FIELDS = ("model", "dataset", "hidden", "layers", "head", "connections", "multiscale", "condition")


class TrainConfig(BaseModel):
    """The settings of one training. The defaults are those of the demo: 40 s on a CPU core."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    model: ModelName = Field("pixelcnn", description="network")
    dataset: str = Field("digits", description="registered data set, or folder of a prepared one")
    steps: int = Field(2200, ge=1, le=10**9, description="total optimizer steps")
    batch_size: int = Field(32, ge=1, le=65536, description="images per step")
    accumulate: int = Field(
        1, ge=1, le=65536, description="parts of a step's images, computed one after the other: needs less memory"
    )
    optimizer: Literal["rmsprop", "adamw"] = Field("adamw", description="optimizer; the paper's is rmsprop")
    learning_rate: float = Field(
        0.01, gt=0, le=10, description="peak learning rate; with rmsprop 0.003 if it is not given"
    )
    schedule: Literal["cosine", "constant"] = Field("cosine", description="learning rate schedule")
    warmup_steps: int = Field(0, ge=0, le=10**9, description="steps of linear learning rate warm-up")
    ema: float = Field(
        0.998, ge=0, lt=1, description="decay per step of the weights' running mean for evaluation; 0: none"
    )
    weight_decay: float = Field(
        0.3,
        ge=0,
        le=10,
        description="weight decay of all but biases and initial states, as the optimizer defines it; with rmsprop 0 if "
        "it is not given",
    )
    grad_clip: float = Field(1.0, ge=0, le=1e6, description="gradient clipping: largest norm, in nats/dim; 0: none")
    hidden: int = Field(16, ge=1, le=4096, description="feature maps h inside a block; 2h between blocks")
    layers: int = Field(5, ge=1, le=256, description="layers: residual blocks, or LSTMs")
    head: int = Field(32, ge=1, le=8192, description="feature maps of the layer before the softmax")
    connections: Literal["both", "residual", "skip", "none"] = Field("both", description="connections between layers")
    facts: DatasetFacts | None = Field(None, description="sizes of a prepared data set; the trainer fills them in")
    multiscale: int = Field(
        0, ge=0, le=4096, description="multi-scale: rows of the small image that is drawn first; 0: off"
    )
    condition: str = Field("", description="columns of the data set that condition the network, comma-separated")
    data_memory_mb: int = Field(
        0,
        ge=0,
        le=10**9,
        description="memory for images, in MiB; larger sets are streamed; 0: half of memory",
    )
    validate_images: int = Field(0, ge=0, le=10**9, description="images per validation; 0: all")
    seed: int = Field(0, ge=0, lt=2**32, description="seed of the weights, the order of the data and the samples")
    log_every: int = Field(20, ge=1, le=10**9, description="steps between measurements")
    checkpoint_every: int = Field(100, ge=1, le=10**9, description="steps between checkpoints")
    validate_every: int = Field(300, ge=1, le=10**9, description="steps between validations; each writes a checkpoint")
    keep_checkpoints: int = Field(3, ge=1, le=10**6, description="newest checkpoints to keep, besides the best one")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="device; auto: cuda if available")
    implementation: Literal["auto", "fast", "reference"] = Field(
        "auto", description="fast, or reference (slower; an LSTM: less memory); auto: fast if an LSTM fits"
    )
    tf32: Literal["off", "on"] = Field(
        "off", description="on: TF32 in training, faster on GPUs from Ampere on, rounds to 10 bits"
    )
    precision: Literal["float32", "bf16"] = Field(
        "float32", description="of products in training; bf16: faster from Ampere on; weights, loss stay float32"
    )
    graph: Literal["auto", "on", "off"] = Field(
        "auto", description="GPU: record a step as one CUDA graph; auto: if its gradients are the same bits"
    )
    compile: Literal["off", "on"] = Field(
        "off", description="on: torch compiles the step of PixelCNN on a GPU, or of a reference network"
    )
    deterministic: Literal["auto", "on"] = Field(
        "auto", description="on: a GPU operation without a deterministic kernel is an error, else a warning"
    )
    threads: int = Field(1, ge=1, le=1024, description="CPU threads; the number changes the last bits of results")
    tensorboard: Literal["off", "on"] = Field("off", description="also write TensorBoard events")
    samples: int = Field(
        16, ge=0, le=1024, description="images sampled at the end, and after a validation where that is quick; 0: none"
    )
    samples_temperature: float = Field(1.0, gt=0, le=100, description="divides the logits when sampling")

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_optimizer(cls, given: Any) -> Any:
        """Fill in the defaults of RMSProp: the others are those of AdamW, whose weight decay means something else."""
        if isinstance(given, dict) and given.get("optimizer") == "rmsprop":
            return {**WITH_RMSPROP, **given}
        return given

    @field_validator("dataset")
    @classmethod
    def _dataset_can_be(cls, name: str) -> str:
        return check_name(name)

    @field_validator("facts", mode="before")
    @classmethod
    def _facts_of_json(cls, given: Any) -> Any:
        fits = isinstance(given, dict) and given.keys() == DatasetFacts.__dataclass_fields__.keys()
        return DatasetFacts(**given) if fits and all(type(value) is int for value in given.values()) else given

    @field_validator("accumulate")
    @classmethod
    def _accumulate_divides(cls, parts: int, info: ValidationInfo) -> int:
        batch = info.data.get("batch_size")
        if batch is not None and batch % parts:
            raise ValueError(f"a batch of {batch} images cannot be cut into {parts} equal parts; give a divisor of it")
        return parts

    @field_validator("hidden", "head")
    @classmethod
    def _every_colour_has_maps(cls, maps: int, info: ValidationInfo) -> int:
        name = info.data.get("dataset", "")
        facts = DATASETS.get(name)
        if facts is not None and maps < facts.channels:
            raise ValueError(f"{name} has {facts.channels} colours; give at least that many feature maps")
        return maps

    @field_validator("multiscale")
    @classmethod
    def _multiscale_fits(cls, rows: int, info: ValidationInfo) -> int:
        facts = info.data.get("facts") or DATASETS.get(info.data.get("dataset", ""))
        if rows and facts is not None and rows not in small_rows(facts):
            fit = ", ".join(map(str, small_rows(facts)))
            name = info.data["dataset"]
            raise ValueError(f"small images of {name} can have {fit} rows (its images have {facts.height})")
        return rows

    @field_validator("condition")
    @classmethod
    def _condition_fits(cls, names: str, info: ValidationInfo) -> str:
        given = names.split(",") if names else []
        if len(set(given)) != len(given) or not all(name.isidentifier() for name in given):
            raise ValueError("give comma-separated names, each once: steering_angle,speed")
        if given and info.data.get("multiscale"):
            raise ValueError("a multi-scale network cannot be conditioned on columns; omit condition or multiscale")
        return names

    @property
    def conditions(self) -> list[str]:
        """The columns that condition the network."""
        return self.condition.split(",") if self.condition else []

    @property
    def data(self) -> DatasetFacts:
        """The sizes of the data set: as found by the trainer, else as published, else as prepared on this machine.

        Raises:
            DataError: the sizes depend on the preparation, and the data set is not prepared on this machine.
        """
        return self.facts or DATASETS.get(self.dataset) or prepared_facts(self.dataset)

    @property
    def small(self) -> DatasetFacts | None:
        """The sizes of the small images of a multi-scale network; None for other networks."""
        if not self.multiscale:
            return None
        width = self.data.width * self.multiscale // self.data.height
        return replace(self.data, height=self.multiscale, width=width)

    @property
    def epochs(self) -> float:
        """Total passes over the training images."""
        return self.steps * self.batch_size / self.data.train


def check_world(config: TrainConfig, world_size: int) -> None:
    """Check that every process gets the same number of images in each part of a step.

    Args:
        config: the settings.
        world_size: processes of the training, over all machines: one for each GPU.

    Raises:
        ConfigError: `batch_size` is not divisible by the processes times `accumulate`.
    """
    parts = world_size * config.accumulate
    if config.batch_size % parts:
        times = f" times accumulate = {config.accumulate}" if config.accumulate > 1 else ""
        near = parts * max(1, round(config.batch_size / parts))
        raise ConfigError(
            f"batch_size = {config.batch_size} is not divisible by {world_size} processes{times}; "
            f"give a multiple of {parts}, such as {near}"
        )


def resolved(config: TrainConfig, facts: DatasetFacts) -> TrainConfig:
    """Put the sizes of a prepared data set into the settings, so that a checkpoint holds them too.

    Raises:
        ConfigError: another setting does not fit these sizes.
    """
    return _validated({**config.model_dump(), "facts": facts}, "the settings")


def small_rows(facts: DatasetFacts) -> list[int]:
    """List the possible numbers of rows of small images: those of the large images divided by powers of two."""
    found, factor = [], 2
    while facts.height % factor == 0 and facts.width % factor == 0:
        found.append(facts.height // factor)
        factor *= 2
    return found


def parse_assignments(texts: Iterable[str]) -> dict[str, str]:
    """Parse `KEY=VALUE` arguments (of `--set`) into a mapping.

    Raises:
        ConfigError: an argument has no `=`, or a key occurs twice.
    """
    settings: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        key, value = key.strip(), value.strip()
        if not equals or not key:
            raise ConfigError(f"--set {_short(text)} is not KEY=VALUE; example: --set learning_rate=0.001")
        if key in settings:
            raise ConfigError(f"--set gives {key} twice ({_short(settings[key])} and {_short(value)}); give it once")
        settings[key] = value
    return settings


def network_mismatch(saved: Mapping[str, Any], config: TrainConfig) -> str | None:
    """Return why a training cannot resume from a checkpoint; None if it can.

    Args:
        saved: the settings that the checkpoint was written with.
        config: the settings of the training. The data set's folder may differ if its sizes are the same.
    """
    theirs = {**TrainConfig.model_validate({}).model_dump(), **saved}  # older versions lack newer settings
    ours = config.model_dump()
    for name in (*NETWORK_FIELDS, "optimizer"):
        moved = name == "dataset" and theirs["facts"] is not None and theirs["facts"] == ours["facts"]
        if theirs[name] != ours[name] and not moved:
            return f"the checkpoint has {name}={theirs[name]}, this run has {ours[name]}; give {name}={theirs[name]}"
    if theirs["facts"] is not None and ours["facts"] is not None:
        there, here = (size_of(DatasetFacts(**facts)) for facts in (theirs["facts"], ours["facts"]))
        if there != here:
            return f"the checkpoint's images are {there}, this run's are {here}; prepare the data set as before"
    return None


def config_from_settings(
    settings: Mapping[str, Setting], *, where: str = "--set", **overrides: Setting | None
) -> TrainConfig:
    """Build the config from `--set` strings (or numbers), and from flags of their own.

    Args:
        settings: field name to value; strings are read as the field's type.
        where: the source of the settings, for error messages.
        overrides: fields with their own flag, such as `steps`; None means not given.

    Raises:
        ConfigError: a setting is invalid; the message is one line about the first such setting.
    """
    given = {key: value for key, value in overrides.items() if value is not None}
    for key in settings:
        if key in given:
            raise ConfigError(f"{key} is given by --{key} and by {where}; give it once")
    return _validated({key: _read(key, value) for key, value in {**settings, **given}.items()}, where)


def load_config(path: Path) -> TrainConfig:
    """Read a config file: one JSON object; missing fields get their defaults.

    Raises:
        ConfigError: the file does not exist, is not JSON, or has an invalid setting.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the config {path}: {error.strerror or error}; check the path") from None
    except UnicodeDecodeError:
        raise ConfigError(f"the config {path} is not text; give a JSON file such as {{}}") from None
    if not text.strip():
        raise ConfigError(f"the config {path} is empty; {{}} uses every default")
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the config {path} is not JSON: {_short(str(error), 120)}; correct it") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"the config {path} is not a JSON object; {{}} uses every default")
    return _validated(settings, str(path))


def _validated(settings: Mapping[str, Any], where: str) -> TrainConfig:
    try:
        return TrainConfig.model_validate(dict(settings))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "value_error":  # raised by a validator above, whose message names the valid values
            key, value = first["loc"][0], _short(first["input"])
            raise ConfigError(f"{key} = {value} in {where}: {first['ctx']['error']}") from None
        raise ConfigError(_explain(str(first["loc"][0]), first["type"], first["input"], where)) from None


def _read(key: str, value: Setting) -> Setting:
    """Convert a string to the type of its field; on failure return it for the validation, which names the range."""
    field = TrainConfig.model_fields.get(key)
    if field is None or not isinstance(value, str) or field.annotation not in (int, float):
        return value
    try:
        number = float(value)
        if field.annotation is float or not math.isfinite(number):
            return number
        return int(number) if number.is_integer() and "e" in value.lower() else int(value)  # 1e3 is a whole number too
    except ValueError:
        return value


def _explain(key: str, kind: str, value: object, where: str) -> str:
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(key, TrainConfig.model_fields, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(TrainConfig.model_fields)}"
        return f"unknown setting {_short(key)} in {where}; {hint}"
    if key in SET_BY_THE_TRAINER:
        return f"{key} in {where} cannot be given: the trainer reads it from the prepared data set; leave it out"
    field = TrainConfig.model_fields[key]
    meaning = f"{field.description}; default {field.default}"
    return f"{key} = {_short(value)} in {where} is not valid; give {_allowed(key)} ({meaning})"


def _allowed(key: str) -> str:
    """Describe the values of a field: `a whole number at least 1, at most 65536`."""
    field = TrainConfig.model_fields[key]
    if field.annotation is str:
        return "a text"
    if field.annotation not in (int, float):
        return " or ".join(map(str, get_args(field.annotation)))
    words = ["a whole number" if field.annotation is int else "a number"]
    for limit in field.metadata:
        if isinstance(limit, annotated_types.Gt):
            words.append(f"above {limit.gt}")
        elif isinstance(limit, annotated_types.Ge):
            words.append(f"at least {limit.ge}")
        elif isinstance(limit, annotated_types.Le):
            words.append(f"at most {limit.le}")
        elif isinstance(limit, annotated_types.Lt):
            words.append(f"below {limit.lt}")
    return " ".join(words[:2]) + "".join(f", {word}" for word in words[2:])


def _short(value: object, limit: int = 60) -> str:
    text = repr(value) if not isinstance(value, str) or not value.isprintable() or not value or " " in value else value
    return text if len(text) <= limit else text[: limit - 3] + "..."
