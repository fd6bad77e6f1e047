"""Writes the pages of `docs/reference/` from the code: `make reference`, or `python -m docs.make_reference`.

The command line comes from the parsers, the YAML keys from the table of the reader, their meaning from the flags,
their defaults from the pydantic models, and Python from signatures and docstrings. A test compares the pages.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from docs.reference_python import python_page
from docs.reference_yaml import cell, yaml_page
from model.cli.flags import parser as model_parser
from orchestrator.cli.flags import OF_THE_MODEL, parser

FOLDER = Path(__file__).parent / "reference"
NOTE = "*Written by `make reference` from {source}; a test compares them.*"


Command = tuple[str, str, argparse.ArgumentParser]
"""The words of a command, its aliases, its parser."""


def commands(made: argparse.ArgumentParser, prefix: str = "") -> Iterator[Command]:
    """Yield the commands in the order of `--help`; of `data` and `runs` the inner ones."""
    for action in made._actions:
        if not isinstance(action, argparse._SubParsersAction):
            continue
        seen: dict[int, list[str]] = {}
        for name, sub in action.choices.items():
            seen.setdefault(id(sub), []).append(name)
        for sub in dict.fromkeys(action.choices.values()):
            name, *aliases = seen[id(sub)]
            words = f"{prefix}{name}"
            inner = list(commands(sub, f"{words} "))
            yield from inner or [(words, ", ".join(aliases), sub)]


def all_commands() -> list[Command]:
    """Return every command of `pixel-orch`, those of the bundled model with the model's own parsers."""
    of_model: dict[str, list[Command]] = {}
    for command in commands(model_parser("pixel-orch")):
        of_model.setdefault(command[0].split()[0], []).append(command)
    found: list[Command] = []
    for words, aliases, sub in commands(parser()):
        found += of_model[words] if words in OF_THE_MODEL else [(words, aliases, sub)]
    return found


def flag_text(action: argparse.Action) -> str:
    """Return the flag as a person types it: `-t`, `--instance TYPE`."""
    value = "" if action.nargs == 0 else f" {metavar(action)}"
    if not action.option_strings:
        return f"`{metavar(action)}`"
    return (
        ", ".join(f"`{name}`" for name in action.option_strings[:-1])
        + (", " if len(action.option_strings) > 1 else "")
        + f"`{action.option_strings[-1]}{value}`"
    )


def metavar(action: argparse.Action) -> str:
    """Return how the value of an argument is written."""
    if isinstance(action.metavar, str):
        return action.metavar
    if action.choices:
        return "|".join(map(str, action.choices))
    return action.dest.upper()


def help_text(action: argparse.Action) -> str:
    """Return what the flag does, with its default filled in."""
    text = (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%")
    if isinstance(action, argparse._AppendAction) and "repeat" not in text:
        text += "; may be repeated"
    return cell(text)


def command_lines(words: str, aliases: str, sub: argparse.ArgumentParser) -> list[str]:
    """Return the part of the page about one command."""
    lines = ["", f"## {words}", "", cell(sub.description or "")]
    if aliases:
        lines[-1] += f" Also called `{aliases}`."
    for group in sub._action_groups:
        actions = [action for action in group._group_actions if shown(action)]
        if not actions:
            continue
        title = {"positional arguments": "arguments", "options": "flags"}.get(group.title or "", group.title)
        lines += ["", f"| {title} | |", "|---|---|"]
        lines += [f"| {cell(flag_text(action))} | {help_text(action)} |" for action in actions]
    epilog = (sub.epilog or "").strip()
    note, _, example = epilog.partition("example:\n")
    if example:
        lines += ["", "```sh", *(line.removeprefix("  ") for line in example.splitlines()), "```"]
    if note.strip():
        lines += ["", "```text", *note.strip().splitlines(), "```"]
    return lines


def shown(action: argparse.Action) -> bool:
    """Return whether an argument has a line: `--help` and hidden flags have none."""
    return action.help is not argparse.SUPPRESS and not isinstance(
        action, (argparse._HelpAction, argparse._SubParsersAction)
    )


def cli_page() -> str:
    """Return the page of the command line."""
    found = all_commands()
    lines = [
        "# Command line",
        "",
        NOTE.format(source="the parsers that read the command line"),
        "",
        "`pixel-orch COMMAND --help` prints the same. `pixel-orch --version` prints the version. Exit codes: 0 done; 1",
        "the run has failed or stopped at its limit; 2 a request that cannot work; 130 after Ctrl-C and `down`.",
        "",
        " · ".join(f"[{words}](#{words.replace(' ', '-')})" for words, _, _ in found),
    ]
    for words, aliases, sub in found:
        lines += command_lines(words, aliases, sub)
    return "\n".join([*lines, ""])


def pages() -> dict[str, str]:
    """Return the text of each page by its name."""
    return {
        "cli.md": cli_page(),
        "yaml.md": yaml_page(NOTE.format(source="the reader of settings files and the models behind it")),
        "python.md": python_page(NOTE.format(source="signatures and docstrings")),
    }


if __name__ == "__main__":
    for name, text in pages().items():
        (FOLDER / name).write_text(text)
