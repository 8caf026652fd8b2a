"""HTTP: one resource a file. Handlers translate between requests and the floors below; they decide nothing else.

    intake (form, envelope)   POST /import            imports, rejects   what became of it
    contacts                  GET /contacts           health, metrics    for machines

`answers` is what all of them share: one error body, request ids, one way to write JSON.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from rollcall.database import Database
from rollcall.storage import Store

JUDGES = 2
"""JSON bodies judged at the same time; each may take some hundred MiB."""


@dataclass(frozen=True)
class Service:
    """What handlers work with. `segment_bytes`: of resumable uploads; `body_bytes_max`: of one request."""

    database: Database
    store: Store
    segment_bytes: int
    body_bytes_max: int
    judges: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(JUDGES))


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Serving = Annotated[Service, Depends(_service)]
