"""When a dead worker is started again. Pure."""

from __future__ import annotations

import signal
from dataclasses import dataclass

USAGE_CODE = 2
LOAD_CODE = 3
"""Exit codes of `kubediffusion-worker` that another start would only repeat: wrong flags,
and a model that cannot be loaded."""

_MEANINGS = {
    0: "ended without being asked to",
    USAGE_CODE: "refused its flags",
    LOAD_CODE: "cannot load the model",
    4: "lost its device",
    5: "cannot listen",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RespawnPolicy:
    """How eagerly a worker is started again."""

    first_delay: float = 0.1
    """Seconds before the first new start; most deaths are single ones."""

    factor: float = 2.0
    """By which the delay grows with each death in a row."""

    max_delay: float = 30.0
    """Seconds; the cost of loading a model in vain is bounded by it."""

    max_deaths_before_serving: int = 3
    """In a row, of a worker that never served: something is wrong with its start."""

    max_deaths: int = 10
    """In a row, of a worker that has served before; about two minutes of back-off."""

    stable_seconds: float = 60.0
    """After serving for so long a death counts as the first in a row."""

    def __post_init__(self) -> None:
        """Refuse values that would spin or never start."""
        if not (0 < self.first_delay <= self.max_delay and self.factor >= 1):
            raise ValueError(f"delays must be positive and must not shrink; found {self!r}")
        if self.max_deaths < 1 or self.max_deaths_before_serving < 1:
            raise ValueError(f"deaths must be allowed at least once; found {self!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """How one life of a worker ended."""

    exit_code: int | None
    """Negative: minus the signal; None: killed because it did not start in time."""

    served_seconds: float
    """0 where it never served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What matters of the deaths so far."""

    deaths_in_a_row: int = 0

    has_served: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Respawn:
    """Start again after a while."""

    delay: float
    """In seconds."""

    history: History


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """Do not start again."""

    because: str
    """For people; continues "not started again: "."""


def after(death: Death, history: History, policy: RespawnPolicy) -> Respawn | GiveUp:
    """Decide what follows a death."""
    if death.exit_code in (USAGE_CODE, LOAD_CODE):
        return GiveUp(because="another start would end the same way")
    if death.exit_code is None and not history.has_served:
        return GiveUp(because="raise start_timeout if it only needs longer")
    is_first = death.served_seconds >= policy.stable_seconds
    deaths = 1 if is_first else history.deaths_in_a_row + 1
    has_served = history.has_served or death.served_seconds > 0
    allowed = policy.max_deaths if has_served else policy.max_deaths_before_serving
    if deaths >= allowed:
        return GiveUp(because=f"it died {deaths} times in a row")
    # The exponent is bounded, so that no number of deaths overflows a float.
    delay = policy.first_delay * policy.factor ** min(deaths - 1, 64)
    return Respawn(
        delay=min(delay, policy.max_delay),
        history=History(deaths_in_a_row=deaths, has_served=has_served),
    )


def describe(death: Death, last_words: str = "") -> str:
    """Say how a life ended: "was killed by SIGKILL", "cannot load the model: …"."""
    code = death.exit_code
    if code is None:
        text = "did not start in time"
    elif code < 0:
        text = f"was killed by {_signal_name(-code)}"
    else:
        text = _MEANINGS.get(code, f"exited with code {code}")
    return f"{text}: {last_words}" if last_words else text


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
