"""The factory on a cluster: several nodes on this machine, one of them killed in the middle."""

from dataclasses import replace

import pytest
import torch
from test_pairs import TINY, many, small_shards

from ip2p.dataset.shards import Manifest
from ip2p.factory.pairs import make_pairs


@pytest.fixture
def cluster(monkeypatch):
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.others = [cluster.add_node(num_cpus=2) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


def test_one_and_four_workers_and_a_killed_node_make_the_same_bytes(
    cluster, tiny_pipe, tmp_path, monkeypatch
):
    tiny_pipe.save_pretrained(tmp_path / "sd")
    profile, triplets = replace(TINY, text_to_image=str(tmp_path / "sd")), many(16)
    threads = torch.get_num_threads()
    small_shards(triplets, tmp_path / "local", profile, threads=1)  # as an actor has
    torch.set_num_threads(threads)
    whole = contents(tmp_path / "local")
    assert len(whole) == 8
    small_shards(triplets[:4], tmp_path / "one", profile, executor="ray", workers=1)
    assert contents(tmp_path / "one") == {
        name: whole[name] for name in ("pairs-00000.parquet", "pairs-00001.parquet")
    }

    add, lost = Manifest.add, []

    def add_and_kill(self, line):
        add(self, line)
        if len(self.shards) == 3:
            lost.append(cluster.others[0])
            cluster.remove_node(cluster.others[0], allow_graceful=False)

    monkeypatch.setattr(Manifest, "add", add_and_kill)
    counts = small_shards(triplets, tmp_path / "four", profile, executor="ray", workers=4)
    assert lost and contents(tmp_path / "four") == whole, "whatever died, and in whatever order they came"
    assert (
        counts["triplets"] == 16 and len((tmp_path / "four" / "manifest.jsonl").read_text().splitlines()) == 9
    )


def test_an_unknown_executor_is_refused(tiny_pipe, tmp_path):
    with pytest.raises(ValueError, match="choose local or ray"):
        make_pairs(many(1), tmp_path, TINY, executor="slurm")
