"""The Records of a CSV file become columns: pyarrow parses what reaches it as well-formed rows, one to one.

Faulty Records become blank rows, ragged ones are filled up, and what pyarrow reads otherwise than `csv_grammar` (blanks
around quotes, lone CRs, backslashes) is written anew. Of a wide file the rows with few fields are read apart from those
with many, so that memory and time follow the bytes of the rows, never columns × rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import IO, Final, Literal, cast

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from rollcall.records import reject_file
from rollcall.records.formats import json_objects, resent
from rollcall.records.formats.columns import attributes, join_values
from rollcall.records.formats.csv_grammar import blanks, ending, split
from rollcall.records.formats.reader import Columns, Offsets, RecordError, Slice
from rollcall.records.formats.spans import mask_escapes
from rollcall.records.plan import Plan
from rollcall.records.text import BLANKS

WIDE_COLUMNS: Final = 64
"""In files with more columns, rows with about as many fields are read together."""

CELLS_MAX: Final = 500_000
"""No more cells of a wide file are read at a time."""

KEPT_BYTES: Final = 64 << 10
"""What is kept of a rejected Record."""

FEW_ROWS: Final = 16
"""Fewer wide rows are sooner read one by one than column by column."""


def parse(part: Slice, plan: Plan) -> Columns:
    """The fields of these Records. Further RecordErrors: invalid_utf8, too_many_fields, nul_character."""
    faults = dict.fromkeys(part.not_utf8(), RecordError("invalid_utf8")) | part.faults
    rows = _rewritten(part, plan, faults)
    width = len(plan.header)
    again = reject_file.is_reject_file(plan.header)
    parse_rows = _parse_resent if again else _parse
    if width <= WIDE_COLUMNS:
        return parse_rows(part, rows, faults, plan, width)
    indices, batches = [], []
    for some, count in _alike_wide(fields_at_most(part.data, part.starts, part.ends, plan), width):
        chosen = replace(part, starts=part.starts[some], ends=part.ends[some], faults={}, weights=None)
        own = {place: faults[index] for place, index in enumerate(some.tolist()) if index in faults}
        laid = {place: rows[index] for place, index in enumerate(some.tolist()) if index in rows}
        few = len(some) < FEW_ROWS and not again
        batches.append(_one_by_one(chosen, laid, own, plan) if few else parse_rows(chosen, laid, own, plan, count))
        faults |= {int(some[place]): fault for place, fault in batches[-1].faults.items()}
        indices.append(some)
    place = np.empty(len(part), np.int64)
    place[np.concatenate(indices)] = np.arange(len(part))
    columns = ((batch.name, batch.email, batch.attributes) for batch in batches)
    name, email, others = (pa.concat_arrays(column).take(place) for column in zip(*columns, strict=True))
    return Columns(name, email, others, faults)


def _parse_resent(
    part: Slice, rows: dict[int, bytes], faults: dict[int, RecordError], plan: Plan, width: int
) -> Columns:
    """The same of a reject file that was mended."""
    read = _values(part, rows, faults, plan, width)
    columns = resent.restored(dict(zip(plan.header, read, strict=False)), faults)
    if reject_file.MORE in plan.header:
        return json_objects.parse(resent.json_objects(columns, faults), plan)
    return _fields(part, columns, faults, plan)


def _alike_wide(fields: Offsets, width: int) -> Iterator[tuple[Offsets, int]]:
    """Rows that are read together, and how many columns they are read as: less than twice what each has."""
    columns = np.minimum(2 ** np.ceil(np.log2(np.maximum(fields, 2))).astype(np.int64), width)
    for count in np.unique(columns).tolist():
        rows = np.flatnonzero(columns == count)
        step = max(1, CELLS_MAX // count)
        yield from ((rows[begin : begin + step], count) for begin in range(0, len(rows), step))


def fields_at_most(data: bytes, starts: Offsets, ends: Offsets, plan: Plan) -> Offsets:
    """How many fields each Record has, if no delimiter is quoted."""
    delimiters = np.flatnonzero(np.frombuffer(data, np.uint8) == delimiter_of(plan)[0])
    return np.searchsorted(delimiters, ends) - np.searchsorted(delimiters, starts) + 1


def _parse(part: Slice, rows: dict[int, bytes], faults: dict[int, RecordError], plan: Plan, width: int) -> Columns:
    """The fields of rows that have values in the first `width` columns alone. Adds RecordErrors."""
    read = _values(part, rows, faults, plan, width)
    return _fields(part, dict(zip(plan.header, read, strict=False)), faults, plan)


def _values(
    part: Slice, rows: dict[int, bytes], faults: dict[int, RecordError], plan: Plan, width: int
) -> list[pa.StringArray]:
    """The columns, without the formulas that keep a number as text."""
    read = _columns(part, rows, faults, plan, width)
    if not part.regular and b'="' in part.data:
        return [_without_formulas(column) for column in read]
    return read


def _fields(part: Slice, columns: dict[str, pa.StringArray], faults: dict[int, RecordError], plan: Plan) -> Columns:
    nothing = pa.array([""] * len(part), pa.string())
    name = join_values([columns.get(column, nothing) for column in plan.mapping.name])
    email = columns.get(plan.mapping.email, nothing)
    others = {key: column for key, column in columns.items() if key not in {plan.mapping.email, *plan.mapping.name}}
    if b"\0" in part.data:
        for key, column in others.items():
            for index in np.flatnonzero(pc.match_substring(column, "\0")).tolist():
                faults.setdefault(index, RecordError("nul_character", key))
    return Columns(name, email, attributes(others, len(part)), faults)


def _one_by_one(part: Slice, rows: dict[int, bytes], faults: dict[int, RecordError], plan: Plan) -> Columns:
    """The same of a few rows, whatever their width."""
    mapped = {plan.mapping.email, *plan.mapping.name}
    names, emails, texts = [], [], []
    for index in range(len(part)):
        read = [] if index in faults else _cells(rows.get(index, part.raw(index)), plan)
        if any(value.strip(BLANKS) for value in read[len(plan.header) :]):
            faults[index], read = RecordError("too_many_fields"), []
        record = dict(zip(plan.header, read, strict=False))
        others = {key: value.strip(BLANKS) for key, value in record.items() if key not in mapped}
        with_nul = next((key for key, value in others.items() if "\0" in value), None)
        if with_nul is not None:
            faults[index] = RecordError("nul_character", with_nul)
        parts = [record.get(key, "").strip(BLANKS) for key in plan.mapping.name]
        names.append(" ".join(filter(None, parts)))
        emails.append(record.get(plan.mapping.email, ""))
        texts.append(orjson.dumps({key: value for key, value in others.items() if value}).decode())
    return Columns(pa.array(names, pa.string()), pa.array(emails, pa.string()), pa.array(texts, pa.string()), faults)


def _cells(row: bytes, plan: Plan) -> list[str]:
    """The values of a row that is UTF-8."""
    return [_without_formula(cell.decode()) for cell in split(row, delimiter_of(plan))]


def _without_formula(value: str) -> str:
    """The text of ="00123": so Excel's exports keep a number as text."""
    formula = value.strip(BLANKS)
    text = formula[2:-1]
    if not (formula.startswith('="') and formula.endswith('"') and len(formula) > 2) or '"' in text.replace('""', ""):
        return value
    return text.replace('""', '"')


