import asyncio
import threading

import pytest

from kubediffusion import AsyncDiffusionEngine, DiffusionExecutor, OmniDiffusionConfig, errors


class SlowExecutor(DiffusionExecutor):
    """Starts for as long as nobody shuts it down."""

    begun = threading.Event()

    def _init_executor(self):
        self.ended = threading.Event()

    def start(self, loop):
        self.begun.set()
        if self.ended.wait(60):
            raise errors.WorkerGoneError("shut down while it started")

    def shutdown(self):
        self.ended.set()

    def add_requests(self, requests):
        raise NotImplementedError

    def collective_rpc(self, method, timeout=None, args=(), kwargs=None, unique_reply_rank=None):
        raise NotImplementedError

    def check_health(self):
        raise NotImplementedError


def test_closing_an_engine_ends_a_start_that_is_under_way():
    async def close_early():
        config = OmniDiffusionConfig(engine_id="e", distributed_executor_backend=SlowExecutor)
        engine = AsyncDiffusionEngine(config)
        starting = asyncio.create_task(engine.start())
        assert await asyncio.to_thread(SlowExecutor.begun.wait, 60)
        await engine.close()
        await starting

    with pytest.raises(errors.WorkerGoneError, match="while it started"):
        asyncio.run(close_early())
