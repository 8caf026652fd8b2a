"""What a file is, by its bytes alone; and what is said about the ones that cannot be imported."""

from __future__ import annotations

import gzip
import io
import json

import pytest
import zstandard

from rollcall.errors import BadMapping, NoEmailColumn, ReaderChanged, UnknownFormat, Unreadable
from rollcall.records import Mapping, Plan, cells, inspect, parts

CSV = b"name,email\nAnn,ann@example.com\n"
ANN = b'{"name":"Ann","email":"ann@example.com"}'
GUESSED = Mapping("email", ("name",))


def read(data: bytes) -> tuple[list[str], list[str]]:
    """The addresses of the Contacts and the codes of the Rejects."""
    plan = inspect(io.BytesIO(data))
    emails, codes = [], []
    for part in parts(io.BytesIO(data), plan):
        emails += part.contacts["email"].to_pylist()
        codes += part.rejects["code"].to_pylist()
    return [str(email) for email in emails], [str(code) for code in codes]


TOLD = {
    "csv": (CSV, Plan("csv", "none", ("name", "email"), GUESSED, ",")),
    "bom": (b"\xef\xbb\xbf" + CSV, Plan("csv", "none", ("name", "email"), GUESSED, ",")),
    "tabs": (CSV.replace(b",", b"\t"), Plan("csv", "none", ("name", "email"), GUESSED, "\t")),
    "excel": (b"sep=;\r\n" + CSV.replace(b",", b";"), Plan("csv", "none", ("name", "email"), GUESSED, ";", skip=7)),
    "odd columns": (
        b"E-Mail,,Phone,Phone,Vorname,Nachname\nann@example.com,,1,2,Ann,Lee",
        Plan(
            *("csv", "none", ("E-Mail", "column 2", "Phone", "Phone (2)", "Vorname", "Nachname")),
            *(Mapping("E-Mail", ("Vorname", "Nachname")), ","),
        ),
    ),
    "gzip": (gzip.compress(CSV), Plan("csv", "gzip", ("name", "email"), GUESSED, ",")),
    "zstd": (zstandard.compress(CSV), Plan("csv", "zstd", ("name", "email"), GUESSED, ",")),
    "array": (b"[" + ANN + b"]", Plan("json", "none", ("name", "email"), GUESSED)),
    "data": (b'\xef\xbb\xbf \n{"data": [' + ANN + b"]}", Plan("json", "none", ("name", "email"), GUESSED)),
    "envelope": (b'{"source":"crm","data":[' + ANN + b"]}", Plan("json", "none", ("name", "email"), GUESSED)),
    "lines": (gzip.compress(ANN + b"\n" + ANN), Plan("ndjson", "gzip", ("name", "email"), GUESSED)),
    "one line": (ANN, Plan("ndjson", "none", ("name", "email"), GUESSED)),
    "later keys": (
        b'[{"phone":1,"Mail":"ann@example.com"},{"Name":"Ann","Mail":"b@example.com"}]',
        Plan("json", "none", ("phone", "Mail", "Name"), Mapping("Mail", ("Name",))),
    ),
}


@pytest.mark.parametrize("written", TOLD)
def test_inspect_tells_by_the_bytes(written: str) -> None:
    data, plan = TOLD[written]

    assert inspect(io.BytesIO(data)) == plan
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_inspect_what_is_given_is_not_guessed() -> None:
    data = b"a;b,c;d\nann@example.com;Ann,Lee;1\n"

    assert inspect(io.BytesIO(data), mapping=Mapping("a", ("b,c",))) == Plan(
        "csv", "none", ("a", "b,c", "d"), Mapping("a", ("b,c",)), ";"
    )
    with pytest.raises(BadMapping, match='names "e"'):
        inspect(io.BytesIO(data), mapping=Mapping("e", ("a",)))


