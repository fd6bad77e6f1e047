"""The training loop. It can be killed at any moment and resumes from its newest checkpoint."""

from __future__ import annotations

import math
import platform
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import torch

from model.config import TrainConfig, check_world, resolved
from model.config.cost import workspace_bytes
from model.data import Dataset, Prepared, load
from model.device import check_precision, device_name, make_repeatable, pick_device
from model.errors import (
    DataError,
    DivergedError,
    RankLostError,
    SetupError,
    TrainingError,
    out_of_memory,
    wanted_memory,
)
from model.networks.build import steps_by
from model.networks.likelihood import bits_per_dim
from model.sampling.generate import draw
from model.training import checkpoint as checkpoints
from model.training import divergence
from model.training.checkpoint import Checkpoint
from model.training.group import Group, of_the_world
from model.training.metrics import Metrics
from model.training.progress import Progress
from model.training.state import Training, share_state
from model.training.stop import StopFlag, Stopped
from model.training.tensorboard import Board
from model.training.validation import validate
from model.world import ALONE, World

FINISHED, STOPPED = "finished", "stopped"
SAMPLING_SHARE = 0.05  # of the training's time, for samples in between


def train(config: TrainConfig, out: Path, stop: StopFlag, *, began_s: float, world: World = ALONE) -> int:
    """Train until all steps are done or a stop is requested.

    In a world of several processes each of them calls this. They share each batch; rank 0 alone reads and writes `out`.

    Args:
        config: the settings.
        out: folder of `metrics.jsonl`, checkpoints and samples; training resumes from its newest intact checkpoint.
        stop: the stop request, read between steps and during start-up, validation and sampling.
        began_s: `time.monotonic()` when this process began.
        world: this process among those of the training.

    Returns:
        0 if all steps are done, else 143 after SIGTERM and 130 after SIGINT. All processes return the same.

    Raises:
        SetupError: a setting, the data set, a checkpoint or the device is unusable, or the processes differ.
        TrainingError: the loss or a gradient is not finite, or memory runs out.
        RankLostError: another process of the training has failed or is not heard of.
        OSError: a file in `out` cannot be written.
    """
    check_world(config, world.size)
    device = pick_device(config.device, index=world.local_rank if world.size > 1 else None)
    check_precision(config.precision, device)
    make_repeatable(config.threads, device, tf32=config.tf32 == "on", strict=config.deterministic == "on")
    try:
        group = _meet(world, stop, device)
    except Stopped:
        return stop.exit_code
    if group.first:
        _prepare_folder(out)
    data = load(config.dataset)
    if isinstance(data, Prepared):
        config = resolved(config, data.facts)
        data.eval_split("valid")  # raises now, not at the first validation, if there are no images to validate on
    group.agree(torch=torch.__version__, device=device.type, settings=config.model_dump(), data=data.id)
    run = Training(config, data, device, group)
    return _run(run, data, out, group.stop_of(stop), began_s=began_s)


def _meet(world: World, stop: StopFlag, device: torch.device) -> Group:
    """Meet the other processes; a process alone makes no group and imports nothing for it."""
    if world.size == 1:
        return Group()
    from model.training.distributed import join

    return join(world, stop, device)


def _run(run: Training, data: Dataset | Prepared, out: Path, stop: StopFlag, *, began_s: float) -> int:
    """Resume from the newest checkpoint and train."""
    config, group = run.config, run.group
    saved, refused = checkpoints.newest(out) if group.first else (None, [])
    spare = [name for name, _ in refused]
    if saved is not None:
        run.restore(saved)
        _tidy(run, out, spare)
    share_state(run)
    board = Board(out / "tensorboard", step=run.step) if config.tensorboard == "on" and group.first else None
    if group.first:
        _print_start(run, saved, refused)
    progress = Progress(config.steps, first=run.step, shown=group.first)
    with Metrics(out if group.first else None, began_s=began_s, board=board) as metrics:
        _note_start(metrics, run, refused)
        try:
            reason = _loop(run, data, out, stop, metrics=metrics, progress=progress, spare=spare)
        except DataError:  # raised before a step begins
            _rescue(run, out, spare)
            raise
        except (DivergedError, RankLostError) as error:
            if run.has_failed:
                _explain_divergence(run, out, spare, error)
            # The weights are those of the last step; on a GPU the sum still waits for the lost rank.
            if run.device.type == "cpu":
                _rescue(run, out, spare)
            raise
        except (RuntimeError, MemoryError) as error:
            if config.deterministic == "on" and "deterministic implementation" in str(error):
                what = str(error).split(" ")[0]
                raise TrainingError(f"deterministic=on: torch has no such kernel for {what}; use auto") from None
            if not out_of_memory(error):
                raise
            raise _too_large(config, error) from None
        finally:
            run.feed.close()
            progress.close()
        metrics.event("end", step=run.step, reason=reason)
    progress.say(f"{reason} at step {run.step:,} of {config.steps:,}")
    group.close()
    return 0 if reason == FINISHED else stop.exit_code


