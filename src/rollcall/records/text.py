"""What the first bytes of a file tell, whatever its format: whether it is text, and in which encoding.

Assumes decoded (unpacked) bytes, at most HEAD_BYTES of them. Pure functions; nothing here reads on, and nothing is
repaired or read again in another encoding: what is not UTF-8 is refused by name. Which column is what, `mapping` says.
"""

from __future__ import annotations

import re
from typing import Final

from rollcall.errors import UnknownFormat, UnsupportedEncoding

HEAD_BYTES: Final = 1 << 20
"""So many first bytes are looked at; a line that does not end in them is no header."""

BLANKS: Final = " \t\r\n\u00a0\u200b\ufeff"
"""What is trimmed from both ends of a value: the blanks nobody sees, with NBSP, zero-width space and BOM."""

_BOM: Final = b"\xef\xbb\xbf"
_SNIFFED_BYTES: Final = 1 << 16
_CONTROLS: Final = bytes(set(range(32)) - set(b"\t\n\v\f\r\x1b"))
_MARKUP = re.compile(rb"\s*+<(?:\?xml|!doctype|html|head|body|table|svg|script|!--)", re.IGNORECASE)
_MAGIC: Final = (
    (b"\xd0\xcf\x11\xe0", "an old or a protected Excel workbook: save it as CSV UTF-8"),
    (b"PK\x03\x04", "a ZIP archive: unpack it and send what is in it"),
    (b"%PDF-", "a PDF: export the contacts as CSV UTF-8"),
    (b"PAR1", "a Parquet file: export the contacts as CSV UTF-8"),
    (b"SQLite format 3\0", "an SQLite database: export the contacts as CSV UTF-8"),
    (b"\x89PNG", "a picture"),
    (b"\xc2\x89PNG", "a picture"),  # sent as text, by a client that took it for one
    (b"GIF8", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"\x7fELF", "a program"),
    (b"BZh", "a bzip2 archive: unpack it and send what is in it"),
    (b"\xfd7zXZ", "an xz archive: unpack it and send what is in it"),
    (b"7z\xbc\xaf", "a 7-Zip archive: unpack it and send what is in it"),
    (b"Rar!\x1a", "a RAR archive: unpack it and send what is in it"),
)


def strip_bom(head: bytes) -> bytes:
    """`head` without its UTF-8 byte order mark."""
    return head.removeprefix(_BOM)


def refuse_binary(head: bytes) -> None:
    """Raise UnknownFormat or UnsupportedEncoding, saying what it looks like, for what is not text in one-byte units.

    A NUL here and there makes no binary file: that record is rejected, the file is not. An 8-bit code page is not told
    from UTF-8 here: its records are rejected one by one (`invalid_utf8`).
    """
    if head.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")) or _interleaved(head[:_SNIFFED_BYTES]):
        raise UnsupportedEncoding('The file is written in UTF-16 or UTF-32. Save it as "CSV UTF-8" and send it again.')
    for magic, what in _MAGIC:
        if head.startswith(magic):
            if what.startswith("a ZIP") and (b"xl/" in head or b"[Content_Types].xml" in head):
                what = "an Excel workbook: save it as CSV UTF-8"
            raise UnknownFormat(f"The file looks like {what}.")
    if _MARKUP.match(strip_bom(head)):
        raise UnknownFormat("The file looks like a web page or XML: export the contacts as CSV UTF-8.")
    sample = head[:_SNIFFED_BYTES]
    controls = len(sample) - len(sample.translate(None, _CONTROLS))
    if controls > 8 and controls * 25 > len(sample) and "\ufffd" in sample[:-4].decode("utf-8", "replace"):
        raise UnknownFormat("The file looks like a binary file: export the contacts as CSV UTF-8.")


def _interleaved(sample: bytes) -> bool:
    """Whether NULs stand at every second place, as in UTF-16 without a BOM."""
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    half = len(sample) // 2
    return half > 1 and max(even, odd) > half * 0.4 and min(even, odd) < half * 0.05
