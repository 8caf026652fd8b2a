"""The log: one line an event, and nothing in it that an exception quotes."""

from __future__ import annotations

import json
import subprocess
import sys

LOGGING = """
import asyncio, logging, sys
import structlog
from rollcall import telemetry
telemetry.configure(sys.argv[1])
def fail():
    raise ValueError("secret: alice@example.com")
structlog.get_logger().info("import.queued", bytes=5)
try:
    fail()
except ValueError as error:
    structlog.get_logger().exception("one")
    logging.getLogger("uvicorn.error").error("two", exc_info=error)
logging.getLogger("psycopg.pool").warning("error connecting to secret")
async def forgotten():
    task = asyncio.ensure_future(asyncio.to_thread(fail))
    await asyncio.wait([task])
asyncio.run(forgotten())
"""


def logged(log_format: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", LOGGING, log_format], capture_output=True, text=True, check=True)
    assert not done.stdout
    assert "secret" not in done.stderr
    assert "alice" not in done.stderr
    return done.stderr.splitlines()


def test_telemetry_json_lines_say_where_and_not_what() -> None:
    first, one, two, three = [json.loads(line) for line in logged("json")]
    assert (first["event"], first["level"], first["bytes"]) == ("import.queued", "info", 5)
    assert first["timestamp"].endswith("Z")
    for line, event in ((one, "one"), (two, "two"), (three, "Task exception was never retrieved")):
        assert (line["event"], line["level"], line["error"]) == (event, "error", "ValueError")
        assert line["where"].endswith("fail")


def test_telemetry_people_get_the_same_lines() -> None:
    lines = logged("console")
    assert len(lines) == 4
    assert "import.queued" in lines[0]