def _without_formulas(column: pa.StringArray) -> pa.StringArray:
    found = pc.match_substring(column, '="')
    if not pc.any(found).as_py():
        return column
    values = [_without_formula(value) for value in cast(list[str], column.filter(found).to_pylist())]
    return cast(pa.StringArray, pc.replace_with_mask(column, found, pa.array(values, pa.string())))


def _rewritten(part: Slice, plan: Plan, faults: dict[int, RecordError]) -> dict[int, bytes]:
    """What stands for the Records that pyarrow would read otherwise. Adds the RecordErrors inside of quoted lines."""
    delimiter, rows = delimiter_of(plan), dict[int, bytes]()
    if plan.quoting == "line":
        for index in range(len(part)):
            row = unwrapped(part.raw(index), delimiter)
            state = "closed" if index in faults else ending(row, delimiter)
            if state == "closed":
                rows[index] = _quoted(split(row, delimiter), delimiter)
            else:
                faults[index] = RecordError("stray_quote" if state == "stray" else "unclosed_quote")
        return rows
    for index in _unlike_pyarrow(part, plan):
        if index not in faults:
            rows[index] = _quoted(split(part.raw(index), delimiter, plan.quoting == "backslash"), delimiter)
    return rows


def unwrapped(record: bytes, delimiter: bytes) -> bytes:
    """The row that stands in a record of one quoted cell; other records as they are."""
    found = split(record, delimiter) if record.lstrip().startswith(b'"') else []
    return found[0] if len(found) == 1 else record


def _unlike_pyarrow(part: Slice, plan: Plan) -> list[int]:
    """The Records with blanks beside a quote, a lone CR in files whose lines do not end so, or escapes."""
    if part.regular:
        return []
    array = np.frombuffer(part.data, np.uint8)
    quotes = np.flatnonzero(array == ord('"'))
    beside = [array[np.maximum(quotes - 1, 0)], array[np.minimum(quotes + 1, len(array) - 1)]]
    places = [quotes[np.isin(beside, list(blanks(delimiter_of(plan)))).any(axis=0)]]
    if plan.line_end != "\r":
        places.append(np.flatnonzero(array == ord("\r")))
    if plan.quoting == "backslash":
        places.append(np.flatnonzero(array == ord("\\")))
    at = np.concatenate(places)
    rows = np.searchsorted(part.starts, at, "right") - 1
    return cast(list[int], np.unique(rows[(rows >= 0) & (at < part.ends[rows])]).tolist())


