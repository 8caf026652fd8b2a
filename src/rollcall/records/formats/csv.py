"""CSV and its kin (any one-byte delimiter), in UTF-8.

The grammar is `csv_grammar`; `csv_dialect` tells delimiter and header, `csv_scan` finds the Records, `csv_values` reads
them.
"""

from __future__ import annotations

from rollcall.records.formats.csv_scan import scan
from rollcall.records.formats.csv_values import cells, columns, parse

__all__ = ["cells", "columns", "parse", "scan"]
