"""`./dev demo`: what Rollcall does, in a few seconds, on a Postgres that is thrown away afterwards.

Makes a list of contacts as CSV, with good, invalid and repeated records, and the same list changed as JSON. Runs
`rollcall import` on both, with the very command that people use. The same files every time: nothing is random.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path

FIRST_NAMES = """
Zoë Søren Łukasz José Nguyễn Şebnem Anaïs Björk Ægir Dvořák Renée Jürgen Ольга Δημήτρης محمد נועה ประภา 美咲 지우 小明
Ngozi Siobhán Čeněk Māris Ñusta Faïza Þóra Gülşen Ștefan Ľubica Håkon Ana Amélie Kofi Priya Ioana Tamás Wanjikũ Yıldız
"""
LAST_NAMES = """
Ångström García O'Connor Müller Kovács Nowak Şahin Smith-Jones Иванова Παπαδόπουλος حداد כהן สุขใจ 佐藤 김 王 Okafor
Ní-Bhriain Dvořáková Bērziņš Quispe Benali Sigurðardóttir Öztürk Popescu Kráľová Haugen Santos Lefèvre Mensah Sharma
Ionescu Szabó Kamau Demir Nagy Rossi Dubois Silva van-der-Berg Ferreira Lindqvist Murphy Horvat Petrović Tanaka Cohen
Weiß Jensen Virtanen Papadakis Moreau Costa Novák Fischer Bianchi Larsen Brown Kim Chen Dlamini Haddad
"""
COMPANIES = ("Æsir AS", "Bröd & Co", 'The "Corner" Shop', "Café Élan, Paris", "株式会社みらい", "Ltd; Sons")
CONTACTS = 2_250
INVALID = (
    ("Nobody", "nobody"),
    ("No Domain", "no.domain@"),
    ("Two Ats", "two@@example.com"),
    ("Dots", "dots..twice@example.com"),
    ("", "no.name@example.com"),
    ("x" * 256, "long.name@example.com"),
)


def contacts() -> Iterator[dict[str, str]]:
    """People of many languages; the address is the name as ASCII spells it, and a number."""
    for number, (last, first) in enumerate(product(LAST_NAMES.split(), FIRST_NAMES.split())):
        spelt = unicodedata.normalize("NFKD", f"{first}.{last}").encode("ascii", "ignore").decode().lower()
        local = "".join(letter for letter in spelt if letter.isalnum()) or "contact"
        yield {
            "Name": f"{first} {last}",
            "E-Mail": f"{local}{number}@example.com",
            "Company": COMPANIES[number % len(COMPANIES)],
            "Phone": f"+49 30 {1_000_000 + number * 37}",
        }


def spoiled(good: list[dict[str, str]]) -> Iterator[dict[str, str]]:
    """The list as such lists are: every 20th contact comes twice, and after every 30th stands an invalid record."""
    for number, contact in enumerate(good):
        yield contact
        if number % 20 == 0:
            yield contact | {"E-Mail": contact["E-Mail"].upper()}
        if number % 30 == 0:
            name, email = INVALID[number // 30 % len(INVALID)]
            yield contact | {"Name": name, "E-Mail": email}


def changed(good: list[dict[str, str]], new: list[dict[str, str]]) -> Iterator[dict[str, str]]:
    """A later state of the list: every 10th contact has moved to another company, and some are new."""
    for number, contact in enumerate(good):
        yield contact | {"Company": "Nordlys AB"} if number % 10 == 0 else contact
    yield from new


def main() -> int:
    """Import both; 0 when both succeeded."""
    environment = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "NODE_ENV")}
    people = list(islice(contacts(), CONTACTS + 150))
    good, new = people[:CONTACTS], people[CONTACTS:]
    with tempfile.TemporaryDirectory(prefix="rollcall-demo-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # started by root, Postgres runs as another user
        with (folder / "contacts.csv").open("w", encoding="utf-8", newline="") as file:
            rows = csv.DictWriter(file, fieldnames=list(good[0]), delimiter=";")
            rows.writeheader()
            rows.writerows(spoiled(good))
        (folder / "contacts.json").write_text(json.dumps(list(changed(good, new)), ensure_ascii=False), "utf-8")
        for list_name in ("contacts.csv", "contacts.json"):
            print(f"\n$ rollcall import {list_name} --source crm", flush=True)
            command = [sys.executable, "-m", "rollcall", "import", list_name, "--source", "crm", "--data-dir", "data"]
            if status := subprocess.run(command, cwd=folder, env=environment, check=False).returncode:
                return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
