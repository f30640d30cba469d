"""The one timer of an attempt."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from unpod_async._patience import Patience

pytestmark = pytest.mark.anyio


async def test_a_block_that_hears_nothing_ends() -> None:
    with anyio.fail_after(5), Patience(quiet=0.01, whole=60) as patience:
        await anyio.sleep_forever()
    assert patience.lost == "quiet"


async def test_what_is_heard_buys_time_but_not_beyond_the_whole() -> None:
    with anyio.fail_after(5), Patience(quiet=0.05, whole=0.2) as patience:
        while True:
            patience.heard()
            await asyncio.sleep(0)
    assert patience.lost == "whole"


async def test_a_block_that_ends_in_time_is_left_alone() -> None:
    with Patience(quiet=60, whole=60) as patience:
        await asyncio.sleep(0)
    assert patience.lost is None
    with pytest.raises(ValueError, match="mine"), Patience(quiet=60, whole=60):
        raise ValueError("mine")


async def test_a_cancellation_from_elsewhere_goes_on_also_when_time_ran_out_too() -> None:
    for both in (False, True):
        with anyio.CancelScope() as scope:
            with Patience(quiet=60, whole=60) as patience:
                scope.cancel()
                if both:
                    patience._ends = 0.0
                    patience._check()
                await anyio.sleep_forever()
            await anyio.sleep_forever()
        assert scope.cancelled_caught


async def test_blocks_inside_each_other_end_their_own() -> None:
    with anyio.fail_after(5), Patience(quiet=60, whole=60) as outer:
        with Patience(quiet=0.01, whole=60) as inner:
            await anyio.sleep_forever()
        assert inner.lost == "quiet"
        await asyncio.sleep(0)
    assert outer.lost is None
