"""Bring a database's schema up to this version: the numbered files of this folder, each applied once, in order.

All in one transaction under an advisory lock: two at once, a crash in the middle, or anything that stands in the way
leave the database as it was. A file that was applied is never changed: its checksum is kept. There is no way back.
"""

from __future__ import annotations

import hashlib
from importlib import resources

import psycopg

from rollcall.database import Connection, Incompatible, classify, connect
from rollcall.errors import DatabaseDown, DatabaseLocked
from rollcall.migrations.adoption import adopt

MIGRATION_LOCK = 5_930_417_482_260
LOCK_SECONDS = 60
OLDEST_SERVER = 15


async def migrate(url: str, *, keep_newest: bool = False) -> list[str]:
    """Bring the schema up to this version; the names of the files applied.

    A `contacts` that was there before is adopted (see `adoption`); `keep_newest` settles its duplicates. Raises
    Incompatible when the schema is newer than this program, an applied file has changed since, or that `contacts`
    cannot be adopted yet; DatabaseDown when there is no database; DatabaseLocked when others hold its tables.
    """
    try:
        async with await connect(url, "rollcall:migrate", patient=True) as tx, tx.transaction():
            await tx.execute("select set_config('lock_timeout', %s, true)", (f"{LOCK_SECONDS}s",))
            await tx.execute("select pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))
            return await _apply(tx, keep_newest=keep_newest)
    except psycopg.Error as error:
        match classify(error):
            case "locked":
                raise DatabaseLocked(
                    f"For {LOCK_SECONDS} seconds others have used the tables that are to be changed; nothing was"
                    " changed. End their transactions, or try again."
                ) from error
            case "fault":
                said = error.diag.message_primary
                raise Incompatible(f"The database refuses the migration: {said}. Nothing was changed.") from error
            case _:
                raise DatabaseDown from error


async def _apply(tx: Connection, *, keep_newest: bool) -> list[str]:
    if tx.info.server_version < OLDEST_SERVER * 10_000:
        raise Incompatible(f"Rollcall needs Postgres {OLDEST_SERVER} or later.")
    await tx.execute("create schema if not exists rollcall")
    await tx.execute(
        "create table if not exists rollcall.migrations"
        " (name text primary key, sha256 text not null, applied_at timestamptz not null default now())"
    )
    rows = await (await tx.execute("select name, sha256 from rollcall.migrations")).fetchall()
    applied: dict[str, str] = dict(rows)
    files = _files()
    if newer := sorted(set(applied) - set(files)):
        raise Incompatible(f"The schema is newer than this version of Rollcall ({newer[-1]}). Upgrade Rollcall.")
    for name, text in files.items():
        if name in applied and applied[name] != _digest(text):
            raise Incompatible(f"The migration {name} has changed since it was applied. Install a released version.")
    pending = [name for name in files if name not in applied]
    if not applied:
        await adopt(tx, keep_newest=keep_newest)
    for name in pending:
        await tx.execute(files[name].encode())
        await tx.execute("insert into rollcall.migrations (name, sha256) values (%s, %s)", (name, _digest(files[name])))
    return pending


def _files() -> dict[str, str]:
    """Their texts by name, in the order of their numbers."""
    folder = resources.files(__name__)
    names = sorted(file.name for file in folder.iterdir() if file.name.endswith(".sql"))
    return {name: (folder / name).read_text() for name in names}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
