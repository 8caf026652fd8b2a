"""What people see of an import: its progress (stderr), then its account and the first Rejects (stdout).

An import here is the JSON that the service answers with, wherever it runs. On a terminal progress is a bar; anywhere
else it is a plain line every other second, so that logs stay readable.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from rollcall.cli.terminal import printable
from rollcall.records import reject_file

LINE_SECONDS = 2.0
REJECTS_SHOWN = 5
VALUE_SHOWN = 40
COLUMNS_SHOWN = 20
COUNTS = ("read", "created", "updated", "unchanged", "skipped", "duplicate", "rejected")

Moved = Callable[[str, int, int, str], None]
"""What is being done, how many bytes of how many are done, and what else there is to say."""


@contextmanager
def progress() -> Iterator[Moved]:
    """A function that shows how far it is."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TextColumn("{task.fields[rest]}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None, rest="")
        yield lambda doing, done, total, rest: bar.update(
            task, description=doing, completed=done, total=total or None, rest=rest
        )


def _lines(console: Console) -> Moved:
    said = time.monotonic()

    def moved(doing: str, done: int, total: int, rest: str) -> None:
        nonlocal said
        if time.monotonic() - said >= LINE_SECONDS:
            said = time.monotonic()
            console.print(f"{doing} {_bytes(done)} of {_bytes(total)}  {rest}", markup=False, soft_wrap=True)

    return moved


def pace(job: dict[str, Any]) -> str:
    """How many Records are committed, how fast, and how long it will take."""
    if job["state"] == "queued":
        return f"waiting, {job['ahead']} ahead" if job["ahead"] else "waiting for a worker"
    said = f"{job['counts']['read']:,} records"
    if job["error"]:
        return f"{said}, waiting: {job['error']['message']}"
    if job["rate"]:
        said += f", {job['rate']:,.0f} a second"
    if job["eta"] is not None:
        said += f", {job['eta']:,.0f} s left"
    return said


def account(name: str, job: dict[str, Any], seconds: float | None = None) -> None:
    """Every Record of an import, by what became of it; and why it failed, if it did."""
    out = console()
    out.print(Text(printable(f"{name} → {job['source']}: {job['state']}")))
    if job["plan"]:
        out.print(Text(columns(job["plan"]["header"], job["plan"]["mapping"])))
    if job["error"]:
        out.print(Text(printable(f"{job['error']['code']}: {job['error']['message']}")))
    figures = {each: f"{job['counts'][each]:,}" for each in COUNTS}
    if seconds is not None:
        figures["seconds"] = f"{seconds:,.1f}"
    rows = table(*figures, numbers=figures)
    rows.add_row(*figures.values())
    out.print(rows)
    if job["unprocessed"]:
        out.print(f"{job['unprocessed']:,} records were not processed.")
    if job["sameFileAs"]:
        out.print(f"The same file came before, as {job['sameFileAs']}.")


def columns(header: Sequence[str], mapping: dict[str, Any]) -> str:
    """Which column was taken for what."""
    taken = {mapping["email"], *mapping["name"], *reject_file.NAMES}
    rest = [column for column in header if column not in taken]
    shown = ", ".join(rest[:COLUMNS_SHOWN]) or "none"
    more = f" and {len(rest) - COLUMNS_SHOWN} more" if len(rest) > COLUMNS_SHOWN else ""
    return printable(f"email: {mapping['email']}   name: {' + '.join(mapping['name'])}   attributes: {shown}{more}")


def rejects(found: Iterable[dict[str, Any]], count: int) -> None:
    """The first of `count` Rejects: `record`, `value` and `message` of each."""
    out, rows = console(), table("record", "value", "why", numbers=("record",))
    for reject in found:
        rows.add_row(f"{reject['record']:,}", _value(reject["value"]), Text(printable(reject["message"])))
    if rows.row_count:
        out.print(f"\nRejected, the first {rows.row_count} of {count:,}:")
        out.print(rows)


def imports(jobs: Iterable[dict[str, Any]]) -> None:
    """One line for each."""
    out, rows = console(), table("jobId", "source", "state", *COUNTS, numbers=COUNTS)
    for job in jobs:
        rows.add_row(
            job["jobId"], Text(printable(job["source"])), job["state"], *(f"{job['counts'][each]:,}" for each in COUNTS)
        )
    out.print(rows if rows.row_count else "No imports yet.")


def console() -> Console:
    """stdout; wide where nobody's terminal would break the lines."""
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=240)


def table(*heads: str, numbers: Collection[str]) -> Table:
    """A table without lines; `numbers` are aligned to the right."""
    made = Table(box=None, padding=(0, 1), pad_edge=False)
    for head in heads:
        number = head in numbers
        made.add_column(head, justify="right" if number else "left", no_wrap=number or head == "jobId", overflow="fold")
    return made


def _value(value: str | None) -> Text:
    """Cut and on one line; whatever is in it, a terminal is not to obey it."""
    shown = printable(value or "")
    return Text(shown if len(shown) <= VALUE_SHOWN else shown[: VALUE_SHOWN - 1] + "…")


def _bytes(count: int) -> str:
    if count < 1_000_000:
        return f"{count / 1000:,.1f} kB"
    return f"{count / 1_000_000:,.1f} MB"
