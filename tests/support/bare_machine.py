"""A folder that stands for a rented machine: our scripts run in it for real, its programs say what a test wants."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

INSTANCE = Path(__file__).parents[2] / "infra" / "instance"
REAL = str(Path(sys._base_executable).resolve())  # type: ignore[attr-defined]  # without our environment's packages

# A Python of any version. Its packages lie in `site` beside it; `-m venv` and `-m pip` do what the machine lets them:
# `has-<name>-venv` is Debian's package with ensurepip, `wheels` is what pip can fetch.
PYTHON = """#!/bin/sh
here=${0%/*}
set_version='import sys; sys.version_info = (3, MINOR, 0, "final", 0)'
export PYTHONPATH="$here/site"
case "$1 $2" in
    "-m venv")
        echo "NAME $*" >> "PROGRAMS/calls"
        mkdir -p "$3/bin"
        cp "$0" "$3/bin/python"
        ln -sf python "$3/bin/python3"
        [ -e "PROGRAMS/has-NAME-venv" ] && touch "$3/bin/has-pip" ;;
    "-m pip")
        [ -e "$here/has-pip" ] || { echo "No module named pip" >&2; exit 1; }
        [ "$3" = --version ] && exit 0
        echo "pip $*" >> "PROGRAMS/calls"
        [ -d "PROGRAMS/wheels" ] || { echo "ERROR: No matching distribution found for torch" >&2; exit 1; }
        mkdir -p "$here/site"
        cp -r "PROGRAMS/wheels/." "$here/site" ;;
    "- "*)
        shift
        script="PROGRAMS/script.$$"
        { echo "$set_version"; cat; } > "$script"
        exec REAL -S "$script" "$@" ;;
    "-c "*)
        script=$2
        shift 2
        exec REAL -S -c "$set_version
$script" "$@" ;;
    */run_environment.py*)
        echo "${0##*/}" > "PROGRAMS/environment-of"
        exec REAL -S "$@" ;;
    *) exec REAL -S "$@" ;;
esac
"""
TORCH = """
__version__ = "2.13.0"
class version: cuda = "13.0"
class cuda:
    is_available = staticmethod(lambda: {sees})
    get_device_capability = staticmethod(lambda index: (7, 5))
    get_arch_list = staticmethod(lambda: {kernels})
"""
SUDO = '#!/bin/sh\n[ "$1" = -n ] || exit 1\nshift\nexec "$@"\n'
APT = """#!/bin/sh
[ "$DEBIAN_FRONTEND" = noninteractive ] || { echo "debconf: what do you think?" >&2; exit 1; }
echo "apt-get $*" >> "PROGRAMS/calls"
case "$*" in
    *update)
        tries=$(grep -c "apt-get .*update" "PROGRAMS/calls")
        [ "$tries" -gt LOCKED ] || { echo "E: Could not get lock /var/lib/apt/lists/lock" >&2; exit 100; }
        touch "PROGRAMS/lists" ;;
    *install*)
        [ -e "PROGRAMS/lists" ] || { echo "E: Unable to locate package" >&2; exit 100; }
        for package; do touch "PROGRAMS/has-$package"; done ;;
esac
"""
BUNDLED = ("numpy", "pydantic", "scikit-learn", "pillow")


def make_machine(folder: Path) -> Path:
    """Give a machine's home with our files, and a folder for its programs."""
    (folder / "run" / "bin").mkdir(parents=True)
    (folder / "programs").mkdir()
    for name in ("bootstrap.sh", "common.sh", "data.sh", "run_environment.py", "torch_builds.json"):
        shutil.copy(INSTANCE / name, folder / "run" / "bin")
    tools = [
        "bash",
        "cat",
        "chmod",
        "cp",
        "date",
        "env",
        "grep",
        "ln",
        "mkdir",
        "mv",
        "rm",
        "sh",
        "tail",
        "touch",
        "true",
    ]
    for name in [*tools, *(["flock"] if shutil.which("flock") else [])]:
        (folder / "programs" / name).symlink_to(str(shutil.which(name)))
    program(folder, "sleep", '#!/bin/sh\necho "sleep $1" >> PROGRAMS/calls\n')
    return folder


