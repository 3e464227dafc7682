"""`ip2p models build`: every bundled model, from nothing, in the order in which they need each other.

Each part keeps its checkpoint in OUT/work and is skipped once its folder is there, so a killed build goes on
where it was. With OUT = data/models (and data/pairs, data/triplets beside it) the shipped files themselves
are made again.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizer

from ip2p import instructions
from ip2p.common.devices import choose_device, choose_training_dtype
from ip2p.common.grids import grid
from ip2p.dataset.shards import read_pairs
from ip2p.dataset.triplets import read_triplets
from ip2p.distillation import distill
from ip2p.editing import Editor
from ip2p.factory.pairs import make_pairs
from ip2p.fast import FAST
from ip2p.miniworld import EDIT_KINDS, render
from ip2p.miniworld.held_out import held_out_edits
from ip2p.models import autoencoder, clip, judge, text_encoder, text_to_image
from ip2p.models.files import WEIGHTS, filling, half, hardware, minutes, save_half, write_log
from ip2p.profiles import MINI, Profile
from ip2p.training import train

FOLDERS = {"work", "mini-sd", "mini-clip", "mini-judge", "mini-ip2p"}  # one of them tells that OUT is ours

# The decoder's loss weighs two gradients by their lengths, and both take small differences of large sums.
FLOAT32_ALWAYS = {"encoder", "decoder"}

TRIPLETS = 13_186  # that the language model writes and pairs are painted of
CANDIDATES = 12  # of each triplet
EDITOR = {"steps": 2000, "batch": 256}  # of its training
FAST_EDITOR = {"edits": 4096, "steps": 1100, "batch": 256}  # of its student's


@dataclass(frozen=True)
class Build:
    """Where one build puts its parts, and how it makes them."""

    out: Path
    device: torch.device
    seed: int = 0
    dtype: str = "auto"  # of trainings, see `choose_training_dtype`
    base: Profile = MINI
    settings: dict[str, dict] = field(default_factory=dict)  # part -> what differs from the defaults

    @property
    def work(self) -> Path:
        return self.out / "work"

    @property
    def mini_sd(self) -> Path:
        return self.out / "mini-sd"

    @property
    def first_vae(self) -> Path:
        """The autoencoder whose encoder has learned all and whose decoder has not, float32."""
        return self.work / "first-vae"

    @property
    def triplets(self) -> Path:
        """Those that stage 1 writes."""
        return self.out.parent / "triplets" / "generated.jsonl"

    @property
    def profile(self) -> Profile:
        """The base profile with the models and pairs of this build, and pictures as wide as those."""
        return replace(
            self.base,
            resolution=autoencoder.SIZE,
            text_to_image=str(self.mini_sd),
            editor=str(self.out / "mini-ip2p"),
            clip=str(self.out / "mini-clip"),
            pairs=str(self.out.parent / "pairs"),
        )

    def of(self, part: str) -> dict:
        """Keywords of a part's training."""
        mixed = {} if part in FLOAT32_ALWAYS else {"dtype": self.dtype}
        return {"device": self.device, "seed": self.seed, **mixed, **self.settings.get(part, {})}

    def load_vae(self) -> AutoencoderKL:
        """As it lies on the disk: before mini-sd is written in float32, afterwards rounded to fp16."""
        return AutoencoderKL.from_pretrained(self.mini_sd / "vae", dtype=torch.float32).eval()

    def load_encoder(self) -> AutoencoderKL:
        """One that encodes as `load_vae`, though its decoder may not have learned all."""
        if is_done(self, PARTS["decoder"]):
            return self.load_vae()
        return AutoencoderKL.from_pretrained(self.first_vae, dtype=torch.float32)

    def load_text(self) -> tuple[CLIPTokenizer, CLIPTextModel]:
        tokenizer = CLIPTokenizer.from_pretrained(self.mini_sd / "tokenizer")
        encoder = CLIPTextModel.from_pretrained(self.mini_sd / "text_encoder", dtype=torch.float32)
        return tokenizer, encoder.eval()


