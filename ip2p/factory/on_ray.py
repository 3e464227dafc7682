"""The pair factory on a Ray cluster: `ip2p pairs --executor ray`. Needs `pip install "ray[data]"`.

Ray Data hands stretches of triplets to actors, each of which holds the models once; it starts lost actors again and
gives their work to others. What comes back are whole shards, and only the driver writes them and notes them in the
manifest: so nothing is lost or written twice whatever dies, no file system has to be shared, and the bytes are those of
the local executor at the same number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator

from ip2p.factory.candidates import Job
from ip2p.factory.pairs import make_shard
from ip2p.profiles import Profile


class Painter:
    """An actor: the models, loaded once."""

    def __init__(self, profile: Profile, job: Job, triplets, threads: int, gpu: bool):
        import ray
        import torch

        from ip2p.clip_filter import ClipSimilarity
        from ip2p.profiles import load_text_to_image

        torch.set_num_threads(threads)
        device = "cuda" if gpu else "cpu"
        self.job, self.triplets = job, ray.get(triplets)
        self.pipe, self.clip = load_text_to_image(profile).to(device), ClipSimilarity(profile.clip, device)

    def __call__(self, batch: dict) -> dict:
        import json

        done = [
            make_shard(self.pipe, self.clip, self.job, self.triplets, int(start)) for start in batch["start"]
        ]
        return {
            "start": batch["start"],
            "data": [data for data, _ in done],
            "counts": [json.dumps(counts) for _, counts in done],
        }


def make_shards(
    profile: Profile,
    job: Job,
    triplets: list[dict],
    starts: list[int],
    workers: int | None = None,
    gpu: bool | None = None,
) -> Iterator[tuple[int, bytes, dict]]:
    """(start, bytes, counts) of each shard, in the order in which they are done. workers: actors, each with
    `job.threads` CPUs or one GPU (None: as many as the cluster has room for). gpu: None means where there is any.

    Connects to the cluster of `ray.init` or of the environment variable RAY_ADDRESS, or starts one on this machine.
    """
    import json

    try:
        import ray
    except ImportError:
        raise ValueError('the executor ray needs Ray: pip install "ray[data]"') from None

    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level="error")
    resources, threads = ray.cluster_resources(), max(1, job.threads)
    gpu = resources.get("GPU", 0) > 0 if gpu is None else gpu
    room = resources.get("GPU" if gpu else "CPU", 1)
    workers = workers or max(1, int(room if gpu else room // threads))
    painted = ray.data.from_items(
        [{"start": start} for start in starts], override_num_blocks=len(starts)
    ).map_batches(
        Painter,
        fn_constructor_args=(profile, job, ray.put(triplets), threads, gpu),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
        **({"num_gpus": 1} if gpu else {"num_cpus": threads}),
    )
    # prefetch_batches=0: a finished shard is handed over at once, not when the next one is finished
    for batch in painted.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for row in batch.to_pylist():
            yield row["start"], row["data"], json.loads(row["counts"])
