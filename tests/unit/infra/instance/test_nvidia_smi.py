"""What nvidia-smi prints, and what the bootstrap decides.

The names and the texts are those of public reports and of NVIDIA's manual page of nvidia-smi, which also has the exit
codes; none of them was recorded by us on such a machine. 18 is NVML_ERROR_LIB_RM_VERSION_MISMATCH of nvml.h.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.bare_machine import (
    BUNDLED,
    SUDO,
    bootstrap,
    calls,
    packages,
    program,
    python,
    refusal,
    run,
    wheels,
)

pytestmark = pytest.mark.slow  # real shells, which take seconds

BROKEN = 75
NO_FIELD = 'Field "compute_cap" is not a valid field to query.'


@dataclass(frozen=True)
class Smi:
    """An nvidia-smi: what it prints on each question, and its exit code."""

    names: str
    code: int = 0
    details: str = ""  # compute capability, MIG mode, uncorrectable ECC errors since the boot
    listing: str = ""  # of -L
    errors: str = ""  # on standard error, before the rest

    def install(self, machine: Path, name: str = "nvidia-smi") -> None:
        """Put it on the machine."""
        text = f"""#!/bin/sh
echo "nvidia-smi $*" >> PROGRAMS/calls
cat >&2 <<'END'
{self.errors}
END
case "$*" in
    *=name*) cat <<'END'
{self.names}
END
    exit {self.code} ;;
    *compute_cap*) cat <<'END'
{self.details or NO_FIELD}
END
    exit {0 if self.details else 2} ;;
    -L) cat <<'END'
{self.listing}
END
    exit 0 ;;
    "-mig 0") mkdir PROGRAMS/mig-is-off ;;
    *=mig.mode.current*) if [ -e PROGRAMS/mig-is-off ]; then echo Disabled; else echo Enabled; fi ;;
