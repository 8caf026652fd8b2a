"""The code without one of its rules, in a copy: what a test is for that ought to fail then."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"


@dataclass(frozen=True)
class Undone:
    """`rule`: what the code then lacks. `test`: path and name as pytest has them, of one test or of all with their
    parameters. `edits`: file of the package, text that occurs once in it, text instead.
    """

    name: str
    rule: str
    test: str
    edits: tuple[tuple[str, str, str], ...]


def undone(name: str, rule: str, test: str, *edits: tuple[str, str, str]) -> Undone:
    return Undone(name, rule, test, edits)


def texts(rule: Undone) -> dict[str, str]:
    """The files that are edited, as they are then."""
    found: dict[str, str] = {}
    for name, text, instead in rule.edits:
        before = found.get(name) or (SOURCE / "rollcall" / name).read_text()
        assert before.count(text) == 1, f"{rule.name}: this is not once in {name}: {text}"
        found[name] = before.replace(text, instead)
    return found


def copy_without(rule: Undone, folder: Path) -> Path:
    """The sources without this rule; the folder to import them from."""
    copy = folder / "src"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in texts(rule).items():
        (copy / "rollcall" / name).write_text(text)
    return copy
