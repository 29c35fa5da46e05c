import hypothesis
import pytest
from hypothesis import strategies

from kubediffusion import _respawn

POLICY = _respawn.RespawnPolicy()
KILLED = _respawn.Death(exit_code=-9, served_seconds=1.0)
UNBORN = _respawn.Death(exit_code=1, served_seconds=0.0)


def delays(death: _respawn.Death, policy: _respawn.RespawnPolicy = POLICY) -> list[float]:
    history, found = _respawn.History(), []
    for _ in range(1000):
        decision = _respawn.after(death, history, policy)
        if isinstance(decision, _respawn.GiveUp):
            break
        history = decision.history
        found.append(decision.delay)
    return found


def test_delays_double_and_then_it_gives_up() -> None:
    assert delays(KILLED) == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6]


def test_a_worker_that_never_served_gets_few_chances() -> None:
    assert delays(UNBORN) == [0.1, 0.2]


@pytest.mark.parametrize("code", [_respawn.USAGE_CODE, _respawn.LOAD_CODE])
def test_what_would_end_the_same_way_is_not_started_again(code: int) -> None:
    death = _respawn.Death(exit_code=code, served_seconds=100.0)
    decision = _respawn.after(death, _respawn.History(), POLICY)
    assert isinstance(decision, _respawn.GiveUp)


def test_a_first_start_that_takes_too_long_is_not_tried_again() -> None:
    late = _respawn.Death(exit_code=None, served_seconds=0.0)
    assert delays(late) == []
    history = _respawn.History(deaths_in_a_row=1, has_served=True)
    assert isinstance(_respawn.after(late, history, POLICY), _respawn.Respawn)


def test_a_long_life_makes_up_for_earlier_deaths() -> None:
    history = _respawn.History(deaths_in_a_row=8, has_served=True)
    death = _respawn.Death(exit_code=-9, served_seconds=POLICY.stable_seconds)
    decision = _respawn.after(death, history, POLICY)
    assert decision == _respawn.Respawn(
        delay=POLICY.first_delay, history=_respawn.History(deaths_in_a_row=1, has_served=True)
    )


def test_a_worker_that_served_once_gets_many_chances_to_start() -> None:
    history = _respawn.History(deaths_in_a_row=4, has_served=True)
    assert isinstance(_respawn.after(UNBORN, history, POLICY), _respawn.Respawn)


@hypothesis.given(
    deaths=strategies.integers(0, 10**6),
    served=strategies.floats(0, 59),
    maximum=strategies.integers(1, 10**6),
)
def test_every_delay_is_bounded(deaths: int, served: float, maximum: int) -> None:
    policy = _respawn.RespawnPolicy(max_deaths=maximum, max_deaths_before_serving=maximum)
    death = _respawn.Death(exit_code=-11, served_seconds=served)
    decision = _respawn.after(death, _respawn.History(deaths_in_a_row=deaths), policy)
    if isinstance(decision, _respawn.Respawn):
        assert policy.first_delay <= decision.delay <= policy.max_delay
        assert decision.history.deaths_in_a_row == deaths + 1 < maximum
    else:
        assert deaths + 1 >= maximum


@pytest.mark.parametrize(
    ("code", "words", "text"),
    [
        (-9, "", "was killed by SIGKILL"),
        (-99, "", "was killed by signal 99"),
        (None, "", "did not start in time"),
        (3, "no such folder", "cannot load the model: no such folder"),
        (4, "", "lost its device"),
        (70, "", "exited with code 70"),
    ],
)
def test_deaths_are_told_in_words(code: int | None, words: str, text: str) -> None:
    death = _respawn.Death(exit_code=code, served_seconds=0.0)
    assert _respawn.describe(death, words) == text


@pytest.mark.parametrize(
    "options",
    [{"first_delay": 0.0}, {"first_delay": 60.0}, {"factor": 0.5}, {"max_deaths": 0}],
)
def test_policies_that_would_spin_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="found"):
        _respawn.RespawnPolicy(**options)  # type: ignore[arg-type]  # one field each
