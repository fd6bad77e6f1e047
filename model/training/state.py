"""A training between two steps: network, optimizer, place in the data; and its way into a checkpoint and back."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from model.config import TrainConfig, network_mismatch
from model.data import Dataset, Prepared
from model.data.feed import Feed, check_columns
from model.data.shuffle import parse
from model.device import memory_bytes
from model.errors import CheckpointError, TrainingError
from model.networks.build import build, choose_implementation
from model.networks.conditioned import Conditioned
from model.networks.likelihood import nats_per_image
from model.training.checkpoint import Checkpoint

OTHER_DATA = "holds other images than those that it was trained on"  # they were prepared anew, or otherwise


class Training:
    """What changes with each step. Two in the same state go on identically, bit for bit, on the same machine."""

    def __init__(self, config: TrainConfig, data: Dataset | Prepared, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        self.config, self.device = config, device
        self.implementation = choose_implementation(config, memory_bytes(device))
        self.net = build(config, self.implementation).to(device)
        if isinstance(self.net, Conditioned):
            columns = check_columns(config, data)
            self.net.standardise([column.mean for column in columns], [column.std for column in columns])
        self.ema = copy.deepcopy(self.net).requires_grad_(False).eval() if config.ema else None
        self.optimizer = build_optimizer(config, self.net)
        self.feed = Feed(config, data, device)
        self.feed.conditioning = self.net.conditioning if isinstance(self.net, Conditioned) else None
        self.data_id = data.id
        self.step = 0
        self.position = 0  # training images seen, over all epochs
        self.valid: tuple[int, float] | None = None  # (step, nats) of the latest validation
        self.best: tuple[int, float] | None = None  # of the lowest
        self._window_sum = torch.zeros((), dtype=torch.float64, device=device)  # nats of the steps since the last log
        self._window_steps = 0
        self._norms = torch.zeros((), device=device)  # not finite as soon as one gradient since the last check was not

    @property
    def eval_net(self) -> nn.Module:
        """The network to evaluate and to draw from: the running mean of the weights if there is one."""
        return self.net if self.ema is None else self.ema

    @property
    def epoch(self) -> float:
        """Passes over the training images so far."""
        return self.position / self.feed.count

    def advance(self, rate: float | None = None, *, check_stop: Callable[[], None] = lambda: None) -> None:
        """Do one step. On a GPU this only queues it: nothing here waits for a result.

        Args:
            rate: learning rate, if not the settings' schedule decides it.
            check_stop: called while data are waited for; what it raises ends the step before it has changed anything.

        Raises:
            DataError: a shard is damaged or did not come.
        """
        config = self.config
        levels, values = self.feed.at(self.position, check_stop)  # (B, C, H, W), (B, 2V)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.step) if rate is None else rate
        nats = nats_per_image(self.net, levels, values).mean()
        self.optimizer.zero_grad()
        (nats / config.data.dims).backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), config.grad_clip or math.inf)
        self.optimizer.step()
        self.step += 1
        if self.ema is not None:
            self._average(self.ema)
        self.position += config.batch_size
        self._window_sum += nats.detach().double()
        self._window_steps += 1
        self._norms += norm.detach()

    def _average(self, ema: nn.Module) -> None:
        """Move the mean a little towards the weights; further at first, when the mean is of few steps."""
        share = 1 - min(self.config.ema, (1 + self.step) / (10 + self.step))
        mean: list[Tensor] = list(ema.parameters())
        now: list[Tensor] = list(self.net.parameters())
        with torch.no_grad():
            torch._foreach_mul_(mean, 1 - share)
            torch._foreach_add_(mean, now, alpha=share)

    def mean_nats(self) -> float:
        """Mean nats per image over the steps since the last multiple of `log_every`. A GPU is waited for here.

        Raises:
            TrainingError: a loss or a gradient since then was not finite.
        """
        self.check()
        return self._window_sum.item() / max(1, self._window_steps)

    def close_window(self) -> None:
        """Begin a new mean."""
        self._window_sum.zero_()
        self._window_steps = 0

    def check(self) -> None:
        """Make sure that all steps so far were sound, so that what is kept or shown is.

        Raises:
            TrainingError: a loss or a gradient was not finite.
        """
        loss, norms = self._window_sum.item(), self._norms.item()
        self._norms.zero_()
        if not math.isfinite(loss) or not math.isfinite(norms):
            what = "loss" if not math.isfinite(loss) else "gradient"
            raise TrainingError(
                f"the {what} became {'nan' if math.isnan(loss + norms) else 'infinite'} by step {self.step}; "
                f"nothing of it was saved: lower learning_rate (now {self.config.learning_rate:g}) and run again"
            )

    def note_validation(self, nats: float) -> None:
        """Remember a validation of this step, and whether it is the best so far."""
        self.valid = (self.step, nats)
        if self.best is None or nats < self.best[1]:
            self.best = self.valid

    def checkpoint(self) -> Checkpoint:
        """Copy out everything that the next step depends on."""
        rng: dict[str, Any] = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state_all()
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
                "valid": self.valid,
                "best": self.best,
                "order": str(self.feed.strategy),
                "data": self.data_id,
            },
        )

    def restore(self, saved: Checkpoint) -> None:
        """Take over the state of a checkpoint.

        Raises:
            CheckpointError: it is of another network or optimizer.
        """
        problem = network_mismatch(saved.train_config.model_dump(), self.config)
        if problem is not None:
            raise CheckpointError(
                f"checkpoint-{saved.step}.pt is of another network: {problem}, or another folder to begin anew"
            )
        _load_weights(self.net, saved, saved.model)
        if self.ema is not None:  # switched on for this run: it begins at the weights
            _load_weights(self.ema, saved, saved.model if saved.ema is None else saved.ema)
        self.feed.conditioning = self.net.conditioning if isinstance(self.net, Conditioned) else None
        self.optimizer.load_state_dict(saved.optimizer)
        for group in self.optimizer.param_groups:
            group["weight_decay"] = self.config.weight_decay  # the settings of this run hold, not the checkpoint's
        torch.set_rng_state(saved.rng["cpu"])
        if self.device.type == "cuda" and len(saved.rng.get("cuda", ())) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(saved.rng["cuda"])
        self.step, self.position = saved.step, saved.position
        progress = saved.progress
        self._window_sum.fill_(progress["window_sum"])
        self._window_steps = progress["window_steps"]
        self.valid, self.best = progress["valid"], progress["best"]
        self.feed.strategy = parse(progress.get("order", "full"))
        if progress.get("data", self.data_id) != self.data_id:
            print(f"{self.config.dataset} {OTHER_DATA} so far", file=sys.stderr)


def network_of(saved: Checkpoint, device: torch.device) -> nn.Module:
    """Build the network of a checkpoint, with the mean of its weights if it has one, ready to be asked.

    Raises:
        CheckpointError: it is of a network that this version does not have.
    """
    config = saved.train_config
    net = build(config, choose_implementation(config, memory_bytes(device))).to(device)
    _load_weights(net, saved, saved.model if saved.ema is None else saved.ema)
    return net.eval()


def learning_rate(config: TrainConfig, step: int) -> float:
    """Give the rate of the step after `step` steps: constant, or half a cosine from the full rate to nearly none.

    Over the first `warmup_steps` it rises to that in equal steps.
    """
    rate = config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.schedule == "constant":
        return rate
    return rate * 0.5 * (1 + math.cos(math.pi * min(1.0, step / config.steps)))


def build_optimizer(config: TrainConfig, net: nn.Module) -> torch.optim.Optimizer:
    """Make the optimizer that the settings name."""
    parameters: list[Tensor] = list(net.parameters())
    if config.optimizer == "rmsprop":  # the paper's; it gives no constants, these are usual ones
        return torch.optim.RMSprop(
            parameters, lr=config.learning_rate, alpha=0.95, eps=1e-8, weight_decay=config.weight_decay
        )
    return torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)


def _load_weights(net: nn.Module, saved: Checkpoint, weights: dict[str, Any]) -> None:
    try:
        net.load_state_dict(weights)
    except RuntimeError:
        raise CheckpointError(
            f"the weights of checkpoint-{saved.step}.pt are of another version's {saved.config.get('model')}; "
            "use the version that wrote it"
        ) from None
