"""Looks at a command and at what is sent before anything is rented: would the program start there?

What is certain to fail is an error. Where there is doubt it is a warning: an image, a setup command or the program
itself may bring what is not in sight.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import SpecError
from orchestrator.formatting import nearest, one_line
from orchestrator.host.sync import Tree
from orchestrator.plan.command_words import Program, Script, parsed
from orchestrator.plan.dependencies import Dependencies, dependencies_of
from orchestrator.plan.not_sent import parsed_python, warnings_about_data
from orchestrator.runs.spec import RunSpec

HEAD_BYTES = 256
MOST_WARNINGS = 6

_IN_IMAGES = """
    python python3 pip pip3 bash sh env cat cd cp date dd df du echo exec expr false find flock grep head hostname
    id kill ln ls mkdir mktemp mv nice nohup nproc printenv printf ps pwd readlink realpath rm sed seq setsid sleep
    sort stat stdbuf sudo tail tar tee test time timeout touch tr true uname wc which whoami xargs yes awk gzip git
    perl nvidia-smi torchrun uv uvx
"""
OF_EVERY_IMAGE = frozenset(_IN_IMAGES.split())
"""Programs that the images have, or that pixel-orch brings (torchrun with torch, uv)."""

OF_PACKAGES = {
    "accelerate": "accelerate",
    "deepspeed": "deepspeed",
    "papermill": "papermill",
    "jupyter": "jupyter",
    "ipython": "ipython",
    "pytest": "pytest",
    "tensorboard": "tensorboard",
    "lightning": "lightning",
    "fabric": "lightning-fabric",
    "composer": "mosaicml",
    "axolotl": "axolotl",
    "tune": "torchtune",
    "huggingface-cli": "huggingface-hub",
    "hf": "huggingface-hub",
    "transformers-cli": "transformers",
    "yolo": "ultralytics",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "streamlit": "streamlit",
    "ray": "ray",
    "horovodrun": "horovod",
    "spacy": "spacy",
    "fairseq-train": "fairseq",
    "snakemake": "snakemake",
    "dvc": "dvc",
    "poetry": "poetry",
    "pipenv": "pipenv",
    "hatch": "hatch",
    "pdm": "pdm",
}
"""Programs by the package that brings them."""

OF_THE_SHELL = ("cd", "source", ".", "export", "set", "alias", "ulimit", "eval", "conda activate")


@dataclass(frozen=True)
class FirstLook:
    """What was seen: what is installed, and what may go wrong, for people."""

    dependencies: Dependencies
    warnings: tuple[str, ...] = ()
    is_own: bool = True  # a program of the user's, and not the bundled trainer

    def as_json(self) -> dict[str, Any]:
        """Return the same for programs."""
        return {"setup": self.dependencies.as_json(), "warnings": list(self.warnings)}

    def lines(self) -> list[str]:
        """Return all of it, a sentence each; nothing for the bundled trainer."""
        if (
            not self.dependencies.order
            and not self.dependencies.file
            and self.dependencies.why_not.startswith("the bun")
        ):
            return []
        return [self.dependencies.text, *(f"Warning: {warning}" for warning in self.warnings)]


def look(spec: RunSpec, tree: Tree, *, is_resumed: bool = False) -> FirstLook:
    """Return what is to be said of a program before its launch.

    Args:
        spec: what is asked for.
        tree: what is sent.
        is_resumed: whether the run ran before: then nothing is refused, since the files of its launch may be sent.

    Raises:
        SpecError: it cannot start; one line that says why, and what to do.
    """
    dependencies = dependencies_of(spec, tree)
    if not spec.command or spec.workdir is None:
        return FirstLook(dependencies, is_own=False)
    view = _View(spec, tree, dependencies)
    try:
        view.check()
    except SpecError as error:
        if not is_resumed:
            raise
        view.warnings.append(str(error))
    if tree.digests is None:  # a folder as it is, not a copy of it: what is not sent is there to see
        view.warnings += warnings_about_data(spec.command, tree)
    warnings = dict.fromkeys(map(one_line, view.warnings))
    return FirstLook(dependencies, tuple(warnings)[:MOST_WARNINGS])


class _View:
    """The command against the files that are sent.

    Args:
        spec: what is asked for.
        tree: what is sent.
        dependencies: what is installed.
    """

    def __init__(self, spec: RunSpec, tree: Tree, dependencies: Dependencies) -> None:
        self.spec = spec
        self.tree = tree
        self.files = frozenset(tree.files)
        self.folders = frozenset(
            parent for name in tree.files for parent in _parents(name)
        )  # with "", which is the folder itself
        self.dependencies = dependencies
        self.warnings: list[str] = []

    @property
    def may_come(self) -> bool:
        """Whether the set-up may bring files and programs that nobody sees now."""
        return "command" in self.dependencies.order or self.spec.ami is not None

    @property
    def has_image(self) -> bool:
        """Whether the program runs in an image of the user's: nobody knows what is in it, but for the sent folder."""
        return self.spec.program.image is not None

    def check(self) -> None:
        """Look at each program of the command.

        Raises:
            SpecError: one cannot start.
        """
        parts = parsed(self.spec.command)
        for place, part in enumerate(parts):
            if isinstance(part, Program):
                self._check_program(part, is_certain=place == 0)
            else:
                self._check_script(part, is_certain=self._are_harmless(parts[:place]))

    def _are_harmless(self, before: Sequence[Program | Script]) -> bool:
        """Return whether nothing before it changes the folder: a launcher, `pip install`."""
        return all(isinstance(part, Program) and part.changes_nothing for part in before)

    def _complain(self, message: str, *, is_certain: bool) -> None:
        if is_certain and not self.may_come:
            raise SpecError(f"--: {message}")
        self.warnings.append(message)

    # -- the program

    def _check_program(self, program: Program, *, is_certain: bool) -> None:
        word = program.word
        is_of_folder = word in self.files or "=" in word or ("/" in word and not word.startswith("/"))
        if self.has_image and not is_of_folder:
            return
        if "/" in word:
            self._check_path(word, is_certain=is_certain)
        elif program.is_in_shell and (word in OF_THE_SHELL or not _is_plain(word)):
            return
        elif "=" in word and word.split("=")[0].isidentifier():
            shown = one_line(word)
            self._complain(f"{shown} would be the program; give --env {shown} before the --", is_certain=is_certain)
        elif word in OF_THE_SHELL:
            line = " ".join(self.spec.command)
            self._complain(f"{word} is a word of the shell; give -- sh -c {line!r}", is_certain=is_certain)
        elif word in self.files:
            how = f"python {word}" if word.endswith(".py") else f"./{word}"
            self._complain(f"{word} is a file of the folder and no program; give -- {how}", is_certain=is_certain)
        elif not self._is_there(word):
            self._check_missing(word, is_certain=is_certain)

    def _is_there(self, word: str) -> bool:
        """Return whether the machine will have a program, as far as that can be known here."""
        if word in OF_EVERY_IMAGE or OF_PACKAGES.get(word, word.lower()) in self.dependencies.packages:
            return True
        line = " ".join(self.spec.command)
        if re.fullmatch(r"(python|pip)[0-9.]*", word) or ("install" in line and line.count(word) > 1):
            return True
        return shutil.which(word, path=_machine_path(self.spec.is_embedded)) is not None

    def _check_missing(self, word: str, *, is_certain: bool) -> None:
        package = OF_PACKAGES.get(word)
        guess = nearest(word, [*OF_EVERY_IMAGE, *OF_PACKAGES]) if len(word) > 2 and package is None else ""
        hint = "install it with --setup"
        if package:
            hint = f"add {package} to requirements.txt, or give --setup 'pip install {package}'"
        elif guess:
            hint = f"did you mean {guess}?"
        if self.may_come:
            self.warnings.append(f"{word} is not known to be on the machine; --setup or the image must bring it")
        elif (self.spec.is_embedded and not self.dependencies.packages) or guess:
            self._complain(f"there is no program {word} on the machine; {hint}", is_certain=is_certain)
        else:
            self.warnings.append(f"there may be no program {word} on the machine; {hint}")

    def _check_path(self, word: str, *, is_certain: bool) -> None:
        """A program that is named by a path: one that is sent, executable, with an interpreter."""
        name = os.path.normpath(word)
        if word.startswith("/"):
            self._check_absolute(word, is_program=True, is_certain=is_certain)
        elif self._is_sent(word, is_certain=is_certain):
            problem = _why_not_started(self.tree.folder / name, word, name)
            if problem:
                self._complain(problem, is_certain=is_certain)

    # -- the script

    def _check_script(self, script: Script, *, is_certain: bool) -> None:
        path = script.path
        if script.is_module:
            self._check_module(path, is_certain=is_certain)
        elif not path or path == "-" or any(letter in path for letter in "$`*?{"):
            return  # the shell makes another word of it
        elif path.startswith("~"):
            self.warnings.append(f"{path} is a path of the machine, and only the folder is sent")
        elif path.startswith("/") and self.has_image:
            return
        elif path.startswith("/"):
            self._check_absolute(path, is_program=False, is_certain=is_certain)
        else:
            self._check_relative(path, is_certain=is_certain)

    def _check_relative(self, path: str, *, is_certain: bool) -> None:
        name = os.path.normpath(path)
        if name == "." or name in self.folders:
            if f"{name}/__main__.py".removeprefix("./") not in self.files:
                self._complain(f"{path} is a folder without __main__.py", is_certain=is_certain)
            return
        if self._is_sent(path, is_certain=is_certain) and name.endswith(".py"):
            self._check_syntax(name)

    def _check_syntax(self, name: str) -> None:
        problem = _syntax_problem(self.tree.folder / name)
        if problem:
            self.warnings.append(f"{name}{problem}")

    def _is_sent(self, path: str, *, is_certain: bool) -> bool:
        """Return whether a relative path is that of a file that is sent; else complain."""
        name = os.path.normpath(path)
        if name in self.files:
            return True
        if name == ".." or name.startswith("../"):
            self._complain(f"{path} is outside of --workdir, and only what is below it is sent", is_certain=is_certain)
        elif os.path.lexists(self.tree.folder / name) and self.tree.digests is None:
            why = "it may hold secrets" if name in self.tree.left_out else "git or the usual ignore list leaves it out"
            self._complain(f"{path} is not sent: {why}; --include {name} sends it", is_certain=is_certain)
        else:
            guess = self._guess(name)
            hint = f"did you mean {guess}?" if guess else "--sync-dry-run lists what is"
            self._complain(f"{path} is not among the files that are sent; {hint}", is_certain=is_certain)
        return False

    def _guess(self, name: str) -> str:
        """Return the sent file whose path, or whose own name, is nearest."""
        base, suffix = os.path.basename(name), os.path.splitext(name)[1]
        same = [file for file in self.files if os.path.basename(file) == base]
        if same:
            return min(same, key=lambda file: (file.count("/"), file))
        near = nearest(name, sorted(file for file in self.files if file.endswith(suffix))[:5_000])
        if near:
            return near
        by_name = {os.path.basename(file): file for file in sorted(self.files, reverse=True) if file.endswith(suffix)}
        return by_name.get(nearest(base, list(by_name)[:5_000]), "")

    def _check_absolute(self, path: str, *, is_program: bool, is_certain: bool) -> None:
        folder = os.path.realpath(self.tree.folder)
        real = os.path.realpath(path)
        if real.startswith(folder.rstrip("/") + "/") or path.startswith(f"{self.tree.folder}/"):
            inner = os.path.relpath(real, folder)
            shown = f"./{inner}" if is_program else inner
            self._complain(
                f"{path} is a path of this machine; the program runs in a copy of the folder: give {shown}",
                is_certain=is_certain and not self.spec.is_embedded,
            )
        elif not is_program and path.startswith(("/home/", "/Users/", "/root/")):
            self.warnings.append(f"{path} is a path of this machine, and only {self.tree.folder} is sent")

    def _check_module(self, module: str, *, is_certain: bool) -> None:
        """`python -m pkg.mod`: in what is sent, in the standard library, or of an installed package."""
        parts = module.split(".")
        roots = [root for root in ("", "src/") if self._has_module(root + parts[0])]
        if not roots:
            known = {*sys.stdlib_module_names, "pip", "torch", "numpy", *self.dependencies.packages}
            if self.has_image or parts[0] in known or parts[0].replace("_", "-") in known or self.may_come:
                return
            tops = [name[:-3] for name in self.files if name.endswith(".py") and "/" not in name]
            guess = nearest(module, [*tops, *(name for name in self.folders if name and "/" not in name)])
            hint = f"did you mean {guess}?" if guess else "is its package installed there?"
            self.warnings.append(f"no module {parts[0]} is among the files that are sent; {hint}")
            return
        whole = "/".join(parts)
        if any(self._has_module(root + whole) for root in roots):
            is_package = any(root + whole in self.folders for root in roots)
            has_main = any(f"{root}{whole}/__main__.py" in self.files for root in roots)
            if is_package and not has_main and not any(f"{root}{whole}.py" in self.files for root in roots):
                self._complain(f"-m {module}: {whole}/__main__.py is missing, which -m runs", is_certain=is_certain)
            return
        below = [name for root in roots for name in self.files if name.startswith(f"{root}{parts[0]}/")]
        names = [name.removeprefix("src/")[:-3].replace("/", ".") for name in below if name.endswith(".py")]
        guess = nearest(module, names[:5_000])
        hint = f"; did you mean {guess}?" if guess else ""
        self._complain(f"-m {module}: there is no {whole}.py in what is sent{hint}", is_certain=is_certain)

    def _has_module(self, path: str) -> bool:
        return f"{path}.py" in self.files or path in self.folders


