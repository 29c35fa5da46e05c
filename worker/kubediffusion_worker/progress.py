"""Counts the steps of a run from what happens at the seams. Pure: no clock, no torch.

One iteration of a denoising loop is one step, whatever a pipeline does in it: several forwards
(guidance), several schedulers (video and sound, one per frame), one scheduler several times for
parts of the picture. A solver of second order takes two iterations for most timesteps.
"""


class StepCount:
    """Counts the steps of a run of one or more calls of a pipeline."""

    def __init__(self, calls: int) -> None:
        """Starts before the first call.

        Args:
            calls: How often the pipeline will be called, one after another.
        """
        self._calls_left = calls
        self._before_call = 0
        self._before_loop = 0
        self._in_loop = 0
        self._loop_length = 0
        self._longest_call = 0
        self._total = 0
        self._is_new_iteration = True
        self._streams: set[int] = set()
        self._last_token: object = None

    @property
    def done(self) -> int:
        """Steps that are done, over all calls."""
        return self._before_loop + self._in_loop

    @property
    def total(self) -> int:
        """Steps of the whole run as far as known; never shrinks; 0 where unknown."""
        return self._total

    @property
    def in_loop(self) -> int:
        """Steps that are done since the timesteps were set."""
        return self._in_loop

    def call_started(self) -> None:
        """Takes note that the pipeline is called, for the first time or again."""
        self._longest_call = max(self._longest_call, self.done - self._before_call)
        self._calls_left -= 1
        self._before_call = self.done
        self._start_loop()

    def call_skipped(self, steps: int) -> None:
        """Takes note of a call that was made elsewhere, with its steps."""
        self.call_started()
        self._before_loop += steps
        self.call_ended()

    def call_ended(self) -> None:
        """Lets go of the timestep, which may hold on to the memory of all of them."""
        self._last_token = None

    def timesteps_set(self) -> bool:
        """Takes note that a scheduler is ready; returns whether a loop has ended before it.

        Several schedulers of one loop are set up before its first step.
        """
        if not self._in_loop:
            return False
        self._start_loop()
        return True

    def forward_started(self) -> None:
        """Takes note that a module computes."""
        self._is_new_iteration = True

    def step_done(self, stream: int, token: object) -> bool:
        """Takes note that a scheduler has stepped; returns whether that is a step of the run.

        Args:
            stream: Identifies the scheduler.
            token: The timestep as an object: where it is the same one as before, the pipeline
                is still in the same iteration. None where objects do not tell.
        """
        is_same_timestep = token is not None and token is self._last_token
        is_step = (self._is_new_iteration or stream in self._streams) and not is_same_timestep
        if is_step:
            self._streams.clear()
            self._in_loop += 1
            self._update_total()
        self._is_new_iteration = False
        self._streams.add(stream)
        self._last_token = token
        return is_step

    def loop_measured(self, length: int) -> None:
        """Takes note of how many steps the current loop has in all."""
        self._loop_length = length
        self._update_total()

    def _start_loop(self) -> None:
        self._before_loop = self.done
        self._in_loop = 0
        self._loop_length = 0
        self._is_new_iteration = True
        self._streams.clear()
        self._last_token = None

    def _update_total(self) -> None:
        if not self._loop_length:
            self._total = max(self._total, self.done) if self._total else 0
            return
        loop = max(self._loop_length, self._in_loop)
        call = max(self._before_loop - self._before_call + loop, self._longest_call)
        self._total = max(self._total, self._before_call + call * (self._calls_left + 1))
