"""What must stand in the tables, in plain Python: Records made from numbers, and the ledger replayed in commit order.

loaders hold different keys and a Source has one import at a time, so the order in which batches entered the ledger is
the order of their commits for every key. `INSTRUMENTS` adds that order to a test's own database, and the history of
states. Knows nothing of Rollcall's code but the tables and the rule by which keys are dealt to loaders: each begins
somewhere in the order of addresses, as the Plan says.
"""

from __future__ import annotations

import csv
import io
import zlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg

COLUMNS = ("name", "email", "phone", "company")
FIRST_NAMES = ("Ana", "Bo", "Cy", "Dée", "Éva", "Flo", "Gus", "Hal")
INSTRUMENTS = """
create schema oracle;
create sequence oracle.ord;
alter table rollcall.import_parts add ord bigint not null default nextval('oracle.ord');
create table oracle.history (
    ord bigint not null default nextval('oracle.ord'), at timestamptz not null default clock_timestamp(),
    import_id uuid, source text, state text, attempt integer, worker integer, crashes integer);
create function oracle.note() returns trigger language plpgsql as $$ begin
    insert into oracle.history (import_id, source, state, attempt, worker, crashes)
    values (new.id, new.source, new.state, new.attempt, new.worker, new.crashes);
    return null;
end $$;
create trigger history after insert or update on rollcall.imports for each row execute function oracle.note();
create function oracle.sleep() returns trigger language plpgsql as $$ begin
    perform pg_sleep(tg_argv[0]::float8);
    return new;
end $$;
"""
SLOW = """
create trigger slow_begin before insert on rollcall.import_parts for each row execute function oracle.sleep('{0}');
create trigger slow_load before insert on public.contacts for each statement execute function oracle.sleep('{0}');
create trigger slow_end before update on rollcall.import_parts for each row execute function oracle.sleep('{0}');
"""
"""Every batch takes three times so many seconds, in its transaction."""

Contact = tuple[str, dict[str, str]]
Table = dict[tuple[str, str], tuple[str, dict[str, str], UUID, set[int]]]
"""Name, attributes, import, and the Records any of which may be named as the one that brought them."""
Row = tuple[str, ...]


@dataclass(frozen=True)
class File:
    """The `edition`-th file of a Source: so many Records, of which a part was in the editions before."""

    source: str
    edition: int
    count: int

    def row(self, number: int) -> Row:
        """A Record as it is written: name, email, phone, company. One in 97 is invalid, some repeat others."""
        chance = zlib.crc32(f"{self.source}|{self.edition}|{number}".encode())
        key = number
        if chance % 50 == 1:
            key = max(1, number - 1 - (chance >> 8) % 9)
        elif chance % 50 == 2:
            key = 1 + (chance >> 8) % number
        key += self.edition * self.count // 3
        value = (key * 2654435761 + (self.edition if key % 3 == 0 else 0) + (chance % 50 in (1, 2)) * 7) & 0xFFFFFFFF
        name = f"{FIRST_NAMES[value % 8]} {value % 1000}"
        email = f"u{key}@example.org"
        if chance % 97 == 0:
            name, email = (name, f"{key} at home") if chance & 256 else (" ", email)
        return name, email, f"+49{value % 100003}" if value % 2 else "", f"C{chance % 11}" if chance >> 4 & 1 else ""

    def contact(self, number: int) -> tuple[str, Contact] | None:
        """Email and contact of a Record; None when it is a Reject."""
        name, email, *rest = self.row(number)
        if not name.strip() or " " in email:
            return None
        return email, (name, {key: value for key, value in zip(COLUMNS[2:], rest, strict=True) if value})

    def csv(self) -> bytes:
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow(COLUMNS)
        writer.writerows(self.row(number) for number in range(1, self.count + 1))
        return out.getvalue().encode()


@dataclass
class Ledger:
    """One row of `import_parts`, and what the Records it spans must have come to."""

    import_id: UUID
    loader: int
    first: int
    last: int
    attempt: int
    ord: int
    counts: tuple[int, ...]

    @classmethod
    def of(cls, job: UUID, loader: int, first: int, last: int, attempt: int, ord_: int, *counts: int) -> Ledger:
        return cls(job, loader, first, last, attempt, ord_, counts)


