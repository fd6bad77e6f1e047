"""Reads a small YAML mapping within bounds, its values as they are written: no objects, no aliases.

YAML 1.1 reads `on` as true, `012345` as 5349, `1.10` as 1.1 and `12:30` as 750
(https://yaml.org/type/). Where a text is wanted, such a value is an error that shows what to quote.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from orchestrator.errors import SpecError
from orchestrator.formatting import one_line, unwritable

LARGEST_BYTES = 64 << 10  # PyYAML reads about 100 kB a second
DEEPEST = 16  # collections inside of collections
MOST_NAMED = 12  # values in one error

TAG = "tag:yaml.org,2002:"
INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
REAL = re.compile(
    r"[-+]?([0-9]{1,40}\.?[0-9]{0,40}|\.[0-9]{1,40})([eE][-+]?[0-9]{1,4})?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
TRUE = ("yes", "true", "on", "y")


@dataclass(frozen=True)
class Entry:
    """One key of the mapping with its value."""

    key: str
    value: Any
    line: int  # from 1


@dataclass(frozen=True)
class _Place:
    """Where errors are: the file as a person reads it, and the key."""

    file: str
    unquoted: list[str]  # `KEY: "value"` of what must be quoted

    def error(self, node: yaml.Node, problem: str) -> SpecError:
        return SpecError(f"{self.file}, line {node.start_mark.line + 1}: {problem}")


def read_mapping(path: Path, *, file: str, is_text: Callable[[str], bool]) -> list[Entry]:
    """Return the entries of the mapping that a YAML file holds, in its order.

    Args:
        path: of the file.
        file: how errors name it.
        is_text: whether the values of a key are texts; its lists and mappings hold texts.

    Raises:
        SpecError: the file cannot be read, is larger than 64 KiB, is not a YAML mapping, has aliases or a key twice, or
            holds a value that YAML reads as another than what is written.
    """
    root = _composed(_text(path, file), file)
    place = _Place(file, [])
    if root is None or (isinstance(root, yaml.ScalarNode) and root.tag == f"{TAG}null"):
        raise SpecError(f"{file} is empty; give key: value lines, for example instance: g4dn.xlarge")
    if not isinstance(root, yaml.MappingNode):
        kind = "list" if isinstance(root, yaml.SequenceNode) else "single value"
        raise SpecError(f"{file} holds a {kind}; give key: value lines")
    entries = []
    for key_node, node in root.value:
        key = _top_key(key_node, place)
        value = _value(node, key, place, is_text=is_text(key.replace("-", "_")))
        entries.append(Entry(key, value, key_node.start_mark.line + 1))
    if place.unquoted:
        named = ", ".join(place.unquoted[:MOST_NAMED])
        more = len(place.unquoted) - MOST_NAMED
        rest = f" and quote {more} more" if more > 0 else ""
        raise SpecError(f"{file}: YAML reads some values as another than what is written; write {named}{rest}")
    return entries


def _text(path: Path, file: str) -> str:
    try:
        with path.open("rb") as opened:
            data = opened.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise SpecError(f"{_flagged(file)}cannot read {_bare(file)}: {error.strerror}; check the path") from None
    if len(data) > LARGEST_BYTES:
        raise SpecError(f"{file} is larger than {LARGEST_BYTES >> 10} KiB; settings are a few lines")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SpecError(f"{file} is not a text file; give a YAML file") from None


def _flagged(file: str) -> str:
    return "-f: " if file.startswith("-f: ") else ""


def _bare(file: str) -> str:
    return file.removeprefix("-f: ")


def _composed(text: str, file: str) -> yaml.Node | None:
    """Return the tree of nodes; nothing is constructed. Aliases and depth are refused before the tree is made."""
    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                where = f"{file}, line {_line(event)}"
                raise SpecError(f"{where}: aliases (*{one_line(str(event.anchor))[:40]}) are not read; write it out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                where = f"{file}, line {_line(event)}"
                raise SpecError(f"{where}: more than {DEEPEST} lists and mappings inside of each other")
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}, line {mark.line + 1}" if mark else file
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it is not YAML"
        problem = one_line(" ".join(str(problem).split()))[:200]
        raise SpecError(f"{where}: {problem}; give key: value lines") from None
    except (ValueError, OverflowError, RecursionError) as error:  # of an escape or a tag that means nothing
        raise SpecError(f"{file}: it is not YAML ({one_line(str(error))[:80]}); give key: value lines") from None


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _top_key(node: yaml.Node, place: _Place) -> str:
    if isinstance(node, yaml.ScalarNode) and node.tag == f"{TAG}bool" and node.value.lower() in TRUE:
        return "yes"  # YAML reads the names of flags as booleans: `yes`, `on`
    return _key(node, "", place)


def _key(node: yaml.Node, above: str, place: _Place, *, is_text: bool = False) -> str:
    """Return a key; one that YAML does not read as a text is refused, or with `is_text` left to the caller."""
    if not isinstance(node, yaml.ScalarNode):
        raise place.error(node, f"a key{_below(above)} is a list or a mapping; give key: value lines")
    if node.tag != f"{TAG}str" and not is_text:
        key = _quoted(node.value)
        raise place.error(node, f"the key {key}{_below(above)} must be quoted: write {key}:")
    return _checked(node, place)


def _below(above: str) -> str:
    return f" of {above}" if above else ""


def _quoted(text: str) -> str:
    """Return a text as YAML and JSON quote it, shortened for an error."""
    short = text if len(text) <= 60 else text[:57] + "..."
    return json.dumps(short, ensure_ascii=not short.isprintable())


def _checked(node: yaml.ScalarNode, place: _Place) -> str:
    """Return the text of a scalar, which can be written down and given to a program."""
    problem = unwritable(node.value)
    if problem:
        raise place.error(node, f"a value {problem}; remove it")
    return str(node.value)


def _value(node: yaml.Node, key: str, place: _Place, *, is_text: bool, is_in_list: bool = False) -> Any:
    if isinstance(node, yaml.MappingNode):
        if node.tag != f"{TAG}map":
            raise place.error(node, f"{key} has the tag {one_line(node.tag)[:60]}; give plain values")
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            name = _key(key_node, key, place, is_text=is_text)
            if name in found:
                raise place.error(key_node, f"{key} has {_quoted(name)} twice; give it once")
            noted = len(place.unquoted)
            label = name if key_node.tag == f"{TAG}str" else _quoted(name)
            found[name] = _value(value_node, label, place, is_text=is_text)
            if label != name and len(place.unquoted) == noted:
                place.unquoted.append(f"{label}:")
        return found
    if isinstance(node, yaml.SequenceNode):
        if node.tag != f"{TAG}seq":
            raise place.error(node, f"{key} has the tag {one_line(node.tag)[:60]}; give plain values")
        return [_value(part, key, place, is_text=is_text, is_in_list=True) for part in node.value]
    if not isinstance(node, yaml.ScalarNode):
        raise place.error(node, f"{key} is neither a value, a list nor a mapping")
    text = _checked(node, place)
    kind = node.tag.removeprefix(TAG)
    if kind == "str":
        return text
    if not is_text:
        return _plain(node, text, kind, key, place)
    if not _has_one_spelling(text, kind):
        place.unquoted.append(
            f"{_quoted(text)} in {one_line(key)}" if is_in_list else f"{one_line(key)}: {_quoted(text)}"
        )
    return text


def _has_one_spelling(text: str, kind: str) -> bool:
    """Return whether the number that YAML reads is written as it stands there, so that the text is no surprise."""
    if kind == "int":
        return INTEGER.fullmatch(text) is not None and str(int(text)) == text
    return kind == "float" and REAL.fullmatch(text) is not None and repr(_real(text)) == text


def _plain(node: yaml.Node, text: str, kind: str, key: str, place: _Place) -> Any:
    """Return a boolean or a number; refuse the forms of YAML 1.1 that read as another number."""
    name = one_line(key)
    if kind == "bool" and text.lower() in (*TRUE, "no", "false", "off", "n"):
        return text.lower() in TRUE
    if kind == "int" and INTEGER.fullmatch(text):
        return int(text)
    if kind == "float" and REAL.fullmatch(text):
        return _real(text)
    if kind == "null":
        raise place.error(node, f"{name} has no value; give one, or remove the line")
    if kind in ("int", "float"):
        raise place.error(node, f"{name}: {_quoted(text)} is not a decimal number; YAML would read another one")
    raise place.error(node, f"{name} must be quoted: write {name}: {_quoted(text)}")


def _real(text: str) -> float:
    lower = text.lower()
    return float(lower.replace(".inf", "inf").replace(".nan", "nan"))


def by_key(entries: list[Entry], file: str) -> Mapping[str, Entry]:
    """Return the entries by their keys.

    Raises:
        SpecError: a key is there twice, also once with `-` and once with `_`.
    """
    found: dict[str, Entry] = {}
    for entry in entries:
        name = entry.key.replace("-", "_")
        if name in found:
            raise SpecError(f"{file}, line {entry.line}: {one_line(entry.key)[:60]} is given twice; give it once")
        found[name] = entry
    return found
