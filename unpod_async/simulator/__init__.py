"""A Unpod platform of your own: a real HTTP server that behaves like it, for tests and demos.

```python
async with Simulator(seed=1, runs=50, tasks=20_000) as sim:  # or `with`, from plain code
    ...  # point any client at sim.base_url with sim.token and sim.space_token
```
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._lists import Churn
    from ._messages import Reply, Request
    from ._server import Simulator
    from ._state import Event
    from .world import World

__all__ = ["Churn", "Event", "Reply", "Request", "Simulator", "World"]

_HOMES = {
    "Churn": "_lists",
    "Event": "_state",
    "Reply": "_messages",
    "Request": "_messages",
    "Simulator": "_server",
    "World": "world",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
