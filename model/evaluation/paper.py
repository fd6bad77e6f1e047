"""The paper's results (van den Oord et al. 2016, arXiv 1601.06759, section 5), for comparison with a score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Result:
    """One row of a table of the paper."""

    network: str
    value: float  # in the table's unit
    trained: float | None = None  # on the training images, if the paper reports it


@dataclass(frozen=True)
class Table:
    """The paper's results on a data set."""

    title: str
    unit: str  # "nats/image" or "bits/dim"
    results: tuple[Result, ...]

    def __str__(self) -> str:
        """Format the table with a line for each network, the best last."""
        rows = [f"the paper's results on {self.title}, {self.unit}:"]
        width = max(24, *(len(result.network) for result in self.results))
        for result in self.results:
            trained = f"  (train {result.trained:.2f})" if result.trained is not None else ""
            rows.append(f"  {result.network:<{width}} {result.value:6.2f}{trained}")
        return "\n".join(rows)


TABLES: Mapping[str, Table] = MappingProxyType(
    {
        "mnist-static": Table(
            "binarised MNIST, test",
            "nats/image",
            (
                Result("PixelCNN", 81.30),
                Result("Diagonal BiLSTM, 1 layer, h = 32", 80.75),
                Result("Row LSTM", 80.54),
                Result("Diagonal BiLSTM, 7 layers, h = 16", 79.20),
            ),
        ),
        "cifar10": Table(
            "CIFAR-10, test",
            "bits/dim",
            (
                Result("uniform", 8.00),
                Result("multivariate Gaussian", 4.70),
                Result("PixelCNN", 3.14, 3.08),
                Result("Row LSTM", 3.07, 3.00),
                Result("Diagonal BiLSTM", 3.00, 2.93),
            ),
        ),
        "imagenet-small-32": Table("ImageNet 32x32, validation", "bits/dim", (Result("Row LSTM", 3.86, 3.83),)),
        "imagenet-small-64": Table("ImageNet 64x64, validation", "bits/dim", (Result("Row LSTM", 3.63, 3.57),)),
    }
)
