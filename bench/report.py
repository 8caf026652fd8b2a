"""What was found, as Markdown: medians over the rounds; a ratio is the median of the rounds' ratios."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from measure import CORES, Cost
from stand import Figure, Group, Round, Row, Scale

BEGIN, END = "<!-- begin of what `./dev bench --write` writes -->", "<!-- end of it -->"
MARK = " **above goal**"
LANES = {"fold", "merge", "commit"}
"""The stages of a loader; all others are the reader's."""
DIGITS = {"×": 2, "s": 2, "ms": 0, "MiB": 0, "": 0}


def markdown(kept: list[tuple[Group, list[Round]]], scale: Scale, postgres: int) -> str:
    """`kept`: every Group with its rounds; a Group without rounds is left out."""
    kept = [(group, rounds) for group, rounds in kept if rounds]
    foreign = max((cost.foreign for _, rounds in kept for each in rounds for cost in each.costs.values()), default=0)
    parts = [
        f"{scale.count:,} records, {_number(scale.rounds, 'round')}; large: {scale.large:,} records, once."
        f" {datetime.now(UTC):%Y-%m-%d}; {_machine()}, Postgres {postgres}; others used at most {foreign:.0%} of it."
    ]
    table = [_compared(row, rounds) for group, rounds in kept for row in group.rows]
    parts += _table(("", "against", "wall ratio", "goal", "CPU ratio", "WAL ratio"), table)
    parts += _table(("", "figure", "goal"), [cells for _, rounds in kept for cells in _figures(rounds)])
    costs = [(name, [each.costs[name] for each in rounds]) for _, rounds in kept for name in rounds[0].costs]
    heads = ("", "s", "CPU s", "Postgres", "worker", "API", "bench, psql", "WAL MB", "worker MiB", "API MiB")
    parts += _table(heads, [_cost(name, each) for name, each in costs], "What it cost:")
    said = [(name, each) for name, each in costs if each[0].said]
    stages = said[0][1][0].said["stages"] if said else ()
    parts += _table(
        ("", *stages, "of", "reader idle", "loaders idle"),
        [_stages(name, each) for name, each in said],
        "Seconds by stage, as the worker's log has them, and how long the reader and the loaders stood idle:",
    )
    return "\n\n".join(parts)


def write(path: Path, text: str) -> None:
    """Put it between the marks in a file."""
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{path} has no place for the table: {BEGIN} … {END}")
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


def _compared(row: Row, rounds: list[Round]) -> tuple[str, ...]:
    def ratios(of: Callable[[Cost], float]) -> list[float]:
        return [of(each.costs[row.ours]) / of(each.costs[row.theirs]) for each in rounds]

    wall, wal = ratios(lambda cost: cost.wall), median(ratios(lambda cost: cost.wal))
    spread = f" ({min(wall):.2f}–{max(wall):.2f})" if len(wall) > 1 else ""
    return (
        row.ours,
        row.theirs,
        f"{median(wall):.2f}{spread}{_mark(median(wall), row.goal, 2)}",
        "" if row.goal is None else f"{row.goal:.2f}" + (f", WAL {row.wal_goal:.2f}" if row.wal_goal else ""),
        f"{median(ratios(lambda cost: cost.cpu_total)):.2f}",
        f"{wal:.2f}{_mark(wal, row.wal_goal, 2)}",
    )


def _figures(rounds: list[Round]) -> Iterable[tuple[str, ...]]:
    by_what: dict[str, list[Figure]] = {}
    for figure in (figure for each in rounds for figure in each.figures):
        by_what.setdefault(figure.what, []).append(figure)
    for what, found in by_what.items():
        value, unit, goal = median(figure.value for figure in found), found[0].unit, found[0].goal
        digits = DIGITS[unit]
        shown = "" if goal is None else f"{goal:,.{digits}f} {unit}"
        yield what, f"{value:,.{digits}f} {unit}{_mark(value, goal, digits)}", shown


def _cost(name: str, found: list[Cost]) -> tuple[str, ...]:
    def middle(values: Iterable[float], digits: int) -> str:
        value = median(values)
        return f"{value:,.{digits}f}" if value else ""

    return (
        name,
        middle((cost.wall for cost in found), 1),
        middle((cost.cpu_total for cost in found), 1),
        *(middle((cost.cpu.get(who, 0) for cost in found), 1) for who in ("postgres", "worker", "api", "bench")),
        middle((cost.wal / 1e6 for cost in found), 0),
        *(middle((cost.memory.get(who, 0) / 2**20 for cost in found), 0) for who in ("worker", "api")),
    )


def _stages(name: str, found: list[Cost]) -> tuple[str, ...]:
    def idle(stages: Iterable[str], threads: int) -> str:
        busy = [sum(each["stages"][stage] for stage in stages) / each["seconds"] / threads for each in said]
        return f"{max(0, 1 - median(busy)):.0%}"

    said = [cost.said for cost in found]
    return (
        name,
        *(f"{median(each['stages'][stage] for each in said):.1f}" for stage in said[0]["stages"]),
        f"{median(each['seconds'] for each in said):.1f}",
        idle(said[0]["stages"].keys() - LANES, 1),
        idle(LANES, len(said[0]["loaders"])),
    )


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]], *introduction: str) -> list[str]:
    """A table and what stands above it; nothing without rows."""
    left = 1 + sum(head == "against" for head in heads)
    rule = "|" + "---|" * left + "--:|" * (len(heads) - left)
    lines = [f"| {' | '.join(heads)} |", rule, *(f"| {' | '.join(cells)} |" for cells in rows)]
    return [*introduction, "\n".join(lines)] if rows else []


def _mark(value: float, goal: float | None, digits: int) -> str:
    return MARK if goal is not None and round(value, digits) > goal else ""


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {CORES} cores, {memory:.0f} GiB, Python {platform.python_version()}"
