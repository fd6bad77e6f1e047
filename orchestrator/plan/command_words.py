"""The words of a command, as far as they are understood: which programs it starts, which scripts these run. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

MOST_COMMANDS = 50  # of one `sh -c`
WITH_VALUE = {
    "python": ("-X", "-W", "--check-hash-based-pycs"),
    "timeout": ("-k", "-s", "--kill-after", "--signal"),
    "nice": ("-n", "--adjustment"),
    "stdbuf": ("-i", "-o", "-e"),
    "env": ("-u", "-C", "--unset", "--chdir"),
    "xvfb-run": ("-e", "-f", "-n", "-p", "-s", "-w"),
    "numactl": (),
    "nohup": (),
    "setsid": (),
    "time": (),
    "exec": (),
    "sudo": ("-u", "-g"),
}
"""Options that take the next word as their value: of interpreters, and of programs that start another one."""

WRAPPERS = frozenset(WITH_VALUE) - {"python"}
SHELLS = ("sh", "bash", "zsh", "dash", "ksh")
INTERPRETERS = ("perl", "ruby", "node", "Rscript", "julia", "php", "lua")
LAUNCHERS = (
    "torchrun",
    "accelerate",
    "deepspeed",
    "horovodrun",
    "mpirun",
    "mpiexec",
    "composer",
    "papermill",
    "ipython",
)
RUNNERS = ("uv", "poetry", "pipenv", "pdm", "hatch", "pixi", "conda", "mamba", "micromamba")
"""`RUNNER run COMMAND`."""

HARMLESS = (
    "pip",
    "pip3",
    "export",
    "set",
    "echo",
    "ulimit",
    "nvidia-smi",
    "date",
    "env",
    "true",
    "sleep",
    "source",
    ".",
)
"""Commands that bring no file into the folder."""

SEPARATORS = re.compile(r"&&|\|\||[;\n|&]")


@dataclass(frozen=True)
class Program:
    """A program that is started."""

    word: str
    is_in_shell: bool = False  # a shell reads it, which has commands of its own
    changes_nothing: bool = False  # as far as the files of the folder go


@dataclass(frozen=True)
class Script:
    """What an interpreter or a launcher runs: a file, or a module."""

    path: str
    is_module: bool = False


Part = Program | Script


def parsed(words: Sequence[str], *, is_in_shell: bool = False) -> list[Part]:
    """Return the programs and scripts of a command in their order; what is not understood is left out."""
    words = list(words)
    if not words:
        return []
    word = words[0]
    name = word.rpartition("/")[2] if word.startswith(("/usr/", "/bin/")) else word
    rest = words[1:]
    first = Program(word, is_in_shell, changes_nothing=_changes_nothing(name, rest))
    return [first, *_started_by(name, rest, is_in_shell=is_in_shell)]


def _started_by(name: str, rest: list[str], *, is_in_shell: bool) -> list[Part]:
    """Return what a program starts or runs."""
    found: list[Part] = []
    if name in WRAPPERS:
        found = parsed(_wrapped(name, rest), is_in_shell=is_in_shell)
    elif re.fullmatch(r"python[0-9.]*", name):
        found = _of_python(rest)
    elif name in SHELLS:
        found = _of_shell(rest)
    elif name in INTERPRETERS and rest and "." in rest[0] and not rest[0].startswith("-"):
        found = [Script(rest[0])]
    elif name in LAUNCHERS:
        found = _of_launcher(rest)
    elif name in RUNNERS and rest[:1] == ["run"]:
        found = _of_launcher(rest[1:])
    return found


def _changes_nothing(name: str, rest: Sequence[str]) -> bool:
    is_pip = re.fullmatch(r"python[0-9.]*", name) is not None and list(rest[:2]) == ["-m", "pip"]
    plain = (
        name in (*HARMLESS, *WRAPPERS, *LAUNCHERS, *SHELLS) or re.fullmatch(r"(python|pip)[0-9.]*", name) is not None
    )
    return is_pip or plain or (name == "uv" and rest[:1] in (["pip"], ["sync"], ["run"]))


def _wrapped(name: str, rest: list[str]) -> list[str]:
    """Return the command that `timeout`, `env` and the like start."""
    rest = _after_options(rest, WITH_VALUE[name])
    if name == "timeout":
        rest = rest[1:]  # how long
    if name == "env":
        while rest and re.match(r"[A-Za-z_]\w*=", rest[0]):
            rest = rest[1:]
    return rest


def _after_options(words: list[str], with_value: Sequence[str]) -> list[str]:
    place = 0
    while place < len(words) and words[place].startswith("-") and words[place] != "-":
        if words[place] == "--":
            return words[place + 1 :]
        place += 2 if words[place] in with_value else 1
    return words[place:]


def _of_python(words: list[str]) -> list[Part]:
    place = 0
    while place < len(words):
        word = words[place]
        if word in ("-c", "-", "-V", "--version", "-h", "--help"):
            return []
        if word == "-m" or re.fullmatch(r"-[bBdEiIOPqsSuvx]*m", word):
            return _of_module(words[place + 1 :])
        if word in WITH_VALUE["python"]:
            place += 2
        elif word.startswith("-"):
            if re.match(r"-[bBdEiIOPqsSuvx]*c", word):
                return []
            place += 1
        else:
            return [Script(word)]
    return []


def _of_module(words: list[str]) -> list[Part]:
    if not words:
        return []
    if words[0] in ("torch.distributed.run", "torch.distributed.launch", "accelerate.commands.launch", "deepspeed"):
        return _of_launcher(words[1:])
    return [Script(words[0], is_module=True)]


def _of_launcher(words: list[str]) -> list[Part]:
    """Return the script of a launcher: of its many options, which take a value is not known."""
    for place, word in enumerate(words):
        if re.fullmatch(r"python[0-9.]*", word):
            return _of_python(words[place + 1 :])
        if word in ("-m", "--module") and place + 1 < len(words):
            return [Script(words[place + 1], is_module=True)]
        if word.endswith((".py", ".ipynb")) and not word.startswith("-"):
            return [Script(word)]
    return []


def _of_shell(words: list[str]) -> list[Part]:
    for place, word in enumerate(words):
        if re.fullmatch(r"-[a-zA-Z]*c", word):
            return _of_line(words[place + 1]) if place + 1 < len(words) else []
        if word in ("-o", "+o", "-O", "+O", "--rcfile", "--init-file"):
            return []  # rare: not looked into
        if not word.startswith(("-", "+")):
            return [Script(word)]
    return []


def _of_line(line: str) -> list[Part]:
    """Return the parts of a line of a shell that begin simple commands; none once it changes its folder."""
    found: list[Part] = []
    for text in _simple_commands(line)[:MOST_COMMANDS]:
        try:
            words = shlex.split(text, comments=True)
        except ValueError:
            return found
        while words and re.match(r"[A-Za-z_]\w*=", words[0]):
            words = words[1:]
        if not words:
            continue
        if words[0] in ("cd", "pushd", "if", "for", "while", "case", "function", "until", "trap", "(", "{") or any(
            letter in text for letter in "(){}<"
        ):
            return found
        found += parsed(words, is_in_shell=True)
    return found


def _simple_commands(line: str) -> list[str]:
    """Split a line at `&&`, `;`, `|` and the like that are not quoted."""
    parts, part, quote, place = [], "", "", 0
    while place < len(line):
        letter = line[place]
        if letter == "\\" and quote != "'":
            part += line[place : place + 2]
            place += 2
            continue
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        else:
            cut = SEPARATORS.match(line, place)
            if cut and not part.endswith(">"):  # `2>&1`
                parts.append(part)
                part, place = "", cut.end()
                continue
        part += letter
        place += 1
    return [one for one in (*parts, part) if one.strip()]