def _explain_divergence(run: Training, out: Path, spare: list[str], error: Exception) -> NoReturn:
    """Raise the error of a training that has diverged, with the advice; rank 0 reads the folder.

    Raises:
        TrainingError: on the rank whose numbers were not finite first.
        RankLostError: on the others.
    """
    if not run.group.first:
        if not isinstance(error, DivergedError):
            raise error
        raise TrainingError(f"{error}; lower learning_rate (now {run.config.learning_rate:g}) and run again") from None
    told = divergence.explained(error, run.config, out, spare)
    raise (told if isinstance(error, DivergedError) else RankLostError(str(told))) from None


def _note_start(metrics: Metrics, run: Training, refused: list[tuple[str, str]]) -> None:
    """Write the `start` event: device, versions, the step to resume from, and the refused checkpoints."""
    metrics.event(
        "start",
        device=run.device.type,
        device_name=device_name(run.device),
        torch=torch.__version__,
        python=platform.python_version(),
        steps_by=steps_by(run.config, run.implementation, run.device),
        resumed_from=run.step,  # 0: from the beginning
        steps=run.config.steps,
        batch_size=run.config.batch_size,
        images_per_epoch=run.feed.count,
        refused=[{"name": name, "reason": reason} for name, reason in refused],
        **of_the_world(run.group, device_name(run.device)),
    )


def _too_large(config: TrainConfig, error: BaseException) -> TrainingError:
    """Return the error of a training that runs out of memory, with the settings that reduce it."""
    return TrainingError(
        f"out of memory in training with batch_size={config.batch_size}, hidden={config.hidden}, "
        f"layers={config.layers}{wanted_memory(error)}; lower one of them, raise accumulate (now {config.accumulate}), "
        "or set implementation=reference"
    )


def _loop(
    run: Training,
    data: Dataset | Prepared,
    out: Path,
    stop: StopFlag,
    *,
    metrics: Metrics,
    progress: Progress,
    spare: list[str],
) -> str:
    config = run.config
    kept_step = run.step  # step of the newest checkpoint; step 0 needs none
    trained_s, trained_images, first = 0.0, 0, True
    started_s = time.monotonic()
    while True:
        # The code up to the step runs once for each state, whether this process reached the state or resumed from it.
        last = run.step >= config.steps
        validated = (last or run.step % config.validate_every == 0) and _validate(run, data, stop, metrics, progress)
        stopping = bool(stop)  # read once: a later stop is handled in the next iteration, which saves its step
        due = last or stopping or run.step % config.checkpoint_every == 0
        if validated or (due and run.step != kept_step):
            _keep(run, out, spare)
            kept_step = run.step
        if validated and not last and not stopping:
            _sample_meanwhile(run, out, stop, most_s=SAMPLING_SHARE * (time.monotonic() - started_s))
        if stopping:
            return STOPPED
        if last:
            break

        began_s = time.monotonic()
        try:
            run.advance(check_stop=stop.check)
        except Stopped:
            continue  # stopped while waiting for data: the step has not begun
        trained_images += config.batch_size
        if first or run.step % config.log_every == 0:
            nats = run.mean_nats()  # waits for a GPU
            trained_s += time.monotonic() - began_s
            _report_step(run, nats, trained_images / trained_s, metrics, progress)
            trained_s, trained_images, first = 0.0, 0, False
        else:
            trained_s += time.monotonic() - began_s
        if run.step % config.log_every == 0:
            run.close_window()
    return FINISHED if _sample(run, out, stop) else STOPPED


def _validate(run: Training, data: Dataset | Prepared, stop: StopFlag, metrics: Metrics, progress: Progress) -> bool:
    """Validate this step unless it is already validated; return whether a validation ran to its end."""
    if run.step == 0 or (run.valid is not None and run.valid[0] == run.step):
        return False
    run.check()
    try:
        score = validate(run, data, stop)
    except Stopped:
        return False
    if not math.isfinite(score.nats):
        raise run.failed(f"the validation became {'nan' if math.isnan(score.nats) else 'infinite'}")
    run.note_validation(score.nats)
    metrics.evaluation(run.step, epoch=run.epoch, nats=score.nats, bits_per_dim=score.bits_per_dim)
    progress.say(f"step {run.step}  validation: nats {score.nats:.2f}  bits/dim {score.bits_per_dim:.3f}")
    return True


def _keep(run: Training, out: Path, spare: list[str]) -> None:
    """Write the checkpoint of this step, then delete those that it supersedes."""
    run.check()
    run.check_state()
    if run.group.first:
        checkpoints.save(out, run.checkpoint())
        name = checkpoints.path_of(out, run.step).name
        if name in spare:  # the refused one has another name now
            spare.remove(name)
        _tidy(run, out, spare)


