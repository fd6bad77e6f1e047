"""The training loop, in the order it happens. It can be killed at any moment and goes on from its newest checkpoint."""

from __future__ import annotations

import platform
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch

from model.config import TrainConfig, settled
from model.config.cost import workspace_bytes
from model.data import Dataset, Prepared, load
from model.device import device_name, make_repeatable, memory_bytes, pick_device
from model.errors import DataError, SetupError, TrainingError, out_of_memory, wanted_memory
from model.networks.build import evaluation_batch
from model.networks.likelihood import bits_per_dim, evaluate
from model.sampling.generate import draw
from model.training import checkpoint as checkpoints
from model.training.checkpoint import Checkpoint
from model.training.metrics import Metrics
from model.training.progress import Progress
from model.training.state import Training
from model.training.stop import StopFlag, Stopped
from model.training.tensorboard import Board

FINISHED, STOPPED = "finished", "stopped"


def train(config: TrainConfig, out: Path, stop: StopFlag, *, began_s: float) -> int:
    """Train until all steps are done or a stop is asked for.

    Args:
        config: the settings.
        out: folder of `metrics.jsonl`, checkpoints and samples; training goes on from its newest whole checkpoint.
        stop: read between steps, and during start-up, validation and sampling.
        began_s: `time.monotonic()` when this process began.

    Returns:
        0 if all steps are done, else 143 after SIGTERM and 130 after SIGINT.

    Raises:
        SetupError: it cannot work as asked.
        TrainingError: the loss or a gradient was not finite, or the GPU's memory did not suffice.
        OSError: a checkpoint cannot be written.
    """
    _prepare_folder(out)
    device = pick_device(config.device)
    make_repeatable(config.threads, device, tf32=config.tf32 == "on")
    data = load(config.dataset)
    if isinstance(data, Prepared):
        config = settled(config, data.facts)
        data.eval_split("valid")  # that there is something to validate on is better known now
    run = Training(config, data, device)
    saved, refused = checkpoints.newest(out)
    spare = [name for name, _ in refused]
    if saved is not None:
        run.restore(saved)
        _tidy(run, out, spare)
    board = Board(out / "tensorboard", step=run.step) if config.tensorboard == "on" else None
    _tell_start(run, saved, refused)
    progress = Progress(config.steps, first=run.step)
    with Metrics(out, began_s=began_s, board=board) as metrics:
        _note_start(metrics, run, refused)
        try:
            reason = _loop(run, data, out, stop, metrics=metrics, progress=progress, spare=spare)
        except DataError:  # before a step was begun
            _rescue(run, out, spare)
            raise
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise _too_large(config, error) from None
        finally:
            run.feed.close()
            progress.close()
        metrics.event("end", step=run.step, reason=reason)
    print(f"{reason} at step {run.step:,} of {config.steps:,}", flush=True)
    return 0 if reason == FINISHED else stop.exit_code


def _note_start(metrics: Metrics, run: Training, refused: list[tuple[str, str]]) -> None:
    """Write down what this process trains on, and from which step."""
    metrics.event(
        "start",
        device=run.device.type,
        device_name=device_name(run.device),
        torch=torch.__version__,
        python=platform.python_version(),
        resumed_from=run.step,  # 0: from the beginning
        steps=run.config.steps,
        batch_size=run.config.batch_size,
        images_per_epoch=run.feed.count,
        refused=[{"name": name, "reason": reason} for name, reason in refused],
    )


