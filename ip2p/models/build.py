"""`ip2p models build`: every bundled model, from nothing, in the order in which they need each other.

Each part keeps its checkpoint in OUT/work and is skipped once its folder is there, so a killed build goes on where it
was. With OUT = data/models (and data/pairs, data/triplets beside it) the shipped files themselves are made again.
"""

from __future__ import annotations

import json
import textwrap
from dataclasses import replace
from pathlib import Path

import torch

from ip2p.models.files import CORES, minutes, save_half
from ip2p.profiles import MINI, Profile

PARTS = ("autoencoder", "text-encoder", "mini-sd", "mini-clip", "mini-judge", "triplets", "pairs", "mini-ip2p")
TRIPLETS = 1536  # that the language model writes: 24 shards of pairs


def build(out: str | Path, only: list[str] | None = None, device: str = "cpu", seed: int = 0) -> None:
    """Make the parts in `only` (None: all) in the folder `out`, on `device`."""
    out, work = Path(out), Path(out) / "work"
    unknown = set(only or ()) - set(PARTS)
    if unknown:
        raise ValueError(f"there is no part {sorted(unknown)[0]!r}; choose from {', '.join(PARTS)}")
    work.mkdir(parents=True, exist_ok=True)
    profile = replace(MINI, text_to_image=str(out / "mini-sd"), editor=str(out / "mini-ip2p"),
                      clip=str(out / "mini-clip"), pairs=str(out.parent / "pairs"))
    makers = {"autoencoder": autoencoder, "text-encoder": text_encoder, "mini-sd": mini_sd, "mini-clip": mini_clip,
              "mini-judge": mini_judge, "triplets": triplets, "pairs": pairs, "mini-ip2p": mini_ip2p}
    for part in only or PARTS:
        makers[part](out, work, profile, device, seed)


def load_vae(out: Path):
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(out / "mini-sd" / "vae", dtype=torch.float32).eval()


def load_text(out: Path):
    """Tokenizer and text encoder."""
    from transformers import CLIPTextModel, CLIPTokenizer

    return (CLIPTokenizer.from_pretrained(out / "mini-sd" / "tokenizer"),
            CLIPTextModel.from_pretrained(out / "mini-sd" / "text_encoder", dtype=torch.float32).eval())


def autoencoder(out: Path, work: Path, profile: Profile, device: str, seed: int) -> None:
    from ip2p.models.autoencoder import build

    if not (out / "mini-sd" / "vae").exists():
        build(work, size=64, device=device, seed=seed).save_pretrained(out / "mini-sd" / "vae")


def text_encoder(out: Path, work: Path, profile: Profile, device: str, seed: int) -> None:
    from ip2p.models.text_encoder import build

    if not (out / "mini-sd" / "text_encoder").exists():
        tokenizer, model, figures = build(work, device=device, seed=seed)
        print("text encoder:", figures)
        tokenizer.save_pretrained(out / "mini-sd" / "tokenizer")
        model.save_pretrained(out / "mini-sd" / "text_encoder")


def mini_sd(out: Path, work: Path, profile: Profile, device: str, seed: int) -> None:
    from diffusers import StableDiffusionPipeline

    from ip2p.models import text_to_image

    if (out / "mini-sd" / "model_index.json").exists():
        return
    vae, (tokenizer, encoder) = load_vae(out), load_text(out)
    unet, log = text_to_image.build(work, vae, tokenizer, encoder, device=device, seed=seed)
    save_half(StableDiffusionPipeline(
        vae=vae, text_encoder=encoder, tokenizer=tokenizer, unet=unet, scheduler=text_to_image.new_scheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False), out / "mini-sd")
    write_card(out / "mini-sd", log, SD_CARD)


def mini_clip(out: Path, work: Path, profile: Profile, device: str, seed: int) -> None:
    from ip2p.models import clip

    if not (out / "mini-clip" / "README.md").exists():
        vae, (tokenizer, _) = load_vae(out), load_text(out)
        model, log = clip.build(work, tokenizer, vae, device=device, seed=seed)
        clip.save(model, tokenizer, log, out / "mini-clip", work, vae)


def mini_judge(out: Path, work: Path, profile: Profile, device: str, seed: int) -> None:
    from ip2p.models import judge_training

    if not (out / "mini-judge" / "README.md").exists():
        vae = load_vae(out)
        model, log = judge_training.build(work, vae, device=device, seed=seed)
        judge_training.save(model, log, out / "mini-judge", work, vae)


def triplets(out: Path, work: Path, profile: Profile, device: str, seed: int) -> None:
    from ip2p import instructions

    counts = instructions.run(profile.captions, generated(out), TRIPLETS, seed=seed, device=device)
    print("triplets:", dict(counts))