esac
"""
        program(machine, name, text)


# -- a GPU that works

WORKS = {
    "p2, driver 470": (Smi("Tesla K80"), "3.7", "torch==2.0.1 numpy<2"),
    "p2.8xlarge": (Smi("\n".join(["Tesla K80"] * 8)), "3.7", "torch==2.0.1 numpy<2"),
    "g3": (Smi("Tesla M60"), "5.2", "torch==2.5.1 numpy<2.3"),
    "P100": (Smi("Tesla P100-PCIE-16GB", details="6.0, [N/A], 0"), "6.0", "torch==2.5.1 numpy<2.3"),
    "p3": (Smi("Tesla V100-SXM2-16GB", details="7.0, [N/A], 0"), "7.0", "torch==2.5.1 numpy<2.3"),
    "g4dn": (Smi("Tesla T4", details="7.5, [N/A], 0"), "7.5", "torch==2.13.0"),
    "g5g": (Smi("NVIDIA T4G", details="7.5, [N/A], 0"), "7.5", "torch==2.13.0"),
    "g5": (Smi("NVIDIA A10G", details="8.6, [N/A], 0"), "8.6", "torch==2.13.0"),
    "g6": (Smi("NVIDIA L4", details="8.9, [N/A], 0"), "8.9", "torch==2.13.0"),
    "g6e": (Smi("NVIDIA L40S", details="8.9, [N/A], 0"), "8.9", "torch==2.13.0"),
    "p4d": (Smi("\n".join(["NVIDIA A100-SXM4-40GB"] * 8), details="8.0, Disabled, 0"), "8.0", "torch==2.13.0"),
    "p4d, driver 450": (Smi("A100-SXM4-40GB"), "8.0", "torch==2.13.0"),
    "p4de": (Smi("NVIDIA A100-SXM4-80GB", details="8.0, Disabled, 0"), "8.0", "torch==2.13.0"),
    "p5": (Smi("NVIDIA H100 80GB HBM3", details="9.0, Disabled, 0"), "9.0", "torch==2.13.0"),
    "p5en": (Smi("NVIDIA H200", details="9.0, Disabled, 0"), "9.0", "torch==2.13.0"),
    "p6-b200": (Smi("NVIDIA B200", details="10.0, Disabled, 0"), "10.0", "torch==2.13.0"),
    "p6-b300": (Smi("NVIDIA B300 SXM6 AC", details="10.3, Disabled, 0"), "10.3", "torch==2.13.0"),
    "g7e": (
        Smi("NVIDIA RTX PRO 6000 Blackwell Server Edition", details="12.0, Disabled, 0"),
        "12.0",
        "torch==2.13.0",
    ),
    "a name that no table has": (Smi("NVIDIA A16", details="8.6, [N/A], 0"), "8.6", "torch==2.13.0"),
    "a name that no table has, of an old chip": (
        Smi("Quadro P5000", details="6.1, [N/A], [N/A]"),
        "6.1",
        "torch==2.5.1 numpy<2.3",
    ),
    "a warning first, on standard output": (
        Smi("WARNING: infoROM is corrupted at gpu 0000:00:1E.0\nTesla V100-SXM2-16GB", 14),
        "7.0",
        "torch==2.5.1 numpy<2.3",
    ),
    "a warning last": (
        Smi("Tesla T4\nWARNING: infoROM is corrupted at gpu 0000:00:1E.0", 14),
        "7.5",
        "torch==2.13.0",
    ),
    "a warning on standard error": (
        Smi("NVIDIA A10G", errors="Warning: persistence mode is disabled on device 0000:00:1E.0."),
        "8.6",
        "torch==2.13.0",
    ),
    "lines before the name": (Smi("\n  \nNVIDIA L4"), "8.9", "torch==2.13.0"),
    "ECC errors that were corrected": (Smi("Tesla T4", details="7.5, [N/A], 0\n"), "7.5", "torch==2.13.0"),
}


@pytest.mark.parametrize("which", WORKS)
def test_a_gpu_that_works_gets_the_torch_that_has_kernels_for_it(machine: Path, which: str) -> None:
    smi, capability, requirement = WORKS[which]
    smi.install(machine)
    python(machine, minor=11)
    wheels(machine, capability=capability)
    code, answer, said = bootstrap(machine, "bundled", "gpu")
    assert code == 0, said
    (name,) = {line for line in smi.names.splitlines() if line.strip() and "WARNING" not in line}
    assert (answer["gpu"], answer["why"]) == (name, f"installed: {requirement}")
    warning = next((line for line in f"{smi.names}\n{smi.errors}".splitlines() if "WARN" in line.upper()), "")
    assert (f"bootstrap: nvidia-smi warns: {warning}" in said) is bool(warning)


# -- MIG

A100_WITH_SLICES = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-b8ea3855-276c-c9cb-b366-c6fa655957c5)
  MIG 3g.20gb     Device  0: (UUID: MIG-76fba5ba-7d60-5f1c-ad1a-4a3d7dd1f0a1)
  MIG 1g.5gb      Device  1: (UUID: MIG-5e1b2a2a-5b1e-5a5b-9b4b-1c2d3e4f5a6b)"""
A100_WITHOUT = "GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-b8ea3855-276c-c9cb-b366-c6fa655957c5)"


def test_with_mig_on_it_is_said_which_slice_the_trainer_gets(machine: Path) -> None:
    Smi("NVIDIA A100-SXM4-40GB", details="8.0, Enabled, 0", listing=A100_WITH_SLICES).install(machine)
    python(machine)
    wheels(machine, capability="8.0")
    code, answer, said = bootstrap(machine, "bundled", "gpu")
    assert code == 0, said
    assert answer["gpu"] == "NVIDIA A100-SXM4-40GB MIG 3g.20gb"
    assert "MIG is on: the trainer gets one slice, 3g.20gb, of the NVIDIA A100-SXM4-40GB" in said
    assert "nvidia-smi -mig 0" not in calls(machine)


