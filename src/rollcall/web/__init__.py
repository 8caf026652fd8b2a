"""HTTP: one resource a file. Handlers translate between requests and the floors below; they decide nothing else.

    post_import        POST /import      imports, rejects   what became of it
    contacts           GET /contacts     health, metrics    for machines

A request to import goes through `admission` (may it begin?), `body` (does it come in time?) and, by its kind, `form` or
`envelope` with `members`; what it says besides its bytes is read by `import_request`.

`responses` is what all of them share: one error body, request ids, one way to write JSON. `outgoing` bounds the
memory that answers take until they are read; `watch` and `checks` ask the database once for all requests that wait for
an import, or ask for health. `auth` stands before them all and says who asks; `http_protocol` stands
before that and refuses what is no honest HTTP.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer

from rollcall.database import Database
from rollcall.keys import Caller
from rollcall.receive import Limits
from rollcall.storage import Store
from rollcall.telemetry import CounterValues
from rollcall.web.checks import Checks
from rollcall.web.outgoing import Room
from rollcall.web.watch import Watch

READINGS = 4
"""Stored files that are read again at the same time, for the Rejects that are not stored."""
JUDGES = 2
"""JSON bodies judged, and Parts of stored files read again, at the same time; each may take some hundred MiB."""


@dataclass(frozen=True)
class Service:
    """What handlers work with. `segment_bytes`: of resumable uploads; `body_bytes_max`: of one request; `limits`: of
    one API key; `keyless_limits`: of all requests together while there is no key; `spool_dir`: where bodies that are
    judged wait, None: where the system has such files; `shown`: the counters that were shown last."""

    database: Database
    store: Store
    segment_bytes: int
    body_bytes_max: int
    limits: Limits
    keyless_limits: Limits | None = None
    spool_dir: Path | None = None
    cpu_slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(JUDGES))
    room: Room = field(default_factory=Room)
    readings: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(READINGS))
    shown: CounterValues = field(default_factory=dict)

    @cached_property
    def watch(self) -> Watch:
        """Its `run` is a task of the service."""
        return Watch(self.database)

    @cached_property
    def checks(self) -> Checks:
        """What `/health` asks."""
        return Checks(self.database, self.store)

    def limits_of(self, key: str | None) -> Limits:
        """The limits of the API key of this name; None: of those who need none."""
        return self.limits if key is not None or self.keyless_limits is None else self.keyless_limits


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _caller(request: Request, _: Annotated[object, Security(HTTPBearer(auto_error=False))]) -> Caller:
    """As the gate found it; the scheme is for `/openapi.json` alone."""
    caller: Caller = request.state.caller
    return caller


ServiceDep = Annotated[Service, Depends(_service)]
CallerDep = Annotated[Caller, Depends(_caller)]
