"""The numbers of `liveness` fit together, and are those that operators read."""

from __future__ import annotations

import re
from pathlib import Path

from rollcall import liveness
from rollcall.pool import STATEMENT_SECONDS

ROOT = Path(__file__).parents[1]


def test_liveness_each_number_leaves_room_for_the_shorter_ones() -> None:
    assert 3 * liveness.BEAT_SECONDS <= liveness.STALE_SECONDS <= liveness.START_SECONDS
    assert liveness.GRACE_SECONDS < liveness.BEAT_SECONDS
    assert STATEMENT_SECONDS < liveness.ANSWER_SECONDS < liveness.PATIENCE_SECONDS
    assert liveness.FULL_PATIENCE_SECONDS < liveness.PATIENCE_SECONDS
    assert liveness.PATIENCE_SECONDS + liveness.ANSWER_SECONDS < liveness.NO_PROGRESS_SECONDS


def test_liveness_is_what_the_units_and_the_handbook_say() -> None:
    unit = (ROOT / "deploy" / "rollcall-worker@.service").read_text()
    assert re.findall(r"WatchdogSec=(\d+)", unit) == [f"{liveness.START_SECONDS:.0f}"]
    handbook = " ".join((ROOT / "docs" / "operations.md").read_text().split())
    assert f"shown themselves in the last {liveness.STALE_SECONDS:.0f} seconds" in handbook
    assert f"A worker that hangs is replaced after {liveness.STALE_SECONDS:.0f} seconds" in handbook
    assert f"systemd kills it after {liveness.START_SECONDS:.0f}." in handbook
    assert liveness.BEAT_SECONDS == 5
    assert "counters to the database every five seconds" in handbook
    assert liveness.PATIENCE_SECONDS == 300
    assert "Workers try for five minutes" in handbook
    readme = (ROOT / "README.md").read_text()
    assert f"stood still for {liveness.NO_PROGRESS_SECONDS / 60:.0f} minutes" in readme
