"""The text encoder of mini-sd and mini-ip2p: a small CLIP text model that has learned to read before it sees
a picture.

Why so: InstructPix2Pix hands *instructions* to a text encoder that Stable Diffusion only ever fed *captions*;
CLIP ViT-L/14 can do that because it has read 400 million texts. A small encoder trained on captions alone
would not know what "make it" means. So ours first reads both kinds of text and fills in a form: for a caption
every attribute that it says (or "unsaid"), for an instruction every attribute that it changes (or
"unchanged"). One learned query an attribute attends to the token features, just as the UNet's cross-attention
will. Then it is frozen, the same in both models.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ip2p.common.train_loop import train_loop
from ip2p.miniworld import (
    ATTRIBUTES,
    Scene,
    caption,
    difference,
    instruction,
    parse,
    random_edit,
    random_scene,
)
from ip2p.miniworld.held_out import HELD_OUT
from ip2p.models.files import filling

MAX_TOKENS = 40

WIDTH = 128  # of the token features

VOCABULARY = 1400  # tokens at most


MIXES = ("wild", "even")  # of the scenes that are read about, half of each


def classes(attributes: dict) -> list[int]:
    """The class of each attribute that is given, in the order of ATTRIBUTES; of one that is not, the class
    past the last: "unsaid" in a caption, "unchanged" by an instruction."""
    numbers = []
    for name, values in ATTRIBUTES.items():
        numbers.append(values.index(attributes[name]) if name in attributes else len(values))
    return numbers


def sample_caption(rng: random.Random) -> tuple[str, list[int]]:
    """A caption, which says a part of a scene, and for each attribute the class that it says, or the one
    that means "unsaid"."""
    scene = random_scene(rng, rng.choice(MIXES))
    text = caption(scene, rng)
    return text, classes(parse(text))


def sample_instruction(rng: random.Random) -> tuple[str, list[int]]:
    """An instruction and, for each attribute, the class that it asks for, or the one that means
    "unchanged"."""
    before = random_scene(rng, rng.choice(MIXES))
    after = random_edit(before, rng)
    if rng.random() < 0.1:  # one more change
        after = _edited_again(before, after, rng)
    return instruction(before, after, rng), classes(difference(before, after))


def _edited_again(before: Scene, after: Scene, rng: random.Random) -> Scene:
    """A second edit after the first; where there is none, or it takes the first one back, another first
    one."""
    try:
        again = random_edit(after, rng)
    except ValueError:
        return random_edit(before, rng)
    return again if difference(before, again) else random_edit(before, rng)


def mistype(text: str, rng: random.Random) -> str:
    """Now and then drop a word, or swap, drop or double a letter, so that the reader forgives typing."""
    if rng.random() < 0.25:
        words = text.split()
        if len(words) > 4:
            del words[rng.randrange(len(words))]
        text = " ".join(words)
    if rng.random() < 0.25:
        i = rng.randrange(len(text))
        letter, following = text[i], text[i + 1 : i + 2]
        typed = rng.choice((following + letter, "", letter * 2))
        text = text[:i] + typed + text[i + 2 :]
    return text


def new_tokenizer(texts, vocab_size: int = VOCABULARY):
    """CLIP's byte-pair tokenizer with a vocabulary learned from `texts`. Equally frequent pairs are numbered
    in an order that differs from run to run."""
    tokenizer = CLIPTokenizer().train_new_from_iterator(texts, vocab_size, show_progress=False)
    tokenizer.model_max_length = MAX_TOKENS
    return tokenizer


def kept_tokenizer(folder: Path, texts: int, vocab_size: int, seed: int):
    """The tokenizer in `folder`; made from so many random texts and kept there if there is none. A training
    that is resumed needs the very same."""
    if not (folder / "tokenizer.json").exists():
        rng = random.Random(seed)
        samples = [SAMPLERS[i % 2](rng)[0] for i in range(texts)]
        with filling(folder, last="tokenizer.json") as tmp:
            new_tokenizer(samples, vocab_size).save_pretrained(tmp)
    return CLIPTokenizer.from_pretrained(folder)


def new_text_encoder(tokenizer):
    """A CLIPTextModel for this tokenizer: ids (B, T) -> features (B, T, WIDTH)."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        projection_dim=WIDTH,
        max_position_embeddings=MAX_TOKENS,
        attention_dropout=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


