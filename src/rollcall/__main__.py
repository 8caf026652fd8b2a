"""`python -m rollcall`: how `rollcall up` starts its processes, with this very interpreter."""

from rollcall.cli import app

app(prog_name="rollcall")
