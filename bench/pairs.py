"""The rows that compare two ways to load the same contacts, side by side in every round."""

from __future__ import annotations

import asyncio

import judge
import sides
from data import LUCK, People
from files import File
from measure import Cost, memory
from rollcall.client import Client
from stand import Figure, Group, Round, Row, Stand

MEMORY_MAX = 300.0
"""MiB that a worker may take, whatever it loads."""
API_MEMORY_MAX = 64.0
"""MiB that the API may take beyond what it takes when idle."""


def new(stand: Stand) -> Round:
    """Contacts that are not there yet, and then the same ones again; against psql. Each side has the server to itself:
    no other database is there, which autovacuum might turn to, or which takes the memory that the system has at hand.
    """
    csv, json, rows = stand.files("csv", "json", "rows")
    costs = {}
    with stand.databases("theirs") as [url]:
        costs["psql `\\copy`"] = stand.cost(lambda: sides.copy(url, rows.path))
        judge.contacts(url, rows)
        sides.settle(url)
        costs["psql upsert"] = stand.cost(lambda: sides.upsert(url, rows.path))
        judge.contacts(url, rows)
    with stand.databases("ours") as [url]:
        with sides.service(url, stand.folder) as running:
            costs["CSV"] = stand.send(running, csv)
        judge.contacts(url, csv)
        sides.settle(url)
        with sides.service(url, stand.folder) as running:
            costs["same CSV again"] = stand.send(running, csv, again=True)
        judge.contacts(url, csv)
    costs["JSON"] = stand.load(json)
    costs["CSV by `rollcall import`"] = by_command(stand, csv)
    return Round(costs)


def by_command(stand: Stand, file: File) -> Cost:
    """What `rollcall import` costs, from its start to its end."""
    with stand.databases("by_command") as [url]:
        cost = stand.cost(lambda: sides.command(url, stand.folder, file.path))
        judge.contacts(url, file)
    return cost


def csv(stand: Stand) -> Round:
    """CSV as programs write it."""
    plain, quoted, gzip = stand.files("csv", "quoted", "gzip")
    [lines] = stand.files("csv", people=People(stand.scale.count, lines=True))
    named = {"plain CSV": plain, "quotes in every field": quoted, "quoted newlines": lines, "gzip": gzip}
    return Round({name: stand.load(file) for name, file in named.items()})


def json(stand: Stand) -> Round:
    """JSON as programs write it."""
    array, ndjson, envelope = stand.files("json", "ndjson", "envelope")
    named = {"JSON array": array, "NDJSON": ndjson, "JSON envelope": envelope}
    return Round({name: stand.load(file) for name, file in named.items()})


def loaders(stand: Stand) -> Round:
    """The same file with fewer and with more loaders."""
    [plain] = stand.files("csv")
    return Round({f"LOADERS={count}": stand.load(plain, LOADERS=count) for count in ("2", "1", "4")})


def rejects(stand: Stand) -> Round:
    """Files with many bad records; and their Rejects as one file."""
    [clean] = stand.files("csv")
    [half] = stand.files("csv", people=People(stand.scale.count, bad=LUCK // 2))
    [bad] = stand.files("csv", people=People(stand.scale.count, bad=LUCK))
    found = Round({"clean CSV": stand.load(clean), "half of it bad": stand.load(half)})
    with stand.databases("rejects") as [url], sides.service(url, stand.folder) as running:
        cost = found.costs["all of it bad"] = stand.send(running, bad)
        idle = memory(running.heads["api"], "VmRSS")
        asyncio.run(_fetch_rejects(running, bad))
        most = memory(running.heads["api"], "VmHWM")
    found.figures = [
        Figure("worker, all of a file bad", cost.memory["worker"] / 2**20, "MiB", MEMORY_MAX),
        Figure("API beyond idle, all Rejects as one CSV", max(0, most - idle) / 2**20, "MiB", API_MEMORY_MAX),
    ]
    return found


async def _fetch_rejects(running: sides.Service, bad: File) -> None:
    """All Rejects as CSV. Raises WrongResult."""
    lines = 0
    async with Client(running.url) as client:
        [job] = await client.latest()
        async for block in client.rejects(job["jobId"], "csv"):
            lines += block.count(b"\n")
    if lines != bad.rejected + 1:
        raise sides.WrongResult(f"{lines:,} lines of Rejects for {bad}")


GROUPS = {
    "new": Group(
        new,
        (
            Row("CSV", "psql `\\copy`", 0.55),
            Row("JSON", "psql `\\copy`", 0.65),
            Row("CSV by `rollcall import`", "psql `\\copy`"),
            Row("same CSV again", "psql upsert", 0.35, wal_goal=0.05),
        ),
    ),
    "csv": Group(
        csv,
        (
            Row("quotes in every field", "plain CSV", 1.3),
            Row("quoted newlines", "plain CSV", 1.3),
            Row("gzip", "plain CSV", 1.15),
        ),
    ),
    "json": Group(json, (Row("NDJSON", "JSON array", 1.0), Row("JSON envelope", "JSON array"))),
    "loaders": Group(loaders, (Row("LOADERS=1", "LOADERS=2"), Row("LOADERS=4", "LOADERS=2"))),
    "rejects": Group(rejects, (Row("half of it bad", "clean CSV", 1.5), Row("all of it bad", "clean CSV"))),
}
