"""A worker process whose Parts are small, so that small files have many: python runner.py RECORDS HASTE [--once].

Settings come from the environment, as for `rollcall worker`. HASTE divides the times by which workers judge each other.
"""

from __future__ import annotations

import asyncio
import os
import sys

from rollcall import settings, telemetry, worker
from rollcall.records import parts

records, haste = int(sys.argv[1]), float(sys.argv[2])
assert parts.__kwdefaults__ is not None
parts.__kwdefaults__["part_records"] = records
worker.BEAT_SECONDS /= haste
worker.STALE_SECONDS /= haste
worker.GRACE_SECONDS /= haste
telemetry.configure("json")
asyncio.run(worker.run(settings.read(), os.environ["DATABASE_URL"], once="--once" in sys.argv))