def _too_large(config: TrainConfig, error: BaseException) -> TrainingError:
    """Say which settings need less memory."""
    return TrainingError(
        f"the memory does not hold batch_size={config.batch_size} with hidden={config.hidden}, "
        f"layers={config.layers}{wanted_memory(error)}; lower one of them, or give implementation=reference"
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
    kept_step = run.step  # what the newest checkpoint holds; there is nothing to keep at step 0
    trained_s, trained_images, first = 0.0, 0, True
    while True:
        # Everything below up to the step is done once for a state, whether this process reached it or resumed in it.
        last = run.step >= config.steps
        validated = (last or run.step % config.validate_every == 0) and _validate(run, data, stop, metrics, progress)
        asked = bool(stop)  # read once: a stop that comes later than this is for the next round, which keeps its step
        due = last or asked or run.step % config.checkpoint_every == 0
        if validated or (due and run.step != kept_step):
            _keep(run, out, spare)
            kept_step = run.step
        if asked:
            return STOPPED
        if last:
            break

        began_s = time.monotonic()
        try:
            run.advance(check_stop=stop.check)
        except Stopped:
            continue  # it was waiting for data: the step was not begun
        trained_images += config.batch_size
        if first or run.step % config.log_every == 0:
            nats = run.mean_nats()  # waits for a GPU
            trained_s += time.monotonic() - began_s
            _tell_step(run, nats, trained_images / trained_s, metrics, progress)
            trained_s, trained_images, first = 0.0, 0, False
        else:
            trained_s += time.monotonic() - began_s
        if run.step % config.log_every == 0:
            run.close_window()
    return FINISHED if _sample(run, out, stop) else STOPPED


def _validate(run: Training, data: Dataset | Prepared, stop: StopFlag, metrics: Metrics, progress: Progress) -> bool:
    """Validate this step, unless it has been; True if it was done now."""
    if run.step == 0 or (run.valid is not None and run.valid[0] == run.step):
        return False
    run.check()
    try:
        batch = evaluation_batch(run.config, memory_bytes(run.device))
        images = run.feed.eval_batches(
            data.eval_split("valid"), batch, run.config.validate_images, check_stop=stop.check
        )
        score = evaluate(run.eval_net, images, before_batch=stop.check)
    except Stopped:
        return False
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise TrainingError(
            f"the memory does not hold a validation of {batch} images at a time{wanted_memory(error)}; "
            "lower hidden, layers or head, or take a device with more"
        ) from None
    run.note_validation(score.nats)
    metrics.evaluation(run.step, epoch=run.epoch, nats=score.nats, bits_per_dim=score.bits_per_dim)
    progress.say(f"step {run.step}  validation: nats {score.nats:.2f}  bits/dim {score.bits_per_dim:.3f}")
    return True


def _keep(run: Training, out: Path, spare: list[str]) -> None:
    """Write the checkpoint of this step, then delete those that it makes superfluous."""
    run.check()
    checkpoints.save(out, run.checkpoint())
    _tidy(run, out, spare)


def _rescue(run: Training, out: Path, spare: list[str]) -> None:
    """Write the checkpoint of this step, unless it is there: once the data are, its steps need not be done again."""
    path = checkpoints.path_of(out, run.step)
    if run.step > 0 and (path.name in spare or not path.exists()):
        with suppress(TrainingError):  # what ended it is to be said
            _keep(run, out, spare)


def _tidy(run: Training, out: Path, spare: list[str]) -> None:
    """Say in best.json which checkpoint is the best so far, and delete those that are superfluous.

    Also at the start: a kill may have come between a checkpoint and this.
    """
    if run.best is None:
        (out / "best.json").unlink(missing_ok=True)
    else:
        step, nats = run.best
        best = {"step": step, "nats": nats, "bits_per_dim": bits_per_dim(nats, run.config.data.dims)}
        checkpoints.write_json(out / "best.json", best)
    others = [name for name in spare if name != checkpoints.path_of(out, run.step).name]
    best_step = run.best[0] if run.best else None
    checkpoints.prune(out, step=run.step, keep=run.config.keep_checkpoints, best=best_step, spare=others)


def _sample(run: Training, out: Path, stop: StopFlag) -> bool:
    """Draw the images of the end, unless they are there; False if a stop came first."""
    config, path = run.config, out / f"samples-{run.step}.png"
    if config.samples == 0 or path.exists():
        return True
    from model.image_files import write_grid

    try:
        levels = draw(
            run.eval_net,
            config.data,
            count=config.samples,
            seed=config.seed,
            temperature=config.samples_temperature,
            before_row=stop.check,
        )
    except Stopped:
        return False
    write_grid(path, levels.numpy(), K=config.data.levels)
    return True


def _prepare_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        checkpoints.remove_leftovers(out)
        with (out / "metrics.jsonl").open("a"):
            pass
    except OSError as error:
        raise SetupError(f"cannot write to {out}: {error.strerror or error}; give another folder with --out") from None


def _tell_start(run: Training, saved: Checkpoint | None, refused: list[tuple[str, str]]) -> None:
    for _, reason in refused:
        print(f"refused: {reason}", file=sys.stderr)
    if run.implementation == "reference" and run.config.implementation == "auto":
        needs, there = workspace_bytes(run.config, run.config.batch_size), memory_bytes(run.device)
        print(
            f"the fast LSTMs would keep {needs / 1e9:.1f} GB, too much of the {there / 1e9:.1f} GB here: the slower "
            "ones are taken; a smaller batch_size or implementation=fast changes that",
            file=sys.stderr,
        )
    if saved is None:
        print(f"starts at step 0 of {run.config.steps:,}", flush=True)
        return
    theirs = saved.train_config
    other = [
        f"{name} {getattr(theirs, name)} -> {getattr(run.config, name)}"
        for name in TrainConfig.model_fields
        if getattr(theirs, name) != getattr(run.config, name)
    ]
    if other:
        print(f"checkpoint-{saved.step}.pt had other settings: {', '.join(other)}", file=sys.stderr)
    print(f"goes on from checkpoint-{saved.step}.pt at step {run.step:,} of {run.config.steps:,}", flush=True)


def _tell_step(run: Training, nats: float, images_per_s: float, metrics: Metrics, progress: Progress) -> None:
    bits = bits_per_dim(nats, run.config.data.dims)
    metrics.measurement(run.step, epoch=run.epoch, nats=nats, bits_per_dim=bits, images_per_s=images_per_s)
    progress.step(run.step, nats=nats, bits_per_dim=bits, images_per_s=images_per_s)
