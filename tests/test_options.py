"""Options are stated once: each is an argument in Python and a flag, and lies in its range."""

import argparse
from dataclasses import fields
from functools import partial
from math import inf, nan

import pytest

from ip2p.backends.openai import ServerOptions
from ip2p.cli import add_flags, given
from ip2p.instructions import run
from ip2p.options import Job, TrainOptions
from ip2p.profiles import MINI, SD15
from ip2p.study.evaluate import evaluate
from ip2p.study.figures import make_figures
from ip2p.study.speed import run_benchmark


@pytest.mark.parametrize(
    "kind, wrong, sentence",
    [
        (TrainOptions, {"steps": 0}, "steps is 0; it must be a whole number, 1 or more"),
        (TrainOptions, {"steps": 2.5}, "steps is 2.5; it must be a whole number, 1 or more"),
        (TrainOptions, {"batch": True}, "batch is True; it must be a whole number, 1 or more"),
        (TrainOptions, {"lr": nan}, "lr is nan; it must be from 1e-09 to 1"),
        (TrainOptions, {"lr": inf}, "lr is inf; it must be from 1e-09 to 1"),
        (TrainOptions, {"dropout": 0.4}, "dropout is 0.4; it must be from 0 to 0.333333"),
        (TrainOptions, {"gamma": nan}, "gamma is nan; it must be 0.001 or more"),
        (TrainOptions, {"keep": -1}, "keep is -1; it must be a whole number, 1 or more"),
        (Job, {"steps": 0}, "steps is 0; it must be a whole number, 1 or more"),
        (Job, {"attention": "all"}, "attention is 'all'; it must be one of self, cross, both"),
        (Job, {"share": (0.1, nan)}, r"share is \(0.1, nan\); it must be from 0 to 1"),
        (Job, {"min_caption": 20}, "min_caption is 20; it must be from -1 to 1"),
        (Job, {"candidates": 6, "per_seed": 4}, "candidates is 6; it must be a multiple of per_seed, 4"),
    ],
)
def test_a_value_out_of_its_range_is_one_sentence(kind, wrong, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        kind.of(MINI, **wrong)


SERVER = [
    ("temperature", -1, "it must be 0 or more"),
    ("temperature", nan, "it must be 0 or more"),
    ("frequency_penalty", 3, "it must be from -2 to 2"),
    ("max_tokens", 0, "it must be a whole number, 1 or more"),
    ("in_flight", 0, "it must be a whole number, 1 or more"),
    ("in_flight", 2.5, "it must be a whole number, 1 or more"),
    ("timeout", 0, "it must be from 0.01 to 86400"),
    ("timeout", nan, "it must be from 0.01 to 86400"),
    ("max_retries", -1, "it must be a whole number, 0 or more"),
    ("price", (nan, 1.0), "it must be from 0 to 1e\\+06"),
    ("price", (1.0, -2.0), "it must be from 0 to 1e\\+06"),
    ("max_cost", nan, "it must be 0 or more"),
    ("max_cost", -1.0, "it must be 0 or more"),
    ("api", "responses", "it must be one of completions, chat"),
]


@pytest.mark.parametrize("name, wrong, sentence", SERVER)
def test_a_server_is_not_asked_with_a_number_out_of_its_range(name, wrong, sentence):
    """Above all, no number switches the budget off."""
    with pytest.raises(ValueError, match=f"^{name} is .*; {sentence}$"):
        ServerOptions(**{name: wrong})
    assert ServerOptions(price=(0, 0), max_cost=0.0).max_cost == 0


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        ({"n": 0}, "n is 0; it must be a whole number, 1 or more"),
        ({"n": -5}, "n is -5; it must be a whole number, 1 or more"),
        ({"n": 2.5}, "n is 2.5; it must be a whole number, 1 or more"),
        (
            {"backend": "openai", "model": "m", "shots": -1},
            "shots is -1; it must be a whole number, 0 or more",
        ),
        (
            {"backend": "openai", "model": "m", "max_cost": nan, "price": (1, 1)},
            "max_cost is nan; it must be 0",
        ),
    ],
)
def test_stage_1_refuses_numbers_before_it_asks_anything(tmp_path, monkeypatch, wrong, sentence):
    monkeypatch.setenv("OPENAI_API_KEY", "a-secret-key")
    (tmp_path / "c.txt").write_text("a red cat in a meadow")
    with pytest.raises(ValueError, match=f"^{sentence}"):
        run(tmp_path / "c.txt", tmp_path / "t.jsonl", **wrong)
    assert not (tmp_path / "t.jsonl").exists()


@pytest.mark.parametrize("n", [0, -5, 1.5])
def test_measuring_refuses_a_number_of_edits_that_is_none(n):
    for measure in (evaluate, partial(make_figures, ["plane"]), partial(run_benchmark, "fast")):
        with pytest.raises(ValueError, match=f"^n is {n}; it must be a whole number, 1 or more$"):
            measure(n=n)


def test_none_means_the_profiles_default():
    for profile in (MINI, SD15):
        options = TrainOptions.of(profile, steps=None, lr=None, lora=None)
        assert (options.steps, options.lr, options.lora) == (profile.train_steps, profile.train_lr, 0)
        assert Job.of(profile, steps=None) == Job.of(profile) != Job.of(profile, seed=1)
    assert TrainOptions.of(MINI, gamma=inf).gamma == inf, "no weights at all"
    with pytest.raises(TypeError, match="mixed_precision"):
        TrainOptions.of(MINI, mixed_precision="bf16")


@pytest.mark.parametrize("kind", [Job, TrainOptions])
def test_every_option_with_a_help_text_is_a_flag(kind):
    parser = argparse.ArgumentParser()
    add_flags(parser, kind)
    none = given(parser.parse_args([]), kind)
    assert none == dict.fromkeys(f.name for f in fields(kind) if "help" in f.metadata)
    assert kind.of(MINI, **none) == kind.of(MINI)
    said = parser.parse_args(["--keep", "1", "--steps", "7", "--batch", "3"])
    options = kind.of(MINI, **given(said, kind))
    assert (options.keep, options.steps, options.batch) == (1, 7, 3)


def test_flags_that_are_switches_can_be_switched_off():
    parser = argparse.ArgumentParser()
    add_flags(parser, Job)
    for flag, enough in (("--enough", True), ("--no-enough", False)):
        assert Job.of(MINI, **given(parser.parse_args([flag]), Job)).enough is enough
