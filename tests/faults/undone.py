"""The code without one of its rules, in a copy: what a test is for that ought to fail then.

A rule is addressed by the function, class or module that keeps it, never by a file or a line, and the names inside it
are written $1, $2, … where a name does not matter. So a rename of either changes nothing here.
"""

from __future__ import annotations

import ast
import inspect
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

SOURCE = Path(__file__).parents[2] / "src"


@dataclass(frozen=True)
class Edit:
    """`text`, which occurs once in the definition `name` of a file (empty: in the whole file), becomes `instead`.

    `$1`, `$2`, … in `text` stand for a name, dotted or not; in `instead` for the same one.
    """

    file: Path
    name: str
    text: str
    instead: str

    def apply(self, source: str) -> str:
        begin, end = _span(source, self.name)
        found = list(re.finditer(self._pattern(), source[begin:end]))
        where = f"{self.name or 'the module'} in {self.file}"
        assert len(found) == 1, f"{len(found)} times, not once, in {where}: {self.text}"
        instead = re.sub(r"\$(\d)", lambda number: str(found[0][f"n{number[1]}"]), self.instead)
        return source[: begin + found[0].start()] + instead + source[begin + found[0].end() :]

    def _pattern(self) -> str:
        pattern, known = "", set[str]()
        for piece in re.split(r"(\$\d)", self.text):
            if not re.fullmatch(r"\$\d", piece):
                pattern += re.escape(piece)
            elif piece in known:
                pattern += f"(?P=n{piece[1]})"
            else:
                known.add(piece)
                pattern += rf"(?<![\w.])(?P<n{piece[1]}>[\w.]+)(?![\w.])"
        return pattern


@dataclass(frozen=True)
class Undone:
    """`rule`: what the code then lacks. `test`: path and name as pytest has them, of one test or of all with their
    parameters.
    """

    name: str
    rule: str
    test: str
    edits: tuple[Edit, ...]


def undone(name: str, rule: str, test: str, *edits: Edit) -> Undone:
    return Undone(name, rule, test, edits)


def edit(symbol: Any, text: str, instead: str) -> Edit:
    """`symbol`: a function, a class or a module of Rollcall's."""
    symbol = inspect.unwrap(symbol) if callable(symbol) else symbol
    module = symbol if isinstance(symbol, ModuleType) else inspect.getmodule(symbol)
    assert module is not None
    assert module.__file__
    name = "" if isinstance(symbol, ModuleType) else symbol.__qualname__
    return Edit(Path(module.__file__).relative_to(SOURCE), name, text, instead)


def texts(rule: Undone) -> dict[Path, str]:
    """The files that are edited, as they are then; paths in the folder of sources."""
    found: dict[Path, str] = {}
    for each in rule.edits:
        found[each.file] = each.apply(found.get(each.file) or (SOURCE / each.file).read_text())
    return found


def copy_without(rule: Undone, folder: Path) -> Path:
    """The sources without this rule; the folder to import them from."""
    copy = folder / "src"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in texts(rule).items():
        (copy / name).write_text(text)
    return copy


def _span(source: str, name: str) -> tuple[int, int]:
    """Where the definition begins and ends in the text of its module; the whole text if there is no name."""
    lines = source.splitlines(keepends=True)
    nodes: list[ast.stmt] = ast.parse(source).body
    first, last = 1, len(lines)
    for part in name.split(".") if name else []:
        node = next(
            node
            for node in nodes
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == part
        )
        first, last, nodes = node.lineno, node.end_lineno or node.lineno, node.body
    return sum(map(len, lines[: first - 1])), sum(map(len, lines[:last]))
