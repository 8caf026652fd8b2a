"""Load the parts of a file into Postgres: several connections, each in file order, each batch one transaction.

    attempt       what one attempt works with
    check         the check pass of onInvalid=fail
    load_plan     what is decided once for an import, and frozen on it
    load          reader, queues and loaders together
    part_reader   reads the stored file's parts in a thread, ahead of the loaders
    queue         what waits for a loader until it becomes a batch
    batch         what a loader commits in one transaction
    loader        one connection's way through an import: batch after batch
    partition     which loader gets which contacts; a batch folded to one row a key
    seen          which keys this import has met
    not_storable  contacts that Postgres cannot store become Rejects
    refusal       what it means that the table contacts does not take what it is given
    retries       how long an error that may pass is waited out
    progress      an attempt that stands still is ended

`pipeline.py` puts them together. Nothing here decides what a Record is, or when an import ends.
"""
