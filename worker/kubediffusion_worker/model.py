"""Which model a worker serves, and how it is loaded.

Importing this module does not import torch: a command line is checked before that.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from kubediffusion_worker import pipeline

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Offload = Literal["none", "model", "sequential"]

DEMO = "demo"
"""The model id that stands for the model which is shipped with kubediffusion."""


class ModelLoadError(Exception):
    """Is raised when a model cannot be served.

    Attributes:
        reason: UPPER_SNAKE_CASE and stable, for programs.
        message: One line: what was wanted, what was found, what to do.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Which weights to load and how to run them."""

    model: str
    """A folder, a `file://` address, an id of the Hugging Face hub, or "demo"."""
    dtype: Dtype = "auto"
    """"auto" is bfloat16 on a GPU and float32 on a CPU, which computes it faster."""
    device: str = "auto"
    """"auto" or a name of torch's, for example "cpu" or "cuda:1"."""
    offload: Offload = "none"
    """What stays in the CPU's memory until it is needed: nothing, whole models, or modules."""
    compile: bool = False
    """Compile the denoiser, its repeated blocks where it names them: slow first steps."""
    vae_slicing: bool = False
    """Let the VAE work on one image or frame of a batch at a time."""
    vae_tiling: bool = False
    """Let the VAE work on large images in tiles, whose seams change pixels slightly."""
    variant: str = ""
    """The variant of the weight files, for example "fp16"; empty: the default files."""
    revision: str = ""
    """A branch, tag or commit of the hub's repository; empty: its default branch."""
    preview_vae: str = ""
    """A folder with an `AutoencoderTiny` that draws previews; empty: a map of colours that is
    fitted to the pipeline's own VAE."""
    certify: bool = True
    """Try in small, once for each fingerprint, what going on from checkpoints gives. Without a
    trial, runs that lose their worker are computed again from their seed."""

    def __post_init__(self) -> None:
        """Refuse values that no loader could use."""
        if not self.model:
            raise ValueError("model must be a folder, a hub id or 'demo'; found an empty text")
        if self.dtype not in get_args(Dtype):
            raise ValueError(f"dtype must be one of {get_args(Dtype)}; found {self.dtype!r}")
        if self.offload not in get_args(Offload):
            raise ValueError(f"offload must be one of {get_args(Offload)}; found {self.offload!r}")


def load(config: ModelConfig) -> "pipeline.SharedPipeline":
    """Loads a pipeline and tries it in small; takes seconds to minutes.

    Raises:
        ModelLoadError: It cannot be served.
    """
    from kubediffusion_worker import folders

    folder = folders.local(config)
    if folder is not None:
        folders.check(folder, config)
    # torch takes seconds to import; neither the first call of a worker's life nor the news that
    # its model is not there must wait for it.
    from kubediffusion_worker import loading

    return loading.load(config)


def one_line(error: BaseException) -> str:
    """Returns an error's text in one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
