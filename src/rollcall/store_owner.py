"""Whose store this is: the identity of this database, and the store's record of the database that it belongs to.

A sweep deletes every object that its database does not know, so two databases on one store would delete each other's.
The first database that stores or deletes something there becomes the owner; every other one is refused. The identity
is made at that moment and not with the tables, or databases cloned from one template would share it.
"""

from __future__ import annotations

from rollcall.database import Connection
from rollcall.errors import StoreMismatch
from rollcall.storage import Store


async def check(tx: Connection, store: Store) -> None:
    """Raises StoreMismatch when the store belongs to another database; StoreDown. Writes nothing."""
    owner = await store.owner()
    if owner is not None and owner != await _identity(tx):
        raise StoreMismatch


async def claim(tx: Connection, store: Store) -> None:
    """`check`, after making this database the owner of a store that has none. Raises what `check` raises; NoSpace.

    `tx` is in autocommit: the store must not record an identity that a rollback takes back.
    """
    if await store.owner() is None:
        if await _identity(tx) is None:
            await tx.execute(
                "insert into rollcall.identity (id) values (gen_random_uuid()) on conflict (only_row) do nothing"
            )
        identity = await _identity(tx)
        assert identity is not None
        await store.claim(identity)
    await check(tx, store)


async def claim_used(tx: Connection, store: Store) -> None:
    """`claim` for a database that has files already, as one from before stores had owners; else `check`."""
    row = await (await tx.execute("select exists (select from rollcall.segments)")).fetchone()
    await (claim if row and row[0] else check)(tx, store)


async def _identity(tx: Connection) -> str | None:
    row = await (await tx.execute("select id::text from rollcall.identity")).fetchone()
    return row[0] if row else None
