"""`rollcall status` and `rollcall rejects`: ask a running service."""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing, nullcontext
from pathlib import Path

from rich.text import Text

from rollcall.cli import show
from rollcall.client import Client, ServiceRefused


def status(job_id: str | None, url: str, key: str | None) -> None:
    """Print one import, or the latest."""

    async def ask() -> None:
        async with Client(url, key) as service:
            if job_id is None:
                show.imports(await service.latest())
                return
            job = await service.show(job_id)
            show.account(job_id, job)
            if job["state"] in ("queued", "running"):
                show.console().print(show.pace(job))
            if rejected := job["counts"]["rejected"]:
                try:
                    show.rejects(await service.first_rejects(job_id, show.REJECTS_SHOWN), rejected)
                except ServiceRefused as gone:  # deleted after their time
                    show.console().print(Text(str(gone)))

    asyncio.run(ask())


def rejects(job_id: str, form: str, output: Path | None, url: str, key: str | None) -> None:
    """Write all Rejects of an import to a new file, or to stdout. Raises FileExistsError."""

    async def ask() -> None:
        async with Client(url, key) as service, aclosing(service.rejects(job_id, form)) as coming:
            first = await anext(coming, b"")  # refused requests leave no file behind
            with output.open("xb") if output else nullcontext(sys.stdout.buffer) as out:
                out.write(first)
                async for block in coming:
                    out.write(block)
                out.flush()

    asyncio.run(ask())
