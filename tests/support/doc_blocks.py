"""The code blocks, commands, links and anchors of the repository's Markdown pages."""

from __future__ import annotations

import re
import shlex
import subprocess
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^ *```$", flags=re.DOTALL | re.MULTILINE)
MARK = re.compile(r"<!-- not run: (?P<why>[^>]+) -->\s*$")
LANGUAGES = ("sh", "python", "yaml", "text", "")
"""What a block may be; `text`, and a block without a language, is output."""


@dataclass(frozen=True)
class Block:
    """A code block."""

    page: Path
    line: int  # of its fence, from 1
    language: str
    text: str
    why_not_run: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """Return every Markdown page of the repository that git knows."""
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "*.md"], capture_output=True, text=True, check=True)
    return sorted(path for name in listed.stdout.split() if (path := ROOT / name).exists())


def blocks(page: Path) -> list[Block]:
    """Return the code blocks of a page."""
    text = page.read_text()
    found = []
    for match in FENCE.finditer(text):
        before = text[: match.start()]
        mark = MARK.search(before)
        inner = re.sub(f"^{match['indent']}", "", match["text"], flags=re.MULTILINE)
        found.append(
            Block(page, before.count("\n") + 1, match["language"], inner, mark["why"].strip() if mark else None)
        )
    return found


def commands(block: Block) -> list[list[str]]:
    """Return the words of each command of a block.

    Of a block with output these are the lines that begin with `$ `, and a first line that begins with a program.
    """
    text = re.sub(r"\\\n\s*", " ", block.text)
    lines = text.splitlines()
    if block.language != "sh":
        ours = ("pixel-orch ", "python -m model ")
        lines = [
            line.removeprefix("$ ")
            for number, line in enumerate(lines)
            if line.startswith("$ ") or (number == 0 and line.startswith(ours) and ": error: " not in line)
        ]
    return [words for line in lines for words in _of_line(line)]


def _of_line(line: str) -> Iterator[list[str]]:
    """Yield the commands of a line: on both sides of && and ||, and in "$( )"."""
    inner = re.fullmatch(r'eval "\$\((.*)\)"', line.strip())
    lexer = shlex.shlex(inner[1] if inner else line, posix=True, punctuation_chars="&|;")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, "&&"]:
        if word in ("&&", "||", ";"):
            if words:
                yield words
            words = []
        else:
            words.append(word)


def spans(page: Path) -> list[str]:
    """Return the code spans of a page, of the text outside of blocks."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", page.read_text()))


def links(page: Path) -> list[tuple[str, str]]:
    """Return (path, anchor) of every link within the repository; an empty path is the page itself."""
    text = FENCE.sub("", page.read_text())
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"^\[[^\]]+\]: (\S+)$", text, flags=re.MULTILINE)
    found = [target.partition("#") for target in targets if "://" not in target and not target.startswith("mailto:")]
    return [(path, anchor) for path, _, anchor in found]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings that GitHub and MkDocs both give."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), flags=re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "") for heading in headings]
    return {_of_github(text) for text in plain} & {_of_mkdocs(text) for text in plain}


def _of_github(text: str) -> str:
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


def _of_mkdocs(text: str) -> str:
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", text).strip().lower())
