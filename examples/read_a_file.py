"""Read a contact file with the library alone: no database, no service, nothing is stored.

python examples/read_a_file.py [FILE]
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from rollcall.records import inspect, message, parts

SAMPLE = "Name;E-Mail;Phone\nZoë Ångström;zoe@example.com;+49 30 1\nBob;bob@;2\n"


def main(arguments: list[str]) -> None:
    data = Path(arguments[0]).read_bytes() if arguments else SAMPLE.encode()
    plan = inspect(io.BytesIO(data))
    print(f"{plan.format}: the address is in {plan.mapping.email}, the name in {' and '.join(plan.mapping.name)}")
    for part in parts(io.BytesIO(data), plan):
        for contact in part.contacts.to_pylist():
            print(contact["record"], contact["email"], contact["name"], contact["attributes"])
        for reject in part.rejects.to_pylist():
            print(reject["record"], "rejected:", message(reject["code"], reject["field"]))


if __name__ == "__main__":
    main(sys.argv[1:])
