import time

import pytest

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_worker import vitals
from kubediffusion_worker.vitals import Activity


def signs(
    activity: Activity, *, steps: int = 0, total: int = 0, step: float = 0.0
) -> vitals.Signs:
    return vitals.Signs(
        activity=activity, seen_at=0.0, steps=steps, total=total, step_seconds=step
    )


def facts(
    activity: Activity = Activity.IDLE,
    state: worker_pb2.WorkerState = worker_pb2.WORKER_STATE_SERVING,
    *,
    loop_beat: float = 1e9,
    is_compiling: bool = False,
    steps: int = 0,
) -> vitals.Facts:
    return vitals.Facts(
        state=state,
        loop_beat=loop_beat,
        signs=signs(activity, steps=steps, total=50, step=1.0),
        is_compiling=is_compiling,
    )


@pytest.mark.parametrize("activity", [Activity.IDLE, Activity.LOADING])
def test_nothing_to_do_and_loading_are_never_stuck(activity: Activity) -> None:
    assert vitals.is_live(facts(activity), now=1e6).is_ok


def test_a_run_without_a_sign_for_too_long_is_stuck() -> None:
    verdict = vitals.is_live(facts(Activity.RUNNING, steps=3), now=61.0)
    assert not verdict.is_ok
    assert "STUCK: the compute thread has been silent for 61 s of at most 60 s" in verdict.reason
    assert vitals.is_live(facts(Activity.RUNNING, steps=3), now=59.0).is_ok


@pytest.mark.parametrize(
    ("found", "is_compiling", "limit"),
    [
        (signs(Activity.RUNNING), False, vitals.WARM_UP_LIMIT),
        (signs(Activity.RUNNING), True, vitals.COMPILE_LIMIT),
        (signs(Activity.RUNNING, steps=5, total=9, step=0.1), False, vitals.STEP_FLOOR),
        (signs(Activity.RUNNING, steps=5, total=9, step=10.0), False, 200.0),
        (signs(Activity.RUNNING, steps=5, total=0, step=10.0), False, 200.0),
        (signs(Activity.RUNNING, steps=9, total=9, step=0.1), False, vitals.DECODE_LIMIT),
        (signs(Activity.JOB), False, vitals.DECODE_LIMIT),
    ],
    ids=["warm-up", "compile", "fast steps", "slow steps", "unknown total", "decode", "job"],
)
def test_each_phase_has_a_limit_of_its_own(
    found: vitals.Signs, is_compiling: bool, limit: float
) -> None:
    assert vitals.silence_limit(found, is_compiling=is_compiling) == limit


def test_a_silent_event_loop_is_stuck() -> None:
    verdict = vitals.is_live(facts(loop_beat=0.0), now=61.0)
    assert (verdict.is_ok, "event loop" in verdict.reason) == (False, True)


def test_a_failed_worker_is_not_live() -> None:
    assert not vitals.is_live(facts(state=worker_pb2.WORKER_STATE_FAILED), now=0.0).is_ok


@pytest.mark.parametrize(
    ("state", "is_ready", "is_started"),
    [
        (worker_pb2.WORKER_STATE_STARTING, False, False),
        (worker_pb2.WORKER_STATE_SERVING, True, True),
        (worker_pb2.WORKER_STATE_DRAINING, False, True),
        (worker_pb2.WORKER_STATE_FAILED, False, True),
    ],
)
def test_ready_means_serving_and_started_means_loaded(
    state: worker_pb2.WorkerState, is_ready: bool, is_started: bool
) -> None:
    found = facts(state=state)
    assert vitals.is_ready(found).is_ok is is_ready
    assert vitals.is_started(found).is_ok is is_started


def test_a_pulse_tells_the_newest_sign() -> None:
    pulse = vitals.Pulse()
    pulse.begin(Activity.RUNNING)
    pulse.step(steps=3, total=9, seconds=0.5)
    before = pulse.read()
    assert (before.activity, before.steps, before.total) == (Activity.RUNNING, 3, 9)
    pulse.beat()
    assert before.seen_at <= pulse.read().seen_at <= time.monotonic()
