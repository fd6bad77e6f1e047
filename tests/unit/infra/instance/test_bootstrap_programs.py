"""What the bootstrap does around its programs: time limits, signs of life, proxies, upgrades in the background."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from tests.support.bare_machine import (
    APT,
    BUNDLED,
    bootstrap,
    calls,
    environment,
    gpu,
    packages,
    program,
    python,
    refusal,
    run,
    wheels,
)

pytestmark = pytest.mark.slow  # real shells, which take seconds

SUDO_WITHOUT_ENVIRONMENT = '#!/bin/sh\n[ "$1" = -n ] || exit 1\nshift\nexec env -i PATH="$PATH" "$@"\n'


def hangs_where(machine: Path, name: str, words: str, says: str) -> None:
    """Let a program of the machine hang where its arguments begin with these words, after it has said something."""
    path = machine / "programs" / name
    there = path.read_text().partition("\n")[2] if path.exists() else ""
    hangs = f"printf '{says}'; trap '' TERM; while :; do /bin/sleep 1; done"
    path.write_text(f'#!/bin/sh\ncase "$*" in {words}*) {hangs} ;; esac\n{there}')
    path.chmod(0o700)


# -- time limits


def test_a_pip_that_hangs_is_named_with_its_time_and_its_last_output(machine: Path) -> None:
    python(machine)
    gpu(machine)
    hangs_where(machine, "python3", "'-m pip install'", "Downloading torch-2.13.0 (899.8 MB)\\n")
    told = refusal(machine, "bundled", "gpu", PIXEL_ORCH_LIMITS="pip=1")
    assert "pip cannot install torch==2.13.0: pip install torch==2.13.0 numpy pydantic" in told
    assert "did not end within 1 s; its last output: Downloading torch-2.13.0 (899.8 MB)" in told


def test_a_python_that_hangs_while_it_makes_an_environment_is_named(machine: Path) -> None:
    python(machine)
    hangs_where(machine, "python3", "'-m venv'", "")
    told = refusal(machine, "bundled", PIXEL_ORCH_LIMITS="python3=1")
    assert "cannot make a virtual environment: python3 -m venv did not end within 1 s; it printed nothing" in told


def test_an_apt_that_hangs_is_named(machine: Path) -> None:
    python(machine, ensurepip=False)
    hangs_where(machine, "apt-get", "*update", "0 %% [Connecting to archive.ubuntu.com]")
    began = time.monotonic()
    told = refusal(machine, "bundled", PIXEL_ORCH_LIMITS="apt-get=0")
    assert time.monotonic() - began < 50
    assert "cannot make a virtual environment: " in told
    _, _, said = run(machine, "bootstrap.sh", "bundled", PIXEL_ORCH_LIMITS="apt-get=0")
    assert "apt-get update did not end within 0 s" in said


def test_a_torch_that_hangs_at_its_import_is_not_taken(machine: Path) -> None:
    site = python(machine)
    packages(site, "torch", *BUNDLED)
    (site / "torch.py").write_text("import time\nprint('loading libcudart', flush=True)\ntime.sleep(60)\n")
    gpu(machine)
    told = refusal(machine, "bundled", "gpu", PIXEL_ORCH_LIMITS="python3=2")
    assert "pip cannot install" in told, "another torch is tried"
    wheels(machine)
    (machine / "programs" / "wheels" / "torch.py").write_text((site / "torch.py").read_text())
    told = refusal(machine, "bundled", "gpu", PIXEL_ORCH_LIMITS="python3=2 python=2")
    assert "python (import torch) did not end within 2 s; its last output: loading libcudart" in told


def test_a_sudo_that_hangs_does_not_hang_the_set_up(machine: Path) -> None:
    packages(python(machine), "torch", *BUNDLED)
    gpu(machine)
    program(machine, "sudo", "#!/bin/sh\nexec /bin/sleep 60\n")
    program(machine, "systemctl", "#!/bin/sh\n")
    code, answer, said = bootstrap(machine, "bundled", "gpu", PIXEL_ORCH_LIMITS="systemctl=1")
    assert code == 0, said
    assert answer["gpu"] == "Tesla T4"


def test_data_that_cannot_be_prepared_say_why_in_the_last_line(machine: Path) -> None:
    packages(python(machine), "numpy", "pillow", "pydantic")
    for name in ("numpy", "PIL", "pydantic", "simplejpeg", "lz4"):
        (machine / "programs" / "site" / f"{name}.py").touch()
    (machine / "run" / "code" / "model").mkdir(parents=True)
    (machine / "run" / "code" / "model" / "__main__.py").write_text(
        "import sys\nraise SystemExit('no such data set: ' + sys.argv[3])\n"
    )
    (machine / "run" / "bin" / "dataset_sync.py").write_text("import sys; sys.exit(4)")
    (machine / "programs" / "site" / "boto3.py").touch()
    code, _, err = run(machine, "data.sh", "digits", "s3://bucket/digits", "")
    assert code == 1
    assert err.splitlines()[-1] == (
        "data: s3://bucket/digits has no data, and this machine cannot prepare digits: preparing digits ended with "
        "exit code 1; its last output: no such data set: digits"
    )


# -- signs of life


def test_a_long_step_says_how_long_it_takes_and_what_it_printed_last(machine: Path) -> None:
    python(machine)
    gpu(machine)
    wheels(machine)
    slow = "printf 'Collecting torch\\r 10 %%\\r 20 %%'; /bin/sleep 0.6"
    path = machine / "programs" / "python3"
    path.write_text(path.read_text().replace('echo "pip $*"', f'{slow}; echo "pip $*"'))
    code, _, said = bootstrap(machine, "bundled", "gpu", PIXEL_ORCH_TELL_EVERY_MS="100")
    assert code == 0, said
    words = "bootstrap: pip install torch==2.13.0 numpy pydantic>=2.6 scikit-learn pillow"
    assert words in said.splitlines(), "the phase, when it begins"
    assert f"{words}: 0 s so far; its last output:  20 %" in said


def test_a_connection_that_is_cut_leaves_a_set_up_that_ends_by_itself(machine: Path) -> None:
    """The next one waits for its lock, and finds what it has made; two pips at once would spoil the environment."""
    python(machine)
    gpu(machine)
    wheels(machine)
    path = machine / "programs" / "python3"
    path.write_text(path.read_text().replace('echo "pip $*"', '/bin/sleep 0.5; echo "pip $*"'))
    process = subprocess.Popen(
        ["/bin/bash", str(machine / "run" / "bin" / "bootstrap.sh"), str(machine / "run"), "bundled", "gpu"],
        env=environment(machine, PIXEL_ORCH_TELL_EVERY_MS="50"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    process.stderr.close()
    process.wait(timeout=60)
    assert [line for line in calls(machine) if line.startswith("pip")]
    code, answer, said = bootstrap(machine, "bundled", "gpu")
    assert (code, answer.get("why")) == (0, "found"), said


# -- proxies


def test_the_proxies_of_etc_environment_are_for_pip_and_apt_and_not_for_the_machine_itself(machine: Path) -> None:
    (machine / "environment").write_text(
        'PATH="/usr/bin"\nhttp_proxy="http://proxy:3128"\nexport HTTPS_PROXY=\'http://proxy:3128\'  # ours\n'
        "no_proxy=.corp\nX=$(y)\n"
    )
    python(machine, ensurepip=False)
    wheels(machine)
    program(machine, "sudo", SUDO_WITHOUT_ENVIRONMENT)
    tells = 'echo "apt $http_proxy $HTTPS_PROXY $no_proxy" >> PROGRAMS/calls\n'
    program(machine, "apt-get", APT.replace("LOCKED", "0").replace("case", tells + "case", 1))
    path = machine / "programs" / "python3"
    path.write_text(path.read_text().replace('echo "pip $*"', 'echo "pip $http_proxy $NO_PROXY"'))
    code, _, said = bootstrap(machine, "bundled")
    assert code == 0, said
    none = ".corp,169.254.169.254,[fd00:ec2::254],169.254.170.2,localhost,127.0.0.1,::1"
    assert f"apt http://proxy:3128 http://proxy:3128 {none}" in calls(machine)
    assert f"pip http://proxy:3128 {none}" in calls(machine)
    (machine / "programs" / "calls").unlink()
    bootstrap(machine, "bundled", http_proxy="http://the-logins-own:1")
    assert not [line for line in calls(machine) if "http://proxy:3128 .corp" in line], "what the login has counts"


def test_without_a_proxy_nothing_is_set(machine: Path) -> None:
    (machine / "environment").write_text("no_proxy=.corp\nhttp_proxy=\n")
    python(machine)
    wheels(machine)
    path = machine / "programs" / "python3"
    path.write_text(path.read_text().replace('echo "pip $*"', 'echo "pip [$http_proxy] [$no_proxy]"'))
    assert bootstrap(machine, "bundled")[0] == 0
    assert "pip [] [.corp]" in calls(machine)


# -- upgrades in the background


@pytest.mark.parametrize("code", [0, 5])
def test_upgrades_are_stopped_on_a_rented_gpu_before_its_driver_is_looked_at(machine: Path, code: int) -> None:
    packages(python(machine), "torch", *BUNDLED)
    gpu(machine)
    program(
        machine, "systemctl", f'#!/bin/sh\necho "systemctl $*" >> PROGRAMS/calls\necho not loaded >&2\nexit {code}\n'
    )
    done, answer, said = bootstrap(machine, "bundled", "gpu")
    assert (done, answer.get("gpu")) == (0, "Tesla T4"), said
    mask, stop = (line for line in calls(machine) if line.startswith("systemctl"))
    assert mask.startswith("systemctl mask --runtime apt-daily.timer apt-daily-upgrade.timer")
    assert stop.startswith("systemctl stop --no-block apt-daily.timer apt-daily-upgrade.timer")
    for unit in ("unattended-upgrades.service", "dnf-automatic.timer", "yum-cron.service"):
        assert unit in stop.split()


def test_nothing_is_stopped_where_nothing_is_rented(machine: Path) -> None:
    packages(python(machine), "torch", *BUNDLED)
    program(machine, "systemctl", '#!/bin/sh\necho "systemctl $*" >> PROGRAMS/calls\n')
    assert bootstrap(machine, "bundled")[0] == 0
    assert calls(machine) == []
