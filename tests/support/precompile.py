"""Compiles numba's functions of the networks once, not in each worker: `python -m tests.support.precompile`."""

from __future__ import annotations

import torch

from model.networks.likelihood import nats_per_image
from tests.support.networks import FAST, network


def main() -> None:
    """Do a step with each fast network, in both types of float; numba keeps what it compiles beside the code."""
    for kind in FAST:
        for channels in (1, 3):
            for dtype in (torch.float32, torch.float64):
                net = network(kind, channels=channels).to(dtype)
                images = torch.zeros(1, channels, 4, 4, dtype=torch.uint8)
                nats_per_image(net, images).sum().backward()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
