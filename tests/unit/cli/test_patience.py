import asyncio

import pytest

from kubediffusion.cli import patience


def test_a_block_that_takes_too_long_is_told_in_words():
    async def wait():
        async with patience.at_most(0.01, "the result was not there"):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError, match=r"the result was not there after 0\.01 s"):
        asyncio.run(wait())


def test_the_timeouts_of_others_stay_what_they_are():
    async def fail():
        async with patience.at_most(60.0, "too late"):
            raise TimeoutError("of somebody else")

    with pytest.raises(TimeoutError, match="of somebody else"):
        asyncio.run(fail())


def test_without_a_bound_nothing_happens():
    async def pass_through():
        async with patience.at_most(None, "too late"):
            return 1

    assert asyncio.run(pass_through()) == 1
