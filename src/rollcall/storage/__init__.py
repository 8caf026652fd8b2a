"""The store: immutable objects under random keys. What it acknowledges is durable.

    open_store(data_dir)                    the one place that decides which store is used
    write_segment(store, key, …)            bytes in, with checksums; a whole object or none
    open_segments(store, segments, total)   an Upload's Segments as one stream that never hands out a wrong byte

`store` is the protocol that every store keeps, `integrity` the checks above all of them, `files` the store on local
disk. A new store is one file here, a line in `open_store` and a line in `tests/test_storage.py`, whose suite it has to
pass. Nothing here knows a table.
"""

from __future__ import annotations

from pathlib import Path

from rollcall.storage.files import RESERVE_BYTES, FileStore
from rollcall.storage.integrity import BLOCK_BYTES, open_segments, write_segment
from rollcall.storage.store import Segment, Store, is_key, new_key


def open_store(data_dir: Path, *, reserve: int = 0) -> Store:
    """The store of this installation: files in the folder `store` of `data_dir`, made with the first object.

    `reserve`: bytes of the disk that are to stay free, for others on it.
    """
    return FileStore(data_dir / "store", reserve=reserve)


__all__ = [
    "BLOCK_BYTES",
    "RESERVE_BYTES",
    "FileStore",
    "Segment",
    "Store",
    "is_key",
    "new_key",
    "open_segments",
    "open_store",
    "write_segment",
]
