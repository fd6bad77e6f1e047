"""No file, class or function is longer than a reader can hold; the counting itself is tested first."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.sizes import Limit, too_long

ROOT = Path(__file__).parents[2]
LIMIT = Limit(file=500, a_class=400, function=60)
SMALL = Limit(file=8, a_class=5, function=3)


@pytest.mark.parametrize("half", ["orchestrator", "model", "infra"])
def test_nothing_is_longer_than_its_limit(half: str) -> None:
    paths = list((ROOT / half).rglob("*.py"))
    assert len(paths) > 10
    assert too_long(paths, LIMIT, ROOT) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("x = 1\n" * 8, []),
        ("x = 1\n" * 9, ["a.py:1 file: 9 lines (8 allowed)"]),
        ("def f():\n    x = 1\n    return x\n", []),
        ("def f():\n    x = 1\n\n    return x\n", ["a.py:1 f: 4 lines (3 allowed)"]),
        ("async def f():\n    '''\n    '''\n    x = 1\n", ["a.py:1 f: 4 lines (3 allowed)"]),
        ("@d\n@d\ndef f():\n    x = 1\n    return x\n", []),
        ("@d\ndef f(\n    a,\n):\n    x = 1\n", ["a.py:2 f: 4 lines (3 allowed)"]),
        ("class C:\n    a = 1\n    b = 1\n    c = 1\n    d = 1\n", []),
        ("class C:\n    a = 1\n    b = 1\n    c = 1\n\n    d = 1\n", ["a.py:1 C: 6 lines (5 allowed)"]),
        ("if x:\n    class C:\n        def f(s):\n            a\n            b\n            c\n",
         ["a.py:3 f: 4 lines (3 allowed)"]),
        ("def f():\n    def g():\n        a\n        b\n        c\n",
         ["a.py:1 f: 5 lines (3 allowed)", "a.py:2 g: 4 lines (3 allowed)"]),
    ],
)  # fmt: skip
def test_the_counting_finds_what_is_too_long(tmp_path: Path, text: str, found: list[str]) -> None:
    (tmp_path / "a.py").write_text(text)
    assert too_long([tmp_path / "a.py"], SMALL, tmp_path) == found


def test_a_long_function_in_a_folder_of_this_project_is_found(tmp_path: Path) -> None:
    body = "".join(f"    x = {number}\n" for number in range(60))
    (tmp_path / "engine.py").write_text(f"def lead():\n{body}")
    assert too_long(tmp_path.rglob("*.py"), LIMIT, tmp_path) == ["engine.py:1 lead: 61 lines (60 allowed)"]
