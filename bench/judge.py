"""Whether a side loaded what its file says: every contact, and the account of it. Nothing is taken on trust."""

from __future__ import annotations

from typing import Any, LiteralString

import psycopg

from data import SOURCE
from files import File
from sides import WrongResult

CONTACTS: LiteralString = f"""
(select name, email, attributes->>'phone' as phone, attributes->>'company' as company, record
   from public.contacts where source = '{SOURCE}')
"""


def contacts(url: str, *files: File, table: LiteralString = CONTACTS) -> None:
    """`table` holds what these files must become, and nothing else. Raises WrongResult."""
    with psycopg.connect(url) as connection:
        count, digest = connection.execute(  # the digest of data.py
            f"""select count(*), coalesce(sum(('x' || left(md5(
                         concat_ws(e'\\t', name, email, phone, company, record)), 15))::bit(60)::bigint), 0)
                  from {table} loaded"""
        ).fetchone() or (0, 0)
    if (count, digest) != (sum(file.created for file in files), sum(file.digest for file in files)):
        raise WrongResult(f"{count:,} contacts of digest {digest} are not what must become of {files}.")


def account(file: File, job: dict[str, Any], *, again: bool = False) -> None:
    """The import says what it should. `again`: of a repeated address the older record differs from what is there, so
    it updates, and the newer one is a duplicate. Raises WrongResult."""
    counts = job["counts"]
    old = counts["updated"] + counts["unchanged"]
    right = (
        job["state"] == "succeeded"
        and (counts["read"], counts["rejected"], counts["duplicate"]) == (file.read, file.rejected, file.duplicate)
        and (counts["created"], old) == ((0, file.created) if again else (file.created, 0))
        and counts["updated"] <= file.duplicate
    )
    if not right:
        raise WrongResult(f"The account is wrong: {job} for {file}")
