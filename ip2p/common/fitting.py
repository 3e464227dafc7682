"""Batches that fit the memory: tried, and halved where they do not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def largest_that_fits(work: Callable[[int], T], size: int, what: str) -> tuple[T, int]:
    """`work(size)` and the size; where that takes more memory than there is, of half the size, and so on,
    each time with a sentence. what: the things of which `size` are worked on at once.

    Raises what `work` raises: other errors at once, and PyTorch's own where even one is too much.
    """
    from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

    while True:
        try:
            return work(size), size
        except RuntimeError as error:
            if size == 1 or not should_reduce_batch_size(error):
                raise
        # only now, as the error held on to what had been computed
        clear_device_cache(garbage_collection=True)
        print(f"ip2p: {size} {what} at once do not fit the memory; trying {size // 2}", file=sys.stderr)
        size //= 2
