"""What is measured: held-out edits, the judge's verdicts, what counts as rising; and `ip2p evaluate`."""

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kills import results, survive

from ip2p.common.durable import digest, write_atomically
from ip2p.common.markdown import fill, pages_of
from ip2p.miniworld import EDIT_KINDS, Scene, caption, edit, parse, render
from ip2p.miniworld.held_out import held_out_edits, reworded_edits, scenes
from ip2p.paths import DATA, ROOT
from ip2p.profiles import MINI
from ip2p.study import evaluate as evaluation
from ip2p.study.evaluate import FIGURES, evaluate
from ip2p.study.measures import (
    judge_pairs,
    paired_rise,
    score,
    stated_attributes,
    summary,
    summary_by_kind,
    validity_by_p,
)
from ip2p.study.tables import markdown_table, row, short_table


def test_held_out_edits_are_of_every_kind_and_never_trained_on():
    edits = held_out_edits(44)
    assert [e.kind for e in edits] == list(EDIT_KINDS) * 4 and held_out_edits(44) == edits
    trained = {s.seed for seed in (1, 2, 3) for s in scenes(300, seed)}
    assert not trained & {e.before.seed for e in edits}
    assert {e.kind for e in held_out_edits(6, kinds=("time", "style"))} == {"time", "style"}


def test_reworded_edits_are_at_least_100_and_have_a_truth():
    edits = reworded_edits()
    assert len(edits) >= 100 and all(e.before != e.after and e.kind in EDIT_KINDS for e in edits)


def test_the_truth_scores_full_marks_and_doing_nothing_none():
    edits = held_out_edits(44, kinds=("time", "style", "weather", "place"))
    before = [render(e.before) for e in edits]
    after = [render(e.after) for e in edits]
    true = summary(score(edits, before, after))
    idle = summary(score(edits, before, before))
    assert true["success"] > 0.95 and true["preservation"] > 0.97 and true["n"] == 44
    assert idle["success"] < 0.05 and idle["preservation"] == 1 and idle["outside"] == 0
    assert set(summary_by_kind(score(edits, before, after))) == {"time", "style", "weather", "place"}


def test_the_public_names_of_outside_checks():
    from ip2p.study.measures import Edit, run_editor, score

    assert Edit is type(held_out_edits(1)[0]) and callable(run_editor) and callable(score)


def test_stated_attributes():
    scene = Scene("cat", "red", "beach", time="night", extras=("hat",))
    assert stated_attributes(scene) == {
        "kind": "cat",
        "colour": "red",
        "place": "beach",
        "time": "night",
        "hat": True,
    }


def test_pairs_are_judged_by_their_captions():
    scene = Scene("cat", "red", "beach", size="large", seed=3)
    night = edit(scene, time="night")
    triplet = {"input": caption(scene), "edit": "make it night", "output": caption(night)}
    rows = judge_pairs([triplet] * 2, [render(scene)] * 2, [render(night), render(scene)])
    assert rows == [{"kind": "time", "valid": True}, {"kind": "time", "valid": False}]
    assert parse(triplet["output"]).time == "night"


def test_rising_curves():
    noise = np.random.default_rng(0).normal(size=(3, 200)) * 0.01
    assert min(paired_rise(list(noise + [[0], [1], [2]]))) == 1
    assert min(paired_rise(list(noise + [[0], [1], [0.5]]))) == 0
    assert 0 < paired_rise(list(noise[:2]))[0] < 1


def test_the_valid_share_at_the_best_p():
    rows = [{"p": p, "valid": p > 0.75} for p in np.linspace(0, 1, 101)]
    best = validity_by_p(rows)
    assert best["best"] == 1 and best["p"] == pytest.approx(0.88) and best["valid"] == pytest.approx(25 / 101)
    few = []  # alike at every p
    for p in (0.2, 0.5, 0.8):
        few += [{"p": p, "valid": valid} for valid in (True, True, False, True)]
    assert [share for _, share in validity_by_p(few)["curve"]] == [0.75] * 3


# ------------------------------------------------------------------------------------------- ip2p evaluate

QUICK = replace(MINI, steps=2, pair_steps=2)
CHEAP = ["filter", "mini-sd"]
CARDS = [DATA / "models" / name / "README.md" for name in ("mini-sd", "mini-ip2p")]
PUBLISHED = [*pages_of(ROOT), FIGURES, *CARDS]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """The figures of CHEAP parts, as few as with two edits, and the folder that was given as `out`."""
    out = tmp_path_factory.mktemp("evaluated")
    before = [digest(path) for path in PUBLISHED]
    figures = evaluate(out=out, profile=QUICK, n=2, only=CHEAP)
    assert [digest(path) for path in PUBLISHED] == before, "only `write` changes what is published"
    return figures, out


def test_evaluate_prints_the_same_on_every_run_and_writes_nothing(evaluated, tmp_path, monkeypatch, capsys):
    figures, _ = evaluated
    monkeypatch.chdir(tmp_path)
    before = [digest(path) for path in PUBLISHED]
    again = evaluate(profile=QUICK, n=2, only=["mini-sd"])
    assert again == {"mini-sd": figures["mini-sd"]}
    assert capsys.readouterr().out == markdown_table(again) + "\n"
    assert list(tmp_path.iterdir()) == [] and [digest(path) for path in PUBLISHED] == before


