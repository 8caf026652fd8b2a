"""Nothing of a person, and no secret, in what operators see: logs, errors, metrics, the server's log.

An API and a worker, as they are run, are led through everything that can go wrong, and whatever a sender may choose
carries MARK: names, addresses, sources, file names, paths, headers, the key, the database's password. (`conftest.py`
looks for addresses in what all other tests logged.)
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import httpx
import psycopg

from faults.proxy import Proxy, proxy
from rollcall import keys
from rollcall.pool import Pool
from service import until
from test_up import free_port

MARK = "zqmark"
HEADER = "name,email,phone\n"
GOOD = HEADER + "".join(f"{MARK} Person {number},{MARK}{number}@x.org,{MARK}\n" for number in range(60))
BAD = f"{MARK},{MARK}@,1\n,{MARK}@y.org,2\n{MARK}\x01,{MARK}@z.org\n{MARK},{MARK}@w.org,1,2,{MARK}\n"
FILES: dict[str, bytes] = {
    "good": GOOD.encode(),
    "bad": (GOOD + BAD + GOOD).encode(),
    "quotes": (GOOD + f'"{MARK}"{MARK},a@x.org\n"{MARK} open,b@x.org\n').encode(),
    "bytes": GOOD.encode() + f"{MARK}".encode() + b"\xff\x00,a@x.org\n",
    "latin": f"Name;E-Mail\n{MARK}é;{MARK}@x.org\n".encode("latin-1"),
    "no email": f"{MARK},{MARK}2\n1,2\n".encode(),
    "json": json.dumps([{"name": MARK, "email": f"{MARK}@x.org"}, {"name": 1, "email": MARK}, MARK]).encode(),
    "broken json": f'[{{"name": "{MARK}", "email": "{MARK}@x.org"}}, {{"name": "{MARK}"; }}]'.encode(),
    "deep": f'[{{"name": "{MARK}", "a": {"[" * 5000}'.encode(),
    "ndjson": f'{{"name": "{MARK}", "email": "{MARK}@x.org"}}\n{{"{MARK}: 1}}\n{{"name": "\\ud800{MARK}"}}\n'.encode(),
    "cut archive": gzip.compress(GOOD.encode())[:-9],
    "workbook": b"PK\x03\x04" + MARK.encode(),
    "empty": b"",
    "refused": (HEADER + f"{MARK} REFUSED,{MARK}@refused.org,1\n").encode(),
}


class Service:
    """An API and a worker, as processes; everything they say."""

    def __init__(self, folder: Path, url: str) -> None:
        self.port, self._logs = free_port(), [folder / "api.log", folder / "worker.log"]
        data = folder / MARK
        environment = os.environ | {"DATABASE_URL": url, "DATA_DIR": str(data), "PORT": str(self.port)}
        self._processes = [
            subprocess.Popen([sys.executable, "-m", "rollcall", name], env=environment, stdout=log, stderr=log)
            for name, log in (("api", self._logs[0].open("wb")), ("worker", self._logs[1].open("wb")))
        ]

    def stop(self) -> None:
        for process in self._processes:
            process.terminate()
        assert [process.wait(30) for process in self._processes] == [-signal.SIGTERM, 0]

    def said(self) -> list[str]:
        return [line for log in self._logs for line in log.read_text().splitlines()]

    def events(self) -> list[dict[str, Any]]:
        """Every line is one, whoever wrote it."""
        return [json.loads(line) for line in self.said()]


@asynccontextmanager
async def client(service: Service, key: str) -> AsyncIterator[tuple[httpx.AsyncClient, list[httpx.Response]]]:
    """One that shows the key; and every error that it was answered."""
    errors: list[httpx.Response] = []

    async def keep(answer: httpx.Response) -> None:
        if answer.status_code >= 400:
            await answer.aread()
            errors.append(answer)

    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{service.port}",
        headers={"Authorization": f"Bearer {key}"},
        event_hooks={"response": [keep]},
        trust_env=False,
        timeout=30,
    ) as asking:
        yield asking, errors


async def answers(ask: Callable[[], Awaitable[httpx.Response]], status: int) -> None:
    async def look() -> bool:
        try:
            return (await ask()).status_code == status
        except httpx.TransportError:
            return False

    await until(look)


async def import_everything(http: httpx.AsyncClient) -> dict[str, str]:
    """Each file by each way in, and the same again; the imports' ids by what they are called here."""
    jobs = {}
    for number, (name, data) in enumerate(FILES.items()):
        file_name = f"{MARK} {name}.csv"
        query = {"onInvalid": "fail"} if name == "quotes" else {"maxRejects": "1"} if name == "bytes" else {}
        if number % 2:
            headers = {"Content-Type": "text/csv", "X-Source": f"{MARK}{number % 3}", "X-File-Name": file_name}
            answer = await http.post("/import", content=data, headers=headers, params=query)
        else:
            form = {"source": f"{MARK}{number % 3}", "useResumable": "true"}
            answer = await http.post("/import", data=form, files={"file": (file_name, data)}, params=query)
        assert answer.is_success == bool(data), answer.text
        if data:
            jobs[name] = answer.json()["jobId"]
    body = {"source": MARK, "data": [{"name": MARK, "email": f"{MARK}@x.org", MARK: MARK}]}
    jobs["body"] = (await http.post("/import", json=body, headers={"Idempotency-Key": MARK})).json()["jobId"]
    return jobs


