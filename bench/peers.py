"""What others do with the same contacts on the same server: dlt and pandas, in an environment of their own.

They get the clean rows as CSV, since they judge and fold nothing, and load them into tables of their own, without keys
unless they say so. Compared with `rollcall import`: each is one process from its start to its end.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import LiteralString

import judge
import sides
from pairs import by_command
from stand import Group, Round, Row, Stand, say

PINNED = ("dlt[postgres]==1.31.0", "pandas==3.1.1", "sqlalchemy==2.1.9", "psycopg[binary]==3.3.9", "pyarrow==26.0.1")
HOME = Path(".tools/peers")
OURS = "`rollcall import` of the CSV"
TABLE: LiteralString = "peer.people"
WAYS = {
    "dlt, append": "dlt_append",
    "dlt, merge by email": "dlt_merge",
    "pandas `to_sql`": "pandas_to_sql",
}


def peers(stand: Stand) -> Round:
    """Rollcall, then every peer."""
    _install()
    csv, clean = stand.files("csv", "clean")
    found = Round({OURS: by_command(stand, csv)})
    for name, way in WAYS.items():
        with stand.databases("peer") as [url]:
            found.costs[name] = stand.cost(partial(_run, stand.folder, way, clean.path, url))
            judge.contacts(url, clean, table=TABLE)
    return found


def _run(folder: Path, way: str, file: Path, url: str) -> None:
    """In a home of its own: dlt keeps files there, and asks it for settings."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="peer-") as home:
        environment = os.environ | {"HOME": home, "RUNTIME__DLTHUB_TELEMETRY": "false"}
        program = [str(HOME.resolve() / "bin/python"), str(Path(__file__).with_name("peer.py").resolve())]
        done = subprocess.run(
            [*program, way, str(file), url], env=environment, cwd=home, capture_output=True, text=True, check=False
        )
    if done.returncode != 0:
        raise sides.WrongResult(f"{way} ended with {done.returncode}: {done.stderr[-2000:]}")


def _install() -> None:
    """Into .tools/peers, with the uv of the project's own environment; once, until PINNED changes."""
    stamp = HOME / "complete"
    if stamp.exists() and stamp.read_text() == "\n".join(PINNED):
        return
    say(f"installing {', '.join(PINNED)} into {HOME}")
    python = str(HOME / "bin/python")
    for command in (
        ["venv", "--clear", "--python", sys.executable, str(HOME)],
        ["pip", "install", "--python", python, *PINNED],
    ):
        done = subprocess.run(["uv", *command], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise sides.WrongResult(f"The peers cannot be installed: {done.stderr}")
    stamp.write_text("\n".join(PINNED))


GROUPS = {"peers": Group(peers, tuple(Row(name, OURS) for name in WAYS))}
