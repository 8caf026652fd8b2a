"""Everything that can go wrong, as one tree. The class says who must act; the code is stable and documented.

    RollcallError
    ├─ Refused        the caller acts: 4xx, never retried
    │   ├─ InvalidInput UploadFailed NotFound MethodNotAllowed Conflict TooLarge UnsupportedMediaType
    │   ├─ RequestTimeout HeadersTooLarge StillArriving IdempotencyMismatch
    │   └─ Unauthorized Forbidden TooManyRequests
    ├─ Unreadable     the file is at fault: the import fails, never retried
    │   ├─ EmptyFile NoRecords UnknownFormat UnsupportedEncoding NoEmailColumn NoNameColumn BadMapping
    │   ├─ InvalidJson TooDeep HeaderTooLong TooManyColumns
    │   ├─ ArchiveTruncated ArchiveCorrupt ArchiveTooLarge NestedArchive InvalidRecords TooManyRejects
    │   └─ ReaderChanged ObjectMissing ObjectCorrupt Crashed
    ├─ Unavailable    a dependency is at fault: 503 or 507, retried
    │   ├─ DatabaseDown DatabaseFull DatabaseLocked StoreDown NoSpace Busy NoProgress OutOfMemory
    │   └─ EmbeddedInUse EmbeddedFailed
    ├─ ContactsRefused ContactsContended ImportFailed    the import fails, and may be retried
    └─ Stopped        a signal between the parts of a worker: Draining Fenced

Errors of one module alone stand there: `database.Incompatible`, `settings.BadSettings`, `client.ServiceRefused`.

A bad record is none of these: it is a Reject, a value (`records`). Messages are for people: what, where, what to do.
They never contain SQL, hosts, paths, keys or personal data.
"""

from __future__ import annotations

from typing import Any, ClassVar


class RollcallError(Exception):
    """Base of the tree.

    `issues`: a list of `{"path": [...], "code": str, "message": str}`. `more`: further members of the error body.
    """

    code: ClassVar[str] = "INTERNAL"
    status: ClassVar[int] = 500

    def __init__(self, message: str | None = None, *, issues: list[dict[str, Any]] | None = None, **more: Any) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])
        self.issues = issues
        self.more = more


class Refused(RollcallError):
    """The request cannot be accepted."""

    code = "REFUSED"
    status = 400


class InvalidInput(Refused):
    """The request is not valid."""

    code = "INVALID_INPUT"


class UploadFailed(Refused):
    """The body ended before it was whole; nothing was imported. Send it again."""

    code = "UPLOAD_FAILED"


class Unauthorized(Refused):
    """This needs a valid API key, sent as the header `Authorization: Bearer KEY`."""

    code = "UNAUTHORIZED"
    status = 401


class Forbidden(Refused):
    """This key may not do that."""

    code = "FORBIDDEN"
    status = 403


class NotFound(Refused):
    """Not found"""

    code = "NOT_FOUND"
    status = 404


class MethodNotAllowed(Refused):
    """This method is not allowed here."""

    code = "METHOD_NOT_ALLOWED"
    status = 405


class Conflict(Refused):
    """The request conflicts with the state of the resource."""

    code = "CONFLICT"
    status = 409


class TooLarge(Refused):
    """The body is larger than this service accepts."""

    code = "PAYLOAD_TOO_LARGE"
    status = 413


class UnsupportedMediaType(Refused):
    """The Content-Type is not one that can be imported."""

    code = "UNSUPPORTED_MEDIA_TYPE"
    status = 415


class RequestTimeout(Refused):
    """The request came too slowly; nothing was imported. Send it again."""

    code = "REQUEST_TIMEOUT"
    status = 408


class HeadersTooLarge(Refused):
    """The headers of the request are larger than 64 KiB."""

    code = "HEADERS_TOO_LARGE"
    status = 431


class StillArriving(Conflict):
    """A request with this Idempotency-Key is still arriving. Send this one again in a moment."""

    code = "STILL_ARRIVING"


class IdempotencyMismatch(Refused):
    """This Idempotency-Key belongs to another request. Choose a new one for every import."""

    code = "IDEMPOTENCY_MISMATCH"
    status = 422


class TooManyRequests(Refused):
    """There is too much under way already. Send it later."""

    code = "TOO_MANY_REQUESTS"
    status = 429


class Unreadable(RollcallError):
    """The file cannot be read."""

    code = "FILE_READ_ERROR"
    status = 400


class EmptyFile(Unreadable):
    """The file is empty."""

    code = "EMPTY_FILE"


class NoRecords(Unreadable):
    """The file holds no records."""

    code = "NO_RECORDS"


class UnknownFormat(Unreadable):
    """The file is of no format that can be read."""

    code = "UNKNOWN_FORMAT"


