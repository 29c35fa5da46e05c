"""An engine process that is there to be killed; the same program again takes over.

It gets a task as JSON, submits what has not been submitted, and writes a line to a file for
every request that was accepted and for every result, each in one write.
"""

import asyncio
import dataclasses
import hashlib
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import kubediffusion


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What an engine process is to do."""

    log: str
    """File of lines "accepted ID", "resumed ID STEP" and "result ID SHA256 ATTEMPT"."""
    config: dict[str, Any]
    request: dict[str, Any]
    """Fields of every request; the seed is its place in the list."""
    ids: list[str]
    each: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """Further fields of each request; empty: none."""


def start(task: Task) -> "subprocess.Popen[bytes]":
    """Start an engine process."""
    return subprocess.Popen(
        [sys.executable, __file__, json.dumps(dataclasses.asdict(task))],
        stderr=subprocess.PIPE,
    )


def lines(log: pathlib.Path, kind: str) -> Iterator[list[str]]:
    """Yield the words after a kind of lines."""
    if log.exists():
        for line in log.read_text().splitlines():
            word, *rest = line.split()
            if word == kind:
                yield rest


async def _work(task: Task, log: int, done: set[str]) -> None:
    config = kubediffusion.OmniDiffusionConfig(**task.config)
    each: list[dict[str, Any]] = task.each or [{} for _ in task.ids]
    async with kubediffusion.AsyncDiffusionEngine(config) as engine:
        await asyncio.gather(
            *(
                _obtain(engine, {"request_id": name, "seed": seed, **task.request, **more}, log)
                for seed, (name, more) in enumerate(zip(task.ids, each, strict=True))
                if name not in done
            )
        )


async def _obtain(
    engine: kubediffusion.AsyncDiffusionEngine, request: dict[str, Any], log: int
) -> None:
    name = request["request_id"]
    generation = await engine.submit(request)
    os.write(log, f"accepted {name}\n".encode())
    async for event in generation:
        if event.kind == "resumed":
            os.write(log, f"resumed {name} {event.step}\n".encode())
    output = await generation.result()
    digest = hashlib.sha256(output.data).hexdigest()
    os.write(log, f"result {name} {digest} {output.attempt}\n".encode())


def main() -> None:
    """Do the task of the first argument."""
    task = Task(**json.loads(sys.argv[1]))
    path = pathlib.Path(task.log)
    done = {words[0] for words in lines(path, "result")}
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    asyncio.run(_work(task, log, done))


if __name__ == "__main__":
    main()
