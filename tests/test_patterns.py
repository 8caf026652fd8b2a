"""The regular expressions of src: they match the same under every Python that pyproject.toml allows."""

from __future__ import annotations

import ast
import builtins
import importlib
import re._constants as codes  # type: ignore[import-not-found]
import re._parser as parser  # type: ignore[import-not-found]
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rollcall

ROOT = Path(rollcall.__file__).parent
CALLS = {"compile", "match", "search", "fullmatch", "sub", "subn", "split", "findall", "finditer"}
ONE_CHARACTER = {codes.LITERAL, codes.NOT_LITERAL, codes.IN, codes.ANY, codes.CATEGORY}


def pattern_calls(path: Path) -> Iterator[ast.expr]:
    """The pattern argument of every call of `re` in this module."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="re"), attr=name), args=[pattern, *_]) if name in CALLS:
                yield pattern


def patterns(path: Path) -> list[str | bytes]:
    """The patterns of this module, as they are at run time; a character stands for what a function puts in."""
    found = list(pattern_calls(path))
    if not found:
        return []
    name = ".".join(["rollcall", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")
    constants = vars(importlib.import_module(name))
    return [eval(compile(ast.Expression(pattern), str(path), "eval"), {}, Names(constants)) for pattern in found]


class Names(dict[str, Any]):
    """The names of a module; any other one is a character."""

    def __missing__(self, name: str) -> Any:
        return getattr(builtins, name, b";")


def unsafe(tree: Any) -> Iterator[str]:
    """What in a parsed pattern is matched wrongly before Python 3.11.5 (python/cpython#100061)."""
    for op, argument in tree:
        if op is codes.ATOMIC_GROUP:
            yield "an atomic group"
        if op is codes.POSSESSIVE_REPEAT and [item for item, _ in argument[2] if item not in ONE_CHARACTER]:
            yield "a possessive quantifier around a group"
        if op is codes.POSSESSIVE_REPEAT and len(argument[2]) != 1:
            yield "a possessive quantifier around several characters"
        for part in argument if isinstance(argument, tuple | list) else [argument]:
            for inner in part if isinstance(part, list) else [part]:
                if isinstance(inner, parser.SubPattern):
                    yield from unsafe(inner)


@pytest.mark.parametrize(
    "pattern", ["(?:ab)*+", "(?>a|b)", "x(y(?:a|bc)++)", "(?=(?:ab)?+)", "(a)*+", "(?:(?:ab)*+|c)d"]
)
def test_patterns_unsafe_patterns_are_recognised(pattern: str) -> None:
    assert list(unsafe(parser.parse(pattern)))


@pytest.mark.parametrize("pattern", ["a*+", "[^ab]++c", r"(\d*+)x", ".?+", "(?:ab)*", "x|y++"])
def test_patterns_safe_patterns_are_recognised(pattern: str) -> None:
    assert not list(unsafe(parser.parse(pattern)))


def test_patterns_of_src_match_the_same_under_every_python() -> None:
    every = [(path, pattern) for path in sorted(ROOT.rglob("*.py")) for pattern in patterns(path)]
    assert len(every) > 10
    wrong = {f"{path.relative_to(ROOT)}: {pattern!r}": list(unsafe(parser.parse(pattern))) for path, pattern in every}
    assert {place: faults for place, faults in wrong.items() if faults} == {}


def test_patterns_of_src_are_all_seen() -> None:
    """Nothing imports a function of `re` by its name, or `re` under another one."""
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.ImportFrom) and node.module == "re"), path
            assert not (isinstance(node, ast.Import) and any(each.name == "re" and each.asname for each in node.names))