def program(machine: Path, name: str, text: str) -> None:
    """Put a program on the machine."""
    path = machine / "programs" / name
    path.write_text(text.replace("PROGRAMS", str(machine / "programs")).replace("REAL", REAL))
    path.chmod(0o700)


def python(machine: Path, name: str = "python3", minor: int = 11, *, ensurepip: bool = True) -> Path:
    """Put a Python 3.`minor` on the machine; return where its packages are."""
    program(machine, name, PYTHON.replace("MINOR", str(minor)).replace("NAME", name))
    if ensurepip:
        (machine / "programs" / f"has-{name}-venv").touch()
    return machine / "programs" / "site"


def packages(site: Path, *names: str, sees: bool = True, kernels: tuple[str, ...] = ("sm_75",)) -> None:
    """Put packages where a Python, or pip, finds them; torch sees a GPU or not, and has kernels or not."""
    for name in names:
        (site / f"{name.replace('-', '_')}-2.13.0.dist-info").mkdir(parents=True)
        (site / f"{name.replace('-', '_')}-2.13.0.dist-info" / "METADATA").write_text(
            f"Name: {name}\nVersion: 2.13.0\n"
        )
    if "torch" in names:
        (site / "torch.py").write_text(TORCH.format(sees=sees, kernels=list(kernels)))


def wheels(machine: Path, *, sees: bool = True, capability: str = "7.5") -> None:
    """Let pip be able to fetch what the trainer needs, with a torch for a GPU of that compute capability."""
    packages(machine / "programs" / "wheels", "torch", *BUNDLED, sees=sees)
    torch = machine / "programs" / "wheels" / "torch.py"
    major, minor = capability.split(".")
    torch.write_text(torch.read_text().replace("(7, 5)", f"({major}, {minor})").replace("sm_75", f"sm_{major}{minor}"))


def environment(machine: Path, **more: str) -> dict[str, str]:
    """Return the environment of a command on the machine."""
    return {
        "HOME": str(machine),
        "PATH": str(machine / "programs"),
        "PIXEL_ORCH_VAR_LIB_CLOUD": str(machine / "cloud"),
        "PIXEL_ORCH_ETC_SSH": str(machine / "ssh"),
        **more,
    }


def run(machine: Path, script: str, *words: str, **more: str) -> tuple[int, str, str]:
    """Run one of our scripts as the instance would; return exit code, standard output, standard error."""
    command = ["/bin/bash", str(machine / "run" / "bin" / script), str(machine / "run"), *words]
    env = environment(machine, **more)
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=60)
    return done.returncode, done.stdout, done.stderr


def bootstrap(machine: Path, *words: str, **more: str) -> tuple[int, dict[str, str], str]:
    """Run the bootstrap; return exit code, answer, and what it said (the line that the user sees is the last)."""
    code, out, err = run(machine, "bootstrap.sh", *words, **more)
    return code, json.loads(out.strip().splitlines()[-1]) if code == 0 else {}, out + err


def refusal(machine: Path, *words: str, code: int = 3, **more: str) -> str:
    """Run a bootstrap that cannot work; return its last line, which is all that a user gets to see at first."""
    found, _, said = bootstrap(machine, *words, **more)
    assert found == code, said
    return said.strip().splitlines()[-1]


def calls(machine: Path) -> list[str]:
    """Return what was asked of apt-get, pip, venv and sleep, in that order."""
    path = machine / "programs" / "calls"
    return path.read_text().splitlines() if path.exists() else []


def gpu(machine: Path, says: str = "Tesla T4", code: int = 0) -> None:
    """Let the machine have an nvidia-smi."""
    program(machine, "nvidia-smi", f"#!/bin/sh\ncat <<'END'\n{says}\nEND\nexit {code}\n")
