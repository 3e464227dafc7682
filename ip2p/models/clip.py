"""mini-clip: open_clip's own CLIP, small, trained on renders and captions that leave things unsaid.

The image side is CLIP's ResNet (Radford et al., arXiv 2103.00020; "RN50" with fewer and thinner blocks): at
this size it costs half of a vision transformer on a CPU, and convolutions need fewer samples. All of a
batch are hard negatives, a scene beside one edit of it, so that the similarity has to mind each attribute. A
caption that says little fits many pictures of a batch; those do not count as its negatives.

The filter asks whether a picture changes as its caption does. So the same loss is taken once more on
*changes*: the difference of the features of a pair's two pictures, against those of all pairs' captions.
"""

from __future__ import annotations

import math
import random
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from safetensors.torch import save_file

from ip2p.clip_filter import ClipSimilarity, Similarities
from ip2p.common.images import to_float
from ip2p.common.train_loop import train_loop
from ip2p.miniworld import ATTRIBUTES, EDIT_KINDS, Scene, caption, caption_pair, difference, parse
from ip2p.miniworld.held_out import HELD_OUT, Edit, caption_pairs, held_out_edits
from ip2p.models.autoencoder import decode, encode
from ip2p.models.corrupt import corrupt, repainted_pairs, training_pairs
from ip2p.models.files import CORES, filling, half, minutes, names, write_json
from ip2p.models.renders import cached_draw, cached_renders
from ip2p.models.text_encoder import MAX_TOKENS, tokenise

SETS = ((7000, 1, "wild"), (4000, 3, "even"), (5000, 2, "wild"))  # (renders, seed, mix), and an edit of each

REPAINTED_SETS = 2  # of them, the first ones, from which the autoencoder repaints pairs

# How often a pair is drawn that differs in these; any other once.
OFTEN = {
    "hat": 6.0,
    "birds": 6.0,
    "balloon": 6.0,
    "flag": 6.0,
    "size": 3.0,
    "position": 2.0,
    "weather": 2.0,
    "style": 2.0,
    "second_kind": 2.0,
}

CHANGE_SCALE = 14.0  # of the similarities of changes: CLIP's own scale before it learns, 1 / 0.07

UNSAID = -1  # in place of the number of a value

SIZE = 128  # pixels a side of the pictures that the bundled one reads


def preprocess_config(size: int = SIZE) -> dict:
    """What open_clip does to a picture first: to [-1, 1], as everywhere here."""
    return {
        "size": size,
        "mode": "RGB",
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }


def model_config(tokenizer, size: int = SIZE) -> dict:
    """The model's configuration, as open_clip reads it. size: pixels a side of its pictures."""
    vision = {"image_size": size, "layers": [2, 2, 2, 1], "width": 24, "head_width": 64}
    text = {
        "context_length": MAX_TOKENS,
        "vocab_size": len(tokenizer),
        "width": 96,
        "heads": 4,
        "layers": 2,
        "pool_type": "eos",
        "eos_id": tokenizer.eos_token_id,
        "hf_tokenizer_name": "data/models/mini-clip",  # "local-dir:" takes its own folder instead
    }
    return {"embed_dim": 128, "vision_cfg": vision, "text_cfg": text}


def new_clip(tokenizer, size: int = SIZE) -> CLIP:
    """An open_clip model for this tokenizer, not trained."""
    return CLIP(**model_config(tokenizer, size))


@torch.no_grad()
def image_features(model: CLIP, pictures: torch.Tensor, batch: int = 256) -> torch.Tensor:
    """(n, 3, size, size) uint8 -> (n, 128), of unit length."""
    device = model.logit_scale.device
    features = []
    for part in pictures.split(batch):
        features.append(model.encode_image(to_float(part.to(device)), normalize=True).cpu())
    return torch.cat(features)


@torch.no_grad()
def text_features(model: CLIP, tokenizer, texts: list[str], batch: int = 256) -> torch.Tensor:
    """n texts -> (n, 128), of unit length."""
    device = model.logit_scale.device
    features = []
    for ids in tokenise(tokenizer, texts).split(batch):
        features.append(model.encode_text(ids.to(device), normalize=True).cpu())
    return torch.cat(features)


