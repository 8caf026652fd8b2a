"""Adopt a `public.contacts` that was there before Rollcall, such as the one of a Supabase project.

    shape     what Rollcall cannot live with: columns, types, indexes, views, rights
    rows      contacts that share their source and email, are spelled in a way that hides it, or lack one of them
    change    types, collations and constraints are made Rollcall's, columns that are missing are added

What stands in the way is named all at once, and then nothing is changed. Contacts are named by their id: messages carry
no personal data. Columns that Rollcall does not know stay. So do ids: contacts from before are listed among the new
ones in no order of time. Runs in the migration's transaction; no rule is applied to what the old contacts hold.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, LiteralString

import structlog
from psycopg.rows import class_row

from rollcall.database import Connection, Incompatible
from rollcall.records.text import BLANKS

NAMED = 20
"""So many contacts of each kind that stands in the way are named; all are counted."""

TYPES = {
    "id": ("uuid",),
    "name": ("text", "varchar", "citext"),
    "email": ("text", "varchar", "citext"),
    "source": ("text", "varchar", "citext"),
    "attributes": ("jsonb",),
    "imported_at": ("timestamptz", "timestamp"),
    "import_id": ("uuid",),
    "record": ("int8",),
}
"""The columns that Rollcall writes; the type each has to have, and those that become it without loss."""
COLLATIONS = {"name": "default", "email": "C", "source": "C"}
REQUIRED = ("name", "email", "source")

TABLE: LiteralString = """
select c.relkind = 'r', pg_has_role(c.relowner, 'USAGE'), row_security_active(c.oid)
  from pg_class c where c.oid = to_regclass('public.contacts')
"""
COLUMNS: LiteralString = """
select a.attname as name, t.typname as type, a.atttypid::regtype::text as shown, coalesce(c.collname, '') as collation,
       a.attnotnull as filled, a.atthasdef or a.attidentity <> '' as made,
       array(select distinct r.ev_class::regclass::text from pg_depend d join pg_rewrite r on r.oid = d.objid
              where d.classid = 'pg_rewrite'::regclass and d.refobjid = a.attrelid and d.refobjsubid = a.attnum
                and r.ev_class <> a.attrelid) as views
  from pg_attribute a join pg_type t on t.oid = a.atttypid left join pg_collation c on c.oid = a.attcollation
 where a.attrelid = 'public.contacts'::regclass and a.attnum > 0 and not a.attisdropped order by a.attnum
"""
UNIQUE: LiteralString = """
select i.indexrelid::regclass::text as name, i.indisprimary as primary,
       i.indpred is null and i.indimmediate and i.indisvalid as plain,
       array(select pg_get_indexdef(i.indexrelid, number, true) from generate_series(1, i.indnkeyatts) number) as keys
  from pg_index i where i.indrelid = 'public.contacts'::regclass and i.indisunique
"""
RANKED: LiteralString = """
with spelled as (
  select ctid as place, {id} as id, {imported_at} as imported_at, name is null as nameless,
         source::text collate "C" as source, email::text collate "C" as email,
         lower(btrim(email::text, %(blanks)s) collate "C") as key from public.contacts),
ranked as (
  select *, row_number() over (partition by source, key order by imported_at desc nulls last, place desc) as rank
    from spelled)
"""
OLDER: LiteralString = "rank > 1 and email is not null and source is not null"
MISSPELLED: LiteralString = "email <> key"
EMPTY: LiteralString = "email is null or source is null or nameless"

NEW_COLUMNS: dict[str, LiteralString] = {
    "id": "add id uuid not null default gen_random_uuid()",
    "attributes": "add attributes jsonb not null default '{}'",
    "imported_at": "add imported_at timestamptz not null default now()",
    "import_id": "add import_id uuid",
    "record": "add record bigint",
}
NEW_TYPES: dict[str, LiteralString] = {
    "name": 'alter name type text collate "default"',
    "email": 'alter email type text collate "C"',
    "source": 'alter source type text collate "C"',
    "imported_at": "alter imported_at type timestamptz",  # the session's time zone is UTC
}
NOT_NULL: dict[str, LiteralString] = {
    "id": "alter id set not null",
    "name": "alter name set not null",
    "email": "alter email set not null",
    "source": "alter source set not null",
    "attributes": "alter attributes set not null, alter attributes set default '{}'",
    "imported_at": "alter imported_at set not null",
}

log = structlog.get_logger()


@dataclass(frozen=True)
class Column:
    """`shown`: its type as people write it. `made`: the database fills it. `views`: that read it."""

    name: str
    type: str
    shown: str
    collation: str
    filled: bool
    made: bool
    views: list[str]

    @property
    def changes(self) -> bool:
        """Whether its type or collation is not yet Rollcall's."""
        wanted = TYPES.get(self.name, (self.type,))[0], COLLATIONS.get(self.name, self.collation)
        return (self.type, self.collation) != wanted


@dataclass(frozen=True)
class Unique:
    """A unique index; `plain`: it holds for every row at once. `keys`: columns or expressions."""

    name: str
    primary: bool
    plain: bool
    keys: list[str]

    @property
    def ours(self) -> bool:
        return self.plain and sorted(self.keys) == ["email", "source"]


