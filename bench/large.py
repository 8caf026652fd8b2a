"""What happens when there is much of it: ten million records, a Source that holds them, a body of two gigabytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

import httpx

import judge
import sides
import small
from data import SOURCE, People
from files import File
from measure import Cost, measured, memory
from pairs import API_MEMORY_MAX, MEMORY_MAX
from stand import Figure, Group, Round, Row, Stand, say

MEMORY_RATIO_MAX, TIME_RATIO_MAX = 1.1, 1.1
PSQL = "psql `\\copy`, large"
USUAL_TIMES = 3
BESIDE_SECONDS = 1.0
ANSWER_SECONDS = 600.0
BOUNDARY = "bench"
BLOCK_BYTES = 1 << 20


def large(stand: Stand) -> Round:
    """The large file into an empty Source, by psql, as CSV and as JSON; the usual one into an empty Source, and into
    that.

    psql begins, as in every pair: who is the first to need so much memory and WAL may have to wait until the system has
    it (10 s of ten million, where a host gives it page by page).
    """
    much = People(stand.scale.large)
    others = People(stand.scale.count, first=stand.scale.large)
    csv, json, rows = stand.files("csv", "json", "rows", people=much)
    few_csv, few_json = stand.files("csv", "json", people=others)
    costs = {}
    with stand.databases("theirs") as [url]:
        costs[PSQL] = stand.cost(lambda: sides.copy(url, rows.path))
        judge.contacts(url, rows)
    usual = {}
    for kind, file in (("CSV", few_csv), ("JSON", few_json)):
        usual[kind] = [stand.load(file) for _ in range(USUAL_TIMES)]
        costs[f"{kind} into an empty Source"] = sorted(usual[kind], key=lambda cost: cost.wall)[USUAL_TIMES // 2]
    with stand.databases("large") as [url]:
        with sides.service(url, stand.folder) as running:
            costs["large CSV"] = stand.send(running, csv)
        judge.contacts(url, csv)
        sides.settle(url)
        with sides.service(url, stand.folder) as running:
            costs["CSV into a full Source"] = stand.send(running, few_csv)
        judge.contacts(url, csv, few_csv)
    with stand.databases("beside") as [url]:
        with sides.service(url, stand.folder) as running:
            costs["large JSON"], times = _beside(stand, running, url, json)
        judge.contacts(url, json)
    for people in (much, others):
        stand.forget(people)
    factor = csv.read / few_csv.read
    figures = [figure for kind in usual for figure in _flat(kind, costs[f"large {kind}"], usual[kind], factor)]
    return Round(costs, figures + small.beside(times))


def _beside(stand: Stand, running: sides.Service, url: str, file: File) -> tuple[Cost, list[small.Times]]:
    """The cost of an import beside which small ones run, one begun every second; and theirs."""
    jobs = []

    async def story(sender: small.Sender) -> None:
        async with sides.sent(running, file.path) as following:
            await sender.every(BESIDE_SECONDS, lambda: not following.done())
        jobs.append(following.result())

    with measured(stand.server, running.heads) as cost:
        sender = small.run(running, story)
    [job] = jobs
    judge.account(file, job)
    cost.wall, cost.said = sides.took(job), running.said(job)
    return cost, [each for each in sender.times(url) if each.sent < sides.finished(job)]


def _flat(kind: str, much: Cost, few: list[Cost], factor: float) -> list[Figure]:
    """Memory, and time a record, of the large file and the usual one (medians). JSON's time has no goal: others ran
    beside."""
    most, usual = much.memory["worker"], median(cost.memory["worker"] for cost in few)
    name, time_max = f"large {kind} against the usual one", TIME_RATIO_MAX if kind == "CSV" else None
    return [
        Figure(f"worker, large {kind}", most / 2**20, "MiB", MEMORY_MAX),
        Figure(f"worker, {name}", most / usual, "×", MEMORY_RATIO_MAX),
        Figure(f"time a record, {name}", much.wall / median(cost.wall for cost in few) / factor, "×", time_max),
    ]


@dataclass(frozen=True)
class Body:
    """A body as it goes over the wire: `block` again and again between `head` and `foot`."""

    content_type: str
    head: bytes
    block: bytes
    foot: bytes
    query: str


def body(stand: Stand) -> Round:
    """What the API holds while a large body arrives, in every way that it can; no worker runs."""
    found = Round()
    for way, sent in _ways(*stand.files("csv", "json")).items():
        what = f"{stand.scale.body >> 20} MiB as {way}"
        say(what)
        with stand.databases("body") as [url], sides.service(url, stand.folder, "api") as running:
            idle = memory(running.heads["api"], "VmRSS")
            _post(running, sent, stand.scale.body)
            more = memory(running.heads["api"], "VmHWM") - idle
        found.figures.append(Figure(f"API beyond idle, {what}", more / 2**20, "MiB", API_MEMORY_MAX))
    return found


def _ways(csv: File, json: File) -> dict[str, Body]:
    with csv.path.open("rb") as stream:
        rows = stream.read(BLOCK_BYTES)
    rows = rows[: rows.rindex(b"\n") + 1]
    with json.path.open("rb") as stream:
        objects = stream.read(BLOCK_BYTES)
    objects = objects[1 : objects.rindex(b",\n") + 2]
    query = f"?source={SOURCE}"
    part = f"--{BOUNDARY}\r\nContent-Disposition: form-data; name=file; filename=contacts.csv\r\n\r\n".encode()
    last_part = f"\r\n--{BOUNDARY}--\r\n".encode()
    envelope, last_object = f'{{"source":"{SOURCE}","data":['.encode(), b'{"name":"Ann","email":"ann@example.com"}]}'
    return {
        "file": Body("text/csv", b"", rows, b"", query),
        "resumable file": Body("text/csv", b"", rows, b"", f"{query}&useResumable=true"),
        "form": Body(f"multipart/form-data; boundary={BOUNDARY}", part, rows, last_part, query),
        "JSON": Body("application/json", envelope, objects, last_object, ""),
    }


def _post(running: sides.Service, sent: Body, size: int) -> None:
    count = size // len(sent.block)

    def content() -> Iterator[bytes]:
        yield sent.head
        for _ in range(count):
            yield sent.block
        yield sent.foot

    length = len(sent.head) + count * len(sent.block) + len(sent.foot)
    headers = {"Content-Type": sent.content_type, "Content-Length": str(length)}
    answer = httpx.post(
        f"{running.url}/import{sent.query}", content=content(), headers=headers, timeout=ANSWER_SECONDS, trust_env=False
    )
    if not answer.is_success:
        raise sides.WrongResult(f"The body was answered {answer.status_code}: {answer.text}")


GROUPS = {
    "large": Group(
        large, (Row("large CSV", PSQL), Row("CSV into a full Source", "CSV into an empty Source", 1.5)), once=True
    ),
    "body": Group(body, once=True),
}
