"""The judge against an eye: what stands in data/eval/eye.jsonl, and how it is shown."""

import random

from PIL import Image

from ip2p.miniworld import random_scene
from ip2p.study import eye


def test_each_painting_and_each_edit_was_looked_at_once():
    rows = eye.verdicts()
    seen = [(row["what"], row["number"]) for row in rows]
    assert sorted(seen) == sorted((what, number) for what in eye.SORTS for number in range(eye.N))
    for row in rows:
        assert row["eye"] in eye.WORDS
        assert bool(row.get("note")) == (row["eye"] != "agrees"), "say what did not agree, and only then"


def test_the_judge_mostly_agrees_with_an_eye():
    for what, said in eye.counts().items():
        assert said.total() == eye.N
        assert said["differs"] <= 5, f"{what}: of 100 verdicts at most five are wrong"


def test_the_page_counts_as_the_file_does():
    page = (eye.DATA.parent / "docs" / "results.md").read_text(encoding="utf-8")
    for what, words in eye.in_sentences().items():
        assert words in page, f"`ip2p docs` renews the numbers of each {what}"


def test_a_reading_is_told_whole():
    scene = random_scene(random.Random(3))
    told = eye.in_words(scene.attributes())
    assert scene.kind in told and scene.colour in told and scene.style in told
    assert len(told.split("\n")) == 6


def test_a_sheet_shows_every_case():
    case = eye.Case([Image.new("RGB", (16, 16))] * 2, "make it night\ndone")
    figure = eye.sheet([case] * 7, list(range(7)), columns=5)
    assert len(figure.axes) == 14, "input and output of each"
    titles = [axes.get_title().split(":")[0] for axes in figure.axes if axes.get_title()]
    assert titles == [str(k) for k in range(7)]
