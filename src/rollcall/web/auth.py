"""Who asks: every request but those for health and the documentation shows an API key, once a key was ever made.

What is not named in OPEN is closed: a route that is added later, a path that leads nowhere. The key
comes in one `Authorization: Bearer KEY` and in no other way. Nothing is remembered of a key from one request to the
next, so it ends with its revocation; a database that does not answer lets nobody in.

While there is no key, the browser of this machine is the way in for everybody else: a page of any site can post a form
to a loopback address, and read the answers once its own name resolves to 127.0.0.1 (DNS rebinding). So until then every
route, health too, answers only to a Host that is this machine's own, and to no page of another origin.
"""

from __future__ import annotations

import asyncio
import re
from ipaddress import AddressValueError, IPv4Address

import psycopg
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from rollcall import keys
from rollcall.errors import Forbidden, RollcallError, Unauthorized, Unavailable
from rollcall.keys import Caller
from rollcall.web.responses import on_error

OPEN = frozenset(
    {"/health", "/health/live", "/openapi.json", "/docs"}
    | {f"/docs/{name}" for name in ("start.js", "swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png")}
)
BEARER = re.compile(rb"(?i:bearer) +([!-~]{1,100})")
HOST = re.compile(r"(\[::1\]|[a-z0-9.-]+)(?::([0-9]{1,5}))?")
DEFAULT_PORTS = {"http": 80, "https": 443}
ASK_SECONDS = 1.0
"""Health waits no longer than this to learn whether there is a key: a probe wants its answer."""


class Authentication:
    """`closed`: ask for a key even while none was made, because others than this machine reach the service."""

    def __init__(self, app: ASGIApp, *, closed: bool) -> None:
        self._app, self._closed = app, closed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                if scope["path"] not in OPEN:
                    scope["state"]["caller"] = await self._caller(scope)
                elif not self._closed and (reason := foreign(scope)):
                    await self._refuse_while_keyless(scope, reason)
            except RollcallError as error:
                return await on_error(Request(scope), error)(scope, receive, send)
        return await self._app(scope, receive, send)

    async def _caller(self, scope: Scope) -> Caller:
        shown = _header(scope, b"authorization")
        found = BEARER.fullmatch(shown[0]) if len(shown) == 1 else None
        if self._closed and found is None:
            raise Unauthorized
        async with scope["app"].state.service.database.session() as tx:
            self._closed = self._closed or await keys.any_made(tx)
            if not self._closed:
                if reason := foreign(scope):
                    raise Forbidden(reason)
                return Caller()
            if found and (caller := await keys.caller(tx, found[1].decode())):
                return caller
        raise Unauthorized

    async def _refuse_while_keyless(self, scope: Scope, reason: str) -> None:
        """Health asks the database only about a request that looks foreign; when it is away, health says that."""
        try:
            async with asyncio.timeout(ASK_SECONDS), scope["app"].state.service.database.session() as tx:
                self._closed = self._closed or await keys.any_made(tx)
        except (TimeoutError, Unavailable, psycopg.Error):
            return
        if not self._closed:
            raise Forbidden(reason)


def foreign(scope: Scope) -> str | None:
    """Why this request may come from a page of another site, and what to do; None when it does not.

    Browsers send `Host` always, `Origin` with every POST across origins, and `Sec-Fetch-Site` with every request (Fetch
    Metadata). A request of HTTP/1.0 may have no Host; it is not a browser's.
    """
    hosts = [value.decode("latin-1").lower() for value in _header(scope, b"host")]
    if not all(_is_loopback(host) for host in hosts):
        return (
            "While there is no API key, this service answers only to localhost, 127.0.0.1 or [::1]. Use one of them in"
            " the URL, or make a key: rollcall keys create."
        )
    sites = {value.lower() for value in _header(scope, b"sec-fetch-site")}
    origins = [value.decode("latin-1") for value in _header(scope, b"origin")]
    if sites - {b"none", b"same-origin"} or not all(_same_origin(each, hosts) for each in origins):
        return (
            "While there is no API key, this service refuses requests from pages of other origins. Send it from a"
            " program, or make a key: rollcall keys create."
        )
    return None


def _header(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key == name]


def _is_loopback(host: str) -> bool:
    found = HOST.fullmatch(host)
    if found is None:
        return False
    try:
        return found[1] in ("localhost", "[::1]") or IPv4Address(found[1]).is_loopback
    except AddressValueError:
        return False


def _same_origin(origin: str, hosts: list[str]) -> bool:
    """Whether an Origin stands for this Host; the port that is its scheme's own may be left out (RFC 6454)."""
    scheme, _, authority = origin.lower().partition("://")
    if scheme not in DEFAULT_PORTS:
        return False
    suffix = f":{DEFAULT_PORTS[scheme]}"
    return [authority.removesuffix(suffix)] == [host.removesuffix(suffix) for host in hosts]
