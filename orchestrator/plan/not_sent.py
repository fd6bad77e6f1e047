"""Folders and files beside what is sent: does the command or the code name one of them?

A folder `data/` that git ignores is there at home and missing on the machine. Everything is read within bounds.
"""

from __future__ import annotations

import ast
import itertools
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from orchestrator.formatting import one_line
from orchestrator.host.file_list import USUAL
from orchestrator.host.sync import Tree

MOST_ENTRIES = 2_000  # that are looked at beside the sent files
MOST_FILES, MOST_FILE_BYTES, MOST_BYTES = 200, 256 << 10, 4 << 20  # of code that is read
LARGE_BYTES = 1 << 30  # of data: better fetched there
MOST_NAMED = 3
MOST_SIZED = 2_000  # files that are counted for the size of a folder

_WRITTEN = """
    out output outputs run runs log logs result results checkpoint checkpoints ckpt ckpts save saves saved wandb mlruns
    lightning_logs tensorboard tb tmp temp build dist cache artifacts plots figures samples predictions best.json
    metrics.jsonl site-packages
"""
OUTPUTS = frozenset(_WRITTEN.split())
"""Names of what programs write: that it is not sent is right."""

_IS_OUTPUT_OPTION = re.compile(
    r"(out|save|log|ckpt|checkpoint|result|run|cache|tmp|temp|dest|dump|write|name|tag)", re.I
)
_LITERAL = re.compile(r"""(?:"([^"\n]{1,200})"|'([^'\n]{1,200})'|[:=]\s*([\w./-]{1,200}))""")
SOURCES = (".py",)
SETTINGS = (".yaml", ".yml", ".json", ".toml", ".cfg", ".ini", ".sh")


def warnings_about_data(command: Sequence[str], tree: Tree) -> list[str]:
    """Return a line for each thing that is not sent, and that the command or the sent code names."""
    beside = not_sent(tree)
    if not beside:
        return []
    found = dict.fromkeys(_named_in_command(command, beside), "the command")
    for name, place in _named_in_code(tree, [one for one in beside if one not in found]):
        found.setdefault(name, place)
    return [_warning(tree, name, place) for name, place in list(found.items())[:MOST_NAMED]]


def _warning(tree: Tree, name: str, place: str) -> str:
    """Return what is said of a file or folder that is not sent, and that is named somewhere."""
    path, shown = tree.folder / name, one_line(name)
    size_bytes, is_more = _size(path)
    words = f"{size_bytes / 1e6:,.1f} MB" if size_bytes >= 50_000 else f"{size_bytes:,} bytes"
    size = f"more than {words}" if is_more else words
    why, hint = "it is ignored", f"--include {shown} sends it"
    if path.is_symlink():
        why, hint = "it is a link out of the folder", "copy it into the folder, or fetch it with --setup"
    elif name in tree.left_out:
        why = "it may hold secrets"
    elif size_bytes > LARGE_BYTES or is_more:
        hint += ", --setup could fetch it there"
    return f"{shown}{'/' if path.is_dir() else ''} ({size}) is not sent, since {why}, and {place} names it; {hint}"


def not_sent(tree: Tree) -> list[str]:
    """Return what lies beside the sent files: folders of which nothing is sent, and files, two levels deep."""
    sent = set(tree.files)
    folders = {name[:place] for name in tree.files for place in (m.start() for m in re.finditer("/", name))}
    found: list[str] = []
    seen = 0
    for prefix in ("", *sorted(name for name in folders if "/" not in name)):
        for entry in _entries(tree.folder / prefix if prefix else tree.folder):
            seen += 1
            if seen > MOST_ENTRIES:
                return found
            name = f"{prefix}/{entry.name}" if prefix else entry.name
            if name in sent or name in folders or _is_usual(entry.name):
                continue
            if not prefix or entry.is_dir():  # a file deep inside is named by its folder, mostly
                found.append(name)
    return found


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            yield from found
    except OSError:
        return


def _is_usual(name: str) -> bool:
    return name.startswith(".") or name.lower() in OUTPUTS or any(Path(name).match(pattern) for pattern in USUAL)


def _named_in_command(command: Sequence[str], beside: Sequence[str]) -> list[str]:
    """Return what the words name as a path; the value of an option for outputs does not count."""
    found = []
    for place, word in enumerate(command):
        option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
        if not equals and not option and place and command[place - 1].startswith("-") and "=" not in command[place - 1]:
            option = command[place - 1]
        text = value if equals or not word.startswith("-") else ""
        if text and not (option and _IS_OUTPUT_OPTION.search(option)):
            found += [name for name in beside if _names(text, name)]
            found += [name for name in beside if "/" not in name and " " in text and _names_in_line(text, name)]
    return list(dict.fromkeys(found))


