"""The HTTP service. `create` builds it from settings, database and store; `serve` runs it until SIGTERM.

It receives files and answers queries. The worker that loads them is another process.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import cast

import psycopg
import pyarrow as pa
import structlog
import uvicorn
from fastapi import FastAPI

from rollcall import __version__, embedded, store_owner, telemetry
from rollcall.errors import RollcallError, StoreMismatch
from rollcall.pool import Pool
from rollcall.receive import Limits
from rollcall.settings import Settings
from rollcall.storage import open_store
from rollcall.web import Service, contacts, docs, health, imports, metrics, openapi, post_import, rejects, responses
from rollcall.web.auth import Authentication
from rollcall.web.head import Head
from rollcall.web.http_protocol import Connection, raise_file_limit

GRACE_SECONDS = 8
"""How long a running request may take after SIGTERM before it is cancelled."""
CLEANUP_SECONDS = 5
KEYLESS_LIMIT = 1000
"""Arriving uploads, and queued imports, while there is no key and the settings do not say otherwise."""

log = structlog.get_logger()


def create(settings: Settings, *, database_url: str) -> FastAPI:
    """The application. Its lifespan opens the database pool; it starts even while the database is away."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        async with Pool(database_url, name="rollcall:api") as database:
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
            looking = asyncio.create_task(_log_mismatch(app.state.service))
            yield
            await responses.wait_for_requests(app, CLEANUP_SECONDS)
            app.state.service.checks.stop()
            watching.cancel()
            looking.cancel()
            await asyncio.wait([watching, looking], timeout=CLEANUP_SECONDS)

    app = FastAPI(
        title="Rollcall",
        version=__version__,
        description="Brings contact files of any size into Postgres and answers for every record.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect's Location would repeat the client's Host header
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
    """Tells the application that it stops, before it waits for running requests."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        api = cast(FastAPI, self.config.app)
        api.state.stopping = True
        if service := getattr(api.state, "service", None):  # its lifespan may not have begun
            service.watch.stop()
        await super().shutdown(sockets)


async def _log_mismatch(service: Service) -> None:
    """Say at the start what every upload is going to be told. What else is in the way may pass: `/health` says it."""
    try:
        async with service.database.session() as tx:
            await store_owner.check(tx, service.store)
    except StoreMismatch as error:
        log.error("store.mismatch", code=error.code, message=str(error))
    except (RollcallError, psycopg.Error):
        return


def _keyless_limits(settings: Settings) -> Limits:
    """Without keys all requests are one sender, so a limit meant for one sender would be a limit for all of them."""
    arriving, queued = settings.max_arriving_uploads, settings.max_queued_imports
    return Limits(
        arriving=arriving if "max_arriving_uploads" in settings.model_fields_set else max(arriving, KEYLESS_LIMIT),
        queued=queued if "max_queued_imports" in settings.model_fields_set else max(queued, KEYLESS_LIMIT),
    )


def server(api: FastAPI, *, host: str = "127.0.0.1", port: int, grace_seconds: int = GRACE_SECONDS) -> uvicorn.Server:
    """The listening server. It ignores `X-Forwarded-*`: any client could write those headers."""
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
    """Listen until SIGTERM or SIGINT, then let running requests finish. Configures the log."""
    telemetry.configure(settings.log_format)
    raise_file_limit()
    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own pool keeps freed memory for each thread
    listening = server(create(settings, database_url=database_url), host=settings.host, port=settings.port)
    with suppress(KeyboardInterrupt):  # uvicorn raises the signal again when it is done
        listening.run()
    if not listening.started:
        sys.exit(3)
