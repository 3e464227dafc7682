"""Stage 3: the four similarities, the trap of the wrong range, and the choice of the best."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from ip2p.clip_filter import ClipSimilarity, Similarities, best, passes
from ip2p.miniworld import caption, edit, random_scene, render
from ip2p.pairs import as_tensor
from ip2p.profiles import MINI


@pytest.fixture(scope="module")
def clip():
    return ClipSimilarity(MINI.clip)


@pytest.fixture(scope="module")
def pairs():
    scenes = [random_scene(i) for i in range(8)]
    edited = [edit(s, time="night" if s.time == "day" else "day") for s in scenes]
    return (*(as_tensor([render(s) for s in x]) for x in (scenes, edited)),
            *([caption(s) for s in x] for x in (scenes, edited)))


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
    sim = Similarities(*(torch.tensor(x) for x in ([.9, .9, .1, .9, .9], [.9, .9, .9, .9, .9],
                                                    [.3, .5, .9, .1, .4], [.8, .9, .9, .9, .2])))
    thresholds = dict(min_image=0.7, min_caption=0.2, min_direction=0.2)
    assert passes(sim, **thresholds).tolist() == [True, True, False, False, False]
    assert best(sim, 4, **thresholds) == [1, 0] and best(sim, 1, **thresholds) == [1]
    assert best(sim, 4, min_image=2, min_caption=0, min_direction=0) == []


def test_no_such_model(tmp_path):
    with pytest.raises(ValueError, match="no open_clip_config.json"):
        ClipSimilarity(str(tmp_path))
