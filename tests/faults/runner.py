"""Worker processes whose Parts are small, so that small files have many: forked by a process that has all imported.

It reads a line of JSON for each: `records` in a Part, `haste` by which to divide the times by which workers judge each
other, `once`, `environment`, `log`. It answers with the process id; when that has ended, its exit status stands in
`log`.status. With STORE_FAULT=K:FAULT in its environment the K-th call of the store fails so. A Record of POISON ends
the process, as a crash of a parser does.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.store import FaultyStore
from rollcall import liveness, settings, telemetry, worker
from rollcall.loading import part_reader, queue
from rollcall.records import Part, parts

POISON = "poison@example.org"

logs: dict[int, str] = {}
"""Of the processes that have not ended, by their ids."""


def main() -> None:
    signal.signal(signal.SIGCHLD, note_ends)
    while line := sys.stdin.readline():
        order = json.loads(line)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        if not (child := os.fork()):
            become(order["environment"], order["log"])
            work(order["records"], order["haste"], once=order["once"])
            return
        logs[child] = order["log"]
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()


def note_ends(*_: object) -> None:
    for child, log in list(logs.items()):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            del logs[child]
            fresh = Path(f"{log}.fresh")
            fresh.write_text(str(os.waitstatus_to_exitcode(status)))
            fresh.replace(f"{log}.status")


def become(environment: dict[str, str], log: str) -> None:
    """What a process of its own would be."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    os.environ.clear()
    os.environ.update(environment)
    files = [os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_APPEND)]
    for number, file in zip((0, 1, 2), (files[0], files[1], files[1]), strict=True):
        os.dup2(file, number)


def work(records: int, haste: float, *, once: bool) -> None:
    assert parts.__kwdefaults__ is not None
    parts.__kwdefaults__["part_records"], queue.BATCH_ROWS = records, -1
    liveness.BEAT_SECONDS /= haste
    liveness.STALE_SECONDS /= haste
    liveness.GRACE_SECONDS /= haste
    worker.ONE_LOADER_BYTES = 0
    vars(part_reader)["parts"] = deadly
    if wanted := os.environ.get("STORE_FAULT"):
        number, fault = wanted.split(":")
        vars(worker)["open_store"] = lambda data_dir: FaultyStore(data_dir / "store", at=int(number), fault=fault)
    telemetry.configure("json")
    asyncio.run(worker.run(settings.read(), os.environ["DATABASE_URL"], once=once))


def deadly(*arguments: Any, **options: Any) -> Iterator[Part]:
    for part in parts(*arguments, **options):
        if POISON in part.contacts["email"].to_pylist():
            os._exit(9)
        yield part


if __name__ == "__main__":
    main()
