"""The Plan: what was found out about a file. Frozen when its Import is first claimed; no later attempt detects again.

Assumes nothing about where the file lies. Holds no rule and no parser.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

FormatName = Literal["csv", "json", "ndjson"]
Compression = Literal["none", "gzip", "zstd"]
Quoting = Literal["doubled", "backslash", "line"]
LineEnd = Literal["\n", "\r"]

DATA = "data"
"""The key of the array of contacts in the contract's envelope."""

READER_VERSION = 2
"""Version of everything that decides where a Record begins, which number it has and what its fields are.

Raise it whenever the same bytes would be read differently: an import that began with another version ends
READER_CHANGED.
"""


@dataclass(frozen=True)
class Mapping:
    """Which columns (CSV) or keys (JSON) make a contact's fields; every other one goes to `attributes`.

    `name` holds one column, or several that are joined with a space (first and last name).
    """

    email: str
    name: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """How to read one file.

    `header`: the columns of a CSV file, made unique (a second `Phone` is `Phone (2)`); of JSON, the keys seen in the
    sample, in order of appearance (a guide for people and reject files; later Records may have others).
    `delimiter`: CSV only. `skip`: bytes of the decoded file before the header (an Excel `sep=` line); 0 for JSON.
    `quoting`: how CSV writes a quote inside quotes, doubled (RFC 4180) or behind a backslash (MySQL); `line`: each line
    is one quoted cell that holds the row. `line_end`: LF also stands for CRLF; where it is CR, LF ends lines too.
    `mapping_given`: the mapping is the sender's; a guessed one is only a guide to the Records of JSON, which go by
    their own keys (`mapping.by_record`). `member`: JSON only, the key of the array of Records if the file is an object;
    None if every object of the file is a Record.
    `loaders`: where each loader begins in the order of addresses (by bytes); the first one with the empty text.
    """

    format: FormatName
    compression: Compression
    header: tuple[str, ...]
    mapping: Mapping
    delimiter: str | None = None
    skip: int = 0
    loaders: tuple[str, ...] = ("",)
    quoting: Quoting = "doubled"
    line_end: LineEnd = "\n"
    mapping_given: bool = False
    member: str | None = DATA
    reader: int = READER_VERSION

    def to_json(self) -> dict[str, Any]:
        """As it is stored on the Import and shown to people."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Self:
        """A stored Plan, also one of another version: what it lacks or has beside these fields raises nothing.

        The `reader` of such a Plan differs, so `parts` refuses it (ReaderChanged) before anything else of it counts.
        """
        mapping = stored.get("mapping") or {}
        known: dict[str, Any] = {"format": "csv", "compression": "none", "header": (), "loaders": ("",), "reader": 0}
        known |= {field.name: stored[field.name] for field in fields(cls) if field.name in stored}
        return cls(
            **known
            | {
                "header": tuple(known["header"]),
                "loaders": tuple(known["loaders"]),
                "mapping": Mapping(email=mapping.get("email", ""), name=tuple(mapping.get("name", ()))),
            }
        )
