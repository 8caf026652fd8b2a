"""HTTP: one resource a file. Handlers translate between requests and the floors below; they decide nothing else.

    intake (body, form, envelope)   POST /import      imports, rejects   what became of it
    contacts                        GET /contacts     health, metrics    for machines

`answers` is what all of them share: one error body, request ids, one way to write JSON. `outgoing` bounds the memory
that answers take until they are read. `gate` stands before them all
and says who asks; `wire` stands before that and refuses what is no honest HTTP.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer

from rollcall.database import Database
from rollcall.keys import Caller
from rollcall.receive import Limits
from rollcall.storage import Store
from rollcall.telemetry import CounterValues
from rollcall.web.outgoing import Room

BODIES_MAX = 32
"""Bodies that one process takes in at the same time."""
JUDGES = 2
"""JSON bodies judged, and Parts of stored files read again, at the same time; each may take some hundred MiB."""


@dataclass(frozen=True)
class Service:
    """What handlers work with. `segment_bytes`: of resumable uploads; `body_bytes_max`: of one request; `shown`: the
    counters that were shown last."""

    database: Database
    store: Store
    segment_bytes: int
    body_bytes_max: int
    limits: Limits
    bodies: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(BODIES_MAX))
    cpu_slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(JUDGES))
    room: Room = field(default_factory=Room)
    shown: CounterValues = field(default_factory=dict)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _caller(request: Request, _: Annotated[object, Security(HTTPBearer(auto_error=False))]) -> Caller:
    """As the gate found it; the scheme is for `/openapi.json` alone."""
    caller: Caller = request.state.caller
    return caller


ServiceDep = Annotated[Service, Depends(_service)]
CallerDep = Annotated[Caller, Depends(_caller)]
