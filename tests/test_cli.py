"""The commands as people run them: processes of their own, a real Postgres, exit statuses and what is printed."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import typer
from typer.testing import CliRunner

from rollcall import embedded
from rollcall.cli import app, load, show
from rollcall.cli.commands import Commands
from rollcall.cli.show import COUNTS
from rollcall.database import LOCK_CLASS
from rollcall.errors import Unavailable

LIST = "Name;E-Mail;Phone\nAnn Lee;ann@x.org;1\nBob;bob@;2\nZoë;zoe@x.org;3\nAnn Lee-Smith;ANN@x.org;\n=1+1;;4\n"
COMMANDS = (
    "up",
    "api",
    "worker",
    "migrate",
    "import",
    "check",
    "status",
    "rejects",
    *(f"keys {each}" for each in ("create", "list", "revoke")),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "list.csv").write_text(LIST, encoding="utf-8")
    return tmp_path


def environment(**settings: str) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return inherited | {"PYTHONUTF8": "1"} | settings


def rollcall(
    folder: Path, *arguments: str, stdin: str | None = None, **settings: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "rollcall", *arguments],
        cwd=folder,
        env=environment(DATA_DIR=str(folder / "data"), **settings),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done


def account(printed: str) -> dict[str, int]:
    """The counts of the (last) account that was printed."""
    lines = printed.splitlines()
    at = max(number for number, line in enumerate(lines) if "created" in line and "duplicate" in line)
    return {
        name: int(value.replace(",", ""))
        for name, value in zip(lines[at].split(), lines[at + 1].split(), strict=True)
        if name != "seconds"
    }


def ask(database_url: str, statement: str) -> Any:
    with psycopg.connect(database_url, autocommit=True) as connection:
        row = connection.execute(statement.encode()).fetchone()
        return row and row[0]


def until(true: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)
    return found


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_cli_help_comes_with_an_example(command: str) -> None:
    shown = CliRunner().invoke(app, [*command.split(), "--help"])
    assert shown.exit_code == 0
    assert f"Example: {'' if command not in ('api', 'worker', 'migrate') else 'DATABASE_URL='}" in shown.output
    assert f"rollcall {command}".strip() in shown.output


def test_cli_import_accounts_for_every_record(folder: Path, database_url: str) -> None:
    done = rollcall(folder, "import", "list.csv", "--source", "crm", DATABASE_URL=database_url)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("list.csv → crm: succeeded\n")
    assert account(done.stdout) == {
        "read": 5, "created": 2, "updated": 0, "unchanged": 0, "skipped": 0, "duplicate": 1, "rejected": 2,
    }  # fmt: skip
    assert "bob@" in done.stdout
    assert "The email is not a valid address" in done.stdout
    assert "All of them: list.csv.rejects.csv" in done.stdout
    assert ask(database_url, "select string_agg(name || ' ' || email, ', ' order by email) from contacts") == (
        "Ann Lee-Smith ann@x.org, Zoë zoe@x.org"
    )
    rejects = (folder / "list.csv.rejects.csv").read_text(encoding="utf-8").splitlines()
    assert rejects[0] == '"Name";"E-Mail";"Phone";"rollcall_record";"rollcall_code";"rollcall_message"'
    assert rejects[1].startswith('"Bob";"bob@";"2";"2";"email_invalid";')
    assert rejects[2].startswith('"\'=1+1";"";"4";"5";"email_empty";')


def test_cli_import_says_which_column_is_what(folder: Path, database_url: str) -> None:
    done = rollcall(folder, "import", "list.csv", "--source", "crm", DATABASE_URL=database_url)
    assert done.stdout.splitlines()[1] == "email: E-Mail   name: Name   attributes: Phone"


def test_cli_import_reads_standard_input(folder: Path, database_url: str) -> None:
    done = rollcall(folder, "import", "-", "--source", "crm", DATABASE_URL=database_url, stdin=LIST)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("stdin → crm: succeeded\n")
    assert account(done.stdout)["created"] == 2
    assert "All of them: stdin.rejects.csv" in done.stdout


def test_cli_import_leaves_no_part_of_a_reject_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)

    async def breaks_off() -> AsyncGenerator[bytes, None]:
        yield b"one"
        raise Unavailable("It broke off.")

    with pytest.raises(Unavailable):
        asyncio.run(load._keep(folder / "list.csv", breaks_off()))
    assert [path.name for path in folder.iterdir()] == ["list.csv"]


def test_cli_terminals_are_not_controlled() -> None:
    job: dict[str, Any] = {
        "jobId": "1", "source": "a\x9b2J\u202e", "state": "succeeded", "counts": dict.fromkeys(COUNTS, 0),
        "plan": {"header": ["e\x1b[0m", "n"], "mapping": {"email": "e\x1b[0m", "name": ["n"]}}, "unprocessed": None,
        "sameFileAs": None, "error": None,
    }  # fmt: skip
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        show.imports([job])
        show.account("f\x07.csv", job)
        show.rejects([{"record": 1, "value": "\x85", "message": "\x9d"}], 1)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", out.getvalue())
    assert "a\\x9b2J\\u202e" in out.getvalue()


def test_cli_import_again_changes_nothing_and_replaces_no_file(folder: Path, database_url: str) -> None:
    (folder / "list.csv.rejects.csv").write_text("mine")
    for room in ("1", "2"):  # where not all Rejects are stored, the file has them all the same
        done = rollcall(
            folder, "import", "list.csv", "--source", "crm", DATABASE_URL=database_url, MAX_STORED_REJECTS=room
        )
        assert done.returncode == 0
    stored = "select array_agg(n order by n) from (select count(*) as n from rollcall.rejects group by import_id) each"
    assert ask(database_url, stored) == [1, 2]
    assert account(done.stdout)["created"] == 0
    first = ask(database_url, "select id::text from rollcall.imports order by seq limit 1")
    assert f"The same file came before, as {first}." in done.stdout
    assert (folder / "list.csv.rejects.csv").read_text() == "mine"
    assert (folder / "list.csv.rejects.2.csv").read_bytes() == (folder / "list.csv.rejects.3.csv").read_bytes()


def test_cli_import_skips_what_is_there(folder: Path, database_url: str) -> None:
    rollcall(folder, "import", "list.csv", "--source", "crm", DATABASE_URL=database_url)
    (folder / "new.csv").write_text("name,email\nAnother,zoe@x.org\n")
    done = rollcall(folder, "import", "new.csv", "--source", "crm", "--on-duplicate", "skip", DATABASE_URL=database_url)
    assert account(done.stdout)["skipped"] == 1
    assert ask(database_url, "select name from contacts where email = 'zoe@x.org'") == "Zoë"


def test_cli_import_with_on_invalid_fail_writes_nothing(folder: Path, database_url: str) -> None:
    done = rollcall(folder, "import", "list.csv", "--source", "crm", "--on-invalid", "fail", DATABASE_URL=database_url)
    assert done.returncode == 1
    assert "INVALID_RECORDS: 2 of 5 records are invalid; no contact was written" in done.stdout
    assert account(done.stdout)["rejected"] == 2
    assert "3 records were not processed." in done.stdout
    assert ask(database_url, "select count(*) from contacts") == 0


def test_cli_import_takes_a_mapping(folder: Path, database_url: str) -> None:
    (folder / "odd.csv").write_text("wer,wo\nAnn,ann@x.org\n")
    guessed = rollcall(folder, "import", "odd.csv", "--source", "s", DATABASE_URL=database_url)
    assert guessed.returncode == 1
    assert "NO_EMAIL_COLUMN" in guessed.stdout
    mapped = rollcall(
        folder, "import", "odd.csv", "--source", "s", "--mapping", '{"email": "wo", "name": "wer"}',
        DATABASE_URL=database_url,
    )  # fmt: skip
    assert mapped.returncode == 0
    assert account(mapped.stdout)["created"] == 1


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("import", "none.csv", "--source", "s"), 2, "file 'none.csv' does not exist"),
        (("import", ".", "--source", "s"), 2, "is a directory"),
        (("import", "/dev/null", "--source", "s"), 2, "not a regular file"),
        (("import", "list.csv"), 2, "--source"),
        (("import", "list.csv", "--source", ""), 2, "1 to 100 characters"),
        (("import", "list.csv", "--source", "s", "--on-invalid", "maybe"), 2, "maybe"),
        (("import", "list.csv", "--source", "s", "--mapping", "nope"), 1, "mapping is a JSON object"),
        (("import", "list.csv", "--source", "s", "--max-rejects", "many"), 1, "maxRejects is a count"),
        (("import", "list.csv", "--source", "s", "--to", "http://127.0.0.1:1"), 1, "answers at http://127.0.0.1:1"),
        (("import", "list.csv", "--source", "s", "--to", "nowhere"), 1, "nowhere is not an address"),
        (("status", "--to", "http://127.0.0.1:1"), 1, "answers at http://127.0.0.1:1"),
        (("api",), 1, "DATABASE_URL is not set"),
        (("worker",), 1, "DATABASE_URL is not set"),
        (("up", "--port", "70000"), 1, "PORT: "),
        (("nonsense",), 2, "nonsense"),
    ],
)
def test_cli_errors_say_what_is_wrong(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], status: int, message: str
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == status
    assert message in done.stderr
    assert not done.stdout


def test_cli_a_database_that_is_away_is_an_error(folder: Path) -> None:
    done = rollcall(
        folder, "import", "list.csv", "--source", "s", DATABASE_URL="postgresql://postgres:secret@127.0.0.1:1/x"
    )
    assert done.returncode == 1
    assert done.stderr == "Error: The database cannot be reached.\n"


def test_cli_every_problem_of_the_settings_is_said_at_once(folder: Path) -> None:
    done = rollcall(folder, "up", PORT="secret", LOADERS="0")
    assert done.returncode == 1
    assert re.search(r"PORT: .*\n  LOADERS: ", done.stderr)
    assert "secret" not in done.stderr


def test_cli_a_folder_in_use_points_to_the_service(folder: Path, data_dir: Path, bin_dir: Path | None) -> None:
    with embedded.postgres(data_dir, bin_dir=bin_dir, options={"fsync": "off"}):
        done = rollcall(folder, "import", "list.csv", "--source", "s", "--data-dir", str(data_dir), PORT="3999")
    assert done.returncode == 1
    assert "in use by another process" in done.stderr
    assert "--to http://127.0.0.1:3999" in done.stderr


def test_cli_what_nobody_foresaw_is_one_line() -> None:
    broken = typer.Typer(cls=Commands, pretty_exceptions_enable=False)

    @broken.command()
    def one() -> None:
        raise ValueError("ann@x.org")

    @broken.command()
    def two() -> None:
        raise NotADirectoryError(20, "Not a directory", "/some/file")

    done = CliRunner().invoke(broken, ["one"])
    assert done.exit_code == 1
    assert re.fullmatch(
        r"Error: Rollcall did not foresee this \(ValueError at .*\)\. Please report it\.\n", done.output
    )
    done = CliRunner().invoke(broken, ["two"])
    assert (done.exit_code, done.output) == (1, "Error: /some/file: Not a directory\n")


def test_cli_check_needs_no_database(folder: Path) -> None:
    done = rollcall(folder, "check", "list.csv", DATABASE_URL="postgresql://127.0.0.1:1/x")
    assert done.returncode == 1
    assert done.stdout.startswith("list.csv: CSV, UTF-8, separated by semicolons\n")
    assert "email: E-Mail   name: Name   attributes: Phone" in done.stdout
    assert re.search(r"records +valid +duplicate +rejected *\n +5 +3 +1 +2\n", done.stdout)
    assert re.search(r"email_invalid +1\n", done.stdout)
    assert [path.name for path in folder.iterdir()] == ["list.csv"]


def test_cli_check_counts_duplicates_over_many_parts(folder: Path) -> None:
    with gzip.open(folder / "many.ndjson.gz", "wt") as file:
        file.writelines(f'{{"name": "N", "email": "{number % 40_000}@x.org"}}\n' for number in range(70_000))
    done = rollcall(folder, "check", "many.ndjson.gz")
    assert done.returncode == 0
    assert done.stdout.startswith("many.ndjson.gz: NDJSON, UTF-8, gzip\n")
    assert re.search(r"70,000 +70,000 +30,000 +0\n", done.stdout)


def test_cli_check_says_what_it_found_before_a_file_breaks(folder: Path) -> None:
    contacts = ",".join(f'{{"name": "N", "email": "{number}@x.org"}}' for number in range(20_000))
    (folder / "cut.json").write_text(f"[{contacts}")
    done = rollcall(folder, "check", "cut.json")
    assert done.returncode == 1
    assert re.search(r"16,000 +16,000 +0 +0\n", done.stdout)
    assert done.stderr.startswith("Error: ")


def test_cli_migrate_twice(folder: Path, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("drop schema rollcall cascade")
        connection.execute("drop table contacts")
    assert "applied 0001_spine.sql" in rollcall(folder, "migrate", DATABASE_URL=database_url).stdout
    assert rollcall(folder, "migrate", DATABASE_URL=database_url).stdout == "nothing to apply\n"


@pytest.fixture
def large(folder: Path) -> Path:
    with (folder / "large.csv").open("w") as file:
        file.write("name,email\n")
        file.writelines(f"Contact {number},contact{number}@example.com\n" for number in range(200_000))
    return folder


def begin(folder: Path, database_url: str) -> subprocess.Popen[str]:
    """An import of the large file of which something is committed. It hears Ctrl-C even where the tests do not."""
    process = subprocess.Popen(
        ["env", "--default-signal=INT", sys.executable, "-m", "rollcall", "import", "large.csv", "--source", "crm"],
        cwd=folder,
        env=environment(DATABASE_URL=database_url, DATA_DIR=str(folder / "data")),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: process.poll() is not None or ask(database_url, "select sum(created) from rollcall.import_parts"))
    return process


@contextmanager
def obstacle(database_url: str) -> Iterator[None]:
    """Somebody else is about to add one of the file's last contacts: until he has done so or not, nobody passes."""
    with psycopg.connect(database_url) as other:
        other.execute(
            "insert into contacts (id, name, email, source, imported_at)"
            " values (gen_random_uuid(), 'Ann', 'contact199000@example.com', 'crm', now())"
        )
        yield
        other.rollback()


