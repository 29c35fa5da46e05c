"""The tasks of a pipeline: what it was loaded for, and what the same weights can do as well.

A text-to-image pipeline that is given a picture becomes the image-to-image or inpainting
pipeline of its family, as diffusers' `AutoPipeline` classes name it.
"""

import enum
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from diffusers.pipelines import auto_pipeline, pipeline_utils

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import validation
from kubediffusion_worker import signature


class Task(enum.Enum):
    """What a pipeline is asked to do."""

    OWN = "own"
    IMAGE_TO_IMAGE = "image-to-image"
    INPAINTING = "inpainting"


_MAKERS: Mapping[Task, Callable[..., pipeline_utils.DiffusionPipeline]] = {
    Task.IMAGE_TO_IMAGE: auto_pipeline.AutoPipelineForImage2Image.from_pipe,
    Task.INPAINTING: auto_pipeline.AutoPipelineForInpainting.from_pipe,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskCall:
    """How a pipeline is called for a task."""

    class_name: str
    signature: Mapping[str, inspect.Parameter]
    """All named parameters of the call."""
    parameters: tuple[worker_pb2.Parameter, ...]
    """Those that are the user's business."""


def task_calls(pipeline: pipeline_utils.DiffusionPipeline) -> Mapping[Task, TaskCall]:
    """Returns how a pipeline can be called, for each task that it can do.

    Args:
        pipeline: A fork: making it ready for a task may change its parts.
    """
    calls = {Task.OWN: _call(type(pipeline))}
    for task in _MAKERS:
        try:
            calls[task] = _call(type(for_task(pipeline, task)))
        except Exception:  # noqa: BLE001  # no class for this family, or it needs other parts
            continue
    return calls


def choose(calls: Mapping[Task, TaskCall], *, has_image: bool, has_mask: bool) -> Task:
    """Returns the task that a request asks for by the pictures that it brings."""
    wanted = {name for name, given in (("image", has_image), ("mask_image", has_mask)) if given}
    if wanted <= set(calls[Task.OWN].signature):
        return Task.OWN
    task = Task.INPAINTING if has_mask else Task.IMAGE_TO_IMAGE
    return task if task in calls else Task.OWN


def for_task(
    pipeline: pipeline_utils.DiffusionPipeline, task: Task
) -> pipeline_utils.DiffusionPipeline:
    """Makes the pipeline that does a task with the parts of a fork.

    Raises:
        ValueError: diffusers names no such pipeline, or it needs other parts.
    """
    if task is Task.OWN:
        return pipeline
    # The mappings name a pipeline of the task as its own counterpart.
    made = _MAKERS[task](pipeline)
    if type(made) is type(pipeline):
        return pipeline
    vars(made)["maybe_free_model_hooks"] = pipeline.maybe_free_model_hooks
    vars(made)["_progress_bar_config"] = getattr(pipeline, "_progress_bar_config", {})
    return made


def all_parameters(calls: Mapping[Task, TaskCall]) -> tuple[worker_pb2.Parameter, ...]:
    """Describes what a pipeline accepts in at least one of its tasks."""
    others = [call.parameters for task, call in calls.items() if task is not Task.OWN]
    return signature.union(calls[Task.OWN].parameters, *others)


def _call(pipeline_class: type) -> TaskCall:
    own = signature.parameters(pipeline_class)
    return TaskCall(
        class_name=pipeline_class.__name__,
        signature=signature.call_parameters(pipeline_class),
        parameters=_with_outputs(own),
    )


def _with_outputs(
    parameters: tuple[worker_pb2.Parameter, ...],
) -> tuple[worker_pb2.Parameter, ...]:
    """Adds the number of outputs, which the worker makes by calling more often."""
    names = {parameter.name for parameter in parameters}
    known = validation.SPEC_PARAMETERS["num_outputs"]
    if names.intersection(known):
        return parameters
    return (*parameters, worker_pb2.Parameter(name=known[0], kinds=["int"]))
