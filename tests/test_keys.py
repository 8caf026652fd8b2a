"""API keys where they are kept, and the commands that make, list and revoke them."""

from __future__ import annotations

import hmac
import re
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rollcall import embedded, keys
from rollcall.cli import app
from rollcall.database import Connection
from rollcall.errors import Conflict, InvalidInput, NotFound
from rollcall.keys import Caller
from rollcall.pool import Pool
from service import rows
from test_cli import ask, environment
from test_up import free_port


@pytest.fixture
async def tx(database_url: str) -> AsyncGenerator[Connection, None]:
    async with Pool(database_url) as database, database.session() as tx:
        yield tx


def with_other(key: str, at: int) -> str:
    return f"{key[:at]}{'0' if key[at] == '1' else '1'}{key[at + 1 :]}"


async def test_key_is_known_and_nothing_like_it(tx: Connection) -> None:
    key = await keys.create(tx, "crm", ["a", "b"])
    assert keys.FORM.fullmatch(key)
    assert await keys.caller(tx, key) == Caller("crm", ["a", "b"])
    for other in (*(with_other(key, at) for at in range(len(key))), key[:-1], key + "0", key.upper(), "", "rk_", "\0"):
        assert await keys.caller(tx, other) is None, other
    assert await keys.caller(tx, await keys.create(tx, "all")) == Caller("all", None)


async def test_keys_are_random_and_their_secrets_are_not_kept(tx: Connection, database_url: str) -> None:
    made = [await keys.create(tx, str(number)) for number in range(20)]
    secrets = [key.split("_", 2)[2] for key in made]
    assert len({secret[at] for secret in secrets for at in range(43)}) > 40
    assert len(set(secrets)) == 20
    kept = repr(rows(database_url, "select k::text from rollcall.keys k"))
    assert all(key.split("_")[1] in kept for key in made)
    assert not any(secret in kept or secret.encode().hex() in kept for secret in secrets)


async def test_keys_an_unknown_id_is_compared_like_a_wrong_secret(
    tx: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, compared, compare = await keys.create(tx, "crm"), [], hmac.compare_digest

    def watched(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    for wrong in (with_other(key, 5), with_other(key, 30)):
        assert await keys.caller(tx, wrong) is None
    assert await keys.caller(tx, key)
    assert compared == [(32, 32)] * 3


async def test_keys_revoke_ends_a_key_and_keeps_its_name(tx: Connection) -> None:
    assert not await keys.any_made(tx)
    key = await keys.create(tx, "crm")
    with pytest.raises(Conflict):
        await keys.create(tx, "crm")
    await keys.revoke(tx, "crm")
    assert await keys.caller(tx, key) is None
    assert await keys.live(tx) == []
    assert await keys.any_made(tx)
    with pytest.raises(NotFound):
        await keys.revoke(tx, "crm")
    for name in ("crm", " crm "):
        with pytest.raises(Conflict, match="was, a key named crm"):
            await keys.create(tx, name)
    assert await keys.caller(tx, key) is None


async def test_keys_create_keeps_names_and_sources_as_requests_give_them(tx: Connection) -> None:
    key = await keys.create(tx, " cafe\u0301 ", ["cafe\u0301", "\u00a0crm "])
    assert await keys.caller(tx, key) == Caller("caf\u00e9", ["caf\u00e9", "crm"])
    for name, sources in (("", None), ("a\x85b", None), ("x", [" "]), ("x", ["a\x01b"]), ("x", ["y" * 101])):
        with pytest.raises(InvalidInput):
            await keys.create(tx, name, sources)
    await keys.revoke(tx, "caf\u00e9 ")


async def test_keys_the_last_use_is_written_once_a_minute(tx: Connection) -> None:
    async def used() -> object:
        return (await keys.live(tx))[0].used_at

    key = await keys.create(tx, "crm")
    await keys.caller(tx, with_other(key, 30))
    assert await used() is None
    await keys.caller(tx, key)
    first = await used()
    assert first
    await keys.caller(tx, key)
    assert await used() == first
    await tx.execute("update rollcall.keys set used_at = used_at - interval '61 s'")
    await keys.caller(tx, key)
    assert await used() > first  # type: ignore[operator]


def test_keys_commands(database_url: str) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(app, ["keys", *arguments], env={"DATABASE_URL": database_url})
        return done.exit_code, done.stdout, done.stderr

    assert run("list") == (0, "No keys.\n", "")
    status, key, said = run("create", "shop", "--source", "crm", "--source", "web")
    assert status == 0
    assert keys.FORM.fullmatch(key.strip())
    assert "only time" in said
    assert run("create", "shop")[0::2] == (
        1,
        "Error: There is, or was, a key named shop. What it sent is known by that name: choose another, such as"
        " shop-2.\n",
    )
    status, listed, _ = run("list")
    assert re.search(rf"^{key[:19]}_… +shop +crm, web +\d{{4}}-\d\d-\d\d \d\d:\d\d UTC +never$", listed, re.MULTILINE)
    assert key.split("_", 2)[2].strip() not in listed
    status, said, _ = run("revoke", "shop")
    assert (status, "until you create another, the API answers nobody" in said) == (0, True)
    assert run("revoke", "shop")[0] == 1
    assert ask(database_url, "select count(*) from rollcall.keys where revoked_at is not null") == 1
    for wrong in (["create", ""], ["create", "a\nb"], ["create", "x" * 101], ["create", "x", "--source", ""],
                  ["create", "x", "--source", " "], ["create", "x", "--source", "a\x01b"]):  # fmt: skip
        assert run(*wrong)[0] == 2


def test_keys_commands_reach_the_postgres_of_a_running_service(data_dir: Path) -> None:
    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["keys", *arguments, "--data-dir", str(data_dir)], env={"DATABASE_URL": None})
        assert done.exit_code == 0, done.stderr
        return done.stdout

    with embedded.postgres(data_dir) as server:
        run("create", "shop")
        assert ask(server.url, "select name from rollcall.keys") == "shop"
        assert server.alive
    assert "shop" in run("list")


def test_keys_others_are_listened_to_once_there_is_a_key(tmp_path: Path, database_url: str) -> None:
    settings = {"DATABASE_URL": database_url, "HOST": "0.0.0.0", "PORT": str(free_port())}
    for command in ("api", "up"):
        refused = CliRunner().invoke(app, [command], env=settings)
        assert refused.exit_code == 1
        assert "does not listen on 0.0.0.0" in refused.stderr
        assert "rollcall keys create" in refused.stderr
    key = CliRunner().invoke(app, ["keys", "create", "all"], env=settings).stdout.strip()
    up = subprocess.Popen(
        [sys.executable, "-m", "rollcall", "up"],
        env=environment(DATA_DIR=str(tmp_path), **settings),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert up.stderr is not None
        said = ""
        while not said.startswith("  curl ") and up.poll() is None:
            said = up.stderr.readline()
        for given, answer in ((key, "jobId"), (key[:-1], "UNAUTHORIZED")):
            pasted = subprocess.run(said, shell=True, capture_output=True, text=True, env={"ROLLCALL_API_KEY": given})
            assert answer in pasted.stdout, said
    finally:
        up.terminate()
        _, rest = up.communicate(timeout=30)
    assert key not in rest
