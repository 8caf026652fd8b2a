"""Small imports, 100 records of JSON each: alone, fifty a second, and beside a large one.

They take a service as it comes, with its usual settings: what it refuses (more than MAX_QUEUED_IMPORTS in the queue)
is counted, not sent again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from statistics import median, quantiles

import httpx
import orjson
import psycopg

import sides
from data import person
from measure import measured
from rollcall.client import TIMEOUT
from stand import Figure, Group, Round, Stand

RECORDS = 100
FIRST = 500_000_000
"""Of their people: no other file has them."""
SOURCES = 10
RATE = 50
ALONE = 60
ALONE_MAX, BESIDE_MAX, DRAIN_MAX = 150.0, 2.0, 2.0
"""Milliseconds; seconds; seconds."""


@dataclass(frozen=True)
class Times:
    """Of one import, seconds since the epoch."""

    sent: float
    started: float
    finished: float


@dataclass
class Sender:
    """Sends small imports, each of new people; `sent`: when each was, by its jobId."""

    http: httpx.AsyncClient
    sent: dict[str, float] = field(default_factory=dict)
    refused: int = 0
    _count: int = 0

    async def send(self) -> str | None:
        """The jobId; None if it was refused. Raises WrongResult at any other answer."""
        number, self._count = self._count, self._count + 1
        people = map(person, range(FIRST + number * RECORDS, FIRST + (number + 1) * RECORDS))
        data = [{"name": name, "email": email} for name, email, *_ in people]
        body = orjson.dumps({"source": f"small {number % SOURCES}", "data": data})
        began = time.time()
        answer = await self.http.post("/import", content=body, headers={"Content-Type": "application/json"})
        if answer.status_code in (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE):
            self.refused += 1
            return None
        if not answer.is_success:
            raise sides.WrongResult(f"A small import was answered {answer.status_code}: {answer.text}")
        job_id = str(answer.json()["jobId"])
        self.sent[job_id] = began
        return job_id

    async def every(self, seconds: float, going: Callable[[], bool]) -> None:
        """Send one in every so many seconds, however long the answers take, for as long as it is `going`."""
        began, number = time.monotonic(), 0
        try:
            async with asyncio.TaskGroup() as group:
                while going():
                    group.create_task(self.send())
                    number += 1
                    await asyncio.sleep(max(0, began + number * seconds - time.monotonic()))
        except ExceptionGroup as faults:
            raise faults.exceptions[0] from None

    async def settled(self) -> None:
        """Until none of them is open."""
        for state in ("queued", "running"):
            while open_ := (await self.http.get("/imports", params={"state": state, "limit": 1})).json()["imports"]:
                await self.http.get(f"/imports/{open_[0]['jobId']}", params={"wait": 10})

    def times(self, url: str) -> list[Times]:
        """Of all that were sent, in that order; the database knows when they ended. Raises WrongResult."""
        with psycopg.connect(url) as connection:
            rows = connection.execute(
                """select id::text, created, extract(epoch from started_at)::float8,
                          extract(epoch from finished_at)::float8
                     from rollcall.imports where source like 'small%' and state = 'succeeded'"""
            ).fetchall()
        if {row[0] for row in rows} != set(self.sent) or any(row[1] != RECORDS for row in rows):
            raise sides.WrongResult(f"Of {len(self.sent)} small imports {len(rows)} are as they should be.")
        return sorted((Times(self.sent[job_id], *times) for job_id, _, *times in rows), key=lambda each: each.sent)


def run(running: sides.Service, story: Callable[[Sender], Awaitable[None]]) -> Sender:
    """Tell this story to a Sender, and wait until its imports are final."""

    async def told() -> Sender:
        async with httpx.AsyncClient(base_url=running.url, timeout=TIMEOUT, trust_env=False) as http:
            sender = Sender(http)
            await story(sender)
            await sender.settled()
            return sender

    return asyncio.run(told())


def small(stand: Stand) -> Round:
    """One after the other; then so many a second."""
    found = Round()
    with stand.databases("alone") as [url], sides.service(url, stand.folder) as running:
        seen: list[float] = []
        sender = run(running, lambda sender: _alone(sender, seen))
        took = [1000 * (each.finished - each.sent) for each in sender.times(url)]
        found.figures += [
            Figure("100 records, idle service: p50", median(took), "ms", ALONE_MAX),
            Figure("100 records, idle service: p95", quantiles(took, n=20)[-1], "ms"),
            Figure("the same, as a client with `?wait` sees it: p50", 1000 * median(seen), "ms"),
        ]
    with stand.databases("stream") as [url], sides.service(url, stand.folder) as running:
        with measured(stand.server, running.heads) as cost:
            end = time.monotonic() + stand.scale.seconds
            sender = run(running, lambda sender: sender.every(1 / RATE, lambda: time.monotonic() < end))
        found.costs[f"{RATE} small imports a second"] = cost
        found.figures += _flow(sender, sender.times(url))
    return found


async def _alone(sender: Sender, seen: list[float]) -> None:
    for number in range(ALONE):
        began = time.monotonic()
        if job_id := await sender.send():
            while (await sender.http.get(f"/imports/{job_id}", params={"wait": 10})).json()["finishedAt"] is None:
                pass
        seen.append(time.monotonic() - began)
        await asyncio.sleep(0.01 * (number % 30))  # at no fixed distance from the worker's last look


def _flow(sender: Sender, times: list[Times]) -> list[Figure]:
    took = sorted(each.finished - each.sent for each in times)
    tenth = max(1, len(times) // 10)
    name = f"{RATE} small imports a second"
    return [
        Figure(f"{name}: refused, of {len(times) + sender.refused:,}", sender.refused, "", 0),
        Figure(f"{name}: from the last POST to the last end", _last(times), "s", DRAIN_MAX),
        Figure(f"{name}: p50, first tenth", 1000 * median(_took(times[:tenth])), "ms"),
        Figure(f"{name}: p50, last tenth", 1000 * median(_took(times[-tenth:])), "ms"),
        Figure(f"{name}: p99", 1000 * took[len(took) * 99 // 100], "ms"),
        Figure(f"{name}: most of them open at a time", _most_open(times), ""),
    ]


def _took(times: list[Times]) -> list[float]:
    return [each.finished - each.sent for each in times]


def _last(times: list[Times]) -> float:
    return max(each.finished for each in times) - times[-1].sent


def _most_open(times: list[Times]) -> int:
    events = sorted([(each.sent, 1) for each in times] + [(each.finished, -1) for each in times])
    now = most = 0
    for _, change in events:
        now += change
        most = max(most, now)
    return most


def beside(times: list[Times]) -> list[Figure]:
    """Of small imports that were sent while a large one ran."""
    name, start = "100 records beside a large import", max(each.started - each.sent for each in times)
    return [
        Figure(f"{name}, {len(times)} times: slowest start", start, "s", BESIDE_MAX),
        Figure(f"{name}: slowest end", max(_took(times)), "s", BESIDE_MAX),
        Figure(f"{name}: p50 to the end", 1000 * median(_took(times)), "ms"),
    ]


GROUPS = {"small": Group(small, once=True)}