def distinct_groups(scenes: list[Scene], group: int) -> list[list[int]]:
    """Rows in groups of `group`, in their order; no two of a group show the same. What is left over is in
    none."""
    groups, current, seen = [], [], set()
    for row, scene in enumerate(scenes):
        shown = tuple(scene.attributes().items())
        if shown not in seen:
            current.append(row)
            seen.add(shown)
        if len(current) == group:
            groups.append(current)
            current, seen = [], set()
    return groups


def retrieval(images: torch.Tensor, texts: torch.Tensor, scenes: list[Scene], group: int = 100) -> dict:
    """How often the own one is the most similar of `group` distinct scenes, over all full groups of rows.

    images, texts: features (n, d) of the n scenes. Returns the number of groups and both shares.
    """
    group = min(group, len(scenes))
    own = torch.arange(group)
    groups = distinct_groups(scenes, group)
    to_text, to_image = [], []
    for rows in groups:
        similarities = images[rows] @ texts[rows].T
        to_text.append((similarities.argmax(1) == own).float().mean())
        to_image.append((similarities.argmax(0) == own).float().mean())
    return {
        "groups": len(groups),
        "image_to_text": torch.tensor(to_text).mean().item(),
        "text_to_image": torch.tensor(to_image).mean().item(),
    }


def partial_retrieval(
    images: torch.Tensor, texts: torch.Tensor, captions: list[str], scenes: list[Scene], group: int = 100
) -> dict:
    """How often the own picture is more similar to a partial caption than all pictures that the caption does
    not fit, of `group` distinct scenes; over all full groups of rows.

    images, texts: features (n, d) of the n scenes and captions. Returns the number of groups, that share,
    and how many of a group a caption excludes in the mean.
    """
    groups = distinct_groups(scenes, min(group, len(scenes)))
    found, excluded = [], []
    for rows in groups:
        fits = fitting([captions[row] for row in rows], [scenes[row] for row in rows])
        similarities = texts[rows] @ images[rows].T  # captions by pictures
        best_other = similarities.masked_fill(fits, -torch.inf).amax(1)
        found.append((similarities.diagonal() > best_other).float().mean())
        excluded.append((~fits).float().sum(1).mean())
    return {
        "groups": len(groups),
        "text_to_image": torch.tensor(found).mean().item(),
        "excluded": torch.tensor(excluded).mean().item(),
    }


def edits_told(
    before: tuple[torch.Tensor, torch.Tensor],
    after: tuple[torch.Tensor, torch.Tensor],
    kinds: list[str],
) -> dict:
    """On true edits, (image, text) features before and after, and the kinds of edit: how often the edited
    picture is more similar to its own caption than to the one before; directional similarity, and that with
    another edit's captions; the first two of each kind, too."""
    image_0, text_0 = before
    image_1, text_1 = after
    image_change = F.normalize(image_1 - image_0, dim=-1)
    text_change = F.normalize(text_1 - text_0, dim=-1)
    preferred = ((image_1 * text_1).sum(-1) > (image_1 * text_0).sum(-1)).float()
    direction = (image_change * text_change).sum(-1)
    shuffled = (image_change * text_change.roll(1, 0)).sum(-1)
    by_kind = {}
    for kind in EDIT_KINDS:
        rows = [row for row, name in enumerate(kinds) if name == kind]
        if rows:
            by_kind[kind] = means_of_edits(preferred[rows], direction[rows])
    return {
        **means_of_edits(preferred, direction),
        "direction_shuffled": shuffled.mean().item(),
        "by_kind": by_kind,
    }


def means_of_edits(preferred: torch.Tensor, direction: torch.Tensor) -> dict:
    return {
        "edits": len(preferred),
        "own_caption_preferred": preferred.mean().item(),
        "direction": direction.mean().item(),
    }


def picture_size(model: CLIP) -> int:
    """Pixels a side of the pictures that a model reads."""
    size = model.visual.image_size
    return size if isinstance(size, int) else size[0]


