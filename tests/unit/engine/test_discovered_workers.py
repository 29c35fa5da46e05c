"""What becomes of links when the source of workers changes its mind."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from kubediffusion._discovery import protocol as discovery_protocol
from kubediffusion._links import protocol
from kubediffusion.executors import discovered

Endpoint = discovery_protocol.Endpoint
ALIVE = Endpoint(name="a", address="127.0.0.1:1", incarnation="1")
DEAD = Endpoint(name="a", address="127.0.0.1:1", incarnation="1", is_dead=True)


class Script:
    """Tells one set after the other."""

    def __init__(self, *sets: Sequence[Endpoint]) -> None:
        self._sets = sets

    async def endpoints(self) -> AsyncIterator[tuple[Endpoint, ...]]:
        for each in self._sets:
            yield tuple(each)


def gone(*sets: Sequence[Endpoint]) -> list[bool]:
    """Returns of each link that was ever published whether its worker is known to be dead."""

    async def scenario() -> list[bool]:
        seen: dict[int, protocol.WorkerLink] = {}

        def publish(links: Sequence[protocol.WorkerLink]) -> None:
            seen.update({id(link): link for link in links})

        workers = discovered.DiscoveredWorkers(
            Script(*sets), tls=None, insecure=False, publish=publish
        )
        await workers.follow()
        told = [link.is_gone for link in seen.values()]
        for link in seen.values():
            await link.close()
        return told

    return asyncio.run(scenario())


def test_of_a_worker_that_has_left_nothing_is_known() -> None:
    assert gone([ALIVE], []) == [False]


def test_a_worker_whose_process_has_ended_is_gone() -> None:
    assert gone([ALIVE], [DEAD]) == [True]


def test_a_worker_may_turn_out_to_have_ended_after_it_left() -> None:
    assert gone([ALIVE], [], [DEAD]) == [True]


def test_the_end_of_a_former_life_says_nothing_of_a_later_one() -> None:
    later = Endpoint(name="a", address="127.0.0.1:1", incarnation="2")
    assert gone([later], [later, DEAD]) == [False]
    assert gone([later], [], [DEAD]) == [False]


def test_a_worker_that_comes_back_gets_a_link_of_its_own() -> None:
    assert gone([ALIVE], [], [ALIVE]) == [False, False]
