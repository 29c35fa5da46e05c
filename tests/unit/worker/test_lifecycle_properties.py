"""No order of stimuli breaks the state machine: not even an impossible one."""

from collections.abc import Callable

import hypothesis
from hypothesis import stateful, strategies

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import (
    checkpoints,
    identity,
    instructions,
    lifecycle,
    queueing,
    retention,
    stimuli,
)
from kubediffusion_worker.generation import Phase, State
from machines import Machine, caller, checkpoint, config

ENGINES = strategies.sampled_from(["e", "f"])
REQUESTS = strategies.sampled_from(["a", "b", "c"])
AGES = strategies.sampled_from([0] * 18 + [1, -1])
ROLES = strategies.sampled_from(["ENGINE"] * 10 + ["OPERATOR", "OBSERVER"])
PICKS = strategies.integers(0, 9)
CALLERS = strategies.tuples(ENGINES, AGES, ROLES)

LIMITS = config(
    line=queueing.LineLimits(max_items=3, max_items_per_engine=2, max_bytes=20),
    kept=retention.RetentionLimits(
        max_bytes=30, max_bytes_per_engine=20, max_items=3, max_age=100, max_tombstones=2
    ),
    max_encoding=1,
    orphan_cancel_seconds=80.0,
    max_events=4,
    slots=2,
    max_parked=1,
    saved=checkpoints.CheckpointLimits(max_bytes=50),
)
POLICIES = strategies.sampled_from(["FINISH", "CHECKPOINT", "FINISH_THEN_CHECKPOINT"])

TERMINAL = {State.SUCCEEDED, State.FAILED, State.CANCELLED, State.HANDED_OVER}


