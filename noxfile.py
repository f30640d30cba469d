"""The gates of this project: `nox -l` lists them, `nox` runs them all, `nox -r` keeps the
environments of the last time, `nox -j 1` runs one at a time and shows what it does. Tests run on
the built and installed wheel, never on the checkout.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from glob import glob
from pathlib import Path

import nox

nox.needs_version = ">=2026.8.10"
nox.options.default_venv_backend = "uv|virtualenv"  # uv only makes it faster
nox.options.error_on_external_run = True
nox.options.allow_parallel = True
nox.options.parallel = (os.cpu_count() or 1) + 1  # one waits now and then: for a process, a disk
nox.options.sessions = ["lint", "types", "lowest", "tests", "docs", "bare"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
# Without the current directory on sys.path, so that `unpod_async` is the installed one.
INSTALLED = {"PYTHONSAFEPATH": "1"}
# The docs session runs these, once: what they compare with may look otherwise elsewhere.
NOT_DOCS = "--ignore=tests/test_docs.py"
NOT_ONCE = ("-m", "not once")


def candidates(version: str) -> Iterator[str]:
    """Where an interpreter of this version may be."""
    for folder in os.get_exec_path():
        yield str(Path(folder, f"python{version}"))
    root = os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv"
    yield from sorted(glob(f"{root}/versions/{version}.*/bin/python"), reverse=True)
    yield sys.executable


def is_usable(path: str, version: str) -> bool:
    """Whether it really runs: a shim may stand for an interpreter that is not installed."""
    code = "import ssl, sys; print('%d.%d' % sys.version_info[:2])"
    try:
        ran = subprocess.run([path, "-c", code], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return False
    return ran.stdout.strip() == version


def interpreters() -> dict[str, str]:
    """The supported versions that this machine has, and the one that runs this; and where."""
    versions = [*nox.project.python_versions(PYPROJECT), "{}.{}".format(*sys.version_info)]
    usable = {v: next((p for p in candidates(v) if is_usable(p, v)), "") for v in versions}
    return {version: path for version, path in usable.items() if path}


FOUND = interpreters()
EACH = [nox.param(path, id=version) for version, path in FOUND.items()]


def requirements(*groups: str) -> list[str]:
    return list(nox.project.dependency_groups(PYPROJECT, *groups))


def wheel(session: nox.Session) -> str:
    (path,) = Path(session.cache_dir, "dist").resolve().glob("*.whl")
    return path.as_uri()


def install(session: nox.Session, *groups: str, extras: str = "[all]") -> None:
    session.install(f"unpod-async{extras} @ {wheel(session)}", *requirements(*groups))
    # An environment that is used again has the wheel of the last time under the same version.
    session.install("--no-deps", "--force-reinstall", f"unpod-async @ {wheel(session)}")


@nox.session
def build(session: nox.Session) -> None:
    """Build the wheel (and the sdist) that the other sessions install."""
    dist = Path(session.cache_dir, "dist")
    for old in dist.glob("*"):
        old.unlink()
    session.install(*requirements("build"))
    session.run("hatchling", "build", "-d", str(dist), silent=True)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, banned imports, format."""
    session.install(*requirements("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session(requires=["build"])
def types(session: nox.Session) -> None:
    """mypy strict on the package; the public API as mypy and pyright see it."""
    install(session, "types", "test")
    session.run("mypy")
    session.env["PYRIGHT_PYTHON_IGNORE_WARNINGS"] = "1"
    with session.chdir("tests/typing"):  # from where `unpod_async` is the installed one
        session.run("mypy", "--strict", "api.py")
        session.run("pyright", "api.py")


@nox.session(requires=["build"])
def docs(session: nox.Session) -> None:
    """The README's generated parts are up to date, and its code runs."""
    install(session, "test")
    session.run("python", "tests/readme.py", "--check", env=INSTALLED)
    session.run("pytest", "tests/test_docs.py", *session.posargs, env=INSTALLED)


@nox.session(requires=["build"])
def bare(session: nox.Session) -> None:
    """Without extras: all names import, the command says what it lacks, the core works."""
    install(session, extras="")
    imports = "from unpod_async import *; from unpod_async.simulator import *"
    session.run("python", "-W", "error", "-c", imports, env=INSTALLED)
    said = session.run("unpod-async", "tasks", success_codes=[2], silent=True, env=INSTALLED)
    if 'pip install "unpod-async[cli]"' not in str(said):
        session.error(f"without its extra the command says: {said}")
    session.install(*requirements("test"))
    core = ("architecture", "client", "models")
    session.run("pytest", *(f"tests/test_{name}.py" for name in core), env=INSTALLED)


@nox.session(requires=["build"])
@nox.parametrize("python", EACH[:1])
def lowest(session: nox.Session) -> None:
    """The lowest versions that we say we work with, on the oldest interpreter."""
    project = PYPROJECT["project"]
    extras = dict(project["optional-dependencies"])
    del extras["all"]  # which names this package itself
    direct = [*project["dependencies"], *(one for extra in extras.values() for one in extra)]
    session.install(*requirements("lowest"))
    uv = ("uv", "pip", "install", "--compile-bytecode", "--python", session.virtualenv.location)
    session.run(*uv, "--resolution", "lowest-direct", *direct, *requirements("test"), silent=True)
    session.run(*uv, "--no-deps", "--reinstall", f"unpod-async @ {wheel(session)}", silent=True)
    pytest(session, *NOT_ONCE)


@nox.session(requires=["build"])
@nox.parametrize("python", EACH[::-1])
def tests(session: nox.Session) -> None:
    """All tests on the newest interpreter but one; on the newest with branch coverage and its
    floor, and there and on the others without those that one interpreter runs for all. On the
    oldest those of the drivers are left to `lowest`."""
    install(session, "test")
    chosen = session.posargs or {
        EACH[0].args[0]: ("-m", "not once and not drivers"),
        EACH[-1].args[0]: NOT_ONCE,
        EACH[-2:][0].args[0]: (),
    }.get(session.python, NOT_ONCE)
    if session.python != EACH[-1].args[0] or session.posargs:
        pytest(session, *chosen)
        return
    session.env["COVERAGE_FILE"] = str(Path(session.cache_dir, "coverage").resolve())
    session.run("coverage", "run", "-m", "pytest", NOT_DOCS, *chosen, env=INSTALLED)
    session.run("coverage", "report")


def pytest(session: nox.Session, *options: str) -> None:
    session.run("pytest", NOT_DOCS, *options, env=INSTALLED)


@nox.session(requires=["build"])
def soak(session: nox.Session) -> None:
    """Not a gate: reads from a changing, failing platform for 15 minutes, `-- 5` for five."""
    install(session)
    session.run("python", "-W", "error", "benchmarks/soak.py", *session.posargs, env=INSTALLED)


@nox.session(requires=["build"])
def proof(session: nox.Session) -> None:
    """Not a gate: walks 10,000 random changing lists in three ways, `-- 500` that many."""
    install(session)
    session.run("python", "-W", "error", "benchmarks/proof.py", *session.posargs, env=INSTALLED)


@nox.session(requires=["build"])
def durability(session: nox.Session) -> None:
    """Not a gate: kills exports 200 times a destination, `-- 20` that often; the contract of
    destinations once more, of an object store."""
    install(session, "test", "store")
    beside = ("python", "benchmarks/store.py")
    contract = ("pytest", "tests/test_sink_contract.py", "-k", "store")
    session.run(*beside, *contract, env=INSTALLED)
    kills = ("python", "-W", "error", "benchmarks/kills.py", *session.posargs)
    session.run(*beside, *kills, env=INSTALLED)


@nox.session(requires=["build"])
def bench(session: nox.Session) -> None:
    """Not a gate: the library beside its peers, `-- --quick` in under three minutes."""
    install(session, "bench")
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session(requires=["build"], name="export-bench")
def export_bench(session: nox.Session) -> None:
    """Not a gate: exports beside a dlt pipeline, `-- --quick` with fewer rows."""
    install(session, "bench")
    session.run("python", "-m", "benchmarks.exports", *session.posargs)


@nox.session(requires=["build"])
def million(session: nox.Session) -> None:
    """Not a gate: exports 1,000,000 tasks, watching memory, `-- 50000` that many."""
    install(session)
    session.run("python", "benchmarks/million.py", *session.posargs, env=INSTALLED)
