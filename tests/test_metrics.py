"""What Prometheus is told: figures that are true, and no more series than the program has names for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from faults.harness import Site, part_records, site
from faults.proxy import Harm, Link, proxy
from rollcall import sweep, telemetry, workers
from rollcall.control_connection import ControlConnection
from rollcall.database import Connection, connect
from service import served, until

STAGES = {"store", "parse", "rules", "fold", "merge", "commit"}
LIST = "name,email\n" + "".join(f"Person {number},person{number}@x.org\n" for number in range(250)) + "Bad,bad@\n"
Series = dict[tuple[str, tuple[str, ...]], float]


@pytest.fixture
async def place(database_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    with part_records(50):
        async with site(database_url, tmp_path) as here:
            yield here


async def scraped(client: httpx.AsyncClient) -> Series:
    """By name and the values of the labels."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200, answer.text
    samples = [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]
    series = {(sample.name, tuple(sample.labels.values())): sample.value for sample in samples}
    assert len(series) == len(samples)
    return series


async def test_metrics_imports_and_records_are_those_of_the_database(place: Site) -> None:
    async with served(place.url, place.folder) as client:
        empty = await scraped(client)
        await place.load("crm", LIST.encode())
        await place.load("crm", LIST.encode())
        await place.load("crm", b"not a list of anything")
        await place.post("shop", LIST.encode())
        await place.query(
            "update rollcall.imports set created_at = created_at - interval '1 hour' where state = 'queued'"
        )
        await place.query("insert into rollcall.workers (name, beat) values ('w', clock_timestamp())")
        now = await scraped(client)

    states = {state: now["rollcall_imports", (state,)] for state in ("queued", "running", "succeeded", "failed")}
    assert states == {"queued": 1, "running": 0, "succeeded": 2, "failed": 1}
    assert now["rollcall_imports_failed", ("NO_EMAIL_COLUMN",)] == 1
    outcomes = {key[1][0]: value for key, value in now.items() if key[0] == "rollcall_records_total"}
    assert outcomes == {"created": 250, "updated": 0, "unchanged": 250, "skipped": 0, "duplicate": 0, "rejected": 2}
    assert 3600 <= now["rollcall_queue_oldest_seconds", ()] < 3700
    assert now["rollcall_workers", ()] == 1

    assert {key for key in now if key not in empty} <= {key for key in now if key[0].startswith("rollcall_http_")}
    assert empty["rollcall_imports_failed", ("CRASHED",)] == empty["rollcall_queue_oldest_seconds", ()] == 0


async def test_metrics_records_of_an_import_under_way_count(place: Site) -> None:
    draining = asyncio.Event()
    draining.set()
    await place.post("crm", LIST.encode())
    job = await place.carry(await place.claim(), draining=draining)
    assert (job.state, job.read) == ("running", 50)
    async with served(place.url, place.folder) as client:
        assert (await scraped(client))["rollcall_records_total", ("created",)] == 50


async def test_metrics_a_counter_never_falls(place: Site) -> None:
    """A failed check is counted; tried again it is not, until it has failed again."""
    await place.load("crm", LIST.encode(), onInvalid="fail")
    async with served(place.url, place.folder) as client:
        assert (await scraped(client))["rollcall_records_total", ("rejected",)] == 1
        await place.query("update rollcall.imports set read = 0, rejected = 0, by_code = '{}', total = 0")
        assert (await scraped(client))["rollcall_records_total", ("rejected",)] == 1


async def test_metrics_do_not_look_at_imports_that_are_over(place: Site) -> None:
    """Each is counted at its end, whichever; what is deleted stays counted in the Records."""
    for source in ("a", "b"):
        await place.load(source, LIST.encode())
    failed = await place.load("c", LIST.encode(), onInvalid="fail")
    async with served(place.url, place.folder) as client:
        first = await scraped(client)
        assert [first["rollcall_imports", (state,)] for state in ("succeeded", "failed", "queued")] == [2, 1, 0]
        await place.retry(failed.id)
        again = await scraped(client)
        assert [again["rollcall_imports", (state,)] for state in ("succeeded", "failed", "queued")] == [2, 0, 1]
        await place.query("update rollcall.imports set finished_at = finished_at - interval '400 days'")
        await sweep.sweep(
            place.database,
            place.store,
            retention=timedelta(7),
            rejects_retention=timedelta(90),
            imports_retention=timedelta(365),
        )
        last = await scraped(client)
    assert [last["rollcall_imports", (state,)] for state in ("succeeded", "failed", "queued")] == [0, 0, 1]
    assert last["rollcall_records_total", ("created",)] == first["rollcall_records_total", ("created",)] == 500
    assert await place.query("select count(*) from rollcall.imports") == [(1,)]

    assert len(await place.query("select 1 from rollcall.ends")) == 2  # summed up: succeeded, failed


