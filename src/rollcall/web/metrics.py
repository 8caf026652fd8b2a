"""GET /metrics, for Prometheus: requests as this process saw them, imports as the database has them now.

Labels are route templates and states, never anything of a person.
"""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Gauge, generate_latest

from rollcall import imports
from rollcall.errors import DatabaseDown
from rollcall.web import Serving

router = APIRouter(tags=["health"])


@router.get("/metrics", summary="Metrics for Prometheus", response_class=Response)
async def metrics(service: Serving) -> Response:
    """While the database is away, what this process knows by itself."""
    now = CollectorRegistry()
    gauge = Gauge("rollcall_imports", "Imports by state.", ["state"], registry=now)
    try:
        async with service.database.session() as tx:
            for state, count in (await imports.by_state(tx)).items():
                gauge.labels(state).set(count)
    except DatabaseDown:
        gauge.clear()
    return Response(generate_latest(REGISTRY) + generate_latest(now), media_type=CONTENT_TYPE_LATEST)
