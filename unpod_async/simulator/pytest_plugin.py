"""The fixture `unpod_simulator`: a running simulator, shaped by a marker of the same name.

```python
@pytest.mark.unpod_simulator(tasks=500, latency=0.01)
def test_mine(unpod_simulator): ...
```
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ._server import Simulator


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "unpod_simulator(**options): options of the unpod_simulator fixture"
    )


@pytest.fixture
def unpod_simulator(request: pytest.FixtureRequest) -> "Iterator[Simulator]":
    """A running `Simulator` with 5 runs and 120 tasks, in a thread of its own."""
    from ._server import Simulator

    marker = request.node.get_closest_marker("unpod_simulator")
    with Simulator(**{"runs": 5, "tasks": 120, **(marker.kwargs if marker else {})}) as simulator:
        yield simulator
