"""Previews on their way from the compute thread to watchers."""

import asyncio
import concurrent.futures
import io
import logging
from collections.abc import Callable

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_worker import runs, stimuli

logger = logging.getLogger(__name__)

QUALITY = 80
"""Of the JPEG files: a preview of 64 by 64 has about 2 kB."""


class Easel:
    """Encodes the previews of one run, one at a time: the latest wins."""

    def __init__(
        self,
        run: int,
        threads: concurrent.futures.Executor,
        tell: Callable[[stimuli.AnyStimulus], None],
        clock: Callable[[], float],
    ) -> None:
        self._run = run
        self._threads = threads
        self._tell = tell
        self._clock = clock
        self._picture: runs.PreviewData | None = None
        self._is_drawing = False

    def put(self, picture: runs.PreviewData) -> bool:
        """Take a preview, instead of one that waits; return whether `draw` must be called."""
        self._picture = picture
        is_idle, self._is_drawing = not self._is_drawing, True
        return is_idle

    async def draw(self) -> None:
        """Encode what waits, and tell of it."""
        loop = asyncio.get_running_loop()
        try:
            while self._picture is not None:
                picture, self._picture = self._picture, None
                file = await loop.run_in_executor(self._threads, encode, picture)
                preview = worker_pb2.PreviewEvent(
                    step=picture.step, image=file, width=picture.width, height=picture.height
                )
                self._tell(stimuli.Previewed(now=self._clock(), run=self._run, preview=preview))
        except (OSError, ValueError) as error:
            logger.warning("A preview was not encoded", extra={"error": type(error).__name__})
        finally:
            self._is_drawing = False


def encode(picture: runs.PreviewData) -> bytes:
    """Turn a preview into a JPEG file."""
    import PIL.Image  # Late: a worker answers its first calls without it.

    image = PIL.Image.frombytes("RGB", (picture.width, picture.height), picture.pixels)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
