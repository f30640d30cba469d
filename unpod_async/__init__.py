"""Asyncio-first client for the Unpod voice platform.

```python
async with UnpodClient() as client:
    async for task in client.space("8KZAMRAHSXXXXXXMAYNASMJC").tasks():
        print(task.task_id, task.call.duration)
```
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._client import Check, RunHandle, SpaceHandle, UnpodClient
    from ._pages import InvalidRow, Page
    from ._paging import Listing
    from ._reading import Walk
    from ._report import Report
    from ._retry import Limits, RetryPolicy
    from ._run_tasks import RunTasks
    from ._secrets import Secret
    from ._stats import Event, Stats
    from ._version import __version__ as __version__
    from .errors import (
        APIError,
        Attempt,
        AuthenticationError,
        BadRequest,
        BusinessError,
        ConfigurationError,
        ConnectionFailed,
        DeadlineExceeded,
        DecodeError,
        ExportError,
        IncompleteWalk,
        NotFound,
        PermissionDenied,
        ProtocolError,
        RateLimited,
        RequestTimeout,
        ResponseTooLarge,
        ServerError,
        TransportError,
        UnexpectedRedirect,
        UnpodError,
    )
    from .models import Call, Contact, Organization, Run, Space, Task, Turn

_HOMES = {
    "_client": "Check RunHandle SpaceHandle UnpodClient",
    "_pages": "InvalidRow Page",
    "_paging": "Listing",
    "_reading": "Walk",
    "_report": "Report",
    "_retry": "Limits RetryPolicy",
    "_run_tasks": "RunTasks",
    "_secrets": "Secret",
    "_stats": "Event Stats",
    "_version": "__version__",
    "errors": "APIError Attempt AuthenticationError BadRequest BusinessError ConfigurationError "
    "ConnectionFailed DeadlineExceeded DecodeError ExportError IncompleteWalk NotFound "
    "PermissionDenied "
    "ProtocolError RateLimited RequestTimeout ResponseTooLarge ServerError TransportError "
    "UnexpectedRedirect UnpodError",
    "models": "Call Contact Organization Run Space Task Turn",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = [
    "APIError",
    "Attempt",
    "AuthenticationError",
    "BadRequest",
    "BusinessError",
    "Call",
    "Check",
    "ConfigurationError",
    "ConnectionFailed",
    "Contact",
    "DeadlineExceeded",
    "DecodeError",
    "Event",
    "ExportError",
    "IncompleteWalk",
    "InvalidRow",
    "Limits",
    "Listing",
    "NotFound",
    "Organization",
    "Page",
    "PermissionDenied",
    "ProtocolError",
    "RateLimited",
    "Report",
    "RequestTimeout",
    "ResponseTooLarge",
    "RetryPolicy",
    "Run",
    "RunHandle",
    "RunTasks",
    "Secret",
    "ServerError",
    "Space",
    "SpaceHandle",
    "Stats",
    "Task",
    "TransportError",
    "Turn",
    "UnexpectedRedirect",
    "UnpodClient",
    "UnpodError",
    "Walk",
]


def __getattr__(name: str) -> Any:
    """Names are loaded when first used (PEP 562), so that `--help` never pays for aiohttp."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
