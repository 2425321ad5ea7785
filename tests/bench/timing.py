"""How long something takes: the median of several rounds, in microseconds. Used in each engine's own interpreter."""

import statistics
import time
from collections.abc import Awaitable, Callable

Work = Callable[[], Awaitable[object]]


async def per_step(work: Work, steps: int, rounds: int = 5) -> float:
    """Microseconds for each of the `steps` that one call of `work` makes."""
    await work()
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        await work()
        took.append(time.perf_counter() - began)
    return statistics.median(took) / steps * 1e6


async def each(work: Callable[[int], Awaitable[object]], turns: int) -> list[float]:
    """Microseconds of each of several turns."""
    took = []
    for turn in range(turns):
        began = time.perf_counter()
        await work(turn)
        took.append((time.perf_counter() - began) * 1e6)
    return took


def early_and_late(took: list[float]) -> tuple[float, float]:
    """The median around turn 10, and that of the last twenty."""
    return statistics.median(took[5:25]), statistics.median(took[-20:])
