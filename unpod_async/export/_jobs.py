"""What is asked for, as the job that it is and the sources that read it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct

from unpod_async._client import SpaceHandle
from unpod_async._paging import Listing
from unpod_async.errors import ConfigurationError

from ._engine import Sources
from ._source import Place, Runs, Source, Walks
from ._state import Job, Kind

__all__ = ["Wanted", "wanted_of"]


class Wanted(Struct, kw_only=True):
    """Some lists, each by a walk; or, with `via="runs"`, the tasks of all runs of `spaces`, or
    of the `runs` named, or of one `share` (k, n) of them. `lanes` are requests at once."""

    kind: Kind
    listings: Sequence[Listing[Any]] = ()
    spaces: Sequence[SpaceHandle] = ()
    runs: Sequence[str] | None = None
    by_runs: bool = False
    share: tuple[int, int] | None = None
    status: Sequence[str] = ()
    since: datetime | None = None
    columns: Sequence[str] | None = None
    limit: int | None = None
    lanes: int = 4
    page_size: int = 500

    def job(self) -> Job:
        first = self.listings[0]
        paths = [f"spaces/{space.token}/runs/" for space in self.spaces]
        return Job(
            kind=self.kind,
            base_url=first.source.base_url,
            org_handle=first.source.org_handle,
            paths=tuple(paths if self.by_runs else (one.path for one in self.listings)),
            query=first.query,
            via="runs" if self.by_runs else "walk",
            runs=None if self.runs is None or not self.by_runs else tuple(self.runs),
            share=self.share,
            status=tuple(sorted(self.status)),
            since=None if self.since is None else self.since.isoformat(),
            columns=None if self.columns is None else tuple(self.columns),
            limit=self.limit,
        )

    def sources(self) -> Sources:
        return Sources(self._whole, self._heads, self._of_runs, self._pages)

    def _whole(self, place: Place | None) -> Source:
        if self.by_runs:
            return self._all_runs(self.runs, place)
        return Walks(self.listings, lanes=self.lanes, place=place)

    def _heads(self) -> Source:
        return Walks(self.listings, lanes=1)

    def _of_runs(self, ids: list[str]) -> Source:
        return self._all_runs(ids, None)

    def _all_runs(self, ids: Sequence[str] | None, place: Place | None) -> Source:
        return Runs(
            self.spaces,
            ids,
            lanes=self.lanes,
            page_size=self.page_size,
            share=self.share,
            place=place,
        )

    async def _pages(self) -> int | None:
        rows = [await listing.count() for listing in self.listings]
        return sum(-(-row // self.page_size) for row in rows if row is not None)


_PATH = re.compile(r"spaces/([^/]+)/(?:runs/[^/]+/)?(tasks|runs)/")


def wanted_of(listing: Listing[Any], **options: Any) -> Wanted:
    """One list of tasks or runs. Raises `ConfigurationError` for any other."""
    found = _PATH.fullmatch(listing.path)
    if found is None:
        raise ConfigurationError(f"an export takes a list of tasks or of runs, not {listing.path}")
    kind: Any = found[2]
    return Wanted(
        kind=kind,
        listings=[listing],
        spaces=[SpaceHandle(listing.source, found[1])],
        page_size=listing.page_size,
        **options,
    )
