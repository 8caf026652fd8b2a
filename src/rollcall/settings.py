"""Settings: environment variables, read once at a door, validated whole; every problem in one message.

Only doors (`cli`, `app`, `worker`) may import this; everything below gets plain arguments.
"""

from __future__ import annotations

import os
import sys
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


Span = Annotated[timedelta, BeforeValidator(_days), Field(ge=timedelta(0))]
"""`7 days`, `7`, `P7D` or `168:00:00`."""


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
    upload_chunk_size: Annotated[int, Field(ge=65_536)] = Field(
        6_291_456, description="Bytes of a Segment of a resumable upload."
    )
    max_upload_size: Annotated[int, Field(ge=1)] = Field(10 << 30, description="Bytes of the largest body accepted.")
    max_arriving_uploads: Annotated[int, Field(ge=1)] = Field(
        10, description="Uploads of one API key that may arrive at a time."
    )
    max_queued_imports: Annotated[int, Field(ge=1)] = Field(
        20, description="Imports of one API key that may be queued at a time."
    )
    max_stored_rejects: Annotated[int, Field(ge=1)] = Field(
        100_000, description="Rejected records of one import that are kept in the database; counts and files hold all."
    )
    loaders: Annotated[int, Field(ge=1, le=16)] = Field(2, description="Lanes (connections) that load one import.")
    worker_concurrency: Annotated[int, Field(ge=1, le=100)] = Field(
        10, description="Imports that one worker runs at once; at most one of them over 8 MiB."
    )
    worker_poll_interval: Annotated[int, Field(ge=50)] = Field(
        500, description="Milliseconds between two looks for work when no notification comes."
    )
    retention: Span = Field(
        timedelta(days=7),
        description="How long stored files are kept after their import ended, for a retry and for rejects beyond"
        " `MAX_STORED_REJECTS`.",
    )
    rejects_retention: Span = Field(
        timedelta(days=90), description="How long rejected records are kept after their import ended; counts stay."
    )
    enable_metrics: bool = Field(True, description="Serve `/metrics`.")
    log_format: Literal["json", "console"] = Field(
        default_factory=lambda: "console" if sys.stderr.isatty() else "json",
        description="`json`, or `console` for people. Unset: `console` on a terminal, `json` elsewhere.",
    )

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
    try:
        settings = Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        problems = [f"{str(issue['loc'][0]).upper()}: {issue['msg']}" for issue in error.errors(include_input=False)]
        raise BadSettings("Settings that cannot be used:\n  " + "\n  ".join(problems)) from None
    if settings.node_env == "production" and settings.database_url is None:
        raise BadSettings(
            "Settings that cannot be used:\n  DATABASE_URL: NODE_ENV=production refuses the embedded Postgres; set it."
        )
    return settings
