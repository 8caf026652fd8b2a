"""Send a file to a running service, mend what it rejected, and send that again.

    rollcall up &
    python examples/mend_and_resend.py

ROLLCALL_URL and ROLLCALL_API_KEY say which service, and the key it needs, if it needs one.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Any

from rollcall.client import OPEN, Client

SAMPLE = "Name;E-Mail;Phone\nZoë Ångström;zoe@example.com;+49 30 1\nBob;bob.example.com;+49 30 2\n"


async def finished(service: Client, job_id: str) -> dict[str, Any]:
    """The import, once nothing more happens to it."""
    job = await service.show(job_id)
    while job["state"] in OPEN:
        job = await service.show(job_id, wait=10, since=job)
    return job


async def main(url: str, key: str | None, folder: Path) -> None:
    file = folder / "contacts.csv"
    file.write_text(SAMPLE, encoding="utf-8")
    async with Client(url, key) as service:
        job_id = await service.send(file, source="example")
        print((await finished(service, job_id))["counts"])

        rejects = b"".join([block async for block in service.rejects(job_id, "csv")]).decode()
        print(rejects)
        mended = folder / "mended.csv"
        mended.write_text(rejects.replace("bob.example.com", "bob@example.com"), encoding="utf-8")
        job = await finished(service, await service.send(mended, source="example"))
        print(job["counts"])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        service_url = os.environ.get("ROLLCALL_URL", "http://127.0.0.1:3000")
        asyncio.run(main(service_url, os.environ.get("ROLLCALL_API_KEY"), Path(name)))
