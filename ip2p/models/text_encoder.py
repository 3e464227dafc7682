"""The text encoder of mini-sd and mini-ip2p: a small CLIP text model that has learned to read before it sees a picture.

Why so: InstructPix2Pix hands *instructions* to a text encoder that Stable Diffusion only ever fed *captions*; CLIP
ViT-L/14 can do that because it has read 400 million texts. A small encoder trained on captions alone would not know
what "make it" means. So ours first reads both kinds of text and fills in a form: for a caption every attribute of
its scene, for an instruction every attribute that it changes (or "unchanged"). One learned query an attribute attends
to the token features, just as the UNet's cross-attention will. Then it is frozen, the same in both models.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ip2p.common.train_loop import train_loop
from ip2p.miniworld import ATTRIBUTES, caption, difference, instruction, random_edit, random_scene

MAX_TOKENS = 40

WIDTH = 128


def sample_caption(rng: random.Random) -> tuple[str, list[int]]:
    """A caption and the class of each attribute."""
    scene = random_scene(rng, rng.choice(("plain", "plain", "even")))
    a = scene.attributes()
    return caption(scene, rng), [values.index(a[name]) for name, values in ATTRIBUTES.items()]


def sample_instruction(rng: random.Random) -> tuple[str, list[int]]:
    """An instruction and, for each attribute, the class that it asks for; the class past the last is "unchanged"."""
    before = random_scene(rng, rng.choice(("plain", "even")))
    after = random_edit(before, rng)
    if rng.random() < 0.1:
        try:
            after = random_edit(after, rng)
            changed = difference(before, after)
        except ValueError:
            changed = {}
        if not changed:
            after = random_edit(before, rng)
    changed = difference(before, after)
    return instruction(before, after, rng), [
        values.index(changed[name]) if name in changed else len(values) for name, values in ATTRIBUTES.items()
    ]


def mistype(text: str, rng: random.Random) -> str:
    """Now and then drop a word, or swap, drop or double a letter, so that the reader forgives typing."""
    if rng.random() < 0.25:
        words = text.split()
        if len(words) > 4:
            del words[rng.randrange(len(words))]
        text = " ".join(words)
    if rng.random() < 0.25:
        i = rng.randrange(len(text))
        text = text[:i] + rng.choice((text[i + 1 : i + 2] + text[i], "", text[i] * 2)) + text[i + 2 :]
    return text


def new_tokenizer(texts, vocab_size: int = 1400):
    """CLIP's byte-pair tokenizer with a vocabulary learned from `texts`."""
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer().train_new_from_iterator(texts, vocab_size, show_progress=False)
    tokenizer.model_max_length = MAX_TOKENS
    return tokenizer


def new_text_encoder(tokenizer):
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
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
    )


class Reader(nn.Module):
    """The text encoder and the form that it fills in; the form is thrown away after training."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder
        self.query = nn.Parameter(
            torch.randn(2, len(ATTRIBUTES), WIDTH) / WIDTH**0.5
        )  # 0: captions, 1: instructions
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.classes = nn.ModuleList(
            nn.ModuleList(nn.Linear(WIDTH, len(v) + task) for v in ATTRIBUTES.values()) for task in (0, 1)
        )

    def forward(self, ids: torch.Tensor, task: int) -> list[torch.Tensor]:
        """ids (B, T) -> one (B, classes) tensor of logits an attribute."""
        h = self.encoder(ids).last_hidden_state  # (B, T, d)
        answers, _ = self.attention(self.query[task].expand(len(ids), -1, -1), h, h, need_weights=False)
        return [layer(answers[:, i]) for i, layer in enumerate(self.classes[task])]


def tokenise(tokenizer, texts: list[str]) -> torch.Tensor:
    """(n, MAX_TOKENS) token ids, padded and cut as the stock pipelines do."""
    return tokenizer(
        texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
    ).input_ids


SAMPLERS = (sample_caption, sample_instruction)


def accuracy(reader: Reader, tokenizer, n: int = 1000, seed: int = 10**9) -> tuple[float, float]:
    """Share of unseen captions, and of unseen instructions, whose whole form is filled in right."""
    out = []
    for task, sampler in enumerate(SAMPLERS):
        rng = random.Random(seed + task)
        texts, truth = zip(*(sampler(rng) for _ in range(n)), strict=True)
        device = reader.query.device
        with torch.no_grad():
            answer = torch.stack(
                [a.argmax(-1) for a in reader(tokenise(tokenizer, list(texts)).to(device), task)], 1
            )
        out.append((answer.cpu() == torch.tensor(truth)).all(1).float().mean().item())
    return out[0], out[1]


def build(work: Path, *, device: str = "cpu", steps: int = 1200, batch: int = 48, seed: int = 0):
    """Train from nothing or from `work`'s checkpoint. Returns (tokenizer, CLIPTextModel, figures)."""
    rng = random.Random(seed)
    tokenizer = new_tokenizer([SAMPLERS[i % 2](rng)[0] for i in range(20_000)])
    torch.manual_seed(seed)
    reader = Reader(new_text_encoder(tokenizer)).to(device)

    def step_loss(model, generator, step):
        rng, total = random.Random(seed * 1_000_003 + step), 0.0
        for task, sampler in enumerate(SAMPLERS):
            texts, truth = zip(*(sampler(rng) for _ in range(batch)), strict=True)
            ids = tokenise(tokenizer, [mistype(t, rng) for t in texts]).to(device)
            answers = model(ids, task)
            truth = torch.tensor(truth, device=device)
            total = total + sum(F.cross_entropy(a, truth[:, i]) for i, a in enumerate(answers))
        return total / len(ATTRIBUTES) / 2

    def sample(step):
        captions, instructions = accuracy(reader, tokenizer, 300)
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
        ema_decay=0.995,
        sample=sample,
        sample_minutes=2,
        desc="text encoder",
        decay=0.5,
    )
    captions, instructions = accuracy(reader, tokenizer)
    figures = {"captions_read": captions, "instructions_read": instructions, "final_loss": log[-1]["loss"]}
    return tokenizer, reader.encoder, figures
