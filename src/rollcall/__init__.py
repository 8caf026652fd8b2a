"""Rollcall brings contact files of any size into Postgres and answers for every record.

The floors, from the top; nothing imports what stands above it (the contract in `pyproject.toml` fails the build):

    doors       cli · app worker client · web/*      the only ones that read settings
    stories     pipeline receive control sweep · loading/ slots segment_writer · only they and doors open transactions
    keepers     imports ledger uploads contacts rejects workers keys      one table family each, all its SQL
    words       options
    schema      migrations/                          numbered files; adopts a contacts table from before
    library     records/                             bytes in, Parts out; knows no table
    machines    storage/ database binary_copy embedded/
    ground      settings · errors telemetry waiting process

Read `pipeline` first: it fits one screen.
"""

__version__ = "0.1.0"
