"""The files of the benchmark, made from a seed: the same contacts as CSV, as a JSON array, and as clean rows.

Four columns (name, email, phone, company) with accents; 0.2 % bad records of five kinds, 0.1 % repeats of an earlier
address with another phone, at random distance; one company in fifty needs quotes, one address in a hundred has capital
letters. The clean rows are what Rollcall must make of it (the last record of an address wins), in file order and in
COPY's text form: made here, without Rollcall, so that they are the baseline's input and the judge of the result.
"""

from __future__ import annotations

import csv
import random
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import orjson

SEED = 20_261_123
SOURCE = "bench"
BAD, REPEATED = 0.002, 0.001
COLUMNS = ("name", "email", "phone", "company")
IMPORT_ID = UUID("01989e0c-5b9e-7cc3-a1f0-0a4c7f3f1d11")
ID_HIGH = IMPORT_ID.int >> 64 << 64 | 0x8 << 60

FIRST = (
    *("Ann", "Ben", "Chloé", "Dörte", "Émile", "François", "Günther", "Håkon", "Inês", "José", "Katarzyna", "Łukasz"),
    *("María", "Noël", "Ólafur", "Peter", "Quentin", "Renée", "Søren", "Thomas", "Ursula", "Věra", "Wojciech", "Zoë"),
)
LAST = (
    *("Andersson", "Björk", "Castañeda", "Dvořák", "Eriksen", "Fernández", "García", "Häußler", "Ibáñez", "Jørgensen"),
    *("Kowalski", "Lefèvre", "Müller", "Núñez", "O'Brien", "Pérez", "Schröder", "Smith", "Tůma", "Weiß", "Žižka"),
)
COMPANY = (
    *("Acme GmbH", "Bäckerei Köhler", "Café de la Gare", "Dupont & Fils", "Ærø Shipping A/S", "Global Logistics Ltd"),
    *(
        "Häfele KG",
        "Northwind Traders",
        "Peña Hermanos S.A.",
        "Świat Książki",
        "Umbrella Corporation",
        "Zürich Invest AG",
    ),
)
QUOTED_COMPANY = ("Müller, Söhne & Co", 'Gasthof "Zum Löwen"', "Smith, Jones and Partners")
DOMAIN = ("example.com", "example.org", "mail.example.net", "post.example.de", "courriel.example.fr")

Record = tuple[str, str, str, str]


@dataclass(frozen=True)
class Files:
    """The same contacts in three forms, and what must become of them."""

    csv: Path
    json: Path
    rows: Path
    read: int
    rejected: int
    duplicate: int
    created: int


def make(folder: Path, count: int) -> Files:
    """`count` records; about eight seconds and 400 MB a million."""
    in_csv, in_json, clean = (folder / name for name in ("contacts.csv", "contacts.json", "contacts.rows"))
    kept: dict[str, tuple[int, Record]] = {}
    good = 0
    with in_csv.open("w", newline="") as as_csv, in_json.open("wb") as as_json:
        writer = csv.writer(as_csv)
        writer.writerow(COLUMNS)
        for number, (record, sound) in enumerate(_records(count), 1):
            writer.writerow(record)
            as_json.write(b"[" if number == 1 else b",\n")
            as_json.write(orjson.dumps(dict(zip(COLUMNS, record, strict=True))))
            if sound:
                good += 1
                email = record[1].lower()
                kept.pop(email, None)  # the last one wins, and stands where it stood
                kept[email] = number, record
        as_json.write(b"]\n")
    with clean.open("w") as rows:
        for number, record in kept.values():
            rows.write(_row(number, record))
    return Files(
        in_csv, in_json, clean, read=count, rejected=count - good, duplicate=good - len(kept), created=len(kept)
    )


def _records(count: int) -> Iterator[tuple[Record, bool]]:
    """Each record, and whether it is sound."""
    dice = random.Random(SEED)  # noqa: S311  the same data each time
    earlier: list[str] = []
    for unique in dice.sample(range(10 * count), count):
        first, last, luck = dice.choice(FIRST), dice.choice(LAST), dice.random()
        name = f"{first} {last}"
        phone = f"+{dice.randrange(30, 50)} {dice.randrange(100, 999)} {dice.randrange(10**6, 10**7)}"
        company = dice.choice(COMPANY if luck < 0.98 else QUOTED_COMPANY)
        if dice.random() < BAD:
            yield _spoiled(dice, name, f"bad.{unique}@example.com", phone, company), False
        elif earlier and dice.random() < REPEATED:
            yield (name, dice.choice(earlier), phone, company), True
        else:
            email = f"{_ascii(first)}.{_ascii(last)}.{unique}@{dice.choice(DOMAIN)}"
            earlier.append(email)
            yield (name, email.title() if luck < 0.01 else email, phone, company), True


def _spoiled(dice: random.Random, name: str, email: str, phone: str, company: str) -> Record:
    match dice.randrange(5):
        case 0:
            return name, email.replace("@", " at "), phone, company
        case 1:
            return name, email.replace(".com", ""), phone, company
        case 2:
            return "  ", email, phone, company
        case 3:
            return name, "", phone, company
        case _:
            return name * 40, email, phone, company


def _ascii(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in plain if letter.isascii() and letter.isalnum()) or "x"


def _row(number: int, record: Record) -> str:
    """One line of COPY's text form, columns as in public.contacts."""
    name, email, phone, company = record
    attributes = orjson.dumps({"phone": phone, "company": company}).decode().replace("\\", "\\\\")
    fields = (UUID(int=ID_HIGH | number), name, email.lower(), SOURCE, attributes, "2026-11-23 12:00:00+00", IMPORT_ID)
    return "\t".join(map(str, fields)) + f"\t{number}\n"