def test_mig_without_a_slice_is_turned_off(machine: Path) -> None:
    Smi("NVIDIA A100-SXM4-40GB", details="8.0, Enabled, 0", listing=A100_WITHOUT).install(machine)
    program(machine, "sudo", SUDO)
    python(machine)
    wheels(machine, capability="8.0")
    code, answer, said = bootstrap(machine, "bundled", "gpu")
    assert code == 0, said
    assert answer["gpu"] == "NVIDIA A100-SXM4-40GB"
    assert "no slice is made, so that no program sees the NVIDIA A100-SXM4-40GB: turning it off" in said


def test_mig_that_cannot_be_turned_off_is_one_line(machine: Path) -> None:
    Smi("NVIDIA A100-SXM4-40GB", details="8.0, Enabled, 0", listing=A100_WITHOUT).install(machine)
    program(machine, "sudo", "#!/bin/sh\nexit 1\n")
    python(machine)
    told = refusal(machine, "bundled", "gpu")
    assert "MIG is on without a slice, and `nvidia-smi -mig 0` does not turn it off" in told


# -- a GPU that does not work

LOST = "Unable to determine the device handle for GPU0000:00:1E.0: GPU is lost.  Reboot the system to recover this GPU"
UNKNOWN = "Unable to determine the device handle for GPU 0000:00:1E.0: Unknown Error"
ANOTHER_MACHINE = {
    "fallen off the bus": (Smi(LOST, 15), LOST),
    "fallen off the bus, no exit code": (Smi(LOST), LOST),
    "unknown error": (Smi(UNKNOWN, 255), UNKNOWN),
    "unknown error, on standard error": (Smi("", 255, errors=UNKNOWN), UNKNOWN),
    "exit code 15 and nothing else": (Smi("", 15), "exited with code 15"),
    "no words but in the place of the name": (Smi("[GPU is lost]"), "printed: [GPU is lost]"),
    "one of eight": (Smi("Tesla V100-SXM2-16GB\n[Unknown Error]"), "printed: Tesla V100-SXM2-16GB"),
    "one of eight, the handle": (Smi(f"Tesla V100-SXM2-16GB\n{UNKNOWN}", 255), "code 255: Tesla V100"),
    "ERR!": (Smi("ERR!"), "printed: ERR!"),
    "an interrupt problem": (Smi("", 10), "exited with code 10"),
    "no power": (Smi("", 8), "exited with code 8"),
    "uncorrectable ECC errors": (
        Smi("Tesla V100-SXM2-16GB", details="7.0, [N/A], 3"),
        "nvidia-smi counts 3 uncorrectable ECC errors since the boot",
    ),
    "uncorrectable ECC errors of the second": (
        Smi("NVIDIA A10G\nNVIDIA A10G", details="8.6, [N/A], 0\n8.6, [N/A], 12"),
        "counts 12 uncorrectable ECC errors",
    ),
}


@pytest.mark.parametrize("words", [("gpu",), ("gpu", "cpu")])
@pytest.mark.parametrize("which", ANOTHER_MACHINE)
def test_a_broken_gpu_asks_for_another_machine_at_once(machine: Path, which: str, words: tuple[str, ...]) -> None:
    smi, why = ANOTHER_MACHINE[which]
    smi.install(machine)
    (machine / "cloud").mkdir()  # cloud-init is at work, and is not waited for
    packages(python(machine), "torch", *BUNDLED)
    told = refusal(machine, "bundled", *words, code=BROKEN)
    assert told.startswith("bootstrap: the GPU of this machine is broken (")
    assert why in told
    assert told.endswith("another machine is needed")
    assert not [line for line in calls(machine) if line.startswith(("sleep", "pip"))]


@pytest.mark.parametrize("says", ["", "loading\n"])
def test_an_nvidia_smi_that_hangs_has_its_time_and_is_named(machine: Path, says: str) -> None:
    program(machine, "nvidia-smi", f"#!/bin/sh\ntrap '' TERM\nprintf '{says}'\nwhile :; do /bin/sleep 1; done\n")
    packages(python(machine), "torch", *BUNDLED)
    began = time.monotonic()
    told = refusal(machine, "bundled", "gpu", code=BROKEN, PIXEL_ORCH_LIMITS="nvidia-smi=1")
    assert time.monotonic() - began < 30
    last = "its last output: loading" if says else "it printed nothing"
    assert f"hangs (nvidia-smi did not end within 1 s; {last}); another machine is needed" in told


