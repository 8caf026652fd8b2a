"""GET /metrics, for Prometheus: requests as this process saw them, imports as the database has them now.

Labels are route templates and states, never anything of a person.
"""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Gauge, generate_latest

from rollcall import imports
from rollcall.errors import Forbidden
from rollcall.web import Asking, Serving

router = APIRouter(tags=["health"])


@router.get("/metrics", summary="Metrics for Prometheus", response_class=Response)
async def metrics(service: Serving, caller: Asking) -> Response:
    """They are about all Sources: not for a key that is bound to some."""
    if caller.sources is not None:
        raise Forbidden("This key is bound to sources, and metrics are about all of them. Use a key that is not.")
    now = CollectorRegistry()
    gauge = Gauge("rollcall_imports", "Imports by state.", ["state"], registry=now)
    async with service.database.session() as tx:
        for state, count in (await imports.by_state(tx)).items():
            gauge.labels(state).set(count)
    return Response(generate_latest(REGISTRY) + generate_latest(now), media_type=CONTENT_TYPE_LATEST)