def make_encoder(build: Build) -> None:
    vae = autoencoder.learn_to_encode(build.work, **build.of("encoder"))
    with filling(build.first_vae, last="config.json") as tmp:
        vae.save_pretrained(tmp)


def make_decoder(build: Build) -> None:
    vae = autoencoder.learn_to_decode(build.work, build.load_encoder(), **build.of("decoder"))
    with filling(build.mini_sd / "vae", last="config.json") as tmp:
        vae.save_pretrained(tmp)


def make_text_encoder(build: Build) -> None:
    tokenizer, model, figures = text_encoder.build(build.work, **build.of("text-encoder"))
    print("text encoder:", figures)
    tokenizer.save_pretrained(build.mini_sd / "tokenizer")
    with filling(build.mini_sd / "text_encoder", last="config.json") as tmp:
        model.save_pretrained(tmp)


def make_mini_sd(build: Build) -> None:
    """The UNet learns the latents of an encoder that the decoder's training leaves as it is, so the decoder
    may still be in the making; ValueError if it is not there once the UNet is."""
    tokenizer, encoder = build.load_text()
    settings = build.of("mini-sd")
    unet, log = text_to_image.build(build.work, build.load_encoder(), tokenizer, encoder, **settings)
    if not is_done(build, PARTS["decoder"]):
        raise ValueError("mini-sd waits for its decoder; make that part, decoder, and then mini-sd again")
    vae = build.load_vae()
    card = sd_card(build, log, vae, unet)
    autoencoder.save_reconstructions(vae, build.mini_sd / "reconstructions.jpg")
    text_to_image.save(vae, tokenizer, encoder, unet, log, build.mini_sd, card)


def make_mini_clip(build: Build) -> None:
    vae = build.load_vae()
    tokenizer, _ = build.load_text()
    settings = build.of("mini-clip")
    model, log = clip.build(build.work, tokenizer, vae, size=autoencoder.SIZE, **settings)
    about = of_the_card(build, settings)
    clip.save(model, tokenizer, log, build.out / "mini-clip", build.work, vae, **about)


def make_mini_judge(build: Build) -> None:
    vae = build.load_vae()
    settings = build.of("mini-judge")
    model, log = judge.build(build.work, vae, size=autoencoder.SIZE, **settings)
    about = of_the_card(build, settings)
    judge.save(model, log, build.out / "mini-judge", build.work, vae, **about)


def of_the_card(build: Build, settings: dict) -> dict:
    """What a card tells of a training and its settings."""
    told = {name: settings[name] for name in ("sets", "held_out") if name in settings}
    return told | {"hardware": hardware(build.device)}


def make_triplets(build: Build) -> None:
    settings = {"n": TRIPLETS, "device": str(build.device), "seed": build.seed}
    settings |= build.settings.get("triplets", {})
    counts = instructions.run(build.base.captions, build.triplets, **settings)
    print("triplets:", dict(counts))


def make_triplet_pairs(build: Build) -> None:
    settings = {
        "seed": build.seed,
        "device": str(build.device),
        "dtype": "bfloat16",
        "candidates": CANDIDATES,
    }
    settings |= build.settings.get("pairs", {})
    triplets = read_triplets(build.triplets)[:TRIPLETS]
    counts = make_pairs(triplets, build.profile.pairs, build.profile, **settings)
    print("pairs:", dict(counts))


