"""An engine process that sends thousands of requests and says what it weighs in between."""

import gc
import json
import sys

import psutil

import kubediffusion

BATCH = 250


def soak(engine: kubediffusion.DiffusionEngine, count: int) -> None:
    """Send requests in batches, and wait for each batch."""
    for _ in range(count // BATCH):
        outputs = engine.step(
            [
                kubediffusion.OmniDiffusionRequest(
                    "p", num_inference_steps=3, height=160, width=160, seed=1
                )
                for _ in range(BATCH)
            ]
        )
        assert all(output.finished and not output.error for output in outputs)
        del outputs
    gc.collect()


def sizes(pids: list[int]) -> list[tuple[int, int]]:
    """Return resident bytes and open files of each process."""
    processes = [psutil.Process(pid) for pid in pids]
    return [(process.memory_info().rss, process.num_fds()) for process in processes]


def main() -> None:
    """Write the sizes of engine and workers after the warm-up and at the end."""
    task = json.loads(sys.argv[1])
    with kubediffusion.DiffusionEngine(
        distributed_executor_backend="external_launcher",
        workers=task["addresses"],
        engine_id="soak",
        result_cache_bytes=1_000_000,
    ) as engine:
        pids = [psutil.Process().pid, *task["pids"]]
        soak(engine, task["warm_up"])
        before = sizes(pids)
        soak(engine, task["requests"])
        sys.stdout.write(json.dumps([before, sizes(pids)]) + "\n")


if __name__ == "__main__":
    main()
