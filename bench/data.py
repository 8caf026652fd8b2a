"""The contacts of the benchmark: each is made from its number alone, the same ones every time, in flat memory.

Four columns (name, email, phone, company) with accents; one company in fifty needs quotes, one address in a hundred has
capital letters. 0.2 % of the records are bad, in five ways; 0.1 % repeat the address of an earlier one, at random
distance, with another name and phone. What Rollcall must make of them (the last record of an address wins) is known
here without Rollcall, and without holding more than the repeats.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from hashlib import blake2b, md5
from typing import NamedTuple

SEED = b"rollcall"
SOURCE = "bench"
COLUMNS = ("name", "email", "phone", "company")
LUCK = 100_000
BAD, REPEATED = 200, 100
"""Of LUCK records."""
NUMBERS = 1_000_000_007
"""A prime, above every number: a number times another one, modulo this, is a unique number that follows no order."""

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
    *("Häfele KG", "Northwind Traders", "Peña Hermanos S.A.", "Świat Książki", "Umbrella Corporation"),
    "Zürich Invest AG",
)
QUOTED_COMPANY = ("Müller, Söhne & Co", 'Gasthof "Zum Löwen"', "Smith, Jones and Partners")
DOMAIN = ("example.com", "example.org", "mail.example.net", "post.example.de", "courriel.example.fr")

Record = tuple[str, str, str, str]


class Line(NamedTuple):
    """A Record and its number in the file. `last`: it is what must stand in the table in the end."""

    number: int
    record: Record
    sound: bool
    last: bool


@dataclass(frozen=True)
class People:
    """`count` contacts from number `first` on. `bad`: how many of LUCK are. `lines`: every company has two lines."""

    count: int
    first: int = 0
    bad: int = BAD
    lines: bool = False

    def block(self, start: int, stop: int, superseded: frozenset[int]) -> Iterator[Line]:
        """Those from number `start` to before `stop`; `superseded`: those of them whose address comes again."""
        for number in range(start, stop):
            record, sound = person(number), self._kind(number) != "bad"
            if self.lines:
                record = (*record[:3], record[3].replace(" ", "\n", 1))
            if not sound:
                record = _spoiled(number, record)
            elif (earlier := self._earlier(number)) is not None:
                record = (record[0], person(earlier)[1].lower(), *record[2:])
            yield Line(number - self.first + 1, record, sound, sound and number not in superseded)

    def repeats(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The numbers in this stretch that repeat an address, each with the number whose address that is."""
        pairs = ((number, self._earlier(number)) for number in range(start, stop))
        return [(number, earlier) for number, earlier in pairs if earlier is not None]

    def _kind(self, number: int) -> str:
        luck = _dice(number) % LUCK
        return "bad" if luck < self.bad else "repeat" if luck >= LUCK - REPEATED else "new"

    def _earlier(self, number: int) -> int | None:
        if number == self.first or self._kind(number) != "repeat":
            return None
        earlier = self.first + _dice(number) // LUCK % (number - self.first)
        return earlier if self._kind(earlier) == "new" else None


def person(number: int) -> Record:
    """A sound Record; no other number has its email."""
    dice, capitals = divmod(_dice(number) // LUCK, 100)
    dice, quoted = divmod(dice, 50)
    dice, first = divmod(dice, len(FIRST))
    dice, last = divmod(dice, len(LAST))
    dice, domain = divmod(dice, len(DOMAIN))
    dice, country = divmod(dice, 20)
    dice, area = divmod(dice, 900)
    dice, phone = divmod(dice, 9_000_000)
    unique = (number + 1) * 387_420_489 % NUMBERS
    email = f"{_ascii(FIRST[first])}.{_ascii(LAST[last])}.{unique}@{DOMAIN[domain]}"
    companies = COMPANY if quoted else QUOTED_COMPANY
    return (
        f"{FIRST[first]} {LAST[last]}",
        email if capitals else email.title(),
        f"+{30 + country} {100 + area} {1_000_000 + phone}",
        companies[dice % len(companies)],
    )


def digest(number: int, record: Record) -> int:
    """What a loaded Record adds to the sum by which a result is judged; the database computes the same."""
    name, email, phone, company = record
    text = f"{name}\t{email.lower()}\t{phone}\t{company}\t{number}"
    return int(md5(text.encode(), usedforsecurity=False).hexdigest()[:15], 16)


@lru_cache(4)
def _dice(number: int) -> int:
    return int.from_bytes(blake2b(number.to_bytes(8, "big"), digest_size=16, key=SEED).digest(), "big")


def _spoiled(number: int, record: Record) -> Record:
    name, email, phone, company = record
    match number % 5:
        case 0:
            return name, email.replace("@", " at "), phone, company
        case 1:
            return name, email.partition("@")[0] + "@nowhere", phone, company
        case 2:
            return "  ", email, phone, company
        case 3:
            return name, "", phone, company
        case _:
            return name * 40, email, phone, company


@cache
def _ascii(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in plain if letter.isascii() and letter.isalnum()) or "x"
