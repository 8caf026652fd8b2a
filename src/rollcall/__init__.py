"""Rollcall brings contact files of any size into Postgres and answers for every record.

The floors, from the top. A module imports only from floors below its own; the contract in `pyproject.toml` fails the
build otherwise.

    doors       cli · app worker client · web/*      the only ones that read settings
    stories     pipeline receive control sweep export · loading/ slots segment_writer     they begin transactions
    keepers     imports ledger uploads contacts contact_pages rejects workers keys        each has all SQL of its tables
    words       options
    schema      migrations/                          numbered files; adopts an existing contacts table
    library     records/                             bytes in, Parts out; knows no table
    machines    pool · storage/ database binary_copy embedded/
    ground      settings · errors telemetry waiting process liveness

Read `pipeline` first. The words are those of docs/glossary.md.
"""

__version__ = "0.1.0"
