"""How a file of JSON objects is laid out: told by its values, never by its white space or by what its first line is.

Several objects, one after the other, are a Record each; so is one object that is a contact. One that is no contact is
an envelope: the array of objects in it holds the Records. Lines are told from other layouts only because a broken line
then costs one Record, not the file. Reads the beginning of a file and cpu_slots no Record.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np
import orjson

from rollcall.errors import NoRecords, TooDeep
from rollcall.records.fields import is_email
from rollcall.records.formats import json_objects
from rollcall.records.formats.marks import BRACE, BRACE_CLOSING, COMMA, OPENING, Piece, find_pieces
from rollcall.records.formats.spans import BOM, KEY, SPACE, mask_escapes
from rollcall.records.plan import DATA, FormatName

LINES: Final = 50
"""So many lines are looked at."""

Layout = tuple[FormatName, str | None]
"""Format and member of a Plan."""

LINES_OF_OBJECTS: Final[Layout] = ("ndjson", DATA)


@dataclass
class Member:
    """A member of the outer object. `kind`: the byte that its value begins with. `first`: its first element."""

    key: str
    kind: bytes = b""
    first: bytes = b""


def detect(head: bytes, whole: bool, given: str | None) -> Layout | None:
    """How a file is laid out that begins like this; None if it is no JSON, or if more of it has to be seen.

    `whole`: `head` is all there is, or all that will be seen. `given`: the format, if it is known. Raises NoRecords for
    an object that holds no array of objects, or several.
    """
    text = head.removeprefix(BOM).lstrip(SPACE)
    if given == "ndjson" or (given is None and _is_lines(text, whole)):
        return LINES_OF_OBJECTS
    if text[:1] == b"[":
        return "json", DATA
    if text[:1] != b"{":
        return ("json", DATA) if given == "json" else None
    try:
        members, end = _members(text)
    except TooDeep:
        return "json", DATA  # the scan says where
    rest = text[end:].lstrip(SPACE) if end else b""
    key = None if rest[:1] == b"{" else _records_key(members)
    if key is None and not end and not whole:
        return None
    one_line = b"\n" not in text[: end or len(text)].rstrip() and not rest
    return LINES_OF_OBJECTS if key is None and one_line and given is None else ("json", key)


def looks_like_json(head: bytes) -> bool:
    """Whether it begins as only JSON does."""
    return head.removeprefix(BOM).lstrip(SPACE)[:1] in (b"[", b"{")


def _is_lines(text: bytes, whole: bool) -> bool:
    """Whether lines are objects: at least as many as are not, or the first one where brackets tell no other layout.

    In a valid text of another layout every line that is an object has others around it that are none. Lines of several
    objects each are read by their brackets, if no other line is broken.
    """
    stop = len(text) if whole else text.rfind(b"\n") + 1
    lines = [line.strip() for line in islice(_lines(text[:stop]), LINES)]
    are_objects = [line.startswith(b"{") and _is_object(line) for line in lines]
    if not any(are_objects):
        return False
    if sum(are_objects) * 2 < len(lines):  # most are broken, or the objects have several lines
        return are_objects[0] and not _is_objects(text)
    if len(lines) == 1:
        return bool(text[stop:].strip()) if not whole else False
    broken = [line for line, is_object in zip(lines, are_objects, strict=True) if not is_object]
    return not broken or not all(map(_is_objects, broken))


def _lines(text: bytes) -> Iterable[bytes]:
    """Those that are not blank."""
    return (found[0] for found in re.finditer(rb"[^\n]*[^ \t\r\n][^\n]*+", text))


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(orjson.loads(line), dict)
    except orjson.JSONDecodeError:
        pass
    try:
        json_objects.check(line)  # what it holds may be no text, or a number that orjson does not take
    except orjson.JSONDecodeError:
        return False
    return True


def _is_objects(text: bytes) -> bool:
    """Whether the text is nothing but objects, the last of which may be cut if it is not most of it."""
    at = 0
    try:
        for piece in find_pieces([text]):
            for end in piece.at[(piece.depth == 0) & (piece.kind == BRACE_CLOSING)].tolist():
                if not _is_object(text[at : piece.offset + end + 1].strip()):
                    return False
                at = piece.offset + end + 1
    except TooDeep:
        return False
    rest = text[at:].strip()
    return not rest or (rest.startswith(b"{") and len(rest) * 2 < len(text))


def _members(text: bytes) -> tuple[list[Member], int]:
    """The members of the outer object, as far as they have begun, and where it ends; 0 if it does not."""
    found: list[Member] = []
    begin, awaited, after = 1, -1, False
    for piece in find_pieces([text]):
        outer = (piece.depth == 0) | ((piece.kind == COMMA) & (piece.depth == 1))
        opened = (piece.depth == 2) & ((piece.kind == OPENING) | (piece.kind == BRACE))
        if awaited >= 0:
            awaited = _first_element(text, piece, -1, awaited, found)
        for mark in np.flatnonzero(outer | opened).tolist():
            at = piece.offset + int(piece.at[mark])
            if opened[mark]:
                if not after:
                    found.append(Member(_key(text[begin:at]), text[at : at + 1]))
                    if piece.kind[mark] == OPENING:
                        awaited = _first_element(text, piece, mark, at + 1, found)
                after = True
                continue
            if not after and text[begin:at].strip():
                found.append(Member(_key(text[begin:at])))
            if piece.depth[mark] == 0:
                return found, at + 1
            begin, after = at + 1, False
    return found, 0


def _first_element(text: bytes, piece: Piece, mark: int, begin: int, found: list[Member]) -> int:
    """Keep the first element of the array that begins there; where it begins if it does not end in this piece."""
    later = slice(mark + 1, None)
    kind, depth = piece.kind[later], piece.depth[later]
    ends = np.flatnonzero(((kind == BRACE_CLOSING) & (depth == 2)) | ((kind == COMMA) & (depth == 2)) | (depth == 1))
    if not len(ends):
        found[-1].first = text[begin : begin + 64].lstrip(SPACE)[:1]  # so far
        return begin
    end = piece.offset + int(piece.at[mark + 1 + ends[0]])
    found[-1].first = text[begin : end + (kind[ends[0]] == BRACE_CLOSING)].strip(SPACE)
    return -1


def _key(text: bytes) -> str:
    key = KEY.match(mask_escapes(text))
    try:
        return str(orjson.loads(text[slice(*key.span(1))])) if key else ""
    except orjson.JSONDecodeError:
        return ""


def _records_key(members: list[Member]) -> str | None:
    """The key of the array that holds the Records; None if the object is a Record itself."""
    arrays = {member.key: member for member in members if member.kind == b"["}
    of_objects = {key: member for key, member in arrays.items() if member.first.startswith(b"{")}
    is_contact = any(is_email(member.key) for member in members)
    if DATA in arrays and (not is_contact or _holds_email(arrays[DATA])):
        return DATA
    if is_contact or not arrays:
        return None
    likely = [key for key, member in of_objects.items() if _holds_email(member)] or list(of_objects) or list(arrays)
    if len(likely) > 1:
        shown = ", ".join(f'"{key[:40]}"' for key in likely[:5])
        raise NoRecords(f'The JSON object holds several arrays ({shown}). Put the contacts into one named "data".')
    return likely[0]


def _holds_email(array: Member) -> bool:
    """Whether its first element is a contact, by its keys; also if that has not ended."""
    if not array.first.startswith(b"{"):
        return False
    try:
        return any(map(is_email, json_objects.keys(array.first)))
    except orjson.JSONDecodeError:
        return len(array.first) == 1
