"""The client of a service: a file is one import, whatever becomes of the answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.proxy import Harm, Link, proxy
from rollcall import client
from rollcall.client import Client, FileChanged, ServiceDown, ServiceRefused
from service import listening, rows

CSV = b"name,email\nAnn,ann@example.com\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "contacts.csv"
    path.write_bytes(CSV)
    return path


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "RESEND_SECONDS", (0.01,) * 3)


async def test_client_a_lost_answer_makes_no_second_import(database_url: str, tmp_path: Path, file: Path) -> None:
    harms: list[Harm] = ["answerless", "reset"]

    def judge(link: Link, data: bytes) -> Harm:
        return harms.pop() if harms and data.endswith(CSV) else "pass"

    async with listening(database_url, tmp_path) as port, proxy(f"postgresql://127.0.0.1:{port}") as before:
        before.judge = judge
        here = before.url.partition("@")[2].partition("?")[0]
        async with Client(f"http://{here}") as service:
            job_id = await service.send(file, source="crm")
    assert [harm for _, harm in before.harmed] == ["reset", "answerless"]
    assert [str(job) for (job,) in rows(database_url, "select id from rollcall.imports")] == [job_id]
    assert rows(database_url, "select count(*) from rollcall.uploads") == [(1,)]


@pytest.mark.parametrize("change", [b"Bob,bob@example.com\n", None])
async def test_client_send_says_that_the_file_changes_meanwhile(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: bytes | None
) -> None:
    monkeypatch.setattr(client, "BLOCK_BYTES", 10)
    file = tmp_path / "log.csv"
    file.write_bytes(CSV)

    def grow(count: int) -> None:
        if count == 10:
            file.write_bytes(CSV + change if change else CSV[:15])

    async with listening(database_url, tmp_path) as port, Client(f"http://127.0.0.1:{port}") as service:
        with pytest.raises(FileChanged, match=r"log\.csv changed while it was sent: it had 31 bytes"):
            await service.send(file, source="crm", sent=grow)
    assert rows(database_url, "select count(*) from rollcall.imports") == [(0,)]


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    (tmp_path / "empty.csv").touch()
    return tmp_path / "empty.csv"


async def test_client_what_is_refused_is_not_sent_again(database_url: str, tmp_path: Path, empty: Path) -> None:
    async with listening(database_url, tmp_path) as port, Client(f"http://127.0.0.1:{port}") as service:
        with pytest.raises(ServiceRefused, match="empty"):
            await service.send(empty, source="crm")
    assert rows(database_url, "select count(*) from rollcall.uploads") == [(0,)]


async def test_client_where_nobody_is_that_is_said_at_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "RESEND_SECONDS", (3600.0,))
    async with Client("http://127.0.0.1:9") as service:
        with pytest.raises(ServiceDown, match="rollcall up"):
            await service.send(file, source="crm")