def generated(out: Path) -> Path:
    """Where the triplets are that stage 1 writes."""
    return out.parent / "triplets" / "generated.jsonl"


def pairs(out: Path, work: Path, profile: Profile, device: str, seed: int) -> None:
    from ip2p.pairs import make_pairs
    from ip2p.triplets import read_triplets

    # four candidates of a triplet, each of its own seed: so the shipped pairs were made
    print("pairs:", dict(make_pairs(read_triplets(generated(out)), profile.pairs, profile, seed=seed, candidates=4,
                                    per_seed=1)))


def mini_ip2p(out: Path, work: Path, profile: Profile, device: str, seed: int) -> None:
    from ip2p.editing import Editor
    from ip2p.evaluation import held_out_edits
    from ip2p.miniworld import EDIT_KINDS, render
    from ip2p.show import grid
    from ip2p.training import train

    if (out / "mini-ip2p" / "model_index.json").exists():
        return
    edits = held_out_edits(len(EDIT_KINDS), seed=5)  # one of each kind, to look at; measured are others
    inputs, asked = [render(e.before) for e in edits], [e.instruction for e in edits]

    def sample(pipe, step):
        editor = Editor(pipe, profile.guidance_scale, profile.image_guidance_scale, profile.steps)
        sheet = grid([inputs, editor.many(inputs, asked)], columns=[textwrap.fill(text, 17) for text in asked])
        sheet.savefig(work / "mini-ip2p" / f"sheet-{step:06d}.png")

    pipe, log = train(profile.pairs, work / "mini-ip2p", profile, seed=seed, device=device, sample=sample)
    save_half(pipe, out / "mini-ip2p")
    write_card(out / "mini-ip2p", log, IP2P_CARD)


def write_card(folder: Path, log: list[dict], card: str) -> None:
    """The curve of the training run (JSON lines of step, loss, seconds) and the model card, beside the model."""
    (folder / "training_log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log), encoding="utf-8")
    run = f"{log[-1]['step']:,} steps, about {minutes(log):.0f} minutes on {CORES}"
    (folder / "README.md").write_text(card.format(run=run), encoding="utf-8")


SD_CARD = """# mini-sd

A small Stable Diffusion for pictures of the miniature world (64 px, 16x16 latents): autoencoder, text encoder and
UNet, trained from nothing. Stock diffusers loads it:

    from diffusers import StableDiffusionPipeline
    pipe = StableDiffusionPipeline.from_pretrained("data/models/mini-sd")
    pipe("a red cat on the beach at night", guidance_scale=3, num_inference_steps=25).images[0]

- Data: renders and captions by `ip2p.miniworld`, of the mix "plain": mostly one object, and plain illustrations more
  often than the other styles. Two objects, rows of two or three and extras are rare in it, so they come out worse.
- Autoencoder: every latent channel is normalised to a standard deviation of 1 / 0.18215, folded into the 1x1 quant
  convolutions, so that stock pipelines, which multiply by the scaling factor 0.18215, feed the UNet unit variance.
- Text encoder: a CLIP text transformer, trained before the UNet to fill in a form with all attributes from a caption,
  and, with another head, what an instruction asks to change and to what. So it knows instructions as people type them
  before any editor is trained; it is frozen from then on, and the same in mini-ip2p.
- UNet: {run}. Epsilon prediction, min-SNR weights, 10% empty captions; Muon for the weights of hidden layers and AdamW
  for the rest; averaged weights (EMA). The loss is in training_log.jsonl.
- Made by `ip2p models build`; public domain (CC0), like all files here.

## What it reaches

Written by `ip2p evaluate`: held-out captions, read by the judge.

<!-- figures:results -->not measured yet<!-- /figures -->
"""

IP2P_CARD = """# mini-ip2p

Edits pictures of the miniature world as a sentence says: mini-sd, its UNet's first convolution widened for the input
picture, trained by this project's stage 4 on the pairs in data/pairs, which its stages 1 to 3 made. It has seen no
rendered truth. Stock diffusers loads it:

    from diffusers import StableDiffusionInstructPix2PixPipeline
    pipe = StableDiffusionInstructPix2PixPipeline.from_pretrained("data/models/mini-ip2p")

- Training: {run}; the loss is in training_log.jsonl.
- Made by `ip2p models build --only mini-ip2p`; public domain (CC0), like all files here.

## What it reaches

Written by `ip2p evaluate`: held-out scenes and instructions, judged.

<!-- figures:results -->not measured yet<!-- /figures -->
"""
