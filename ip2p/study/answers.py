"""Stage 1 measured: what a language model's answers to captions are worth."""

from __future__ import annotations

import random

from ip2p.dataset.checks import check
from ip2p.dataset.review import follows
from ip2p.dataset.triplets import from_completion, read_captions, read_triplets
from ip2p.miniworld import caption, edit_kind, parse, random_scene
from ip2p.miniworld.held_out import HELD_OUT
from ip2p.profiles import Profile


def language_model_figures(profile: Profile, n: int = 1000, n_few_shot: int = 100, seed: int = 1) -> dict:
    """The profile's fine-tuned language model on n held-out captions (fresh ones, or the last of its file),
    one answer each, and on n_few_shot of them the same model not fine-tuned, but shown eight examples.
    Values: see `check_answers`."""
    from ip2p.backends import local
    from ip2p.instructions import load_finetuned

    lessons = read_triplets(profile.triplets)
    if profile.in_world:
        captions = fresh_captions(n, lessons)
    else:
        captions = read_captions(profile.captions)[-n:]
    fewer = captions[-n_few_shot:]
    examples = lessons[:: len(lessons) // 8][:8]

    device, dtype = profile.place()
    model, tokenizer = local.load(profile.language_model, device)
    answers = local.generate(model.to(dtype), tokenizer, fewer, examples, seed=seed, max_new_tokens=128)
    few_shot = check_answers(fewer, answers, lessons, profile.in_world)

    model, tokenizer = load_finetuned(profile.language_model, lessons, device, profile.in_world)
    answers = local.generate(model.to(dtype), tokenizer, captions, (), seed=seed, max_new_tokens=128)
    finetuned = check_answers(captions, answers, lessons, profile.in_world)
    return {"lessons": len(lessons), "few-shot": few_shot, "fine-tuned": finetuned}


def fresh_captions(n: int, known: list[dict]) -> list[str]:
    """n captions of random scenes that are the input of none of the triplets `known`."""
    known_captions = {triplet["input"] for triplet in known}
    rng = random.Random(HELD_OUT * 3)
    captions: dict[str, None] = {}  # a set that keeps its order
    while len(captions) < n:
        words = caption(random_scene(rng), rng)
        if words not in known_captions:
            captions[words] = None
    return list(captions)


def well_formed(captions: list[str], answers: list[str]) -> list[dict]:
    """The triplets of the answers that have the authors' format and change something."""
    triplets = []
    for asked, answer in zip(captions, answers, strict=True):
        try:
            triplet = from_completion(asked, answer)
        except ValueError:
            continue
        if check(triplet, world=False) is None:
            triplets.append(triplet)
    return triplets


def check_answers(captions: list[str], answers: list[str], lessons: list[dict], world: bool) -> dict:
    """Shares of answers: "formed" (the authors' format, and a change), "follows" (by words alone, see
    `follows`) and, with `world`, "valid" (of the world, and just the edit that was asked for). Of the
    instructions of formed answers, the share of "distinct" ones and of "new" ones (in no lesson). "missing":
    kinds of edit that the lessons have and no valid answer has."""
    formed = well_formed(captions, answers)
    instructions = {triplet["edit"].casefold() for triplet in formed}
    taught = {triplet["edit"].casefold() for triplet in lessons}
    shares = {
        "n": len(captions),
        "formed": len(formed) / len(captions),
        "follows": sum(follows(triplet) for triplet in formed) / len(captions),
        "distinct": len(instructions) / max(1, len(formed)),
        "new": len(instructions - taught) / max(1, len(instructions)),
    }
    if world:
        valid = [triplet for triplet in formed if check(triplet) is None]
        shares["valid"] = len(valid) / len(captions)
        shares["missing"] = sorted(kinds_of_edit(lessons) - kinds_of_edit(valid))
    return shares


def kinds_of_edit(triplets: list[dict]) -> set[str]:
    """What edits of the miniature world triplets make, by their captions."""
    return {edit_kind(parse(triplet["input"]), parse(triplet["output"])) for triplet in triplets}
