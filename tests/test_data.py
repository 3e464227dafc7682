"""The hand-written language data: triplets, captions and the frozen reworded instructions."""

import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest

from ip2p.dataset.checks import check
from ip2p.miniworld import (
    COLOURS,
    EDIT_KINDS,
    KINDS,
    PLACES,
    Scene,
    difference,
    edit,
    edit_kind,
    instruction,
    parse,
    random_edit,
    random_scene,
)
from ip2p.miniworld.captions import write_captions

DATA = Path(__file__).parents[1] / "data"


def lines(name: str) -> list[str]:
    return (DATA / name).read_text(encoding="utf-8").splitlines()


def plain(text: str) -> str:
    """Lower case, without punctuation."""
    return " ".join(re.sub(r"[^a-z0-9 ]", "", text.lower()).split())


@pytest.fixture(scope="module")
def triplets() -> list[dict]:
    return [json.loads(line) for line in lines("triplets/mini.jsonl")]


@pytest.fixture(scope="module")
def reworded() -> list[dict]:
    return [json.loads(line) for line in lines("eval/reworded.jsonl")]


def test_triplets_are_understood_and_change_one_thing(triplets):
    assert len(triplets) >= 420
    kinds, scenes = Counter(), []
    for t in triplets:
        before, after = parse(t["input"]), parse(t["output"])
        kinds[edit_kind(before, after)] += 1  # an error if nothing changes
        scenes.append(before)
    assert all(kinds[kind] >= 30 for kind in EDIT_KINDS) and 10 <= kinds["several"] <= len(triplets) / 20, (
        kinds
    )
    for name, values in {"kind": KINDS, "colour": COLOURS, "place": PLACES}.items():
        share = Counter(said[name] for said in scenes if name in said)
        assert min(share[v] for v in values) > 0.6 * share.total() / len(values), share
        assert name == "kind" or 0.3 < share.total() / len(scenes) < 0.9, "captions leave things unsaid"


def test_triplets_keep_the_wording(triplets):
    for t in triplets:
        before, after = t["input"].split(), t["output"].split()
        kept = Counter(before) & Counter(after)
        assert kept.total() >= 0.5 * min(len(before), len(after)) - 1.5, t  # "a red boat", "two white boats"


def test_triplets_are_no_duplicates(triplets):
    assert len({(plain(t["input"]), plain(t["edit"])) for t in triplets}) == len(triplets)
    assert len({plain(t["edit"]) for t in triplets}) >= 0.9 * len(triplets)


def test_captions(tmp_path):
    captions = lines("captions/mini.txt")
    assert len(set(captions)) == len(captions) == 3000
    for text in captions[::3]:
        parse(text)
    write_captions(tmp_path / "some.txt", n=200, seed=0)
    assert (tmp_path / "some.txt").read_text(encoding="utf-8").splitlines() == captions[:200]


def test_reworded_edits_are_of_this_world(reworded):
    kinds = Counter()
    for row in reworded:
        before = Scene(**row["scene"])
        after = edit(before, **row["change"])
        assert edit_kind(before, after) in row["change"] and len(difference(before, after)) <= 3
        kinds[edit_kind(before, after)] += 1
    assert len(reworded) >= 100
    assert all(kinds[kind] >= (5 if kind in ("count", "position") else 10) for kind in EDIT_KINDS), kinds


def test_reworded_instructions_are_in_no_training_data(reworded, triplets):
    frozen = {plain(row["edit"]) for row in reworded}
    assert len(frozen) == len(reworded)
    generated = [json.loads(line) for line in lines("triplets/generated.jsonl")]
    assert not frozen & {plain(t["edit"]) for t in triplets + generated}
    rng = random.Random(0)
    for row in reworded:  # a template that can make this wording would make it for this very edit
        before = Scene(**row["scene"])
        after = edit(before, **row["change"])
        assert plain(row["edit"]) not in {plain(instruction(before, after, rng)) for _ in range(60)}
    for _ in range(5000):
        before = random_scene(rng)
        assert plain(instruction(before, random_edit(before, rng), rng)) not in frozen


def test_triplets_and_tests_of_the_lie_detector_stay_in_this_world(triplets):
    files = [triplets]
    for name in ("eval/lies.jsonl", "eval/truths.jsonl"):
        files.append([json.loads(line) for line in lines(name)])
    lessons, lies, truths = ({(t["input"], t["edit"], t["output"]) for t in rows} for rows in files)
    assert len(lessons) >= 800 and len(lies) == 63 and len(truths) == 92
    assert not lessons & lies and not lessons & truths
    assert all(t["why"] for t in files[1])
    for before, _, after in lessons | lies | truths:
        assert parse(before) != parse(after)  # unknown words raise an error
    words = Counter(plain(t["edit"]) for t in triplets)
    assert max(words.values()) <= 2


def test_generated_triplets_pass_every_check_and_are_of_all_kinds():
    rows = [json.loads(line) for line in lines("triplets/generated.jsonl")]
    kinds = Counter()
    for t in random.Random(0).sample(rows, 1000):
        assert check(t) is None, t
        kinds[edit_kind(parse(t["input"]), parse(t["output"]))] += 1
    assert all(kinds[kind] >= 20 for kind in EDIT_KINDS), kinds
    some = random.Random(1).sample(rows, 1000)
    assert len({plain(t["edit"]) for t in some}) >= 750
    assert len({(t["input"], t["edit"]) for t in rows}) == len(rows)


def test_second_reworded_edits_are_of_this_world_and_in_no_training_data(reworded):
    rows = [json.loads(line) for line in lines("eval/reworded2.jsonl")]
    kinds = Counter()
    for row in rows:
        before = Scene(**row["scene"])
        kinds[edit_kind(before, edit(before, **row["change"]))] += 1
    assert len(rows) == 120 and all(kinds[kind] >= 10 for kind in EDIT_KINDS), kinds
    frozen = {plain(row["edit"]) for row in rows}
    assert len(frozen) == len(rows) and not frozen & {plain(row["edit"]) for row in reworded}
    for name in ("mini", "open", "generated"):
        assert not frozen & {plain(json.loads(line)["edit"]) for line in lines(f"triplets/{name}.jsonl")}