def test_an_nvidia_smi_that_nothing_can_end_is_left_behind(machine: Path) -> None:
    """In uninterruptible sleep a process gets no signal: here bash cannot send one."""
    (machine / "no-kill").write_text('kill() { case $1 in -0) builtin kill "$@" ;; esac; }\n')
    program(machine, "nvidia-smi", "#!/bin/sh\necho $$ >>PROGRAMS/pids\nexec /bin/sleep 60\n")
    packages(python(machine), "torch", *BUNDLED)
    limits = {"PIXEL_ORCH_LIMITS": "nvidia-smi=1", "BASH_ENV": str(machine / "no-kill")}
    told = refusal(machine, "bundled", "gpu", code=BROKEN, **limits)
    assert "within 1 s, and it cannot be killed: it hangs in the kernel; it printed nothing" in told
    for pid in (machine / "programs" / "pids").read_text().split():
        os.kill(int(pid), 9)


MISMATCH = "Failed to initialize NVML: Driver/library version mismatch"
NO_DRIVER = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA "
    "driver is installed and running."
)
NO_LIBRARY = (
    "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system. Please make sure that the NVIDIA Display Driver "
    "is properly installed and present in your system.\nPlease also try adding directory that contains libnvidia-ml.so "
    "to your system PATH."
)
ANOTHER_IMAGE = {
    "no device": (Smi("No devices were found"), "nvidia-smi printed: No devices were found"),
    "no device, exit code 6": (Smi("No devices were found", 6), "exited with code 6: No devices were found"),
    "no driver": (Smi(NO_DRIVER, 9), "exited with code 9: NVIDIA-SMI has failed"),
    "no driver, no exit code": (Smi(NO_DRIVER), "nvidia-smi printed: NVIDIA-SMI has failed"),
    "no library": (Smi(NO_LIBRARY, 12), "exited with code 12: NVIDIA-SMI couldn't find libnvidia-ml.so"),
    "no library, no exit code": (Smi(NO_LIBRARY), "printed: NVIDIA-SMI couldn't find libnvidia-ml.so"),
    "mismatch": (Smi(f"{MISMATCH}\nNVML library version: 535.230", 18), f"exited with code 18: {MISMATCH}"),
    "mismatch, no exit code": (Smi(MISMATCH), f"nvidia-smi printed: {MISMATCH}"),
    "mismatch, exit code 9": (Smi(MISMATCH, 9), f"exited with code 9: {MISMATCH}"),
    "not permitted": (Smi("Failed to initialize NVML: Insufficient Permissions", 4), "Insufficient Permissions"),
    "nothing": (Smi(""), "nvidia-smi printed: nothing"),
    "another error": (Smi("", 255), "exited with code 255"),
}


@pytest.mark.parametrize("which", ANOTHER_IMAGE)
def test_a_driver_that_does_not_work_is_one_line_with_the_remedy(machine: Path, which: str) -> None:
    smi, why = ANOTHER_IMAGE[which]
    smi.install(machine)
    packages(python(machine), "torch", *BUNDLED, sees=False)
    told = refusal(machine, "bundled", "gpu")
    assert why in told
    assert "choose an image with the NVIDIA driver with --ami, or pass --allow-cpu" in told
    code, answer, said = bootstrap(machine, "bundled", "gpu", "cpu")
    assert code == 0, said
    assert answer["gpu"] == ""


