import pytest

from kubediffusion import _config
from kubediffusion.executors import abstract, external, multiproc, selection


class Custom(external.ExternalDiffusionExecutor):
    """An executor of the user's."""


def chosen(backend: object) -> type[abstract.DiffusionExecutor]:
    config = _config.OmniDiffusionConfig(model="m")
    config.distributed_executor_backend = backend  # type: ignore[assignment]  # hostile too
    return abstract.DiffusionExecutor.get_class(config)


def test_mp_is_the_default() -> None:
    config = _config.OmniDiffusionConfig(model="m")
    assert abstract.DiffusionExecutor.get_class(config) is multiproc.MultiProcDiffusionExecutor


@pytest.mark.parametrize(
    ("backend", "found"),
    [
        ("mp", "MultiProcDiffusionExecutor"),
        ("uni", "UniProcDiffusionExecutor"),
        ("external_launcher", "ExternalDiffusionExecutor"),
        ("external", "ExternalDiffusionExecutor"),
        ("kubediffusion.executors.multiproc.MultiprocDiffusionExecutor",) * 2,
        ("kubediffusion.executors.external.ExternalDiffusionExecutor",) * 2,
    ],
)
def test_backends_by_name_and_by_path(backend: str, found: str) -> None:
    name = found.rpartition(".")[2].replace("Multiproc", "MultiProc")
    assert chosen(backend).__name__ == name


def test_a_class_is_taken_as_it_is() -> None:
    assert chosen(Custom) is Custom


@pytest.mark.parametrize("backend", ["ray", "ray_actor", "kubernetes", "MP", "", " mp", "a b.c"])
def test_an_unknown_backend_is_refused_with_the_valid_values(backend: str) -> None:
    with pytest.raises(ValueError, match="Unsupported distributed executor backend") as failure:
        chosen(backend)
    for name in selection.BACKENDS:
        assert repr(name) in str(failure.value)


@pytest.mark.parametrize("backend", [None, 3, ["mp"], object()])
def test_a_backend_of_another_type_is_refused(backend: object) -> None:
    with pytest.raises(ValueError, match="Unsupported distributed executor backend"):
        chosen(backend)


def test_a_module_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match=r"cannot import 'no_such_package\.executors'"):
        chosen("no_such_package.executors.Executor")


def test_a_typo_in_the_class_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match="did you mean 'MultiProcDiffusionExecutor'"):
        chosen("kubediffusion.executors.multiproc.MultiProcDiffusionExecuter")


@pytest.mark.parametrize("backend", [dict, "collections.OrderedDict", "os.path.join"])
def test_what_is_no_executor_is_refused(backend: object) -> None:
    with pytest.raises(TypeError, match="must be a subclass of DiffusionExecutor"):
        chosen(backend)
