"""What a person sees while a cloud is started or asked: one live line, gone when there is an answer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.terminal import Screen

WORDS = {"local": "starting the embedded cloud ...", "aws": "asking AWS ..."}


@contextmanager
def busy(cloud: str, screen: Screen | None = None, *, if_broken_off: str = "") -> Iterator[None]:
    """Say in a terminal, and only there, what is going on; after Ctrl-C what has come of it.

    Args:
        cloud: "aws" or "local".
        screen: where to; None: standard error.
        if_broken_off: what Ctrl-C leaves behind: nothing, as a rule.
    """
    screen = screen or Screen(sys.stderr)
    screen.live(WORDS[cloud])
    try:
        yield
    except KeyboardInterrupt:
        screen.live("")
        if if_broken_off:
            screen.plain(if_broken_off)
        raise
    finally:
        screen.live("")
