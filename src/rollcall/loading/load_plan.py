"""What is decided once for an import: how its file is read, and how what is read is loaded.

Frozen on the import before anything of it is loaded; every later attempt goes by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from rollcall.records import Plan


@dataclass(frozen=True)
class LoadPlan:
    """`file`: how the file is read. `begins`: where each loader begins in the order of addresses (`partition.divide`).

    `source_was_empty`: there was no contact of this Source yet. An import that is retried has lost it (`imports.retry`
    takes it away): others may have run meanwhile.
    """

    file: Plan
    begins: tuple[str, ...]
    source_was_empty: bool

    def to_json(self) -> dict[str, Any]:
        """As it is stored on the import and shown to people: the members of the Plan, and two more."""
        return self.file.to_json() | {"loaders": self.begins, "source_was_empty": self.source_was_empty}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Self:
        """A stored one, also of another version (`Plan.from_json`)."""
        begins = stored.get("loaders") or stored.get("lanes") or ("",)  # Rollcall 0.1.0 called them lanes
        return cls(Plan.from_json(stored), tuple(begins), stored.get("source_was_empty", False))
