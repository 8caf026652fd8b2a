"""GET /health: can this service import now? GET /health/live: does this process answer?"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from fastapi import APIRouter, Response

from rollcall.web import ServiceDep
from rollcall.web.responses import Answer

router = APIRouter(tags=["health"])


class Healthy(Answer):
    status: Literal["healthy"] = "healthy"
    timestamp: datetime


class Unhealthy(Answer):
    status: Literal["unhealthy"] = "unhealthy"
    error: str
    timestamp: datetime


@router.get("/health", summary="Whether imports can be taken and carried", responses={503: {"model": Unhealthy}})
async def health(response: Response, service: ServiceDep) -> Healthy | Unhealthy:
    """Reads the contacts, looks for a worker, asks the store whether it can be written."""
    fault = await service.checks.fault()
    now = datetime.now(UTC)
    if fault is None:
        return Healthy(timestamp=now)
    response.status_code = 503
    return Unhealthy(error=str(fault), timestamp=now)


@router.get("/health/live", summary="Whether this process answers")
async def live() -> Healthy:
    """Checks nothing but this process."""
    return Healthy(timestamp=datetime.now(UTC))
