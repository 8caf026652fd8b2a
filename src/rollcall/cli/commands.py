"""The commands: what they are called, what they take, what their help says. What they do lies beside, one file each.

Nothing heavy is imported before a command runs, so that every `--help` is quick. A flag stands over the environment's
setting of the same name. Exit status: 0 done, 1 failed, 2 wrongly called. Errors are one message on stderr.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from rollcall import __version__
from rollcall.cli.terminal import printable
from rollcall.errors import RollcallError

NEWLINE = "\n"


class Commands(TyperGroup):
    """Every command's errors end here: one message, no traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except RollcallError as error:
            raise typer.Exit(_say(str(error), error.issues)) from None
        except KeyboardInterrupt:
            raise typer.Exit(_say("Interrupted.")) from None
        except BrokenPipeError:
            raise  # whoever reads the output has enough; typer knows what to do
        except OSError as error:
            raise typer.Exit(_say(f"{error.filename or 'rollcall'}: {error.strerror or error}")) from None
        except Exception as error:
            if hasattr(error, "exit_code"):  # typer's own way of saying how it was called wrongly
                raise
            from rollcall.telemetry import where

            fault = f"{type(error).__name__} at {where(error)}"
            raise typer.Exit(_say(f"Rollcall did not foresee this ({fault}). Please report it.")) from None


def _say(message: str, issues: list[dict[str, Any]] | None = None) -> int:
    typer.echo(f"Error: {printable(message, keep=NEWLINE)}", err=True)
    for issue in issues or []:
        typer.echo(f"  {printable(issue['message'])}", err=True)
    return 1


app = typer.Typer(
    cls=Commands,
    help="Brings contact files of any size into Postgres and answers for every record.",
    epilog="Example: rollcall import contacts.csv --source crm",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _regular(file: Path) -> Path:
    if str(file) != "-" and not file.exists():
        raise typer.BadParameter(f"file '{file}' does not exist.")
    if str(file) != "-" and not file.is_file():
        kind = "is a directory" if file.is_dir() else "is not a regular file"
        raise typer.BadParameter(f"{file} {kind}.")
    return file


def _fits(source: str) -> str:
    return _label(source, "source")


def _label(text: str, what: str) -> str:
    from rollcall.options import check_label

    try:
        return check_label(text, what)
    except RollcallError as error:
        raise typer.BadParameter(str(error)) from None


def _sent(key: str | None) -> str | None:
    if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
        raise typer.BadParameter("that is not an API key; one looks like rk_…")
    return key


def _printed(name: str) -> str:
    return _label(name, "name")


def _fit(sources: list[str] | None) -> list[str] | None:
    return [_fits(source) for source in sources] if sources else None


File = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        callback=_regular,
        exists=True,
        dir_okay=False,
        readable=True,
        help="CSV, TSV, JSON or NDJSON; also .gz and .zst.",
    ),
]
FileOrStdin = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        callback=_regular,  # typer looks for a file of this name where `-` stands for standard input
        help="CSV, TSV, JSON or NDJSON; also .gz and .zst; - for standard input.",
    ),
]
DataDir = Annotated[Path | None, typer.Option(metavar="DIR", help="Stored files and the embedded Postgres (DATA_DIR).")]
Mapping = Annotated[
    str | None,
    typer.Option(metavar="JSON", help='Columns: {"email": "E-Mail", "name": ["First", "Last"]}. [default: guessed]'),
]
Format = Annotated[
    Literal["csv", "tsv", "json", "ndjson"] | None,
    typer.Option("--format", help="What the file is. [default: detected]"),
]
Service = Annotated[
    str | None, typer.Option("--to", metavar="URL", help="The service. [default: http://127.0.0.1:PORT]")
]
Key = Annotated[
    str | None,
    typer.Option(metavar="KEY", envvar="ROLLCALL_API_KEY", callback=_sent, help="The service's API key."),
]
KeyName = Annotated[str, typer.Argument(metavar="NAME", callback=_printed, help="What the key is called.")]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"rollcall {__version__}")
        raise typer.Exit


