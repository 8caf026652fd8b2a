"""The files of the benchmark: the same People in many forms, and what must become of each.

Blocks of records are made in all processors and written in order, so ten million take as little memory as one.
"""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from uuid import UUID

import orjson

from data import COLUMNS, SOURCE, Line, People, digest

BLOCK = 20_000
IMPORT_ID = UUID("01989e0c-5b9e-7cc3-a1f0-0a4c7f3f1d11")
ID_HIGH = IMPORT_ID.int >> 64 << 64 | 0x8 << 60


@dataclass(frozen=True)
class File:
    """A file, and the account that is right for it; `digest`: the sum of its contacts'."""

    path: Path
    read: int
    rejected: int
    duplicate: int
    created: int
    digest: int


@dataclass(frozen=True)
class Form:
    """How a file begins, what stands between two blocks of it, how it ends, and how a block is written."""

    head: bytes
    between: bytes
    foot: bytes
    write: Callable[[list[Line]], bytes]


@dataclass(frozen=True)
class Block:
    """Some records in every form, and their share of the account."""

    texts: list[bytes]
    rejected: int
    created: int
    digest: int


def make(folder: Path, people: People, *forms: str) -> list[File]:
    """One file in each of these forms; about five seconds of a processor a million and form."""
    stretches = [
        (start, min(start + BLOCK, people.first + people.count))
        for start in range(people.first, people.first + people.count, BLOCK)
    ]
    paths = [folder / f"{people.first}-{people.count}-{people.bad}-{people.lines:d}.{form}" for form in forms]
    rejected = created = total = 0
    with get_context("spawn").Pool() as pool:
        superseded = _superseded(pair for pairs in pool.starmap(people.repeats, stretches, 1) for pair in pairs)
        tasks = [(start, stop, frozenset(n for n in superseded if start <= n < stop)) for start, stop in stretches]
        sinks = [_Sink(path, FORMS[form]) for path, form in zip(paths, forms, strict=True)]
        for block in pool.imap(partial(_block, people, forms), tasks):
            for sink, text in zip(sinks, block.texts, strict=True):
                sink.add(text)
            rejected, created, total = rejected + block.rejected, created + block.created, total + block.digest
        for sink in sinks:
            sink.close()
    duplicate = people.count - rejected - created
    return [File(path, people.count, rejected, duplicate, created, total) for path in paths]


def _superseded(pairs: Iterator[tuple[int, int]]) -> frozenset[int]:
    """The numbers whose address comes again: all but the last of each address."""
    standing: dict[int, int] = {}
    gone = []
    for number, earlier in pairs:
        gone.append(standing.get(earlier, earlier))
        standing[earlier] = number
    return frozenset(gone)


def _block(people: People, forms: tuple[str, ...], task: tuple[int, int, frozenset[int]]) -> Block:
    lines = list(people.block(*task))
    last = [line for line in lines if line.last]
    return Block(
        [FORMS[form].write(lines) for form in forms],
        rejected=sum(not line.sound for line in lines),
        created=len(last),
        digest=sum(digest(line.number, line.record) for line in last),
    )


class _Sink:
    """A file that grows block by block."""

    def __init__(self, path: Path, form: Form) -> None:
        self._file, self._form = path.open("wb"), form
        self._packer = zlib.compressobj(6, wbits=31) if path.suffix == ".gzip" else None
        self._write(form.head)
        self._begun = False

    def add(self, text: bytes) -> None:
        self._write(self._form.between + text if self._begun else text)
        self._begun = True

    def close(self) -> None:
        self._write(self._form.foot)
        if self._packer:
            self._file.write(self._packer.flush())
        self._file.close()

    def _write(self, text: bytes) -> None:
        self._file.write(self._packer.compress(text) if self._packer else text)


def _csv(quoting: int, lines: list[Line]) -> bytes:
    text = io.StringIO()
    csv.writer(text, quoting=quoting).writerows(line.record for line in lines)  # type: ignore[arg-type]
    return text.getvalue().encode()


def _clean(lines: list[Line]) -> bytes:
    """What must stand in the table, for those who judge and fold nothing."""
    text = io.StringIO()
    rows = ((name, email.lower(), *more, number) for number, (name, email, *more), _, last in lines if last)
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _objects(between: bytes, lines: list[Line]) -> bytes:
    return between.join([orjson.dumps(dict(zip(COLUMNS, line.record, strict=True))) for line in lines])


def _ndjson(lines: list[Line]) -> bytes:
    return _objects(b"\n", lines) + b"\n"


def _rows(lines: list[Line]) -> bytes:
    """COPY's text form, columns as in public.contacts: made without Rollcall, as psql's input."""
    text = io.StringIO()
    for number, (name, email, phone, company), _, last in lines:
        if last:
            attributes = orjson.dumps({"phone": phone, "company": company}).decode().replace("\\", "\\\\")
            fields = (UUID(int=ID_HIGH | number), name, email.lower(), SOURCE, attributes, "2026-11-23", IMPORT_ID)
            text.write("\t".join(map(str, fields)) + f"\t{number}\n")
    return text.getvalue().encode()


HEADER = (",".join(COLUMNS) + "\r\n").encode()
FORMS = {
    "csv": Form(HEADER, b"", b"", partial(_csv, csv.QUOTE_MINIMAL)),
    "quoted": Form(b'"' + HEADER.strip().replace(b",", b'","') + b'"\r\n', b"", b"", partial(_csv, csv.QUOTE_ALL)),
    "gzip": Form(HEADER, b"", b"", partial(_csv, csv.QUOTE_MINIMAL)),
    "clean": Form(HEADER.replace(b"\r\n", b",record\r\n"), b"", b"", _clean),
    "json": Form(b"[", b",\n", b"]\n", partial(_objects, b",\n")),
    "envelope": Form(b'{"source":"' + SOURCE.encode() + b'","data":[', b",\n", b"]}\n", partial(_objects, b",\n")),
    "ndjson": Form(b"", b"", b"", _ndjson),
    "rows": Form(b"", b"", b"", _rows),
}
