"""Nothing in the README is typed by hand that can be generated, and its code runs."""

from __future__ import annotations

import ast
import asyncio
import re
from pathlib import Path

import pytest
import readme

from unpod_async.simulator import Simulator

ROOT = Path(__file__).parent.parent
README = readme.README.read_text("utf-8")
FENCE = re.compile(r"(?ms)^(?:<!-- not run: (?P<reason>.+?) -->\n+)?```python\n(?P<code>.*?)^```$")
BLOCKS = [
    pytest.param(
        # As many empty lines as the README has above, so that a traceback names its line.
        "\n" * line + block["code"],
        block["reason"],
        id=f"line {line + 1}",
    )
    for block in FENCE.finditer(README)
    for line in [README.count("\n", 0, block.start("code"))]
]


@pytest.mark.parametrize("name", sorted(readme.PARTS))
def test_the_generated_parts_are_up_to_date(name: str) -> None:
    (part,) = (part for part in readme.MARKED.finditer(README) if part[2] == name)
    assert part[0] == readme.renewed(part[0]), "run `python tests/readme.py`"


def test_every_mark_is_known() -> None:
    assert set(re.findall(r"<!-- (?:generated|end): (\S+) -->", README)) == set(readme.PARTS)


@pytest.mark.parametrize(("code", "reason"), BLOCKS)
def test_the_python_blocks_run(
    code: str, reason: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A block that awaits at its top level runs in a loop, any other as the module it is."""
    program = compile(code, "README.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    if reason:
        return
    monkeypatch.chdir(tmp_path)
    with Simulator(seed=1, runs=5, tasks=120) as simulator:
        monkeypatch.setenv("UNPOD_API_TOKEN", simulator.token)
        monkeypatch.setenv("UNPOD_BASE_URL", simulator.base_url)
        monkeypatch.setenv("UNPOD_ORG_HANDLE", simulator.org_handle)
        monkeypatch.setenv("UNPOD_SPACE_TOKEN", simulator.space_token)
        if (awaitable := eval(program, {"__name__": "__main__"})) is not None:
            asyncio.run(awaitable)


def test_the_readme_has_the_command_that_ci_runs() -> None:
    command = (ROOT / ".ci" / "run").read_text("utf-8").rstrip().splitlines()[-1]
    assert f"\n{command}\n" in README
