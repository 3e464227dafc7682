"""A round trip that finds instructions which do not say what was done, in the miniature world."""

from __future__ import annotations

from ip2p.backends.local import complete
from ip2p.backends.protocol import Objection
from ip2p.dataset.checks import check
from ip2p.dataset.triplets import DELIMITER, STOP, from_completion, to_prompt
from ip2p.miniworld.parsing import parse


def reread(model, tokenizer, captions: list[str], answers: list[str]) -> list[str]:
    """A round trip that finds instructions which do not say what was done: the model writes each edited
    caption once more, of its caption and its own instruction and without chance. Where it comes to another
    meaning in the miniature world, the Objection "misread" takes the answer's place."""
    checked = list(answers)
    triplets = {}
    for row, (caption, answer) in enumerate(zip(captions, answers, strict=True)):
        try:
            triplet = from_completion(caption, answer)
        except ValueError:  # malformed, as others will find
            continue
        if check(triplet) is None:
            triplets[row] = triplet
    prompts = [to_prompt(triplet["input"]) + triplet["edit"] + DELIMITER for triplet in triplets.values()]
    again = complete(model, tokenizer, prompts, STOP, temperature=0.0)
    for (row, triplet), text in zip(triplets.items(), again, strict=True):
        if not means_the_same(text.partition(STOP)[0], triplet["output"]):
            checked[row] = Objection("misread")
    return checked


def means_the_same(text: str, caption: str) -> bool:
    """Whether a text says of the miniature world what a caption says."""
    try:
        return parse(text) == parse(caption)
    except ValueError:
        return False
