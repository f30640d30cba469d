"""The import table of the package, and what its front door promises."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import unpod_async
from unpod_async import errors

PACKAGE = Path(unpod_async.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# Which of our modules each may import. A folder is one row, `_call` is part of `models`.
OURS = {
    "__init__": "_client _pages _paging _reading _report _retry _run_tasks _secrets _stats "
    "_version errors models",
    "errors": "",
    "_secrets": "",
    "models": "",
    "_pages": "models",
    "_protocol": "_secrets errors",
    "_report": "",
    "_windows": "_report",
    "_seen": "",
    "_crossing": "_seen _windows",
    "_checkpoint": "_report _windows errors",
    "_walk": "_checkpoint _crossing _report _seen _windows errors",
    "_retry": "errors",
    "_stats": "_report",
    "_version": "",
    "_gate": "_retry errors",
    "_patience": "",
    "_transport": "_gate _patience _protocol _retry _secrets _stats _version errors",
    "_fanout": "_stats errors",
    "_pager": "_checkpoint _pages _protocol _report _secrets _stats _walk _windows errors",
    "_reading": "_fanout _pager _report _retry _walk _windows errors",
    "_paging": "_checkpoint _pager _pages _protocol _reading _windows errors",
    "_run_tasks": "_fanout _pager _protocol _reading _report _stats _windows errors models",
    "_client": "_pager _pages _paging _protocol _reading _report _retry _run_tasks _secrets _stats "
    "_transport _windows errors models",
    "_missing": "errors",
    "export": "_client _missing _pages _paging _reading _report _run_tasks _secrets _seen _version "
    "errors models",
    "simulator": "",
    "cli": "__init__ _client _missing _pages _report _retry _secrets _version errors export models "
    "simulator",
    "integrations": "_protocol _report _stats _version errors",
}
# Who may import what of others; for types alone (`if TYPE_CHECKING`) anyone may.
OTHERS = {
    "aiohttp": {"_transport", "simulator"},
    "yarl": {"_transport"},
    "cyclopts": {"cli"},
    "pyarrow": {"export"},
    "duckdb": {"cli", "export"},
    "adbc_driver_manager": {"export"},
    "deltalake": {"export"},
    "rich": {"cli"},
    "pytest": {"simulator"},
    "opentelemetry": {"integrations"},
}


def row(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "models" if first == "_call" else first


def imports(path: Path, tree: ast.AST) -> Iterator[tuple[str, ...]]:
    """The absolute name of everything that is imported, in its parts."""
    package = ("unpod_async", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            home = (*base, *node.module.split(".")) if node.module else base
            yield from ((*home, alias.name) for alias in node.names)


class WithoutTypes(ast.NodeTransformer):
    def visit_If(self, node: ast.If) -> ast.AST:
        return ast.Pass() if ast.unparse(node.test) == "TYPE_CHECKING" else node


def test_every_module_has_a_row() -> None:
    assert {row(path) for path in FILES} == set(OURS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_keep_to_the_table(path: Path) -> None:
    tree = ast.parse(path.read_bytes())
    named = {(*name, "")[1] for name in imports(path, tree) if name[0] == "unpod_async"}
    ours = {"models" if name == "_call" else name for name in named}
    ours = {name if name in OURS else "__init__" for name in ours}
    assert ours - {row(path)} <= set(OURS[row(path)].split())
    others = {name[0] for name in imports(path, WithoutTypes().visit(tree))}
    assert {name for name in others & set(OTHERS) if row(path) not in OTHERS[name]} == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_concurrency_is_structured(path: Path) -> None:
    """Ruff bans these too, but a file that may import aiohttp is exempt from all its bans."""
    unstructured = r"asyncio\b.*\b(create_task|ensure_future|gather)\b|loop\.create_task"
    assert re.search(unstructured, path.read_text("utf-8")) is None


def test_importing_the_package_is_cheap() -> None:
    code = "import sys; old = set(sys.modules); import unpod_async; print(*set(sys.modules) - old)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    heavy = {"aiohttp", "yarl", "anyio", "backoff", "msgspec", "cyclopts", "rich", "opentelemetry"}
    assert heavy & {name.split(".")[0] for name in loaded.stdout.split()} == set()


def test_every_public_name_resolves() -> None:
    assert unpod_async.__all__ == sorted(unpod_async.__all__)
    assert set(unpod_async.__all__) <= set(dir(unpod_async))
    for name in unpod_async.__all__:
        assert getattr(unpod_async, name).__name__ == name
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = unpod_async.no_such_name


def test_every_error_is_exported() -> None:
    defined = {name for name, value in vars(errors).items() if is_defined_in_errors(value)}
    assert set(errors.__all__) == defined
    assert defined <= set(unpod_async.__all__)


def is_defined_in_errors(value: object) -> bool:
    return isinstance(value, type) and value.__module__ == errors.__name__
