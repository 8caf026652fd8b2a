"""What a file is and how it is written, by its first bytes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from rollcall.errors import EmptyFile, HeaderTooLong, TooManyColumns, UnknownFormat, Unreadable, UnsupportedEncoding
from rollcall.records.formats.csv_dialect import Dialect, csv_dialect
from rollcall.records.formats.csv_grammar import ending, split
from rollcall.records.text import HEAD_BYTES, refuse_binary, strip_bom

PLAIN = "name,email\nZoë,zoe@x.org\nBob,bob@x.org\n"


def test_csv_dialect_the_bom_is_stripped_once() -> None:
    assert strip_bom(b"\xef\xbb\xbf\xef\xbb\xbfa") == b"\xef\xbb\xbfa"
    assert strip_bom(b"a") == b"a"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_csv_dialect_wide_encodings_are_refused_with_what_to_do(encoding: str) -> None:
    with pytest.raises(UnsupportedEncoding, match="CSV UTF-8"):
        refuse_binary(PLAIN.encode(encoding))


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"PK\x03\x04\x14\0\x06\0[Content_Types].xml", "Excel workbook: save it as CSV UTF-8"),
        (b"PK\x03\x04\x14\0\x06\0contacts.csv", "ZIP archive"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "Excel workbook"),
        (b"%PDF-1.7\n", "PDF"),
        (b"\x89PNG\r\n\x1a\n", "picture"),
        (b"\x7fELF\x02\x01", "program"),
        (b"<!DOCTYPE html><p>", "web page"),
        (b'\xef\xbb\xbf \n<?xml version="1.0"?>', "XML"),
        (bytes(range(256)) * 8, "binary file"),
        (b'<meta http-equiv="Content-Type" content="text/html">\n<table>', "web page"),
        (b"<style>td{}</style><table>", "web page"),
        (b"\r\n<TABLE BORDER=1>\r\n<tr>", "web page"),
        (b"{\\rtf1\\ansi name,email}", "RTF"),
        (b"BEGIN:VCARD\r\nVERSION:3.0\r\n", "vCard"),
        (b"begin:vcard\n", "vCard"),
        (b"BEGIN:VCALENDAR\r\n", "calendar"),
        (b"dn: cn=Ann,dc=example,dc=com\nmail: ann@example.com\n", "LDIF"),
        (b"# exported\nversion: 1\ndn: cn=Ann,dc=x\n", "LDIF"),
        (b"From ann@example.com Fri Nov 27 10:00:00 2026\nFrom: Ann\n", "mailbox"),
        (b"Return-Path: <ann@example.com>\r\nTo: b@x.org\r\n", "mail or a web archive"),
        (b"MIME-Version: 1.0\r\nContent-Type: multipart/related\r\n", "mail or a web archive"),
        (b"ID;PWXL;N;E\r\n", "SYLK"),
        (b"-- MySQL dump 10.13\n", "SQL dump"),
        (b"PK\x03\x04\x14\0\0\0mimetypeapplication/vnd.oasis.opendocument.spreadsheetPK", "OpenDocument spreadsheet"),
        (b"PK\x03\x04\x14\0\x06\0[Content_Types].xmlPK\x03\x04word/document.xml", "Word"),
        (b"contacts.csv".ljust(257, b"\0") + b"ustar\x0000", "tar"),
    ],
)
def test_csv_dialect_what_is_no_text_is_refused_by_name(head: bytes, what: str) -> None:
    with pytest.raises(UnknownFormat, match=what):
        refuse_binary(head)


@pytest.mark.parametrize(
    "head",
    [
        PLAIN.encode(),
        b"",
        b"\0",
        b"name,email\nA\0,a@x.org\n",
        b"name,email\n" + b"A\0\0\0\0\0\0\0\0\0\0,a@x.org\n" * 9,
        "name,email\nZoë,zoe@x.org\n".encode("latin-1") * 99,
        "名前,メール\n山田,y@x.org\n".encode() * 9999,
        b"<name>,email\n",
        b"<title>,name,email\nDr,Ann,a@x.org\n",
        b"Title,name,email\n",
        b"From,name,email\nx 10:00:00 ,Ann,a@x.org\n",
        b"Received;name;email\n",
        b"dn,cn,mail\ncn=Ann,Ann,a@x.org\n",
        b"ID;Phone;Name\n",
        b"PK,email\n",
    ],
)
def test_text_is_not_refused(head: bytes) -> None:
    refuse_binary(head[:HEAD_BYTES])


@pytest.mark.parametrize(
    ("head", "delimiter", "header"),
    [
        ("name,email\nAnn,a@x.org", ",", ["name", "email"]),
        ("name;email\nLee, Ann;a@x.org", ";", ["name", "email"]),
        ("name\temail\tnote, more\nAnn\ta@x.org\t1,2", "\t", ["name", "email", "note, more"]),
        ("name|email", "|", ["name", "email"]),
        ("email\na@x.org\nb@x.org", ",", ["email"]),
        ("email\na;1\nb;2", ",", ["email"]),
        ("a;b;c\n1,5;2,5;3\n1;2;3,5", ";", ["a", "b", "c"]),
        ("Preis;Ort, Land;Email, privat;Name\n1,5;2,5;3;4", ";", ["Preis", "Ort, Land", "Email, privat", "Name"]),
        ('"Name, first";"E-mail"\n"Lee, Ann";a@x.org', ";", ["Name, first", "E-mail"]),
        ('name,"notes; more; and more",email\n1,2,3', ",", ["name", "notes; more; and more", "email"]),
        ('" Full\nname ",\u00a0email , "x" ,"a ""b""",\n', ",", ["Full\nname", "email", "x", 'a "b"', ""]),
        ("\ufeff\n \r\n;;;\r\rname;email\n", ";", ["name", "email"]),
        ("name,email\rAnn,a@x.org\r", ",", ["name", "email"]),
        ('""\n', ",", [""]),
    ],
)
def test_csv_dialect_the_dialect(head: str, delimiter: str, header: list[str]) -> None:
    found = csv_dialect(head.encode())
    assert (found.delimiter, found.header, found.quoting) == (delimiter, header, "doubled")
    assert strip_bom(head.encode())[found.skip :].startswith(head.strip("\ufeff \r\n;").encode()[:4])


