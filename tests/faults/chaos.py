"""Everything at once, for as long as one likes: python tests/faults/chaos.py SEED SECONDS.

Six Sources get three files each; three workers load them through a proxy that breaks connections, while workers are
killed, frozen and stopped, sessions ended, Postgres crashed, imports cancelled and retried. Then everybody is left
alone until no import is open, and the tables are held against the oracle. Exits 0 when nothing is amiss. Not part of
the suite; the same seed does the same harm, though never at the same moment.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

import psycopg

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults import oracle
from faults.harness import Site, Worker, site, until
from faults.oracle import File
from faults.proxy import Harm, Link, Proxy, proxy
from rollcall import control, embedded, migrations
from rollcall.errors import DatabaseDown

HASTE = 5.0
SOURCES, EDITIONS, WORKERS = 6, 3, 3
QUIET_SECONDS = 240.0
SERVER = {
    "fsync": "off",
    "wal_writer_delay": "10s",
    "wal_writer_flush_after": "1GB",
    "wal_buffers": "64MB",
    "deadlock_timeout": "200ms",
}
WEIGHTS = {
    "kill": 3.0,
    "freeze": 3.0,
    "end a loader": 5.0,
    "end a control": 3.0,
    "crash postgres": 0.4,
    "kill a backend": 0.3,
    "cancel": 1.5,
    "retry": 2.0,
    "drain": 1.5,
    "notify": 1.0,
}
HARMS: list[Harm] = ["cut", "reset", "answerless", "swallow", "late"]


class Chaos:
    """What is running, and what was done to it."""

    def __init__(self, seed: int, server: embedded.Server, place: Site, between: Proxy) -> None:
        self.chance = random.Random(seed)
        self.server, self.place, self.between = server, place, between
        self.workers: list[Worker] = []
        self.frozen: dict[Worker, float] = {}
        self.hurt: set[int] = set()
        self.ended: list[Worker] = []
        self.done: Counter[str] = Counter()
        self.posted: dict[UUID, File] = {}

    def judge(self, link: Link, data: bytes) -> Harm:
        """One message in 150 is the last one its connection hears."""
        if not link.name.startswith("rollcall") or self.chance.random() > 1 / 150:
            return "pass"
        harm = self.chance.choice(HARMS)
        self.done[f"connection {harm}"] += 1
        return harm

    def keep_house(self) -> None:
        """Thaw who was frozen long enough; start workers for those that ended."""
        for worker, until_ in list(self.frozen.items()):
            if time.monotonic() > until_ or worker.status is not None:
                worker.send(signal.SIGCONT)
                del self.frozen[worker]
        self.ended += [worker for worker in self.workers if worker.status is not None]
        self.workers = [worker for worker in self.workers if worker.status is None]
        while len(self.workers) < WORKERS:
            records = self.chance.choice([60, 100, 150, 230])
            self.workers.append(self.place.worker(records=records, haste=HASTE, through=self.between.url))

    async def act(self) -> None:
        (what,) = self.chance.choices(list(WEIGHTS), list(WEIGHTS.values()))
        worker = self.chance.choice(self.workers)
        match what:
            case "kill":
                self.hurt.add(worker.pid)
                worker.send(signal.SIGKILL)
            case "freeze" if len(self.frozen) < WORKERS - 1 and worker not in self.frozen:
                self.frozen[worker] = time.monotonic() + self.chance.choice([0.5, 2, 6, 9])
                worker.send(signal.SIGSTOP)
            case "drain":
                worker.send(signal.SIGTERM)
            case "end a loader":
                await self._end("rollcall:%-%-%")
            case "end a control":
                await self._end("rollcall:worker:%")
            case "kill a backend":
                for (pid,) in await self._sessions("rollcall:%"):
                    os.kill(pid, signal.SIGKILL)
            case "crash postgres":
                await asyncio.to_thread(self.server.stop, "immediate")
                await asyncio.sleep(self.chance.choice([0, 0.5, 5]))
                await asyncio.to_thread(self.server.start)
            case "cancel" | "retry":
                await self._cancel_or_retry(what)
            case "notify":
                await self.place.query("select pg_notify('rollcall', '') from generate_series(1, 20)")
            case _:
                return
        self.done[what] += 1

    async def _sessions(self, like: str) -> list[tuple[int]]:
        rows = await self.place.query(
            """select pid from pg_stat_activity where datname = current_database() and application_name like %s
                order by random() limit 1""",
            like,
        )
        return [(row[0],) for row in rows]

    async def _end(self, like: str) -> None:
        for (pid,) in await self._sessions(like):
            await self.place.query("select pg_terminate_backend(%s)", pid)

    async def _cancel_or_retry(self, what: str) -> None:
        states = ["queued", "running"] if what == "cancel" else ["failed", "cancelled"]
        rows = await self.place.query(
            "select id from rollcall.imports where state = any(%s) order by random() limit 1", states
        )
        for (job_id,) in rows:
            if what == "cancel":
                await control.cancel(self.place.database, job_id)
            if what == "retry" or self.chance.random() < 0.5:
                await self.place.retry(job_id)

    async def storm(self, seconds: float) -> None:
        """Post all files in the first half of the time, and do harm to the end."""
        began = time.monotonic()
        due = [(self.chance.uniform(0, seconds / 2), source) for source in range(SOURCES) for _ in range(EDITIONS)]
        due.sort()
        editions: Counter[int] = Counter()
        while due or time.monotonic() - began < seconds:
            self.keep_house()
            while due and time.monotonic() - began >= due[0][0]:
                _, source = due.pop(0)
                file = File(f"source {source}", editions[source], self.chance.randint(2000, 5000))
                editions[source] += 1
                self.posted[await self.place.post(file.source, file.csv())] = file
            try:
                await self.act()
            except (psycopg.OperationalError, DatabaseDown):
                self.done["met a database that was away"] += 1
            await asyncio.sleep(self.chance.uniform(0.05, 0.45))

    async def calm(self) -> float:
        """Leave everybody alone until no import is open; the seconds that took."""
        began = time.monotonic()
        self.between.judge = lambda link, data: "pass"
        self.between.deliver.set()
        for worker in self.frozen:
            worker.send(signal.SIGCONT)
        self.frozen.clear()

        async def quiet() -> bool:
            self.keep_house()
            rows = await self.place.query("select id from rollcall.imports where state in ('queued', 'running')")
            return not rows

        await until(quiet, QUIET_SECONDS, "no import is open")
        return time.monotonic() - began

    def events(self) -> Counter[str]:
        """How often which event was logged by all workers, take-overs by their reason."""
        found: Counter[str] = Counter()
        for worker in self.workers + self.ended:
            for line in worker.said().splitlines():
                if line.startswith("{") and line.endswith("}"):
                    event = json.loads(line)
                    found[" ".join(str(event[key]) for key in ("event", "how", "error", "code") if key in event)] += 1
        return found

    def end(self) -> None:
        for worker in self.workers + self.ended:
            worker.__exit__()

    def strange(self) -> list[str]:
        """Workers that ended badly though nobody killed them. (SIGTERM kills one that is still starting.)"""
        return [
            f"worker {worker.pid} exited with {worker.status}: {worker.said()[-2000:]}"
            for worker in self.ended
            if worker.status not in (0, -signal.SIGTERM) and worker.pid not in self.hurt
        ]


@contextmanager
def empty_folder() -> Iterator[Path]:
    """One in which an embedded Postgres can run, as root too."""
    with TemporaryDirectory(prefix="rollcall-chaos-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


async def main(seed: int, seconds: float) -> int:
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(empty_folder())
        server = stack.enter_context(embedded.postgres(folder, options=SERVER))
        await migrations.migrate(server.url)
        await oracle.instrument(server.url, slow=0.02)
        between = await stack.enter_async_context(proxy(server.url))
        place = await stack.enter_async_context(site(server.url, folder))
        chaos = Chaos(seed, server, place, between)
        between.judge = chaos.judge
        stack.callback(chaos.end)
        await chaos.storm(seconds)
        quiet = await chaos.calm()
        found = await oracle.violations(server.url, chaos.posted) + chaos.strange()
        states = await place.query("select state, count(*), max(attempt) from rollcall.imports group by state")
        records = sum(file.count for file in chaos.posted.values())
        say(f"seed {seed}, {seconds:g} s: {len(chaos.posted)} imports of {records} Records, quiet after {quiet:.1f} s")
        say(f"  imports (state, count, highest attempt): {states}")
        say(f"  harm: {dict(sorted(chaos.done.items()))}")
        say(f"  events: {dict(sorted(chaos.events().items()))}")
        for violation in found:
            say(f"  VIOLATION {violation}")
        say("  held" if not found else "  BROKEN")
        return 1 if found else 0


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]))))
