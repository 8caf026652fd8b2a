"""`/openapi.json` is what the service does: its routes, its errors, its answers; and `/docs` shows it offline."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import fastjsonschema
import httpx
import pytest

from rollcall import app
from rollcall.settings import Settings
from rollcall.web.openapi import ROUTES
from service import served
from test_contract import cases, final, healthy, send, working

DESCRIBED: dict[str, Any] = app.create(Settings(), database_url="").openapi()
OPERATIONS: dict[tuple[str, str], dict[str, Any]] = {
    (method, path): each for path, all_ in DESCRIBED["paths"].items() for method, each in all_.items()
}
TOLD = [("GET", path) for method, path in OPERATIONS if method == "get" and "{" not in path]


def strict(node: Any) -> Any:
    """The same schema, but an object has no member that is not described."""
    if isinstance(node, list):
        return [strict(each) for each in node]
    if not isinstance(node, dict):
        return node
    closed = {"additionalProperties": False} if "properties" in node else {}
    return closed | {name: strict(value) for name, value in node.items()}


SCHEMAS = strict(DESCRIBED["components"])


def wrong(operation: dict[str, Any], status: int, media_type: str, body: Any) -> str | None:
    """What of this answer is not described."""
    response = operation["responses"].get(str(status))
    if response is None:
        return f"status {status} is not described"
    content = response.get("content", {}).get(media_type)
    if content is None:
        return f"{media_type} is not described for {status}"
    if status >= 400 and "code" in body and body["code"] not in content["examples"]:
        return f"{body['code']} is not described for {status}"
    if media_type == "application/json":
        try:
            fastjsonschema.compile(strict(content["schema"]) | {"components": SCHEMAS})(body)
        except fastjsonschema.JsonSchemaValueException as error:
            return str(error)
    return None


def operation_of(method: str, path: str) -> dict[str, Any] | None:
    plain = path.partition("?")[0]
    for (verb, template), operation in OPERATIONS.items():
        if verb == method.lower() and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), plain):
            return operation
    return None


def test_openapi_every_operation_has_an_id_an_example_and_its_errors() -> None:
    assert OPERATIONS.keys() == ROUTES.keys()
    ids = [operation["operationId"] for operation in OPERATIONS.values()]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("[a-z]+[A-Z][A-Za-z]+", each) for each in ids)
    for (method, path), operation in OPERATIONS.items():
        for status, response in operation["responses"].items():
            for media_type, content in response.get("content", {}).items():
                examples = [each["value"] for each in content.get("examples", {}).values()]
                examples += [content["example"]] if "example" in content else []
                assert examples or media_type not in ("application/json", "text/plain"), (method, path, status)
                for example in examples:
                    assert wrong(operation, int(status), media_type, example) is None, (method, path, status)
        assert {"400", "403", "408", "431", "500", "503"} <= operation["responses"].keys()


async def test_openapi_answers_of_the_contract_fit_their_schemas(database_url: str, tmp_path: Path) -> None:
    problems = {}
    async with served(database_url, tmp_path) as client, working(database_url, tmp_path):
        while not await healthy(client):
            pass
        for case in cases():
            answer = await send(client, case)
            operation = operation_of(case["request"]["method"], case["request"]["path"])
            if operation is None:
                assert answer.status_code in (404, 405), case["name"]
            elif problem := wrong(operation, answer.status_code, "application/json", answer.json()):
                problems[case["name"]] = problem
            if answer.status_code == 200 and "jobId" in answer.json():
                job = await final(client, answer.json()["jobId"])
                problem = wrong(OPERATIONS["get", "/imports/{jobId}"], 200, "application/json", job)
                rejects = (await client.get(f"/imports/{job['jobId']}/rejects")).json()
                problem = problem or wrong(
                    OPERATIONS["get", "/imports/{jobId}/rejects"], 200, "application/json", rejects
                )
                problems |= {f"{case['name']}, its import": problem} if problem else {}
        for method, path in TOLD:
            answer = await client.request(method, path)
            media_type = answer.headers["content-type"].partition(";")[0]
            body = answer.json() if media_type == "application/json" else answer.text
            if problem := wrong(OPERATIONS[method.lower(), path], answer.status_code, media_type, body):
                problems[path] = problem
    assert not problems


@pytest.fixture
async def keyed(database_url: str, tmp_path: Path) -> AsyncGenerator[httpx.AsyncClient, None]:
    """A client without a key of a service that asks for one."""
    async with served(database_url, tmp_path, host="0.0.0.0") as client:
        yield client


async def test_openapi_docs_are_whole_and_open(keyed: httpx.AsyncClient) -> None:
    """Every address in them is the service's own."""
    assert (await keyed.get("/imports")).status_code == 401
    page = await keyed.get("/docs")
    assert page.status_code == 200
    assert "script-src 'self';" in page.headers["content-security-policy"]
    assets = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(assets) == 4
    for asset in assets:
        answer = await keyed.get(urljoin("/docs", asset))
        assert answer.status_code == 200, asset
        assert answer.headers["x-content-type-options"] == "nosniff"
    for text in (page.text, (await keyed.get("/docs/start.js")).text):
        assert "//" not in text.replace("<!doctype", "")
    described = (await keyed.get("/openapi.json")).json()
    assert described["components"]["securitySchemes"]["HTTPBearer"] == {"type": "http", "scheme": "bearer"}
    assert (await keyed.get("/docs/nothing.js")).json()["code"] == "UNAUTHORIZED"
    assert json.dumps(described).count("example.com") > 1