@pytest.mark.parametrize(
    ("line", "delimiter"),
    [
        *[("sep=;\r\n", ";"), ("SEP=,\n", ","), ('"sep=|"\n', "|"), ("sep=\t\r", "\t"), ("sep=;;;;\n\n", ";")],
        *[("sep = ;\n", ";"), (" sep=;  \r\n", ";"), ("sep=\\t\n", "\t"), ("sep=^\n", "^"), ('"sep=;",,\n', ";")],
        *[("sep=\0\n", ","), ("sep=\n", ","), ("sep=tab\n", ","), ("sep=é\n", ","), ('sep="\n', ",")],
    ],
)
def test_csv_dialect_the_sep_line_of_excel_decides(line: str, delimiter: str) -> None:
    text = f"\ufeff{line}name{delimiter}a,b;c\n".encode()
    found = csv_dialect(text)
    assert (found.delimiter, found.skip) == (delimiter, len(line.encode()))
    assert found.header[0] == "name"


def test_csv_dialect_a_delimiter_that_is_given_is_taken() -> None:
    assert csv_dialect(b"name,email\tphone\n", "\t") == Dialect("\t", 0, ["name,email", "phone"])
    assert csv_dialect(b"sep=;\nname;email\tphone\n", "\t").delimiter == ";"


BROKEN_HEADERS = [
    b'name,"email,phone\nAnn,ann@example.com,1\n',
    b'"name,email\nAnn,a@x.org\n',
    b'"name,email\n"Ann" B\nx",y\n',
    b'name;"email"x;phone\n',
    b'"email',
]


