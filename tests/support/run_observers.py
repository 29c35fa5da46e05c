"""Observers of runs, for tests."""

from collections.abc import Callable

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_worker import runs


class Recorder:
    """Keeps all that a run reports, and can act at any place in it."""

    def __init__(
        self,
        *,
        at_step: Callable[[runs.StepReport], None] | None = None,
        at_seam: Callable[[int], None] | None = None,
        at_boundary: Callable[[int], None] | None = None,
        is_curious: bool = False,
    ) -> None:
        """Starts empty.

        Args:
            at_step: Called with each report.
            at_seam: Called with the number of the seam, from 1.
            at_boundary: Called with the number of the boundary, from 1.
            is_curious: Whether it wants a preview after each step.
        """
        self.reports: list[runs.StepReport] = []
        self.seams = 0
        self.boundaries = 0
        self.resumptions: list[tuple[int, worker_pb2.Exactness]] = []
        self.previews: list[runs.PreviewData] = []
        self._is_curious = is_curious
        self._at_step = at_step
        self._at_seam = at_seam
        self._at_boundary = at_boundary

    def step_done(self, report: runs.StepReport) -> None:
        self.reports.append(report)
        if self._at_step is not None:
            self._at_step(report)

    def seam(self) -> None:
        self.seams += 1
        if self._at_seam is not None:
            self._at_seam(self.seams)

    def boundary(self) -> None:
        self.boundaries += 1
        if self._at_boundary is not None:
            self._at_boundary(self.boundaries)

    def resumed(self, step: int, exactness: worker_pb2.Exactness) -> None:
        self.resumptions.append((step, exactness))

    def wants_preview(self) -> bool:
        return self._is_curious

    def preview(self, picture: runs.PreviewData) -> None:
        self.previews.append(picture)