def make_mini_ip2p(build: Build) -> None:
    folder, work = build.out / "mini-ip2p", build.work / "mini-ip2p"
    profile = build.profile
    edits = held_out_edits(len(EDIT_KINDS), seed=5)  # one of each kind, to look at; measured are others
    images = [render(edit.before, profile.resolution) for edit in edits]
    asked = [edit.instruction for edit in edits]

    def save_samples(pipe, step):
        editor = Editor(pipe, profile.guidance_scale, profile.image_guidance_scale, profile.steps)
        columns = [textwrap.fill(text, 17) for text in asked]
        sheet = grid([images, editor.many(images, asked)], columns=columns)
        sheet.savefig(work / f"sheet-{step:06d}.png")

    settings = EDITOR | build.of("mini-ip2p") | {"device": str(build.device)}
    pipe, log = train(profile.pairs, work, profile, sample=save_samples, **settings)
    folder.mkdir(parents=True, exist_ok=True)
    log[-1]["hardware"] = hardware(build.device)  # docs/settings.md tells of it
    write_log(folder, log)
    card = ip2p_card(pipe, read_pairs(profile.pairs), run_in_words(build, log, settings["batch"]), profile)
    (folder / "README.md").write_text(card, encoding="utf-8")
    save_edits(
        Editor(pipe, profile.guidance_scale, profile.image_guidance_scale, profile.steps),
        folder / "edits.jpg",
    )
    save_half(pipe, folder)


def save_edits(editor: Editor, path: Path, n: int = 24, columns: int = 6) -> None:
    """The sheet of n held-out edits, none of them chosen, for a card: below each input what became of it."""
    edits = held_out_edits(n, seed=8)
    inputs = [render(edit.before, editor.resolution) for edit in edits]
    outputs = editor.many(inputs, [edit.instruction for edit in edits], seeds=range(n))
    rows, titles = [], []
    for start in range(0, n, columns):
        part = slice(start, start + columns)
        rows += [inputs[part], outputs[part]]
        titles += [[textwrap.fill(edit.instruction, 24) for edit in edits[part]], []]
    grid(rows, titles=titles, size=2.56).savefig(path, dpi=100, pil_kwargs={"quality": 50})


def make_fast_editor(build: Build) -> None:
    """unet_fast, beside the editor's other parts."""
    settings = FAST_EDITOR | build.of("fast")
    editor = build.profile.editor
    distill(editor, build.work / "fast", build.profile, **settings)
    student = UNet2DConditionModel.from_pretrained(build.work / "fast" / FAST)
    with filling(Path(editor) / FAST, last="distilled.json") as tmp:
        shutil.copytree(build.work / "fast" / FAST, tmp, dirs_exist_ok=True)
        save_file(half(student), tmp / WEIGHTS["unet"], {"format": "pt"})


def run_in_words(build: Build, log: list[dict], batch: int) -> str:
    """Steps, number format, time and hardware of a training run, for a card. batch: what a step learns
    from."""
    dtype = str(choose_training_dtype(build.dtype)).removeprefix("torch.")
    spent = f"about {minutes(log):.0f} minutes on {hardware(build.device)}"
    return f"{log[-1]['step']:,} steps of {batch} pictures in {dtype}, {spent}"


def sd_card(build: Build, log: list[dict], vae, unet) -> str:
    """The text of mini-sd's README.md."""
    settings = {"batch": text_to_image.BATCH, "renders": text_to_image.RENDERS}
    settings |= build.settings.get("mini-sd", {})
    kind = text_to_image.new_scheduler().config.prediction_type
    return SD_CARD.format(
        run=run_in_words(build, log, settings["batch"]),
        size=vae.config.sample_size,
        side=unet.config.sample_size,
        channels=vae.config.latent_channels,
        renders=settings["renders"],
        prediction={"epsilon": "Noise", "v_prediction": "Velocity"}[kind],
        guidance=build.base.paint_guidance,
        things=text_to_image.THINGS_COUNT,
        company=text_to_image.COMPANY_COUNT,
        empty=text_to_image.EMPTY_SHARE,
    )


def ip2p_card(pipe, pairs: list[dict], run: str, profile: Profile) -> str:
    """The text of mini-ip2p's README.md. pairs: those that it learned from; run: of `run_in_words`."""
    return IP2P_CARD.format(
        run=run,
        size=pipe.vae.config.sample_size,
        side=pipe.unet.config.sample_size,
        channels=pipe.vae.config.latent_channels,
        pairs=len(pairs),
        captions=len({pair["original_prompt"] for pair in pairs}),
        s_t=profile.guidance_scale,
        s_i=profile.image_guidance_scale,
        steps=profile.steps,
        lr=profile.train_lr,
        fast=FAST_EDITOR,
    )


