"""Every file in examples/ runs as it says."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service import api

FOLDER = Path(__file__).parents[1] / "examples"
ELSEWHERE = {"demo.py"}
"""Tested in test_cli."""

SAID = {
    "read_a_file.py": ["csv: the address is in E-Mail, the name in Name", "1 zoe@example.com", "2 rejected: The email"],
    "mend_and_resend.py": ["'rejected': 1", '"bob.example.com";"\'+49 30 2";"2";"email_invalid"', "'created': 1"],
    "import.sh": ['"state":"succeeded"', '"created":1', '"Bob","bob","2","email_invalid"'],
}


def test_examples_are_all_tested() -> None:
    assert {path.name for path in FOLDER.iterdir() if path.is_file()} == {*SAID, *ELSEWHERE}


@pytest.mark.parametrize("name", SAID)
async def test_example_runs(database_url: str, tmp_path: Path, name: str) -> None:
    async with api(database_url, tmp_path) as (_, port):
        with worker(database_url, tmp_path):
            done = await asyncio.to_thread(
                subprocess.run,
                ["sh" if name.endswith(".sh") else sys.executable, str(FOLDER / name)],
                env=os.environ | {"ROLLCALL_URL": f"http://127.0.0.1:{port}", "PYTHONUTF8": "1"},
                capture_output=True,
                text=True,
                check=False,
            )
    assert done.returncode == 0, done.stderr
    for words in SAID[name]:
        assert words in done.stdout


@contextmanager
def worker(database_url: str, folder: Path) -> Iterator[None]:
    environment = os.environ | {"DATABASE_URL": database_url, "DATA_DIR": str(folder)}
    with (folder / "worker.log").open("ab") as log:
        command = [sys.executable, "-m", "rollcall", "worker"]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.kill()
        process.wait()
