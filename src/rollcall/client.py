"""The client of a running service: send a file, follow its import, fetch what was rejected.

    async with Client("http://127.0.0.1:3000") as service:
        job_id = await service.send(path, source="crm")
        while (job := await service.show(job_id, wait=10))["state"] in OPEN: ...

Files are streamed, never held in memory. A file whose answer is lost is sent again under the same Idempotency-Key, and
becomes one import; nothing else is retried here. What the service refuses is raised with the service's own words. An
import and a Reject are the JSON objects that the service answers with.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote
from uuid import uuid4

import httpx

from rollcall.errors import RollcallError, Unavailable

__all__ = ["OPEN", "Client", "FileChanged", "ServiceDown", "ServiceRefused"]

OPEN = frozenset({"queued", "running"})
BLOCK_BYTES = 1 << 20
TIMEOUT = httpx.Timeout(60.0, connect=5.0, read=120.0)
"""Seconds. The answer to a file comes when the last byte is durable."""
RESEND_SECONDS = (1.0, 2.0, 5.0, 10.0, 20.0)
"""Pauses before a file is sent once more: longer in all than a service takes to start again, or to let go of a request
whose process died."""
RESENT = frozenset({httpx.codes.CONFLICT, httpx.codes.SERVICE_UNAVAILABLE})
"""What the service answers when the same request may have another answer soon."""


class ServiceRefused(RollcallError):
    """The service did not do what was asked."""

    code = "SERVICE_REFUSED"


class ServiceDown(Unavailable):
    """The service cannot be reached."""

    code = "SERVICE_UNAVAILABLE"


class FileChanged(RollcallError):
    """The file changed while it was sent; nothing was imported."""

    code = "FILE_CHANGED"


class Client:
    """One service, at `url`, asked with this API key if it needs one.

        async with Client("https://rollcall.example.com", key="rk_…") as service:
            for job in await service.latest():
                print(job["jobId"], job["state"], job["counts"])

    Every method raises ServiceDown, or ServiceRefused with the service's message.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        self._url = url
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            if httpx.URL(url).scheme not in ("http", "https"):
                raise httpx.InvalidURL("no scheme")
            self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=TIMEOUT, trust_env=False)
        except httpx.InvalidURL as error:
            raise ServiceDown(f"{url} is not an address such as http://127.0.0.1:3000.") from error

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def send(
        self,
        file: Path,
        *,
        source: str,
        options: dict[str, str] | None = None,
        sent: Callable[[int], None] = lambda _: None,
    ) -> str:
        """Send a file; the jobId of its import. `sent` is told the number of bytes after each block.

            job_id = await service.send(Path("contacts.csv"), source="crm", options={"onDuplicate": "skip"})

        `options`: by their names in the HTTP API, as texts. Raises FileChanged when the file grows or shrinks.
        Sent again when the answer is lost or the service is busy; not when nobody was there in the first place.
        """
        headers = {"Content-Type": "application/octet-stream", "Idempotency-Key": str(uuid4())}
        length = length_of(file)
        for pause in (0.0, *RESEND_SECONDS):
            await asyncio.sleep(pause)
            try:
                response = await self._ask(
                    "POST",
                    "/import",
                    params={"source": source} | (options or {}),
                    headers=headers | {"Content-Length": str(length)},
                    content=blocks(file, length, sent),
                )
                return str(response.json()["jobId"])
            except (ServiceDown, ServiceRefused) as error:
                unanswered = isinstance(error.__cause__, httpx.TransportError)
                never = isinstance(error.__cause__, httpx.ConnectError) and not pause
                if never or not (unanswered or error.more.get("status") in RESENT):
                    raise
                trouble = error
        raise trouble

    async def show(self, job_id: str, *, wait: float = 0, since: dict[str, Any] | None = None) -> dict[str, Any]:
        """An import as it stands; with `wait` (seconds), as it is once it has changed, or after that time.

        `since`: what this method answered before; the service then waits for a change from that.
        """
        headers = {"If-None-Match": since["etag"]} if since else {}
        response = await self._ask(
            "GET", f"/imports/{quote(job_id, safe='')}", params={"wait": f"{wait:g}"} if wait else {}, headers=headers
        )
        if response.status_code == httpx.codes.NOT_MODIFIED and since:
            return since
        return dict(response.json()) | {"etag": response.headers.get("ETag", "")}

    async def latest(self) -> list[dict[str, Any]]:
        """The newest imports, newest first."""
        return list((await self._ask("GET", "/imports")).json()["imports"])

    async def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancel an import; the import as it then stands."""
        return dict((await self._ask("POST", f"/imports/{quote(job_id, safe='')}/cancel")).json())

    async def first_rejects(self, job_id: str, limit: int) -> list[dict[str, Any]]:
        """The first Rejects in the order of the file."""
        response = await self._ask("GET", f"/imports/{quote(job_id, safe='')}/rejects", params={"limit": str(limit)})
        return list(response.json()["rejects"])

    async def rejects(self, job_id: str, form: str) -> AsyncGenerator[bytes, None]:
        """All Rejects as a `csv`, `records` or `ndjson` file, block by block.

        with open("rejects.csv", "wb") as out:
            async for block in service.rejects(job_id, "csv"):
                out.write(block)
        """
        path, params = f"/imports/{quote(job_id, safe='')}/rejects", {"format": form}
        try:
            async with self._http.stream("GET", path, params=params) as response:
                if response.is_error:
                    await response.aread()
                    raise _refused(response)
                async for block in response.aiter_bytes():
                    yield block
        except httpx.TransportError as error:
            raise self._down() from error

    async def _ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            response = await self._http.request(method, path, **request)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise self._down() from error
        if response.is_error:
            raise _refused(response)
        return response

    def _down(self) -> ServiceDown:
        return ServiceDown(
            f"Nothing that speaks Rollcall's HTTP answers at {self._url}. Is `rollcall up` running there?"
        )


def length_of(file: Path) -> int:
    """In bytes."""
    return file.stat().st_size


async def blocks(file: Path, length: int, passed: Callable[[int], None]) -> AsyncIterator[bytes]:
    """The bytes of a file of this length; `passed` is told how many there were so far.

    Raises FileChanged before the last block when the file has become longer, or shorter, than it was.
    """
    count = 0
    with open(file, "rb") as stream:  # noqa: ASYNC230, PTH123  a local file; a block is read in a millisecond
        while block := stream.read(BLOCK_BYTES):
            count += len(block)
            if count > length or (count == length and stream.read(1)):
                break
            yield block
            passed(count)
    if count != length or length_of(file) != length:
        raise FileChanged(
            f"{file.name} changed while it was sent: it had {length:,} bytes. Nothing was imported; send it again when"
            " nothing writes to it any more."
        )


def _refused(response: httpx.Response) -> ServiceRefused | ServiceDown:
    kind = ServiceDown if response.is_server_error else ServiceRefused
    try:
        body = response.json()
        return kind(str(body["error"]), issues=body.get("issues"), status=response.status_code)
    except (ValueError, KeyError, TypeError):
        return kind(f"The service answered {response.status_code}, and not in Rollcall's words.")
