"""Every hole that the protocol closes has a test that fails when it is open again: the list, and in the long form the
proof. Each test is run against a copy of the code with one hole, as it runs in the suite; see tests/faults/holes.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from faults.holes import HOLES, Hole, opened, texts

TESTS = Path(__file__).parent
COUNT = 17
"""They are numbered; a number may have sides, by letters."""


def test_every_hole_is_in_the_list() -> None:
    assert {int(hole.name.rstrip("abcdefghi")) for hole in HOLES} == set(range(1, COUNT + 1))
    assert len({hole.name for hole in HOLES}) == len(HOLES)


def test_the_list_fits_the_code() -> None:
    """What is to be undone is there, the rest is still Python, and so is the test."""
    for hole in HOLES:
        for name, text in texts(hole).items():
            compile(text, name, "exec")
        file, _, test = hole.test.partition("::")
        assert f"def {test.split('[')[0]}(" in (TESTS / file).read_text(), hole


@pytest.mark.long
@pytest.mark.parametrize("hole", HOLES, ids=lambda hole: hole.name)
def test_a_test_fails_while_it_is_open(hole: Hole, cluster: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(opened(hole, tmp_path)), "TEST_DATABASE_URL": cluster}
    del environment["ROLLCALL_LONG"]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", "--tb=line"]

    ran = subprocess.run([*command, str(TESTS / hole.test)], env=environment, capture_output=True, text=True)

    sys.stdout.write(ran.stdout)
    assert ran.returncode == pytest.ExitCode.TESTS_FAILED, ran.stdout
    assert "1 failed" in ran.stdout, ran.stdout
    assert "error" not in ran.stdout.splitlines()[-1], ran.stdout
