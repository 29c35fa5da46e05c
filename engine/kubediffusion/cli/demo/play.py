"""The demo itself, act by act; nothing in it is staged."""

import asyncio
import pathlib
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kubediffusion.cli import displays, fleet, launch, news, observations, options, readiness, text
from kubediffusion.cli.demo import (
    crew,
    engine,
    pictures,
    script,
    summary,
    takeover,
    tally,
    witness,
)
from kubediffusion_wire import errors

_LOAD_SECONDS = 300.0
"""The demo model loads in about ten; a machine that does much else takes its time."""

_ALONE_SECONDS = 120.0
"""For generations to move on without an engine; one takes some seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What the user asked for."""

    output: pathlib.Path
    workers: int
    prompts: tuple[str, ...]
    steps: int
    long_steps: int
    """Of the generation whose worker is killed."""
    is_keeping: bool

    @property
    def private(self) -> pathlib.Path:
        """The folder for what is not a picture: registry, journal, logs."""
        return self.output / ".demo"

    @property
    def registry(self) -> pathlib.Path:
        """Where the workers announce themselves."""
        return self.private / "registry"

    @property
    def sheet(self) -> pathlib.Path:
        """The contact sheet."""
        return self.output / "contact-sheet.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """What was known when the engine was killed."""

    told: tally.Tally
    """What the engine had said."""

    requested: int

    @property
    def waiting(self) -> int:
        """Generations of which the engine had not yet seen a start."""
        return self.requested - len(self.told.ends) - len(self.told.running)


def prepare(setting: Setting) -> script.Task:
    """Clear away an earlier demo, and answer what the engines will be told.

    Raises:
        kubediffusion_wire.errors.InvalidRequestError: Workers of an earlier demo still run.
    """
    crew.check_nobody_left(setting.registry)
    shutil.rmtree(setting.private, ignore_errors=True)
    setting.registry.mkdir(mode=0o700, parents=True)
    items = tuple(
        script.Item(
            request_id=f"picture-{number:02}",
            prompt=prompt,
            seed=number,
            path=str(setting.output / f"picture-{number:02}.png"),
        )
        for number, prompt in enumerate(setting.prompts, start=1)
    )
    long = [setting.output / f"{name}.png" for name in (takeover.NAME, takeover.AGAIN)]
    for path in [*(pathlib.Path(item.path) for item in items), setting.sheet, *long]:
        path.unlink(missing_ok=True)
    return script.Task(
        engine_id=f"demo-{uuid.uuid4().hex[:8]}",
        registry=str(setting.registry),
        state_dir=str(setting.private / "state"),
        steps=setting.steps,
        items=items,
    )


async def play(setting: Setting, display: displays.Display) -> summary.Facts:
    """Play the whole demo, and answer what was measured.

    Raises:
        kubediffusion_wire.errors.KubediffusionError: A process failed.
    """
    began = time.monotonic()
    task = prepare(setting)
    with crew.workers(
        setting.workers, folder=setting.registry, is_kept=setting.is_keeping
    ) as started:
        load_seconds = await _wait_serving(started, display)
        found = [fleet.Endpoint(name=i.plan.name, address=i.plan.address) for i in started]
        async with fleet.connect(options.Reach(), found) as links:
            seen = witness.Witness(links, task.engine_id)
            before = await seen.lives()
            async with seen.watching():
                acts = Acts(setting, task, seen, display)
                death = await acts.kill_an_engine()
                alone = await acts.see_workers_go_on(death)
                restart_seconds = await acts.start_another_engine()
                await seen.wait(lambda t: len(t.ends) >= len(task.items), timeout=_ALONE_SECONDS)
            after = await seen.lives()
        second = await _second_act(setting, task, after, display)
        delivered = saved(task)
        matching = await asyncio.to_thread(pictures.review, delivered, setting.sheet)
    return summary.Facts(
        before=before,
        after=after,
        requested=len(task.items),
        done_before_kill=len(death.told.ends),
        running_at_kill=death.told.running,
        waiting_at_kill=death.waiting,
        advanced_alone=alone,
        executed_once=len(seen.tally.executed_once()),
        delivered=len(delivered),
        matching=matching,
        restart_seconds=restart_seconds,
        load_seconds=load_seconds,
        step_seconds=seen.step_seconds,
        takeover=second,
        total_seconds=time.monotonic() - began,
        output=str(setting.output),
        sheet=str(setting.sheet),
    )


async def _second_act(
    setting: Setting,
    task: script.Task,
    lives: dict[str, summary.Life],
    display: displays.Display,
) -> summary.Takeover | None:
    if len(lives) < 2:
        display.say("With one worker there is no second act: nobody could take over.")
        return None
    long = takeover.task_of(task, task.items[0], setting.long_steps)
    return await takeover.Takeover(long, setting.private / "engine.log", lives, display).play()


def saved(task: script.Task) -> list[script.Item]:
    """Answer those items whose pictures are there."""
    return [item for item in task.items if pathlib.Path(item.path).exists()]


async def _wait_serving(started: Sequence[launch.Started], display: displays.Display) -> float:
    """Wait for the workers, and answer how long the slowest one took."""
    began = time.monotonic()
    display.say(f"Starting {text.count(len(started), 'worker')} with the demo model …")

    def tell(view: observations.WorkerView) -> None:
        life = summary.Life(process_id=view.process_id, incarnation=view.incarnation)
        display.say(f"  {view.name} serves after {text.seconds(time.monotonic() - began)}: {life}")

    await readiness.wait_serving(started, timeout=_LOAD_SECONDS, on_serving=tell)
    return time.monotonic() - began


class Acts:
    """The three acts between the workers' start and their end."""

    def __init__(
        self,
        setting: Setting,
        task: script.Task,
        seen: witness.Witness,
        display: displays.Display,
    ) -> None:
        self._task = task
        self._log = setting.private / "engine.log"
        self._seen = seen
        self._display = display

    async def kill_an_engine(self) -> Death:
        """Let an engine work until some pictures are done and others half done; kill it."""
        told = tally.Tally()
        async with engine.EngineProcess(self._task, self._log) as process:
            count = text.count(len(self._task.items), "generation")
            self._display.say(f"Engine A (pid {process.process_id}) submits {count}.")
            for item in self._task.items:
                self._display.show(news.News(request_id=item.request_id, kind=news.Kind.QUEUED))
            await self._listen_until_half_done(process, told)
            process.kill()
            async for word in process.words():  # What it had said before it died.
                self._take(told, word)
            self._display.say(f"kill -9 {process.process_id}. Engine A is dead; it last saw:")
        death = Death(told=told, requested=len(self._task.items))
        for name, (step, total) in told.running.items():
            self._display.say(f"  {name} at step {step} of {total}")
        self._display.say(
            f"  {len(told.ends)} done, {text.count(death.waiting, 'generation')} waiting"
        )
        return death

    async def _listen_until_half_done(
        self, process: engine.EngineProcess, told: tally.Tally
    ) -> None:
        async for word in process.words():
            self._take(told, word)
            if told.is_moment_to_kill():
                return
        await process.check_done()
        raise errors.InvalidRequestError(
            "the engine had finished before it could be killed: use more prompts or more --steps"
        )

    async def see_workers_go_on(self, death: Death) -> Mapping[str, tuple[int, int]]:
        """Watch until what the dead engine had seen running has moved on without it."""
        self._display.say("No engine is alive. The workers go on:")
        running = death.told.running
        self._seen.on_news = self._display.show
        try:
            await self._seen.wait(lambda t: t.has_moved_on(running), timeout=_ALONE_SECONDS)
        finally:
            self._seen.on_news = None
        now = {name: self._seen.tally.steps[name] for name in running}
        for name, (step, total) in now.items():
            to = "its end" if name in self._seen.tally.ends else f"step {step} of {total}"
            self._display.say(f"  {name}: from step {running[name][0]} to {to}")
        return now

    async def start_another_engine(self) -> float:
        """Let another engine finish; answer the seconds from its exec to its first event."""
        told = tally.Tally()
        restart_seconds: float | None = None
        async with engine.EngineProcess(self._task, self._log) as process:
            self._display.say(f"Engine B (pid {process.process_id}) starts with the same id.")
            async for word in process.words():
                if restart_seconds is None:
                    restart_seconds = word.moment - process.started
                    self._display.say(
                        f"  {restart_seconds * 1000:.0f} ms later it hears of {word.request_id}"
                    )
                self._take(told, word)
            await process.check_done()
        for name, why in told.failures.items():
            raise errors.InternalError(f"generation {name} failed: {why}")
        return restart_seconds or 0.0

    def _take(self, told: tally.Tally, word: script.Word) -> None:
        item = word.news()
        told.take(item)
        self._display.show(item)


def clean(setting: Setting) -> None:
    """Remove what is not a picture."""
    shutil.rmtree(setting.private, ignore_errors=True)
