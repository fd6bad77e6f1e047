"""The state of a training between two steps: network, optimizer, place in the data; saved to and restored from a
checkpoint.
"""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from model.config import TrainConfig, network_mismatch
from model.data import Dataset, Prepared
from model.data.feed import Feed, check_columns
from model.data.shuffle import parse
from model.device import memory_bytes
from model.errors import CheckpointError, DivergedError
from model.networks.build import build, choose_implementation
from model.networks.conditioned import Conditioned
from model.sampling.graphed import record_on_gpu
from model.training.checkpoint import Checkpoint, part_not_finite, plain
from model.training.compiled_step import compiled_nats, mean_nats
from model.training.graphed import Gradients
from model.training.group import Group, Stopwatch
from model.training.optimizer import build_optimizer, restore_optimizer
from model.training.stop import Stopped

OTHER_DATA = "differs from the data that the checkpoint was trained on"  # it was prepared again, or with other options


class Training:
    """The state of a training. Two equal states continue bit for bit identically on the same machine.

    Args:
        config: the settings.
        data: the data set.
        device: of the network and the batches.
        group: the processes that share each batch; by default this one alone.
    """

    def __init__(
        self, config: TrainConfig, data: Dataset | Prepared, device: torch.device, group: Group | None = None
    ) -> None:
        torch.manual_seed(config.seed)
        self.config, self.device = config, device
        self.group = group or Group()
        world = self.group.world
        self.implementation = self.group.from_first(choose_implementation(config, self.memory_bytes, ranks=world.size))
        self.net = build(config, self.implementation).to(device)
        if isinstance(self.net, Conditioned):
            columns = check_columns(config, data)
            self.net.standardise([column.mean for column in columns], [column.std for column in columns])
        self._mean_nats = mean_nats(self.net)
        if config.compile == "on":
            self._mean_nats = compiled_nats(self.net, config, self.implementation, device)
        self.ema = copy.deepcopy(self.net).requires_grad_(False).eval() if config.ema else None
        self.optimizer = build_optimizer(config, self.net)
        record = record_on_gpu if device.type == "cuda" else None
        self.gradients = Gradients(self._add_gradients, list(self.net.parameters()), mode=config.graph, record=record)
        self.feed = Feed(config, data, device, world)
        self.feed.conditioning = self.net.conditioning if isinstance(self.net, Conditioned) else None
        self.data_id = data.id
        self.step = 0
        self.position = 0  # training images seen, over all epochs
        self.valid: tuple[int, float] | None = None  # (step, nats) of the latest validation
        self.best: tuple[int, float] | None = None  # (step, nats) of the validation with the lowest nats
        self._window_sum = torch.zeros((), dtype=torch.float64, device=device)  # nats of the steps since the last log
        self._window_steps = 0
        self._last_nats: float | None = None  # mean of the steps before the last log
        self._failure: Exception | None = None
        self._norms = torch.zeros((), device=device)  # not finite if any gradient since the last check is not finite
        self.stopwatch = Stopwatch(device) if world.size > 1 else None  # of this rank's own work

    @property
    def memory_bytes(self) -> int:
        """The memory for this process: its GPU's, or its share of the machine's."""
        return memory_bytes(self.device) // (1 if self.device.type == "cuda" else self.group.world.local_size)

    @property
    def eval_net(self) -> nn.Module:
        """The network for evaluation and sampling: that of the weights' running mean (EMA) if there is one."""
        return self.net if self.ema is None else self.ema

    @property
    def epoch(self) -> float:
        """Passes over the training images so far."""
        return self.position / self.feed.count

    def advance(self, rate: float | None = None, *, check_stop: Callable[[], None] = lambda: None) -> None:
        """Do one optimizer step. On a GPU the step is only queued: nothing here waits for its result.

        Args:
            rate: learning rate; by default that of the settings' schedule.
            check_stop: called while the step waits for data; an exception that it raises leaves the state unchanged.

        Raises:
            Stopped: a rank has given up the step for a stop request; the state is unchanged on all ranks.
            DataError: a shard is damaged or missing.
        """
        config = self.config
        nats = self._gradients(check_stop)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.step) if rate is None else rate
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), config.grad_clip or math.inf)
        self.optimizer.step()
        self.step += 1
        if self.ema is not None:
            self._average(self.ema)
        self.position += config.batch_size
        self._window_sum += nats.double()
        self._window_steps += 1
        self._norms += norm.detach()

    def _gradients(self, check_stop: Callable[[], None]) -> Tensor:
        """Compute the gradients of the next batch, summed over the ranks, and return its mean nats, a scalar."""
        nats = None
        while nats is None:  # repeated as long as a rank waits for its data
            if self.stopwatch is not None:
                self.stopwatch.start()
            own, rows = self._own_gradients(check_stop)
            if self.stopwatch is not None:
                self.stopwatch.stop()
            nats = self.group.sum_step(list(self.net.parameters()), own, rows, self.config.batch_size)
        return nats

    def _own_gradients(self, check_stop: Callable[[], None]) -> tuple[Tensor, int]:
        """Compute this rank's part of the gradients; return its part of the mean nats, and the number of its images.

        A rank of several that gives up its wait for data has none: it joins the sum, where all learn of it.
        """
        group = self.group
        until = time.monotonic() + group.patience_s

        def check() -> None:
            check_stop()
            if time.monotonic() > until:
                raise Stopped

        try:
            levels, values = self.feed.at(self.position, check)  # (B, C, H, W), (B, 2V)
        except Stopped:
            if group.world.size == 1:
                raise
            self.optimizer.zero_grad()
            return torch.zeros((), device=self.device), 0
        return self.gradients(levels, values), len(levels)

    def _add_gradients(self, levels: Tensor, values: Tensor | None) -> Tensor:
        """Add the gradients of these images, in `accumulate` parts; return their part of the mean nats."""
        config, rows = self.config, len(levels)
        whole = torch.zeros((), device=self.device)
        for at in range(config.accumulate):
            part = slice(at * rows // config.accumulate, (at + 1) * rows // config.accumulate)
            some = None if values is None else values[part]
            nats = self._nats(levels[part], some) / (config.accumulate * self.group.world.size)
            (nats / config.data.dims).backward()  # type: ignore[no-untyped-call]
            whole = whole + nats.detach()
        return whole

    def _nats(self, levels: Tensor, values: Tensor | None) -> Tensor:
        """Compute the mean nats of images in the precision of the training; weights and softmax are float32 in any.

        No rounded weights are kept between two calls: a recorded step would read those of another one.
        """
        bf16 = self.config.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16, cache_enabled=False):
            return self._mean_nats(levels, values)

    def _average(self, ema: nn.Module) -> None:
        """Update the running mean of the weights; its decay is lower during the first steps."""
        share = 1 - min(self.config.ema, (1 + self.step) / (10 + self.step))
        mean: list[Tensor] = list(ema.parameters())
        now: list[Tensor] = list(self.net.parameters())
        with torch.no_grad():
            torch._foreach_mul_(mean, 1 - share)
            torch._foreach_add_(mean, now, alpha=share)

    def mean_nats(self) -> float:
        """Mean nats per image over the steps since the last multiple of `log_every`. This waits for the GPU.

        Raises:
            DivergedError: a loss or a gradient since then is not finite.
        """
        self.check()
        return self._window_sum.item() / max(1, self._window_steps)

    def close_window(self) -> None:
        """Reset the mean nats per image."""
        self._last_nats = self._window_sum.item() / max(1, self._window_steps)
        self._window_sum.zero_()
        self._window_steps = 0

    def check(self) -> None:
        """Check that the losses and gradients of all steps so far are finite, before they are saved or shown.

        Raises:
            DivergedError: a loss or a gradient is not finite; it is raised at each later check too.
        """
        if self._failure is not None:
            raise self._failure
        loss, norms = self._window_sum.item(), self._norms.item()
        self._norms.zero_()
        if not math.isfinite(loss) or not math.isfinite(norms):
            what = "loss" if not math.isfinite(loss) else "gradient"
            raise self.failed(f"the {what} became {'nan' if math.isnan(loss + norms) else 'infinite'}")

    def check_state(self) -> None:
        """Check that weights, running mean and optimizer state are finite, before they are saved.

        Finite gradients do not promise it: a step of a large rate can overflow the weights, and the mean of the squared
        gradients overflows long before the gradients do.

        Raises:
            DivergedError: one of them is not finite.
        """
        part = part_not_finite(self.checkpoint())
        if part is not None:
            raise self.failed(f"the {part} became nan or infinite")

    @property
    def has_failed(self) -> bool:
        """Whether this training has diverged: nothing of it is saved any more."""
        return self._failure is not None

    def failed(self, what: str) -> Exception:
        """Return the error of a training whose numbers are not finite, and let each later check raise it."""
        self._failure = self.group.blame(DivergedError(f"{what} by step {self.step}, and this state was not saved"))
        return self._failure

    def note_validation(self, nats: float) -> None:
        """Record the validation of this step, and whether it is the best so far."""
        self.valid = (self.step, nats)
        if self.best is None or nats < self.best[1]:
            self.best = self.valid

    def checkpoint(self) -> Checkpoint:
        """Return everything that the next step depends on."""
        rng: dict[str, Any] = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = [torch.cuda.get_rng_state(self.device)]
        return Checkpoint(
            step=self.step,
            position=self.position,
            config=self.config.model_dump(),
            model=self.net.state_dict(),
            ema=None if self.ema is None else self.ema.state_dict(),
            optimizer=self.optimizer.state_dict(),
            rng=rng,
            progress={
                "window_sum": self._window_sum.item(),
                "window_steps": self._window_steps,
                "nats": self._last_nats,
                "valid": self.valid,
                "best": self.best,
                "order": str(self.feed.strategy),
                "data": self.data_id,
            },
        )

    def restore(self, saved: Checkpoint) -> None:
        """Restore the state from a checkpoint.

        Raises:
            CheckpointError: the checkpoint is of another network or optimizer.
        """
        problem = network_mismatch(saved.train_config.model_dump(), self.config)
        if problem is not None:
            raise CheckpointError(
                f"checkpoint-{saved.step}.pt is of another network: {problem}, or start in another folder"
            )
        _load_weights(self.net, saved, saved.model)
        if self.ema is not None:  # a checkpoint without a running mean: it begins at the weights
            _load_weights(self.ema, saved, saved.model if saved.ema is None else saved.ema)
        self.feed.conditioning = self.net.conditioning if isinstance(self.net, Conditioned) else None
        restore_optimizer(self.optimizer, saved.optimizer, self.net)
        torch.set_rng_state(saved.rng["cpu"])
        if self.device.type == "cuda" and saved.rng.get("cuda"):  # earlier versions stored one for each visible GPU
            torch.cuda.set_rng_state(saved.rng["cuda"][0], self.device)
        self.step, self.position = saved.step, saved.position
        progress = saved.progress
        self._window_sum.fill_(progress["window_sum"])
        self._window_steps = progress["window_steps"]
        self._last_nats = progress.get("nats")
        self.valid, self.best = progress["valid"], progress["best"]
        self.feed.strategy = parse(progress.get("order", "full"))
        if progress.get("data", self.data_id) != self.data_id:
            print(f"{self.config.dataset} {OTHER_DATA}; training continues on it", file=sys.stderr)


