"""Logs and metrics: what an operator sees. One line an event on stderr, JSON or for people; Prometheus metrics.

Nothing of a person is ever in them: no names, addresses, sources, file names or bodies, and no URLs of databases. So an
exception is logged as its type and its place; its message, which may quote a value, is not.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import MutableMapping
from pathlib import PurePath
from typing import Any, Literal

import structlog
from prometheus_client import Counter, Histogram

REQUESTS = Counter("rollcall_http_requests", "Requests answered.", ["method", "route", "status"])
REQUEST_SECONDS = Histogram(
    "rollcall_http_request_seconds",
    "From a request's first byte to its answer's last.",
    ["method", "route"],
    buckets=(0.005, 0.02, 0.1, 0.5, 2, 10, 60, 300, 1800),
)
RECEIVED_BYTES = Counter("rollcall_received_bytes", "Bytes of files that became imports.")


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
        cache_logger_on_first_use=True,
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
