"""What every test may ask for: a database of its own, the corpora. And one rule: in CI a skipped test is a failed run.

A test that takes a database or `bin_dir` is marked `postgres`: CI runs those again on another server. Async tests need
no mark; they run on asyncio.

    TEST_DATABASE_URL   a server to use instead of the embedded one (a superuser; databases are made and dropped there)
    ROLLCALL_PG_BIN     the folder of the server programs to use
    ROLLCALL_LONG       run the long forms, and what is marked `long`
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import re
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
import structlog
from psycopg import sql

from rollcall import embedded, migrations, worker

# Tests end servers on purpose only in servers of their own: this one may forget everything when the machine dies.
FAST = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
    "autovacuum_naptime": "5min",
}


PERSONAL = re.compile(r"[\w.+'-]+@[\w-]+\.[a-z]{2,}|postgres(?:ql)?://|rk_[0-9a-f]{16}_")
"""What no log may hold: an address, a database's URL, an API key."""


@pytest.fixture(autouse=True)
def _log_of_this_test() -> Iterator[None]:
    """What a test made Rollcall log to is closed with it."""
    yield
    root = logging.getLogger()
    ours = [handler for handler in root.handlers if isinstance(handler.formatter, structlog.stdlib.ProcessorFormatter)]
    for handler in ours:
        root.removeHandler(handler)


@pytest.fixture(autouse=True)
def _small_files_by_several_loaders(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' files are small, and mean loaders."""
    monkeypatch.setattr(worker, "ONE_LOADER_BYTES", 0)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def bin_dir() -> Path | None:
    """Where the Postgres under test lies; None: whichever Rollcall finds."""
    chosen = os.environ.get("ROLLCALL_PG_BIN")
    return Path(chosen) if chosen else None


@contextmanager
def _folder() -> Iterator[Path]:
    # Not pytest's own: that is private, and as root Postgres runs as somebody else.
    with TemporaryDirectory(prefix="rollcall-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """An empty folder in which an embedded Postgres can run, as root too."""
    with _folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def cluster(bin_dir: Path | None) -> Iterator[str]:
    """A server for this test process; its URL."""
    if given := os.environ.get("TEST_DATABASE_URL"):
        yield given
    else:
        with _folder() as folder, embedded.postgres(folder, bin_dir=bin_dir, options=FAST) as server:
            yield server.url
            assert not _personal(server.log.read_text())


@pytest.fixture(scope="session")
def template(cluster: str) -> Iterator[str]:
    """The name of a migrated database that nobody is connected to."""
    name = f"rollcall_template_{uuid4().hex}"
    _administer(cluster, sql.SQL("create database {}").format(sql.Identifier(name)))
    asyncio.run(migrations.migrate(_url(cluster, name)))
    yield name
    _administer(cluster, sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
def database_url(cluster: str, template: str) -> Iterator[str]:
    """A migrated, empty database for this test alone."""
    name = f"rollcall_test_{uuid4().hex}"
    clone = sql.SQL("create database {} template {} strategy file_copy")
    _administer(cluster, clone.format(sql.Identifier(name), sql.Identifier(template)))
    yield _url(cluster, name)
    _administer(cluster, sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
def empty_database_url(cluster: str) -> Iterator[str]:
    """A database that Rollcall has never seen."""
    name = f"rollcall_empty_{uuid4().hex}"
    _administer(cluster, sql.SQL("create database {}").format(sql.Identifier(name)))
    yield _url(cluster, name)
    _administer(cluster, sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder of the hard inputs; each one's SOURCE.txt says where it is from."""
    return Path(__file__).parent / "corpora"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "ROLLCALL_LONG" not in os.environ:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("long")])
        items[:] = [item for item in items if not item.get_closest_marker("long")]
    for item in items:
        if isinstance(item, pytest.Function) and {"cluster", "bin_dir"} & set(item.fixturenames):
            item.add_marker("postgres")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """No test may make Rollcall log anything of a person: here, or in a process that logs into the test's folder."""
    report = yield
    if report.when == "teardown" and isinstance(item, pytest.Function):
        logged = [text for name, text in report.sections if name.startswith("Captured std")]
        folders = [Path(str(item.funcargs[name])) for name in ("tmp_path", "data_dir") if name in item.funcargs]
        logged += [log.read_text(errors="replace") for folder in folders for log in folder.rglob("*.log")]
        if found := _personal("\n".join(logged)):
            report.outcome, report.longrepr = "failed", "\n".join(["In the log:", *found[:10]])
    return report


def _personal(logged: str) -> list[str]:
    return [line for line in logged.splitlines() if PERSONAL.search(line)]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Say which Python ran. In CI, what was skipped fails the run: nobody looks at a green one."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(session.config, "workerinput"):
        return
    reporter.write_line(f"\nPython {platform.python_version()} at {Path(sys.executable).resolve()}")
    if not os.environ.get("CI"):
        return
    if skipped := reporter.stats.get("skipped", []):
        names = "\n  ".join(sorted({report.nodeid for report in skipped}))
        reporter.write_line(f"\nCI is set, and these were skipped:\n  {names}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _url(cluster: str, name: str) -> str:
    return urlsplit(cluster)._replace(path=f"/{name}").geturl()


def _administer(cluster: str, statement: sql.Composed) -> None:
    with psycopg.connect(cluster, dbname="postgres", autocommit=True) as connection:
        connection.execute(statement)
