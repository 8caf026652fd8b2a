"""What operators are given: units, alerts and a handbook that say what the code has."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from faults.harness import Worker
from rollcall import app as api
from rollcall import embedded, worker
from rollcall.cli import app, up
from service import served

ROOT = Path(__file__).parents[1]
UNITS = sorted((ROOT / "deploy").glob("*.service"))
ALERTS = (ROOT / "deploy" / "alerts.yml").read_text(encoding="utf-8")
HANDBOOK = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
LONG_ENOUGH = {
    "rollcall.service": up.STOP_SECONDS + embedded.STOP_SECONDS,
    "rollcall-api.service": api.GRACE_SECONDS + api.CLEANUP_SECONDS,
    "rollcall-worker@.service": worker.DRAIN_SECONDS,
}


def table(heading: str) -> list[str]:
    """What stands in backticks in the first column of the tables below a heading."""
    text = HANDBOOK[HANDBOOK.index(f"\n## {heading}\n") + 4 :].split("\n## ")[0]
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return [word for cell in cells for word in re.findall(r"`([^`]+)`", cell)]


def service(unit: Path) -> dict[str, str]:
    """Its section [Service]; the first of what stands there several times."""
    parser = ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(unit, encoding="utf-8")
    return dict(parser["Service"])


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_deploy_units_run_what_there_is_and_let_it_end(unit: Path) -> None:
    found = service(unit)
    for name in ("ExecStart", "ExecStartPre"):
        if name in found:
            command, *arguments = found[name].split()
            assert command == "/opt/rollcall/.venv/bin/rollcall"
            assert CliRunner().invoke(app, [*arguments, "--help"]).exit_code == 0
    assert float(found["TimeoutStopSec"]) > LONG_ENOUGH[unit.name]
    assert found["Restart"] == "always"
    assert found["Environment"] == f"DATA_DIR=/var/lib/{found['StateDirectory']}"


def test_deploy_systemd_takes_the_units(tmp_path: Path) -> None:
    """Where there is one to ask."""
    if program := shutil.which("systemd-analyze"):
        here = f"{sys.prefix}/bin/rollcall"
        for unit in UNITS:
            text = unit.read_text(encoding="utf-8").replace("/opt/rollcall/.venv/bin/rollcall", here)
            (tmp_path / unit.name.replace("@", "@1")).write_text(text, encoding="utf-8")
        verified = subprocess.run(
            [program, "verify", "--man=no", *sorted(map(str, tmp_path.glob("*.service")))],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (verified.returncode, verified.stderr) == (0, "")


async def test_deploy_a_worker_tells_systemd_that_it_moves(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with Worker([sys.executable, "-m", "rollcall", "worker"], tmp_path, database_url) as process:
            await process.number()
            hear(systemd, 3)
            process.send(signal.SIGSTOP)
            systemd.settimeout(1)
            with pytest.raises(TimeoutError):
                hear(systemd, 100)


def hear(systemd: socket.socket, times: int) -> None:
    for _ in range(times):
        assert systemd.recv(100) == b"WATCHDOG=1"


async def exported(database_url: str, folder: Path) -> dict[str, set[str]]:
    """Our metrics as they are asked for, and the values of their labels."""
    async with served(database_url, folder) as client:
        await client.get("/contacts")
        answer: httpx.Response = await client.get("/metrics")
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(answer.text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        if name.startswith("rollcall_"):
            found[name] = {value for sample in family.samples for value in sample.labels.values()}
    return found


async def test_deploy_metrics_are_those_of_the_handbook(database_url: str, tmp_path: Path) -> None:
    named = {name for name in table("Metrics") if name.startswith("rollcall_")}
    found = await exported(database_url, tmp_path)
    assert named == set(found)
    for name in found:
        assert name in ALERTS
    for name in re.findall(r"rollcall_\w+", ALERTS):
        assert name.removesuffix("_bucket") in found
    for name, values in re.findall(r"(rollcall_\w+)\{\w+(?:=|=~|!~)\"([A-Z_a-z|]+)\"\}", ALERTS):
        assert set(values.split("|")) <= found[name]


def test_deploy_alerts_are_those_of_the_handbook() -> None:
    assert re.findall(r"alert: (\w+)", ALERTS) == [name for name in table("Metrics") if name.startswith("Rollcall")]


def test_deploy_events_and_stages_are_those_of_the_handbook() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    events = set(re.findall(r"log\.(?:info|warning|error)\(\s*\"([a-z_.]+)\"", source))
    stages = {"store", "parse", "rules", "fold", "merge", "commit"}
    assert set(table("Logs")) == events | stages


def test_deploy_links_within_the_handbook() -> None:
    headings = re.findall(r"^##+ (.+)$", HANDBOOK, re.MULTILINE)
    anchors = {re.sub(r"[^a-z -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", HANDBOOK)) <= anchors
