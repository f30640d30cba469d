"""The picture: CPU time a task of each client, one panel for each workload, as plain SVG."""

from __future__ import annotations

from html import escape
from typing import NamedTuple

from .harness import Ratio

WIDTH, LABEL, BAR, GAP, TOP = 760, 210, 18, 8, 58
ROOM = WIDTH - LABEL - 190  # for the longest bar
SHOWN = {
    "ours": "unpod-async, proved complete",
    "ours, task.call": "unpod-async, every call read",
    "aiohttp + full decode": "aiohttp + msgspec",
    "niquests + full decode": "niquests + msgspec",
    "requests + dicts": "requests, dicts",
    "dlt": "dlt, dicts",
    "httpx + pydantic": "httpx + pydantic",
    "(b) raw + full decode": "limit: sockets + full decode",
}
OURS = ("ours", "ours, task.call")
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f; }
.title { font-weight: 600; } .note { fill: #57606a; font-size: 12px; }
.bar { fill: #a8b3bf; } .ours { fill: #1a7f5a; } .limit { fill: #d0d7de; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; } .note { fill: #9198a1; }
  .bar { fill: #59636e; } .ours { fill: #3fb98a; } .limit { fill: #3d444d; }
}
"""


class Panel(NamedTuple):
    title: str
    costs: dict[str, Ratio]


def draw(panels: list[Panel], note: str) -> str:
    """Bars are to scale within a panel; the figure beside a bar is its multiple of ours."""
    parts: list[str] = []
    at = 0
    for panel in panels:
        parts += _panel(panel, at)
        at += _height(panel)
    parts.append(f'<text class="note" x="16" y="{at + 22}">{escape(note)}</text>')
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {at + 38}" '
        f'width="{WIDTH}" height="{at + 38}" role="img" aria-label="{escape(_spoken(panels))}">'
    )
    return "\n".join([head, f"<style>{STYLE}</style>", *parts, "</svg>", ""])


def _shown(panel: Panel) -> list[tuple[str, float]]:
    """Cheapest first, ours before all."""
    found = [(name, panel.costs[name].median) for name in SHOWN if name in panel.costs]
    return sorted(found, key=lambda one: (one[0] not in OURS, one[1]))


def _height(panel: Panel) -> int:
    return TOP + len(_shown(panel)) * (BAR + GAP)


def _panel(panel: Panel, at: int) -> list[str]:
    bars = _shown(panel)
    ours = panel.costs["ours"].median
    longest = max(cost for _, cost in bars)
    parts = [f'<text class="title" x="16" y="{at + 38}">{escape(panel.title)}</text>']
    for index, (name, cost) in enumerate(bars):
        y = at + TOP + index * (BAR + GAP)
        kind = "ours" if name in OURS else "limit" if name.startswith("(b)") else "bar"
        wide = max(2.0, cost / longest * ROOM)
        said = f"{cost:,.0f} µs" if name == "ours" else f"{cost:,.0f} µs, {cost / ours:.1f} times"
        parts += [
            f'<text x="{LABEL - 8}" y="{y + 14}" text-anchor="end">{escape(SHOWN[name])}</text>',
            f'<rect class="{kind}" x="{LABEL}" y="{y}" width="{wide:.1f}" height="{BAR}" rx="3"/>',
            f'<text x="{LABEL + wide + 8:.1f}" y="{y + 14}">{said}</text>',
        ]
    return parts


def _spoken(panels: list[Panel]) -> str:
    """The same in words, for who does not see it."""
    said = (
        f"{panel.title}: "
        + ", ".join(f"{SHOWN[name]} {cost:.1f} microseconds" for name, cost in _shown(panel))
        for panel in panels
    )
    return ". ".join(said)