@pytest.mark.parametrize("head", BROKEN_HEADERS)
def test_csv_dialect_says_which_quote_of_the_header_is_wrong(head: bytes) -> None:
    with pytest.raises(UnknownFormat, match="header has a quote that is never closed"):
        csv_dialect(head)


@pytest.mark.parametrize(
    ("head", "quoting", "header"),
    [
        (b'"name","email"\n"Ann \\"A\\" Lee","a@x.org"\n"C:\\\\","x"\n', "backslash", ["name", "email"]),
        (b'"na\\"me","email"\n"Ann","a@x.org"\n', "backslash", ['na"me', "email"]),
        (b'"name","path"\n"Ann","C:\\dir\\"\n"Bob","D:\\"\n', "doubled", ["name", "path"]),
        (b'name,note\nAnn,5\\" pipe\n', "doubled", ["name", "note"]),
        (b'"name,email"\r\n"Ann,a@x.org"\r\n', "line", ["name", "email"]),
        (b'"name;""e-mail"""\n"""Lee; Ann"";a@x.org"\nBob;b@x.org\n', "line", ["name", "e-mail"]),
        (b'"name, email"\nAnn\n', "line", ["name", "email"]),
        (b'"email"\n"a@x.org"\n', "doubled", ["email"]),
    ],
)
def test_csv_dialect_tells_how_quotes_are_written(head: bytes, quoting: str, header: list[str]) -> None:
    found = csv_dialect(head)
    assert (found.quoting, found.header) == (quoting, header)


@pytest.mark.parametrize(
    ("head", "line_end"),
    [
        (b"name,email\rAnn,a@x.org\r", "\r"),
        (b'"Full\nname",email\rAnn,a@x.org\r', "\r"),
        (b"name,email\r\nAnn,a@x.org\rx\r\n", "\n"),
        (b'"Full\rname",email\nAnn,a@x.org\n', "\n"),
        (b"name,email", "\n"),
    ],
)
def test_csv_dialect_tells_how_lines_end(head: bytes, line_end: str) -> None:
    assert csv_dialect(head).line_end == line_end


@pytest.mark.parametrize("head", [b"", b"\xef\xbb\xbf", b"\n\r\n \t\n", b"sep=;\n", b",,,\n;;"])
def test_csv_dialect_a_file_without_a_line_is_empty(head: bytes) -> None:
    with pytest.raises(EmptyFile):
        csv_dialect(head)


def test_csv_dialect_a_header_has_its_limits() -> None:
    with pytest.raises(HeaderTooLong):
        csv_dialect(b"x" * HEAD_BYTES)
    assert csv_dialect(b"x" * 99).header == ["x" * 99]
    with pytest.raises(TooManyColumns, match="10001"):
        csv_dialect(b"," * 9_999 + b"x,\n")
    assert len(csv_dialect(b"," * 9_999 + b"x\n").header) == 10_000


@pytest.mark.parametrize("head", ["naïve,email\n".encode("latin-1"), b"na\0me,email\n"])
def test_csv_dialect_a_header_that_is_not_utf8_is_refused(head: bytes) -> None:
    with pytest.raises(UnsupportedEncoding, match="CSV UTF-8"):
        csv_dialect(head)


@pytest.mark.parametrize("sign", [b'"', b'a,"', b'x","y\n', b'""\n', b";\t|,", b"\r", b'"\n', b'a"b,"c"\n'])
def test_csv_dialect_no_head_takes_long(sign: bytes) -> None:
    head = (b"name,email\n" + sign * HEAD_BYTES)[:HEAD_BYTES]
    begin = time.process_time()
    refuse_binary(head)
    csv_dialect(head)
    assert time.process_time() - begin < 5


