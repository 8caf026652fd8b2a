"""The words of the code are those of docs/glossary.md: a stranger finds each of them there."""

from __future__ import annotations

import ast
import builtins
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import rollcall

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "rollcall"
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
ROWS = set(re.findall(r"^\| ([^|]+?) \|", GLOSSARY, re.MULTILINE)) - {"word", "---"}

INSIDE_A_SENTENCE = re.compile(r"(?<=[a-z0-9,;:)] )([A-Z][a-z]+(?:[A-Z][a-z]+)*)\b")
HEADERS = {"Accept", "Authorization", "Bearer", "Content", "Host", "Location", "Origin", "Retry", "Sec"}


@cache
def sources() -> dict[str, tuple[str, ast.Module]]:
    """Text and syntax tree of every module, by its path."""
    texts = {str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}
    return {name: (text, ast.parse(text)) for name, text in texts.items()}


def prose(text: str, tree: ast.Module) -> Iterator[str]:
    """The paragraphs of a module's docstrings, and its comments, without what stands in backticks."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            for paragraph in re.split(r"\n\s*\n", node.value.value):
                yield re.sub(r"`[^`]*`|\s+", lambda found: "x" if found[0][0] == "`" else " ", paragraph)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield re.sub(r"`[^`]*`", "x", token.string.lstrip("# "))


def names() -> set[str]:
    """Names that the code defines, imports or uses, and those of Python itself."""
    found = set(dir(builtins))
    for _, tree in sources().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef | ast.alias):
                found.add(node.name)
            elif isinstance(node, ast.Name):
                found.add(node.id)
            elif isinstance(node, ast.Attribute):
                found.add(node.attr)
    return found


def test_glossary_has_every_capitalised_word() -> None:
    others = re.findall(r"\b[A-Z]\w+", GLOSSARY[GLOSSARY.index("## Names of others") :])
    known = {word for row in ROWS for word in re.split(r"\W+", row)} | set(others) | names() | HEADERS
    unknown = {
        f"{name}: {word}"
        for name, source in sources().items()
        for paragraph in prose(*source)
        for word in INSIDE_A_SENTENCE.findall(paragraph)
        if word not in known and word.removesuffix("s") not in known
    }
    assert not unknown, "add these words to docs/glossary.md, or write them without a capital letter"


def test_glossary_has_no_word_that_the_code_does_not_use() -> None:
    code = " ".join(text for text, _ in sources().values()).lower().replace("_", " ")
    assert not {row for row in ROWS if row.lower() not in code}


def test_first_files_to_read_name_the_glossary_and_the_style() -> None:
    for name in ("ARCHITECTURE.md", "CONTRIBUTING.md"):
        assert "docs/glossary.md" in (ROOT / name).read_text(encoding="utf-8"), name
    assert "STYLE.md" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert "docs/glossary.md" in (rollcall.__doc__ or "")
