"""Stage 3: the four similarities, the trap of the wrong range, and the choice of the best."""

from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from ip2p.clip_filter import ClipSimilarity, Similarities, best, passes
from ip2p.common.images import as_tensor
from ip2p.miniworld import caption, edit, random_scene, render
from ip2p.profiles import MINI, SD15
from ip2p.study.speed import one_by_one


@pytest.fixture(scope="module")
def clip():
    return ClipSimilarity(MINI.clip)


@pytest.fixture(scope="module")
def pairs():
    scenes = [random_scene(i) for i in range(8)]
    edited = [edit(s, time="night" if s.time == "day" else "day") for s in scenes]
    return (
        *(as_tensor([render(s) for s in x]) for x in (scenes, edited)),
        *([caption(s) for s in x] for x in (scenes, edited)),
    )


def test_each_similarity_is_the_cosine_that_the_paper_means(clip, pairs):
    sim = clip(*pairs)
    i0, i1 = (clip.clip.encode_image(x * 2 - 1) for x in pairs[:2])  # this model's own normalisation
    t0, t1 = (clip.clip.encode_text(clip.tokenizer(x)) for x in pairs[2:])
    i0, i1, t0, t1 = (F.normalize(x, dim=-1) for x in (i0, i1, t0, t1))
    for got, want in zip(sim, ((i0, t0), (i1, t1), (i1 - i0, t1 - t0), (i0, i1)), strict=True):
        assert_close(got, F.cosine_similarity(*want), atol=1e-5, rtol=0)


def test_true_edits_point_the_way_of_their_captions(clip, pairs):
    assert (clip(*pairs).sim_direction > 0.3).all()
    back = clip(pairs[0], pairs[1], pairs[3], pairs[2]).sim_direction
    assert (back < -0.3).all()


def test_the_range_of_a_diffusion_model_is_refused(clip, pairs):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        clip.encode_image(pairs[0] * 2 - 1)
    for wrong in (pairs[0][0], (pairs[0] * 255).byte(), pairs[0][:, :1]):
        with pytest.raises(ValueError, match="must be float"):
            clip.encode_image(wrong)


def test_other_sizes_are_resized(clip, pairs):
    large = F.interpolate(pairs[0], size=(128, 128), mode="bicubic").clamp(0, 1)
    assert F.cosine_similarity(clip.encode_image(large), clip.encode_image(pairs[0])).min() > 0.9


def test_the_best_pass_every_threshold_and_come_by_direction():
    sim = Similarities(
        *(
            torch.tensor(x)
            for x in (
                [0.9, 0.9, 0.1, 0.9, 0.9],
                [0.9, 0.9, 0.9, 0.9, 0.9],
                [0.3, 0.5, 0.9, 0.1, 0.4],
                [0.8, 0.9, 0.9, 0.9, 0.2],
            )
        )
    )
    thresholds = dict(min_image=0.7, min_caption=0.2, min_direction=0.2)
    assert passes(sim, **thresholds).tolist() == [True, True, False, False, False]
    assert best(sim, 4, **thresholds) == [1, 0] and best(sim, 1, **thresholds) == [1]
    assert best(sim, 4, min_image=2, min_caption=0, min_direction=0) == []


def test_no_such_model(tmp_path):
    with pytest.raises(ValueError, match="no open_clip_config.json"):
        ClipSimilarity(str(tmp_path))
    (tmp_path / "open_clip_config.json").write_bytes((Path(MINI.clip) / "open_clip_config.json").read_bytes())
    with pytest.raises(ValueError, match="cannot load .*weights"):  # and not made at random
        ClipSimilarity(str(tmp_path))


def test_a_wrong_activation_is_an_error(monkeypatch):
    """open_clip only warns of it."""
    monkeypatch.setattr("open_clip.factory.download_pretrained", lambda *_, **__: "ViT-L-14.pt")
    with pytest.raises(ValueError, match="cannot load ViT-L-14/openai: QuickGELU mismatch"):
        ClipSimilarity("ViT-L-14/openai")
    assert SD15.clip == "ViT-L-14-quickgelu/openai"


def test_a_text_is_encoded_once_and_its_neighbours_change_no_bit(clip, pairs, monkeypatch):
    texts = pairs[2]
    fresh = ClipSimilarity(MINI.clip)
    one = fresh.encode_text(texts[:1])
    assert torch.equal(fresh.encode_text(texts)[:1], one) and torch.equal(
        clip.encode_text(texts), fresh.encode_text(texts)
    )
    monkeypatch.setattr(fresh.clip, "encode_text", lambda *_: pytest.fail("asked again"))
    assert torch.equal(fresh.encode_text(texts[::-1]), clip.encode_text(texts).flip(0))


def test_bfloat16_is_close(clip, pairs):
    rough = ClipSimilarity(MINI.clip, dtype="bfloat16")(*pairs)
    for a, b in zip(rough, clip(*pairs), strict=True):
        assert_close(a, b, atol=0.05, rtol=0)
        assert a.dtype == torch.float32


def test_batches_cost_fewer_passes_than_one_pair_at_a_time_and_are_as_exact(clip, monkeypatch):
    """Against the authors' way: each of six candidates of a caption pair alone, its texts encoded each
    time."""
    scenes = [random_scene(i) for i in range(24) for _ in range(6)]
    edited = [edit(s, time="night" if s.time == "day" else "day") for s in scenes]
    images = [as_tensor([render(s) for s in x]) for x in (scenes, edited)]
    texts = [[caption(s) for s in x] for x in (scenes, edited)]

    alone = torch.stack(one_by_one(clip, *images, *texts))
    passes_of = Counter()
    for name in ("encode_image", "encode_text"):
        count_calls(clip.clip, name, passes_of, monkeypatch)
    clip.known_texts.clear()
    together = torch.stack(clip(*images, *texts))
    assert_close(alone, together, atol=1e-4, rtol=0)
    pairs = len(scenes)
    assert passes_of["encode_image"] <= 2 * pairs / 24, "144 pairs, in batches"
    assert passes_of["encode_text rows"] <= 2 * 24 + 32, "each distinct text once (and padding)"


def count_calls(model, name: str, count: Counter, monkeypatch) -> None:
    """Count in `count` how often a method of a model is called, and with how many rows in all."""
    method = getattr(model, name)

    def counted(x, *rest, **options):
        count[name] += 1
        count[f"{name} rows"] += len(x)
        return method(x, *rest, **options)

    monkeypatch.setattr(model, name, counted)