def share_state(run: Training) -> None:
    """Give every rank the state of rank 0, whose checkpoint or initial weights count; the others need no files."""
    if run.group.world.size > 1:
        state = run.group.from_first(plain(run.checkpoint()) if run.group.first else {})
        if not run.group.first:
            run.restore(Checkpoint(**state))


def network_of(saved: Checkpoint, device: torch.device) -> nn.Module:
    """Build the network of a checkpoint in evaluation mode, with the running mean of its weights if it has one.

    Raises:
        CheckpointError: the weights do not fit this version's network, or are not finite.
    """
    part = part_not_finite(replace(saved, optimizer={}))
    if part is not None:
        raise CheckpointError(
            f"checkpoint-{saved.step}.pt has values that are not finite in its {part}: its training had diverged; "
            "give an earlier checkpoint"
        )
    config = saved.train_config
    net = build(config, choose_implementation(config, memory_bytes(device))).to(device)
    _load_weights(net, saved, saved.model if saved.ema is None else saved.ema)
    return net.eval()


def learning_rate(config: TrainConfig, step: int) -> float:
    """Return the learning rate of the step that follows `step` steps: constant, or cosine decay towards zero.

    During the first `warmup_steps` steps it is scaled by a linear warm-up.
    """
    rate = config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.schedule == "constant":
        return rate
    return rate * 0.5 * (1 + math.cos(math.pi * min(1.0, step / config.steps)))


def _load_weights(net: nn.Module, saved: Checkpoint, weights: dict[str, Any]) -> None:
    try:
        net.load_state_dict(weights)
    except RuntimeError:
        raise CheckpointError(
            f"the weights of checkpoint-{saved.step}.pt do not fit this version's {saved.config.get('model')}; "
            "use the version of pixel-orch that wrote it"
        ) from None
