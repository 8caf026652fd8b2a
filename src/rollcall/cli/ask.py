"""`rollcall status` and `rollcall rejects`: ask a running service."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from contextlib import aclosing
from pathlib import Path

from rich.text import Text

from rollcall.cli import show
from rollcall.cli.files import NewFile
from rollcall.cli.terminal import printable
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
                    show.console().print(Text(printable(str(gone))))

    asyncio.run(ask())


def rejects(job_id: str, form: str, output: Path | None, url: str, key: str | None) -> None:
    """Write all Rejects of an import to a new file, or to stdout. Raises FileExistsError."""
    if output and output.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(output))

    async def ask() -> None:
        async with Client(url, key) as service, aclosing(service.rejects(job_id, form)) as coming:
            if output is None:
                async for block in coming:
                    sys.stdout.buffer.write(block)
                sys.stdout.buffer.flush()
                return
            with NewFile(output.parent) as out:
                async for block in coming:
                    out.write(block)
                out.name(iter([output.name]))

    asyncio.run(ask())
