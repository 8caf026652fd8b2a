"""Connections, transactions, and what a database error means. Postgres 15 and later.

Every connection has timeouts: nobody waits longer than a second for a lock (`end_sessions` then moves what is
frozen), and a session that is idle inside a transaction is ended. Statements are not prepared, so that a pooler may
stand between. No table of ours is known here.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal, LiteralString, Self, TypeVar
from uuid import UUID

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from rollcall.errors import DatabaseDown, DatabaseFull, RollcallError

Connection = psycopg.AsyncConnection[TupleRow]
Answer = TypeVar("Answer")

POOL_SIZE = 10
POOL_WAIT_SECONDS = 5.0
IDLE_CONNECTIONS = 8
RENAME_SECONDS = 5.0
POOL_RECONNECT_SECONDS = 2.0
"""The pool's pauses between tries double up to this; then the next request tries anew. Its own five minutes would keep
a service down that long after its database."""
SWEEP_LOCK = 5_930_417_482_261
LOCK_CLASS = 1_380_740_204
"""First key of the workers' session advisory locks; the second is the worker's number."""
SENDER_LOCK_CLASS = 1_380_740_205
"""First key of the lock under which a sender's uploads are counted; the second is the hash of its name."""
ANSWER_SECONDS = 120.0
"""A pooler between may take our bytes and pass none on: no timeout of TCP or of the server ends that. The longest
statement loads a batch, in a small part of this. Longer than `lock_timeout`, or a half-open twin is never ended."""
STATEMENT_SECONDS = 15
"""What one statement of a pooled connection may take: those are answers that somebody waits for."""
SOCKET: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
SESSION: LiteralString = """
select set_config('lock_timeout', '1s', false), set_config('idle_in_transaction_session_timeout', %s, false),
       set_config('client_min_messages', 'error', false), set_config('timezone', 'UTC', false)
"""


class Incompatible(RollcallError):
    """The database does not fit this version of Rollcall."""

    code = "DATABASE_INCOMPATIBLE"
    status = 503


class _Answering(psycopg.AsyncConnection[TupleRow]):
    """A connection that breaks when an answer is missing for too long."""

    async def wait(self, gen: PQGen[Answer], *args: Any, **kwargs: Any) -> Answer:
        timer = asyncio.get_running_loop().call_later(ANSWER_SECONDS, self._break)
        try:
            return await super().wait(gen, *args, **kwargs)
        finally:
            timer.cancel()

    def _break(self) -> None:
        with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(self.fileno())) as ours:
            ours.shutdown(socket.SHUT_RDWR)


async def connect(url: str, name: str, *, idle_seconds: int = 30, patient: bool = False) -> Connection:
    """One connection of one's own, in autocommit, with `name` (at most 63 bytes) in pg_stat_activity from the start.

    It is lost when an answer takes longer than ANSWER_SECONDS, unless it is `patient`.
    """
    kind = psycopg.AsyncConnection[TupleRow] if patient else _Answering
    connection = await kind.connect(url, autocommit=True, application_name=name, prepare_threshold=None, **SOCKET)
    try:
        await connection.execute(SESSION, (f"{idle_seconds}s",))
    except BaseException:
        await connection.close()
        raise
    return connection


