"""What a piece of work costs: wall time, CPU seconds of every process, WAL, memory; and who else was at work.

CPU seconds are of whole families: a process, its living descendants, and those it has waited for. The CPU that the
machine spent on nobody we know is foreign. Linux only: it reads /proc.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psycopg
from psycopg.rows import TupleRow

TICKS = os.sysconf("SC_CLK_TCK")
CORES = os.cpu_count() or 1
ENDING_SECONDS = 0.1
"""What a process that has done its work needs to end: in the midst of it, it is in nobody's account."""
Server = psycopg.Connection[TupleRow]


@dataclass
class Cost:
    """`cpu`: seconds by family, `postgres` and `bench` (this process and its children: psql, commands) among them.

    `memory`: most bytes that a family's head ever held (of the families that were given). `wal`: bytes. `foreign`: the
    share of the whole machine's CPU that others took. `said`: what the worker's log says of an import at its end.
    """

    wall: float = 0.0
    cpu: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    wal: int = 0
    foreign: float = 0.0
    said: dict[str, Any] = field(default_factory=dict)

    @property
    def cpu_total(self) -> float:
        return sum(self.cpu.values())


@contextmanager
def measured(server: Server, heads: Mapping[str, int]) -> Iterator[Cost]:
    """The cost of the block, filled at its end. `heads`: process ids of the families besides `postgres` and `bench`."""
    row = server.execute("select pg_backend_pid()").fetchone()
    assert row is not None
    known = {**heads, "postgres": _stat(row[0])[0]}
    server.execute("checkpoint")  # what came before is not to be written while the clock runs
    os.sync()
    cost = Cost()
    wal, cpu, busy, wall = _wal(server), _families(known), _busy(), time.monotonic()
    yield cost
    cost.wall, busy_after = time.monotonic() - wall, _busy()
    time.sleep(ENDING_SECONDS)
    cpu_after = _families(known)
    cost.cpu = {family: cpu_after[family] - cpu[family] for family in cpu}
    cost.foreign = max(0.0, busy_after - busy - cost.cpu_total) / (cost.wall * CORES)
    cost.wal = _wal(server) - wal
    cost.memory = {family: memory(head, "VmHWM") for family, head in heads.items()}


def memory(process: int, field: Literal["VmRSS", "VmHWM"]) -> int:
    """Bytes that a process holds now, or the most that it ever held."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def _families(heads: Mapping[str, int]) -> dict[str, float]:
    parents: dict[int, int] = {}
    spent: dict[int, float] = {}
    reaped: dict[int, float] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                parents[int(folder.name)], spent[int(folder.name)], reaped[int(folder.name)] = _stat(int(folder.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    found = dict.fromkeys((*heads, "bench"), 0.0)
    named = {head: family for family, head in heads.items()} | {os.getpid(): "bench"}
    for process in parents:
        ancestor = process
        while ancestor not in named and ancestor in parents:
            ancestor = parents[ancestor]
        if ancestor in named:
            found[named[ancestor]] += spent[process] + reaped[process]
    return found


def _stat(process: int) -> tuple[int, float, float]:
    """Parent, CPU seconds of its own, CPU seconds of the children it has waited for."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return int(fields[1]), (int(fields[11]) + int(fields[12])) / TICKS, (int(fields[13]) + int(fields[14])) / TICKS


def _busy() -> float:
    """CPU seconds that the machine has spent, or was denied: everything but idling and waiting for disks."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS


def _wal(server: Server) -> int:
    row = server.execute("select (pg_current_wal_insert_lsn() - '0/0')::bigint").fetchone()
    assert row is not None
    return int(row[0])
