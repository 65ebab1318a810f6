"""A module of its own, so that the actor's process imports nothing else."""

import asyncio

Report = dict[str, int | float | str]


class Mailbox:
    """An actor between the first worker and Tune's function: a report in, and what Tune says to it out."""

    def __init__(self) -> None:
        self._reports: asyncio.Queue[Report] = asyncio.Queue()
        self._answers: asyncio.Queue[bool] = asyncio.Queue()

    async def report(self, report: Report) -> bool:
        """Whether to go on."""
        await self._reports.put(report)
        return await self._answers.get()

    async def next_report(self) -> Report:
        return await self._reports.get()

    async def answer(self, goes_on: bool) -> None:
        await self._answers.put(goes_on)