class Database:
    """A pool of connections for short work, and the way to connections of one's own. Opened with `async with`."""

    def __init__(self, url: str, *, name: str = "rollcall") -> None:
        self.url = url
        self._idle: list[Connection] = []
        self._pool = AsyncConnectionPool[Connection](
            url,
            connection_class=_Answering,
            kwargs={"autocommit": True, "application_name": name, "prepare_threshold": None, **SOCKET},
            configure=_configure,
            check=AsyncConnectionPool.check_connection,
            min_size=1,
            max_size=POOL_SIZE,
            timeout=POOL_WAIT_SECONDS,
            reconnect_timeout=POOL_RECONNECT_SECONDS,
            open=False,
        )

    async def __aenter__(self) -> Self:
        await self._pool.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.close()
        await self.close_idle()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Connection]:
        """A pooled connection in autocommit: every statement is a transaction. Raises DatabaseDown, DatabaseFull."""
        try:
            async with self._pool.connection() as connection:
                yield connection
        except PoolTimeout as error:
            raise DatabaseDown from error
        except psycopg.Error as error:
            if classify(error) == "fault":
                raise
            raise to_unavailable(error) from error

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A pooled connection inside a transaction: committed at the end, rolled back on any exception."""
        async with self.session() as connection, connection.transaction():
            yield connection

    async def connect(self, name: str) -> Connection:
        """A connection under this name, so that others can end it: one that was given back, or a new one.

        It takes its name before anything else is said on it. Where one does not answer, none is trusted any more.
        """
        while self._idle:
            connection = next((idle for idle in self._idle if _name(idle) == name), self._idle[-1])
            self._idle.remove(connection)
            if await self._rename(connection, name):
                return connection
        return await connect(self.url, name)

    async def give_back(self, connection: Connection) -> None:
        """Keep a connection, and its name, for who needs one next. What did not go well is closed instead."""
        if len(self._idle) < IDLE_CONNECTIONS and connection.pgconn.transaction_status == TransactionStatus.IDLE:
            self._idle.append(connection)
        else:
            await connection.close()

    async def unname(self, prefix: str) -> None:
        """The work is over that had names which begin so: what was given back has none of them any more."""
        for connection in [idle for idle in self._idle if _name(idle).startswith(prefix)]:
            if connection in self._idle:
                self._idle.remove(connection)
                if await self._rename(connection, "rollcall:idle"):
                    await self.give_back(connection)

    async def _rename(self, connection: Connection, name: str) -> bool:
        try:
            if _name(connection) != name:
                async with asyncio.timeout(RENAME_SECONDS):
                    await connection.execute("select set_config('application_name', %s, false)", (name,))
        except (psycopg.Error, TimeoutError):
            await connection.close()
            await self.close_idle()
            return False
        return True

    async def close_idle(self) -> None:
        """Close those that were given back."""
        while self._idle:
            await self._idle.pop().close()


def _name(connection: Connection) -> str:
    return connection.info.parameter_status("application_name") or ""


async def _configure(connection: Connection) -> None:
    await connection.execute(SESSION, ("30s",))
    await connection.execute("select set_config('statement_timeout', %s, false)", (f"{STATEMENT_SECONDS}s",))


Retry = Literal["lost", "locked", "again", "fault"]


def classify(error: psycopg.Error, connection: Connection | None = None) -> Retry:
    """What to do about it: the one place that decides.

    `lost`: the connection is gone, whatever the SQLSTATE says (25P03 is no OperationalError); connect again and look.
    `locked`: 55P03, somebody holds what we need. `again`: the same transaction once more, after a pause.
    `fault`: never again.
    """
    state = error.sqlstate or ""
    if connection is not None and (connection.closed or connection.broken):
        return "lost"
    if state == "55P03":
        return "locked"
    if state in ("40001", "40P01", "58030") or state.startswith("53"):
        return "again"
    if state.startswith(("08", "57P0")) or state == "25P03":
        return "lost"
    if not state and isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
        return "lost"
    return "fault"


def to_unavailable(error: Exception) -> DatabaseDown | DatabaseFull:
    """What to say when an error that may pass has not passed."""
    return DatabaseFull() if isinstance(error, psycopg.errors.DiskFull) else DatabaseDown()


async def connection_limit(connection: Connection) -> int:
    """How many connections this user may have to this database, all of them together."""
    row = await (
        await connection.execute(
            """select least(current_setting('max_connections')::int
                              - current_setting('superuser_reserved_connections')::int
                              - coalesce(current_setting('reserved_connections', true)::int, 0),  -- since Postgres 16
                            case when not u.rolsuper then nullif(d.datconnlimit, -1) end,
                            case when not u.rolsuper then nullif(u.rolconnlimit, -1) end)
                 from pg_database d, pg_roles u where d.datname = current_database() and u.rolname = current_user"""
        )
    ).fetchone()
    assert row is not None
    return int(row[0])


async def lock_alone(connection: Connection, key: int) -> bool:
    """Take an advisory lock for as long as the connection lives; False while another one has it."""
    row = await (await connection.execute("select pg_try_advisory_lock(%s)", (key,))).fetchone()
    return bool(row and row[0])


async def end_sessions(connection: Connection, job_id: UUID, *, attempt: int, loader: int | None = None) -> int:
    """End the sessions of an import up to `attempt`, of every loader or of one; how many there were.

    A client that is frozen in the middle of a COPY is moved by no timeout. Outside any transaction: inside one,
    pg_stat_activity stands still.
    """
    row = await (
        await connection.execute(
            """select count(pg_terminate_backend(pid)) from pg_stat_activity
                where datname = current_database() and pid <> pg_backend_pid()
                  and substring(application_name from %s)::int <= %s""",
            (f"^rollcall:{job_id}:([0-9]{{1,9}}):{'[0-9]+' if loader is None else loader}$", attempt),
        )
    ).fetchone()
    return int(row[0]) if row else 0
