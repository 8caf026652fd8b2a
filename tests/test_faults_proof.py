"""Every hole that the protocol closes, and every fault that was listed, has a test that fails when the code is broken:
the lists fit the code, and in the long form the proof. A test is run as in the suite, but on a copy of the code that
lacks one rule.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from faults.holes import HOLES
from faults.listed import FAULTS
from faults.undone import Undone, copy_without, texts

TESTS = Path(__file__).parent
COUNT = 17
"""So many holes there are."""


def test_faults_every_hole_is_in_the_list() -> None:
    assert {int(hole.name.rstrip("abcdefghi")) for hole in HOLES} == set(range(1, COUNT + 1))


def test_faults_the_lists_fit_the_code() -> None:
    """What is to be undone is there, the rest is still Python, and so is the test."""
    for rule in (*HOLES, *FAULTS):
        for name, text in texts(rule).items():
            compile(text, name, "exec")
        file, _, test = rule.test.partition("::")
        assert f"def {test.split('[')[0]}(" in (TESTS / file).read_text(), rule


@pytest.mark.long
@pytest.mark.parametrize("rule", [*HOLES, *FAULTS], ids=lambda rule: rule.name)
def test_faults_a_test_fails_without(rule: Undone, cluster: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(copy_without(rule, tmp_path)), "TEST_DATABASE_URL": cluster}
    del environment["ROLLCALL_LONG"]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", "--tb=line"]

    ran = subprocess.run([*command, str(TESTS / rule.test)], env=environment, capture_output=True, text=True)

    sys.stdout.write(ran.stdout)
    assert ran.returncode == pytest.ExitCode.TESTS_FAILED, ran.stdout
    assert "1 failed" in ran.stdout.splitlines()[-1], ran.stdout  # not only errors, which are of the fixtures
