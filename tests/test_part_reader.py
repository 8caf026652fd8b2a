"""Reading in a thread: what stops it."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pytest

from rollcall.errors import Draining
from rollcall.loading.part_reader import open_parts
from rollcall.records import inspect
from rollcall.storage import FileStore, new_key, write_segment
from rollcall.telemetry import start_timings

CSV = b"name,email\n" + b"".join(b"Ann,ann%d@example.com\n" % number for number in range(60_000))


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


@pytest.mark.parametrize(
    "data", [CSV, gzip.compress(CSV), pa.compress(CSV, "zstd", asbytes=True)], ids=["csv", "gz", "zst"]
)
async def test_part_reader_a_drain_is_heard_while_loaded_records_are_read_past(tmp_path: Path, data: bytes) -> None:
    start_timings()
    store, draining = FileStore(tmp_path), asyncio.Event()
    segments, plan = [await write_segment(store, new_key(), 0, _once(data))], inspect(BytesIO(data))
    draining.set()

    async def read_to_the_end() -> None:
        async with open_parts(store, segments, len(data), plan, after=59_999, draining=draining) as coming:
            async for part in coming:
                pytest.fail(f"read to record {part.last}")

    with pytest.raises(Draining):
        await read_to_the_end()
