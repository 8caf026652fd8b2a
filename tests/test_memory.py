"""How much memory there is: a container's, not that of the machine it runs on."""

from __future__ import annotations

from pathlib import Path

import pytest

from rollcall.embedded.memory import available, shared_buffers

MIB = 1 << 20


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/", {"sys/fs/cgroup/memory.max": "104857600\n"}, 100 * MIB),
        ("0::/a/b", {"sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/memory.max": "209715200\n"}, 200 * MIB),
        ("3:cpu,memory:/a\n0::/", {"sys/fs/cgroup/memory/a/memory.limit_in_bytes": "104857600\n"}, 100 * MIB),
        ("3:memory:/not/seen", {"sys/fs/cgroup/memory/memory.limit_in_bytes": "104857600\n"}, 100 * MIB),
    ],
)
def test_memory_the_smallest_limit_counts(tmp_path: Path, groups: str, limits: dict[str, str], expected: int) -> None:
    for name, text in {"proc/self/cgroup": groups, **limits}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert available(tmp_path) == expected


def test_memory_without_a_limit_it_is_the_machine(tmp_path: Path) -> None:
    assert available(tmp_path) > 128 * MIB
    assert available() <= available(tmp_path)


@pytest.mark.parametrize(("memory", "expected"), [(512, "128MB"), (4096, "512MB"), (256 << 10, "4096MB")])
def test_memory_buffers_are_an_eighth_of_it(memory: int, expected: str) -> None:
    assert shared_buffers(memory * MIB) == expected
