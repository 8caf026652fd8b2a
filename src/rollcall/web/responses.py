"""What every answer shares: JSON in camelCase, one error body, a request id, a line in the log and a metric.

An exception nobody foresaw is answered with `INTERNAL` and nothing else; the log says its type and place.
"""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any
from uuid import uuid4

import psycopg
import structlog
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rollcall.database import classify
from rollcall.errors import (
    DatabaseDown,
    InvalidInput,
    MethodNotAllowed,
    NotFound,
    RollcallError,
    StillArriving,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)
from rollcall.telemetry import REQUEST_SECONDS, REQUESTS, where

HEADERS: dict[type[RollcallError], dict[str, str]] = {
    Unavailable: {"Retry-After": "5"},
    TooManyRequests: {"Retry-After": "5"},
    StillArriving: {"Retry-After": "5"},
    Unauthorized: {"WWW-Authenticate": "Bearer"},
}
ISSUES_MAX = 100
TEXT_MAX = 1000
PATH_MAX = 100
"""Characters of a message, and of a name in a path: names of options and columns are the sender's to choose."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
QUIET = frozenset({"/health", "/health/live", "/metrics"})
"""Asked every few seconds by machines: in the log only when they fail."""

log = structlog.get_logger()


class Answer(BaseModel):
    """Base of everything answered as JSON."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class Issue(Answer):
    """One thing that is wrong with a request, and where."""

    path: list[str | int]
    code: str
    message: str


class Problem(Answer):
    """The body of every answer with a status of 400 or more."""

    error: str = Field(description="For people: what, where, what to do.")
    code: str = Field(description="For programs; stable.")
    status: int
    issues: list[Issue] | None = Field(None, description="Absent when there is nothing to point at.")
    issues_total: int | None = Field(None, description="How many there are, when only the first 100 are listed.")
    request_id: str


Text = Annotated[str | None, Query(min_length=1, max_length=320, pattern=r"^[^\x00]*$")]
"""A filter in the query; Postgres has no NUL in texts."""

PROBLEMS: dict[int | str, dict[str, Any]] = {"4XX": {"model": Problem}, "5XX": {"model": Problem}}


def issue(path: str, code: str, message: str) -> dict[str, Any]:
    """An issue as RollcallError carries it."""
    return {"path": [path], "code": code, "message": message}


def install(app: FastAPI) -> None:
    """Make the app answer errors in one way, and every request be counted."""
    app.add_exception_handler(RollcallError, on_error)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(psycopg.Error, _on_database)
    app.add_middleware(Requests)
    app.state.under_way, app.state.stopping = set(), False


async def wait_for_requests(app: FastAPI, seconds: float) -> None:
    """Wait for the requests under way. A server that stops cancels them, and then closes what they clean up with."""
    if tasks := app.state.under_way - {asyncio.current_task()}:
        await asyncio.wait(tasks, timeout=seconds)


def problem(error: RollcallError, request_id: str, headers: dict[str, str] | None = None) -> Response:
    """The one error body: ISSUES_MAX issues at most, and no text longer than TEXT_MAX, whatever a sender wrote."""
    body: dict[str, Any] = {"error": _cut(str(error)), "code": error.code, "status": error.status}
    if error.issues is not None:
        body["issues"] = [_short(each) for each in error.issues[:ISSUES_MAX]]
        if len(error.issues) > ISSUES_MAX:
            body["issuesTotal"] = len(error.issues)
    own = next((own for kind, own in HEADERS.items() if isinstance(error, kind)), {})
    return JSONResponse(body | error.more | {"requestId": request_id}, error.status, own | (headers or {}))


def _short(each: dict[str, Any]) -> dict[str, Any]:
    path = [_cut(part, PATH_MAX) if isinstance(part, str) else part for part in each["path"]]
    return each | {"path": path, "message": _cut(each["message"])}


def _cut(text: str, length: int = TEXT_MAX) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def on_error(request: Request, error: Exception) -> Response:
    """The answer to a RollcallError; one that is not the caller's fault is logged."""
    assert isinstance(error, RollcallError)
    if error.status >= 500:
        log.error("request.failed", request_id=request.state.request_id, code=error.code, where=where(error))
    return problem(error, request.state.request_id)


def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    known: dict[int, type[RollcallError]] = {404: NotFound, 405: MethodNotAllowed}
    kind = known.get(error.status_code, InvalidInput if error.status_code < 500 else RollcallError)
    return problem(kind(), request.state.request_id, headers)


def _on_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(each["loc"][0] == "path" for each in found):
        return problem(NotFound(), request.state.request_id)
    issues = [issue(str(each["loc"][-1]), _code(each["type"]), f"{each['loc'][-1]}: {each['msg']}.") for each in found]
    return problem(
        InvalidInput("A parameter has a value that cannot be used.", issues=issues), request.state.request_id
    )


def _code(kind: str) -> str:
    """Pydantic's name of an error in the words of this API."""
    if kind == "missing":
        return "required"
    if kind.startswith(("greater_than", "string_too_short")):
        return "too_small"
    if kind.startswith(("less_than", "string_too_long")):
        return "too_big"
    return "invalid_type" if kind.endswith(("_type", "_parsing")) else "invalid_value"


def _on_database(request: Request, error: Exception) -> Response:
    assert isinstance(error, psycopg.Error)
    if isinstance(error, psycopg.errors.QueryCanceled):
        return on_error(request, TooSlow().with_traceback(error.__traceback__))
    if classify(error) == "fault":
        raise error
    return on_error(request, DatabaseDown().with_traceback(error.__traceback__))


class Requests:
    """Gives every request its id, and says how it went."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        request_id, began, status = uuid4().hex, time.perf_counter(), 0
        scope.setdefault("state", {})["request_id"] = request_id
        under_way, task = scope["app"].state.under_way, asyncio.current_task()
        under_way.add(task)
        structlog.contextvars.bind_contextvars(request_id=request_id)

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, answer)
        except asyncio.CancelledError:
            log.warning("request.cancelled", request_id=request_id)
            if status or not scope["app"].state.stopping:
                raise
            await problem(Stopping(), request_id, {"Connection": "close"})(scope, receive, answer)
        except Exception as error:
            log.error("request.failed", request_id=request_id, error=type(error).__name__, where=where(error))
            if not status:
                await problem(Internal(), request_id)(scope, receive, answer)
            # An answer that has begun ends here without its end, so the client sees that it is not whole.
        finally:
            under_way.discard(task)
            _count(scope, status, time.perf_counter() - began, request_id)
        return None


class Stopping(Unavailable):
    """The service is stopping. Send the request again in a moment."""


class TooSlow(Unavailable):
    """The database took too long for this. Ask for less, or try again in a moment."""


class Internal(RollcallError):
    """Something went wrong that Rollcall did not foresee. Try again, and report it with this requestId."""


def _count(scope: Scope, status: int, seconds: float, request_id: str) -> None:
    method = scope["method"] if scope["method"] in METHODS else "other"
    route = getattr(scope.get("route"), "path", "none")
    REQUESTS.labels(method, route, str(status)).inc()
    REQUEST_SECONDS.labels(method, route).observe(seconds)
    if route not in QUIET or status >= 500:
        log.info("request", request_id=request_id, method=method, route=route, status=status, seconds=round(seconds, 3))
