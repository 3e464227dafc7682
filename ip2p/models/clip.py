"""mini-clip: open_clip's own CLIP, small, trained with open_clip's own loss on renders and captions.

The image side is CLIP's ResNet (Radford et al., arXiv 2103.00020; "RN50" with fewer and thinner blocks): at
this size it costs half of a vision transformer on a CPU, and convolutions need fewer samples. Half of every
batch are hard negatives, a scene beside one edit of it, so that the similarity has to mind each attribute.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import torch
from safetensors.torch import save_file

from ip2p.common.images import to_float
from ip2p.common.train_loop import train_loop
from ip2p.miniworld import Scene, caption
from ip2p.miniworld.held_out import HELD_OUT
from ip2p.models.autoencoder import decode, encode
from ip2p.models.corrupt import corrupt, repainted_pairs, training_pairs
from ip2p.models.files import CORES, half, minutes, names
from ip2p.models.judge import SETS as JUDGE_SETS
from ip2p.models.renders import cached_edits, cached_renders
from ip2p.models.text_encoder import MAX_TOKENS, tokenise

SETS = (*JUDGE_SETS, (5000, 2, "plain"))  # (renders, seed, mix), and an edit of each

PREPROCESS = {
    "size": 64,
    "mode": "RGB",
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}  # [-1, 1], as everywhere here


def model_config(tokenizer) -> dict:
    """The model's configuration, as open_clip reads it."""
    return {
        "embed_dim": 128,
        "vision_cfg": {"image_size": 64, "layers": [2, 2, 2, 1], "width": 14, "head_width": 64},
        "text_cfg": {
            "context_length": MAX_TOKENS,
            "vocab_size": len(tokenizer),
            "width": 96,
            "heads": 4,
            "layers": 2,
            "pool_type": "eos",
            "eos_id": tokenizer.eos_token_id,
            "hf_tokenizer_name": "data/models/mini-clip",
        },  # "local-dir:" takes its own folder instead
    }


def new_clip(tokenizer):
    from open_clip.model import CLIP

    return CLIP(**model_config(tokenizer))


@torch.no_grad()
def image_features(model, pictures: torch.Tensor, batch: int = 256) -> torch.Tensor:
    """(n, 3, 64, 64) uint8 -> (n, 128), of unit length."""
    device = model.logit_scale.device
    return torch.cat(
        [model.encode_image(to_float(p.to(device)), normalize=True).cpu() for p in pictures.split(batch)]
    )


@torch.no_grad()
def text_features(model, tokenizer, texts: list[str], batch: int = 256) -> torch.Tensor:
    """n texts -> (n, 128), of unit length."""
    device = model.logit_scale.device
    return torch.cat(
        [
            model.encode_text(ids.to(device), normalize=True).cpu()
            for ids in tokenise(tokenizer, texts).split(batch)
        ]
    )


def retrieval(images: torch.Tensor, texts: torch.Tensor, scenes: list[Scene], group: int = 100) -> dict:
    """How often the own one is the most similar of `group` distinct scenes, over all full groups of rows."""
    groups, current, seen = [], [], set()
    for i, scene in enumerate(scenes):
        key = tuple(scene.attributes().items())
        if key not in seen:
            current, seen = [*current, i], seen | {key}
        if len(current) == group:
            groups, current, seen = [*groups, current], [], set()
    right = torch.tensor(
        [
            [(s.argmax(d) == torch.arange(group)).float().mean() for d in (1, 0)]
            for s in (images[g] @ texts[g].T for g in groups)
        ]
    )
    return {
        "groups": len(groups),
        "image_to_text": right[:, 0].mean().item(),
        "text_to_image": right[:, 1].mean().item(),
    }


def edits_told(before: tuple[torch.Tensor, torch.Tensor], after: tuple[torch.Tensor, torch.Tensor]) -> dict:
    """On true edits, (image, text) features before and after: how often the edited picture is more similar to
    its own caption than to the one before; directional similarity, and that with another edit's captions."""
    (i0, t0), (i1, t1) = before, after
    images, texts = (torch.nn.functional.normalize(d, dim=-1) for d in (i1 - i0, t1 - t0))
    told = ((i1 * t1).sum(-1) > (i1 * t0).sum(-1)).float().mean().item()
    return {
        "edits": len(i0),
        "own_caption_preferred": told,
        "direction": (images * texts).sum(-1).mean().item(),
        "direction_shuffled": (images * texts.roll(1, 0)).sum(-1).mean().item(),
    }


