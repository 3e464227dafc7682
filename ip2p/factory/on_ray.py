"""Work spread over a Ray cluster: `ip2p pairs --executor ray`. Needs `pip install "ray[data]"`.

Ray Data hands the starts of shards to actors, each of which holds the models once; it starts lost actors
again and gives their work to others. What comes back are whole shards, and only the driver writes them and
notes them in the manifest: so nothing is lost or written twice whatever dies, no file system has to be
shared, and the bytes are those of the local executor at the same number of threads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import torch


class Worker:
    """An actor: the models, loaded once."""

    def __init__(self, load: Callable, make, threads: int, device: str):
        import ray

        torch.set_num_threads(threads)
        self.make = ray.get(make)
        self.models = load(device)

    def __call__(self, batch: dict) -> dict:
        done = {"start": batch["start"], "data": [], "counts": []}
        for start in batch["start"]:
            data, counts = self.make(self.models, int(start))
            done["data"].append(data)
            done["counts"].append(json.dumps(counts))
        return done


def spread(
    load: Callable, make: Callable, starts: list[int], threads: int, workers: int | None, device: str
) -> Iterator[tuple[int, bytes, dict]]:
    """(start, bytes, counts) of each shard, in the order in which they are done.

    `load(device)` loads the models in an actor, `make(models, start)` returns a shard's bytes and counts.
    workers: actors, each with `threads` CPUs or one GPU (None: as many as the cluster has room for). device:
    "auto" is a GPU where the cluster has any, else the CPU. Connects to the cluster of `ray.init` or of the
    environment variable RAY_ADDRESS, or starts one on this machine.
    """
    try:
        import ray
    except ImportError:
        raise ValueError('the executor ray needs Ray: pip install "ray[data]"') from None

    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level="error")
    resources = ray.cluster_resources()
    if device == "auto":
        device = "cuda" if resources.get("GPU", 0) > 0 else "cpu"
    gpu = device == "cuda"
    if workers is None:
        room = resources.get("GPU", 0) if gpu else resources.get("CPU", 1) // threads
        workers = max(1, int(room))
    needs = {"num_gpus": 1} if gpu else {"num_cpus": threads}
    shards = ray.data.from_items([{"start": start} for start in starts], override_num_blocks=len(starts))
    made = shards.map_batches(
        Worker,
        fn_constructor_args=(load, ray.put(make), threads, device),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
        **needs,
    )
    # prefetch_batches=0: a finished shard is handed over at once, not when the next one is finished
    for batch in made.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for row in batch.to_pylist():
            yield row["start"], row["data"], json.loads(row["counts"])
