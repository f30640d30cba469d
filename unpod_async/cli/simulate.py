"""`unpod-async simulate`."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from unpod_async.errors import ConfigurationError

if TYPE_CHECKING:
    from unpod_async.simulator import Simulator

Whole = Annotated[int, Parameter(validator=Number(gte=0))]
Amount = Annotated[float, Parameter(validator=Number(gte=0))]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Platform:
    """What the simulated platform is like."""

    port: Annotated[
        int, Parameter(validator=Number(gte=0, lte=65535), help="Port; 0 takes any.")
    ] = 8765
    runs: Annotated[Whole, Parameter(help="Runs at the start.")] = 50
    tasks: Annotated[Whole, Parameter(help="Tasks at the start.")] = 20_000
    seed: Annotated[int, Parameter(help="The same seed makes the same rows.")] = 0
    mean_turns: Annotated[Amount, Parameter(help="Turns of an average conversation.")] = 6
    latency: Annotated[Amount, Parameter(help="Seconds that each answer takes.")] = 0
    per_row_latency: Annotated[Amount, Parameter(help="... and for each row in it.")] = 0
    churn_inserts: Annotated[Amount, Parameter(help="New tasks with each list request.")] = 0
    churn_deletes: Annotated[Amount, Parameter(help="Deleted tasks with each.")] = 0
    churn_updates: Annotated[Amount, Parameter(help="Changed tasks with each.")] = 0
    page_cap: Annotated[
        int | None, Parameter(validator=Number(gte=1), help="Most rows in an answer.")
    ] = None

    def simulator(self) -> Simulator:
        from unpod_async.simulator import Churn, Simulator

        if self.tasks and not self.runs:
            raise ConfigurationError("tasks belong to runs: --tasks needs --runs")
        return Simulator(
            port=self.port,
            runs=self.runs,
            tasks=self.tasks,
            seed=self.seed,
            mean_turns=self.mean_turns,
            latency=self.latency,
            per_row_latency=self.per_row_latency,
            max_page_size=self.page_cap,
            churn=Churn(
                inserts=self.churn_inserts, deletes=self.churn_deletes, updates=self.churn_updates
            ),
        )


DEFAULTS = Platform()


def simulate(*, platform: Platform = DEFAULTS) -> int:
    """Serve a simulated platform until a signal comes; gives the exit code."""
    import anyio

    from ._outcome import Outcome
    from ._run import finish, run
    from ._terminal import write_stdout

    outcome = Outcome("simulate")

    async def work() -> None:
        async with platform.simulator() as simulator:
            write_stdout(introduction(simulator).encode())
            await anyio.sleep_forever()

    run(outcome, work)
    if outcome.signal == signal.SIGINT:  # the usual end
        return 0
    return finish(outcome, quiet=True, as_json=False)


def introduction(simulator: Simulator) -> str:
    """What to tell a shell so that other commands talk to the simulator."""
    return f"""\
# a simulated platform with {len(simulator.world):,} tasks, until Ctrl-C
export UNPOD_BASE_URL={simulator.base_url}
export UNPOD_API_TOKEN={simulator.token}
export UNPOD_SPACE_TOKEN={simulator.space_token}
export UNPOD_ORG_HANDLE={simulator.org_handle}
"""