def measure(model, tokenizer, work: Path, vae=None, n: int = 2000, n_edits: int = 500) -> dict:
    """Retrieval and edits on held-out scenes of the mix "plain"; retrieval also after the autoencoder."""
    scenes, pictures = cached_renders(work, n, HELD_OUT)
    edited, edited_pictures = cached_edits(work, n_edits, HELD_OUT)
    texts = text_features(model, tokenizer, [caption(s, i) for i, s in enumerate(scenes)])
    images = image_features(model, pictures)
    after = (
        image_features(model, edited_pictures),
        text_features(model, tokenizer, [caption(s, i) for i, s in enumerate(edited)]),
    )
    figures = {
        "held_out": n,
        "renders": retrieval(images, texts, scenes),
        "edits": edits_told((images[:n_edits], texts[:n_edits]), after),
    }
    if vae is not None:
        repainted = image_features(model, decode(vae, encode(vae, pictures, 64), 64))
        figures["after_autoencoder"] = retrieval(repainted, texts, scenes)
    return figures


def build(
    work: Path,
    tokenizer,
    vae=None,
    *,
    device: str = "cpu",
    steps: int = 1280,
    batch: int = 128,
    seed: int = 0,
    sets=SETS,
    stop_after: int | None = None,
):
    """Train from nothing or from `work`'s checkpoint. In the second half of the training every second sample
    has been through the autoencoder `vae` (None: stop there). Returns the open_clip model and the log."""
    from open_clip.loss import ClipLoss

    torch.manual_seed(seed)
    model, clip_loss = new_clip(tokenizer).to(device, memory_format=torch.channels_last), ClipLoss()
    scenes, pictures, _ = training_pairs(work, sets)
    repaint_from = steps // 2
    if vae is None:
        stop_after = min(stop_after or steps, repaint_from)
    else:
        of_judge = 2 * sum(n for n, *_ in sets[: len(JUDGE_SETS)])
        painted, paint = repainted_pairs(work, vae, pictures[:of_judge], seed=seed)
    test, held_out = cached_renders(work, 2000, HELD_OUT)
    test, held_out = test[:500], held_out[:500]
    words = [caption(s, i) for i, s in enumerate(test)]

    def draw_rows(n, pairs, generator):
        """Half of the batch in pairs of neighbours (a scene and its edit), the rest from anywhere."""
        some = torch.randint(n // 2, (pairs,), generator=generator) * 2
        rest = torch.randint(n, (2 * pairs,), generator=generator)
        return torch.cat([torch.stack([some, some + 1], 1).flatten(), rest])

    def step_loss(model, generator, step):
        rng = random.Random(seed * 1_000_003 + step)
        if step < repaint_from:
            rows = draw_rows(len(pictures), batch // 4, generator)
            x = pictures[rows]
        else:
            own = draw_rows(len(pictures), batch // 8, generator)
            again = draw_rows(len(paint), batch // 8, generator)
            rows, x = torch.cat([own, painted[again]]), torch.cat([pictures[own], paint[again]])
        mixed = torch.randperm(len(rows), generator=generator)
        rows, x = rows[mixed], corrupt(to_float(x[mixed]), generator)
        ids = tokenise(tokenizer, [caption(scenes[i], rng) for i in rows.tolist()])
        x = x.to(device, memory_format=torch.channels_last)
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))  # as in the paper
        return clip_loss(
            model.encode_image(x, normalize=True),
            model.encode_text(ids.to(device), normalize=True),
            model.logit_scale.exp(),
        )

    def sample(step):
        found = retrieval(image_features(model, held_out), text_features(model, tokenizer, words), test)
        print(
            f"mini-clip, step {step}: image to text {found['image_to_text']:.3f}, "
            f"text to image {found['text_to_image']:.3f}",
            flush=True,
        )

    log = train_loop(
        step_loss,
        model,
        work / "clip",
        steps=steps,
        lr=2e-3,
        seed=seed,
        sample=sample,
        sample_minutes=3,
        desc="mini-clip",
        decay=0.5,
        weight_decay=0.05,
        stop_after=stop_after,
        save_minutes=2,
    )
    return model, log


def calibrate(folder: str | Path, work: Path, vae, n: int = 500, share: float = 0.05) -> dict[str, float]:
    """The filter's thresholds: what all but `share` of held-out true edits reach, each criterion on its own, after
    the autoencoder. A good pair is as alike and as well pointed as a true one; the judge is not asked."""
    from ip2p.clip_filter import ClipSimilarity

    (before, a), (after, b) = cached_renders(work, n, HELD_OUT), cached_edits(work, n, HELD_OUT)
    images = (decode(vae, encode(vae, x, 64), 64).float() / 255 for x in (a, b))
    sim = ClipSimilarity(str(folder))(*images, *([caption(s) for s in scenes] for scenes in (before, after)))
    low = {name: x.quantile(share).item() for name, x in zip(sim._fields, sim, strict=True)}
    return {
        "min_image": low["sim_image"],
        "min_caption": min(low["sim_0"], low["sim_1"]),
        "min_direction": low["sim_direction"],
    }


def load(folder: str | Path):
    """The model in a folder, by stock open_clip: (model, its tokenizer as of transformers)."""
    import open_clip

    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    return model.eval(), open_clip.get_tokenizer(f"local-dir:{folder}").tokenizer


def save(model, tokenizer, log: list[dict], folder: Path, work: Path, vae, hardware: str = CORES) -> dict:
    """Write data/models/mini-clip as open_clip's hub folders are, a card with figures measured on what was
    written. Returns the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    config = model_config(tokenizer)
    full = {"model_cfg": config, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(full, indent=1) + "\n", encoding="utf-8")
    (folder / "mini-clip.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(folder)
    save_file(half(model), folder / "open_clip_model.safetensors")
    figures = measure(*load(folder), work, vae)
    edits = figures["edits"]
    (folder / "README.md").write_text(
        CARD.format(
            parameters=sum(p.numel() for p in model.parameters()),
            steps=log[-1]["step"],
            minutes=minutes(log),
            hardware=hardware,
            n=figures["held_out"],
            renders=2 * sum(n for n, *_ in SETS),
            clean=figures["renders"],
            again=figures["after_autoencoder"],
            n_edits=edits["edits"],
            told=edits["own_caption_preferred"],
            direction=edits["direction"],
            shuffled=edits["direction_shuffled"],
            sets=names(SETS),
            **calibrate(folder, work, vae),
        ),
        encoding="utf-8",
    )
    return figures


CARD = """# mini-clip

A small CLIP for pictures and captions of the miniature world: open_clip's own `CLIP` class ({parameters:,}
parameters, a thin ResNet as in CLIP's RN50 and a two-layer text transformer). It loads with stock open_clip:

    import open_clip
    model, _, preprocess = open_clip.create_model_and_transforms("local-dir:data/models/mini-clip")
    tokenizer = open_clip.get_tokenizer("local-dir:data/models/mini-clip")

or, from the root of the repository, after `open_clip.add_model_config("data/models/mini-clip")`, by the name
"mini-clip" with `pretrained="data/models/mini-clip/open_clip_model.safetensors"`, `image_mean=(0.5,) * 3` and
`image_std=(0.5,) * 3`.

- Data: {renders:,} renders by `ip2p.miniworld.render` ({sets}, and one
  random edit of each), with captions by `ip2p.miniworld.caption`, worded afresh at each step. No other data.
- Training: open_clip's contrastive loss, {steps:,} steps of 128 pairs, half of them a scene beside its edit;
  pictures are shifted, blurred, brightened and noised a little, and in the second half every second one went
  through the autoencoder of mini-sd first. About {minutes:.0f} minutes on
  {hardware}.
- Tokenizer: that of mini-sd.
- Made by `ip2p models build`; public domain (CC0), like all files here.

On {n:,} held-out scenes of the mix 'plain', how often the own one is the most similar of 100 (mean of
{clean[groups]} groups):

| | Renders | After the autoencoder |
|---|---:|---:|
| Image to text | {clean[image_to_text]:.1%} | {again[image_to_text]:.1%} |
| Text to image | {clean[text_to_image]:.1%} | {again[text_to_image]:.1%} |

On {n_edits} held-out true edits the edited picture is more similar to its own caption than to the one before
in {told:.1%}; the mean directional similarity is {direction:.3f}, and {shuffled:.3f} with another edit's
captions.

Thresholds of the profile `mini` (`ip2p.models.clip.calibrate`): what 95% of held-out true edits reach, each
criterion on its own, after the autoencoder: image with image {min_image:.2f}, image with caption
{min_caption:.2f}, direction {min_direction:.2f}.

Limits: it knows this world's things and words only. Similarities have another scale than those of ViT-L/14;
thresholds do not carry over.
"""
