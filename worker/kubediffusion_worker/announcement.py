"""Keeps a worker known in the registry folder of its machine."""

import asyncio
import contextlib
import dataclasses
import logging
import pathlib
import time

from kubediffusion_wire import registry

logger = logging.getLogger(__name__)


class Announcement:
    """The file of one worker: refreshed while it lives, removed when it ends.

    A folder that cannot be written to does not stop a worker: those who know its address
    still reach it.
    """

    def __init__(self, entry: registry.Entry, folder: pathlib.Path) -> None:
        self._entry = entry
        self._folder = folder
        self._task: asyncio.Task[None] | None = None
        self._is_failing = False

    async def start(self) -> None:
        """Make the worker known, and keep it so."""
        await self.refresh()
        self._task = asyncio.create_task(self._keep_fresh())

    async def stop(self) -> None:
        """Remove the file."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self.remove()

    def remove(self) -> None:
        """Remove the file, from any thread."""
        registry.remove(self._entry.name, self._folder, incarnation=self._entry.incarnation)

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(self._entry.heartbeat)
            await self.refresh()

    async def refresh(self) -> None:
        """Write the file anew."""
        entry = dataclasses.replace(self._entry, updated=time.time())
        try:
            await asyncio.to_thread(registry.write, entry, self._folder)
        except registry.RegistryError as error:
            if not self._is_failing:
                logger.warning("Registry cannot be written to", extra={"cause": str(error)})
            self._is_failing = True
        else:
            self._is_failing = False
