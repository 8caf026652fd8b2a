"""What `/openapi.json` says beyond FastAPI's own description: stable operation ids, examples, every error by its code.

The errors of a route are those of its own and those that any request may meet. `ROUTES` names them; the tests compare
it with the routes there are, and the answers of the contract with the schemas.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI

from rollcall.errors import (
    Busy,
    DatabaseDown,
    DatabaseFull,
    Forbidden,
    HeadersTooLarge,
    IdempotencyMismatch,
    InvalidInput,
    NoSpace,
    NotFound,
    ObjectMissing,
    ReaderChanged,
    RequestTimeout,
    RollcallError,
    StillArriving,
    StoreDown,
    TooLarge,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    UnsupportedMediaType,
    UploadFailed,
)

Errors = tuple[type[RollcallError], ...]

ANY: Errors = (InvalidInput, Forbidden, RequestTimeout, HeadersTooLarge, RollcallError, Unavailable, Busy)
"""What any request may be answered with, whatever it asks for."""
WITH_DATA: Errors = (*ANY, Unauthorized, DatabaseDown, DatabaseFull)
PROBLEM = {"$ref": "#/components/schemas/Problem"}

JOB_ID = "019f0e5c-7d7a-7c3e-9f5a-3d1c0e6b7a11"
REQUEST_ID = "5f0c9d0b6f1e4c58a1f3f0f4d2b7c9aa"
COUNTS = {"read": 3, "created": 2, "updated": 0, "unchanged": 0, "skipped": 0, "duplicate": 0, "rejected": 1}
IMPORT: dict[str, Any] = {
    "jobId": JOB_ID,
    "source": "crm",
    "fileName": "contacts.csv",
    "state": "succeeded",
    "format": "csv",
    "counts": COUNTS,
    "total": 3,
    "unprocessed": 0,
    "bytes": {"read": 74, "total": 74},
    "sha256": "b5bb9d8014a0f9b1d61e21e796d78dccdf1352f23cd32812f4850b878ae4944c",
    "sameFileAs": None,
    "rate": 150.0,
    "eta": None,
    "ahead": 0,
    "rejectsByCode": {"email_invalid": 1},
    "error": None,
    "options": {"onInvalid": "reject", "onDuplicate": "update"},
    "plan": {"format": "csv", "compression": "none", "header": ["Name", "E-Mail"], "delimiter": ","},
    "attempt": 1,
    "createdBy": "shop",
    "createdAt": "2026-11-27T09:30:00.123456Z",
    "startedAt": "2026-11-27T09:30:00.150000Z",
    "finishedAt": "2026-11-27T09:30:00.170000Z",
}
CONTACT = {
    "id": "019f0e5c-7d90-7000-8000-3d1c0e6b7a12",
    "name": "Ann Lee",
    "email": "ann@example.com",
    "source": "crm",
    "attributes": {"phone": "+49 30 123"},
    "importedAt": "2026-11-27T09:30:00.160000Z",
    "importId": JOB_ID,
    "record": 1,
}
REJECT = {
    "record": 2,
    "field": "email",
    "code": "email_invalid",
    "message": "The email is not an address such as ann@example.com.",
    "value": "bob@",
    "raw": "Bob,bob@",
}
TIME = "2026-11-27T09:30:00Z"


@dataclass(frozen=True)
class Route:
    """`errors`: those of its own. `example`: of the answer 200; None: it is no JSON."""

    operation: str
    example: Any
    errors: Errors = ()
    general: Errors = WITH_DATA


ROUTES: dict[tuple[str, str], Route] = {
    ("post", "/import"): Route(
        "importContacts",
        {"jobId": JOB_ID},
        (
            *(UploadFailed, StillArriving, TooLarge, UnsupportedMediaType, IdempotencyMismatch, TooManyRequests),
            *(StoreDown, NoSpace),
        ),
    ),
    ("get", "/imports"): Route("listImports", {"imports": [IMPORT], "next": None}),
    ("get", "/imports/{jobId}"): Route("getImport", IMPORT, (NotFound,)),
    ("post", "/imports/{jobId}/cancel"): Route("cancelImport", IMPORT | {"state": "cancelled"}, (NotFound,)),
    ("post", "/imports/{jobId}/retry"): Route(
        "retryImport",
        IMPORT | {"state": "queued", "finishedAt": None},
        (NotFound, ObjectMissing, ReaderChanged, TooManyRequests),
    ),
    ("get", "/imports/{jobId}/rejects"): Route(
        "getRejects",
        {"rejects": [REJECT], "next": None, "total": 1, "stored": 1},
        (NotFound, ObjectMissing, ReaderChanged, StoreDown),
    ),
    ("get", "/contacts"): Route("listContacts", {"contacts": [CONTACT], "next": None}),
    ("get", "/health"): Route("getHealth", {"status": "healthy", "timestamp": TIME}, general=ANY),
    ("get", "/health/live"): Route("getLiveness", {"status": "healthy", "timestamp": TIME}, general=ANY),
    ("get", "/metrics"): Route("getMetrics", None),
}


def describe(build: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The description that `build` makes, completed. Routes that are not in `ROUTES` are left as they are."""
    described = build()
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            if route := ROUTES.get((method, path)):
                _complete(operation, route)
                if path.startswith("/health"):
                    operation["security"] = []
    return described


def install(app: FastAPI) -> None:
    """Make `app.openapi` answer that, built once."""
    build, found = app.openapi, dict[str, Any]()

    def openapi() -> dict[str, Any]:
        if not found:
            found.update(describe(build))
        return found

    app.openapi = openapi  # type: ignore[method-assign]


def _complete(operation: dict[str, Any], route: Route) -> None:
    operation["operationId"] = route.operation
    responses = operation["responses"]
    if route.example is not None:
        responses["200"]["content"]["application/json"]["example"] = route.example
    else:
        responses["200"]["content"] = {"text/plain": {"schema": {"type": "string"}, "example": METRIC}}
    for wildcard in ("4XX", "5XX", "422"):
        responses.pop(wildcard, None)
    by_status: defaultdict[int, list[type[RollcallError]]] = defaultdict(list)
    for error in (*route.errors, *route.general):
        by_status[error.status].append(error)
    for status, errors in sorted(by_status.items()):
        _add(responses.setdefault(str(status), {}), errors)


METRIC = "# HELP rollcall_workers Workers that have shown themselves lately.\nrollcall_workers 1.0\n"


def _add(response: dict[str, Any], errors: Sequence[type[RollcallError]]) -> None:
    """Of one status; beside what is there (`/health` has a body of its own for 503)."""
    codes = ", ".join(f"`{error.code}`" for error in errors)
    content = response.setdefault("content", {}).setdefault("application/json", {})
    own = content.get("schema")
    content["schema"] = {"anyOf": [own, PROBLEM]} if own and own != PROBLEM else PROBLEM
    content["examples"] = {error.code: {"value": _example(error)} for error in errors}
    response["description"] = codes


def _example(error: type[RollcallError]) -> dict[str, Any]:
    return {"error": str(error()), "code": error.code, "status": error.status, "requestId": REQUEST_ID}