class Reader(nn.Module):
    """The text encoder and the form that it fills in; the form is thrown away after training."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder
        # of captions and of instructions, a query for each attribute
        self.query = nn.Parameter(torch.randn(2, len(ATTRIBUTES), WIDTH) / WIDTH**0.5)
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.classes = nn.ModuleList([self._form(), self._form()])

    @staticmethod
    def _form() -> nn.ModuleList:
        """One linear layer an attribute, with a class more than it has values: "unsaid" or "unchanged"."""
        return nn.ModuleList(nn.Linear(WIDTH, len(values) + 1) for values in ATTRIBUTES.values())

    def forward(self, ids: torch.Tensor, task: int) -> list[torch.Tensor]:
        """ids (B, T) -> one (B, classes) tensor of logits an attribute. task: 0 for captions, 1 for
        instructions."""
        h = self.encoder(ids).last_hidden_state  # (B, T, d)
        answers, _ = self.attention(self.query[task].expand(len(ids), -1, -1), h, h, need_weights=False)
        return [layer(answers[:, i]) for i, layer in enumerate(self.classes[task])]


def tokenise(tokenizer, texts: list[str]) -> torch.Tensor:
    """(n, MAX_TOKENS) token ids, padded and cut as the stock pipelines do."""
    return tokenizer(
        texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
    ).input_ids


SAMPLERS = (sample_caption, sample_instruction)  # by task


def sample_texts(task: int, n: int, rng: random.Random) -> tuple[list[str], torch.Tensor]:
    """n random texts of a task, and their classes, (n, attributes) int64."""
    samples = [SAMPLERS[task](rng) for _ in range(n)]
    return [text for text, _ in samples], torch.tensor([truth for _, truth in samples])


@torch.no_grad()
def accuracy(reader: Reader, tokenizer, n: int = 1000, seed: int = HELD_OUT) -> tuple[float, float]:
    """Share of unseen captions, and of unseen instructions, whose whole form is filled in right."""
    shares = []
    for task in (0, 1):
        texts, truth = sample_texts(task, n, random.Random(seed + task))
        ids = tokenise(tokenizer, texts).to(reader.query.device)
        answers = torch.stack([logits.argmax(-1) for logits in reader(ids, task)], 1).cpu()
        shares.append((answers == truth).all(1).float().mean().item())
    return shares[0], shares[1]


def build(
    work: Path,
    *,
    device: str | torch.device = "cpu",
    dtype: str = "auto",
    steps: int = 1400,
    batch: int = 48,
    texts: int = 20_000,
    vocab_size: int = VOCABULARY,
    held_out: int = 1000,
    seed: int = 0,
):
    """Train from nothing or from `work`'s checkpoint. Returns (tokenizer, CLIPTextModel, figures).

    batch: captions, and as many instructions, in a step; texts: that the tokenizer learns from; held_out:
    texts of each kind that the figures are measured on.
    """
    tokenizer = kept_tokenizer(work / "text_encoder" / "tokenizer", texts, vocab_size, seed)
    torch.manual_seed(seed)
    reader = Reader(new_text_encoder(tokenizer)).to(device)

    def step_loss(model, generator, step):
        rng = random.Random(seed * 1_000_003 + step)
        total = 0.0
        for task in (0, 1):
            clean, truth = sample_texts(task, batch, rng)
            ids = tokenise(tokenizer, [mistype(text, rng) for text in clean]).to(device)
            truth = truth.to(device)
            losses = [F.cross_entropy(logits, truth[:, i]) for i, logits in enumerate(model(ids, task))]
            total = total + sum(losses)
        return total / len(ATTRIBUTES) / 2

    def report(step):
        captions, instructions = accuracy(reader, tokenizer, min(300, held_out))
        print(
            f"text encoder, step {step}: captions {captions:.3f}, instructions {instructions:.3f} read right",
            flush=True,
        )

    log = train_loop(
        step_loss,
        reader,
        work / "text_encoder",
        steps=steps,
        lr=1e-3,
        seed=seed,
        dtype=dtype,
        ema_decay=0.995,
        sample=report,
        sample_minutes=2,
        desc="text encoder",
        decay=0.5,
    )
    captions, instructions = accuracy(reader, tokenizer, held_out)
    figures = {"captions_read": captions, "instructions_read": instructions, "final_loss": log[-1]["loss"]}
    return tokenizer, reader.encoder, figures
