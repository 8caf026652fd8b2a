"""What a sender may choose for an import, and what a Source is; the same in HTTP, in commands and in the database."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping as Dict
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

import orjson

from rollcall.errors import InvalidInput
from rollcall.records import Mapping

OnInvalid = Literal["reject", "fail"]
OnDuplicate = Literal["update", "skip"]
CHOICES = {
    "onInvalid": ("reject", "fail"),
    "onDuplicate": ("update", "skip"),
    "format": ("csv", "tsv", "json", "ndjson"),
}
NAMES = (*CHOICES, "mapping", "maxRejects")
GIVEN = ("source", "useResumable", *NAMES)
"""All names that a request may give."""
SOURCE_LENGTH_MAX = 100
MAPPING_LENGTH_MAX = 64 << 10
MAPPING_NAMES_MAX = 20
COLUMN_LENGTH_MAX = 1000
"""Lists of imports repeat the mapping, and every Record reads each of its columns."""
NAME_COMPARED_MAX = 40
"""A longer name is no misspelt option."""
IDEMPOTENCY_KEY = "Idempotency-Key"
DRY_RUN = "dryRun"
"""Not an option, but other services have it: a sender who asks for it must not get a real import."""
_MAX_REJECTS = re.compile(r"[0-9]{1,18}|(?:100(?:\.0{1,6})?|[0-9]{1,2}(?:\.[0-9]{1,6})?)%")


@dataclass(frozen=True)
class Options:
    """`max_rejects`: a count (`"100"`), or a percentage of the Records read (`"5%"`, compared from 1,000 read on)."""

    on_invalid: OnInvalid = "reject"
    on_duplicate: OnDuplicate = "update"
    format: str | None = None
    mapping: Mapping | None = None
    max_rejects: str | None = None

    @classmethod
    def parse(cls, given: Dict[str, str], *, on_invalid: OnInvalid = "reject") -> Self:
        """Options from texts by their public names. Ignores unknown names; the caller checks them.

        `mapping` is a JSON object: `{"email": "E-Mail", "name": ["First", "Last"]}`. Raises InvalidInput with one issue
        for every value that cannot be used.
        """
        issues = [
            _issue(name, f"{name} is one of {', '.join(choices)}.")
            for name, choices in CHOICES.items()
            if name in given and given[name] not in choices
        ]
        mapping = None
        if "mapping" in given:
            try:
                mapping = _mapping(given["mapping"])
            except ValueError as error:
                issues.append(_issue("mapping", str(error)))
        if "maxRejects" in given and not _MAX_REJECTS.fullmatch(given["maxRejects"]):
            issues.append(_issue("maxRejects", "maxRejects is a count such as 100, or a percentage such as 5%."))
        if issues:
            raise InvalidInput("An option has a value that cannot be used.", issues=issues)
        return cls(
            on_invalid=cast(OnInvalid, given.get("onInvalid", on_invalid)),
            on_duplicate=cast(OnDuplicate, given.get("onDuplicate", "update")),
            format=given.get("format"),
            mapping=mapping,
            max_rejects=given.get("maxRejects"),
        )

    def to_json(self) -> dict[str, Any]:
        """The options by their public names, as stored and shown, without those that were not given."""
        mapping = self.mapping and {"email": self.mapping.email, "name": list(self.mapping.name)}
        shown = {
            "onInvalid": self.on_invalid,
            "onDuplicate": self.on_duplicate,
            "format": self.format,
            "mapping": mapping,
            "maxRejects": self.max_rejects,
        }
        return {name: value for name, value in shown.items() if value is not None}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Self:
        """Options as this or another version stored them. Unknown fields are ignored; an unknown choice becomes the one
        that writes less; a mapping or limit that cannot be read counts as not given."""
        mapping, max_rejects = stored.get("mapping"), stored.get("maxRejects")
        try:
            columns = Mapping(email=mapping["email"], name=tuple(mapping["name"])) if mapping else None
        except (TypeError, KeyError):
            columns = None
        return cls(
            on_invalid="reject" if stored.get("onInvalid", "reject") == "reject" else "fail",
            on_duplicate="update" if stored.get("onDuplicate", "update") == "update" else "skip",
            format=stored.get("format"),
            mapping=columns,
            max_rejects=max_rejects if _MAX_REJECTS.fullmatch(str(max_rejects)) else None,
        )

    def too_many(self, rejected: int, read: int) -> bool:
        """Whether `rejected` of `read` Records are more than `max_rejects`."""
        if self.max_rejects is None:
            return False
        if self.max_rejects.endswith("%"):
            return read >= 1000 and rejected * 100 > float(self.max_rejects[:-1]) * read
        return rejected > int(self.max_rejects)


def check_label(text: str, what: str = "source") -> str:
    """A Source, or the name of a key, as it is stored and compared: 1 to 100 characters, without blanks around them, in
    Unicode's composed form (NFC, UAX #15), so that texts that look the same are equal.

    `what` names it in the error. Raises InvalidInput with one issue.
    """
    trimmed = text.strip()
    if any(unicodedata.category(character) == "Cc" for character in text[: 10 * SOURCE_LENGTH_MAX]):
        raise _label_error(what, "control_character", f"{what} contains a control character. Remove it.")
    if not trimmed:
        raise _label_error(what, "too_small", f"{what} is empty: it has 1 to {SOURCE_LENGTH_MAX} characters.")
    # NFC shortens a text to a third at most, and takes time quadratic in its length.
    composed = unicodedata.normalize("NFC", trimmed) if len(trimmed) <= 4 * SOURCE_LENGTH_MAX else trimmed
    if len(composed) > SOURCE_LENGTH_MAX:
        raise _label_error(what, "too_big", f"{what} has at most {SOURCE_LENGTH_MAX} characters.")
    if not composed.isascii() and any(unicodedata.category(character) == "Cs" for character in composed):
        raise _label_error(what, "invalid_utf8", f"{what} is not valid UTF-8.")
    return composed


def nearly(name: str) -> str | None:
    """The option that this name misspells: they differ in case, underscores or dashes, or in a letter or two.

    None for an option's exact name, and for any other name.
    """
    if name in GIVEN or len(name) > NAME_COMPARED_MAX:
        return None
    plain = _plain(name)
    letters = {*plain}
    for target, option in _PLAIN_NAMES.items():
        if abs(len(plain) - len(target)) > 2:
            continue
        if plain == target:
            return option
        begins = plain.startswith(target) or target.startswith(plain)
        if begins and abs(len(plain) - len(target)) > 1:
            continue  # another word, such as `form` or `sourceId`
        edits = 2 if len(target) > 7 or plain[:1] == target[:1] else 1
        if len(letters.symmetric_difference(target)) <= 2 * edits and _within(plain, target, edits):
            return option
    return None


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name)).lower()


_PLAIN_NAMES = {_plain(option): option for option in (*GIVEN, IDEMPOTENCY_KEY, DRY_RUN)}


def _within(one: str, other: str, edits: int) -> bool:
    """Whether at most this many letters more, fewer or other, or neighbours that changed places, tell them apart."""
    if abs(len(one) - len(other)) > edits:
        return False
    while one and other and one[0] == other[0]:
        one, other = one[1:], other[1:]
    if not one or not other:
        return True
    return edits > 0 and (
        _within(one[1:], other, edits - 1)
        or _within(one, other[1:], edits - 1)
        or _within(one[1:], other[1:], edits - 1)
        or (one[:2] == other[1::-1] and _within(one[2:], other[2:], edits - 1))
    )


def _issue(name: str, message: str) -> dict[str, Any]:
    return {"path": [name], "code": "invalid_value", "message": message}


def _label_error(what: str, code: str, message: str) -> InvalidInput:
    return InvalidInput(message, issues=[{"path": [what], "code": code, "message": message}])


def _mapping(text: str) -> Mapping:
    """Raises ValueError with what is wrong, for people."""
    if len(text) > MAPPING_LENGTH_MAX:
        raise ValueError(f"mapping has at most {MAPPING_LENGTH_MAX:,} characters.")
    try:
        given = orjson.loads(text)
    except orjson.JSONDecodeError:
        given = None
    fields = given if isinstance(given, dict) and given.keys() == {"email", "name"} else {}
    email, name = fields.get("email"), fields.get("name")
    names = [name] if isinstance(name, str) else name
    if not isinstance(email, str) or not isinstance(names, list) or not names:
        raise ValueError('mapping is a JSON object such as {"email": "E-Mail", "name": ["First", "Last"]}.')
    if not all(isinstance(each, str) for each in names):
        raise ValueError('mapping names columns by texts, such as {"email": "E-Mail", "name": ["First", "Last"]}.')
    if len(names) > MAPPING_NAMES_MAX or len(set(names)) < len(names):
        raise ValueError(f"mapping names up to {MAPPING_NAMES_MAX} columns for the name, each of them once.")
    if any(len(column) > COLUMN_LENGTH_MAX or "\0" in column for column in (email, *names)):
        raise ValueError(f"A column in mapping has at most {COLUMN_LENGTH_MAX:,} characters, and no NUL.")
    return Mapping(email=email, name=tuple(names))