async def test_metrics_what_is_sent_makes_no_series(database_url: str, tmp_path: Path) -> None:
    async def ask(client: httpx.AsyncClient) -> None:
        mark = uuid4().hex
        await client.get(f"/{mark}")
        await client.get(f"/imports/{uuid4()}")
        await client.get(f"/imports/{mark}")
        await client.get("/contacts", params={"source": mark, "email": f"{mark}@x.org"})
        await client.request(mark.upper(), f"/imports/{mark}")
        await client.post("/import", content=LIST, headers={"Content-Type": "text/csv", "X-Source": mark})
        await client.post("/import", content=LIST, headers={"Content-Type": f"text/{mark}", "X-Source": mark})
        await client.post("/import", json={"source": mark, "data": [{"name": mark, "email": mark}]})

    async with served(database_url, tmp_path) as client:
        await ask(client)
        once = await scraped(client)
        for _ in range(3):
            await ask(client)
        assert (await scraped(client)).keys() == once.keys()


async def test_metrics_workers_report_what_they_count(place: Site) -> None:
    """With their beat and when they end; both workers' figures in one sum."""
    async with served(place.url, place.folder) as client:
        await place.post("crm", LIST.encode())
        with place.worker("--once", records=50) as process:
            assert await process.exited(30) == 0
        first = await scraped(client)
        assert {key[1][0] for key in first if key[0] == "rollcall_import_seconds_total"} == STAGES
        assert all(first["rollcall_import_seconds_total", (stage,)] > 0 for stage in STAGES)
        assert first["rollcall_takeovers_total", ("released",)] == 0

        job_id = await place.post("crm", LIST.encode())
        await place.query("update rollcall.imports set state = 'running' where id = %s", job_id)  # nobody's
        with place.worker(records=50, haste=10):

            async def reported() -> bool:
                now = await scraped(client)
                return now["rollcall_takeovers_total", ("released",)] == 1 and all(
                    now["rollcall_import_seconds_total", (stage,)] > first["rollcall_import_seconds_total", (stage,)]
                    for stage in STAGES
                )

            await until(reported)


async def test_metrics_a_lost_report_is_made_again(place: Site) -> None:
    stop = asyncio.Event()

    async def unchecked(_: Connection) -> None:
        return

    own = ControlConnection(place.url, unchecked, stop)
    telemetry.TAKEOVERS.labels("stale").inc()
    async with await connect(place.url, "test") as dead, await connect(place.url, "test") as alive:
        await dead.close()
        with pytest.raises(psycopg.OperationalError):
            await own.report(dead)
        await own.report(alive)
        first = await workers.figures(alive)
        telemetry.TAKEOVERS.labels("stale").inc()
        await own.report(alive)
        await own.report(alive)
        second = await workers.figures(alive)
    assert first["rollcall_takeovers", "stale"] == telemetry.worker_counters()["rollcall_takeovers", "stale"] - 1
    assert second["rollcall_takeovers", "stale"] == first["rollcall_takeovers", "stale"] + 1


async def test_metrics_retries_are_counted_by_their_reason(database_url: str, tmp_path: Path) -> None:
    def lost() -> float:
        return telemetry.worker_counters()["rollcall_retries", "lost"]

    async with proxy(database_url) as before, site(database_url, tmp_path, through=before.url) as place:
        left = 2

        def judge(link: Link, data: bytes) -> Harm:
            nonlocal left
            if left and link.name.endswith(":1:0") and b"COMMIT" in data:
                left -= 1
                return "cut"
            return "pass"

        before.judge, until_now = judge, lost()
        job = await place.load("crm", LIST.encode())
    assert (job.state, lost() - until_now) == ("succeeded", 2)


def logged(lines: list[Any], event: str) -> dict[str, Any]:
    [found] = [dict(line) for line in lines if line["event"] == event]
    return found


async def test_metrics_the_log_says_what_an_import_took(place: Site) -> None:
    with capture_logs() as lines:
        job = await place.load("crm", LIST.encode())
    said = logged(lines, "import.succeeded")
    assert said["import_id"] == str(job.id)
    assert (said["records"], said["bytes"]) == (251, len(LIST))
    assert said["stages"].keys() == STAGES
    assert 0 < sum(said["stages"].values()) < 10 * said["seconds"]
    assert said["rate"] == pytest.approx(251 / said["seconds"], rel=0.2)


@pytest.mark.parametrize(
    ("data", "options", "code", "records"),
    [
        (LIST.encode(), {"maxRejects": "0"}, "TOO_MANY_REJECTS", 251),
        (LIST.encode(), {"onInvalid": "fail"}, "INVALID_RECORDS", 251),
        (b"not a list of anything", {}, "NO_EMAIL_COLUMN", 0),
    ],
)
async def test_metrics_the_log_says_what_a_failed_import_took(
    place: Site, data: bytes, options: dict[str, str], code: str, records: int
) -> None:
    with capture_logs() as lines:
        await place.load("crm", data, **options)
    said = logged(lines, "import.failed")
    assert (said["code"], said["records"], said["stages"].keys()) == (code, records, STAGES)
    assert not [line for line in lines if line["event"] in ("import.succeeded", "import.fenced")]


async def test_metrics_a_resumed_import_counts_its_own_records_only(place: Site) -> None:
    draining = asyncio.Event()
    draining.set()
    job_id = await place.post("crm", LIST.encode())
    await place.carry(await place.claim(), draining=draining)
    with capture_logs() as lines:
        await place.carry(await place.take(job_id))
    said = logged(lines, "import.succeeded")
    assert said["records"] == 251
    assert said["rate"] == pytest.approx(201 / said["seconds"], rel=0.2)
