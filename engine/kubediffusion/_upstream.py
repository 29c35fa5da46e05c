"""Names of vLLM-Omni's configuration that are accepted without effect, and why.

Code written for it runs unchanged, but is told once what it will not get. A table, hence
its length.
"""

from collections.abc import Mapping

_NO_CACHE = "no step cache is used, so that results stay exact"
_NO_BATCH = "a worker runs one generation at a time"
_NO_QUANTIZATION = "the model is loaded in `dtype`"
_OWN_WIRE = "workers have addresses of their own; see `workers` and `discovery`"
_WORKER_FLAG = "pass it to the worker through `worker_options` if it has such a flag"
_PIPELINE = "the pipeline's class is read from the model's own folder"
_PER_REQUEST = "give it with the request, in `extra_args`"
_NO_RAY = "this release has no Ray executor"

IGNORED: Mapping[str, str] = {
    "additional_config": _WORKER_FLAG,
    "attention_backend": _WORKER_FLAG,
    "boundary_ratio": _PER_REQUEST,
    "cache_backend": _NO_CACHE,
    "cache_config": _NO_CACHE,
    "custom_pipeline_args": _PIPELINE,
    "diffusers_call_kwargs": _PER_REQUEST,
    "diffusers_load_kwargs": _WORKER_FLAG,
    "diffusion_compile_granularity": "`enforce_eager=False` compiles the denoiser",
    "diffusion_load_format": _PIPELINE,
    "diffusion_offload_config": "see `enable_cpu_offload` and `enable_layerwise_offload`",
    "dist_timeout": "see `takeover_seconds`",
    "enable_broadcast_weight_load": _WORKER_FLAG,
    "enable_prompt_embed_cache": _NO_CACHE,
    "enable_sleep_mode": "workers keep their weights resident",
    "engine_backend": "there is one engine",
    "extras": _WORKER_FLAG,
    "flow_shift": _PER_REQUEST,
    "host": _OWN_WIRE,
    "master_port": _OWN_WIRE,
    "max_cpu_loras": "adapters stay resident until `unload_adapter`",
    "model_class_name": _PIPELINE,
    "num_weight_load_threads": _WORKER_FLAG,
    "output_type": "give it with the request",
    "port": _OWN_WIRE,
    "profiler_config": "workers export metrics over HTTP",
    "quantization_config": _NO_QUANTIZATION,
    "ray_actor_cpus": _NO_RAY,
    "ray_actor_gpus": _NO_RAY,
    "ray_actor_memory": _NO_RAY,
    "ray_actor_resources": _NO_RAY,
    "ray_init_kwargs": _NO_RAY,
    "request_batch_max_wait_ms": _NO_BATCH,
    "scheduler_port": _OWN_WIRE,
    "step_execution": "every pipeline is controlled step by step",
    "streaming_output": "events stream for every generation",
    "task_type": _PIPELINE,
    "trust_remote_code": "code from model repositories is never run",
    "worker_extension_cls": "a worker runs no code but its own",
}
"""Reason by name."""
