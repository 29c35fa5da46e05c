"""The command line of a worker process; nothing else reads flags or the environment.

Every flag has a variable: `--max-queued` is `KUBEDIFFUSION_WORKER_MAX_QUEUED`.
"""

import pathlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, get_args

import click

from kubediffusion_wire import channels, errors, registry
from kubediffusion_worker import checkpoints, config, lifecycle, model, queueing, retention

PROGRAM = "kubediffusion-worker"
VARIABLES = "KUBEDIFFUSION_WORKER"

_DEFAULTS = config.RequestLimits()
_LINE = queueing.LineLimits()
_KEPT = retention.RetentionLimits()
_SAVED = checkpoints.CheckpointLimits()
_BOUNDS = lifecycle.LifecycleConfig()

F = TypeVar("F", bound=Callable[..., Any])


def _path() -> click.Path:
    return click.Path(exists=True, dir_okay=False, path_type=pathlib.Path)


def _number(flag: str, default: int, text: str) -> Callable[[F], F]:
    return click.option(
        flag, type=click.IntRange(min=1), default=default, show_default=True, help=text
    )


def _seconds(flag: str, default: float, text: str) -> Callable[[F], F]:
    return click.option(
        flag,
        type=click.FloatRange(min=0),
        default=default,
        show_default=True,
        metavar="SECONDS",
        help=text,
    )


def _apply(command: F, *options: Callable[[F], F]) -> F:
    for option in reversed(options):
        command = option(command)
    return command


def parse(arguments: Sequence[str]) -> config.ProcessConfig | int:
    """Read a command line.

    Returns:
        What it says, or the exit code where there is nothing left to do: help was printed, or
        one line about what is wrong.
    """
    try:
        given = _command.main(
            list(arguments),
            prog_name=PROGRAM,
            standalone_mode=False,
            auto_envvar_prefix=VARIABLES,
        )
    except click.ClickException as error:
        error.show()
        return error.exit_code
    if not isinstance(given, dict):
        return int(given or 0)
    try:
        return _config(given)
    except (errors.KubediffusionError, ValueError) as error:
        click.echo(f"{PROGRAM}: {error}", err=True)
        return 2


def _model_options(command: F) -> F:
    return _apply(
        command,
        click.option(
            "--model", required=True, help="A folder, an id of the Hugging Face hub, or 'demo'."
        ),
        click.option("--revision", default="", help="Branch, tag or commit of the hub."),
        click.option("--variant", default="", help="Of the weight files, for example fp16."),
        click.option(
            "--dtype", type=click.Choice(get_args(model.Dtype)), default="auto", show_default=True
        ),
        click.option("--device", default="auto", show_default=True, help="By torch's name."),
        click.option(
            "--offload",
            type=click.Choice(get_args(model.Offload)),
            default="none",
            show_default=True,
            help="What waits in the CPU's memory: nothing, whole models, or modules.",
        ),
        click.option("--compile", is_flag=True, help="Compile the denoiser: slow first steps."),
        click.option("--vae-slicing", is_flag=True, help="Decode one frame at a time."),
        click.option(
            "--vae-tiling",
            is_flag=True,
            help="Decode large images in tiles: less memory, slightly other pixels.",
        ),
    )


def _run_options(command: F) -> F:
    return _apply(
        command,
        click.option(
            "--preview-vae",
            default="",
            metavar="FOLDER",
            help="An AutoencoderTiny that draws previews.  [default: a map of colours]",
        ),
        click.option(
            "--certify/--no-certify",
            default=True,
            show_default=True,
            help="Try in small what resuming gives; without, runs restart from their seed.",
        ),
        click.option("--threads", type=click.IntRange(min=1), help="CPU threads of torch."),
        click.option(
            "--lora", "loras", multiple=True, metavar="NAME=SOURCE", help="Load a LoRA adapter."
        ),
    )


def _reach_options(command: F) -> F:
    return _apply(
        command,
        click.option("--name", help="Unique among the workers of a registry; default: drawn."),
        click.option(
            "--listen",
            default="127.0.0.1:0",
            show_default=True,
            metavar="ADDRESS",
            help="host:port or unix:/path; port 0 takes any free one.",
        ),
        click.option("--http", default="", metavar="ADDRESS", help="Of probes and metrics."),
        click.option(
            "--registry",
            "folder",
            default="",
            metavar="FOLDER|none",
            help="Where engines on this machine look for workers.",
        ),
        click.option("--tls-cert", type=_path(), help="Certificate chain, PEM."),
        click.option("--tls-key", type=_path(), help="Private key, PEM."),
        click.option("--tls-ca", type=_path(), help="Whom clients must be signed by, PEM."),
        click.option("--tls-client-name", default="", help="DNS name that clients must have."),
        click.option("--insecure", is_flag=True, help="Allow plaintext from other machines."),
        click.option("--parent-fd", type=int, help="End when this pipe is closed."),
    )


def _saving_options(command: F) -> F:
    return _apply(
        command,
        _seconds(
            "--checkpoint-seconds",
            config.CHECKPOINT_SECONDS,
            "Between two checkpoints of a generation; 0: on drain and on request alone.",
        ),
        click.option(
            "--checkpoint-dir",
            type=click.Path(file_okay=False, path_type=pathlib.Path),
            metavar="FOLDER",
            help="Also write checkpoints to files, for when this process is killed.",
        ),
        _number("--checkpoint-bytes", _SAVED.max_bytes, "Of checkpoints kept in memory."),
        _seconds(
            "--preview-seconds",
            config.PREVIEW_SECONDS,
            "Between two previews of a generation, for those who look; 0: none.",
        ),
    )


