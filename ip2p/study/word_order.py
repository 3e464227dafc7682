"""Does a text encoder keep the order of words? A readout learns which thing a sentence wants on the left."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import nn

from ip2p.miniworld import KINDS
from ip2p.study.limits import MOVE, relation

LEARNED, UNSEEN = 1000, 400  # sentences that the readout learns from, and that it is asked about
STEPS, BATCH, LR = 200, 64, 2e-3


def sentences(n: int, rng: random.Random) -> tuple[list[str], torch.Tensor]:
    """n sentences that want one named thing beside another, and which of KINDS is to be on the left, (n,)."""
    texts, left_things = [], []
    for _ in range(n):
        a, b = rng.sample(KINDS, 2)
        side = rng.choice(("left", "right"))
        texts.append(relation(MOVE, f"the {a}", side, f"the {b}", rng))
        left_things.append(KINDS.index(a if side == "left" else b))
    return texts, torch.tensor(left_things)


def word_vectors(pipe, texts: list[str]) -> torch.Tensor:
    """The encoder's word vectors (n, T, d), before it mixes them and without their places."""
    length = pipe.tokenizer.model_max_length
    tokens = pipe.tokenizer(
        texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    return pipe.text_encoder.get_input_embeddings()(tokens.input_ids.to(pipe.device)).float()


class Readout(nn.Module):
    """One learned query looks at all tokens: (n, T, d) -> (n, kinds)."""

    def __init__(self, width: int):
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, width) / width**0.5)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.answer = nn.Linear(width, len(KINDS))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        query = self.query.expand(len(tokens), -1, -1)
        seen, _ = self.attention(query, tokens, tokens, need_weights=False)
        return self.answer(seen[:, 0])


def accuracy_of_readout(encode: Callable[[list[str]], torch.Tensor], seed: int = 0) -> float:
    """The share of UNSEEN sentences of which a readout of encode(texts), (n, T, d), says what is to stand on
    the left, after LEARNED others. Guessing between the two things that are named gives one half."""
    texts, wanted = sentences(LEARNED + UNSEEN, random.Random(seed))
    with torch.no_grad():
        tokens = torch.cat([encode(texts[k : k + 100]).cpu() for k in range(0, len(texts), 100)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        readout = Readout(tokens.shape[-1])
        optimiser = torch.optim.AdamW(readout.parameters(), LR)
        for _ in range(STEPS):
            some = torch.randint(LEARNED, (BATCH,))
            loss = nn.functional.cross_entropy(readout(tokens[some]), wanted[some])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    with torch.no_grad():
        right = readout(tokens[LEARNED:]).argmax(1) == wanted[LEARNED:]
    return right.float().mean().item()
