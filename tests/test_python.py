"""Which Python runs the tests. What pyproject.toml and the README promise is what `.ci/run` runs."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def oldest_allowed() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["requires-python"].removeprefix(">="))


def version_of(python: str) -> tuple[int, ...] | None:
    """Its version; None where the name leads to no Python that runs."""
    said = subprocess.run([python, "-c", "import platform; print(platform.python_version())"], capture_output=True)
    return tuple(map(int, re.findall(rb"\d+", said.stdout)[:3])) if said.returncode == 0 else None


def test_python_is_the_oldest_or_the_newest_as_ci_says() -> None:
    match os.environ.get("ROLLCALL_PYTHON"):
        case "oldest":
            assert (
                platform.python_version()
                == subprocess.check_output(
                    ["/usr/bin/python3", "-c", "import platform; print(platform.python_version())"], text=True
                ).strip()
            ), "not the Python of the distribution"
            assert platform.python_version().startswith(f"{oldest_allowed()}."), "not the oldest that is allowed"
        case "newest":
            names = [shutil.which(f"python3.{minor}") for minor in range(11, 20)]
            pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
            names += map(str, pyenv.glob("versions/3.*/bin/python3"))
            found = [version for name in names if name and (version := version_of(name))]
            assert sys.version_info[:3] >= max(found, default=(3, 11, 0))
        case other:
            assert other is None, "ROLLCALL_PYTHON is oldest or newest"


def test_readme_promises_the_oldest_python_that_is_run() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"Python {oldest_allowed()} or later" in readme
    assert f"Python {oldest_allowed()} or later" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