def _bound_options(command: F) -> F:
    return _apply(
        command,
        _number("--slots", _BOUNDS.slots, "Generations that take turns; others wait."),
        _number("--max-queued", _LINE.max_items, "Generations that wait."),
        _number("--max-queued-per-engine", _LINE.max_items_per_engine, "The same of one engine."),
        _number("--retain-bytes", _KEPT.max_bytes, "Of results that are kept."),
        _number("--retain-count", _KEPT.max_items, "Ended generations that are kept."),
        _seconds("--retain-seconds", _KEPT.max_age, "For results of engines that left."),
        click.option(
            "--orphans-cancelled-after",
            type=click.FloatRange(min=0),
            metavar="SECONDS",
            help="Cancel the work of engines that left; default: finish and keep it.",
        ),
        _number("--max-height", _DEFAULTS.max_height, "In pixels."),
        _number("--max-width", _DEFAULTS.max_width, "In pixels."),
        _number("--max-steps", _DEFAULTS.max_steps, "Of one generation."),
        _number("--max-frames", _DEFAULTS.max_frames, "Of one video."),
        _number("--max-outputs", _DEFAULTS.max_outputs, "Of one generation."),
        _number("--max-prompt-bytes", _DEFAULTS.max_prompt_bytes, "Of one prompt."),
        _seconds("--grace", config.DRAIN_SECONDS, "That a drain or SIGTERM leaves for finishing."),
    )


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 99},
    epilog="Exit codes: 0 ended as asked, 2 usage, 3 model cannot be loaded, 4 device failed, "
    "5 cannot listen.",
)
@_model_options
@_run_options
@_reach_options
@_saving_options
@_bound_options
@click.option(
    "--log-format", type=click.Choice(["json", "text"]), default="json", show_default=True
)
@click.option(
    "--log-level",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
    default="INFO",
    show_default=True,
)
@click.version_option(package_name="kubediffusion", prog_name=PROGRAM)
def _command(**given: Any) -> Mapping[str, Any]:  # values of the options, by their types
    """Serve a diffusion model to engines.

    Prints one line of JSON when it answers, while the model is still being loaded; logs go to
    standard error. SIGTERM saves what runs, finishes what fits into the grace, hands over the
    rest, keeps results for engines to fetch, then ends. A second one hands over at once.
    """
    return given


def _config(given: Mapping[str, Any]) -> config.ProcessConfig:  # see _command
    return config.ProcessConfig(
        worker=_worker(given),
        listen=given["listen"],
        tls=_tls(given),
        insecure=given["insecure"],
        http=given["http"],
        registry=_folder(given["folder"]),
        grace=given["grace"],
        parent_fd=given["parent_fd"],
        threads=given["threads"],
        log_format=given["log_format"],
        log_level=given["log_level"].upper(),
    )


def _worker(given: Mapping[str, Any]) -> config.WorkerConfig:  # see _command
    return config.WorkerConfig(
        model=model.ModelConfig(
            model=given["model"],
            dtype=given["dtype"],
            device=given["device"],
            offload=given["offload"],
            compile=given["compile"],
            vae_slicing=given["vae_slicing"],
            vae_tiling=given["vae_tiling"],
            preview_vae=given["preview_vae"],
            certify=given["certify"],
            variant=given["variant"],
            revision=given["revision"],
        ),
        name=given["name"] or f"worker-{uuid.uuid4().hex[:8]}",
        adapters=tuple(map(_adapter, given["loras"])),
        requests=config.RequestLimits(
            max_height=given["max_height"],
            max_width=given["max_width"],
            max_steps=given["max_steps"],
            max_frames=given["max_frames"],
            max_outputs=given["max_outputs"],
            max_prompt_bytes=given["max_prompt_bytes"],
        ),
        bounds=_bounds(given),
        checkpoint_seconds=given["checkpoint_seconds"] or None,
        checkpoint_folder=given["checkpoint_dir"],
        drain_seconds=given["grace"],
        preview_seconds=given["preview_seconds"],
    )


def _bounds(given: Mapping[str, Any]) -> lifecycle.LifecycleConfig:  # see _command
    retained = given["retain_bytes"]
    share = _KEPT.max_bytes_per_engine / _KEPT.max_bytes
    return lifecycle.LifecycleConfig(
        line_limits=queueing.LineLimits(
            max_items=given["max_queued"],
            max_items_per_engine=min(given["max_queued_per_engine"], given["max_queued"]),
        ),
        retention_limits=retention.RetentionLimits(
            max_bytes=retained,
            max_bytes_per_engine=max(1, int(retained * share)),
            max_items=given["retain_count"],
            max_age=given["retain_seconds"],
        ),
        checkpoint_limits=checkpoints.CheckpointLimits(max_bytes=given["checkpoint_bytes"]),
        slots=given["slots"],
        orphan_cancel_seconds=given["orphans_cancelled_after"],
    )


def _adapter(text: str) -> config.AdapterSource:
    name, separator, source = text.partition("=")
    if not (name and separator and source):
        raise ValueError(f"--lora must be NAME=SOURCE; found {text!r}")
    return config.AdapterSource(name=name, source=source)


def _tls(given: Mapping[str, Any]) -> channels.TlsFiles | None:  # see _command
    files = [given["tls_cert"], given["tls_key"], given["tls_ca"]]
    if not any(files):
        return None
    if not all(files):
        raise ValueError("--tls-cert, --tls-key and --tls-ca must be given together")
    certificate, key, authority = files
    return channels.TlsFiles(
        certificate=certificate,
        key=key,
        authority=authority,
        expected_name=given["tls_client_name"],
    )


def _folder(text: str) -> pathlib.Path | None:
    if text == "none":
        return None
    return pathlib.Path(text) if text else registry.default_folder()