def test_the_table_says_what_was_aimed_at_and_what_came_out(evaluated):
    figures, _ = evaluated
    table = markdown_table(figures)
    assert "| mini-sd, 3 held-out captions: mean accuracy of the stated attributes | 0.920 |" in table
    assert f"| Invalid share of {figures['filter']['n']} candidates, before the filter |" in table
    assert "| Unfiltered candidates | Valid |" in table and "Edit success" not in table
    published = json.loads(FIGURES.read_text())
    assert markdown_table(published) in (ROOT / "docs" / "results.md").read_text()
    assert short_table(published) in (ROOT / "README.md").read_text()


def test_an_editor_of_ones_own(capsys):
    figures = evaluate(MINI.editor, profile=replace(MINI, steps=1), n=2)
    assert figures.keys() == {"editor"}
    editor = figures["editor"]
    assert editor["renders"]["n"] == editor["samples"]["n"] == 2 and editor["reworded"]["n"] > 50
    assert set(editor["by_kind"]) == set(MINI.edit_kinds[:2]) and editor["seconds_an_edit"] > 0
    scale = editor["image_guidance_scale"]
    assert scale["values"] == [MINI.image_guidance_scale * factor for factor in (0.5, 0.75, 1, 1.5, 2)]
    assert len(scale["mean"]) == 5 and len(scale["rises"]) == 4
    printed = capsys.readouterr().out
    assert "| Edit success, 2 renders | 0.800 |" in printed and "| Kind of edit | Success |" in printed


def test_a_stopped_evaluation_goes_on_and_other_settings_are_refused(evaluated, tmp_path, monkeypatch):
    figures, out = evaluated
    assert json.loads((out / "figures.json").read_text()) == figures
    lines = (out / "parts.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "parts.jsonl").write_bytes(
        b"".join(lines[:2]) + lines[2][:30]
    )  # killed while it wrote "filter"

    def broken(*_):
        raise AssertionError("this part was there already")

    monkeypatch.setitem(evaluation.PARTS, "filter", broken)
    assert list(evaluate(out=tmp_path, profile=QUICK, n=2, only=CHEAP)) == CHEAP
    assert (tmp_path / "parts.jsonl").read_bytes() == b"".join(lines[:3])
    with pytest.raises(ValueError, match="begun with other n;"):
        evaluate(out=tmp_path, profile=QUICK, n=3, only=CHEAP)


def an_evaluation():
    """Twenty parts that are quickly measured, written into a README as well; for `survive`."""
    models = evaluation.model_checksums(QUICK)
    evaluation.model_checksums = lambda profile: models
    evaluation.markdown_table = lambda figures: ""
    evaluation.renew_pages = lambda figures, _: fill(evaluation.ROOT / "README.md", {"results": str(figures)})

    def measure(profile, n):
        time.sleep(0.02)
        return {"n": n}

    evaluation.PARTS.update({f"part {k}": measure for k in range(20)})

    def job(folder: Path) -> None:
        evaluation.ROOT = folder
        evaluation.FIGURES = folder / "published.json"
        if not (folder / "README.md").exists():
            page = "# Mine\n<!-- figures:results -->\n<!-- /figures -->\n" + "words\n" * 20_000
            write_atomically(folder / "README.md", page)
        evaluate(out=folder, profile=QUICK, n=2, only=[f"part {k}" for k in range(20)], write=True)

    return job


@pytest.mark.soak
def test_50_kills_of_an_evaluation_lose_and_repeat_no_part(tmp_path):
    survive(tmp_path, an_evaluation, kills=50)
    undisturbed, killed = results(tmp_path)
    for folder in killed:
        for name in ("parts.jsonl", "figures.json", "published.json", "README.md"):
            assert (folder / name).read_text() == (undisturbed / name).read_text()
    lines = (undisturbed / "parts.jsonl").read_text().splitlines()
    assert [json.loads(line)["part"] for line in lines[1:]] == [f"part {k}" for k in range(20)]
    assert (undisturbed / "README.md").read_text().count("words") == 20_000


def test_write_renews_the_readme_the_cards_and_the_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "ROOT", tmp_path)
    monkeypatch.setattr(evaluation, "DATA", tmp_path / "data")
    monkeypatch.setattr(evaluation, "FIGURES", tmp_path / "data" / "eval" / "figures.json")
    for path in PUBLISHED:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    figures = evaluate(profile=QUICK, n=2, only=["mini-sd"], write=True)
    published = json.loads(FIGURES.read_text())
    assert figures.keys() == published.keys() and figures["mini-sd"]["n"] == 3
    assert figures | {"mini-sd": 0} == published | {"mini-sd": 0}, "other parts stay as they are"
    assert json.loads(evaluation.FIGURES.read_text()) == figures
    line = row("mini-sd: all stated attributes right", "0.650", figures["mini-sd"]["all"])
    assert line in (tmp_path / "docs" / "results.md").read_text()
    assert short_table(figures) in (tmp_path / "README.md").read_text()
    assert line in (tmp_path / "data" / "models" / "mini-sd" / "README.md").read_text()


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        ({"only": ["hat"]}, "there is no part hat; choose from instructions, "),
        ({"model": MINI.editor, "write": True}, "leave out --write, or --model"),
        ({"device": "tpu"}, "there is no device 'tpu'"),
        ({"dtype": "int8"}, "there is no number format 'int8'"),
    ],
)
def test_what_evaluate_refuses(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        evaluate(**wrong)