@pytest.mark.parametrize("smi", [Smi(MISMATCH, 18), Smi(NO_DRIVER, 9)], ids=["mismatch", "not loaded"])
def test_a_driver_that_was_replaced_is_loaded_anew(machine: Path, smi: Smi) -> None:
    """An upgrade in the background replaces the files, and the kernel keeps the old module."""
    smi.install(machine)
    Smi("Tesla T4", details="7.5, [N/A], 0").install(machine, "works")
    program(machine, "sudo", SUDO)
    for name in ("systemctl", "rmmod"):
        program(machine, name, f'#!/bin/sh\necho "{name} $*" >> PROGRAMS/calls\n')
    program(
        machine, "modprobe", '#!/bin/sh\necho "modprobe $*" >> PROGRAMS/calls\nmv PROGRAMS/works PROGRAMS/nvidia-smi\n'
    )
    packages(python(machine), "torch", *BUNDLED)
    code, answer, said = bootstrap(machine, "bundled", "gpu")
    assert code == 0, said
    assert answer["gpu"] == "Tesla T4"
    assert "the driver works now" in said
    done = calls(machine)
    unload = done.index("rmmod nvidia_uvm nvidia_drm nvidia_modeset nvidia_peermem nvidia")
    assert done[unload + 1] == "modprobe -a nvidia nvidia_uvm"
    assert "systemctl stop nvidia-persistenced nvidia-fabricmanager nvidia-dcgm dcgm" in done[:unload]


XID_79 = "[  905.44] NVRM: Xid (PCI:0000:00:1e): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."
NO_XID = "[ 1843.31] NVRM: fallen off the bus and is not responding to commands."


@pytest.mark.parametrize("line", [XID_79, NO_XID])
def test_the_kernel_may_know_that_the_gpu_is_broken(machine: Path, line: str) -> None:
    Smi("No devices were found", 6).install(machine)
    program(machine, "dmesg", f'#!/bin/sh\ncat <<"END"\n[    0.00] Linux\n{line}\n[  906.00] audit\nEND\n')
    packages(python(machine), "torch", *BUNDLED)
    told = refusal(machine, "bundled", "gpu", code=BROKEN)
    assert "No devices were found; the kernel says: NVRM:" in told
    assert "fallen off the bus" in told


# -- after a trainer has failed


def look(machine: Path, since: str = "0") -> tuple[int, str]:
    """Do what the agent does when a trainer has failed; return exit code and last line."""
    code, out, err = run(machine, "bootstrap.sh", "look", since, PIXEL_ORCH_LIMITS="nvidia-smi=1")
    return code, (out + err).strip().splitlines()[-1]


def test_a_look_changes_nothing_and_says_what_is_broken(machine: Path) -> None:
    Smi("NVIDIA A100-SXM4-40GB", details="8.0, Enabled, 0", listing=A100_WITHOUT).install(machine)
    assert look(machine) == (0, "NVIDIA A100-SXM4-40GB")
    assert not [line for line in calls(machine) if "-mig" in line]
    Smi(MISMATCH, 18).install(machine)
    assert look(machine) == (3, f"bootstrap: nvidia-smi exited with code 18: {MISMATCH}")
    Smi(LOST, 15).install(machine)
    assert look(machine) == (BROKEN, f"bootstrap: nvidia-smi exited with code 15: {LOST}")


OF_THE_GPU, OF_A_PROGRAM = (48, 79, 94, 119), (13, 31)


@pytest.mark.parametrize("xid", [*OF_THE_GPU, *OF_A_PROGRAM])
def test_the_kernels_words_tell_a_broken_gpu_from_a_program_that_failed(machine: Path, xid: int) -> None:
    Smi("Tesla T4", details="7.5, [N/A], 0").install(machine)
    line = f"NVRM: Xid (PCI:0000:00:1e): {xid}, pid=812, name=python3"
    program(machine, "dmesg", f"#!/bin/sh\necho '[ 900.1] {line}'\n")
    code, said = look(machine, "850")
    assert code == (BROKEN if xid in OF_THE_GPU else 0)
    assert (f"the kernel says: {line}" in said) is (xid in OF_THE_GPU)
    assert look(machine, "901")[0] == 0, "it was there before the trainer began"