def _rescue(run: Training, out: Path, spare: list[str]) -> None:
    """Write the checkpoint of this step unless it exists, so that a later run need not repeat its steps."""
    path = checkpoints.path_of(out, run.step)
    if run.group.first and run.step > 0 and (path.name in spare or not path.exists()):
        with suppress(TrainingError, RankLostError):  # the error that ended the training is the one to report
            try:
                _keep(run, out, spare)
            except OSError as error:
                print(f"the steps up to {run.step:,} are not saved: {error.strerror or error}", file=sys.stderr)


def _tidy(run: Training, out: Path, spare: list[str]) -> None:
    """Write the best checkpoint so far to best.json, and delete the superseded checkpoints.

    This also runs at the start, because an earlier process may have been killed between the checkpoint and this.
    """
    if run.best is None:
        (out / "best.json").unlink(missing_ok=True)
    else:
        step, nats = run.best
        best = {"step": step, "nats": nats, "bits_per_dim": bits_per_dim(nats, run.config.data.dims)}
        checkpoints.write_json(out / "best.json", best)
    best_step = run.best[0] if run.best else None
    checkpoints.prune(out, step=run.step, keep=run.config.keep_checkpoints, best=best_step, spare=spare)


def _sample(run: Training, out: Path, stop: StopFlag) -> bool:
    """Draw the final samples unless they exist; return False if a stop is requested first."""
    try:
        run.group.first_does(lambda: _draw(run, out, stop.check))
    except Stopped:
        return False
    return True


class _TooSlowError(Exception):
    """Samples in between take too much of the training's time."""


def _sample_meanwhile(run: Training, out: Path, stop: StopFlag, *, most_s: float) -> None:
    """Draw samples after a validation, if that is quick: they show how the images come about.

    The noise is the same each time. What takes longer than `most_s` seconds is given up, and nothing is written.
    """
    give_up_at = time.monotonic() + most_s

    def check() -> None:
        stop.check()
        if time.monotonic() > give_up_at:
            raise _TooSlowError

    def attempt() -> None:
        try:
            _draw(run, out, check)
        except _TooSlowError:
            return
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise

    with suppress(Stopped):
        run.group.first_does(attempt)


def _draw(run: Training, out: Path, before_row: Callable[[], None]) -> None:
    """Draw the samples of this step into a PNG, unless it exists."""
    config, path = run.config, out / f"samples-{run.step}.png"
    if config.samples == 0 or path.exists():
        return
    from model.image_files import write_grid

    levels = draw(
        run.eval_net,
        config.data,
        count=config.samples,
        seed=config.seed,
        temperature=config.samples_temperature,
        before_row=before_row,
    )
    write_grid(path, levels.numpy(), K=config.data.levels)


def _prepare_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        checkpoints.remove_leftovers(out)
        with (out / "metrics.jsonl").open("a"):
            pass
    except OSError as error:
        raise SetupError(f"cannot write to {out}: {error.strerror or error}; give another folder with --out") from None


def _print_start(run: Training, saved: Checkpoint | None, refused: list[tuple[str, str]]) -> None:
    for _, reason in refused:
        print(f"refused: {reason}", file=sys.stderr)
    if run.implementation == "reference" and run.config.implementation == "auto":
        images = run.config.batch_size // (run.group.world.size * run.config.accumulate)
        needs, there = workspace_bytes(run.config, images), run.memory_bytes
        print(
            f"the fast LSTMs need {needs / 1e9:.1f} GB, too much of the {there / 1e9:.1f} GB here: using the slower "
            "reference LSTMs; lower batch_size, raise accumulate or set implementation=fast to avoid that",
            file=sys.stderr,
        )
    if run.config.compile == "on":
        print("compile=on: torch compiles the network at the first step, for a minute or more", file=sys.stderr)
    if saved is None:
        print(f"starting at step 0 of {run.config.steps:,}", flush=True)
        return
    theirs = saved.train_config
    other = [
        f"{name} {getattr(theirs, name)} -> {getattr(run.config, name)}"
        for name in TrainConfig.model_fields
        if getattr(theirs, name) != getattr(run.config, name)
    ]
    if other:
        print(f"checkpoint-{saved.step}.pt has other settings: {', '.join(other)}", file=sys.stderr)
    print(f"resuming from checkpoint-{saved.step}.pt at step {run.step:,} of {run.config.steps:,}", flush=True)


def _report_step(run: Training, nats: float, images_per_s: float, metrics: Metrics, progress: Progress) -> None:
    bits = bits_per_dim(nats, run.config.data.dims)
    own_s = {} if run.stopwatch is None else {"rank_s": run.group.of_all(round(run.stopwatch.mean_s(), 6))}
    metrics.measurement(run.step, epoch=run.epoch, nats=nats, bits_per_dim=bits, images_per_s=images_per_s, **own_s)
    progress.step(run.step, nats=nats, bits_per_dim=bits, images_per_s=images_per_s)
