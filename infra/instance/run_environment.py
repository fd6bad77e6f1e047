#!/usr/bin/env python3
"""Makes a run's own virtual environment, in which the Python that runs this, and its packages, are visible.

    PYTHON run_environment.py ENV     prints one JSON object: python, path_first

What a run installs goes to ENV and changes nothing for another run on the machine, nor on the embedded cloud for its
user. It works where pip may not install into the system's Python (PEP 668), and without ensurepip. It takes 0.1 s: the
packages are not copied. A `.pth` file adds the folders of PYTHON behind those of ENV, so that what is installed
in ENV comes first, and pip knows what is there already. `--system-site-packages` does not suffice: where PYTHON is one
of a virtual environment, it shows the packages of the Python below it.

Standard library only, Python 3.8 and later.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import site
import stat
import sys
import sysconfig

MADE = "pixel-orch-environment.json"
MOST_SCRIPTS = 5_000  # of one folder; a conda installation has 1,000
HEAD_BYTES = 512  # of a script: its interpreter
NO_OWN_FOLDERS = ("/usr/bin", "/bin", "/usr/sbin", "/sbin")  # of the distribution, whose programs need its packages
ON_EVERY_PATH = (*NO_OWN_FOLDERS, "/usr/local/bin", "/usr/local/sbin")


def package_folders() -> list[str]:
    """Return the folders of this Python's packages, in the order in which it looks there."""
    found = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    known = [os.path.realpath(path) for path in sys.path if path]
    found = [path for path in found if os.path.isdir(path)]
    return sorted(found, key=lambda path: known.index(os.path.realpath(path)) if os.path.realpath(path) in known else 0)


def program_folders() -> list[str]:
    """Return the folders of the programs of this Python and of its packages."""
    found = [os.path.dirname(sys.executable), sysconfig.get_path("scripts") or ""]
    if site.ENABLE_USER_SITE:
        found.append(os.path.join(site.getuserbase(), "bin"))
    return [path for path in dict.fromkeys(found) if path not in ("", *NO_OWN_FOLDERS) and os.path.isdir(path)]


def wanted(env: str) -> dict[str, object]:
    """Return what an environment is made of: one that was made of something else is made anew."""
    return {
        "env": env,
        "python": sys.executable,
        "version": list(sys.version_info[:3]),
        "packages": package_folders(),
        "programs": program_folders(),
    }


def make(env: str) -> None:
    """Make the environment, unless it is there; a folder that is only begun is removed first."""
    want = wanted(env)
    try:
        with open(os.path.join(env, MADE)) as file:
            if json.load(file) == want and os.access(os.path.join(env, "bin", "python"), os.X_OK):
                return
    except (OSError, ValueError):
        pass
    shutil.rmtree(env, ignore_errors=True)
    make_folders(env)
    make_programs(env)
    with open(os.path.join(env, MADE), "w") as file:
        json.dump(want, file)


def make_folders(env: str) -> None:
    """Make the folders, the configuration (PEP 405) and the links to the Python. `venv` needs four times as long."""
    version = "%d.%d" % sys.version_info[:2]
    base = getattr(sys, "_base_executable", None) or sys.executable
    packages = os.path.join(env, "lib", "python%s" % version, "site-packages")
    for folder in (os.path.join(env, "bin"), os.path.join(env, "include"), packages):
        os.makedirs(folder)
    if sys.maxsize > 2**32 and os.name == "posix" and sys.platform != "darwin":
        os.symlink("lib", os.path.join(env, "lib64"))
    with open(os.path.join(env, "pyvenv.cfg"), "w") as file:
        file.write("home = %s\n" % os.path.dirname(base))
        file.write("include-system-site-packages = false\nversion = %d.%d.%d\n" % sys.version_info[:3])
    os.symlink(base, os.path.join(env, "bin", "python"))
    for name in ("python3", "python%s" % version):
        os.symlink("python", os.path.join(env, "bin", name))
    with open(os.path.join(packages, "pixel-orch-machine.pth"), "w") as file:
        for folder in package_folders():  # `addsitedir` reads the .pth files there too, which a plain path does not
            file.write("import site; site.addsitedir(%r)\n" % folder)


def make_programs(env: str) -> None:
    """Make `pip`, and the programs of the packages (`torchrun`, `accelerate`) such that they start the environment's
    Python: they name another in their first line, which does not see what the run installs."""
    own = os.path.join(env, "bin")
    python = shlex.quote(os.path.join(own, "python"))
    pip = "exec %s -m pip" % python
    if importlib.util.find_spec("pip") is None:  # plain Debian and Ubuntu; it may be installed by apt meanwhile
        test = "%s -c 'import pip' 2>/dev/null || %s -m ensurepip >/dev/null" % (python, python)
        pip = "%s\n%s" % (test, pip)
    for name in ("pip", "pip3", "pip%d.%d" % sys.version_info[:2]):
        write_program(os.path.join(own, name), pip)
    for folder in program_folders():
        for name in sorted(os.listdir(folder))[:MOST_SCRIPTS]:
            target = os.path.join(own, name)
            if not os.path.lexists(target) and not name.startswith(("python", "pip", ".")) and is_of(folder, name):
                write_program(target, "exec %s %s" % (python, shlex.quote(os.path.join(folder, name))))


def is_of(folder: str, name: str) -> bool:
    """Return whether a file is a script that a Python of its own folder, or this one, runs."""
    path = os.path.join(folder, name)
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) or not status.st_mode & 0o111:
            return False
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return False
    lines = head.split(b"\n")
    if not lines[0].startswith(b"#!"):
        return False
    words = lines[0][2:].split()
    if words == [b"/bin/sh"] and len(lines) > 1 and lines[1].startswith(b"'''exec'"):  # pip's form of a long path
        words = lines[1].replace(b'"', b" ").split()[1:2]
    interpreter = os.fsdecode(words[0]) if words else ""
    if not os.path.basename(interpreter).startswith("python"):
        return False
    return os.path.realpath(os.path.dirname(interpreter)) == os.path.realpath(folder) or interpreter == sys.executable


def write_program(path: str, command: str) -> None:
    """Write a script that runs a command with all arguments."""
    with open(path, "w") as file:
        file.write('#!/bin/sh\n%s "$@"\n' % command)
    os.chmod(path, 0o700)  # the login user runs it; the home is his


def main(env: str) -> None:
    """Make the environment and print where it is."""
    make(env)
    own = os.path.join(env, "bin")
    path_first = [own, *(folder for folder in program_folders() if folder not in ON_EVERY_PATH)]
    print(json.dumps({"python": os.path.join(own, "python"), "path_first": ":".join(path_first)}))


if __name__ == "__main__":
    main(os.path.abspath(sys.argv[1]))
