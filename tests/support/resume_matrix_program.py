# diffusers exports lazily, and its annotations refuse what its classes take.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportCallIssue=false
"""One process of the resume matrix: `write` or `resume`, a folder, and pairs on its input."""

import hashlib
import json
import pathlib
import random
import re
import sys
import warnings
from collections.abc import Sequence

import numpy
import torch

import resume_matrix
import resumes
import solvers
import zoo
import zoo_requests
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_worker import outputs, pipeline, runs
from zoo_specimen import Specimen

STEPS = 6
FLOAT = worker_pb2.OUTPUT_TYPE_FLOAT


def prepared(name: str, solver: str, cache: dict[str, tuple[Specimen, object]]) -> Specimen:
    """Returns a pipeline with a new scheduler."""
    if name not in cache or solver == solvers.OWN:
        cache.clear()
        specimen = zoo.build(name)
        cache[name] = (specimen, specimen.pipeline.scheduler if solver != solvers.OWN else None)
    specimen, own = cache[name]
    if solver == solvers.OWN:
        cache.clear()  # It is used after this.
        return specimen
    specimen.pipeline.scheduler = solvers.build(solver, own)
    arguments = dict(specimen.arguments)
    if solver == solvers.STOCHASTIC_DDIM:
        arguments["eta"] = 1.0
    return Specimen(pipeline=specimen.pipeline, arguments=arguments)


def digest(made: Sequence[runs.OutputData]) -> str:
    """Names the bits of all outputs."""
    found = hashlib.sha256()
    for output in made:
        found.update(f"{output.name} {output.dtype} {output.shape} ".encode())
        found.update(output.data)
    return found.hexdigest()


def plain(specimen: Specimen) -> str:
    """Calls the pipeline without any of our code, and names the bits."""
    accepted = zoo.parameters(specimen)
    if "eta" in specimen.arguments and "eta" not in accepted:
        raise TypeError("takes no eta")
    kind = outputs.call_arguments(FLOAT, accepted).get("output_type")
    returned = zoo.call_plainly(
        specimen, seed=resumes.SEED, steps=STEPS, output_type=kind and str(kind)
    )
    return digest(outputs.collect(returned, wanted=FLOAT, seed=resumes.SEED))


def spec_of(specimen: Specimen) -> worker_pb2.GenerationSpec:
    output = worker_pb2.OutputOptions(type=FLOAT)
    return zoo_requests.spec_of(specimen, steps=STEPS, output=output)


class Writer:
    """Runs plainly, then with checkpoints, which it leaves in a folder."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._cache: dict[str, tuple[Specimen, object]] = {}

    def result(self, name: str, solver: str) -> str:
        try:
            wanted = plain(prepared(name, solver, self._cache))
        except Exception:  # noqa: BLE001  # Whatever plain diffusers raises, it refuses.
            return resume_matrix.REFUSED
        specimen = prepared(name, solver, self._cache)
        shared = pipeline.SharedPipeline.from_pipeline(specimen.pipeline)
        recorded = resumes.record(shared, spec_of(specimen))
        if digest(recorded.outcome.outputs) != wanted:
            return "the run that was captured differs"
        for step in recorded.places:
            path = self._folder / f"{key(name, solver)}.{step}.{wanted}"
            path.write_bytes(recorded.checkpoints[step])
        return resume_matrix.EXACT


class Resumer:
    """Goes on from the checkpoints in a folder."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._cache: dict[str, tuple[Specimen, object]] = {}

    def result(self, name: str, solver: str) -> str:
        specimen = prepared(name, solver, self._cache)
        shared = pipeline.SharedPipeline.from_pipeline(specimen.pipeline)
        found = sorted(self._folder.glob(f"{key(name, solver)}.*"))
        if not found:
            return "there is no checkpoint"
        for path in found:
            _, step, wanted = path.name.split(".")
            resumed = resumes.resume(shared, spec_of(specimen), path.read_bytes())
            if resumed.recorder.resumptions != [(int(step), resumes.EXACT)]:
                return f"went on from {resumed.recorder.resumptions} instead of step {step}"
            if digest(resumed.outcome.outputs) != wanted:
                return f"differs after going on from step {step}"
        return resume_matrix.EXACT


def key(name: str, solver: str) -> str:
    return name + "-" + re.sub(r"\W", "_", solver)


def main(phase: str, folder: pathlib.Path) -> None:
    worker = Writer(folder) if phase == "write" else Resumer(folder)
    seed = 1 if phase == "write" else 2
    torch.manual_seed(seed)
    random.seed(seed)
    numpy.random.seed(seed)
    for name, solver in json.load(sys.stdin):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                result = worker.result(name, solver)
            except Exception as error:  # noqa: BLE001  # The next pair is tried anyway.
                result = f"{phase}: {type(error).__name__}: {error}"[:300]
        line = {"pipeline": name, "solver": solver, "result": result}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]))
