"""Settings: what is refused, and that everything is said at once."""

from __future__ import annotations

from datetime import timedelta

import pytest

from rollcall import settings, worker
from rollcall.database import connect, connection_limit
from rollcall.settings import BadSettings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("UPLOAD_CHUNK_SIZE", 8 << 30),
        ("WORKER_CONCURRENCY", 101),
        ("LOADERS", 17),
        ("WORKER_POLL_INTERVAL", 600_000),
        ("MAX_UPLOAD_SIZE", 1 << 62),
        ("MAX_ARRIVING_UPLOADS", 1_000_000),
        ("MAX_QUEUED_IMPORTS", 1 << 40),
        ("MAX_STORED_REJECTS", 1 << 40),
        ("RETENTION", 1_000_000),
        ("REJECTS_RETENTION", 1_000_000),
    ],
)
def test_settings_read_refuses_what_is_out_of_bounds(name: str, value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, str(value))
    with pytest.raises(BadSettings, match=rf"\n  {name}: Input should be less than or equal to ") as refused:
        settings.read()
    assert str(refused.value).count("\n") == 1


def test_settings_read_says_problems_of_one_and_of_several_settings_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("PORT", "secret")
    monkeypatch.setenv("RETENTION", "soon")
    monkeypatch.setenv("NODE_ENV", "production")
    with pytest.raises(BadSettings) as refused:
        settings.read()
    lines = str(refused.value).splitlines()
    assert [line.partition(":")[0].strip() for line in lines[1:]] == ["PORT", "RETENTION", "DATABASE_URL"]
    assert "secret" not in str(refused.value)


def test_settings_read_does_not_guess_at_what_depends_on_a_bad_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("NODE_ENV", "test")
    with pytest.raises(BadSettings) as refused:
        settings.read()
    assert [line.partition(":")[0].strip() for line in str(refused.value).splitlines()[1:]] == ["NODE_ENV"]


def test_settings_read_takes_long_but_possible_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETENTION", "36500")
    monkeypatch.setenv("WORKER_POLL_INTERVAL", "60000")
    assert settings.read().retention == timedelta(days=36_500)


def test_settings_check_connections_says_what_would_fit() -> None:
    read = settings.read(loaders=4, worker_concurrency=30)
    read.check_connections(122)
    with pytest.raises(BadSettings, match=r"WORKER_CONCURRENCY: .* 122 .* allows 121\. Set it to 29 or less"):
        read.check_connections(121)
    with pytest.raises(BadSettings, match=r"WORKER_CONCURRENCY: .* 133 .* allows 122\. Set it to 27 or less"):
        read.check_connections(122, besides=11)


async def test_settings_worker_does_not_start_with_more_connections_than_the_server_allows(database_url: str) -> None:
    read = settings.read(loaders=16, worker_concurrency=100)
    with pytest.raises(BadSettings, match="WORKER_CONCURRENCY: With LOADERS=16 up to 1,602 connections"):
        await worker.run(read, database_url, once=True)


async def test_settings_connection_limit_counts_the_limit_of_the_role(database_url: str) -> None:
    async with await connect(database_url, "test") as tx:
        whole = await connection_limit(tx)
        assert 10 <= whole < 1000
        await tx.execute("create role rollcall_few login connection limit 7")
        try:
            await tx.execute("set role rollcall_few")
            assert await connection_limit(tx) == 7
        finally:
            await tx.execute("reset role")
            await tx.execute("drop role rollcall_few")
