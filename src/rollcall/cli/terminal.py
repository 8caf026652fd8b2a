"""Text that a terminal does not obey. Nothing heavy is imported here: error messages need it too."""

from __future__ import annotations


def printable(text: str, keep: str = "") -> str:
    """The text with escapes for every character that is not printed: controls (C0 and C1), directions, line ends."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in keep else each.encode("unicode_escape").decode() for each in text
    )