def test_inspect_a_given_format_is_taken() -> None:
    one = b'{"name":"Ann","email":"ann@example.com"}'

    assert inspect(io.BytesIO(one), format="ndjson").format == "ndjson"
    assert inspect(io.BytesIO(b"[" + one + b"]"), format="json").format == "json"
    with pytest.raises(UnknownFormat, match="The header has a quote"):
        inspect(io.BytesIO(one), format="csv")
    assert inspect(io.BytesIO(CSV.replace(b",", b"\t")), format="tsv").delimiter == "\t"
    commas = b"first name, email, phone\tmail\n"
    assert inspect(io.BytesIO(commas)).delimiter == ","
    given = inspect(io.BytesIO(commas), format="tsv", mapping=Mapping("mail", ("first name, email, phone",)))
    assert given.delimiter == "\t"
    with pytest.raises(UnknownFormat, match='"xml" is not known'):
        inspect(io.BytesIO(commas), format="xml")


def test_inspect_reads_no_more_than_it_needs() -> None:
    class Long(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            assert self.tell() < 1 << 20
            return super().read(size)

    assert inspect(Long(CSV * 100_000)).format == "csv"


FILES = {
    "an empty body": (b"", "EMPTY_FILE"),
    "an empty gzip": (gzip.compress(b""), "EMPTY_FILE"),
    "a BOM": (b"\xef\xbb\xbf", "EMPTY_FILE"),
    "blank lines": (b" \r\n\t\n" * 100, "EMPTY_FILE"),
    "an empty array": (b"[]", "NO_RECORDS"),
    "an empty data": (b'{"source":"crm","data":[]}', "NO_RECORDS"),
    "a header only": (b"name,email\n", "NO_RECORDS"),
    "numbers": (b"[1,2]", "NO_EMAIL_COLUMN"),
    "blank lines after BOM, as JSON": (b"\xef\xbb\xbf[ \n ]", "NO_RECORDS"),
    "no email column": (b"name,phone\nAnn,1\n", "NO_EMAIL_COLUMN"),
    "no email key": (b'[{"name":"Ann"}]', "NO_EMAIL_COLUMN"),
    "no name column": (b"email,phone\nann@example.com,1\n", "NO_NAME_COLUMN"),
    "no header": (b"Ann,ann@example.com\nBob,bob@example.com\n", "NO_EMAIL_COLUMN"),
    "100k columns": (b",".join(b"c%d" % n for n in range(100_000)) + b"\n", "TOO_MANY_COLUMNS"),
    "a header of 2 MB": (b"x" * 2_000_000 + b",email\n", "HEADER_TOO_LONG"),
    "100k deep": (b"[" * 100_000 + b"]" * 100_000, "JSON_TOO_DEEP"),
    "an ELF": (b"\x7fELF\x02\x01\x01" + bytes(range(256)) * 8, "UNKNOWN_FORMAT"),
    "a PNG": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)) * 8, "UNKNOWN_FORMAT"),
    "a web page": (b"<!doctype html><html><body>name,email</body></html>", "UNKNOWN_FORMAT"),
    "gzip in gzip": (gzip.compress(gzip.compress(CSV)), "NESTED_ARCHIVE"),
    "zstd in gzip": (gzip.compress(zstandard.compress(CSV)), "NESTED_ARCHIVE"),
    "half a gzip": (gzip.compress(CSV)[:-12], "ARCHIVE_TRUNCATED"),
    "a bomb of one line": (gzip.compress(b"x" * 64_000_000, 1), "HEADER_TOO_LONG"),
    "UTF-16": ("name,email\n".encode("utf-16"), "UNSUPPORTED_ENCODING"),
    "broken JSON": (b'[{"name":"Ann","email":"ann@example.com"}', "INVALID_JSON"),
}


@pytest.mark.parametrize("what", FILES)
def test_inspect_a_file_that_cannot_be_read_is_told_with_its_code(what: str) -> None:
    data, code = FILES[what]

    with pytest.raises(Unreadable) as raised:
        read(data)

    assert raised.value.code == code
    assert 10 < len(str(raised.value)) < 1000


