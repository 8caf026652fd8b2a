"""API keys: who may use the API, and for which Sources.

A key is `rk_`, a public id of 16 hex digits, and a secret of 256 random bits. The secret is shown once; its SHA-256 is
stored. A slow hash such as bcrypt protects passwords that people choose; it adds nothing to 256 random bits, and would
make every request slow.

The row of a revoked key stays: so revoking the last key locks the API instead of opening it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg.rows import class_row

from rollcall.database import Connection
from rollcall.errors import Conflict, NotFound
from rollcall.options import check_label

PREFIX = "rk_"
FORM = re.compile(PREFIX + "([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
NOBODYS = secrets.token_bytes(32)
"""Compared with the secret when the id is unknown, so that both answers take the same time."""


@dataclass(frozen=True)
class Caller:
    """The sender of a request: its key's name, and the Sources the key is bound to (None: all). Without keys both are
    None.
    """

    name: str | None = None
    sources: list[str] | None = None

    def may_use(self, source: str) -> bool:
        return self.sources is None or source in self.sources


@dataclass(frozen=True)
class Key:
    """A live key, without its secret. `used_at` is exact to a minute."""

    id: str
    name: str
    sources: list[str] | None
    created_at: datetime
    used_at: datetime | None


async def create(tx: Connection, name: str, sources: list[str] | None = None) -> str:
    """Make a key and return it; its secret cannot be shown again.

    Imports, limits and Idempotency-Keys refer to a key by its name, so a name is never used again. Raises Conflict when
    it was; InvalidInput when the name or a Source is not valid.
    """
    name, sources = check_label(name, "name"), [check_label(source) for source in sources] if sources else None
    key_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    cursor = await tx.execute(
        """insert into rollcall.keys (id, sha256, name, sources, created_at)
           select %(id)s, %(sha256)s, %(name)s, %(sources)s, clock_timestamp()
            where not exists (select from rollcall.keys where name = %(name)s)
           on conflict (name) where revoked_at is null do nothing returning 1""",
        {"id": key_id, "sha256": _digest(secret), "name": name, "sources": sources},
    )
    if await cursor.fetchone() is None:
        raise Conflict(
            f"There is, or was, a key named {name}. What it sent is known by that name: choose another, such as"
            f" {name}-2."
        )
    return f"{PREFIX}{key_id}_{secret}"


async def revoke(tx: Connection, name: str) -> None:
    """The key stops working at once. Raises NotFound."""
    name = check_label(name, "name")
    cursor = await tx.execute(
        """update rollcall.keys set revoked_at = clock_timestamp() where name = %s and revoked_at is null
           returning 1""",
        (name,),
    )
    if await cursor.fetchone() is None:
        raise NotFound(f"There is no key named {name}. `rollcall keys list` shows those there are.")


async def expire(tx: Connection, age: timedelta) -> int:
    """Forget keys that are revoked for so long; how many. One is kept whatever its age: without any, all are let in."""
    cursor = await tx.execute(
        """delete from rollcall.keys where revoked_at < clock_timestamp() - %s
              and id <> (select id from rollcall.keys order by revoked_at desc nulls first, id limit 1)""",
        (age,),
    )
    return cursor.rowcount


async def live(tx: Connection) -> list[Key]:
    """The keys that are not revoked, in the order they were made."""
    async with tx.cursor(row_factory=class_row(Key)) as cursor:
        await cursor.execute(
            """select id, name, sources, created_at, used_at from rollcall.keys
                where revoked_at is null order by created_at, id"""
        )
        return await cursor.fetchall()


async def any_made(tx: Connection) -> bool:
    """Whether there is a key, live or revoked: then nobody is admitted without one."""
    row = await (await tx.execute("select exists (select from rollcall.keys)")).fetchone()
    return bool(row and row[0])


async def caller(tx: Connection, key: str) -> Caller | None:
    """The sender whose key this is; None when it is not valid. An unknown id takes as long as a wrong secret."""
    parts = FORM.fullmatch(key)
    if parts is None:
        return None
    row = await (
        await tx.execute(
            """select sha256, name, sources, coalesce(used_at < clock_timestamp() - interval '1 minute', true)
                 from rollcall.keys where id = %s and revoked_at is null""",
            (parts[1],),
        )
    ).fetchone()
    same = hmac.compare_digest(_digest(parts[2]), row[0] if row else NOBODYS)
    if row is None or not same:
        return None
    if row[3]:
        await tx.execute("update rollcall.keys set used_at = clock_timestamp() where id = %s", (parts[1],))
    return Caller(row[1], row[2])


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