class Part(NamedTuple):
    """One thing to make."""

    make: Callable[[Build], None]
    done: tuple[str, ...]  # files in OUT, any of which tells that; none: `make` sees what is left to do
    # on two CPU cores: from the cards, but guessed for encoder to mini-sd, triplets and pairs
    hours: float


PARTS = {
    "encoder": Part(make_encoder, ("work/first-vae/config.json", "mini-sd/vae/config.json"), 3.0),
    "text-encoder": Part(make_text_encoder, ("mini-sd/text_encoder/config.json",), 0.3),
    "decoder": Part(make_decoder, ("mini-sd/vae/config.json",), 3.0),
    "mini-sd": Part(make_mini_sd, ("mini-sd/model_index.json",), 11.0),
    "mini-clip": Part(make_mini_clip, ("mini-clip/README.md",), 0.4),
    "mini-judge": Part(make_mini_judge, ("mini-judge/README.md",), 0.7),
    "triplets": Part(make_triplets, (), 3.3),
    "pairs": Part(make_triplet_pairs, (), 5.5),
    "mini-ip2p": Part(make_mini_ip2p, ("mini-ip2p/model_index.json",), 4.0),
    "fast": Part(make_fast_editor, ("mini-ip2p/unet_fast/distilled.json",), 2.5),
}


def build(
    out: str | Path,
    only: list[str] | None = None,
    device: str = "auto",
    seed: int = 0,
    dtype: str = "auto",
    *,
    profile: Profile = MINI,
    settings: dict[str, dict] | None = None,
) -> None:
    """Make the parts in `only` (None: all) in the folder `out`, on `device`; pairs and triplets lie beside
    it.

    dtype: in which format trainings compute, see `choose_training_dtype` (the autoencoder's: float32 always);
    profile: how stages 2 to 5 are run, and the side of the pictures; settings: for each part, what differs
    from the keywords of its `build`. Raises ValueError for a part or a device that there is not, and for a
    folder of somebody else.
    """
    unknown = set(only or ()) - set(PARTS)
    if unknown:
        raise ValueError(f"there is no part {min(unknown)!r}; choose from {', '.join(PARTS)}")
    out = Path(out)
    refuse_foreign(out)
    choose_training_dtype(dtype)  # a wrong one is refused before anything is made
    job = Build(out, choose_device(device), seed, dtype, profile, settings or {})
    job.work.mkdir(parents=True, exist_ok=True)
    todo = [name for name in only or PARTS if not is_done(job, PARTS[name])]
    print(forecast(todo), flush=True)
    for name in todo:
        PARTS[name].make(job)


def refuse_foreign(out: Path) -> None:
    """ValueError for a folder that holds something, but nothing of ours."""
    there = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if there and not FOLDERS & there:
        raise ValueError(
            f"{out} is not empty and was not made by `ip2p models build`; "
            "choose a folder that is new or empty"
        )


def is_done(build: Build, part: Part) -> bool:
    return any((build.out / path).exists() for path in part.done)


def forecast(names: list[str]) -> str:
    """One sentence on how long these parts take."""
    if not names:
        return "everything is there already"
    each = ", ".join(f"{name} {PARTS[name].hours:.1f}" for name in names)
    total = sum(PARTS[name].hours for name in names)
    return f"about {total:.1f} hours on two CPU cores, if all begin anew: {each}"


