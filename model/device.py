"""The compute device: its selection, kernel support, name and memory, and deterministic arithmetic."""

from __future__ import annotations

import importlib
import os
import platform
import re
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

import torch

from model.errors import SetupError

ARCHITECTURE = re.compile(r"(sm|compute)_(\d+)(\d)[a-z]?")  # sm_86, compute_90, sm_90a


def pick_device(name: str, *, index: int | None = None) -> torch.device:
    """Turn "auto", "cpu" or "cuda" into an available device.

    Args:
        name: the setting.
        index: of the GPU, for one process of several on this machine. Where $CUDA_VISIBLE_DEVICES shows one GPU it is
            that one, because whoever started the process has chosen it.

    Raises:
        SetupError: `name` is "cuda" and torch sees no GPU, it has no kernels for the GPU, or there is no GPU `index`.
    """
    if name == "cuda" and not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise SetupError(f"device cuda: torch {torch.__version__} ({built}) sees no GPU here; use device auto or cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        if index is not None:
            _use_gpu(index)
        capability, built_for = torch.cuda.get_device_capability(), torch.cuda.get_arch_list()
        if not has_kernels(capability, built_for):
            raise SetupError(
                f"torch {torch.__version__} has no kernels for {torch.cuda.get_device_name()} (compute capability "
                f"{capability[0]}.{capability[1]}; built for {' '.join(built_for)}); install a build that supports it, "
                "or use device cpu"
            )
    return torch.device(name) if index is None or name == "cpu" else torch.device(name, torch.cuda.current_device())


def _use_gpu(index: int) -> None:
    count = torch.cuda.device_count()
    chosen = count == 1 and "CUDA_VISIBLE_DEVICES" in os.environ
    if index >= count and not chosen:
        raise SetupError(f"process {index + 1} of this machine has no GPU: there are {count}; give --processes {count}")
    torch.cuda.set_device(index if count > 1 else 0)


def has_kernels(capability: tuple[int, int], built_for: Iterable[str]) -> bool:
    """Return whether a torch build for these architectures runs on a GPU of this compute capability.

    Machine code (sm_XY) runs on GPUs of the same major version and the same or a later minor version. PTX (compute_XY)
    is compiled at load time and runs on all later GPUs.
    """
    for match in map(ARCHITECTURE.fullmatch, built_for):
        if match is None:
            continue
        theirs = (int(match[2]), int(match[3]))
        same_major = match[1] == "compute" or theirs[0] == capability[0]
        if same_major and theirs <= capability:
            return True
    return False


def memory_bytes(device: torch.device, limit: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Return the memory of the GPU; for the CPU that of the machine, or the container's limit if it is lower."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        text = limit.read_text(encoding="ascii").strip()
    except OSError:  # not Linux, or no cgroup limit
        return whole
    return min(whole, int(text)) if text.isdigit() else whole


def device_name(device: torch.device) -> str:
    """Return the name of the GPU, or of the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def cpu_name(info: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name as the system reports it, such as "AMD EPYC 7763 64-Core Processor", else "CPU"."""
    try:
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine() or "CPU"


def make_repeatable(threads: int, device: torch.device, *, tf32: bool = False, strict: bool = False) -> None:
    """Make torch's results bit-identical between runs on the same machine with the same number of threads.

    On a CPU all operations of `model/` are. On a GPU torch takes its deterministic kernels; where it has none for an
    operation it warns and goes on, unless `strict`.

    Args:
        threads: CPU threads.
        device: the device that the network runs on.
        tf32: whether a GPU may round the factors of float32 products to 10 bits. By torch's default convolutions are
            rounded, which moves a logit by 1e-3, and matrix products are not. The samplers multiply matrices, so they
            would draw from a different distribution than the one that is scored.
        strict: whether an operation without a deterministic kernel is an error.
    """
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    if device.type == "cuda":  # on a CPU the operations are deterministic anyway, and the call costs 1 s of imports
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it at its first call
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=not strict)
        # Torch 2.1 and later then also fill each new tensor, a kernel for each; nothing here reads one unwritten.
        with suppress(ImportError):
            importlib.import_module("torch.utils.deterministic").fill_uninitialized_memory = False  # type: ignore[attr-defined]


def check_precision(precision: str, device: torch.device) -> None:
    """Check that the device has arithmetic for a precision.

    Raises:
        SetupError: "bf16" on a GPU before Ampere, which has none and would emulate it.
    """
    if precision == "bf16" and device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability < (8, 0):
            raise SetupError(
                f"precision=bf16 needs a GPU of compute capability 8.0 or later (Ampere); {device_name(device)} has "
                f"{capability[0]}.{capability[1]}; use precision=float32"
            )


def unrounded(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which autocast rounds nothing on a device."""
    if device.type not in ("cpu", "cuda"):  # others, such as `meta`, have no autocast
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def autocasts_on_cpu() -> bool:
    """Return whether this is computed under autocast for the CPU. torch 2.4 has one function for all devices."""
    if hasattr(torch, "get_autocast_dtype"):
        return bool(torch.is_autocast_enabled("cpu"))
    return bool(torch.is_autocast_cpu_enabled())
