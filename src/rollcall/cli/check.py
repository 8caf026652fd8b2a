"""`rollcall check`: read a file as an import would, and say what it would do. No database; nothing is written.

Memory: the reader's two Parts, and eight bytes for each Record to count the duplicates by.
"""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.text import Text

from rollcall.cli import show
from rollcall.cli.terminal import printable
from rollcall.options import Options
from rollcall.records import Part, Plan, inspect, message, parts

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


@dataclass
class Findings:
    """What was met so far. `keys`: a 64-bit hash of every valid Record's email."""

    read: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    rejects: list[dict[str, Any]] = field(default_factory=list)
    keys: array[int] = field(default_factory=lambda: array("q"))

    def add(self, part: Part) -> None:
        self.read = part.last
        self.keys.extend(map(hash, part.contacts["email"].to_pylist()))
        self.codes.update(map(str, part.rejects["code"].to_pylist()))
        self.rejects += part.rejects.slice(0, show.REJECTS_SHOWN - len(self.rejects)).to_pylist()

    def duplicates(self) -> int:
        """Valid Records whose email stands before them already."""
        keys = np.frombuffer(self.keys, np.int64)
        keys.sort()
        return int(np.count_nonzero(keys[1:] == keys[:-1]))


def run(file: Path, given: dict[str, str]) -> bool:
    """Print the findings; whether every Record is valid. Raises Unreadable, InvalidInput.

    `given`: the options `mapping` and `format`, as texts.
    """
    options, found = Options.parse(given), Findings()
    with file.open("rb") as stream:
        plan = inspect(stream, format=options.format, mapping=options.mapping)
        _print_plan(file, plan)
        stream.seek(0)
        try:
            with show.progress() as moved:
                for part in parts(stream, plan):
                    found.add(part)
                    moved("reading", part.position, file.stat().st_size, f"{found.read:,} records")
        finally:
            if found.read:
                _print_findings(found)
    return not found.codes


def _print_plan(file: Path, plan: Plan) -> None:
    out = show.console()
    how = "" if plan.delimiter is None else f", separated by {SEPARATORS.get(plan.delimiter, plan.delimiter)}"
    packed = "" if plan.compression == "none" else f", {plan.compression}"
    for line in (
        printable(f"{file.name}: {plan.format.upper()}, UTF-8{how}{packed}"),
        show.columns(plan.header, asdict(plan.mapping)),
    ):
        out.print(Text(line))


def _print_findings(found: Findings) -> None:
    out, rejected = show.console(), found.codes.total()
    heads = ("records", "valid", "duplicate", "rejected")
    figures = show.table(*heads, numbers=heads)
    figures.add_row(*(f"{each:,}" for each in (found.read, found.read - rejected, found.duplicates(), rejected)))
    out.print(figures)
    codes = show.table("code", "records", numbers=("records",))
    for code, count in found.codes.most_common():
        codes.add_row(code, f"{count:,}")
    if rejected:
        out.print()
        out.print(codes)
    show.rejects(
        ({**row, "message": message(row["code"], row["field"], row["value"])} for row in found.rejects), rejected
    )
