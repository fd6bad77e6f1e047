"""Predicts what a group of machines does to a training step, and costs; pure. Every figure from here is an estimate.

A group is N machines of one type with g GPUs each, and one process per GPU: W = N g ranks. The batch stays the same,
so each rank computes batch / W images, and then all ranks add up their gradients (all-reduce) over two links: the one
inside a machine and the network. With S bytes of gradients (parameters x 4):

    all-reduce = 2 (g-1)/g S / (b_in e_in)  +  2 (N-1)/N S / (B e_out)  +  2 (N-1) latency

b_in is the one-way rate of a GPU's link, B the baseline of the machine's network: the peak of a small machine lasts for
minutes. e_in and e_out are the shares of these rates that all-reduces reach. Sources:

- The ring: each rank sends 2 (W-1)/W S bytes (Patarasuk and Yuan 2009); NCCL's is hierarchical, as above.
- e_in 0.77: nccl-tests on one p4d.24xlarge, 1 GiB in 8.14 ms (github.com/NVIDIA/nccl, issue 527). Its range, and that
  it holds for PCIe, are assumptions.
- e_out 0.5, between 0.45 and 0.85: the same on 2, 3 and 4 p4d.24xlarge (35.2, 64.8, 70.3 ms); 2 p4de.24xlarge with
  four EFA interfaces at 77.9 GB/s (skypilot issue 8391); p3dn.24xlarge with EFA, 80 of 100 Gbit/s on 2 machines and 50
  to 60 on 8 to 32 (nccl issue 235). No figure for plain TCP was found; measure with `bench --nodes`.
- Latency 75 us, between 50 and 100 us: TCP between two machines of one zone; an assumption.

The bundled trainer reduces once a step, after the gradients: a step is compute + all-reduce. A program that overlaps
them (DistributedDataParallel) takes max(compute, all-reduce) at best. Both are the ends of the interval.

Compute is the roofline of `throughput` at batch / W, with the slowdown of the full batch. Kernel launches and the
weights' traffic are in it, so that a small share of the batch is not W times as fast. That a small share also fills a
GPU worse is not in it, so a real group is slower than this where batch / W is small.
"""

from __future__ import annotations

from dataclasses import dataclass

from model.config import FLOAT_BYTES, TrainConfig, cost_of
from orchestrator.errors import SpecError
from orchestrator.market.catalog import InstanceType
from orchestrator.market.throughput import KERNEL_S, Prediction, Work, bound_s, work_of

E_IN, E_IN_LOW, E_IN_HIGH = 0.77, 0.5, 0.9
E_OUT, E_OUT_LOW, E_OUT_HIGH = 0.5, 0.45, 0.85
LATENCY_S, LATENCY_LOW_S, LATENCY_HIGH_S = 75e-6, 50e-6, 100e-6
MEASURED_SPREAD = 0.05  # of a measured speed from run to run
MOST_NODES = 256
LIMITS = {
    "network": "adding up the gradients takes longer than computing them",
    "kernels": "kernel launches, which more GPUs do not shorten",
    "compute": "computing the gradients",
}


@dataclass(frozen=True)
class Estimate:
    """A figure with the ends of its interval: low <= mid <= high."""

    mid: float
    low: float
    high: float

    def scaled(self, factor: float) -> Estimate:
        """Return all three times a positive factor."""
        return Estimate(self.mid * factor, self.low * factor, self.high * factor)

    def inverse(self, amount: float = 1.0) -> Estimate:
        """Return an amount over it: seconds from a rate, dollars from images a dollar."""
        return Estimate(amount / self.mid, amount / self.high, amount / self.low)

    @classmethod
    def of(cls, prediction: Prediction) -> Estimate:
        """Return a prediction's images/s of one GPU, with its 90 % interval."""
        return cls(prediction.images_per_s, prediction.low, prediction.high)

    @classmethod
    def measured(cls, images_per_s: float) -> Estimate:
        """Return a measured speed, with the spread of measured speeds from run to run."""
        return cls(images_per_s, images_per_s * (1 - MEASURED_SPREAD), images_per_s * (1 + MEASURED_SPREAD))