def _names_in_line(line: str, name: str) -> bool:
    return re.search(rf"(?<![\w./-])(\./)?{re.escape(name)}(?=/|$|[\s'\";])", line) is not None


def _names(text: str, name: str) -> bool:
    """Return whether a text is the path of something, or of a part of it."""
    path = text.removeprefix("./").rstrip("/")
    return path == name or path.startswith(f"{name}/")


def _named_in_code(tree: Tree, beside: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (what is named, where: `train.py, line 7`)."""
    left, total = set(beside), 0
    sources = [name for name in tree.files if name.endswith(SOURCES)]
    others = [name for name in tree.files if name.endswith(SETTINGS)]
    for name in sorted(sources, key=lambda one: (one.count("/"), one))[:MOST_FILES] + others[:MOST_FILES]:
        path = tree.folder / name
        try:
            size = path.stat().st_size
            if not left or path.is_symlink() or size > MOST_FILE_BYTES or total + size > MOST_BYTES:
                continue
            total += size
            raw = path.read_bytes()
            if not any(one.encode(errors="surrogateescape") in raw for one in left):
                continue  # a megabyte of Python is parsed in a second
            literals = list(_literals(path))
        except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        for text, line in literals:
            for one in [each for each in left if _names(text, each)]:
                left.discard(one)
                yield one, f"{one_line(name)}, line {line},"


def parsed_python(path: Path) -> ast.Module:
    """Return the tree of a Python file.

    Raises:
        SyntaxError: it is none.
        ValueError: it is too large.
    """
    if path.stat().st_size > MOST_FILE_BYTES:
        raise ValueError("it is too large")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of invalid escapes in a stranger's strings
        return ast.parse(path.read_bytes(), filename=path.name)


def _literals(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the string literals of a file that may be paths, with their lines."""
    if path.name.endswith(SOURCES):
        yield from _Strings.of(parsed_python(path))
        return
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        for match in _LITERAL.finditer(line.split("#")[0]):
            yield next(filter(None, match.groups()), ""), number
        if path.name.endswith(".sh"):
            yield from ((word.rpartition("=")[2], number) for word in line.split("#")[0].split())


class _Strings(ast.NodeVisitor):
    """Collects strings but docstrings, keys of mappings, and what is compared: `batch["data"]` is no path."""

    def __init__(self) -> None:
        self.found: list[tuple[str, int]] = []

    @classmethod
    def of(cls, module: ast.Module) -> list[tuple[str, int]]:
        visitor = cls()
        visitor.visit(module)
        return visitor.found

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and 0 < len(node.value) <= 300 and "\n" not in node.value:
            self.found.append((node.value, node.lineno))

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):
            self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self.visit(node.value)
        if not isinstance(node.slice, ast.Constant):
            self.visit(node.slice)

    def visit_Dict(self, node: ast.Dict) -> None:
        for value in node.values:
            self.visit(value)

    def visit_Compare(self, node: ast.Compare) -> None:
        for part in (node.left, *node.comparators):
            if not isinstance(part, ast.Constant):
                self.visit(part)

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        self.visit(node.func)
        if name in WRITERS:
            return
        is_lookup = name in ("get", "pop", "getattr", "setattr", "hasattr", "add_argument", "register_buffer", "log")
        for one in node.args:
            if not (is_lookup and isinstance(one, ast.Constant)):
                self.visit(one)
        for keyword in node.keywords:
            self.visit(keyword.value)


WRITERS = ("mkdir", "makedirs", "rmtree", "savefig", "to_csv", "SummaryWriter", "print", "save_pretrained", "save")


def _size(path: Path) -> tuple[int, bool]:
    """Return the bytes of a file or of a folder's first files, and whether there are more."""
    sizes = list(itertools.islice(_sizes(path), MOST_SIZED))
    return sum(sizes), len(sizes) == MOST_SIZED


def _sizes(path: Path) -> Iterator[int]:
    if not path.is_dir() or path.is_symlink():
        try:
            yield path.lstat().st_size
        except OSError:
            return
        return
    for here, _, names in os.walk(path):
        for name in names:
            try:
                yield os.lstat(os.path.join(here, name)).st_size
            except OSError:
                continue