RECORDS = {
    "wrong types": (
        b'[{"name":1,"email":"a@x.org"},{"name":"Ann","email":{}},[],"x",null,{"name":"Ann"},' + ANN + b"]",
        ["invalid_type", "invalid_type", "invalid_type", "invalid_type", "invalid_type", "required"],
    ),
    "NUL in CSV": (b"name,email\nA\0n,a@x.org\nAnn,ann@example.com\n", ["control_character"]),
    "NUL in another column": (b"name,email,x\nA,a@x.org,\0\nAnn,ann@example.com,\n", ["nul_character"]),
    "NUL in JSON": (b'[{"name":"A\\u0000n","email":"a@x.org"},' + ANN + b"]", ["control_character"]),
    "NUL in an attribute": (b'[{"name":"A","email":"a@x.org","x":"\\u0000"},' + ANN + b"]", ["nul_character"]),
    "invalid UTF-8 in CSV": (b"name,email\nJos\xe9,a@x.org\nAnn,ann@example.com\n", ["invalid_utf8"]),
    "invalid UTF-8 in JSON": (b'[{"name":"Jos\xe9","email":"a@x.org"},' + ANN + b"]", ["invalid_utf8"]),
    "a lone surrogate": (b'[{"name":"\\ud800","email":"a@x.org"},' + ANN + b"]", ["lone_surrogate"]),
    "a lone surrogate, a line": (ANN + b'\n{"name":"\\ud800","email":"a@x.org"}', ["lone_surrogate"]),
    "double keys: the last counts": (b'[{"name":"A","email":"x","name":"B","email":"ann@example.com"}]', []),
    "an unclosed quote": (b'name,email\n"Bob,bob@x.org\nAnn,ann@example.com\n', ["unclosed_quote"]),
    "a stray quote": (b'name,email\n"Bob"by,bob@x.org\nAnn,ann@example.com\n', ["stray_quote"]),
    "too many fields": (b"name,email\nBob,bob@x.org,1\nAnn,ann@example.com\n", ["too_many_fields"]),
    "a broken line": (ANN + b'\n{"name":"Bob" "email":1}\n', ["invalid_json"]),
    "a line of 100 MB": (
        gzip.compress(b"name,email\n" + b"x" * 100_000_000 + b",a@x.org\nAnn,ann@example.com\n", 1),
        ["record_too_long"],
    ),
    "a JSON line of 2 MB first": (
        b'[{"name":"' + b"x" * 2_000_000 + b'","email":"a@x.org"},' + ANN + b"]",
        ["name_too_long"],
    ),
    "a JSON line of 100 MB": (
        gzip.compress(ANN + b'\n{"name":"' + b"x" * 100_000_000 + b'","email":"a@x.org"}\n', 1),
        ["record_too_long"],
    ),
}


@pytest.mark.parametrize("what", RECORDS)
def test_inspect_a_bad_record_is_rejected_alone_with_its_code(what: str) -> None:
    data, codes = RECORDS[what]

    assert read(data) == (["ann@example.com"], codes)


def test_inspect_a_missing_key_is_told_with_the_keys_seen() -> None:
    with pytest.raises(NoEmailColumn, match='The columns are "name", "phone"'):
        inspect(io.BytesIO(b'[{"name":"Ann","phone":1}]'))


def test_inspect_a_rejected_record_can_be_shown_in_the_files_own_columns() -> None:
    csv = inspect(io.BytesIO(b"name,email,phone\nAnn,ann@example.com,1\n"))
    json_ = inspect(io.BytesIO(b"[" + ANN + b"]"))

    assert cells(b'"Ann, Lee",ann@', csv) == ["Ann, Lee", "ann@", ""]
    assert cells(b'{"email":"ann@","name":7}', json_) == ["json:7", "ann@", ""]
    assert cells(b"\xff{broken", json_) == ["", "", "\ufffd:\ufffdff{broken"]


def test_inspect_plan_from_json_reads_plans_of_other_versions() -> None:
    plan = TOLD["excel"][1]
    stored = json.loads(json.dumps(plan.to_json()))
    assert Plan.from_json(stored | {"later": 1, "loaders_seen": [2]}) == plan
    for name in stored:
        older = {field: value for field, value in stored.items() if field != name} | {"reader": 1}
        found = Plan.from_json(older)
        with pytest.raises(ReaderChanged):
            next(parts(io.BytesIO(CSV), found))
    assert Plan.from_json({}).reader == 0
