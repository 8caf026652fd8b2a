"""Connections, transactions, and what a database error means. Postgres 15 and later.

Every connection has timeouts: a statement waits at most a second for a lock (`end_sessions` then ends frozen sessions),
and Postgres ends a session that is idle inside a transaction. Statements are not prepared, so a pooler may stand
between. Knows no table.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from typing import Any, Literal, LiteralString, Self, TypeVar
from uuid import UUID

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from rollcall import liveness
from rollcall.errors import DatabaseDown, DatabaseFull, DatabaseLocked, RollcallError

Connection = psycopg.AsyncConnection[TupleRow]
Answer = TypeVar("Answer")

IDLE_CONNECTIONS = 8
RENAME_SECONDS = 5.0
SWEEP_LOCK = 5_930_417_482_261
LOCK_CLASS = 1_380_740_204
"""First key of the workers' session advisory locks; the second is the worker's number."""
SENDER_LOCK_CLASS = 1_380_740_205
"""First key of the lock that is held while a sender's uploads are counted; the second is the hash of its name."""
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


class Answering(psycopg.AsyncConnection[TupleRow]):
    """A connection that closes itself when the server does not answer for ANSWER_SECONDS."""

    async def wait(self, gen: PQGen[Answer], *args: Any, **kwargs: Any) -> Answer:
        timer = asyncio.get_running_loop().call_later(liveness.ANSWER_SECONDS, self._break)
        try:
            return await super().wait(gen, *args, **kwargs)
        finally:
            timer.cancel()

    def _break(self) -> None:
        with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(self.fileno())) as ours:
            ours.shutdown(socket.SHUT_RDWR)


async def connect(url: str, name: str, *, idle_seconds: int = 30, patient: bool = False) -> Connection:
    """A new connection in autocommit; pg_stat_activity shows `name` (at most 63 bytes) from the start.

    It closes itself when an answer takes longer than `liveness.ANSWER_SECONDS`, unless it is `patient`. Raises
    psycopg.Error.
    """
    kind = psycopg.AsyncConnection[TupleRow] if patient else Answering
    connection = await kind.connect(url, autocommit=True, application_name=name, prepare_threshold=None, **SOCKET)
    try:
        await connection.execute(SESSION, (f"{idle_seconds}s",))
    except BaseException:
        await connection.close()
        raise
    return connection


class Dialler:
    """Connections for long work, each with a name by which others can end it. Keeps up to IDLE_CONNECTIONS that were
    given back; `async with` closes them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._idle: list[Connection] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close_idle()

    async def connect(self, name: str) -> Connection:
        """A connection with this name, by which others can end it: an idle one, or a new one.

        An idle one is renamed before it is used. If that gets no answer, all idle connections are closed.
        """
        while self._idle:
            connection = next((idle for idle in self._idle if _name(idle) == name), self._idle[-1])
            self._idle.remove(connection)
            if await self._rename(connection, name):
                return connection
        return await connect(self.url, name)

    async def give_back(self, connection: Connection) -> None:
        """Keep a connection, and its name, for the next caller of `connect`. Closes one that is not idle."""
        if len(self._idle) < IDLE_CONNECTIONS and connection.pgconn.transaction_status == TransactionStatus.IDLE:
            self._idle.append(connection)
        else:
            await connection.close()

    async def unname(self, prefix: str) -> None:
        """Rename the idle connections whose name begins with `prefix`: the work of that name is over."""
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
        """Close the connections that were given back."""
        while self._idle:
            await self._idle.pop().close()


def _name(connection: Connection) -> str:
    return connection.info.parameter_status("application_name") or ""


Retry = Literal["lost", "locked", "again", "fault"]


def classify(error: psycopg.Error, connection: Connection | None = None) -> Retry:
    """What to do about a database error. Only this function decides.

    `lost`: the connection is gone; connect again, then look what was committed. Psycopg does not make 25P03 (the
    session was idle in a transaction) an OperationalError, so it is named here. `locked`: another session holds a lock
    (55P03). `again`: retry the transaction after a pause. `fault`: do not retry.
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


def to_unavailable(error: Exception) -> DatabaseDown | DatabaseFull | DatabaseLocked:
    """The error to raise when a retried database error did not pass."""
    if isinstance(error, psycopg.errors.DiskFull):
        return DatabaseFull()
    locked = isinstance(error, psycopg.Error) and error.sqlstate in ("55P03", "40P01", "40001")
    return DatabaseLocked() if locked else DatabaseDown()


async def connection_limit(connection: Connection) -> int:
    """The number of connections that this user may have to this database in all."""
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
    """Take a session advisory lock, held until the connection closes; False while another session has it."""
    row = await (await connection.execute("select pg_try_advisory_lock(%s)", (key,))).fetchone()
    return bool(row and row[0])


async def end_sessions(connection: Connection, job_id: UUID, *, attempt: int, loader: int | None = None) -> int:
    """End the sessions of an import's attempts up to `attempt`, of one loader or of all; how many there were.

    No timeout of Postgres ends a session whose client freezes in the middle of a COPY. Call it outside a transaction:
    inside one, pg_stat_activity is a snapshot.
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
