"""Carries out `unpod-async verify`."""

from __future__ import annotations

import time

from msgspec import to_builtins

from unpod_async._secrets import safe_text
from unpod_async.export._sink import sink_for
from unpod_async.export._state import Kind, Receipt

from ._outcome import Outcome
from ._run import finish

SHOWN = 20  # differences told in prose


def check(target: str, kind: Kind, *, as_json: bool) -> int:
    """Verify a target; gives the exit code."""
    outcome, began = Outcome("verify"), time.monotonic()
    try:
        sink = sink_for(target, kind)
        receipt, differences = sink.verify()
    except Exception as error:
        outcome.error = error
    else:
        outcome.path = sink.target
        outcome.rows = sum(table.rows for table in receipt.tables.values())
        outcome.cut_short = "limit"
        outcome.missing = f"{len(differences)} differences" if differences else None
        outcome.more = {"differences": differences, "receipt": to_builtins(receipt)}
        outcome.prose = _told(sink.target, receipt, differences)
    outcome.seconds = time.monotonic() - began
    return finish(outcome, quiet=False, as_json=as_json, json_to_stdout=True)


def _told(target: str, receipt: Receipt, differences: list[str]) -> str:
    rows = ", ".join(f"{name} {table.rows:,}" for name, table in receipt.tables.items())
    verdict = "verified" if receipt.verified else f"not proved: {receipt.reason}"
    receipt_says = f"{receipt.mode} of {receipt.ended}, {verdict}; {rows} rows"
    if not differences:
        return f"{safe_text(target)} is as its receipt says ({safe_text(receipt_says)})"
    lines = [f"{safe_text(target)} DIFFERS from its receipt ({safe_text(receipt_says)}):"]
    lines += [f"  {safe_text(one, limit=500)}" for one in differences[:SHOWN]]
    more = len(differences) - SHOWN
    return "\n".join(lines + ([f"  and {more} more"] if more > 0 else []))
