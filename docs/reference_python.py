"""The page of the Python API, for `docs.make_reference`."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any

import orchestrator
from orchestrator import callbacks

LINE = 100  # characters of a signature, beyond which each parameter has a line


def python_page(note: str) -> str:
    """Return the page."""
    lines = [
        "# Python",
        "",
        note,
        "",
        *paragraphs(orchestrator.__doc__ or "")[1:],
    ]
    for name in sorted(orchestrator.__all__, key=lambda name: (name.isupper(), name[0].isupper(), name)):
        thing = getattr(orchestrator, name)
        lines += ["", f"## orchestrator.{name}", *described(f"orchestrator.{name}", thing)]
    lines += ["", "## orchestrator.callbacks", "", *paragraphs(callbacks.__doc__ or "")]
    for name in callbacks.__all__:
        lines += ["", f"### {name}", *described(f"orchestrator.callbacks.{name}", getattr(callbacks, name))]
    return "\n".join([*lines, ""])


def described(name: str, thing: Any) -> list[str]:
    """Return the lines about a function, a class or a value."""
    if inspect.isclass(thing):
        return class_lines(thing)
    if inspect.ismodule(thing):
        return ["", *paragraphs(thing.__doc__ or "")]
    if callable(thing):
        return ["", "<!-- not run: a signature -->", "```python", *signature(name, thing), "```", *doc_lines(thing)]
    return ["", f"A value: `{type(thing).__name__}`."]


def class_lines(thing: type) -> list[str]:
    """Return the lines about a class: what it is, its fields, properties and methods."""
    lines = doc_lines(thing)
    if dataclasses.is_dataclass(thing):
        comments = field_comments(thing)
        lines += ["", "| field | type | |", "|---|---|---|"]
        for field in dataclasses.fields(thing):
            if not field.name.startswith("_"):
                lines.append(f"| `{field.name}` | `{cell(str(field.type))}` | {cell(comments.get(field.name, ''))} |")
    for name, member in vars(thing).items():
        if name.startswith("_"):
            continue
        if isinstance(member, (staticmethod, classmethod)):
            lines += ["", f"**`.{' '.join(signature(name, getattr(thing, name)))}`**", *doc_lines(member.__func__)]
        elif isinstance(member, property):
            lines += ["", f"**`.{name}`**", *doc_lines(member)]
        elif inspect.isfunction(member):
            lines += ["", f"**`.{' '.join(signature(name, member, skip=1))}`**", *doc_lines(member)]
    return lines


def field_comments(thing: type) -> dict[str, str]:
    """Return the comments behind the fields of a dataclass."""
    found = re.findall(r"^    (\w+): [^#\n]*# (.*)$", inspect.getsource(thing), flags=re.MULTILINE)
    return dict(found)


def signature(name: str, thing: Any, skip: int = 0) -> list[str]:
    """Return the signature of a function in one line, or with a line for each parameter."""
    made = inspect.signature(thing)
    words, is_keyword = [], False
    for parameter in list(made.parameters.values())[skip:]:
        if parameter.kind is parameter.KEYWORD_ONLY and not is_keyword:
            is_keyword = True
            words.append("*")
        stars = (
            "*"
            if parameter.kind is parameter.VAR_POSITIONAL
            else "**"
            if parameter.kind is parameter.VAR_KEYWORD
            else ""
        )
        is_keyword = is_keyword or stars == "*"
        word = f"{stars}{parameter.name}"
        if parameter.annotation is not parameter.empty:
            word += f": {type_text(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            word += f" = {parameter.default!r}"
        words.append(word)
    answer = "" if made.return_annotation is made.empty else f" -> {type_text(made.return_annotation)}"
    line = f"{name}({', '.join(words)}){answer}"
    return [line] if len(line) <= LINE or skip else [f"{name}(", *(f"    {word}," for word in words), f"){answer}"]


def type_text(annotation: Any) -> str:
    """Return a type as it is written."""
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def doc_lines(thing: Any) -> list[str]:
    """Return a docstring as Markdown: its sections become lists."""
    lines = [""]
    for line in (inspect.getdoc(thing) or "").splitlines():
        section = re.fullmatch(r"(Args|Raises|Returns|Yields):", line)
        item = re.match(r"    (\w[\w.]*): (.*)", line)
        if section:
            lines += [f"*{section[1]}*", ""]
        elif item:
            lines.append(f"- `{item[1]}`: {item[2]}")
        else:
            lines.append(f"  {line.strip()}" if line.startswith("    ") else line)
    return lines


def paragraphs(text: str) -> list[str]:
    """Return the docstring of a module, its lines of code in a block."""
    lines: list[str] = []
    for block in inspect.cleandoc(text).split("\n\n"):
        is_code = block.startswith("import ")
        lines += ["<!-- not run: it launches a run -->", "```python", block, "```", ""] if is_code else [block, ""]
    return lines[:-1]


def cell(text: str) -> str:
    """Return a text for a cell of a table."""
    return text.replace("|", "\\|")