def _quoted(cells: list[bytes], delimiter: bytes) -> bytes:
    """The cells as a row that every parser reads the same way."""
    return delimiter.join(b'"%b"' % cell.replace(b'"', b'""') for cell in cells)


def _columns(
    part: Slice, rows: dict[int, bytes], faults: dict[int, RecordError], plan: Plan, width: int
) -> list[pa.StringArray]:
    """The values of every column, exactly as written; those of faulty Records are empty. Adds too_many_fields."""
    delimiter = delimiter_of(plan)
    blank = delimiter * (width - 1) or b'""'
    rows = rows | dict.fromkeys(faults, blank)
    columns, ragged = _read(part, rows, delimiter, width)
    if ragged:
        for index, fields in ragged:
            row, surplus = rows.get(index) or part.raw(index), fields - width
            if surplus < 0:
                rows[index] = row + delimiter * -surplus
            elif row.endswith(delimiter * surplus):
                rows[index] = row[:-surplus]
            elif any(cell.decode().strip(BLANKS) for cell in split(row, delimiter)[width:]):
                rows[index], faults[index] = blank, RecordError("too_many_fields")
            else:
                rows[index] = _quoted(split(row, delimiter)[:width], delimiter)
        columns, ragged = _read(part, rows, delimiter, width)
    assert not ragged
    assert all(len(column) == len(part) for column in columns)
    return columns


def _read(
    part: Slice, rows: dict[int, bytes], delimiter: bytes, width: int
) -> tuple[list[pa.StringArray], list[tuple[int, int]]]:
    """The columns by pyarrow, and (index, number of fields) of the rows it left out. `rows` stand in for Records."""
    ragged: list[tuple[int, int]] = []

    def leave_out(row: pa_csv.InvalidRow) -> Literal["skip"]:
        ragged.append((cast(int, row.number) - 1, row.actual_columns))
        return "skip"

    names = [str(column) for column in range(width)]
    text = _laid_out(part, rows)
    table = pa_csv.read_csv(
        cast(IO[bytes], pa.BufferReader(text)),
        pa_csv.ReadOptions(use_threads=False, block_size=len(text) + 1, column_names=names),
        pa_csv.ParseOptions(delimiter=delimiter.decode(), newlines_in_values=True, invalid_row_handler=leave_out),
        pa_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False, check_utf8=False
        ),
    )
    return [cast(pa.StringArray, column.combine_chunks()) for column in table.columns], ragged


def _laid_out(part: Slice, rows: dict[int, bytes]) -> bytes | memoryview:
    """The Records as CSV text, one after the other: a view of the Slice if nothing stands between or in for them."""
    gaps = part.starts[1:] - part.ends[:-1]
    cut = np.ones(len(part) + 1, np.bool_)  # whether Record i follows its neighbour by anything but one line end
    cut[1:-1] = (gaps < 1) | (gaps > 2)
    replaced = np.fromiter(rows, np.int64, len(rows))
    cut[replaced] = cut[replaced + 1] = True
    edges = np.flatnonzero(cut)
    data = memoryview(part.data)
    pieces = [
        rows[first] if first in rows else data[begin:end]
        for first, begin, end in zip(
            edges[:-1].tolist(), part.starts[edges[:-1]].tolist(), part.ends[edges[1:] - 1].tolist(), strict=True
        )
    ]
    if len(pieces) == 1 and pieces[0][:1] != b"\xef":
        return pieces[0]
    return b"\n" + b"\n".join(pieces)  # pyarrow passes over the empty line, and would drop a BOM that stands first


def cells(raw: bytes, plan: Plan) -> list[str]:
    """One Record's values, one for each column of a reject file, with marks. Never raises."""
    delimiter, width = delimiter_of(plan), len(plan.header)
    again, escapes = reject_file.is_reject_file(plan.header), plan.quoting == "backslash"
    text = unwrapped(raw, delimiter) if plan.quoting == "line" else raw
    broken = b'"' in text and ending(mask_escapes(text) if escapes else text, delimiter) != "closed"
    row = [_without_formula(reject_file.marked(cell, again=again)) for cell in split(text, delimiter, escapes)]
    if broken:
        row = [cell.replace('"', f'{reject_file.MARK}"') for cell in row]
    if len(raw) >= KEPT_BYTES:  # perhaps not all of it
        row[-1] += reject_file.CUT
    if any(cell.strip(BLANKS) for cell in row[width:]):
        row[width - 1 :] = [f"{reject_file.MARK}{delimiter.decode()}".join(row[width - 1 :])]
    row = row[:width] + [""] * (width - len(row))
    if again:
        data = zip(plan.header, row, strict=True)
        row = [reject_file.unguarded(cell) for name, cell in data if name not in reject_file.ADDED]
    return row


def columns(plan: Plan) -> tuple[str, ...]:
    """The headings of a reject file."""
    return tuple(name for name in plan.header if name not in reject_file.ADDED)


def delimiter_of(plan: Plan) -> bytes:
    return (plan.delimiter or ",").encode()
