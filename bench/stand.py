"""What every row has at hand: the server, fresh databases, files, a clock; and the words in which it answers."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import files
import judge
import sides
from data import People
from files import File
from measure import Cost, Server, measured


@dataclass(frozen=True)
class Scale:
    """How much: rounds, records of a file and of the large one, bytes of the large body, seconds of the stream; and
    the bytes of disk that it takes."""

    rounds: int
    count: int
    large: int
    body: int
    seconds: int
    disk: int


@dataclass(frozen=True)
class Figure:
    """What is judged by itself, and not against another cost of its round. `unit`: `×`, `s`, `ms`, `MiB` or none."""

    what: str
    value: float
    unit: str
    goal: float | None = None


@dataclass
class Round:
    """What one turn of a Group found; costs by name."""

    costs: dict[str, Cost] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)


@dataclass(frozen=True)
class Row:
    """One comparison: two costs of a round by name, and the goals of their ratios of wall time and of WAL."""

    ours: str
    theirs: str
    goal: float | None = None
    wal_goal: float | None = None


@dataclass(frozen=True)
class Group:
    """What is measured in one go, so that its costs are pairs. `once`: not in every round."""

    run: Callable[[Stand], Round]
    rows: tuple[Row, ...] = ()
    once: bool = False


@dataclass(frozen=True)
class Stand:
    """The same for all rows."""

    server: Server
    url: str
    folder: Path
    scale: Scale
    _files: dict[tuple[People, str], File] = field(default_factory=dict)

    def files(self, *forms: str, people: People | None = None) -> list[File]:
        """These files, made if they are not there; of the usual People if no others are given."""
        who = people or People(self.scale.count)
        if new := [form for form in forms if (who, form) not in self._files]:
            say(f"making {who.count:,} records as {', '.join(new)}")
            made = files.make(self.folder, who, *new)
            self._files.update({(who, form): file for form, file in zip(new, made, strict=True)})
        return [self._files[who, form] for form in forms]

    def forget(self, people: People) -> None:
        """Delete the files of these People."""
        for who, form in [key for key in self._files if key[0] == people]:
            self._files.pop((who, form)).path.unlink()

    def databases(self, *names: str) -> AbstractContextManager[list[str]]:
        """New databases with Rollcall's tables; their URLs."""
        return sides.databases(self.server, self.url, *names)

    def load(self, file: File, **settings: str) -> Cost:
        """What it costs a fresh service to load a file into an empty database; the result is right."""
        with self.databases("empty") as [url]:
            with sides.service(url, self.folder, **settings) as running:
                cost = self.send(running, file)
            judge.contacts(url, file)
        return cost

    def send(self, running: sides.Service, file: File, *, again: bool = False) -> Cost:
        """What it costs to bring a file in, from the POST until its import has succeeded; its account is right."""
        with measured(self.server, running.heads) as cost:
            job = sides.send(running, file.path)
        judge.account(file, job, again=again)
        cost.wall, cost.said = sides.took(job), running.said(job)
        return cost

    def cost(self, work: Callable[[], None]) -> Cost:
        """What it costs to do something in this process and its children."""
        with measured(self.server, {}) as cost:
            work()
        return cost


def say(line: str) -> None:
    """Progress is for stderr."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)
