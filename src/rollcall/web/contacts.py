"""GET /contacts: what was imported, newest first."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query

from rollcall import contacts
from rollcall.web import CallerDep, ServiceDep
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


@router.get("/contacts", summary="List contacts", responses=PROBLEMS)
async def list_contacts(
    service: ServiceDep,
    caller: CallerDep,
    source: Text = None,
    email: Text = None,
    after: Annotated[UUID | None, Query(description="`next` of the page before.")] = None,
    offset: Annotated[int, Query(ge=0, le=OFFSET_MAX)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> ContactsShown:
    """Newest first."""
    async with service.database.session() as tx:
        found = await contacts.page(
            tx, source=source, email=email, after=after, offset=offset, limit=limit, sources=caller.sources
        )
    return ContactsShown(
        contacts=[ContactShown.model_validate(contact, from_attributes=True) for contact in found],
        next=found[-1].id if len(found) == limit else None,
    )