@dataclass(frozen=True)
class Group:
    """The estimate for N machines of one type.

    The mid figures are those of the bundled trainer, which does not overlap. `efficiency` is images/s over W times the
    images/s of one GPU with the whole batch; its interval leaves out the doubt about the speed of one GPU.
    """

    instance_type: str
    nodes: int
    gpus: int  # of each machine
    batch_of_rank: float  # images
    gradient_bytes: int
    network_gbit_s: float | None  # the baseline that the estimate uses
    compute_s: Estimate  # of a step
    reduce_s: Estimate  # of a step
    step_s: Estimate
    images_per_s: Estimate
    efficiency: Estimate
    limit: str  # a key of `LIMITS`

    @property
    def ranks(self) -> int:
        """W: the processes of the group, one for each GPU."""
        return self.nodes * self.gpus

    def usd_per_images(self, images: float, usd_h_of_one: float) -> Estimate:
        """Return the dollars for so many images, of the instances alone, at a price per hour of one machine."""
        return self.images_per_s.inverse(images * self.nodes * usd_h_of_one / 3600)

    def usd_per_step(self, usd_h_of_one: float) -> Estimate:
        """Return the dollars for one step, of the instances alone, at a price per hour of one machine."""
        return self.step_s.scaled(self.nodes * usd_h_of_one / 3600)


def all_reduce_s(
    gradient_bytes: float,
    nodes: int,
    gpus: int,
    *,
    inside_gb_s: float | None,
    network_gbit_s: float | None,
    e_in: float = E_IN,
    e_out: float = E_OUT,
    latency_s: float = LATENCY_S,
) -> tuple[float, float]:
    """Return the seconds of one all-reduce: (inside the machines, between them).

    Args:
        gradient_bytes: S.
        nodes: N, the machines.
        gpus: g, of each machine.
        inside_gb_s: GB/s one way of a GPU's link; needed where g > 1.
        network_gbit_s: Gbit/s of a machine's network; needed where N > 1.
        e_in: share of the link's rate that is reached.
        e_out: share of the network's rate that is reached.
        latency_s: of one message between two machines.

    Raises:
        ValueError: a rate that is needed is not known.
    """
    inside = outside = 0.0
    if gpus > 1:
        if inside_gb_s is None:
            raise ValueError("the rate between the GPUs of the machine is not known")
        inside = 2 * (gpus - 1) / gpus * gradient_bytes / (inside_gb_s * 1e9 * e_in)
    if nodes > 1:
        if network_gbit_s is None:
            raise ValueError("the baseline of the network is not known")
        outside = 2 * (nodes - 1) / nodes * gradient_bytes / (network_gbit_s / 8 * 1e9 * e_out)
        outside += 2 * (nodes - 1) * latency_s
    return inside, outside


def reduction(known: InstanceType, nodes: int, gradient_bytes: float, *, network_gbit_s: float | None) -> Estimate:
    """Return the seconds of one all-reduce on N machines of a type.

    The low end has the best efficiencies, and both links at work at once; the high end the worst, one after the other.

    Raises:
        ValueError: a rate that is needed is not known.
    """
    inside_gb_s = known.gpu_link.gb_s if known.gpu_link else None

    def at(e_in: float, e_out: float, latency_s: float) -> tuple[float, float]:
        return all_reduce_s(
            gradient_bytes, nodes, known.gpus, inside_gb_s=inside_gb_s, network_gbit_s=network_gbit_s,
            e_in=e_in, e_out=e_out, latency_s=latency_s,
        )  # fmt: skip

    return Estimate(
        sum(at(E_IN, E_OUT, LATENCY_S)),
        max(at(E_IN_HIGH, E_OUT_HIGH, LATENCY_LOW_S)),
        sum(at(E_IN_LOW, E_OUT_LOW, LATENCY_HIGH_S)),
    )


def gradient_bytes(config: TrainConfig) -> int:
    """Return S of a config's network: 4 bytes for each parameter."""
    return cost_of(config).parameters * FLOAT_BYTES


