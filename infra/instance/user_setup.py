#!/usr/bin/env python3
"""Installs what the user's own program needs, in the run's own environment, before the program starts.

    user_setup.py ROOT < order      the last line is one JSON object: seconds, how, python, path_first, failed, tail

The order is what `orchestrator/host/user_setup.py` sends: a command (`--setup`), or the dependency file that was
found. What it prints while it runs goes to `agent/user_setup.log`; every 20 s a line on standard error says how far it
is. What was installed is not installed twice on one machine: a file in the environment has the order's digest.

The machine's torch is kept, since it has kernels for this GPU: a constraint file names its version, and a requirement
that it does not meet is left out and named.

Standard library only, Python 3.8 and later.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from typing import Any, NoReturn

from infra.instance.metadata import take_proxies
from infra.instance.programs import OVERDUE, end, last_line
from infra.instance.requirements import Lines, adapted, is_of_torch, read_requirements, taken

TELL_EVERY_S = float(os.environ.get("PIXEL_ORCH_TELL_EVERY_MS") or 20_000) / 1000
TAIL_LINES, TAIL_BYTES = 12, 16_384
ASK_S, DRY_RUN_S = 60.0, 180.0
DONE = "pixel-orch-setup.json"
PIP = ("-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar", "off")
CONDA_FOLDERS = ("/opt/conda/bin", "/opt/miniconda3/bin", "~/miniconda3/bin", "~/miniforge3/bin", "~/anaconda3/bin")

_ASK = """
import importlib.metadata as metadata, json, sys
asked = json.load(sys.stdin)
try:
    from pip._vendor.packaging.specifiers import SpecifierSet
except ImportError:
    SpecifierSet = None
