"""A worker process whose Parts are small, so that small files have many: python runner.py RECORDS HASTE [--once].

Settings come from the environment, as for `rollcall worker`. HASTE divides the times by which workers judge each other.
With STORE_FAULT=K:FAULT the K-th call of the store fails so.
"""

from __future__ import annotations

import asyncio
import os
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.store import FaultyStore
from rollcall import settings, telemetry, worker
from rollcall.records import parts

records, haste = int(sys.argv[1]), float(sys.argv[2])
assert parts.__kwdefaults__ is not None
parts.__kwdefaults__["part_records"] = records
worker.BEAT_SECONDS /= haste
worker.STALE_SECONDS /= haste
worker.GRACE_SECONDS /= haste
if wanted := os.environ.get("STORE_FAULT"):
    number, fault = wanted.split(":")
    vars(worker)["Store"] = partial(FaultyStore, at=int(number), fault=fault)
telemetry.configure("json")
asyncio.run(worker.run(settings.read(), os.environ["DATABASE_URL"], once="--once" in sys.argv))