def partial_captions(scenes: list[Scene]) -> list[str]:
    """A caption of each scene that says a random part of it, always the same."""
    return [caption(scene, i) for i, scene in enumerate(scenes)]


def full_captions(scenes: list[Scene]) -> list[str]:
    """A caption of each scene that says everything, worded at random, always the same."""
    return [caption(scene, i, say=set(ATTRIBUTES)) for i, scene in enumerate(scenes)]


def edits_drawn(work: Path, n: int, seed: int, size: int) -> tuple[list[Edit], torch.Tensor, torch.Tensor]:
    """n held-out edits, all kinds equally often, and the pictures before and after, (n, 3, size, size) uint8
    each."""
    edits = held_out_edits(n, seed=seed)
    pictures = []
    for side in ("before", "after"):
        path = work / f"held-out-{side}-{seed}-{n}-{size}.npy"
        pictures.append(cached_draw(path, [getattr(edit, side) for edit in edits], size))
    return edits, *pictures


def measure(model: CLIP, tokenizer, work: Path, vae=None, n: int = 2000, n_edits: int = 550) -> dict:
    """On n held-out scenes of the mix "wild": retrieval by captions that say everything, also after the
    autoencoder `vae`, and by partial ones. On `n_edits` held-out edits: whether their captions, partial ones,
    tell them."""
    size = picture_size(model)
    scenes, pictures = cached_renders(work, n, HELD_OUT, size=size)
    images = image_features(model, pictures)
    texts = text_features(model, tokenizer, full_captions(scenes))
    captions = partial_captions(scenes)
    partial_texts = text_features(model, tokenizer, captions)
    figures = {
        "held_out": n,
        "renders": retrieval(images, texts, scenes),
        "partial": partial_retrieval(images, partial_texts, captions, scenes),
        "edits": measure_edits(model, tokenizer, work, n_edits),
    }
    if vae is not None:
        repainted = image_features(model, decode(vae, encode(vae, pictures, 64), 64))
        figures["after_autoencoder"] = retrieval(repainted, texts, scenes)
    return figures


def measure_edits(model: CLIP, tokenizer, work: Path, n: int) -> dict:
    """`edits_told` of n held-out edits."""
    edits, *pictures = edits_drawn(work, n, 0, picture_size(model))
    captions = zip(*caption_pairs(edits), strict=True)
    sides = []
    for drawn, texts in zip(pictures, captions, strict=True):
        sides.append((image_features(model, drawn), text_features(model, tokenizer, list(texts))))
    return edits_told(*sides, [edit.kind for edit in edits])


