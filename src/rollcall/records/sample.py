"""The first addresses of a file: what whoever loads it needs to know of all of them, before the first is loaded."""

from __future__ import annotations

from contextlib import suppress
from io import BytesIO
from typing import BinaryIO

from rollcall.errors import Unreadable
from rollcall.records.parts import parts
from rollcall.records.plan import Plan

SAMPLE_RECORDS, SAMPLE_BYTES = 5_000, 1 << 20
PIECE_RECORDS = 250
"""Records are looked at in pieces of this many; the last ones before the bytes end may be left out."""


def sample_emails(stream: BinaryIO, plan: Plan) -> list[str]:
    """The addresses of about the first 5,000 Records, or of the first MiB (stored, and unpacked) if those are fewer.

    `stream`: the file as it was received, from its first byte. An invalid Record has none. What is wrong with the file
    ends the sample: reading the Parts will say it. Raises only what the stream raises.
    """
    emails, size = list[str](), 0
    with suppress(Unreadable):
        for part in parts(BytesIO(stream.read(SAMPLE_BYTES)), plan, part_records=PIECE_RECORDS):
            emails += map(str, part.contacts["email"].to_pylist())
            size += part.contacts.nbytes + part.rejects.nbytes
            if part.last >= SAMPLE_RECORDS or size >= SAMPLE_BYTES:
                break
    return emails