class UnsupportedEncoding(Unreadable):
    """The file is not UTF-8. Save it as UTF-8 and send it again."""

    code = "UNSUPPORTED_ENCODING"


class NoEmailColumn(Unreadable):
    """No column holds the email addresses."""

    code = "NO_EMAIL_COLUMN"


class NoNameColumn(Unreadable):
    """No column holds the names."""

    code = "NO_NAME_COLUMN"


class BadMapping(Unreadable):
    """The mapping names a column that the file does not have."""

    code = "BAD_MAPPING"


class HeaderTooLong(Unreadable):
    """The first line is too long to be a header."""

    code = "HEADER_TOO_LONG"


class TooManyColumns(Unreadable):
    """The file has too many columns."""

    code = "TOO_MANY_COLUMNS"


class InvalidJson(Unreadable):
    """The file is not valid JSON."""

    code = "INVALID_JSON"


class TooDeep(Unreadable):
    """The JSON is nested too deeply."""

    code = "JSON_TOO_DEEP"


class ArchiveTruncated(Unreadable):
    """The compressed file ends too early; it was cut short on its way."""

    code = "ARCHIVE_TRUNCATED"


class ArchiveCorrupt(Unreadable):
    """The compressed file is damaged."""

    code = "ARCHIVE_CORRUPT"


class ArchiveTooLarge(Unreadable):
    """The compressed file unpacks to more than 64 MiB and to more than 500 times its size. Send it unpacked."""

    code = "ARCHIVE_TOO_LARGE"


class NestedArchive(Unreadable):
    """The file is compressed twice. Unpack it once and send it again."""

    code = "NESTED_ARCHIVE"


class InvalidRecords(Unreadable):
    """The file holds invalid records, and it was sent with onInvalid=fail."""

    code = "INVALID_RECORDS"


class TooManyRejects(Unreadable):
    """More records were rejected than maxRejects allows."""

    code = "TOO_MANY_REJECTS"


class ReaderChanged(Unreadable):
    """This version of Rollcall reads the file differently from the one that began. Import the file again."""

    code = "READER_CHANGED"
    status = 409


class ObjectMissing(Unreadable):
    """The stored file is gone. Send the file again."""

    code = "OBJECT_MISSING"
    status = 409


class ObjectCorrupt(Unreadable):
    """The stored file is not what was received. Send the file again."""

    code = "OBJECT_CORRUPT"


class Crashed(Unreadable):
    """The worker died four times at this file."""

    code = "CRASHED"


class ContactsRefused(RollcallError):
    """The table contacts does not take what this import writes."""

    code = "CONTACTS_REFUSED"


class ContactsContended(RollcallError):
    """Somebody else keeps writing the contacts that this import writes. Retry it when that is over."""

    code = "CONTACTS_CONTENDED"


class ImportFailed(RollcallError):
    """The import failed for a reason that Rollcall did not foresee. Retry it, and report it if it happens again."""

    code = "IMPORT_FAILED"


class Unavailable(RollcallError):
    """Something Rollcall depends on is not there. Try again."""

    code = "UNAVAILABLE"
    status = 503


class DatabaseDown(Unavailable):
    """The database cannot be reached."""

    code = "DATABASE_UNAVAILABLE"


class DatabaseFull(Unavailable):
    """The database has no room left. Make room for it; imports go on by themselves then."""

    code = "DATABASE_FULL"
    status = 507


class DatabaseLocked(Unavailable):
    """Somebody else holds a lock in the database that this needs. It goes on when that is let go."""

    code = "DATABASE_LOCKED"


class NoProgress(Unavailable):
    """The import stood still for 15 minutes; it is begun again."""

    code = "NO_PROGRESS"


class OutOfMemory(Unavailable):
    """The worker has not enough memory for this import; it is begun again."""

    code = "OUT_OF_MEMORY"


class StoreDown(Unavailable):
    """The store of the uploaded files cannot be reached."""

    code = "STORE_UNAVAILABLE"


class NoSpace(Unavailable):
    """There is no room left to store the file."""

    code = "NO_SPACE"
    status = 507


class Busy(Unavailable):
    """Too much arrives at the same time. Send it again in a moment."""

    code = "SERVER_BUSY"


class EmbeddedInUse(Unavailable):
    """Another process owns the embedded Postgres. Stop that one, or choose another data directory."""

    code = "EMBEDDED_IN_USE"


class EmbeddedFailed(Unavailable):
    """The embedded Postgres does not run."""

    code = "EMBEDDED_FAILED"


class Stopped(RollcallError):
    """The work was stopped."""

    code = "STOPPED"


class Draining(Stopped):
    """The worker is shutting down; another one goes on."""

    code = "DRAINING"


class Fenced(Stopped):
    """The import is no longer this worker's: it was cancelled, or another worker took it over."""

    code = "FENCED"