SD_CARD = """# mini-sd

A small Stable Diffusion for pictures of the miniature world ({size} px, {side}x{side} latents): autoencoder,
text encoder and UNet, trained from nothing. Stock diffusers loads it:

    from diffusers import StableDiffusionPipeline
    pipe = StableDiffusionPipeline.from_pretrained("data/models/mini-sd")
    pipe("a red cat on the beach at night", guidance_scale={guidance}, num_inference_steps=25).images[0]

- Data: {renders:,} renders at {size} px, of the mix "wild", and captions worded anew at each step, by
  `ip2p.miniworld`. A caption names the object and, of everything else, a random part: what it leaves open is
  painted one way or another.
- Autoencoder (f = 8, {channels} channels): the encoder learns with pixels, their differences and the features
  of a small network of its own; the decoder learns on with a patch critic besides, which makes outlines
  crisp. Every latent channel is normalised to a standard deviation of 1 / 0.18215, folded into the 1x1 quant
  convolutions, so that stock pipelines, which multiply by the scaling factor 0.18215, feed the UNet unit
  variance.
- Text encoder: a CLIP text transformer, trained before the UNet to fill in a form with all attributes that a
  caption says or leaves unsaid, and, with another head, what an instruction asks to change and to what. So it
  knows instructions as people type them before any editor is trained; it is frozen from then on, and the same
  in mini-ip2p.
- UNet: {run}. {prediction}
  prediction; log-normal noise levels; objects and extras count {things:g} times as much as their background,
  and scenes with a second object come {company:g} times as often, for small things are learnt last;
  {empty:.0%} empty captions; Muon for the weights of hidden layers and AdamW for the rest; averaged weights
  (EMA). The loss is in training_log.jsonl.
- Made by `ip2p models build`; public domain (CC0), like all files here.

## What its autoencoder keeps

24 held-out renders, each followed by its reconstruction, three times as wide:

![24 held-out renders, each followed by its reconstruction](reconstructions.jpg)

## What it reaches

Written by `ip2p evaluate`: held-out captions, read by the judge.

<!-- figures:results -->not measured yet<!-- /figures -->
"""

IP2P_CARD = """# mini-ip2p

Edits pictures of the miniature world ({size} px, {side}x{side} latents) as a sentence says: mini-sd, its
UNet's first convolution widened by {channels} channels for the input picture, trained by this project's
stage 4. Stock diffusers loads it:

    from diffusers import StableDiffusionInstructPix2PixPipeline
    pipe = StableDiffusionInstructPix2PixPipeline.from_pretrained("data/models/mini-ip2p")
    scales = dict(guidance_scale={s_t}, image_guidance_scale={s_i})
    pipe("make it night", image, num_inference_steps={steps}, **scales).images[0]

- Lessons: {pairs:,} pairs of {captions:,} captions, which stages 1 to 3 made: a language model wrote the
  instructions, mini-sd painted both pictures, mini-clip chose; data/pairs is a sample of them. No lesson is a
  render. The captions say a part of a scene and leave the rest open; of all texts the editor reads the
  instruction alone.
- Training: {run}. Velocity
  prediction, as mini-sd's, with min-SNR weights; text, picture or both left out in 5% of the lessons each; a
  lesson is mirrored half of the time, unless it speaks of left or right; Muon for the weights of hidden
  layers and AdamW for the rest, learning rate {lr:g}, which falls to 0 over the second half; averaged weights
  (EMA). The loss is in training_log.jsonl.
- Autoencoder, tokenizer and text encoder: those of mini-sd, frozen.
- unet_fast: its student (`ip2p.distillation`), which takes both guidance scales as an input and needs one
  prediction a step, and few steps. It learned from {fast[edits]:,} edits, {fast[steps]:,} steps of
  {fast[batch]} of their states. `load_editor("mini", fast=True)` loads it.
- Made by `ip2p models build --only pairs mini-ip2p fast`; public domain (CC0), like all files here.

## 24 edits

The first held-out ones of a seed, none of them chosen; below each input what became of it:

![24 held-out pictures, each above its edit](edits.jpg)

## What it reaches

Written by `ip2p evaluate`: held-out scenes and instructions, judged.

<!-- figures:results -->not measured yet<!-- /figures -->
"""
