"""requirements.lock is what pyproject.toml asks for, and names no place to get it from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
LOCK = (ROOT / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DIRECT = [
    *PROJECT["project"]["dependencies"],
    *PROJECT["dependency-groups"]["dev"],
    *PROJECT["build-system"]["requires"],
]

# One logical line a package: `name==version ; marker --hash=... --hash=...`
ENTRIES = [line for line in LOCK.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
PINNED = [Requirement(entry.partition("--hash")[0]) for entry in ENTRIES]


@pytest.mark.parametrize("wanted", DIRECT)
def test_lock_a_direct_dependency_is_pinned_to_a_version_that_satisfies_it(wanted: str) -> None:
    requirement = Requirement(wanted)
    pins = [pin for pin in PINNED if canonicalize_name(pin.name) == canonicalize_name(requirement.name)]
    versions = [specifier.version for pin in pins for specifier in pin.specifier]
    assert versions, f"{wanted} is not in requirements.lock; run ./dev lock"
    outside = [version for version in versions if version not in requirement.specifier]
    assert not outside, f"requirements.lock has {requirement.name} {outside}; run ./dev lock"


def test_lock_every_entry_is_one_version_with_hashes() -> None:
    for entry, pin in zip(ENTRIES, PINNED, strict=True):
        assert [specifier.operator for specifier in pin.specifier] == ["=="], entry
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry


@pytest.mark.parametrize("address", ["://", "@ ", "--index-url", "--extra-index-url", "--find-links", "file:"])
def test_lock_it_holds_no_address(address: str) -> None:
    assert address not in LOCK
