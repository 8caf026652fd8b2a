"""A pool of connections for HTTP requests. Workers have none; they open their own (`database`).

A request fails soon: a statement takes at most STATEMENT_SECONDS, and waiting for a connection POOL_WAIT_SECONDS.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from rollcall.database import SESSION, SOCKET, Answering, Connection, classify, to_unavailable
from rollcall.errors import DatabaseDown

POOL_SIZE = 10
POOL_WAIT_SECONDS = 5.0
POOL_RECONNECT_SECONDS = 2.0
"""The pool doubles its pauses between tries up to this; then the next request tries again. The pool's default of five
minutes would keep the service down that long after its database is back."""
STATEMENT_SECONDS = 15


class Pool:
    """At most POOL_SIZE connections with one name. Open it with `async with`."""

    def __init__(self, url: str, *, name: str = "rollcall") -> None:
        self.url = url
        self._pool = AsyncConnectionPool[Connection](
            url,
            connection_class=Answering,
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

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Connection]:
        """A connection in autocommit: every statement is a transaction. Raises DatabaseDown, DatabaseFull,
        DatabaseLocked."""
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
        """A connection inside a transaction: committed at the end, rolled back on any exception."""
        async with self.session() as connection, connection.transaction():
            yield connection


async def _configure(connection: Connection) -> None:
    await connection.execute(SESSION, ("30s",))
    await connection.execute("select set_config('statement_timeout', %s, false)", (f"{STATEMENT_SECONDS}s",))
