"""A clock that measures what a run itself takes, while others compute in between."""

import time


class Stopwatch:
    """Reads seconds of `time.perf_counter` without those for which it was stopped."""

    def __init__(self) -> None:
        """Runs at once."""
        self._missed = 0.0
        self._stopped_at: float | None = None

    def __call__(self) -> float:
        """Returns a reading; the difference of two is a duration."""
        now = time.perf_counter() if self._stopped_at is None else self._stopped_at
        return now - self._missed

    def stop(self) -> None:
        """Stands still from now on."""
        if self._stopped_at is None:
            self._stopped_at = time.perf_counter()

    def go_on(self) -> None:
        """Runs again, if it was stopped."""
        if self._stopped_at is not None:
            self._missed += time.perf_counter() - self._stopped_at
            self._stopped_at = None