def _parents(name: str) -> list[str]:
    parts = name.split("/")[:-1]
    return ["/".join(parts[:count]) for count in range(len(parts) + 1)]


def _is_plain(word: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_.+-]+", word) is not None


def _why_not_started(path: Path, word: str, name: str) -> str:
    """Return why the kernel does not start a file, "" if it may."""
    if path.is_symlink() or not path.is_file():
        return ""
    shell = "python" if name.endswith(".py") else "bash"
    if not path.stat().st_mode & 0o111:
        return f"{word} is not executable; chmod +x {name}, or give -- {shell} {name}"
    first = _head(path).split(b"\n")[0]
    if first.startswith(b"#!") and first.endswith(b"\r"):
        return f"{word} has Windows line ends, so that its first line names no program; save it with Unix line ends"
    if name.endswith((".py", ".sh")) and not first.startswith(b"#!"):
        return f"{word} does not begin with #!, so that it does not start; give -- {shell} {name}"
    return ""


def _machine_path(is_embedded: bool) -> str:
    """Return where a program is looked for: on the embedded cloud where it will be, else where images have them."""
    folders = ["/usr/local/bin", "/usr/bin", "/bin"]
    return ":".join([os.path.dirname(sys.executable), *folders] if is_embedded else folders)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""


def _syntax_problem(path: Path) -> str:
    try:
        parsed_python(path)
    except SyntaxError as error:
        version = ".".join(map(str, sys.version_info[:2]))
        return f", line {error.lineno}: {error.msg} (as Python {version} reads it)"
    except (OSError, ValueError, RecursionError, MemoryError):
        return ""
    return ""