async def instrument(url: str, *, slow: float = 0.0) -> None:
    """Add the instruments; with `slow`, every batch takes three times so many seconds."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as tx:
        await tx.execute(INSTRUMENTS.encode())
        if slow:
            await tx.execute(SLOW.format(slow).encode())


async def violations(url: str, files: dict[UUID, File]) -> list[str]:
    """What is not as it must be, in words; empty when all is well. Every import has to be final.

    `files`: by the id of their import; all imports of the database.
    """
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as tx:
        imports = {row[0]: row[1:] for row in await _all(tx, IMPORTS)}
        begins = {job: row[-1] or [""] for job, row in imports.items()}  # no Plan, no batch
        ledger = [Ledger.of(*row) for row in await _all(tx, LEDGER)]
        contacts = {(row[0], row[1]): row[2:] for row in await _all(tx, CONTACTS)}
        rejects = {(row[0], row[1]) for row in await _all(tx, "select import_id, record from rollcall.rejects")}
        history = await _all(tx, HISTORY)
    found = [f"imports {set(imports) ^ set(files)} are too many or too few"] if set(imports) != set(files) else []
    for job, file in files.items():
        found += _of_import(job, file, imports[job], [share for share in ledger if share.import_id == job])
    wanted: Table = {}
    met = defaultdict[UUID, set[str]](set)
    wanted_rejects: set[tuple[UUID, int]] = set()
    for share in ledger:
        counts = _replay(
            share, begins[share.import_id], files[share.import_id], wanted, wanted_rejects, met[share.import_id]
        )
        if counts != share.counts:
            found.append(f"batch {share} should count {counts}")
    if differing := [key for key in contacts.keys() | wanted.keys() if not _same(contacts.get(key), wanted.get(key))]:
        shown = [(key, contacts.get(key), wanted.get(key)) for key in differing[:3]]
        found.append(f"{len(differing)} contacts differ (is, should be): {shown}")
    if rejects != wanted_rejects:
        found.append(f"{len(rejects ^ wanted_rejects)} Rejects too many or too few")
    return found + _of_history(history, ledger)


IMPORTS = """select id, state, error_code, total, read, created, updated, unchanged, skipped, duplicate, rejected,
                    plan->'loaders' from rollcall.imports"""
LEDGER = """select import_id, loader, first, last, attempt, ord, read, created, updated, unchanged, skipped, duplicate,
                   rejected from rollcall.import_parts order by ord"""
CONTACTS = "select source, email, name, attributes, import_id, record from public.contacts"
HISTORY = "select ord, import_id, source, state, attempt from oracle.history order by ord"


def _same(stored: tuple[Any, ...] | None, wanted: tuple[Any, ...] | None) -> bool:
    return stored is not None and wanted is not None and stored[:3] == wanted[:3] and stored[3] in wanted[3]


async def _all(tx: psycopg.AsyncConnection[Any], query: str) -> list[tuple[Any, ...]]:
    return await (await tx.execute(query.encode())).fetchall()


def _of_import(job: UUID, file: File, row: tuple[Any, ...], shares: list[Ledger]) -> list[str]:
    state, error, total, *counts, begins = row
    found = []
    for loader in range(len(begins or [])):
        reached = 0
        for share in sorted((each for each in shares if each.loader == loader), key=lambda each: each.first):
            if share.first != reached + 1:
                found.append(f"{job}: a gap or an overlap in loader {loader} after {reached}: {share}")
            reached = share.last
        if state == "succeeded" and reached != file.count:
            found.append(f"{job}: loader {loader} ends at {reached} of {file.count}")
    sums = [sum(share.counts[column] for share in shares) for column in range(7)]
    if sums != counts:
        found.append(f"{job} is {state} with {counts}, the ledger has {sums}")
    if state == "succeeded" and (sums[0], total) != (file.count, file.count):
        found.append(f"{job} succeeded with {sums[0]} of {file.count} Records, total {total}")
    if state not in ("succeeded", "cancelled") and error != "CRASHED":
        found.append(f"{job} is {state}, {error}")
    return found


def _replay(
    share: Ledger,
    begins: list[str],
    file: File,
    table: Table,
    rejects: set[tuple[UUID, int]],
    met: set[str],
) -> tuple[int, ...]:
    """Apply a batch to the table, Record by Record; its counts: read, created, updated, unchanged, skipped, duplicate,
    rejected. `met`: the keys that its import has met before, and has met then."""
    counts: Counter[str] = Counter()
    wrote: set[str] = set()
    for number in range(share.first, share.last + 1):
        contact = file.contact(number)
        if contact is None:
            if share.loader == 0:
                counts["rejected"] += 1
                rejects.add((share.import_id, number))
        elif sum(contact[0] >= begin for begin in begins[1:]) == share.loader:
            email, (name, attributes) = contact
            key = file.source, email
            there = table.get(key)
            merged = attributes if there is None else there[1] | attributes
            differs = there is None or there[:2] != (name, merged)
            if email in met:
                counts["duplicate"] += 1
            else:
                counts["created" if there is None else "updated" if differs else "unchanged"] += 1
            met.add(email)
            if there is None or (differs and email not in wrote):
                table[key] = name, merged, share.import_id, {number}
            elif email in wrote:  # what a batch brings for one key is brought together, or in two steps
                table[key] = name, merged, share.import_id, there[3] | {number}
            if differs:
                wrote.add(email)
    names = ("created", "updated", "unchanged", "skipped", "duplicate", "rejected")
    return counts.total(), *(counts[name] for name in names)


def _of_history(history: list[tuple[Any, ...]], ledger: list[Ledger]) -> list[str]:
    """One import of a Source at a time; every batch within its own attempt; attempts only rise."""
    found = []
    running: dict[str, tuple[UUID, int]] = {}
    span: dict[tuple[UUID, int], list[float]] = defaultdict(lambda: [0, 0])
    for ord_, job, source, state, attempt in history:
        now, was = (job, attempt), running.get(source)
        if was is not None and was[0] != job and state == "running":
            found.append(f"{job} began while {was} was running")
        if was is not None and was[0] == job and was != now:
            span[was][1] = ord_
        if state == "running":
            running[source] = now
            span[now] = [span[now][0] or ord_, float("inf")]
        elif was is not None and was[0] == job:
            span[was][1] = min(span[was][1], ord_)
            del running[source]
        if attempt < max((each[1] for each in span if each[0] == job), default=0):
            found.append(f"{job} went back to attempt {attempt}")
    for share in ledger:
        begin, end = span[share.import_id, share.attempt]
        if not begin < share.ord < end:
            found.append(f"{share} lies outside its attempt ({begin} to {end})")
    return found