versions, unmet = {}, []
for name in asked["names"]:
    try:
        versions[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
for name, specifier in asked["specifiers"]:
    version = versions.get(name)
    if version is None or not specifier:
        continue
    try:
        is_met = SpecifierSet(specifier).contains(version, prereleases=True)
    except Exception:
        is_met = specifier.lstrip("= ") in (version, version.split("+")[0])
    if not is_met:
        unmet.append([name, specifier])
print(json.dumps({"versions": versions, "unmet": unmet}))
"""


class FailedError(Exception):
    """A step failed. `tail` has the last lines that it printed."""

    def __init__(self, how: str, tail: str = "") -> None:
        super().__init__(how)
        self.tail = tail


class Setup:
    """One run of the set-up.

    Args:
        root: the run's folder.
        order: what is asked for.
    """

    def __init__(self, root: str, order: dict[str, Any]) -> None:
        self.root = root
        self.order = order
        self.code = os.path.join(root, "code")
        self.python: str = order["python"]
        self.path_first: str = order["path_first"]
        self.notes: list[str] = []
        agent = os.path.join(root, "agent")
        self.log = os.path.join(agent, "user_setup.log")
        self.wanted, self.limits = os.path.join(agent, "requirements.txt"), os.path.join(agent, "constraints.txt")
        self.give_up_at = time.monotonic() + float(order["limit_s"])
        self.env = self._environment()

    def _environment(self) -> dict[str, str]:
        """Return the variables for every step: those that the program gets."""
        env = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
        take_proxies(env)
        env.update(self.order["env"])
        env["PATH"] = "%s:%s" % (self.path_first, env.get("PATH", "/usr/bin:/bin"))
        env["VIRTUAL_ENV"] = os.path.dirname(os.path.dirname(self.python))  # uv and poetry install there
        env.update(PYTHONUNBUFFERED="1", PIXEL_ORCH_OUT=os.path.join(self.root, "out"), UV_NO_PROGRESS="1")
        return env

    def run(self) -> str:
        """Install; return how it was done, for people."""
        before = self.versions(["torch"]).get("torch", "")
        if "uv" in self.order.get("needs", []) and not self.which("uv"):
            self.pip("uv", ["uv"])
            self.notes.append("uv was installed")
        found = self.order.get("found")
        if self.order.get("command"):
            done = self.by_command(self.order["command"])
        elif found:
            done = getattr(self, "by_" + found["kind"])(found)
        else:
            done = ""
        self._say_if_torch_changed(before)
        return "; ".join([*([done] if done else []), *self.notes])

    def _say_if_torch_changed(self, before: str) -> None:
        after = self.versions(["torch"]).get("torch", "")
        if before and after != before:
            self.notes.append("torch %s of the machine is replaced by %s" % (before, after or "none"))

    # -- the ways

    def by_command(self, command: str) -> str:
        """Run the user's own command with bash; it ends at the first line that fails."""
        self.step("the setup command", ["bash", "-e", "-c", command])
        return "setup command"

    def by_requirements(self, found: dict[str, Any]) -> str:
        """Install a requirements file, with those that it names."""
        lines = read_requirements(os.path.join(self.code, found["file"]))
        return "%s with %s" % (found["file"], self.install(lines, found["file"]))

    def by_pyproject(self, found: dict[str, Any]) -> str:
        """Install the dependencies of a project, and the project where it can be built."""
        tool = "pip"
        if found["is_dynamic"]:
            self.pip(found["file"], [*self.constraints(), "-e", "."])
            return "%s with pip" % found["file"]
        if found["dependencies"]:
            tool = self.install(taken(found["dependencies"], self.code), found["file"])
        if found["is_package"]:
            self.pip(found["file"], ["--no-deps", "-e", "."])
        return "%s with %s" % (found["file"], tool)

    def by_uv_lock(self, found: dict[str, Any]) -> str:
        """Install what uv.lock has; a lock that uv cannot read leaves what pyproject.toml asks for."""
        uv = self.which("uv")
        if not uv:
            self.pip("uv", ["uv"])
            uv = os.path.join(os.path.dirname(self.python), "uv")
        words = [uv, "export", "--frozen", "--no-dev", "--no-hashes", "--no-emit-project", "--no-header", "-q"]
        code, output, words_of_it = self.ask([*words, "--python", self.python], DRY_RUN_S)
        if code != 0:
            self.notes.append("uv cannot read uv.lock (%s), so that pyproject.toml was taken" % words_of_it)
            return self.by_pyproject(found)
        listed = os.path.join(self.root, "agent", "uv.lock.txt")
        with open(listed, "w") as file:
            file.write(output)
        lines = read_requirements(listed)
        lines.is_complete = True
        self.install(lines, "uv.lock", uv=uv)
        if found["is_package"]:
            self.step("uv pip install -e .", [uv, "pip", "install", "--python", self.python, "--no-deps", "-e", "."])
        return "uv.lock with uv"

    def by_conda(self, found: dict[str, Any]) -> str:
        """Make a conda environment of its own, where the image has conda; else install the part for pip."""
        conda = next(filter(None, map(self.which, ("mamba", "micromamba", "conda"))), None)
        if conda:
            env = os.path.join(self.root, "conda-env")
            shutil.rmtree(env, ignore_errors=True)
            words = [conda, "env", "create", "-q", "-p", env, "-f", found["file"]]
            self.step("%s env create" % os.path.basename(conda), words)
            self.python = os.path.join(env, "bin", "python")
            self.path_first = os.path.dirname(self.python)
            self.notes.append("its Python and torch are those of %s" % found["file"])
            return "%s with %s" % (found["file"], os.path.basename(conda))
        known = self.versions(found["packages"])
        missing = [name for name in found["packages"] if name not in known and not is_of_torch(name)]
        if missing:
            self.notes.append("this image has no conda, so that %s is not installed" % ", ".join(missing))
        if not found["pip"]:
            return ""
        return "the pip part of %s with %s" % (
            found["file"],
            self.install(taken(found["pip"], self.code), found["file"]),
        )

    # -- installing

    def install(self, lines: Lines, title: str, uv: str = "") -> str:
        """Install requirements without another torch; return with which tool.

        Args:
            lines: of a requirements file.
            title: how the file is named.
            uv: its path, where it must be used.
        """
        versions = self.kept(lines)
        wanted = adapted(lines, versions["versions"], versions["unmet"])
        if wanted.left_out:
            version = versions["versions"].get("torch", "")
            self.notes.append("torch %s of the machine is kept: not %s" % (version, ", ".join(wanted.left_out)))
        for path, text in ((self.wanted, wanted.lines), (self.limits, wanted.constraints)):
            with open(path, "w") as file:
                file.write("".join("%s\n" % line for line in text))
        words = ["-r", self.wanted, *(["--no-deps"] if wanted.is_complete else ["-c", self.limits])]
        if not uv and wanted.has_any and wanted.can_use_uv and not any(name.startswith("PIP_") for name in self.env):
            uv = self.uv_without_torch(words, versions["versions"])
        if not wanted.has_any:
            pass
        elif uv:
            self.step("uv pip install (%s)" % title, [uv, "pip", "install", "--python", self.python, *words])
        else:
            self.pip(title, [*wanted.options, *words])
        if wanted.siblings:
            self.pip(" ".join(wanted.siblings), [*wanted.options, "-c", self.limits, *wanted.siblings])
        return "uv" if uv else "pip"

    def uv_without_torch(self, words: list[str], versions: dict[str, str]) -> str:
        """Return uv's path if the image has it and it would install no torch: it does not see what the machine has."""
        uv = self.which("uv")
        if not uv:
            return ""
        if "numpy" in versions and "-c" in words:
            with open(self.limits, "a") as file:  # the machine's torch may need this one
                file.write("numpy==%s\n" % versions["numpy"])
        code, output, _ = self.ask([uv, "pip", "install", "--dry-run", "--python", self.python, *words], DRY_RUN_S)
        names = re.findall(r"^ \+ ([A-Za-z0-9._-]+)", output, re.MULTILINE)
        if code == 0 and not any(map(is_of_torch, names)):
            return uv
        return ""

    def kept(self, lines: Lines) -> dict[str, Any]:
        """Return the versions of what is to be kept, and which of the requirements these do not meet."""
        specifiers = [[name, specifier] for name, specifier in lines.specifiers() if is_of_torch(name)]
        names = ["torch", "torchvision", "torchaudio", "triton", "numpy"]
        code, output, _ = self.ask(
            [self.python, "-c", _ASK], ASK_S, json.dumps({"names": names, "specifiers": specifiers})
        )
        answer: dict[str, Any] = json.loads(output) if code == 0 else {"versions": {}, "unmet": []}
        if "torch" not in answer["versions"]:
            return {"versions": {}, "unmet": []}
        return answer

    def constraints(self) -> list[str]:
        """Return the words that keep pip from replacing the machine's torch."""
        wanted = adapted(Lines([]), self.kept(Lines([]))["versions"], [])
        with open(self.limits, "w") as file:
            file.write("".join("%s\n" % line for line in wanted.constraints))
        return ["-c", self.limits]

    def versions(self, names: list[str]) -> dict[str, str]:
        """Return the versions of those packages that the environment has, or sees."""
        code, output, _ = self.ask([self.python, "-c", _ASK], ASK_S, json.dumps({"names": names, "specifiers": []}))
        found: dict[str, str] = json.loads(output)["versions"] if code == 0 else {}
        return found

    def pip(self, title: str, words: list[str]) -> None:
        """Run `pip install`; a Python without pip gets it first."""
        if self.ask([self.python, "-c", "import pip"], ASK_S)[0] != 0:
            self.step("ensurepip", [self.python, "-m", "ensurepip"])
        self.step("pip install (%s)" % title, [self.python, *PIP, *words])

    def which(self, name: str) -> str:
        """Return the path of a program, "" without it."""
        more = [os.path.expanduser(folder) for folder in CONDA_FOLDERS] if "conda" in name or "mamba" in name else []
        if name == "uv":
            more = [os.path.expanduser("~/.local/bin"), os.path.expanduser("~/.cargo/bin")]
        return shutil.which(name, path=":".join([self.env["PATH"], *more])) or ""

    # -- programs

    def ask(self, words: list[str], limit_s: float, said: str = "") -> tuple[int, str, str]:
        """Run a short program; return its exit code, its output with its errors' end, and its last line."""
        try:
            done = subprocess.run(
                words,
                input=said.encode(),
                capture_output=True,
                cwd=self.code,
                env=self.env,
                timeout=limit_s,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return OVERDUE, "", str(error)
        output, errors = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        is_told_on_stderr = "--dry-run" in words
        return done.returncode, output + errors if is_told_on_stderr else output, last_line(errors or output)

    def step(self, title: str, words: list[str]) -> None:
        """Run a long program, say that it runs, and raise FailedError with its last lines if it fails."""
        say(title)
        with open(self.log, "ab") as log:
            log.write(("$ %s\n" % " ".join(map(shlex.quote, words))).encode(errors="surrogateescape"))
            log.flush()
            began_at, start = time.monotonic(), log.tell()
            try:
                process = subprocess.Popen(
                    words,
                    cwd=self.code,
                    env=self.env,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            except OSError as error:
                raise FailedError("%s cannot be started: %s" % (title, error)) from None
            code = self._wait(process, title, began_at, start)
        if code is None:
            limit_s = float(self.order["limit_s"])
            raise FailedError("%s did not end within %g s" % (title, limit_s), self.tail(start))
        if code != 0:
            how = "exit code %d" % code if code > 0 else "signal %d" % -code
            raise FailedError("%s ended with %s" % (title, how), self.tail(start))

    def _wait(self, process: subprocess.Popen[bytes], title: str, began_at: float, start: int) -> int | None:
        """Wait until it ends, and say every 20 s how far it is; None if its time was up, and it was ended."""
        told_at, pause_s = began_at, 0.005
        while process.poll() is None:
            now = time.monotonic()
            if now >= self.give_up_at:
                end(process)
                return None
            if now - told_at >= TELL_EVERY_S:
                told_at = now
                words = last_line(self.tail(start))
                say("%s: %d s so far%s" % (title, now - began_at, "; its last output: %s" % words if words else ""))
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.2)
        return process.returncode

    def tail(self, start: int) -> str:
        """Return the last lines of the log from byte `start` on; of a progress bar its newest state."""
        with open(self.log, "rb") as file:
            file.seek(max(start, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            text = file.read().decode(errors="replace")
        lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
        return "\n".join([line for line in lines if line.strip()][-TAIL_LINES:])


def say(text: str) -> None:
    """Print a line for the owner; a connection that is cut does not matter."""
    try:
        print("setup: %s" % " ".join(text.split()), file=sys.stderr, flush=True)
    except OSError:
        pass


def answer(**values: Any) -> NoReturn:
    """Print the JSON object, and exit."""
    print(json.dumps(values))
    sys.exit(0)


def main(root: str, order: dict[str, Any]) -> NoReturn:
    """Set up once: what an earlier try has finished is not done again."""
    done = os.path.join(os.path.dirname(os.path.dirname(order["python"])), DONE)
    try:
        with open(done) as file:
            before = json.load(file)
        if before["digest"] == order["digest"]:
            answer(**before["answer"])
    except (OSError, ValueError, LookupError, TypeError):
        pass
    began_at = time.monotonic()
    try:
        setup = Setup(root, order)
        how = setup.run()
    except FailedError as error:
        answer(seconds=time.monotonic() - began_at, how="", failed=str(error), tail=error.tail)
    except OSError as error:
        answer(seconds=time.monotonic() - began_at, how="", failed=str(error), tail="")
    values = {
        "seconds": time.monotonic() - began_at,
        "how": how,
        "python": setup.python,
        "path_first": setup.path_first,
    }
    with open(done + ".part", "w") as file:
        json.dump({"digest": order["digest"], "answer": values}, file)
    os.replace(done + ".part", done)
    answer(**values)


if __name__ == "__main__":
    main(os.path.abspath(os.path.expanduser(sys.argv[1])), json.load(sys.stdin))
