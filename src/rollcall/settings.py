"""Settings: environment variables, read once at a door, validated whole; every problem in one message.

Only doors (`cli`, `app`, `worker`) may import this; everything below gets plain arguments.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from rollcall.errors import RollcallError


class BadSettings(RollcallError):
    """The settings are not valid."""

    code = "BAD_SETTINGS"


def _data_dir() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/rollcall")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "rollcall"


def _days(given: Any) -> Any:
    """A number alone is a number of days."""
    return f"{given.strip()} days" if isinstance(given, str) and given.strip().isdecimal() else given


Span = Annotated[timedelta, BeforeValidator(_days), Field(ge=timedelta(0), le=timedelta(days=36_500))]
"""`7 days`, `7`, `P7D` or `168:00:00`; up to a century, which every date of Postgres can be moved by."""

OWN_CONNECTIONS = 2
"""Of a worker, besides those of its imports: one to control them, one to sweep."""


class Settings(BaseSettings):
    """One field a variable; the description is what the documentation says."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    port: Annotated[int, Field(ge=1, le=65535)] = Field(3000, description="Where the API listens.")
    host: str = Field(
        "127.0.0.1",
        description="Where the API listens. Anything but loopback needs an API key: `rollcall keys create`.",
    )
    node_env: Literal["development", "production"] = Field(
        "development", description="`production` refuses the embedded Postgres."
    )
    database_url: str | None = Field(None, description="Postgres 15 or later. Unset: an embedded one in `DATA_DIR`.")
    data_dir: Path = Field(
        default_factory=_data_dir,
        description="Stored files and the embedded Postgres. `/var/lib/rollcall` as root, else"
        " `~/.local/state/rollcall`.",
    )
    upload_chunk_size: Annotated[int, Field(ge=65_536, le=64 << 20)] = Field(
        6_291_456,
        description="Bytes of a Segment of a resumable upload, 64 KiB to 64 MiB; each such upload needs twice as much"
        " memory while it arrives.",
    )
    max_upload_size: Annotated[int, Field(ge=1, le=1 << 44)] = Field(
        10 << 30, description="Bytes of the largest body accepted, up to 16 TiB."
    )
    max_arriving_uploads: Annotated[int, Field(ge=1, le=10_000)] = Field(
        10,
        description="Uploads of one API key that may arrive at a time; of all requests while there is no key,"
        " then 1,000 unless set.",
    )
    max_queued_imports: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        20,
        description="Imports of one API key that may be queued at a time; of all requests while there is no key,"
        " then 1,000 unless set.",
    )
    max_stored_rejects: Annotated[int, Field(ge=1, le=100_000_000)] = Field(
        100_000, description="Rejected records of one import that are kept in the database; counts and files hold all."
    )
    loaders: Annotated[int, Field(ge=1, le=16)] = Field(2, description="loaders (connections) that load one import.")
    worker_concurrency: Annotated[int, Field(ge=1, le=100)] = Field(
        10,
        description="Imports that one worker runs at once: at most one over 8 MiB, as it is unpacked, and at most four"
        " fifths of one API key or over 256 KiB.",
    )
    worker_poll_interval: Annotated[int, Field(ge=50, le=300_000)] = Field(
        500,
        description="Milliseconds between two looks for work when no notification comes, 50 to 300000. What a dead"
        " worker left is found by such a look.",
    )
    retention: Span = Field(
        timedelta(days=7),
        description="How long stored files are kept after their import ended, for a retry and for rejects beyond"
        " `MAX_STORED_REJECTS`.",
    )
    rejects_retention: Span = Field(
        timedelta(days=90), description="How long rejected records are kept after their import ended; counts stay."
    )
    imports_retention: Span = Field(
        timedelta(days=365),
        description="How long imports, their account and the names of revoked keys are kept after their end; contacts"
        " stay.",
    )
    enable_metrics: bool = Field(True, description="Serve `/metrics`.")
    log_format: Literal["json", "console"] = Field(
        default_factory=lambda: "console" if sys.stderr.isatty() else "json",
        description="`json`, or `console` for people. Unset: `console` on a terminal, `json` elsewhere.",
    )

    def check_connections(self, limit: int, *, besides: int = 0) -> None:
        """Raises BadSettings when a worker, and `besides` others, may need more connections than the server allows."""
        others = OWN_CONNECTIONS + besides
        if (needed := self.worker_concurrency * self.loaders + others) > limit:
            most = max(1, (limit - others) // self.loaders)
            problem = (
                f"With LOADERS={self.loaders} up to {needed:,} connections to the database are needed, and it allows"
                f" {limit:,}. Set it to {most} or less, or set LOADERS lower, or raise max_connections of the server."
            )
            raise _bad({"worker_concurrency": problem})

    @property
    def loopback(self) -> bool:
        """Whether the API listens where only this machine reaches it."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def read(**flags: Any) -> Settings:
    """The settings; `flags` that are not None stand over the environment.

    Raises BadSettings with every problem in one message; values are not repeated (they may be secrets).
    """
    given = {name: value for name, value in flags.items() if value is not None}
    problems: dict[str, str] = {}
    try:
        settings = Settings(**given)
    except ValidationError as error:
        problems = {str(issue["loc"][0]): issue["msg"] for issue in error.errors(include_input=False)}
        unset = {name: Settings.model_fields[name].get_default(call_default_factory=True) for name in problems}
        settings = Settings(**given | unset)  # to find the others' problems as well
    for names, problem in _conflicts(settings):
        if not problems.keys() & names:
            problems[names[0]] = problem
    if problems:
        raise _bad(problems)
    return settings


def _conflicts(settings: Settings) -> Iterator[tuple[tuple[str, ...], str]]:
    """Settings, each good alone, that do not go together; the problem is said of the first of them."""
    if settings.node_env == "production" and settings.database_url is None:
        yield ("database_url", "node_env"), "NODE_ENV=production refuses the embedded Postgres; set it."


def _bad(problems: dict[str, str]) -> BadSettings:
    lines = [f"{name.upper()}: {problem}" for name, problem in problems.items()]
    return BadSettings("Settings that cannot be used:\n  " + "\n  ".join(lines))
