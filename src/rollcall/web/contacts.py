"""GET /contacts: what was imported, newest first."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Response
from orjson import Fragment

from rollcall import contact_pages
from rollcall.contact_pages import Contact, Page
from rollcall.web import CallerDep, ServiceDep
from rollcall.web.outgoing import PAGE_BYTES, PIECE_BYTES, AnswerRoom, Body, json
from rollcall.web.responses import PROBLEMS, Answer, Text

router = APIRouter(tags=["contacts"])

OFFSET_MAX = 10_000
"""Rows that are skipped are read all the same; `after` costs nothing."""


class ContactShown(Answer):
    """`import_id`, `record`: the import and the Record that wrote it last."""

    id: UUID
    name: str
    email: str
    source: str
    attributes: dict[str, Any]
    imported_at: datetime
    import_id: UUID | None
    record: int | None


class ContactsShown(Answer):
    contacts: list[ContactShown]
    next: UUID | None


@router.get("/contacts", summary="List contacts", response_model=ContactsShown, responses=PROBLEMS)
async def list_contacts(
    service: ServiceDep,
    caller: CallerDep,
    room: AnswerRoom,
    source: Text = None,
    email: Text = None,
    after: Annotated[UUID | None, Query(description="`next` of the page before.")] = None,
    offset: Annotated[int, Query(ge=0, le=OFFSET_MAX)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """Newest first. A page ends early where it would be longer than 1 MiB; `next` leads on."""

    async def read(bytes_max: int) -> Page:
        async with service.database.session() as tx:
            return await contact_pages.page(
                tx,
                source=source,
                email=email,
                after=after,
                offset=offset,
                limit=limit,
                bytes_max=bytes_max,
                sources=caller.sources,
            )

    # A short page has room always: slow readers of long ones hold nobody up who asks for a few contacts.
    short = limit * contact_pages.ROW_BYTES <= PIECE_BYTES
    page = await read(PIECE_BYTES) if short else None
    if page is None or (page.next and len(page.contacts) < limit):
        await room.keep(PAGE_BYTES)
        page = await read(PAGE_BYTES)
    body = json({"contacts": [_shown(contact) for contact in page.contacts], "next": page.next})
    await room.keep(len(body))
    return Body(body)


def _shown(contact: Contact) -> dict[str, Any]:
    """As it is answered. The attributes are handed on as they are stored."""
    return {
        "id": contact.id,
        "name": contact.name,
        "email": contact.email,
        "source": contact.source,
        "attributes": Fragment(contact.attributes),
        "importedAt": contact.imported_at,
        "importId": contact.import_id,
        "record": contact.record,
    }
