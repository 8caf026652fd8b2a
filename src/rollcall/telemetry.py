"""Logs and metrics, for operators: one line for each event on stderr, as JSON or for people; Prometheus metrics.

The API's figures are its process's own. A worker has no port: what it counts (WORK) goes to the database with its beat
and is shown by the API, summed over all workers there ever were. What an import took is also log_fields in the log, at
its end.

Nothing of a person is ever in them: no names, addresses, sources, file names or bodies, and no URLs of databases. So an
exception is logged as its type and its place; its message, which may quote a value, is not.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Literal, get_args

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series beside every counter, for a format that nobody asks for here
REQUESTS = Counter("rollcall_http_requests", "Requests answered.", ["method", "route", "status"])
REQUEST_SECONDS = Histogram(
    "rollcall_http_request_seconds",
    "From a request's first byte to its answer's last.",
    ["method", "route"],
    buckets=(0.005, 0.02, 0.1, 0.5, 2, 10, 60, 300, 1800),
)
RECEIVED_BYTES = Counter("rollcall_received_bytes", "Bytes of files that became imports.")
SEGMENT_RETRIES = Counter("rollcall_segment_retries", "Pieces of resumable uploads that were stored once more.")

Stage = Literal["store", "parse", "rules", "fold", "merge", "commit"]
WORKER_METRICS = CollectorRegistry()


def _counter(name: str, documentation: str, label: str, values: Iterable[str]) -> Counter:
    """Of a worker. Every value of its label is there from the beginning: a rate sees the first event too."""
    counter = Counter(name, documentation, [label], registry=WORKER_METRICS)
    for value in values:
        counter.labels(value)
    return counter


STAGE_SECONDS = _counter(
    "rollcall_import_seconds", "Seconds spent on imports, all connections together.", "stage", get_args(Stage)
)
TAKEOVERS = _counter(
    "rollcall_takeovers",
    "Running imports that another worker took: released, gone (its worker died), stale (its worker froze).",
    "why",
    ("released", "gone", "stale"),
)
RETRIES = _counter(
    "rollcall_retries",
    "Work on imports begun again: connection lost, row locked, conflict, ledger rewound; or given back, unavailable.",
    "why",
    ("lost", "locked", "conflict", "rewind", "unavailable"),
)

CounterValues = dict[tuple[str, str], float]
"""By a counter's name and its label."""


def worker_counters() -> CounterValues:
    """What this process has counted as a worker."""
    return {
        (family.name, next(iter(sample.labels.values()))): sample.value
        for family in WORKER_METRICS.collect()
        for sample in family.samples
    }


@dataclass
class Timings:
    """What one attempt at an import took: seconds by stage, and the Records from `after` to `last` in so many bytes.
    `reads`: how often the stored file was read from."""

    began: float = field(default_factory=time.perf_counter)
    stages: dict[Stage, float] = field(default_factory=lambda: dict.fromkeys(get_args(Stage), 0.0))
    after: int = 0
    last: int = 0
    bytes: int = 0
    reads: int = 0

    def log_fields(self) -> dict[str, Any]:
        """For the log. `rate`: Records a second of this attempt. Stages run side by side: their sum is no duration."""
        seconds = time.perf_counter() - self.began
        return {
            "records": self.last,
            "bytes": self.bytes,
            "seconds": round(seconds, 3),
            "rate": round((self.last - self.after) / max(seconds, 1e-3)),
            "stages": {stage: round(spent, 3) for stage, spent in self.stages.items()},
        }


_TIMINGS: ContextVar[Timings] = ContextVar("effort")
"""Of the import that this task, and the tasks and threads it began, work on."""


def start_timings() -> Timings:
    """Start the Timings of an attempt in this task, and in the tasks and threads that it starts."""
    effort = Timings()
    _TIMINGS.set(effort)
    return effort


def timings() -> Timings:
    """Timings of the current attempt; a throw-away object outside one."""
    return _TIMINGS.get(None) or Timings()


def add_seconds(stage: Stage, seconds: float) -> None:
    """Seconds that this attempt, and this worker, spent on a stage."""
    STAGE_SECONDS.labels(stage).inc(seconds)
    timings().stages[stage] += seconds


@contextmanager
def timed(stage: Stage) -> Iterator[None]:
    """Add the seconds of the block, also when it raises."""
    began = time.perf_counter()
    try:
        yield
    finally:
        add_seconds(stage, time.perf_counter() - began)


def configure(log_format: Literal["json", "console"]) -> None:
    """Send every log line to stderr in one form: ours, uvicorn's and everybody else's."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _without_message,
    ]
    render: Any = structlog.processors.JSONRenderer()
    if log_format == "console":
        render = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    root.handlers, root.level = [handler], logging.INFO
    # Their warnings name the database's host and user; ours say DATABASE_UNAVAILABLE.
    for name in ("psycopg", "psycopg.pool", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def where(error: BaseException) -> str:
    """The place an exception came from, innermost of our own code: `imports.py:120 show`, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "unknown"
    own = [frame for frame in frames if "rollcall" in PurePath(frame.filename).parts] or frames
    places = dict.fromkeys((_place(own[-1]), _place(frames[-1])))
    return " < ".join(places)


def _place(frame: traceback.FrameSummary) -> str:
    return f"{PurePath(frame.filename).name}:{frame.lineno} {frame.name}"


def _without_message(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """An exception becomes its type and its place; of a text that quotes one (asyncio's do) the first line stays."""
    info = event.pop("exc_info", None)
    error = sys.exc_info()[1] if info is True else info[1] if isinstance(info, tuple) else info
    if isinstance(error, BaseException):
        event.update(error=type(error).__name__, where=where(error))
    record = event.get("_record")
    if record is not None and record.name == "asyncio":
        event["event"] = str(event["event"]).split("\n", 1)[0]
    return event
