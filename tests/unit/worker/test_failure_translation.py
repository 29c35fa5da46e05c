import pytest
import torch

from kubediffusion_wire import errors
from kubediffusion_worker import failures, runs

PROMPT = "a portrait of my neighbour in the garden"


def translate(
    error: Exception,
    *,
    secrets: tuple[str, ...] = (PROMPT,),
    given: tuple[str, ...] = ("prompt", "height", "width"),
    has_computed: bool = True,
) -> Exception:
    return failures.translate(
        error,
        secrets=secrets,
        parameters=("prompt", "prompt_embeds", "height", "width", "num_images_per_prompt", "eta"),
        given=given,
        has_computed=has_computed,
    )


def test_exception_becomes_an_error_with_its_type_and_text() -> None:
    error = translate(KeyError("down_blocks.7"))
    assert isinstance(error, errors.PipelineError)
    assert error.message == "the pipeline raised KeyError: 'down_blocks.7'"
    assert error.metadata == {"exception": "KeyError"}


@pytest.mark.parametrize(
    "text",
    [
        f"cannot encode {PROMPT!r}",
        f"cannot encode {PROMPT.upper()}",
        "truncated: ['of my neighbour in the']",
        f"cannot encode\n{PROMPT}",
    ],
)
def test_text_that_holds_a_part_of_the_prompt_is_left_out(text: str) -> None:
    error = translate(RuntimeError(text))
    assert "neighbour" not in str(error).lower()
    assert "RuntimeError" in str(error)


def test_tensors_are_not_printed() -> None:
    error = translate(RuntimeError("both x: tensor([[[-1.04,\n 0.9]]]) and y"))
    assert str(error).endswith("both x: a tensor and y")


def test_short_prompt_is_found_as_a_word_only() -> None:
    assert "category" in str(translate(RuntimeError("category 7"), secrets=("cat",)))
    assert "7" not in str(translate(RuntimeError("no cat 7"), secrets=("cat",)))


def test_long_text_is_cut() -> None:
    assert len(str(translate(RuntimeError("x" * 10_000)))) < 600


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
    ],
)
def test_lack_of_memory_has_an_error_of_its_own(error: Exception) -> None:
    assert isinstance(translate(error), errors.DeviceMemoryError)


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: device-side assert triggered",
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: unspecified launch failure",
        "CUDA error: uncorrectable ECC error encountered",
    ],
)
def test_fault_that_stays_fails_the_device(text: str) -> None:
    error = translate(RuntimeError(f"{text}\nCUDA kernel errors might be reported later"))
    assert isinstance(error, runs.StickyDeviceError)
    assert str(error) == f"the device has failed: {text}"


def test_value_error_before_any_module_blames_the_fields_that_it_names() -> None:
    error = translate(
        ValueError("`height` and `width` have to be divisible by 8 but are 33 and 32."),
        has_computed=False,
    )
    assert isinstance(error, errors.InvalidRequestError)
    assert [violation.field for violation in error.violations] == ["height", "width"]
    assert "divisible by 8 but are 33 and 32" in error.violations[0].description


def test_fields_that_were_given_are_blamed_first() -> None:
    error = translate(
        ValueError("Cannot forward both `prompt` and `prompt_embeds`."),
        given=("prompt_embeds",),
        has_computed=False,
    )
    assert isinstance(error, errors.InvalidRequestError)
    assert [violation.field for violation in error.violations] == ["extra_args.prompt_embeds"]


def test_parameter_is_blamed_by_the_name_of_its_field() -> None:
    error = translate(ValueError("num_images_per_prompt is odd"), given=(), has_computed=False)
    assert isinstance(error, errors.InvalidRequestError)
    assert error.violations[0].field == "num_outputs"


def test_value_error_after_the_first_module_is_the_pipelines_own() -> None:
    assert isinstance(translate(ValueError("height")), errors.PipelineError)


def test_refusal_does_not_quote_the_prompt() -> None:
    error = translate(ValueError(f"`prompt` is {PROMPT}"), has_computed=False)
    assert "neighbour" not in str(error)
