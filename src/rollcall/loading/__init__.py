"""Load the parts of a file into Postgres: several connections, each in file order, each batch one transaction.

    part_reader   reads the stored file's parts in a thread, ahead of the loaders
    queue         what waits for a loader until it becomes a batch
    loader        one connection's way through an import: batch after batch
    seen          which keys this import may have met

`pipeline.py` puts them together. Nothing here decides what a Record is, or when an import ends.
"""
