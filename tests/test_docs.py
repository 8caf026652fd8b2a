"""What is written for people is what the code has: nothing missing, nothing that is gone.

`python tests/test_docs.py > docs/commands.md` writes the reference of the commands anew.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import rollcall
from rollcall.app import create
from rollcall.cli import app
from rollcall.errors import RollcallError
from rollcall.options import NAMES
from rollcall.records.rules import CODES
from rollcall.settings import Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
COMMANDS = (
    *("up", "import", "check", "status", "rejects", "keys create", "keys list", "keys revoke"),
    *("api", "worker", "migrate"),
)
NEVER_SHOWN = {"REFUSED", "CONFLICT", "STOPPED", "DRAINING", "FENCED"}
"""A family's name, one for later, and signals between the worker's own parts."""


def section(title: str) -> str:
    found = re.search(rf"^## {title}$(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def first_cells(text: str) -> set[str]:
    """What stands in backticks in the first column of the tables."""
    return set(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE))


def modules() -> Iterator[str]:
    for found in pkgutil.walk_packages(rollcall.__path__, "rollcall."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
        yield found.name


def tree(family: type[RollcallError]) -> Iterator[type[RollcallError]]:
    yield family
    for child in family.__subclasses__():
        yield from tree(child)


def command_of(line: str) -> list[str]:
    """`keys create` of `rollcall keys create NAME --source crm`."""
    words = line.split()[1:]
    return words[: 2 if words[0] == "keys" else 1]


def registered(group: typer.Typer) -> Iterator[str]:
    for info in group.registered_commands:
        yield info.name or (info.callback.__name__ if info.callback else "")
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        yield from (f"{inner.name} {name}" for name in registered(inner.typer_instance))


def commands() -> str:
    lines = ["# Commands", "", "As `--help` says it. Settings, exit statuses and examples of HTTP are in the README."]
    for command in COMMANDS:
        shown = CliRunner().invoke(app, [*command.split(), "--help"], prog_name="rollcall", terminal_width=100)
        lines += ["", f"## rollcall {command}", "", "```", shown.stdout.strip(), "```"]
    return "\n".join(lines) + "\n"


def test_docs_settings() -> None:
    assert first_cells(section("Settings")) == {name.upper() for name in Settings.model_fields}
    for name, setting in Settings.model_fields.items():
        row = re.search(rf"^\| `{name.upper()}` \| (.*?) ?\| ", section("Settings"), re.MULTILINE)
        assert row is not None
        default = (
            "" if setting.default is None or setting.default_factory else str(setting.default).removesuffix(", 0:00:00")
        )
        assert row[1] == (default.lower() if isinstance(setting.default, bool) else default)


def test_docs_reject_codes() -> None:
    assert first_cells(section("The account")) - {
        "created",
        "updated",
        "unchanged",
        "skipped",
        "duplicate",
        "rejected",
    } == {*CODES}


def test_docs_error_codes() -> None:
    list(modules())
    known = {error.code for error in tree(RollcallError)} - NEVER_SHOWN
    assert (
        set(re.findall(r"`([A-Z][A-Z_]{5,})`", section("Errors"))) - {name.upper() for name in Settings.model_fields}
        == known
    )


def test_docs_statuses_of_refusals() -> None:
    statuses = {error.code: error.status for error in tree(RollcallError)}
    for code, status in re.findall(r"^\| `([A-Z_]+)` \| (\d+) \|", section("Errors"), re.MULTILINE):
        assert statuses[code] == int(status)


def test_docs_options() -> None:
    cells = first_cells(section("Run the service"))
    assert {cell for cell in cells if "/" not in cell} == {"source", "useResumable", *NAMES}


def test_docs_requests() -> None:
    cells = first_cells(section("Run the service"))
    paths = create(Settings(), database_url="").openapi()["paths"]
    served = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert {cell for cell in cells if "/" in cell} | {"POST /import"} == served


def test_docs_commands() -> None:
    named = {" ".join(command_of(cell)) for cell in first_cells(section("Commands"))}
    assert named == set(registered(app))
    assert named == set(COMMANDS)


def test_docs_reference_of_commands() -> None:
    assert (ROOT / "docs" / "commands.md").read_text(encoding="utf-8") == commands(), (
        "python tests/test_docs.py > docs/commands.md"
    )


def test_docs_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {match[0] for each in project["dependencies"] if (match := re.match(r"[\w-]+", each))}
    assert first_cells(ARCHITECTURE) == needed


def test_docs_modules_of_the_architecture() -> None:
    package = ROOT / "src" / "rollcall"
    packages = ARCHITECTURE[ARCHITECTURE.index("## Packages") : ARCHITECTURE.index("## The way")]
    for folder, row in re.findall(r"^\| ((?!package)[a-z/]+) \| (.*) \|$", packages, re.MULTILINE):
        named = set(re.findall(r"`([\w]+\.(?:py|sql))`", row))
        there = {file.name for file in (package / folder).iterdir() if file.suffix in (".py", ".sql")}
        assert named == there - {"__init__.py"}, folder
    for path in re.findall(r"\b([a-z_]+(?:/[a-z_]*)*(?:\.py|/))(?![\w.])", ARCHITECTURE.replace(packages, "")):
        assert (package / path).exists(), path
    floors = ARCHITECTURE[: ARCHITECTURE.index("## The way")]
    for module in {name.split(".")[1] for name in modules()}:
        assert re.search(rf"\b{module}\b", floors), module


def test_docs_floors_are_those_of_the_contract() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    layers = next(each["layers"] for each in contract if each["type"] == "layers")
    named = {module for layer in layers for module in re.split(r"[ |:]+", layer)}
    assert named == {name.split(".")[1] for name in modules()}


def test_docs_changelog_knows_the_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## (\d+\.\d+\.\d+)", changelog, re.MULTILINE)
    assert released[0] == rollcall.__version__
    assert changelog.index("## Unreleased") < changelog.index(f"## {released[0]}")


@pytest.mark.parametrize("line", re.findall(r"(?:^\$ |^\.venv/bin/|^\| `)(rollcall [^`\n]*)", README, re.MULTILINE))
def test_docs_commands_of_the_readme_exist(line: str) -> None:
    words = shlex.split(line)
    shown = CliRunner().invoke(app, [*command_of(line), "--help"])
    assert shown.exit_code == 0
    assert all(word in shown.stdout for word in words if word.startswith("--"))


def test_docs_links_lead_somewhere() -> None:
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            assert "://" in target or (document.parent / target).exists(), f"{document.name}: {target}"


if __name__ == "__main__":
    sys.stdout.write(commands())
