"""The HTTP service: settings → database, store, routes. `create` builds it, `serve` runs it until SIGTERM.

The worker is another process; this one only takes files in and answers questions.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import cast

import pyarrow as pa
import uvicorn
from fastapi import FastAPI

from rollcall import __version__, embedded, telemetry
from rollcall.database import Database
from rollcall.receive import Limits
from rollcall.settings import Settings
from rollcall.storage import open_store
from rollcall.web import Service, contacts, docs, health, imports, metrics, openapi, post_import, rejects, responses
from rollcall.web.auth import Authentication
from rollcall.web.head import Head
from rollcall.web.http_protocol import Connection

GRACE_SECONDS = 8
"""After SIGTERM: what a request under way is given until it is cancelled."""
CLEANUP_SECONDS = 5
KEYLESS_LIMIT = 1000
"""Uploads that arrive and imports that are queued while there is no key, unless the settings say otherwise."""


def create(settings: Settings, *, database_url: str) -> FastAPI:
    """The application; its database pool is open while its lifespan runs. A database that is away is no hindrance."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        async with Database(database_url, name="rollcall:api") as database:
            app.state.service = Service(
                database=database,
                store=open_store(settings.data_dir, reserve=embedded.reserve(settings.data_dir, database_url)),
                segment_bytes=settings.upload_chunk_size,
                body_bytes_max=settings.max_upload_size,
                limits=Limits(arriving=settings.max_arriving_uploads, queued=settings.max_queued_imports),
                keyless_limits=_keyless_limits(settings),
                spool_dir=settings.data_dir,
            )
            watching = asyncio.create_task(app.state.service.watch.run())
            yield
            await responses.wait_for_requests(app, CLEANUP_SECONDS)
            app.state.service.checks.stop()
            watching.cancel()
            await asyncio.wait([watching], timeout=CLEANUP_SECONDS)

    app = FastAPI(
        title="Rollcall",
        version=__version__,
        description="Brings contact files of any size into Postgres and answers for every record.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # the Location would be made of the Host that the client names
    )
    app.add_middleware(Head)
    app.add_middleware(Authentication, closed=not settings.loopback)
    responses.install(app)
    openapi.install(app)
    app.include_router(docs.router)
    for resource in (post_import, imports, rejects, contacts, health, *([metrics] if settings.enable_metrics else [])):
        app.include_router(resource.router)
    return app


class _Server(uvicorn.Server):
    """Tells the application that it stops, before it waits for the requests under way."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        api = cast(FastAPI, self.config.app)
        api.state.stopping = True
        api.state.service.watch.stop()
        await super().shutdown(sockets)


def _keyless_limits(settings: Settings) -> Limits:
    """Without keys nobody can be told from anybody else: a limit that is meant for one sender would be one for all."""
    arriving, queued = settings.max_arriving_uploads, settings.max_queued_imports
    return Limits(
        arriving=arriving if "max_arriving_uploads" in settings.model_fields_set else max(arriving, KEYLESS_LIMIT),
        queued=queued if "max_queued_imports" in settings.model_fields_set else max(queued, KEYLESS_LIMIT),
    )


def server(api: FastAPI, *, host: str = "127.0.0.1", port: int, grace_seconds: int = GRACE_SECONDS) -> uvicorn.Server:
    """What listens. It takes nobody's word for who the client is: `X-Forwarded-*` counts for nothing."""
    config = uvicorn.Config(
        api,
        host=host,
        port=port,
        http=Connection,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=grace_seconds,
    )
    return _Server(config)


def serve(settings: Settings, database_url: str) -> None:
    """Listen until SIGTERM or SIGINT; requests under way are ended in good order. Configures the log."""
    telemetry.configure(settings.log_format)
    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own keeps for every thread what others could use
    listening = server(create(settings, database_url=database_url), host=settings.host, port=settings.port)
    with suppress(KeyboardInterrupt):  # uvicorn raises the signal again when it is done
        listening.run()
    if not listening.started:
        sys.exit(3)