async def adopt(tx: Connection, *, keep_newest: bool) -> None:
    """Make the `public.contacts` that is there, if any, Rollcall's. Raises Incompatible with every problem.

    `keep_newest`: of the contacts with one source and email only the one imported last is kept, and emails are
    lowered and trimmed.
    """
    table = await (await tx.execute(TABLE)).fetchone()
    if table is None:
        return
    await tx.execute("lock table public.contacts in share row exclusive mode")
    async with tx.cursor(row_factory=class_row(Column)) as cursor:
        columns = {column.name: column for column in await (await cursor.execute(COLUMNS)).fetchall()}
    async with tx.cursor(row_factory=class_row(Unique)) as cursor:
        uniques = await (await cursor.execute(UNIQUE)).fetchall()
    _refuse([*_rights(*table), *_shape(columns, uniques)])
    ranked = _ranked(columns)
    deleted, respelled = await _keep_newest(tx, ranked) if keep_newest else (0, 0)
    _refuse(await _rows(tx, ranked))
    await _change(tx, columns, uniques)
    log.info("contacts.adopted", deleted=deleted, respelled=respelled)


def _refuse(problems: list[dict[str, Any]]) -> None:
    if problems:
        raise Incompatible(
            "This database has a table public.contacts that Rollcall cannot use as it is; nothing was changed.",
            issues=problems,
        )


def _problem(code: str, message: str, column: str | None = None) -> dict[str, Any]:
    return {"path": ["contacts", *([column] if column else [])], "code": code, "message": message}


def _rights(is_table: bool, is_ours: bool, row_security: bool) -> list[dict[str, Any]]:
    problems = []
    if not is_table:
        problems.append(_problem("not_a_table", "contacts is not an ordinary table. Rename it; a new one is made."))
    if not is_ours:
        problems.append(_problem("not_owner", "contacts belongs to another user. Migrate as its owner."))
    if row_security:
        problems.append(
            _problem(
                "row_security",
                "Row security of contacts is in force for this user, and would hide contacts from imports. Connect as a"
                " user that it does not concern: the table's owner (without FORCE), or one with BYPASSRLS.",
            )
        )
    return problems


def _shape(columns: dict[str, Column], uniques: list[Unique]) -> list[dict[str, Any]]:
    problems = [
        _problem("missing", f"The column {name} is missing. Rename the one that holds it.", name)
        for name in REQUIRED
        if name not in columns
    ]
    for name, column in columns.items():
        types = TYPES.get(name)
        if types is None and column.filled and not column.made:
            what = f"The column {name} is not null and has no default. Give it one, or let it be null."
            problems.append(_problem("no_default", what, name))
        elif types and column.type not in types:
            do = "Change its type." if name in REQUIRED else "Rename it; a new one is added."
            problems.append(_problem("type", f"The column {name} is {column.shown}, not {types[0]}. {do}", name))
        elif column.changes and column.views:
            what = f"The type or collation of {name} has to change, and these read it: {', '.join(column.views)}."
            problems.append(_problem("view", f"{what} Drop them, migrate, and create them again.", name))
    for unique in uniques:
        if "source" not in unique.keys and any(re.search(r"\b(email|name)\b", key) for key in unique.keys):
            what = f"The unique index {unique.name} allows a contact only once, whatever its source. Drop it."
            problems.append(_problem("unique", what))
    return problems


def _ranked(columns: dict[str, Column]) -> LiteralString:
    """The contacts, each with its email as Rollcall spells it and its rank, newest first, among those of that key."""
    contact: LiteralString = "id::text" if "id" in columns else "ctid::text"
    imported_at: LiteralString = "imported_at" if "imported_at" in columns else "null::timestamptz"
    return RANKED.format(id=contact, imported_at=imported_at)


async def _rows(tx: Connection, ranked: LiteralString) -> list[dict[str, Any]]:
    found = []
    kinds: list[tuple[str, LiteralString, str]] = [
        ("duplicate", OLDER, "have the source and email of a newer one. `rollcall migrate --keep-newest` deletes them"),
        ("spelling", MISSPELLED, "have capitals or blanks in their email. `rollcall migrate --keep-newest` mends them"),
        ("null", EMPTY, "have no email, no source or no name. Fill these in, or delete the contacts"),
    ]
    for code, condition, what in kinds:
        these: LiteralString = (
            "select id, count(*) over () from ranked where " + condition + " order by id limit %(named)s"
        )
        rows = await (await tx.execute(ranked + these, {"blanks": BLANKS, "named": NAMED})).fetchall()
        if rows:
            more = ", …" if rows[0][1] > NAMED else ""
            found.append(_problem(code, f"{rows[0][1]:,} contacts {what}: {', '.join(row[0] for row in rows)}{more}"))
    return found


async def _keep_newest(tx: Connection, ranked: LiteralString) -> tuple[int, int]:
    """Delete the older ones, mend the others' emails; how many."""
    delete: LiteralString = "delete from public.contacts where ctid in (select place from ranked where " + OLDER + ")"
    update: LiteralString = (
        "update public.contacts c set email = r.key from (select place, key from ranked where "
        + MISSPELLED
        + ") r where c.ctid = r.place"
    )
    deleted = await tx.execute(ranked + delete, {"blanks": BLANKS})
    respelled = await tx.execute(ranked + update, {"blanks": BLANKS})
    return deleted.rowcount, respelled.rowcount


async def _change(tx: Connection, columns: dict[str, Column], uniques: list[Unique]) -> None:
    """One ALTER TABLE, so that the table is written anew once at most."""
    if "imported_at" in columns:
        await tx.execute("update public.contacts set imported_at = now() where imported_at is null")
    if "attributes" in columns:
        await tx.execute("update public.contacts set attributes = '{}' where attributes is null")
    changes = [change for name, change in NEW_COLUMNS.items() if name not in columns]
    changes += [change for name, change in NEW_TYPES.items() if name in columns and columns[name].changes]
    changes += [change for name, change in NOT_NULL.items() if name in columns]
    if not any(unique.primary for unique in uniques):
        changes.append("add primary key (id)")
    if not any(unique.ours for unique in uniques):
        changes.append("add unique (source, email)")
    await tx.execute("alter table public.contacts " + ", ".join(changes))
