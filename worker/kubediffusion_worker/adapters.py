"""LoRA adapters by name: loaded beside the weights, active only while a run uses them."""

import contextlib
import hashlib
import itertools
import pathlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence

import huggingface_hub
from diffusers.loaders import lora_base
from diffusers.pipelines import pipeline_utils
from huggingface_hub import errors as hub_errors

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors, identifiers, validation
from kubediffusion_worker import runs

DEFAULT_FILE = "pytorch_lora_weights.safetensors"

_SUFFIX = ".safetensors"
_CHUNK = 1 << 20


class AdapterShelf:
    """The adapters of one pipeline; see `runs.AdapterShelf`.

    An inactive adapter leaves no trace in results: its layers hand on what the base layers
    compute. Runs that compute in turns have theirs act one after the other.
    """

    def __init__(
        self, pipeline: pipeline_utils.DiffusionPipeline, *, on_change: Callable[[], None]
    ) -> None:
        """Starts empty.

        Args:
            pipeline: Gets and loses layers as adapters come and go.
            on_change: Is called after each such change.
        """
        self._pipeline = pipeline
        self._on_change = on_change
        self._keys = itertools.count()
        # By name: diffusers' name for it, in which dots are not allowed, and what it is.
        self._entries: dict[str, tuple[str, runs.LoadedAdapter]] = {}
        self._acting: list[tuple[str, float]] = []
        """Diffusers' names and scales of those that act."""

    @property
    def is_supported(self) -> bool:
        """Whether the pipeline can take LoRA adapters at all."""
        return isinstance(self._pipeline, lora_base.LoraBaseMixin) and hasattr(
            self._pipeline, "load_lora_weights"
        )

    @property
    def resident(self) -> tuple[runs.LoadedAdapter, ...]:
        """What is loaded, sorted by name; may be read on any thread."""
        entries = dict(self._entries)
        return tuple(entries[name][1] for name in sorted(entries))

    def load(self, name: str, source: str, weight_name: str = "") -> runs.LoadedAdapter:
        """Loads an adapter; see `runs.AdapterShelf`."""
        identifiers.check_identifier(name, field="name")
        if not self.is_supported:
            raise errors.InvalidRequestError.at(
                "name", f"cannot be loaded: {type(self._pipeline).__name__} takes no LoRA adapters"
            )
        file = _find(source, weight_name)
        adapter = runs.LoadedAdapter(name=name, sha256=_digest(file))
        self._act([])
        key = f"adapter_{next(self._keys)}"
        self._inject(file, key)
        replaced = self._entries.get(name)
        self._entries[name] = (key, adapter)
        if replaced is not None:
            self._remove(replaced[0])
        self._on_change()
        return adapter

    def unload(self, name: str) -> bool:
        """Removes an adapter; returns whether there was one."""
        entry = self._entries.pop(name, None)
        if entry is None:
            return False
        self._act([])
        self._remove(entry[0])
        self._on_change()
        return True

    def check(self, uses: Iterable[worker_pb2.AdapterUse]) -> None:
        """Refuses adapters that are not loaded.

        Raises:
            errors.AdapterNotFoundError: With the nearest names that are.
        """
        self.digests(uses)

    def digests(self, uses: Iterable[worker_pb2.AdapterUse]) -> list[tuple[str, float]]:
        """Returns sha256 and scale of the adapters that a request uses.

        Raises:
            errors.AdapterNotFoundError: One of them is not loaded.
        """
        return [(self._entry(use.name)[1].sha256, use.scale) for use in uses]

    @contextlib.contextmanager
    def active(self, uses: Sequence[worker_pb2.AdapterUse]) -> Iterator[Callable[[], None]]:
        """Makes adapters act for the duration of a run, and no other ones.

        Returns:
            What makes them act again after other runs have computed; it raises
            errors.AdapterNotFoundError where one of them is not loaded any more.

        Raises:
            errors.AdapterNotFoundError: One of them is not loaded.
        """
        wanted = [(self._entry(use.name)[0], use.scale) for use in uses]

        def again() -> None:
            resident = {key for key, _ in self._entries.values()}
            if any(key not in resident for key, _ in wanted):
                raise errors.AdapterNotFoundError(
                    "an adapter of this generation was unloaded or replaced while it was parked"
                )
            self._act(wanted)

        try:
            self._act(wanted)
            yield again
        finally:
            self._act([])

    def _act(self, wanted: list[tuple[str, float]]) -> None:
        """Makes adapters act instead of those that do."""
        if wanted == self._acting:
            return
        # Whatever goes wrong below, it is not known to be right.
        self._acting = [("", 0.0)]
        if wanted:
            self._mixin.set_adapters([key for key, _ in wanted], [scale for _, scale in wanted])
            self._mixin.enable_lora()
        else:
            self._mixin.disable_lora()
        self._acting = wanted

    @property
    def _mixin(self) -> lora_base.LoraBaseMixin:
        assert isinstance(self._pipeline, lora_base.LoraBaseMixin)
        return self._pipeline

    def _entry(self, name: str) -> tuple[str, runs.LoadedAdapter]:
        entry = self._entries.get(name)
        if entry is None:
            close = validation.nearest(name, self._entries)
            advice = f"did you mean {' or '.join(close)}?" if close else "load it first"
            raise errors.AdapterNotFoundError(
                f"adapter {name!r} must be loaded on the worker; found "
                f"{', '.join(sorted(self._entries)) or 'none'}; {advice}"
            )
        return entry

    def _inject(self, file: pathlib.Path, key: str) -> None:
        try:
            with warnings.catch_warnings():
                # peft warns of a second adapter, which is what is wanted here.
                warnings.simplefilter("ignore")
                self._pipeline.load_lora_weights(  # pyright: ignore[reportAttributeAccessIssue]  # checked by is_supported
                    str(file.parent), weight_name=file.name, adapter_name=key, use_safetensors=True
                )
        except Exception as error:  # the loaders raise anything for a file that they do not expect
            self._remove(key)
            reason = " ".join(str(error).split())[:300]
            raise errors.InvalidRequestError.at(
                "source", f"must be a LoRA adapter for this pipeline; found {file.name}: {reason}"
            ) from error
        listed = self._mixin.get_list_adapters().values()
        if not any(key in keys for keys in listed):
            raise errors.InvalidRequestError.at(
                "source",
                f"must hold LoRA weights for this pipeline; found none in {file.name}",
            )
        self._mixin.disable_lora()

    def _remove(self, key: str) -> None:
        self._mixin.delete_adapters(key)
        if not self._entries:
            self._mixin.unload_lora_weights()


