"""A worker process whose Parts are small, so that small files have many: python runner.py RECORDS HASTE [--once].

Settings come from the environment, as for `rollcall worker`. HASTE divides the times by which workers judge each other.
With STORE_FAULT=K:FAULT the K-th call of the store fails so. A Record of POISON ends the process, as a crash of
a parser does.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.store import FaultyStore
from rollcall import reading, settings, telemetry, worker
from rollcall.records import Part, parts

POISON = "poison@example.org"


def deadly(*arguments: Any, **options: Any) -> Iterator[Part]:
    for part in parts(*arguments, **options):
        if POISON in part.contacts["email"].to_pylist():
            os._exit(9)
        yield part


records, haste = int(sys.argv[1]), float(sys.argv[2])
assert parts.__kwdefaults__ is not None
parts.__kwdefaults__["part_records"] = records
worker.BEAT_SECONDS /= haste
worker.STALE_SECONDS /= haste
worker.GRACE_SECONDS /= haste
worker.ONE_LANE_BYTES = 0
vars(reading)["parts"] = deadly
if wanted := os.environ.get("STORE_FAULT"):
    number, fault = wanted.split(":")
    vars(worker)["Store"] = partial(FaultyStore, at=int(number), fault=fault)
telemetry.configure("json")
asyncio.run(worker.run(settings.read(), os.environ["DATABASE_URL"], once="--once" in sys.argv))
