"""The pair factory on a Ray cluster: `ip2p pairs --executor ray`. Needs `pip install "ray[data]"`.

Ray Data hands stretches of triplets to actors, each of which holds the models once; it starts lost actors
again and gives their work to others. What comes back are whole shards, and only the driver writes them and
notes them in the manifest: so nothing is lost or written twice whatever dies, no file system has to be
shared, and the bytes are those of the local executor at the same number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ip2p.clip_filter import ClipSimilarity
from ip2p.factory.pairs import load_painter, make_shard
from ip2p.options import Job
from ip2p.profiles import Profile


class Painter:
    """An actor: the models, loaded once."""

    def __init__(self, profile: Profile, job: Job, triplets, threads: int, device: str, dtype: torch.dtype):
        import ray

        torch.set_num_threads(threads)
        self.job = job
        self.triplets = ray.get(triplets)
        self.pipe = load_painter(profile, device, dtype)
        self.clip = ClipSimilarity(profile.clip, device)

    def __call__(self, batch: dict) -> dict:
        import json

        done = {"start": batch["start"], "data": [], "counts": []}
        for start in batch["start"]:
            data, counts = make_shard(self.pipe, self.clip, self.job, self.triplets, int(start))
            done["data"].append(data)
            done["counts"].append(json.dumps(counts))
        return done


def make_shards(
    profile: Profile,
    job: Job,
    triplets: list[dict],
    starts: list[int],
    workers: int | None = None,
    device: str = "auto",
    dtype: torch.dtype = torch.float32,
) -> Iterator[tuple[int, bytes, dict]]:
    """(start, bytes, counts) of each shard, in the order in which they are done.

    workers: actors, each with `job.threads` CPUs or one GPU (None: as many as the cluster has room for).
    device: "auto" is a GPU where the cluster has any, else the CPU. dtype: of PyTorch; None is float32.
    Connects to the cluster of `ray.init` or of the environment variable RAY_ADDRESS, or starts one on this
    machine.
    """
    import json

    try:
        import ray
    except ImportError:
        raise ValueError('the executor ray needs Ray: pip install "ray[data]"') from None

    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level="error")
    resources = ray.cluster_resources()
    threads = max(1, job.threads)
    if device == "auto":
        device = "cuda" if resources.get("GPU", 0) > 0 else "cpu"
    gpu = device == "cuda"
    if workers is None:
        room = resources.get("GPU", 0) if gpu else resources.get("CPU", 1) // threads
        workers = max(1, int(room))
    needs = {"num_gpus": 1} if gpu else {"num_cpus": threads}
    shards = ray.data.from_items([{"start": start} for start in starts], override_num_blocks=len(starts))
    painted = shards.map_batches(
        Painter,
        fn_constructor_args=(profile, job, ray.put(triplets), threads, device, dtype),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
        **needs,
    )
    # prefetch_batches=0: a finished shard is handed over at once, not when the next one is finished
    for batch in painted.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for row in batch.to_pylist():
            yield row["start"], row["data"], json.loads(row["counts"])