class AnyOrder(stateful.RuleBasedStateMachine):
    """Tells the state machine anything at any time, and remembers what it was told back."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine(lifecycle.Lifecycle(LIMITS))
        self.ends: dict[tuple[identity.GenerationKey, int], State] = {}
        self.lives: dict[identity.GenerationKey, int] = {}
        self.running: dict[int, identity.GenerationKey] = {}
        self.kept: dict[identity.GenerationKey, int] = {}
        self.saved: dict[identity.GenerationKey, set[int]] = {}

    def tell(self, act: Callable[[], object]) -> None:
        """Act, then hold what was said against what was said before."""
        already = len(self.machine.said)
        leased = {e: self.machine.core.holds_lease(e, self.machine.now) for e in ("e", "f")}
        act()
        for item in self.machine.said[already:]:
            self.note(item, leased)

    def note(self, item: instructions.AnyInstruction, leased: dict[str, bool]) -> None:
        if isinstance(item, instructions.Emit):
            self.note_event(item)
        elif isinstance(item, instructions.Start):
            assert item.run not in self.running
            self.running[item.run] = item.key
            steps = self.saved.get(item.key, set())
            assert item.checkpoint is None or item.checkpoint.step in steps
        elif isinstance(
            item,
            instructions.RaiseCancel
            | instructions.Park
            | instructions.Unpark
            | instructions.Capture,
        ):
            assert item.run in self.running
        elif isinstance(item, instructions.KeepCheckpoint):
            self.saved.setdefault(item.key, set()).add(item.step)
        elif isinstance(item, instructions.DropCheckpoint):
            self.saved[item.key].remove(item.step)
        elif isinstance(item, instructions.Keep):
            self.kept[item.key] = item.run
        elif isinstance(item, instructions.Free):
            self.kept.pop(item.key, None)
            still_leased = self.machine.core.holds_lease(item.key.engine_id, self.machine.now)
            assert not (item.is_evicted and leased[item.key.engine_id] and still_leased)

    def note_event(self, item: instructions.Emit) -> None:
        kind = item.event.WhichOneof("event")
        if kind == "queued":
            self.lives[item.key] = self.lives.get(item.key, 0) + 1
        life = (item.key, self.lives[item.key])
        assert life not in self.ends, f"{kind} after {self.ends.get(life)}"
        if kind in ("succeeded", "failed", "cancelled", "handed_over"):
            self.ends[life] = State[kind.upper()]

    def caller(self, engine_id: str, age: int = 0, role: str = "ENGINE") -> identity.Caller:
        """Make a caller whose epoch is the current one, a newer or an older one."""
        epoch = max(1, self.machine.core.fences.epoch_of(engine_id).number)
        return caller(engine_id, epoch + age, role=role)

    def pick(self, pick: int) -> int:
        """Choose mostly a run that is under way, sometimes one that is not."""
        runs = sorted({*self.running, *self.machine.core.encoding})
        return runs[pick % len(runs)] if runs and pick < 8 else pick

    @stateful.initialize(is_loaded=strategies.sampled_from([True, True, True, False]))
    def load(self, is_loaded: bool) -> None:
        if is_loaded:
            self.tell(lambda: self.machine.handle(stimuli.ModelLoaded(now=self.machine.now)))

    @stateful.rule(name=REQUESTS, engine_id=ENGINES)
    def advance(self, name: str, engine_id: str) -> None:
        """Do what would happen next to a generation, so that long stories are told too."""
        found = self.machine.core.generations.get(identity.GenerationKey(engine_id, name))
        if found is None or found.phase is Phase.WAITING:
            return
        if found.phase is Phase.ASSIGNED:
            self.tell(lambda: self.machine.started(name, engine_id))
        elif found.phase in (Phase.COMPUTING, Phase.PARKED):
            del self.running[found.run]
            self.tell(lambda: self.machine.computed(found.run))
        elif found.phase is Phase.ENCODING:
            self.tell(lambda: self.machine.encoded(found.run, size=8))
        else:
            self.tell(lambda: self.machine.acknowledge(name, by=self.caller(engine_id)))

    @stateful.rule(
        who=CALLERS,
        request=REQUESTS,
        prompt=strategies.sampled_from(["p"] * 7 + ["longer"]),
        attempt=strategies.integers(1, 3),
        priority=strategies.integers(-1, 1),
        patience=strategies.none() | strategies.integers(-1, 50),
        saved_at=strategies.sampled_from([0, 0, 0, 2]),
    )
    def submit(
        self,
        who: tuple[str, int, str],
        request: str,
        prompt: str,
        attempt: int,
        priority: int,
        patience: int | None,
        saved_at: int,
    ) -> None:
        self.tell(
            lambda: self.machine.submit(
                request,
                by=self.caller(*who),
                prompt=prompt,
                attempt=attempt,
                priority=priority,
                deadline=None if patience is None else self.machine.now + patience,
                steps=attempt - 1,
                checkpoint=checkpoint(saved_at, size=15) if saved_at else None,
            )
        )

    @stateful.rule(
        pick=PICKS,
        kind=strategies.sampled_from(
            [
                *("started", "step", "step", "computed", "encoded", "failed", "cancelled"),
                *("parked", "parked", "captured", "stored", "stored", "not saved", "resumed"),
            ]
        ),
        size=strategies.integers(0, 20),
        step=strategies.integers(1, 9),
        total=strategies.integers(0, 9),
    )
    def report(self, pick: int, kind: str, size: int, step: int, total: int) -> None:
        """Report anything of any run, in any order."""
        machine, run = self.machine, self.pick(pick)
        now, error = machine.now, errors.PipelineError("it raised")
        acts: dict[str, Callable[[], object]] = {
            "started": lambda: machine.handle(stimuli.RunStarted(now=now, run=run)),
            "step": lambda: machine.step(run, step, total=total),
            "computed": lambda: machine.handle(stimuli.Computed(now=now, run=run)),
            "encoded": lambda: machine.encoded(run, size=size),
            "failed": lambda: machine.handle(stimuli.RunFailed(now=now, run=run, error=error)),
            "cancelled": lambda: machine.handle(stimuli.RunCancelled(now=now, run=run)),
            "parked": lambda: machine.parked(run, step),
            "captured": lambda: machine.captured(run, step),
            "stored": lambda: machine.stored(run, step, size=size),
            "not saved": lambda: machine.not_saved(run),
            "resumed": lambda: machine.handle(
                stimuli.Resumed(now=now, run=run, step=total, exactness=worker_pb2.EXACTNESS_CLOSE)
            ),
        }
        self.tell(acts[kind])

    @stateful.precondition(lambda self: self.running)
    @stateful.rule(pick=strategies.integers(0, 5))
    def free(self, pick: int) -> None:
        run = sorted(self.running)[pick % len(self.running)]
        found = self.machine.core.live.get(self.running[run])
        if found and found.run == run and found.state not in (State.RUNNING, State.PARKED):
            return
        if found and found.run == run and run not in self.machine.core.encoding:
            return  # The runtime says how a run ended before it frees the compute thread.
        del self.running[run]
        self.tell(lambda: self.machine.freed(run))

    @stateful.rule(who=CALLERS, request=REQUESTS)
    def cancel(self, who: tuple[str, int, str], request: str) -> None:
        self.tell(lambda: self.machine.cancel(request, by=self.caller(*who)))

    @stateful.rule(who=CALLERS, request=REQUESTS, is_back=strategies.booleans())
    def pause(self, who: tuple[str, int, str], request: str, is_back: bool) -> None:
        act = self.machine.unpause if is_back else self.machine.pause
        self.tell(lambda: act(request, by=self.caller(*who)))

    @stateful.rule(who=CALLERS, request=REQUESTS)
    def ask_checkpoint(self, who: tuple[str, int, str], request: str) -> None:
        self.tell(lambda: self.machine.ask_checkpoint(request, by=self.caller(*who)))

    @stateful.rule(name=REQUESTS, engine_id=ENGINES, step=strategies.integers(1, 9))
    def stand_still_and_be_saved(self, name: str, engine_id: str, step: int) -> None:
        """Do what follows a pause or a drain, so that long stories are told too."""
        found = self.machine.core.live.get(identity.GenerationKey(engine_id, name))
        if found is not None and (found.is_paused or found.is_stopping) and found.run:
            run = found.run
            self.tell(lambda: self.machine.parked(run, step))
            self.tell(lambda: self.machine.save(run, step))

    @stateful.rule(who=CALLERS, request=REQUESTS)
    def acknowledge(self, who: tuple[str, int, str], request: str) -> None:
        self.tell(lambda: self.machine.acknowledge(request, by=self.caller(*who)))

    @stateful.rule(engine_id=ENGINES, age=AGES, watch=strategies.integers(1, 3))
    def watch(self, engine_id: str, age: int, watch: int) -> None:
        self.tell(lambda: self.machine.watch(watch, by=self.caller(engine_id, age)))

    @stateful.rule(engine_id=ENGINES, watch=strategies.integers(1, 3))
    def unwatch(self, engine_id: str, watch: int) -> None:
        self.tell(lambda: self.machine.unwatch(watch, engine_id))

    @stateful.rule(seconds=strategies.sampled_from([0.0, 1.0, 30.0, 70.0, 5000.0]))
    def tick(self, seconds: float) -> None:
        self.tell(lambda: self.machine.tick(seconds))

    @stateful.precondition(lambda self: len(self.machine.said) > 15)
    @stateful.rule(
        seconds=strategies.integers(0, 20),
        policy=POLICIES,
        is_exit=strategies.sampled_from([False, False, True]),
    )
    def drain(self, seconds: int, policy: str, is_exit: bool) -> None:
        self.tell(lambda: self.machine.drain(seconds, policy, is_exit=is_exit))

    @stateful.precondition(lambda self: self.machine.core.drain)
    @stateful.rule()
    def undrain(self) -> None:
        self.tell(self.machine.undrain)

    @stateful.precondition(lambda self: len(self.machine.said) > 25)
    @stateful.rule()
    def break_down(self) -> None:
        error = errors.WorkerFailedError("it broke")
        self.tell(
            lambda: self.machine.handle(stimuli.WorkerBroke(now=self.machine.now, error=error))
        )

    @stateful.invariant()
    def what_was_said_is_what_is(self) -> None:
        for key, found in self.machine.core.generations.items():
            end = self.ends.get((key, self.lives[key]))
            assert found.end is end
        succeeded = {
            key
            for key, found in self.machine.core.generations.items()
            if found.end is State.SUCCEEDED
        }
        assert set(self.kept) == succeeded
        shelf = self.machine.core.saved
        kept = {key: {info.step for info in shelf.of(key)} for key in shelf}
        assert kept == {key: steps for key, steps in self.saved.items() if steps}

    @stateful.invariant()
    def nothing_grows_beyond_its_bound(self) -> None:
        core = self.machine.core
        assert len(core.line) <= 3
        assert len(core.tombstones) <= 2
        assert all(len(found.events.after(0)) <= 4 for found in core.generations.values())


AnyOrder.TestCase.settings = hypothesis.settings(
    max_examples=50, stateful_step_count=60, deadline=None
)
TestAnyOrder = AnyOrder.TestCase
