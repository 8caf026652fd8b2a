"""Workers: one row and one session advisory lock for each worker process, by which others see that one is gone.

Postgres frees a killed worker's lock at once. A frozen worker keeps its lock, but its beat grows old. The beat has its
own table: in `imports` it would wait for the fences of the worker's own batches. The counters of all workers are summed
here too, one row for each.
"""

from __future__ import annotations

import socket
from datetime import timedelta

from rollcall.database import LOCK_CLASS, Connection
from rollcall.telemetry import CounterValues


async def register(tx: Connection, name: str) -> int:
    """Make a worker's row; its number."""
    row = await (
        await tx.execute(
            "insert into rollcall.workers (name, beat) values (%s, clock_timestamp()) returning seq", (name,)
        )
    ).fetchone()
    assert row is not None
    return int(row[0])


async def lock(tx: Connection, worker: int) -> bool:
    """Take the worker's lock, held until this session ends; False while an older session of the same worker has it."""
    row = await (await tx.execute("select pg_try_advisory_lock(%s, %s)", (LOCK_CLASS, worker))).fetchone()
    return bool(row and row[0])


async def end_older_session(tx: Connection, worker: int) -> None:
    """End this worker's earlier control session, whose end the server has not noticed yet."""
    await tx.execute(
        """select pg_terminate_backend(pid) from pg_stat_activity
            where datname = current_database() and application_name = %s and pid <> pg_backend_pid()""",
        (session_name(worker),),
    )


async def beat(tx: Connection, worker: int, name: str) -> None:
    """Write the worker's beat, by the database's clock. Inserts the row again if the sweep deleted it."""
    await tx.execute(
        """insert into rollcall.workers (seq, name, beat) overriding system value
           values (%s, %s, clock_timestamp()) on conflict (seq) do update set beat = excluded.beat""",
        (worker, name),
    )


async def deregister(tx: Connection, worker: int) -> None:
    """Delete the row of a worker that ends and holds no import."""
    await tx.execute("delete from rollcall.workers where seq = %s", (worker,))


async def delete_dead(tx: Connection, age: timedelta) -> int:
    """Delete workers without a beat for `age` that hold no import; how many. One that wakes up inserts its row."""
    rows = await (
        await tx.execute(
            """delete from rollcall.workers w where w.beat < clock_timestamp() - %s
                  and not exists (select from rollcall.imports i where i.worker = w.seq) returning 1""",
            (age,),
        )
    ).fetchall()
    return len(rows)


async def report(tx: Connection, counted: CounterValues) -> None:
    """Add a worker's counters to the sums. Sorted, so that two workers never deadlock."""
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
    """The counters of all workers there ever were, summed."""
    rows = await (await tx.execute("select name, label, value from rollcall.figures")).fetchall()
    return {(name, label): value for name, label, value in rows}


async def count_alive(tx: Connection, stale_seconds: float) -> int:
    """The number of workers with a beat in the last `stale_seconds`."""
    row = await (
        await tx.execute(
            "select count(*) from rollcall.workers where beat > clock_timestamp() - make_interval(secs => %s)",
            (stale_seconds,),
        )
    ).fetchone()
    return int(row[0]) if row else 0


async def seconds_since_beat(tx: Connection, name: str) -> float | None:
    """Seconds since the last beat of the worker with this name; None when there is no such worker."""
    row = await (
        await tx.execute(
            """select extract(epoch from clock_timestamp() - beat)::float8 from rollcall.workers
                where name = %s order by seq desc limit 1""",
            (name,),
        )
    ).fetchone()
    return float(row[0]) if row else None


def name_of(pid: int) -> str:
    """The name of a worker process of this machine: host and process id."""
    return f"{socket.gethostname()}:{pid}"[:200]


def session_name(worker: int) -> str:
    """The application_name of a worker's control connection."""
    return f"rollcall:worker:{worker}"
