"""Who asks: every request but those for health shows an API key, once a key was ever made.

What is not named in OPEN is closed: a route that is added later, the documentation, a path that leads nowhere. The key
comes in one `Authorization: Bearer KEY` and in no other way. Nothing is remembered of a key from one request to the
next, so it ends with its revocation; a database that does not answer lets nobody in.
"""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from rollcall import keys
from rollcall.errors import RollcallError, Unauthorized
from rollcall.keys import Caller
from rollcall.web.responses import on_error

OPEN = frozenset({"/health", "/health/live"})
BEARER = re.compile(rb"(?i:bearer) +([!-~]{1,100})")


class Authentication:
    """`closed`: ask for a key even while none was made, because others than this machine reach the service."""

    def __init__(self, app: ASGIApp, *, closed: bool) -> None:
        self._app, self._closed = app, closed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN:
            try:
                scope["state"]["caller"] = await self._caller(scope)
            except RollcallError as error:
                return await on_error(Request(scope), error)(scope, receive, send)
        return await self._app(scope, receive, send)

    async def _caller(self, scope: Scope) -> Caller:
        shown = [value for name, value in scope["headers"] if name == b"authorization"]
        found = BEARER.fullmatch(shown[0]) if len(shown) == 1 else None
        if self._closed and found is None:
            raise Unauthorized
        async with scope["app"].state.service.database.session() as tx:
            self._closed = self._closed or await keys.any_made(tx)
            if not self._closed:
                return Caller()
            if found and (caller := await keys.caller(tx, found[1].decode())):
                return caller
        raise Unauthorized