@pytest.mark.parametrize(
    ("line", "outside", "inside"),
    [
        (b"", "closed", "open"),
        (b"a,b", "closed", "open"),
        (b'a "b" c,d', "closed", "stray"),
        (b'"a","b"', "closed", "stray"),
        (b'a,"b', "open", "stray"),
        (b'a",b', "closed", "closed"),
        (b'x","y', "open", "open"),
        (b'"', "open", "closed"),
        (b'""', "closed", "open"),
        (b'"""', "open", "closed"),
        (b'"a""",', "closed", "stray"),
        (b'"a" ,', "closed", "stray"),
        (b'"a" b,', "stray", "stray"),
        (b'a, "b" ,\t"c"', "closed", "stray"),
        (b'a, "b" c', "closed", "stray"),
        (b'a, "b', "perhaps", "stray"),
        (b'a, "b" c,"d', "open", "stray"),
        (b'b" , "c', "perhaps", "perhaps"),
        (b'",","', "open", "closed"),
    ],
)
def test_csv_dialect_how_a_line_leaves_its_record(line: bytes, outside: str, inside: str) -> None:
    assert (ending(line, b","), ending(line, b",", quoted=True)) == (outside, inside)


@pytest.mark.parametrize(
    ("record", "cells"),
    [
        (b"", [b""]),
        (b"a,,b,", [b"a", b"", b"b", b""]),
        (b'"a,1",b', [b"a,1", b"b"]),
        (b'a "b,c" d,"e""f"', [b'a "b', b'c" d', b'e"f']),
        (b'"","""",""","""', [b"", b'"', b'","']),
        (b'"a\r\nb",\xff', [b"a\r\nb", b"\xff"]),
        (b'"a,b', [b'"a', b"b"]),
        (b'a , "b,c"\t, "d""e" ', [b"a ", b"b,c", b'd"e']),
        (b'a, "b" c, "d', [b"a", b' "b" c', b' "d']),
    ],
)
def test_csv_dialect_the_cells_of_a_record(record: bytes, cells: list[bytes]) -> None:
    assert split(record, b",") == cells


@pytest.mark.parametrize(
    ("file", "fault"),
    [
        ("bin_elf.bin", UnknownFormat),
        ("bin_png.csv", UnknownFormat),
        ("html_named.csv", UnknownFormat),
        ("xlsx_ok.xlsx", UnknownFormat),
        ("xlsx_encrypted_ole.xlsx", UnknownFormat),
        ("csv_utf16le.csv", UnsupportedEncoding),
        ("csv_empty.csv", EmptyFile),
        ("csv_only_bom.csv", EmptyFile),
        ("csv_only_newlines.csv", EmptyFile),
        ("csv_100k_columns.csv", TooManyColumns),
    ],
)
def test_csv_dialect_hostile_files_are_refused(corpora: Path, file: str, fault: type[Unreadable]) -> None:
    head = (corpora / "hostile" / file).read_bytes()[:HEAD_BYTES]
    with pytest.raises(fault):  # noqa: PT012
        refuse_binary(head)
        csv_dialect(head)


@pytest.mark.parametrize(
    "before", [b"", b"\xef\xbb\xbf", b"\r\n", b" ,;\n\r\xc2\xa0\n", b"sep=,\n", b"sep=,\r\n\r\n;;;\r\n"]
)
@pytest.mark.parametrize(
    "header", [b",name,email", b",,email,name", b" ,name,email", b'"",name,email', b"\xc2\xa0,email"]
)
def test_csv_dialect_header_that_begins_with_an_empty_cell_keeps_its_first_column(before: bytes, header: bytes) -> None:
    """As pandas writes an index. Patterns that Python before 3.11.5 matches wrongly took the cell for a blank line."""
    found = csv_dialect(before + header + b"\n0,Ann,ann@example.com\n")
    assert strip_bom(before + header)[found.skip :] == header
    assert found.header == [cell.decode().strip(' "\xa0') for cell in header.split(b",")]
