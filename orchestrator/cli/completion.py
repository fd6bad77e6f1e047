"""`completion`: lets a shell complete commands, flags, names of runs and instance types."""

from __future__ import annotations

import argparse
from collections.abc import Iterator


def complete(every: argparse.ArgumentParser) -> None:
    """Answer a shell that asks for completions, and exit."""
    import argcomplete

    from orchestrator.errors import SpecError
    from orchestrator.export.trackers import TRACKERS
    from orchestrator.market import catalog
    from orchestrator.market.gpus import name_of
    from orchestrator.runs.home import home_from_environment
    from orchestrator.runs.store import RunStore

    def runs(**_: object) -> list[str]:
        try:
            return [store.run for store in RunStore.all(home_from_environment())]
        except SpecError:  # a home of a newer program: the command says so
            return []

    def types(**_: object) -> list[str]:
        return [known.name for known in catalog.all_types()]

    def gpus(**_: object) -> list[str]:
        return list(dict.fromkeys(map(name_of, catalog.all_types())))

    for action in _actions(every):
        if action.dest in ("run", "runs", "resume"):
            action.completer = runs  # type: ignore[attr-defined]  # argcomplete looks for this attribute
        elif action.dest == "instance":
            action.completer = types  # type: ignore[attr-defined]
        elif action.dest == "gpu":
            action.completer = gpus  # type: ignore[attr-defined]
        elif action.dest in ("export", "to"):
            action.completer = lambda **_: list(TRACKERS)  # type: ignore[attr-defined]
        elif action.dest == "region":
            action.completer = lambda **_: list(catalog.regions())  # type: ignore[attr-defined]
    argcomplete.autocomplete(every, always_complete_options=False)


def _actions(every: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in every._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from _actions(sub)


def completion(args: argparse.Namespace) -> int:
    """Do `pixel-orch completion`: print the shell code."""
    from argcomplete.shell_integration import shellcode

    print(shellcode(["pixel-orch"], shell=args.shell))
    return 0
