"""The commands. Each is imported only when it is named, and none for `--help`."""

from __future__ import annotations

from cyclopts import App, CycloptsError

from unpod_async._secrets import safe_text
from unpod_async._version import __version__

from ._outcome import EXIT_CODES, code_of, told
from ._terminal import tell

HELP = """All calls of an Unpod space, each once and none missing.

The token comes from UNPOD_API_TOKEN, or from a file by --token-file, never
from the command line. Data goes to stdout, everything else to stderr.

Exit codes:
"""


COMMANDS = {
    "tasks": """Print all tasks of a space, or of one run, as JSON Lines.

Newest first, each once, as the server sent it.""",
    "runs": """Print all runs of a space as JSON Lines.

Newest first, each once, as the server sent it.""",
    "spaces": """Print the organization's spaces as JSON Lines.

Their `token` is what --space takes. Needs the organization's handle.""",
    "export": """Write all tasks or runs of a space into files or a database.

TARGET is a file .parquet .jsonl .jsonl.gz .jsonl.zst .csv .arrow, a folder of
such parts (a / at the end), a database .duckdb .sqlite, postgresql://HOST/NAME,
or delta:PATH; s3://, gs:// and abfs:// stand for a path of files or delta.

Tasks fill two tables: tasks, with the call flattened and the parts as JSON, and
transcript_turns. Rows and checkpoint are written together: killed at any moment
and run again, the same command goes on, loses no row and repeats none. Run
again when finished, it reads what is new and what had not settled (--settle).
A file (mode 0600: it holds people's data) gets its name when it is complete,
with exit code 0, or 5 if that is not proved; with rows known to be missing
(3) it is called TARGET.partial. The receipt is beside it, or in the database.""",
    "verify": """Hold what an export left against its receipt.

Rows, files and content are read again; exit code 3 and what differs if they do.""",
    "simulate": """Serve a simulated Unpod platform on this machine.

Prints the lines that point `unpod-async` at it, until Ctrl-C.""",
    "demo": """Show the main job without a network: export a list while it changes.

A simulated platform inserts and deletes tasks while they are read, by a walk
into DuckDB and run by run into JSON Lines. Both are compared with its log, and
with what a plain page loop gets; then the database is asked a question.""",
}


def make_app() -> App:
    codes = "\n".join(f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items())
    app = App(
        name="unpod-async",
        help=HELP + codes,
        help_format="plaintext",
        help_formatter="plain",
        version=__version__,
    )
    for order, (name, text) in enumerate(COMMANDS.items()):
        attribute = "app" if name == "export" else name
        app.command(f"{__package__}.{name}:{attribute}", name=name, help=text, sort_key=order)
    return app


def run(arguments: list[str]) -> int:
    """Run a command; gives its exit code."""
    app = make_app()
    try:
        code = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        command = " ".join(("unpod-async", *(error.command_chain or ())))
        message = " ".join(str(error).split())
        tell(f"error: {safe_text(message)} (see `{command} --help`)")
        return 2
    except Exception as error:
        tell(f"error: {told(error)}")
        return code_of(error)
    return code if isinstance(code, int) else 0
