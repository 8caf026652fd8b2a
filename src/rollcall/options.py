"""Options: what the sender of a file may choose about its import; the same names in HTTP, in commands and stored."""

from __future__ import annotations

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


@dataclass(frozen=True)
class Options:
    """`max_rejects`: a count (`"100"`) or a share of the Records read so far (`"5%"`, judged once 1,000 are read)."""

    on_invalid: OnInvalid = "reject"
    on_duplicate: OnDuplicate = "update"
    format: str | None = None
    mapping: Mapping | None = None
    max_rejects: str | None = None

    @classmethod
    def parse(cls, given: Dict[str, str], *, on_invalid: OnInvalid = "reject") -> Self:
        """From texts by their public names; unknown names are the caller's business.

        `mapping` is a JSON object: `{"email": "E-Mail", "name": ["First", "Last"]}`. Raises InvalidInput with one issue
        for every value that cannot be used.
        """
        issues = [
            _issue(name, f"{name} is one of {', '.join(choices)}.")
            for name, choices in CHOICES.items()
            if name in given and given[name] not in choices
        ]
        mapping = max_rejects = None
        if "mapping" in given and (mapping := _mapping(given["mapping"])) is None:
            issues.append(
                _issue("mapping", 'mapping is a JSON object such as {"email": "E-Mail", "name": ["First", "Last"]}.')
            )
        if "maxRejects" in given and (max_rejects := _max_rejects(given["maxRejects"])) is None:
            issues.append(_issue("maxRejects", "maxRejects is a count such as 100, or a percentage such as 5%."))
        if issues:
            raise InvalidInput("An option has a value that cannot be used.", issues=issues)
        return cls(
            on_invalid=cast(OnInvalid, given.get("onInvalid", on_invalid)),
            on_duplicate=cast(OnDuplicate, given.get("onDuplicate", "update")),
            format=given.get("format"),
            mapping=mapping,
            max_rejects=max_rejects,
        )

    def to_json(self) -> dict[str, Any]:
        """By their public names, as stored and shown; those that were not given are left out."""
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
        texts = {
            name: value if isinstance(value, str) else orjson.dumps(value).decode() for name, value in stored.items()
        }
        return cls.parse(texts)

    def too_many(self, rejected: int, read: int) -> bool:
        """Whether this many Rejects among this many Records read so far are more than `max_rejects`."""
        if self.max_rejects is None:
            return False
        if self.max_rejects.endswith("%"):
            return read >= 1000 and rejected * 100 > float(self.max_rejects[:-1]) * read
        return rejected > int(self.max_rejects)


def _issue(name: str, message: str) -> dict[str, Any]:
    return {"path": [name], "code": "invalid_value", "message": message}


def _mapping(text: str) -> Mapping | None:
    try:
        given = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(given, dict) or set(given) - {"email", "name"}:
        return None
    email, name = given.get("email"), given.get("name")
    names = [name] if isinstance(name, str) else name
    if not isinstance(email, str) or not isinstance(names, list) or not names:
        return None
    if not all(isinstance(each, str) for each in names):
        return None
    return Mapping(email=email, name=tuple(names))


def _max_rejects(text: str) -> str | None:
    number = text.removesuffix("%")
    try:
        value = float(number) if text.endswith("%") else int(number)
    except ValueError:
        return None
    return text if 0 <= value <= (100 if text.endswith("%") else 1 << 62) else None
