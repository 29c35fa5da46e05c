"""The demo's second act: a worker is killed, and another one goes on with what it computed."""

import dataclasses
import hashlib
import os
import pathlib
import signal
import time
from dataclasses import dataclass

from kubediffusion.cli import displays, news, text
from kubediffusion.cli.demo import engine, script, summary
from kubediffusion_wire import errors

NAME = "long-picture"
AGAIN = "long-picture-again"


def task_of(first: script.Task, item: script.Item, steps: int) -> script.Task:
    """Answer what the engine of the second act is told: one picture of the first, but long."""
    folder = pathlib.Path(item.path).parent
    long = dataclasses.replace(item, request_id=NAME, path=str(folder / f"{NAME}.png"))
    return dataclasses.replace(first, steps=steps, items=(long,))


def again(task: script.Task) -> script.Task:
    """Answer the same task under another id, so that it is computed once more."""
    (item,) = task.items
    path = pathlib.Path(item.path).with_name(f"{AGAIN}.png")
    return dataclasses.replace(
        task, items=(dataclasses.replace(item, request_id=AGAIN, path=str(path)),)
    )


@dataclass(slots=True)
class Story:
    """What the engine has said of the generation so far."""

    worker: str = ""
    """Who computes it."""
    step: int = 0
    total: int = 0
    saved: int = 0
    """Step of the newest checkpoint."""
    resumed_at: float | None = None
    """On the monotonic clock."""
    resumed_from: int = 0
    exactness: str = ""

    def take(self, word: script.Word) -> None:
        """Take note of what it says."""
        if word.event == "resumed":
            self.resumed_at, self.resumed_from = word.moment, word.step
            self.worker, self.exactness = word.worker, word.exactness
        elif word.event == "checkpointed":
            self.saved = word.step
        elif word.event == "started":
            if self.worker not in ("", word.worker):  # Without a checkpoint nothing is resumed.
                self.resumed_at, self.exactness = word.moment, "restarted"
            self.worker = word.worker
        elif word.event == "progress":
            self.step, self.total = word.step, word.total

    def is_moment_to_kill(self) -> bool:
        """Tell whether the worker's death would hurt: half is done, and some of it is safe."""
        is_half = 0 < self.total <= 2 * self.step
        # On a fast machine there may be no checkpoint before the end.
        return is_half and (0 < self.saved < self.step or 4 * self.step >= 3 * self.total)


class Takeover:
    """Plays the act.

    Args:
        task: From `task_of`.
        log: Of the engine processes.
        lives: The workers, by name.
        display: Shows it.
    """

    def __init__(
        self,
        task: script.Task,
        log: pathlib.Path,
        lives: dict[str, summary.Life],
        display: displays.Display,
    ) -> None:
        self._task = task
        self._log = log
        self._lives = lives
        self._display = display

    async def play(self) -> summary.Takeover:
        """Kill the worker of a generation in its middle, and see what becomes of it.

        Raises:
            kubediffusion_wire.errors.KubediffusionError: A process failed, or the generation.
        """
        self._display.say("\nThe second act: a worker dies.")
        async with engine.EngineProcess(self._task, self._log) as process:
            self._display.say(
                f"Engine C (pid {process.process_id}) submits one generation of"
                f" {self._task.steps} steps."
            )
            story = Story()
            await self._listen_until_half_done(process, story)
            killed = dataclasses.replace(story)
            moment = self._kill(killed)
            async for word in process.words():
                self._take(story, word)
                if word.event == "resumed":
                    self._tell_resumed(story, moment)
            await process.check_done()
        self._display.say("The same seed once more, undisturbed:")
        await self._compute_again()
        return self._facts(killed, story, moment)

    async def _listen_until_half_done(self, process: engine.EngineProcess, story: Story) -> None:
        async for word in process.words():
            self._take(story, word)
            if story.is_moment_to_kill():
                return
        await process.check_done()
        raise errors.InvalidRequestError(
            "the generation was done before its worker could be killed: use more --long-steps"
        )

    def _kill(self, story: Story) -> float:
        life = self._lives[story.worker]
        os.kill(life.process_id, signal.SIGKILL)
        moment = time.monotonic()
        saved = f"a checkpoint of step {story.saved}" if story.saved else "no checkpoint yet"
        self._display.say(
            f"kill -9 {life.process_id}. {story.worker} is dead, at step {story.step} of"
            f" {story.total}; the engine has {saved}."
        )
        return moment

    def _tell_resumed(self, story: Story, moment: float) -> None:
        seconds = (story.resumed_at or moment) - moment
        told = news.resumption(story.resumed_from, story.exactness)
        self._display.say(f"  {text.seconds(seconds)} later {story.worker} {told}")

    async def _compute_again(self) -> None:
        async with engine.EngineProcess(again(self._task), self._log) as process:
            async for word in process.words():
                self._take(Story(), word)
            await process.check_done()

    def _take(self, story: Story, word: script.Word) -> None:
        story.take(word)
        self._display.show(word.news())
        if word.kind in (news.Kind.FAILED.value, news.Kind.CANCELLED.value):
            raise errors.InternalError(f"generation {word.request_id} failed: {word.detail}")

    def _facts(self, killed: Story, story: Story, moment: float) -> summary.Takeover:
        (item,), (other,) = self._task.items, again(self._task).items
        return summary.Takeover(
            killed=killed.worker,
            killed_at=killed.step,
            total=killed.total,
            went_on=story.worker,
            resumed_from=story.resumed_from,
            resumed_seconds=(story.resumed_at or moment) - moment,
            exactness=story.exactness,
            sha256=_digest(item.path),
            undisturbed_sha256=_digest(other.path),
        )


def _digest(path: str) -> str:
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
