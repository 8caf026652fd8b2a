"""The command line: `commands` says what there is, the other files do it, one each."""

from rollcall.cli.commands import app

__all__ = ["app"]
