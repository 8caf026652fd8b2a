"""Cancel and retry an import from outside. The worker that runs it learns of it from its fence."""

from __future__ import annotations

from uuid import UUID

import psycopg
import structlog

from rollcall import imports, ledger, uploads
from rollcall.database import classify, end_sessions
from rollcall.errors import ObjectMissing, ReaderChanged
from rollcall.loading.retries import Patience
from rollcall.pool import Pool
from rollcall.records.plan import READER_VERSION

log = structlog.get_logger()


async def cancel(database: Pool, job_id: UUID) -> None:
    """Cancel an import in any state. When this returns, no further batch of it can commit."""
    patience = Patience()
    while True:
        async with database.session() as tx:
            try:
                return await imports.cancel(tx, job_id)
            except psycopg.Error as error:
                if classify(error, tx) != "locked" and not isinstance(error, psycopg.errors.QueryCanceled):
                    raise
                await tx.rollback()
                stands = await imports.state_and_attempt(tx, job_id)
                # The loaders reconnect after a pause: try again before they do.
                if not stands or not await end_sessions(tx, job_id, attempt=stands[1]):
                    await patience.pause(error)


async def retry(database: Pool, job_id: UUID) -> None:
    """Queue a failed or cancelled import again, to go on after what is committed; any other is left as it is.

    Raises ObjectMissing when its stored file was deleted; ReaderChanged when Records are committed that this version
    would number differently.
    """
    async with database.session() as tx:
        while (job := await imports.show(tx, job_id)) and job.state in ("failed", "cancelled"):
            if not await uploads.segments(tx, job.upload_id):
                raise ObjectMissing
            other_reader = job.plan is not None and job.plan.get("reader") != READER_VERSION
            if other_reader and await ledger.has_begun(tx, job_id):
                raise ReaderChanged
            if await imports.retry(tx, job_id):
                log.info("import.retried", import_id=str(job_id))
                return