async def ask_wrongly(http: httpx.AsyncClient) -> None:
    """Nearly every request that is refused, and some that are not HTTP."""
    bad = [{"name": MARK, "email": MARK}, {"name": MARK * 99, "email": f"{MARK}@x.org"}, {MARK: MARK}, MARK]
    for body in ({"source": MARK, "data": bad}, {"data": bad}, {"source": MARK * 50, "data": bad}, [MARK], MARK):
        assert (await http.post("/import", json=body)).status_code == 400
    texts = [f'{{"source": "{MARK}", "data": [{MARK}', f"{MARK}", '{"source": "\\ud800' + MARK + '", "data": []}']
    for text in texts:
        answer = await http.post("/import", content=text, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400
    csv = {"Content-Type": "text/csv"}
    await http.post("/import", content=GOOD, headers=csv)
    await http.post("/import", content=GOOD, headers={"Content-Type": f"text/{MARK}", "X-Source": MARK})
    await http.post("/import", content=GOOD, headers={"Content-Type": f"multipart/form-data; boundary={MARK}"})
    await http.post("/import", data={"source": MARK}, files={"list": (MARK, GOOD)})
    for option in ("onInvalid", "onDuplicate", "format", "maxRejects", "mapping", "useResumable"):
        await http.post("/import", content=GOOD, headers=csv | {"X-Source": MARK}, params={option: MARK})
    for path in (f"/{MARK}", f"/imports/{MARK}", f"/imports/{uuid4()}", f"/imports/{MARK}/rejects", f"/%00{MARK}"):
        await http.get(path, params={"email": f"{MARK}@x.org"})
        await http.delete(path)
    for name in ("after", "limit", "offset", "source", "email"):
        await http.get("/contacts", params={name: MARK})
    for name in ("state", "wait", "limit", "after"):
        await http.get("/imports", params={name: MARK})
    for authorization in (f"Bearer {MARK}", f"Bearer rk_0123456789abcdef_{MARK}{'x' * 37}", f"Basic {MARK}", MARK):
        assert (await http.get("/contacts", headers={"Authorization": authorization})).status_code == 401
    await http.get("/contacts", headers={"X-Request-Id": MARK, "Host": MARK, "User-Agent": MARK, "Cookie": MARK})
    await asyncio.to_thread(send_raw, http.base_url.port or 0, http.headers["Authorization"])


def send_raw(port: int, authorization: str) -> None:
    """A request that breaks off, and what is none."""
    post = f"POST /import HTTP/1.1\r\nHost: localhost\r\nAuthorization: {authorization}\r\nContent-Type: text/csv\r\n"
    for text in (
        f"{post}X-Source: {MARK}\r\nContent-Length: 9999\r\n\r\n{GOOD}",
        f"{post}X-Source: {MARK}\r\nTransfer-Encoding: chunked\r\n\r\n{MARK}\r\n{GOOD}",
        f"{MARK} {MARK}\r\n\r\n",
        f"GET /{MARK} HTTP/9\r\n{MARK}\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            connection.sendall(text.encode())
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):
                pass


async def end(http: httpx.AsyncClient, jobs: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The imports, once all are final."""
    found: dict[str, dict[str, Any]] = {}
    for name, job_id in jobs.items():

        async def final(name: str = name, job_id: str = job_id) -> bool:
            found[name] = (await http.get(f"/imports/{job_id}", params={"wait": "5"})).json()
            return bool(found[name]["finishedAt"])

        await until(final)
    return found


async def take_the_database_away(between: Proxy, http: httpx.AsyncClient) -> None:
    between.judge = lambda link, data: "cut"
    for link in list(between.links):
        link.close()
    csv = {"Content-Type": "text/csv", "X-Source": MARK}
    await asyncio.gather(
        answers(lambda: http.get("/contacts", params={"email": f"{MARK}@x.org"}), 503),
        answers(lambda: http.post("/import", content=GOOD, headers=csv), 503),
        answers(lambda: http.get("/health"), 503),
    )
    between.judge = lambda link, data: "pass"
    await answers(lambda: http.get("/health"), 200)


def administer(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


async def test_log_nothing_of_a_person_in_what_operators_see(database_url: str, tmp_path: Path) -> None:
    refuse = "alter table public.contacts add constraint no check (name not like '%REFUSED')"
    administer(database_url, refuse)
    async with Pool(database_url) as database, database.session() as tx:
        key = await keys.create(tx, f"{MARK} key")
    async with proxy(database_url) as between:
        service = Service(tmp_path, between.url.replace("@", f":{MARK}@", 1))
        try:
            async with client(service, key) as (http, errors):
                await answers(lambda: http.get("/health"), 200)
                jobs = await import_everything(http)
                await ask_wrongly(http)
                found = await end(http, jobs)
                await http.post(f"/imports/{jobs['refused']}/retry")
                await http.get(f"/imports/{jobs['bad']}/rejects", params={"format": "csv"})
                await take_the_database_away(between, http)
                metrics = (await http.get("/metrics")).text
                administer(database_url, "alter table public.contacts rename column name to gone")
                assert (await http.get("/contacts", params={"email": f"{MARK}@x.org"})).status_code == 500
        finally:
            await asyncio.to_thread(service.stop)

    events = service.events()
    assert {found[name]["state"] for name in ("good", "bad", "latin", "json")} >= {"succeeded"}
    assert found["refused"]["error"]["code"] == "CONTACTS_REFUSED"
    assert found["bad"]["counts"]["rejected"] == 5  # the heading in the middle is one
    assert {
        "request",
        "request.failed",
        "import.queued",
        "import.begun",
        "import.succeeded",
        "import.failed",
    } <= {event["event"] for event in events}
    assert {401, 400, 404, 405, 500, 503} <= {error.status_code for error in errors}
    port = urlsplit(between.url).port
    words = [MARK, key[-43:], "x.org", f":{port}", f"port {port}"]
    seen = {
        "the log": "\n".join(service.said()),
        "an error": "\n".join(error.text for error in errors),
        "the metrics": metrics,
        "the server's log": server_log(database_url),
    }
    for what, text in seen.items():
        assert not [line for line in text.splitlines() if any(word.lower() in line.lower() for word in words)], what


def server_log(database_url: str) -> str:
    """Of the embedded Postgres, if it is one."""
    folder = parse_qs(urlsplit(database_url).query).get("host", [""])[0]
    log = Path(folder).parent / "postgres.log"
    return log.read_text() if folder and log.exists() else ""


async def test_log_an_import_is_found_by_its_request(database_url: str, tmp_path: Path) -> None:
    service = Service(tmp_path, database_url)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{service.port}", trust_env=False) as http:
            await answers(lambda: http.get("/health"), 200)
            sent = [
                await http.post("/import", content=GOOD, headers={"Content-Type": "text/csv", "X-Source": source})
                for source in ("one", "two")
            ]
            jobs = {answer.headers["x-request-id"]: answer.json()["jobId"] for answer in sent}
            await end(http, jobs)
    finally:
        await asyncio.to_thread(service.stop)
    queued = {e["request_id"]: e["import_id"] for e in service.events() if e["event"] == "import.queued"}
    requests = {e["request_id"]: e["status"] for e in service.events() if e["event"] == "request"}
    ended = {e["import_id"] for e in service.events() if e["event"] == "import.succeeded"}
    assert queued == jobs
    assert {requests[request_id] for request_id in jobs} == {200}
    assert ended == set(jobs.values())
