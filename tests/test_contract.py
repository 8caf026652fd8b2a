"""Every request of the contract, in order, against an empty service with a worker: the brief's answers and ours."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx

from rollcall import worker
from rollcall.settings import Settings
from service import served, until


@asynccontextmanager
async def working(database_url: str, folder: Path) -> AsyncGenerator[None, None]:
    stop = asyncio.Event()
    task = asyncio.create_task(worker.run(Settings(data_dir=folder), database_url, stop=stop))
    try:
        yield
    finally:
        stop.set()
        await task


def matches(expected: Any, found: Any) -> bool:
    """`<uuid>`, `<string>`, `<time>` stand for any of their kind; an object has exactly these keys."""
    match expected:
        case "<uuid>":
            return isinstance(found, str) and str(UUID(found)) == found
        case "<string>":
            return isinstance(found, str) and bool(found)
        case "<time>":
            return isinstance(found, str) and datetime.fromisoformat(found).tzinfo is not None
        case dict():
            return (
                isinstance(found, dict)
                and expected.keys() == found.keys()
                and all(matches(value, found[key]) for key, value in expected.items())
            )
        case list():
            return (
                isinstance(found, list)
                and len(expected) == len(found)
                and all(matches(one, other) for one, other in zip(expected, found, strict=True))
            )
        case _:
            return bool(expected == found)


async def final(client: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    tag = ""
    while True:
        answer = await client.get(f"/imports/{job_id}", params={"wait": 10}, headers={"If-None-Match": tag})
        if answer.status_code == 200 and answer.json()["state"] not in ("queued", "running"):
            return dict(answer.json())
        tag = answer.headers["etag"]


async def healthy(client: httpx.AsyncClient) -> bool:
    return (await client.get("/health")).status_code == 200


def cases() -> list[dict[str, Any]]:
    """The requests of the contract, in order."""
    lines = [json.loads(line) for line in (Path(__file__).parent / "contract.jsonl").read_text().splitlines()]
    return [line for line in lines if "request" in line]


async def send(client: httpx.AsyncClient, case: dict[str, Any]) -> httpx.Response:
    asked = case["request"]
    request = client.build_request(
        asked["method"], "/", headers=asked["headers"], content=asked.get("body", "").encode()
    )
    request.url = request.url.copy_with(raw_path=asked["path"].encode())
    return await client.send(request)


async def play(client: httpx.AsyncClient, case: dict[str, Any]) -> list[str]:
    """What is not as the contract has it."""
    answer = await send(client, case)
    wrong = []
    if answer.status_code != case["status"] or not matches(case["json"], answer.json()):
        wrong.append(f"answered {answer.status_code} {answer.text}")
    for name, value in case.get("answerHeaders", {}).items():
        pattern = re.escape(value).replace("<uuid>", "[0-9a-f-]{36}")
        if not re.fullmatch(pattern, answer.headers.get(name, "")):
            wrong.append(f"{name}: {answer.headers.get(name)}")
    if "state" not in case or wrong:
        return wrong
    job = await final(client, answer.json()["jobId"])
    found = {
        "state": job["state"],
        "account": job["counts"],
        "total": job["total"],
        "unprocessed": job["unprocessed"],
        "errorCode": job["error"] and job["error"]["code"],
    }
    if "rejects" in case:
        text = (await client.get(f"/imports/{job['jobId']}/rejects", params={"format": "ndjson"})).text
        found["rejects"] = [json.loads(line) for line in text.splitlines()]
    wrong += [f"{name}: {value}" for name, value in found.items() if name in case and not matches(case[name], value)]
    return wrong


async def test_contract_every_request_of_the_contract(database_url: str, tmp_path: Path) -> None:
    assert len(cases()) > 30
    async with served(database_url, tmp_path) as client, working(database_url, tmp_path):
        await until(lambda: healthy(client))
        wrong = {case["name"]: problems for case in cases() if (problems := await play(client, case))}
    assert not wrong, "\n".join(f"{name}: {problems}" for name, problems in wrong.items())
