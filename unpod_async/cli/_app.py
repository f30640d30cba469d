"""The commands. Each is imported only when it is named, and none for `--help`."""

from __future__ import annotations

import sys

from cyclopts import App, CycloptsError

from .._secrets import safe_text
from ._outcome import EXIT_CODES

HELP = """Calls of an Unpod space, every task once and none missing: to the screen or into a file.

The token comes from UNPOD_API_TOKEN, or from a file by --token-file; never from the command
line. Data goes to stdout, everything else to stderr.

Exit codes:
"""


def make_app() -> App:
    codes = "\n".join(f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items())
    app = App(
        name="unpod-async",
        help=HELP + codes,
        help_format="plaintext",
        help_formatter="plain",
        version=_version,
    )
    commands = {
        "tasks": "Print all tasks of a space, or of one run, as JSON Lines.",
        "runs": "Print all runs of a space as JSON Lines.",
        "spaces": "Print the organization's spaces as JSON Lines.",
        "export": "Write all tasks or runs of a space into a file.",
        "simulate": "Serve a simulated Unpod platform on this machine.",
        "demo": "Show the main job without a network: export a list while it changes.",
    }
    for order, (name, help_text) in enumerate(commands.items()):
        attribute = "app" if name == "export" else name
        app.command(
            f"unpod_async.cli.{name}:{attribute}", name=name, help=help_text, sort_key=order
        )
    return app


def run(arguments: list[str]) -> int:
    """Run a command; gives its exit code."""
    app = make_app()
    try:
        code = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        command = " ".join(("unpod-async", *(error.command_chain or ())))
        message = " ".join(str(error).split())
        sys.stderr.write(f"{safe_text(message)} (see `{command} --help`)\n")
        return 2
    return code if isinstance(code, int) else 0


def _version() -> str:
    from importlib.metadata import version

    return version("unpod-async")
