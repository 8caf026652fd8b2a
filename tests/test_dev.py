"""./dev sets up its environment by itself: with uv, with pip, again after a change, again after it was killed.

It runs here in a small project of its own: two packages, one of them in a folder of wheels, and no network.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

DEV = Path(__file__).parent.parent / "dev"

PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "rollcall"
version = "1"
"""

# An editable install without hatchling: that would need the network.
BACKEND = """
import zipfile
def build_editable(folder, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(f"{folder}/rollcall-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("rollcall.py", "")
        wheel.writestr("rollcall-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: rollcall\\nVersion: 1\\n")
        wheel.writestr("rollcall-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        wheel.writestr("rollcall-1.dist-info/RECORD", "")
    return "rollcall-1-py3-none-any.whl"
"""

DEMO = """
import importlib.metadata, sys
print(importlib.metadata.version("tiny"), importlib.metadata.version("rollcall"), sys.prefix, *sys.argv[1:])
"""


class Clone:
    """A project in `root` that ./dev can work in; `tools`: the folders in which it may find programs."""

    def __init__(self, root: Path, tools: list[Path]) -> None:
        self.root = root
        self.wheels = root.parent / "wheels"
        self.wheels.mkdir()
        (root / "examples").mkdir(parents=True)
        shutil.copy(DEV, root / "dev")
        (root / "pyproject.toml").write_text(PYPROJECT)
        (root / "backend.py").write_text(BACKEND)
        (root / "examples" / "demo.py").write_text(DEMO)
        self.pin("1.0")
        self.environment = {
            "HOME": str(root.parent),
            "PATH": os.pathsep.join(map(str, tools)),
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
            "UV_NO_INDEX": "1",
            "UV_FIND_LINKS": str(self.wheels),
        }

    def pin(self, version: str, digest: str | None = None) -> None:
        """Lock this version of `tiny`."""
        wheel = self.wheels / f"tiny-{version}-py3-none-any.whl"
        files = {
            "tiny.py": "",
            f"tiny-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n",
            f"tiny-{version}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        record = f"tiny-{version}.dist-info/RECORD"
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
            archive.writestr(record, "".join(f"{name},{_digest(text)},{len(text)}\n" for name, text in files.items()))
        digest = digest or hashlib.sha256(wheel.read_bytes()).hexdigest()
        (self.root / "requirements.lock").write_text(f"tiny=={version} \\\n    --hash=sha256:{digest}\n")

    def dev(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), env=self.environment, capture_output=True, text=True, check=False
        )

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, str(self.root / "dev"), *arguments]

    @property
    def stamp(self) -> Path:
        return self.root / ".venv" / "complete"


def _digest(text: str) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


@pytest.fixture
def uv(tmp_path: Path) -> Path:
    """A folder with uv and nothing else."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "uv").symlink_to(Path(sys.prefix) / "bin" / "uv")
    return folder


@pytest.fixture
def clone(tmp_path: Path, uv: Path) -> Clone:
    return Clone(tmp_path / "clone", [uv])


def test_dev_it_says_what_it_can_do(clone: Clone) -> None:
    for said in (clone.dev(), clone.dev("--help")):
        assert said.returncode == 0
        for command in ("demo", "test", "faults", "lint", "bench", "lock"):
            assert f"\n  {command} " in said.stdout
    assert not clone.stamp.exists()


def test_dev_an_unknown_command_is_refused(clone: Clone) -> None:
    said = clone.dev("deom")
    assert said.returncode == 2
    assert "no such command: deom" in said.stderr


def test_dev_an_old_python_can_read_it() -> None:
    ast.parse(DEV.read_text(), feature_version=(3, 7))


def test_dev_it_sets_up_once_and_hands_the_arguments_on(clone: Clone) -> None:
    first = clone.dev("demo", "--some", "argument")
    assert first.stdout == f"1.0 1 {clone.root / '.venv'} --some argument\n", first.stderr
    assert "Setting up" in first.stderr

    made = clone.stamp.stat().st_mtime_ns
    second = clone.dev("demo")
    assert (second.returncode, second.stderr, clone.stamp.stat().st_mtime_ns) == (0, "", made)


def test_dev_pip_does_it_where_uv_cannot_be_had(tmp_path: Path) -> None:
    clone = Clone(tmp_path / "clone", [])
    assert clone.dev("demo").stdout.startswith("1.0 1 ")
    assert (clone.root / ".venv" / "bin" / "pip").exists()


@pytest.mark.long
def test_dev_pip_takes_over_when_uv_fails(clone: Clone) -> None:
    clone.environment["UV_FIND_LINKS"] = str(clone.root)  # uv's settings lead nowhere, pip's do
    said = clone.dev("demo")
    assert said.stdout.startswith("1.0 1 "), said.stderr
    assert "pip takes over" in said.stderr


def test_dev_a_changed_lock_changes_the_environment(clone: Clone) -> None:
    clone.dev("demo")
    clone.pin("2.0")
    assert clone.dev("demo").stdout.startswith("2.0 1 ")


@pytest.mark.long
def test_dev_a_file_that_is_not_the_locked_one_is_refused(clone: Clone) -> None:
    clone.pin("1.0", digest="0" * 64)
    said = clone.dev("demo")
    assert (said.returncode, said.stdout) == (1, "")
    assert "could not set up" in said.stderr
    assert "Traceback" not in said.stderr
    assert not clone.stamp.exists()


def test_dev_a_killed_setup_is_not_taken_for_good(clone: Clone) -> None:
    clone.dev("demo")
    clone.pin("2.0")
    # This uv never ends: the old environment is not what the lock says, and the new one is not made.
    hanging = clone.root.parent / "hanging" / "uv"
    reached = hanging.with_name("reached")
    hanging.parent.mkdir()
    hanging.write_text(f'#!/bin/sh\n[ "$1" = --version ] || {{ : > {reached}; exec /bin/sleep 600; }}\n')
    hanging.chmod(0o755)
    environment = clone.environment | {"PATH": str(hanging.parent)}
    with subprocess.Popen(clone.command("demo"), env=environment, start_new_session=True) as killed:
        end = time.monotonic() + 60
        while not reached.exists():
            assert killed.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
        os.killpg(killed.pid, signal.SIGKILL)
    assert not clone.stamp.exists()
    assert clone.dev("demo").stdout.startswith("2.0 1 ")


def test_dev_a_copied_clone_makes_an_environment_of_its_own(clone: Clone) -> None:
    clone.dev("demo")
    copy = clone.root.parent / "copy"
    shutil.copytree(clone.root, copy, symlinks=True)
    clone.root = copy
    assert clone.dev("demo").stdout == f"1.0 1 {copy / '.venv'}\n"
