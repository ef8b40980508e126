"""Batches made ahead of the model by threads, in the order that the run will ask for them.

Batch n depends on (seed, n) alone, so whoever makes it, and when, changes no number. Memory holds
`ahead` batches and the one in use: pictures of a set that no memory holds are decoded on their way.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from latentvla_core.types import Array

Order = Callable[[int], Array]
"""Number of a batch → (B,) its samples; asked in the caller's thread."""
Make = Callable[[Array, int], Any]
"""(samples, number of the batch) → the batch."""


class Batches:
    """`take(n)` in the order of `numbers`; with `ahead` 0 each is made when it is asked for.

    `waited_s` is how long the last `take` kept the model waiting: near 0 when loading keeps up,
    near the time of making a batch when it does not.
    """

    def __init__(self, numbers: Iterable[int], order: Order, make: Make, ahead: int) -> None:
        self.order, self.make, self.ahead = order, make, ahead
        self.waited_s = 0.0
        self._pool = ThreadPoolExecutor(ahead, thread_name_prefix="batch") if ahead else None
        self._numbers = iter(numbers)
        self._made: deque[tuple[int, Future[Any]]] = deque()

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def take(self, number: int) -> Any:
        """Batch `number`; raises what making it raised."""
        began = time.perf_counter()
        batch = self._next(number) if self._pool else self.make(self.order(number), number)
        self.waited_s = time.perf_counter() - began
        return batch

    def _next(self, number: int) -> Any:
        assert self._pool is not None
        while len(self._made) <= self.ahead and (wanted := next(self._numbers, None)) is not None:
            job = self._pool.submit(self.make, self.order(wanted), wanted)
            self._made.append((wanted, job))
        made, job = self._made.popleft()
        if made != number:
            raise ValueError(f"batch {number} is asked for, {made} is next; take them in order")
        return job.result()
