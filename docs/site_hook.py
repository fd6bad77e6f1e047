"""A hook of MkDocs: pages of the repository outside of `docs/` become pages of the site, and links follow.

On the site the README is the overview. A link to a file that is no page of the site, such as a script, keeps its text
only: the site has no copy of it.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
OUTSIDE = {
    "README.md": "index.md",
    "SECURITY.md": "SECURITY.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "infra/README.md": "infra/README.md",
    "benchmarks/README.md": "benchmarks/README.md",
}
"""Pages outside of `docs/`, and their places on the site."""

LINK = re.compile(r"(!?\[(?:[^\]\[]|\[[^\]]*\])*\])\(([^)\s]+)\)")
TABLE_CODE = re.compile(r"(?<=[ |(])`[^`\n]*\\\|[^`\n]*`")  # GitHub needs the backslash, Python-Markdown shows it
FENCE = re.compile(r"(^```.*?^```)", flags=re.DOTALL | re.MULTILINE)


def on_config(config: Any) -> Any:
    """List every decision in the navigation, so that a new one is on the site."""
    decisions = sorted((ROOT / "docs" / "decisions").glob("0*.md"))
    pages = ["decisions/README.md", *(f"decisions/{path.name}" for path in decisions)]
    for section in config.nav:
        for entry in next(iter(section.values())) if isinstance(section, dict) else ():
            if isinstance(entry, dict) and "Decisions" in entry:
                entry["Decisions"] = pages
    return config


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages outside of `docs/`."""
    for source, place in OUTSIDE.items():
        files.append(File.generated(config, place, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(text: str, *, page: Any, config: Any, files: Files) -> str:
    """Return the page with its links as they are on the site."""
    place = page.file.src_uri
    source = next((name for name, there in OUTSIDE.items() if there == place), f"docs/{place}")
    parts = FENCE.split(text)
    return "".join(part if part.startswith("```") else _linked(part, source, place, files) for part in parts)


def _linked(text: str, source: str, place: str, files: Files) -> str:
    text = TABLE_CODE.sub(lambda code: code[0].replace("\\|", "|"), text)

    def link(found: re.Match[str]) -> str:
        label, target = found[1], found[2]
        path, hash_sign, anchor = target.partition("#")
        if "://" in target or target.startswith("mailto:") or not path:
            return found[0]
        there = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        on_site = OUTSIDE.get(there, there.removeprefix("docs/"))
        if files.get_file_from_path(on_site) is None:
            return label[1:-1] if (ROOT / there).exists() else found[0]  # strict: what is nowhere is an error
        relative = os.path.relpath(on_site, posixpath.dirname(place) or ".")
        return f"{label}({relative}{hash_sign}{anchor})"

    return LINK.sub(link, text)
