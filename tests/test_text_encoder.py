"""The text encoder's school: forms that know what is unsaid and what is unchanged."""

import random
import re
from collections import Counter

import pytest
import torch
from torch import nn

from ip2p.miniworld import KINDS, parse
from ip2p.miniworld.scene import ATTRIBUTES
from ip2p.models.text_encoder import WIDTH, Reader, classes, mistype, sample_caption, sample_instruction
from ip2p.study.word_order import accuracy_of_readout

NAMES = list(ATTRIBUTES)


def said(form: list[int]) -> dict:
    """What a form says, by attribute; what is unsaid is left out."""
    values = {}
    for name, number in zip(NAMES, form, strict=True):
        if number < len(ATTRIBUTES[name]):
            values[name] = ATTRIBUTES[name][number]
    return values


def test_a_captions_form_says_what_the_caption_says_and_unsaid_for_the_rest():
    rng = random.Random(0)
    silent = Counter()
    n = 400
    for _ in range(n):
        text, form = sample_caption(rng)
        assert said(form) == parse(text), text
        for name, number in zip(NAMES, form, strict=True):
            silent[name] += number == len(ATTRIBUTES[name])
    assert silent["kind"] == silent["count"] == 0
    for name in NAMES:
        if name not in ("kind", "count"):
            assert 0.1 * n < silent[name] < n, f"{name}: said now and then"


def test_what_is_not_there_is_unsaid_and_not_denied():
    form = classes(parse("a red cat at night"))
    assert said(form) == {"kind": "cat", "colour": "red", "count": 1, "time": "night"}
    assert form[NAMES.index("hat")] == 2 and form[NAMES.index("second_kind")] == 17


def test_an_instructions_form_says_what_changes():
    rng = random.Random(0)
    changes = []
    for _ in range(100):
        text, form = sample_instruction(rng)
        assert text
        changes.append(len(said(form)))
    assert min(changes) == 1 and changes.count(1) > 60


class Features(nn.Module):
    """Stands for a text encoder: random features."""

    def forward(self, ids):
        features = torch.randn(*ids.shape, WIDTH)
        return type("Out", (), {"last_hidden_state": features})


@pytest.mark.parametrize("task", [0, 1])
def test_both_forms_have_a_class_more_than_values(task):
    answers = Reader(Features())(torch.zeros(3, 40, dtype=torch.long), task)
    assert [logits.shape for logits in answers] == [(3, len(v) + 1) for v in ATTRIBUTES.values()]


def test_typing_errors_are_small_and_not_in_every_text():
    rng = random.Random(0)
    text = "a red cat on the beach at night"
    typed = [mistype(text, rng) for _ in range(300)]
    assert 0.4 < sum(words == text for words in typed) / 300 < 0.75
    assert all(abs(len(words) - len(text)) <= 8 for words in typed)


def test_a_readout_finds_the_order_of_words_only_where_it_was_kept():
    """Features that name the thing on the left give it away; a bag of words does not."""
    generator = torch.Generator().manual_seed(0)
    vectors = {}

    def vector(word: str) -> torch.Tensor:
        if word not in vectors:
            vectors[word] = torch.randn(32, generator=generator)
        return vectors[word]

    def bag(texts: list[str]) -> torch.Tensor:
        words = [sorted(set(re.findall(r"[a-z]+", text.lower())))[:16] for text in texts]
        rows = [[vector(word) for word in of_text] for of_text in words]
        return torch.stack([torch.stack(row + [torch.zeros(32)] * (16 - len(row))) for row in rows])

    def told(texts: list[str]) -> torch.Tensor:
        first = []
        for text in texts:
            words = re.findall(r"[a-z]+", text.lower())
            named = [word for word in words if word in KINDS]
            first.append(vector(named["left" not in words]))
        return torch.cat([torch.stack(first)[:, None], torch.zeros(len(texts), 3, 32)], 1)

    assert accuracy_of_readout(told) > 0.9 > 0.65 > accuracy_of_readout(bag)
