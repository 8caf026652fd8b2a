"""Workers: one row and one session advisory lock for each worker process; how others tell that one is gone.

A killed worker's lock is free at once. A frozen one keeps its lock, but its beat grows old. The beat is here and never
in `imports`, where it would wait for the fence of the worker's own batches. What workers count is summed here too: one
row a figure, for all of them together.
"""

from __future__ import annotations

import socket
from datetime import timedelta

from rollcall.database import LOCK_CLASS, Connection
from rollcall.telemetry import CounterValues


async def register(tx: Connection, name: str) -> int:
    """A new worker's number."""
    row = await (
        await tx.execute(
            "insert into rollcall.workers (name, beat) values (%s, clock_timestamp()) returning seq", (name,)
        )
    ).fetchone()
    assert row is not None
    return int(row[0])


async def lock(tx: Connection, worker: int) -> bool:
    """Take the worker's lock for as long as this session lives; False while an older session of its own has it."""
    row = await (await tx.execute("select pg_try_advisory_lock(%s, %s)", (LOCK_CLASS, worker))).fetchone()
    return bool(row and row[0])


async def end_older_session(tx: Connection, worker: int) -> None:
    """End this worker's own earlier control session, which the server has not yet seen to be dead."""
    await tx.execute(
        """select pg_terminate_backend(pid) from pg_stat_activity
            where datname = current_database() and application_name = %s and pid <> pg_backend_pid()""",
        (session_name(worker),),
    )


async def beat(tx: Connection, worker: int, name: str) -> None:
    """Say that this worker lives; on the database's clock. The row is put back if somebody removed it."""
    await tx.execute(
        """insert into rollcall.workers (seq, name, beat) overriding system value
           values (%s, %s, clock_timestamp()) on conflict (seq) do update set beat = excluded.beat""",
        (worker, name),
    )


async def deregister(tx: Connection, worker: int) -> None:
    """The worker ends and works on nothing."""
    await tx.execute("delete from rollcall.workers where seq = %s", (worker,))


async def delete_dead(tx: Connection, age: timedelta) -> int:
    """Forget workers that have been silent for so long and hold no import; how many. Who wakes up puts its row back."""
    rows = await (
        await tx.execute(
            """delete from rollcall.workers w where w.beat < clock_timestamp() - %s
                  and not exists (select from rollcall.imports i where i.worker = w.seq) returning 1""",
            (age,),
        )
    ).fetchall()
    return len(rows)


async def report(tx: Connection, counted: CounterValues) -> None:
    """Add what a worker has counted to the sums. In one order, so that two workers wait for each other at most."""
    rises = [(*key, value) for key, value in sorted(counted.items()) if value]
    if rises:
        names, labels, values = zip(*rises, strict=True)
        await tx.execute(
            """insert into rollcall.figures as f (name, label, value)
               select * from unnest(%s::text[], %s::text[], %s::float8[])
               on conflict (name, label) do update set value = f.value + excluded.value""",
            (list(names), list(labels), list(values)),
        )


async def figures(tx: Connection) -> CounterValues:
    """What all workers have counted, since there are workers."""
    rows = await (await tx.execute("select name, label, value from rollcall.figures")).fetchall()
    return {(name, label): value for name, label, value in rows}


async def count_alive(tx: Connection, stale_seconds: float) -> int:
    """Workers that have shown themselves lately."""
    row = await (
        await tx.execute(
            "select count(*) from rollcall.workers where beat > clock_timestamp() - make_interval(secs => %s)",
            (stale_seconds,),
        )
    ).fetchone()
    return int(row[0]) if row else 0


async def seconds_since_beat(tx: Connection, name: str) -> float | None:
    """Seconds since the worker of this name last showed itself; None when there is none."""
    row = await (
        await tx.execute(
            """select extract(epoch from clock_timestamp() - beat)::float8 from rollcall.workers
                where name = %s order by seq desc limit 1""",
            (name,),
        )
    ).fetchone()
    return float(row[0]) if row else None


def name_of(pid: int) -> str:
    """What a worker process of this machine calls itself."""
    return f"{socket.gethostname()}:{pid}"[:200]


def session_name(worker: int) -> str:
    """The application_name of a worker's control connection."""
    return f"rollcall:worker:{worker}"
