"""HEAD: the headers of the answer to GET, without its body (RFC 9110, 9.3.2)."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Head:
    """Asks the routes for GET, and sends the status and headers of their answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            return await self._app(scope, receive, send)
        asked, started = dict(scope, method="GET"), False

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                await send(message)
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        async def arriving() -> Message:
            # Ends a long answer, such as a reject file, whose body is not sent.
            return {"type": "http.disconnect"} if started else await receive()

        try:
            await self._app(asked, arriving, answer)
        finally:
            scope.update((name, asked[name]) for name in ("route", "endpoint") if name in asked)
        return None
