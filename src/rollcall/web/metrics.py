"""GET /metrics, for Prometheus: requests as this process counted them; everything else as the database has it now.

Labels are route templates, states, codes and the like, never a value that a sender chooses: their number is bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from rollcall import imports, liveness, workers
from rollcall.database import Connection
from rollcall.errors import Forbidden, ImportFailed, RollcallError, Unreadable
from rollcall.telemetry import WORKER_METRICS, CounterValues
from rollcall.web import CallerDep, ServiceDep

STATES: tuple[imports.State, ...] = ("queued", "running", "succeeded", "failed", "cancelled")
OUTCOMES = ("created", "updated", "unchanged", "skipped", "duplicate", "rejected")

router = APIRouter(tags=["health"])


@router.get("/metrics", summary="Metrics for Prometheus", response_class=Response)
async def metrics(service: ServiceDep, caller: CallerDep) -> Response:
    """Metrics are about all Sources, so a key that is bound to some is refused."""
    if caller.sources is not None:
        raise Forbidden("This key is bound to sources, and metrics are about all of them. Use a key that is not.")
    async with service.database.session() as tx:
        found = Found([*await _gauges(tx), *await _counters(tx, service.shown)])
    return Response(generate_latest(REGISTRY) + generate_latest(found), media_type=CONTENT_TYPE_LATEST)


class Found(Collector):
    """The metrics that were read from the database for one scrape."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


async def _gauges(tx: Connection) -> list[Metric]:
    census = await imports.census(tx)
    by_state = GaugeMetricFamily("rollcall_imports", "Imports by state.", labels=["state"])
    for state in STATES:
        by_state.add_metric([state], sum(count for each, _, count in census if each == state))
    failed = GaugeMetricFamily("rollcall_imports_failed", "Failed imports by code.", labels=["code"])
    by_code = {code: count for _, code, count in census if code}
    for code in sorted({*_codes(Unreadable), ImportFailed.code}):
        failed.add_metric([code], by_code.get(code, 0))
    wait, alive = await imports.longest_wait(tx), await workers.count_alive(tx, liveness.STALE_SECONDS)
    return [
        by_state,
        failed,
        GaugeMetricFamily("rollcall_queue_oldest_seconds", "Age of the oldest queued import.", value=wait),
        GaugeMetricFamily("rollcall_workers", "Workers that have shown themselves lately.", value=alive),
    ]


async def _counters(tx: Connection, shown: CounterValues) -> list[Metric]:
    counts, sums = await imports.outcomes(tx), await workers.figures(tx)
    records = {outcome: float(getattr(counts, outcome)) for outcome in OUTCOMES}
    families = [_counter("rollcall_records", "Records of all imports by outcome.", "outcome", records, shown)]
    for known in WORKER_METRICS.collect():
        [label] = known.samples[0].labels
        values = [sample.labels[label] for sample in known.samples]
        found = {value: sums.get((known.name, value), 0.0) for value in values}
        families.append(_counter(known.name, known.documentation, label, found, shown))
    return families


def _counter(name: str, documentation: str, label: str, found: dict[str, float], shown: CounterValues) -> Metric:
    """A counter, never lower than it was shown before. Sums fall when Postgres crashed or a failed import is retried,
    and Prometheus treats a counter that decreases as reset."""
    family = CounterMetricFamily(name, documentation, labels=[label])
    for value, sum_ in found.items():
        shown[name, value] = max(sum_, shown.get((name, value), 0.0))
        family.add_metric([value], shown[name, value])
    return family


def _codes(family: type[RollcallError]) -> Iterator[str]:
    yield family.code
    for kind in family.__subclasses__():
        yield from _codes(kind)