def test_cli_interrupt_cancels_and_keeps_what_is_committed(large: Path, database_url: str) -> None:
    with obstacle(database_url):
        process = begin(large, database_url)
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert "large.csv → crm: cancelled" in printed
    assert "What is counted above stays" in printed
    assert "Traceback" not in errors
    created = account(printed)["created"]
    assert 0 < created < 200_000
    assert ask(database_url, "select count(*) from contacts") == created


def test_cli_a_killed_import_is_finished_by_the_next_worker(large: Path, database_url: str) -> None:
    with obstacle(database_url):
        process = begin(large, database_url)
        process.kill()
        process.communicate()
    assert ask(database_url, "select state from rollcall.imports") == "running"
    # Its sessions end when the server has noticed.
    until(lambda: ask(database_url, f"select count(*) = 0 from pg_locks where classid = {LOCK_CLASS}"))
    done = rollcall(large, "worker", "--once", DATABASE_URL=database_url)
    assert done.returncode == 0, done.stderr
    assert ask(database_url, "select state || ' ' || created from rollcall.imports") == "succeeded 200000"
    assert ask(database_url, "select count(*) from contacts") == 200_000


def test_cli_the_demo(folder: Path) -> None:
    demo = Path(__file__).parents[1] / "examples" / "demo.py"
    done = subprocess.run(
        [sys.executable, str(demo)], cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.split("$ rollcall import contacts.json")
    assert account(first) == {
        "read": 2438, "created": 2250, "updated": 0, "unchanged": 0, "skipped": 0, "duplicate": 113, "rejected": 75,
    }  # fmt: skip
    assert account(second) == {
        "read": 2400, "created": 150, "updated": 225, "unchanged": 2025, "skipped": 0, "duplicate": 0, "rejected": 0,
    }  # fmt: skip