class Lessons:
    """Pictures and their scenes, in pairs: a scene beside one edit of it."""

    def __init__(self, work: Path, vae, sets: tuple, size: int, seed: int):
        self.scenes, self.pictures, _ = training_pairs(work, sets, size)
        self.weights = pair_weights(self.scenes)
        if vae is not None:
            pictures = self.pictures[: 2 * sum(n for n, *_ in sets[:REPAINTED_SETS])]
            self.repainted_rows, self.repainted = repainted_pairs(work, vae, pictures, seed=seed)
            self.weights_repainted = pair_weights([self.scenes[row] for row in self.repainted_rows.tolist()])

    def take(
        self, n: int, generator: torch.Generator, half_repainted: bool
    ) -> tuple[torch.Tensor, list[Scene]]:
        """Pictures (n, 3, size, size) uint8 and their scenes: a pair's two side by side, pairs in random
        order."""
        if not half_repainted:
            rows = draw_pairs(self.weights, n // 2, generator)
            return self.pictures[rows], [self.scenes[row] for row in rows.tolist()]
        rows = draw_pairs(self.weights, n // 4, generator)
        again = draw_pairs(self.weights_repainted, n // 4, generator)
        x = torch.cat([self.pictures[rows], self.repainted[again]])
        rows = torch.cat([rows, self.repainted_rows[again]])
        pairs = torch.randperm(n // 2, generator=generator)
        order = side_by_side(pairs)
        return x[order], [self.scenes[row] for row in rows[order].tolist()]


def pair_weights(scenes: list[Scene]) -> torch.Tensor:
    """How often each pair of neighbours is drawn, (n / 2,): small things are learnt last."""
    weights = []
    for before, after in zip(scenes[::2], scenes[1::2], strict=True):
        changed = difference(before, after)
        weights.append(max((OFTEN.get(name, 1.0) for name in changed), default=1.0))
    return torch.tensor(weights)


def draw_pairs(weights: torch.Tensor, n: int, generator: torch.Generator) -> torch.Tensor:
    """The rows of n random pairs of neighbours, (2n,)."""
    return side_by_side(weights.multinomial(n, replacement=True, generator=generator))


def side_by_side(pairs: torch.Tensor) -> torch.Tensor:
    """Numbers of pairs (n,) -> their rows (2n,)."""
    return torch.stack([2 * pairs, 2 * pairs + 1], 1).flatten()


def captions_of_pairs(scenes: list[Scene], rng: random.Random) -> list[str]:
    """A caption of each of the scenes, those of neighbours worded alike but for what differs; either may be
    the one before the edit."""
    captions = []
    for pair in zip(scenes[::2], scenes[1::2], strict=True):
        if rng.random() < 0.5:
            captions += caption_pair(*pair, rng)
        else:
            captions += reversed(caption_pair(*reversed(pair), rng))
    return captions


def fitting(captions: list[str], scenes: list[Scene]) -> torch.Tensor:
    """Which scenes (columns) have all that a caption (rows) says, (n, n) bool."""
    said = torch.tensor([numbers(parse(words)) for words in captions])
    shown = torch.tensor([numbers(scene.attributes()) for scene in scenes])
    same = said[:, None] == shown[None]  # (n, n, attributes)
    return (same | (said == UNSAID)[:, None]).all(-1)


def numbers(attributes: dict) -> list[int]:
    """The number of each attribute's value, UNSAID where there is none."""
    return [
        values.index(attributes[name]) if name in attributes else UNSAID
        for name, values in ATTRIBUTES.items()
    ]


def contrastive_loss(
    images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor, fits: torch.Tensor
) -> torch.Tensor:
    """CLIP's loss (arXiv 2103.00020), in which a picture that a caption fits is not held against it.

    images, texts: features (n, d) of unit length; fits: (n, n), captions by pictures, as of `fitting`. With a
    diagonal `fits` this is open_clip's `ClipLoss`. Returns a scalar.
    """
    logits = scale * texts @ images.T
    own = torch.eye(len(images), dtype=torch.bool, device=images.device)
    logits = logits.masked_fill(fits & ~own, -torch.inf)
    target = torch.arange(len(images), device=images.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def change_loss(images: torch.Tensor, texts: torch.Tensor, same: torch.Tensor) -> torch.Tensor:
    """`contrastive_loss` of the directional similarity (StyleGAN-NADA, arXiv 2108.00946): which pictures
    change as these captions do.

    images, texts: features (2n, d) of n pairs, side by side; same: (n, n), which pairs change alike, as of
    `same_changes`. Returns a scalar.
    """
    image_changes = F.normalize(images[1::2] - images[::2], dim=-1)
    text_changes = F.normalize(texts[1::2] - texts[::2], dim=-1)
    return contrastive_loss(image_changes, text_changes, torch.tensor(CHANGE_SCALE), same)


def same_changes(scenes: list[Scene]) -> torch.Tensor:
    """Which of n pairs of neighbours change the same attributes to and from the same values, (n, n) bool."""
    changes = []
    for before, after in zip(scenes[::2], scenes[1::2], strict=True):
        changes.append((difference(before, after), difference(after, before)))
    return torch.tensor([[one == other for other in changes] for one in changes])


def similarity_inputs(model: CLIP, x: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What the loss takes: image features, text features, and the scale, at most 100 as in the
    paper."""
    with torch.no_grad():
        model.logit_scale.clamp_(max=math.log(100))
    images = model.encode_image(x, normalize=True).float()
    texts = model.encode_text(ids, normalize=True).float()
    return images, texts, model.logit_scale.exp()


def build(
    work: Path,
    tokenizer,
    vae=None,
    *,
    size: int = SIZE,
    device: str | torch.device = "cpu",
    dtype: str = "auto",
    steps: int = 1600,
    batch: int = 128,
    lr: float = 2e-3,
    held_out: int = 2000,
    seed: int = 0,
    sets=SETS,
    start: str | Path | None = None,
) -> tuple[CLIP, list[dict]]:
    """Train from nothing or from `work`'s checkpoint. In the second half of the training every second sample
    has been through the autoencoder `vae` (None: stop there). Returns the open_clip model and the log.

    size: pixels a side of the pictures; batch: pictures with captions in a step, a multiple of 8; held_out:
    renders to be measured on later, some of which are looked at now and then; sets: as of `training_pairs`;
    start: the folder of a mini-clip to begin with.
    """
    torch.manual_seed(seed)
    model = new_clip(tokenizer, size)
    if start is not None:
        model.load_state_dict(load(start)[0].state_dict())
    model.to(device, memory_format=torch.channels_last)
    lessons = Lessons(work, vae, sets, size, seed)
    repaint_from = steps // 2
    scenes, pictures = cached_renders(work, held_out, HELD_OUT, size=size)
    scenes, pictures = scenes[:500], pictures[:500]
    texts = full_captions(scenes)

    def step_loss(model, generator, step):
        rng = random.Random(seed * 1_000_003 + step)
        x, shown = lessons.take(batch, generator, half_repainted=step >= repaint_from)
        x = corrupt(to_float(x), generator).to(device, memory_format=torch.channels_last)
        captions = captions_of_pairs(shown, rng)
        ids = tokenise(tokenizer, captions).to(device)
        fits = fitting(captions, shown).to(device)
        images, texts, scale = similarity_inputs(model, x, ids)
        same = same_changes(shown).to(device)
        return contrastive_loss(images, texts, scale, fits) + change_loss(images, texts, same)

    def report(step):
        images = image_features(model, pictures)
        found = retrieval(images, text_features(model, tokenizer, texts), scenes)
        shares = f"image to text {found['image_to_text']:.3f}, text to image {found['text_to_image']:.3f}"
        print(f"mini-clip, step {step}: {shares}", flush=True)

    log = train_loop(
        step_loss,
        model,
        work / "clip",
        steps=steps,
        lr=lr,
        seed=seed,
        dtype=dtype,
        sample=report,
        sample_minutes=3,
        desc="mini-clip",
        decay=0.5,
        weight_decay=0.05,
        stop_after=repaint_from if vae is None else None,
        save_minutes=2,
    )
    return model, log


REACHED = 0.8  # share of true edits that reach each threshold: who wants clean lessons pays in good ones


def calibrate(folder: str | Path, work: Path, vae, n: int = 550, size: int = SIZE) -> dict[str, float]:
    """The filter's thresholds, from n held-out true edits, all kinds equally often, as the filter would see
    them: after the autoencoder, with captions that say a part. REACHED of them reach it, each criterion on
    its own. The judge is not asked."""
    edits, *pictures = edits_drawn(work, n, 1, size)
    images = [decode(vae, encode(vae, drawn, 64), 64).float() / 255 for drawn in pictures]
    captions_0, captions_1 = zip(*caption_pairs(edits, seed=1), strict=True)
    return thresholds_of(ClipSimilarity(str(folder))(*images, list(captions_0), list(captions_1)))


def thresholds_of(true_edits: Similarities) -> dict[str, float]:
    """See `calibrate`."""
    sim_0, sim_1, sim_direction, sim_image = true_edits
    return {
        "min_image": sim_image.quantile(1 - REACHED).item(),
        "min_caption": min(sim.quantile(1 - REACHED).item() for sim in (sim_0, sim_1)),
        "min_direction": sim_direction.quantile(1 - REACHED).item(),
    }


def load(folder: str | Path) -> tuple:
    """The model in a folder, by stock open_clip: (model, its tokenizer as of transformers)."""
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    return model.eval(), open_clip.get_tokenizer(f"local-dir:{folder}").tokenizer


def save(
    model: CLIP,
    tokenizer,
    log: list[dict],
    folder: Path,
    work: Path,
    vae,
    *,
    sets=SETS,
    held_out: int = 2000,
    hardware: str = CORES,
) -> dict:
    """Write data/models/mini-clip as open_clip's hub folders are, a card with figures measured on what was
    written. Returns the figures."""
    size = picture_size(model)
    config = model_config(tokenizer, size)
    with filling(folder, last="README.md") as tmp:
        both = {"model_cfg": config, "preprocess_cfg": preprocess_config(size)}
        write_json(tmp / "open_clip_config.json", both, indent=1)
        write_json(tmp / "mini-clip.json", config, indent=1)
        tokenizer.save_pretrained(tmp)
        save_file(half(model), tmp / "open_clip_model.safetensors")
        n_edits = min(550, held_out)
        figures = measure(*load(tmp), work, vae, held_out, n_edits)
        thresholds = calibrate(tmp, work, vae, n_edits, size=size)
        parameters = sum(p.numel() for p in model.parameters())
        card = model_card(figures, thresholds, parameters, log, sets, hardware)
        (tmp / "README.md").write_text(card, encoding="utf-8")
    return figures


def model_card(figures: dict, thresholds: dict, parameters: int, log: list[dict], sets, hardware: str) -> str:
    """The text of the folder's README.md. figures: those of `measure`; thresholds: those of `calibrate`."""
    edits = figures["edits"]
    rows = []
    for kind, told in edits["by_kind"].items():
        rows.append(f"| {kind} | {told['own_caption_preferred']:.1%} | {told['direction']:.3f} |")
    return CARD.format(
        parameters=parameters,
        steps=log[-1]["step"],
        minutes=minutes(log),
        hardware=hardware,
        n=figures["held_out"],
        renders=2 * sum(n for n, *_ in sets),
        clean=figures["renders"],
        again=figures["after_autoencoder"],
        partial=figures["partial"],
        rows="\n".join(rows),
        reached=REACHED,
        n_edits=edits["edits"],
        told=edits["own_caption_preferred"],
        direction=edits["direction"],
        shuffled=edits["direction_shuffled"],
        sets=names(sets),
        **thresholds,
    )


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
  random edit of each), with captions by `ip2p.miniworld.caption_pair`, which say a part of the scene, another
  one at each step. No other data.
- Training: {steps:,} steps of 128 pictures, each scene beside its edit, by CLIP's contrastive loss, in
  which a picture that a caption fits is not held against it, and by the same loss on changes, from a
  picture to the one beside it and from caption to caption. Pictures are shifted, blurred, brightened and
  noised a little, and in the second half every second one went through the autoencoder of mini-sd first.
  About {minutes:.0f} minutes on {hardware}.
- Tokenizer: that of mini-sd.
- Made by `ip2p models build`; public domain (CC0), like all files here.

On {n:,} held-out scenes of the mix 'wild', how often the own one is the most similar of 100 distinct ones
(mean of {clean[groups]} groups), where captions say everything:

| | Renders | After the autoencoder |
|---|---:|---:|
| Image to text | {clean[image_to_text]:.1%} | {again[image_to_text]:.1%} |
| Text to image | {clean[text_to_image]:.1%} | {again[text_to_image]:.1%} |

Captions that say a part exclude {partial[excluded]:.0f} of 100 pictures in the mean; the own picture is more
similar than all of these in {partial[text_to_image]:.1%}.

On {n_edits} held-out true edits, told by such captions, the edited picture is more similar to its own caption
than to the one before in {told:.1%}; the mean directional similarity is {direction:.3f}, and {shuffled:.3f}
with another edit's captions. By kind of edit:

| Kind of edit | Own caption preferred | Directional similarity |
|---|---:|---:|
{rows}

Thresholds of the profile `mini` (`ip2p.models.clip.calibrate`), from other held-out true edits, all kinds
equally often, after the autoencoder, with captions that say a part; each criterion on its own. What
{reached:.0%} of them reach: image with image {min_image:.2f}, image with caption {min_caption:.2f}, direction
{min_direction:.2f}.

Limits: it knows this world's things and words only. Similarities have another scale than those of ViT-L/14;
thresholds do not carry over.
"""
