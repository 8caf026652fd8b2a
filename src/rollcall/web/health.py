"""GET /health: can this service import now? GET /health/live: does this process answer?"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import psycopg
import structlog
from fastapi import APIRouter, Response

from rollcall import contacts, workers
from rollcall.errors import RollcallError, Unavailable
from rollcall.telemetry import where
from rollcall.web import Service, ServiceDep
from rollcall.web.responses import Answer

STALE_SECONDS = 20.0
"""A worker shows itself every 5 seconds."""

router = APIRouter(tags=["health"])
log = structlog.get_logger()


class Healthy(Answer):
    status: Literal["healthy"] = "healthy"
    timestamp: datetime


class Unhealthy(Answer):
    status: Literal["unhealthy"] = "unhealthy"
    error: str
    timestamp: datetime


class NoWorker(Unavailable):
    """No worker is running."""

    code = "NO_WORKER"


@router.get("/health", summary="Whether imports can be taken and carried", responses={503: {"model": Unhealthy}})
async def health(response: Response, service: ServiceDep) -> Healthy | Unhealthy:
    """Reads the contacts, writes to the store, looks for a worker."""
    now = datetime.now(UTC)
    try:
        await _check(service)
    except RollcallError as error:
        fault = error
    except psycopg.Error as error:
        log.error("health.failed", error=type(error).__name__, where=where(error))
        fault = Unavailable("The contacts cannot be read.")
    else:
        return Healthy(timestamp=now)
    response.status_code = 503
    return Unhealthy(error=str(fault), timestamp=now)


@router.get("/health/live", summary="Whether this process answers")
async def live() -> Healthy:
    """Looks at nothing else."""
    return Healthy(timestamp=datetime.now(UTC))


async def _check(service: Service) -> None:
    async with service.database.session() as tx:
        await contacts.readable(tx)
        alive = await workers.count_alive(tx, STALE_SECONDS)
    await service.store.check()
    if not alive:
        raise NoWorker