def _find(source: str, weight_name: str) -> pathlib.Path:
    """Returns the file of an adapter; one of the hub is downloaded where that is allowed."""
    if weight_name and not weight_name.endswith(_SUFFIX):
        raise errors.InvalidRequestError.at(
            "weight_name", f"must be a {_SUFFIX} file; found {weight_name!r:.80}"
        )
    path = pathlib.Path(source.removeprefix("file://")).expanduser()
    if path.is_file():
        return _checked(path)
    if path.is_dir():
        return _in_folder(path, weight_name)
    return _from_hub(source, weight_name or DEFAULT_FILE)


def _in_folder(folder: pathlib.Path, weight_name: str) -> pathlib.Path:
    if weight_name:
        file = (folder / weight_name).resolve()
        if not file.is_relative_to(folder.resolve()) or not file.is_file():
            raise _not_found(f"{weight_name!r:.80} in the folder {folder.name!r}")
        return file
    files = sorted(folder.glob(f"*{_SUFFIX}"))
    default = [file for file in files if file.name == DEFAULT_FILE]
    if len(files) == 1 or default:
        return (default or files)[0]
    if not files:
        raise _not_found(f"a {_SUFFIX} file in the folder {folder.name!r}")
    names = ", ".join(file.name for file in files[:10])
    raise errors.InvalidRequestError.at("weight_name", f"must name one of {names}")


def _from_hub(repository: str, weight_name: str) -> pathlib.Path:
    try:
        return pathlib.Path(huggingface_hub.hf_hub_download(repository, weight_name))
    except (hub_errors.HfHubHTTPError, hub_errors.HFValidationError, OSError, ValueError) as error:
        raise _not_found(
            f"{repository!r:.120} as a folder, a file or a repository of the hub with the file "
            f"{weight_name!r:.80} ({type(error).__name__})"
        ) from error


def _checked(file: pathlib.Path) -> pathlib.Path:
    if file.suffix != _SUFFIX:
        raise errors.InvalidRequestError.at(
            "source", f"must be a {_SUFFIX} file; found {file.name!r:.80}; convert it first"
        )
    return file


def _not_found(wanted: str) -> errors.AdapterNotFoundError:
    return errors.AdapterNotFoundError(f"no adapter was found: wanted {wanted}")


def _digest(file: pathlib.Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
