import asyncio

from app.streaming.line import Line


class Crowd:
    """Who stands in a line; those who are in wait to be let out."""

    def __init__(self, places: int) -> None:
        self.line = Line(places)
        self.inside: list[str] = []
        self.entered: list[str] = []
        self._out: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, *names: str) -> None:
        for name in names:
            self._out[name] = asyncio.Event()
            self._tasks[name] = asyncio.create_task(self._stay(name))
        await self.settle()

    async def leave(self, *names: str) -> None:
        for name in names:
            self._out[name].set()
        await self.settle()

    async def give_up(self, name: str) -> None:
        self._tasks[name].cancel()
        await self.settle()

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def _stay(self, name: str) -> None:
        async with self.line.turn(name[0]):
            self.inside.append(name)
            self.entered.append(name)
            try:
                await self._out[name].wait()
            finally:
                self.inside.remove(name)


def test_nobody_has_more_than_half_though_nobody_else_comes():
    async def scene() -> None:
        crowd = Crowd(4)
        await crowd.come("a1", "a2", "a3", "a4")
        assert crowd.inside == ["a1", "a2"]
        await crowd.come("b1")
        assert crowd.inside == ["a1", "a2", "b1"]
        await crowd.leave("a1")
        assert crowd.inside == ["a2", "b1", "a3"]

    asyncio.run(scene())


def test_turns_go_from_one_to_the_next_however_many_one_of_them_is():
    async def scene() -> None:
        crowd = Crowd(2)
        await crowd.come("a1", "b1", *(f"a{n}" for n in range(2, 8)), "c1", "d1", "c2")
        await crowd.leave(*crowd.inside)
        while crowd.inside:
            await crowd.leave(crowd.inside[0])
        assert max(map(crowd.entered.index, ("c1", "d1", "c2"))) < 7
        assert len(crowd.entered) == 11

    asyncio.run(scene())


def test_who_gives_up_leaves_no_place_taken():
    async def scene() -> None:
        crowd = Crowd(2)
        await crowd.come("a1", "a2", "a3")
        await crowd.give_up("a2")
        await crowd.leave("a1")
        assert crowd.inside == ["a3"]
        await crowd.give_up("a3")
        await crowd.come("b1", "c1")
        assert crowd.inside == ["b1", "c1"]

    asyncio.run(scene())


def test_who_is_let_in_and_gives_up_at_once_gives_the_place_back():
    async def scene() -> None:
        crowd = Crowd(2)
        await crowd.come("a1", "a2")
        crowd._out["a1"].set()
        await asyncio.sleep(0)  # a1 leaves, and a2 has the place, but has not run
        await crowd.give_up("a2")
        await crowd.come("a3")
        assert crowd.inside == ["a3"]

    asyncio.run(scene())
