import asyncio
import concurrent.futures
import io
import threading

import PIL.Image

from kubediffusion_worker import previewing, runs, stimuli


def a_picture(step: int, *, side: int = 8) -> runs.PreviewData:
    return runs.PreviewData(step=step, width=side, height=side, pixels=bytes(3 * side * side))


def test_a_preview_becomes_a_jpeg_file_of_its_size() -> None:
    with PIL.Image.open(io.BytesIO(previewing.encode(a_picture(1, side=16)))) as picture:
        assert (picture.format, picture.size, picture.mode) == ("JPEG", (16, 16), "RGB")


def test_the_latest_wins_while_one_is_being_encoded() -> None:
    async def story() -> list[int]:
        told: list[int] = []

        def tell(stimulus: stimuli.AnyStimulus) -> None:
            assert isinstance(stimulus, stimuli.Previewed)
            told.append(stimulus.preview.step)

        is_free = threading.Event()
        with concurrent.futures.ThreadPoolExecutor(1) as threads:
            threads.submit(is_free.wait, 60)
            easel = previewing.Easel(1, threads, tell, lambda: 0.0)
            assert easel.put(a_picture(1))
            drawing = asyncio.create_task(easel.draw())
            await asyncio.sleep(0)
            assert not easel.put(a_picture(2))
            assert not easel.put(a_picture(3))
            is_free.set()
            await drawing
            assert easel.put(a_picture(4))
            await easel.draw()
        return told

    assert asyncio.run(story()) == [1, 3, 4]


def test_a_picture_that_is_none_stops_nothing() -> None:
    async def story() -> bool:
        with concurrent.futures.ThreadPoolExecutor(1) as threads:
            easel = previewing.Easel(1, threads, lambda stimulus: None, lambda: 0.0)
            easel.put(runs.PreviewData(step=1, width=8, height=8, pixels=b""))
            await easel.draw()
            return easel.put(a_picture(2))

    assert asyncio.run(story())