@app.callback()
def rollcall(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: rollcall up --port 8080")
def up(
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen on (HOST); all but loopback need an API key. [default: 127.0.0.1]"),
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (PORT). [default: 3000]")] = None,
    data_dir: DataDir = None,
) -> None:
    """Run the whole service until Ctrl-C.

    That is Postgres (unless DATABASE_URL is set), the API and a worker.
    """
    from rollcall import settings
    from rollcall.cli import up as story

    story.run(settings.read(host=host, port=port, data_dir=data_dir))


@app.command(epilog="Example: DATABASE_URL=postgresql://localhost/rollcall rollcall api")
def api() -> None:
    """Run the API alone, on DATABASE_URL."""
    import asyncio

    from rollcall import app as api
    from rollcall import settings
    from rollcall.cli import up as story

    read = settings.read()
    url = story.given_database(read)
    asyncio.run(story.refuse_public(read, url))
    api.serve(read, url)


@app.command(epilog="Example: DATABASE_URL=postgresql://localhost/rollcall rollcall worker --once")
def worker(
    once: Annotated[bool, typer.Option("--once", help="Stop when nothing is left to do.")] = False,
) -> None:
    """Run a worker alone, on DATABASE_URL.

    SIGTERM gives its imports back, for the next worker to go on with.
    """
    import asyncio

    from rollcall import settings, telemetry, worker
    from rollcall.cli import up as story

    read = settings.read()
    telemetry.configure(read.log_format)
    asyncio.run(worker.run(read, story.given_database(read), once=once))


@app.command(epilog="Example: DATABASE_URL=postgresql://localhost/rollcall rollcall migrate")
def migrate(
    keep_newest: Annotated[
        bool,
        typer.Option("--keep-newest", help="Of contacts from before with one source and email, delete the older ones."),
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Bring the database up to this version.

    `up` and `import` do it by themselves. A table public.contacts that is there already is adopted.
    """
    import asyncio

    from rollcall import migrations, settings, telemetry
    from rollcall.cli import up as story

    telemetry.configure("console")
    with story.database(settings.read(data_dir=data_dir)) as url:
        applied = asyncio.run(migrations.migrate(url, keep_newest=keep_newest))
    typer.echo("\n".join(f"applied {name}" for name in applied) or "nothing to apply")


@app.command("import", epilog="Example: rollcall import contacts.csv --source crm --on-duplicate skip")
def import_(
    file: FileOrStdin,
    source: Annotated[
        str, typer.Option(metavar="NAME", callback=_fits, help="Where the contacts come from; every source is a list.")
    ],
    on_invalid: Annotated[
        Literal["reject", "fail"], typer.Option(help="An invalid record: reject it, or fail before any is written.")
    ] = "reject",
    on_duplicate: Annotated[
        Literal["update", "skip"], typer.Option(help="A contact that is there: update it, or skip the record.")
    ] = "update",
    mapping: Mapping = None,
    format_: Format = None,
    max_rejects: Annotated[
        str | None, typer.Option(metavar="N", help="Fail when more are rejected: a count, or a share such as 5%.")
    ] = None,
    to: Annotated[str | None, typer.Option(metavar="URL", help="Send it to a running service.")] = None,
    key: Key = None,
    data_dir: DataDir = None,
) -> None:
    """Import a file; account for every record.

    What was rejected is written to FILE.rejects.csv.
    """
    from rollcall import settings
    from rollcall.cli import files, load

    options = _given(
        onInvalid=on_invalid, onDuplicate=on_duplicate, mapping=mapping, format=format_, maxRejects=max_rejects
    )
    with files.readable(file) as given:
        if to is None:
            succeeded = load.import_locally(given, source, options, settings.read(data_dir=data_dir))
        else:
            succeeded = load.import_by_service(given, source, options, to, key)
    raise typer.Exit(0 if succeeded else 1)


@app.command(epilog="Example: rollcall check contacts.csv")
def check(file: File, mapping: Mapping = None, format_: Format = None) -> None:
    """Read a file, say what an import would do.

    Needs no database and writes nothing.
    """
    from rollcall.cli import check as story

    raise typer.Exit(0 if story.run(file, _given(mapping=mapping, format=format_)) else 1)


@app.command(epilog="Example: rollcall status 01989e0c-5b9e-7cc3-a1f0-0a4c7f3f1d11")
def status(
    job: Annotated[
        str | None, typer.Argument(metavar="JOB", help="The jobId of one import. [default: the latest]")
    ] = None,
    to: Service = None,
    key: Key = None,
) -> None:
    """Show the imports of a running service."""
    from rollcall.cli import ask

    ask.status(job, to or _own_service(), key)


@app.command(epilog="Example: rollcall rejects 01989e0c-5b9e-7cc3-a1f0-0a4c7f3f1d11 --output bad.csv")
def rejects(
    job: Annotated[str, typer.Argument(metavar="JOB", help="The jobId of the import.")],
    format_: Annotated[
        Literal["csv", "records", "ndjson"],
        typer.Option("--format", help="csv: the file's own columns; records: the same as NDJSON; ndjson: exact."),
    ] = "csv",
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", dir_okay=False, help="A new file. [default: stdout]")
    ] = None,
    to: Service = None,
    key: Key = None,
) -> None:
    """Fetch the rejected records of an import.

    From a running service; each with the reason.
    """
    from rollcall.cli import ask

    ask.rejects(job, format_, output, to or _own_service(), key)


keys = typer.Typer(no_args_is_help=True, rich_markup_mode=None, epilog="Example: rollcall keys create crm --source crm")
app.add_typer(keys, name="keys", help="Create, list and revoke API keys.")


@keys.command("create", epilog="Example: rollcall keys create crm --source crm")
def create_key(
    name: KeyName,
    source: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", callback=_fit, help="Only for this source; may be repeated. [default: all]"),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Make an API key and print it, once.

    From the first one on, the API answers nobody without a key.
    """
    from rollcall import settings
    from rollcall.cli import keys as story

    story.create(name, source, settings.read(data_dir=data_dir))


@keys.command("list", epilog="Example: rollcall keys list")
def list_keys(data_dir: DataDir = None) -> None:
    """List the keys; never their secrets."""
    from rollcall import settings
    from rollcall.cli import keys as story

    story.list_(settings.read(data_dir=data_dir))


@keys.command("revoke", epilog="Example: rollcall keys revoke crm")
def revoke_key(name: KeyName, data_dir: DataDir = None) -> None:
    """Revoke a key: it stops working at once, and its name is not used again."""
    from rollcall import settings
    from rollcall.cli import keys as story

    story.revoke(name, settings.read(data_dir=data_dir))


def _given(**options: str | None) -> dict[str, str]:
    return {name: text for name, text in options.items() if text is not None}


def _own_service() -> str:
    from rollcall import settings

    return f"http://127.0.0.1:{settings.read().port}"
