"""The benchmark: Rollcall against what one would do with psql, in one run, in pairs.

    ./dev bench            1,000,000 records, 5 rounds: the figures that count
    ./dev bench --quick    200,000 records, 1 round: whether something got much worse

Prints a Markdown table: medians over the rounds; the ratio is the median of the rounds' ratios, so it means something
on any machine, seconds do not. A row above its goal is marked. A round in which others used more than 15 % of the
machine is done again. Every result is compared, contact by contact, with what the files must become; a wrong one ends
the run. Needs about 6 GB of disk for temporary files (TMPDIR says where) and nothing that runs already.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import psycopg

import data
import sides
from measure import CORES, Cost, Server, measured
from rollcall import embedded
from rollcall.errors import RollcallError

FOREIGN_MAX = 0.15
TRIES = 5
AGAIN_WAL_MAX = 0.05


@dataclass(frozen=True)
class Row:
    """One comparison: `ours` against `theirs`, both names of costs of a round."""

    what: str
    ours: str
    theirs: str
    goal: float
    wal_goal: float | None = None


ROWS = (
    Row("new, CSV over HTTP", "csv", "copy", 0.55),
    Row("new, JSON over HTTP", "json", "copy", 0.65),
    Row("new, CSV, `rollcall import`", "command", "copy", 0.55),
    Row("same CSV again", "again", "upsert", 0.35, AGAIN_WAL_MAX),
)
Round = dict[str, Cost]


@dataclass(frozen=True)
class Bench:
    """What all rounds share."""

    server: Server
    url: str
    folder: Path
    files: data.Files

    def round(self) -> Round:
        """Every cost once, the sides in turn."""
        with sides.databases(self.server, self.url, "theirs", "ours") as (theirs, ours):
            costs = {"copy": self._cost(lambda: sides.copy(theirs, self.files.rows))}
            with sides.service(ours, self.folder) as service:
                costs["csv"] = self._send(service, self.files.csv)
                sides.same(self.files, ours, theirs)
            sides.settle(ours, theirs)
            costs["upsert"] = self._cost(lambda: sides.upsert(theirs, self.files.rows))
            with sides.service(ours, self.folder) as service:
                costs["again"] = self._send(service, self.files.csv, again=True)
            sides.same(self.files, ours, theirs)
            with sides.databases(self.server, self.url, "from_json") as (from_json,):
                with sides.service(from_json, self.folder) as service:
                    costs["json"] = self._send(service, self.files.json)
                sides.same(self.files, from_json, theirs)
            with sides.databases(self.server, self.url, "by_command") as (by_command,):
                costs["command"] = self._cost(lambda: sides.command(by_command, self.folder, self.files.csv))
                sides.same(self.files, by_command, theirs)
        return costs

    def _send(self, service: sides.Service, file: Path, *, again: bool = False) -> Cost:
        with measured(self.server, service.heads) as cost:
            job = sides.send(service, file)
        sides.accounted(self.files, job, again=again)
        return cost

    def _cost(self, work: Callable[[], None]) -> Cost:
        with measured(self.server, {}) as cost:
            work()
        return cost


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="200,000 records, one round")
    parser.add_argument("--accept-noise", action="store_true", help="keep rounds in which others used the machine")
    given = parser.parse_args()
    count, rounds = (200_000, 1) if given.quick else (1_000_000, 5)
    try:
        with tempfile.TemporaryDirectory(prefix="rollcall-bench-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            folder.chmod(0o711)  # started by root, Postgres runs as somebody else, who has to pass
            files = _made(folder, count)
            with embedded.postgres(folder / "data") as server, psycopg.connect(server.url, autocommit=True) as session:
                bench = Bench(session, server.url, folder, files)
                kept = [_quiet_round(bench, given.accept_noise) for _ in range(rounds)]
                print(report(kept, count, session.info.server_version // 10_000))
    except (sides.WrongResult, RollcallError) as error:
        print(f"./dev bench: {error}", file=sys.stderr)
        return 1
    return 0


def _made(folder: Path, count: int) -> data.Files:
    """In a process of its own: what it needs is not ours to hold."""
    _say(f"making {count:,} records")
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(data.make, (folder, count))


def _quiet_round(bench: Bench, accept_noise: bool) -> Round:
    for _ in range(TRIES):
        costs = bench.round()
        _say("round: " + ", ".join(f"{name} {cost.wall:.1f} s" for name, cost in costs.items()))
        loudest = max(cost.foreign for cost in costs.values())
        if accept_noise or loudest <= FOREIGN_MAX:
            return costs
        _say(f"others used {loudest:.0%} of the machine; once more")
    raise sides.WrongResult("The machine is not quiet enough to measure on. Stop what runs, or pass --accept-noise.")


def report(kept: list[Round], count: int, postgres: int) -> str:
    """The Markdown."""
    heads = (
        "",
        "ratio",
        "goal",
        "CPU",
        "s",
        "psql s",
        "CPU s",
        "psql CPU s",
        "WAL MB",
        "psql WAL MB",
        "worker, API MiB",
    )
    lines = [
        f"{count:,} records, {_rounds(kept)}, {datetime.now(UTC):%Y-%m-%d}; {_machine()}, Postgres {postgres};"
        f" others used at most {max(cost.foreign for costs in kept for cost in costs.values()):.0%} of it",
        "",
        "| " + " | ".join(heads) + " |",
        "|---" + "|--:" * (len(heads) - 1) + "|",
        *(_line(row, kept) for row in ROWS),
        "",
        "CPU seconds, by who spent them:",
        "",
        *(f"- {name}: {_spent(name, kept)}" for name in kept[0]),
    ]
    return "\n".join(lines)


def _line(row: Row, kept: list[Round]) -> str:
    def middle(of: Callable[[Cost], float], side: str) -> float:
        return median(of(costs[side]) for costs in kept)

    ratios = [costs[row.ours].wall / costs[row.theirs].wall for costs in kept]
    ratio = median(ratios)
    wal, their_wal = (middle(lambda cost: cost.wal / 1e6, side) for side in (row.ours, row.theirs))
    memory = [median(costs[row.ours].memory.get(who, 0) for costs in kept) / 2**20 for who in ("worker", "api")]
    cells = (
        row.what,
        f"{ratio:.2f}"
        + (f" ({min(ratios):.2f}–{max(ratios):.2f})" if len(ratios) > 1 else "")
        + _mark(ratio, row.goal),
        f"{row.goal:.2f}",
        f"{median(costs[row.ours].cpu_total / costs[row.theirs].cpu_total for costs in kept):.2f}",
        *(f"{middle(lambda cost: cost.wall, side):.1f}" for side in (row.ours, row.theirs)),
        *(f"{middle(lambda cost: cost.cpu_total, side):.1f}" for side in (row.ours, row.theirs)),
        f"{wal:.0f}" + (_mark(wal / their_wal, row.wal_goal) if row.wal_goal else ""),
        f"{their_wal:.0f}",
        ", ".join(f"{each:.0f}" for each in memory) if any(memory) else "",
    )
    return "| " + " | ".join(cells) + " |"


def _mark(figure: float, goal: float) -> str:
    return " **above goal**" if round(figure, 2) > goal else ""


def _spent(name: str, kept: list[Round]) -> str:
    families = kept[0][name].cpu
    return ", ".join(f"{who} {median(costs[name].cpu[who] for costs in kept):.1f}" for who in families)


def _rounds(kept: list[Round]) -> str:
    return f"{len(kept)} rounds" if len(kept) > 1 else "1 round"


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {CORES} cores, {memory:.0f} GiB, Python {platform.python_version()}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