def work_of_rank(config: TrainConfig, ranks: int) -> Work:
    """Return the work for one image where each of W ranks computes 1/W of the batch.

    FLOPs stay; the weights' traffic and the kernel launches are shared by fewer images. W divides the batch.
    """
    return work_of(config.model_copy(update={"batch_size": config.batch_size // ranks}))


def refusal(known: InstanceType, nodes: int, config: TrainConfig) -> str:
    """Return why there is no estimate for N machines of a type, "" if there is one."""
    ranks = nodes * known.gpus
    if config.batch_size % ranks:
        return f"a batch of {config.batch_size} images does not divide by {ranks} GPUs"
    if nodes > 1 and known.network.gbit_s is None:
        return "the baseline of its network is not known"
    return ""


def group(known: InstanceType, nodes: int, config: TrainConfig, one_gpu: Estimate) -> Group:
    """Return the estimate for N machines of a type. One machine with one GPU has exactly the speed that is given.

    Args:
        known: the type.
        nodes: N >= 1.
        config: what is trained; its batch is that of the whole group.
        one_gpu: images/s of one GPU of the type with the whole batch, predicted or measured.

    Raises:
        ValueError: `refusal` says why.
    """
    why = refusal(known, nodes, config)
    if nodes < 1 or why:
        raise ValueError(why or f"{nodes} machines")
    ranks, batch = nodes * known.gpus, config.batch_size
    whole, own = work_of(config), work_of_rank(config, ranks)
    ratio = bound_s(own, known) / bound_s(whole, known)  # by how much an image takes longer in the smaller batch
    compute = one_gpu.inverse(batch / ranks).scaled(ratio)
    size = gradient_bytes(config)
    reduce = reduction(known, nodes, size, network_gbit_s=known.network.gbit_s)
    step = Estimate(compute.mid + reduce.mid, max(compute.low, reduce.low), compute.high + reduce.high)
    alone = batch / one_gpu.mid / ranks  # seconds of a step if W GPUs were W times as fast as one
    certain = Estimate(step.mid, max(compute.mid, reduce.low), compute.mid + reduce.high)
    return Group(
        instance_type=known.name,
        nodes=nodes,
        gpus=known.gpus,
        batch_of_rank=batch / ranks,
        gradient_bytes=size,
        network_gbit_s=known.network.gbit_s,
        compute_s=compute,
        reduce_s=reduce,
        step_s=step,
        images_per_s=step.inverse(batch),
        efficiency=certain.inverse(alone),
        limit=_limit(compute, reduce, own, known),
    )


def _limit(compute: Estimate, reduce: Estimate, own: Work, known: InstanceType) -> str:
    if reduce.mid > compute.mid:
        return "network"
    return "kernels" if bound_s(own, known) == own.kernels * KERNEL_S else "compute"


def expected_interruptions(hours: float, nodes: int, mean_hours_of_one: float) -> float:
    """Return how often a group of spot machines is expected to be interrupted.

    The loss of any machine stops the group, and the losses are taken as independent, so the mean time between them is
    1/N of one machine's. (Machines of one pool are often taken together: then it is less often, and more at once.)

    Args:
        hours: that the group runs.
        nodes: N.
        mean_hours_of_one: mean time between interruptions of one machine; 3.2 h of p3.2xlarge in the traces of
            "Can't Be Late" (NSDI 2024), hours to weeks elsewhere.
    """
    return hours * nodes / mean_hours_of_one


def waste_usd(nodes: int, usd_h_of_one: float, pause_s: float) -> float:
    """Return the dollars that one interruption wastes with notice: all N machines are billed while none trains.

    Args:
        nodes: N.
        usd_h_of_one: of one machine.
        pause_s: boot and set-up of the new machine, and the start of the ranks.
    """
    return nodes * usd_h_of_one * pause_s / 3600


def node_counts(text: str, *, flag: str = "--nodes") -> tuple[int, ...]:
    """Return the numbers of machines of `1,2,4`, the smallest first.

    Raises:
        SpecError: one of them is no number of machines.
    """
    found = []
    for part in text.split(","):
        word = part.strip()
        if not (word.isascii() and word.isdigit() and len(word) <= 4 and 1 <= int(word) <= MOST_NODES):
            raise SpecError(
                f"{flag}: {word[:20]!r} is no number of machines from 1 to {MOST_NODES}; give for example {flag} 1,2,4"
            )
        found.append(int(word))
    return tuple(sorted(dict.fromkeys(found)))
