"""HTTP: one resource in each file. Handlers translate between requests and the floors below, and decide nothing else.

    post_import        POST /import      imports, rejects   what became of it
    contacts           GET /contacts     health, metrics    for machines

A request to import goes through `admission` (may it begin?), `body` (does it arrive in time?), then `form`, or
`envelope` with `members`. `import_request` reads its source and options.

All share `responses`: one error body, request ids, JSON. `outgoing` bounds the memory of answers until clients have
read them. `watch` and `checks` ask the database once for all requests that wait for an import, or ask for health.
Before them, `auth` finds the sender, and `http_protocol` refuses ambiguous HTTP.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer

from rollcall.keys import Caller
from rollcall.pool import Pool
from rollcall.receive import Limits
from rollcall.storage import Store
from rollcall.telemetry import CounterValues
from rollcall.web.checks import Checks
from rollcall.web.outgoing import Room
from rollcall.web.watch import Watch

READINGS = 4
"""Stored files that are read again at a time, for Rejects that are not stored."""
JUDGES = 2
"""JSON bodies that are checked, and Parts of stored files that are read again, at a time; each may take some hundred
MiB."""


@dataclass(frozen=True)
class Service:
    """What handlers work with. `segment_bytes`: of resumable uploads. `body_bytes_max`: of one request. `limits`: of
    one API key. `keyless_limits`: of all requests together while there is no key. `spool_dir`: where JSON bodies are
    kept until they are checked; None: the system's folder. `shown`: the counters that `/metrics` showed last."""

    database: Pool
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
        """The service runs its `run` as a task."""
        return Watch(self.database)

    @cached_property
    def checks(self) -> Checks:
        """The check behind `/health`."""
        return Checks(self.database, self.store)

    def limits_of(self, key: str | None) -> Limits:
        """The limits of the API key with this name; None: of requests without a key."""
        return self.limits if key is not None or self.keyless_limits is None else self.keyless_limits


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _caller(request: Request, _: Annotated[object, Security(HTTPBearer(auto_error=False))]) -> Caller:
    """The sender, as `auth` found it. The security scheme is only for `/openapi.json`."""
    caller: Caller = request.state.caller
    return caller


ServiceDep = Annotated[Service, Depends(_service)]
CallerDep = Annotated[Caller, Depends(_caller)]
