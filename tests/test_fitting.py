"""Batches that fit the memory, models that move in and out of it, and what `ip2p doctor` says."""

from dataclasses import replace

import pytest
import torch
from accelerate import cpu_offload_with_hook
from PIL import Image

from ip2p import doctor
from ip2p.cli import main
from ip2p.common.fitting import largest_that_fits
from ip2p.dataset.shards import Manifest
from ip2p.dataset.triplets import GENERATED_TRIPLETS, json_line, read_triplets
from ip2p.editing import Editor, load_editor
from ip2p.factory import pairs
from ip2p.miniworld.held_out import held_out_edits
from ip2p.profiles import MINI, SD15, settle
from ip2p.prompt_to_prompt import sample_pairs
from ip2p.study.measures import run_editor


def full() -> Exception:
    """What PyTorch raises where a GPU's memory is full."""
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_a_batch_is_halved_until_it_fits_with_a_sentence_each(capsys):
    tried = []

    def work(size):
        tried.append(size)
        if size > 3:
            raise full()
        return f"{size} done"

    assert largest_that_fits(work, 24, "pairs") == ("3 done", 3) and tried == [24, 12, 6, 3]
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "ip2p: 24 pairs at once do not fit the memory; trying 12" and len(said) == 3


def test_other_errors_and_one_that_does_not_fit_are_not_swallowed():
    for error in (full(), RuntimeError("shapes do not match")):
        calls = []

        def work(size, calls=calls, error=error):
            calls.append(size)
            raise error

        with pytest.raises(RuntimeError) as caught:
            largest_that_fits(work, 2, "pairs")
        assert caught.value is error and calls == ([2, 1] if "memory" in str(error) else [2])


class SmallCard(Editor):
    """An editor on a card that holds three edits."""

    def __init__(self):
        self.batches = []

    def many(self, images, instructions, *, seeds, **options):
        self.batches.append(list(seeds))
        if len(images) > 3:
            raise full()
        return [Image.new("RGB", (8, 8), (seed, 0, 0)) for seed in seeds]


def test_an_evaluation_goes_on_with_the_batch_that_fits():
    editor = SmallCard()
    outputs = run_editor(editor, held_out_edits(8), batch=6)
    assert [picture.getpixel((0, 0))[0] for picture in outputs] == list(range(8))
    assert editor.batches == [[0, 1, 2, 3, 4, 5], [0, 1, 2], [3, 4, 5], [6, 7]]


def test_pairs_are_painted_in_the_batch_that_fits_and_go_on_in_it(tmp_path, monkeypatch, capsys):
    (tmp_path / "t.jsonl").write_text("".join(map(json_line, read_triplets(GENERATED_TRIPLETS)[:1])))
    asked = ["pairs", "--triplets", str(tmp_path / "t.jsonl"), "--out", str(tmp_path / "pairs")]
    asked += ["--candidates", "3", "--steps", "2", "--device", "cpu"]
    paint_batch = pairs.paint_candidates

    def on_a_small_card(pipe, job, *rest):
        if job.batch > 6:
            raise full()
        return paint_batch(pipe, job, *rest)

    monkeypatch.setattr(pairs, "paint_candidates", on_a_small_card)
    assert main(asked) == 0
    assert "24 pairs at once do not fit the memory; trying 12" in capsys.readouterr().err
    assert Manifest(tmp_path / "pairs").made_by["job"]["batch"] == 6
    assert main(asked) == 0, "the same command goes on, with the batch of the folder"
    assert capsys.readouterr().out == "nothing left to do\n"


def test_a_full_memory_is_a_sentence(monkeypatch, capsys):
    def fails(*_):
        raise full()

    monkeypatch.setattr("ip2p.teaching.hero.hero", fails)
    assert main(["hero", "--out", "hero.webp"]) == 1
    assert capsys.readouterr().err.startswith(
        "ip2p: the memory is full; what helps: for `train` --accumulate"
    )


# ------------------------------------------------------------------------------------------- low memory


def with_hooks(pipe) -> list[str]:
    """Hook the parts of a pipeline as diffusers' model offload does, on the only device here. The names of
    those that worked come into the list."""
    worked = []
    for name in ("text_encoder", "unet", "vae"):
        _, hook = cpu_offload_with_hook(getattr(pipe, name), torch.device("cpu"))
        pre_forward = hook.hook.pre_forward

        def noted(module, *args, name=name, pre_forward=pre_forward, **options):
            worked.append(name)
            return pre_forward(module, *args, **options)

        hook.hook.pre_forward = noted
    return worked


def test_every_part_that_works_goes_through_its_hook():
    """So that an offloading GPU would have moved it there."""
    editor = load_editor("mini", "cpu")
    image = Image.new("RGB", (64, 64), "orange")
    plain = editor(image, "make it night", num_inference_steps=2)
    worked = with_hooks(editor.pipe)
    assert editor(image, "make it night", num_inference_steps=2) == plain
    assert (
        worked[0] == "vae" and worked[-1] == "vae" and worked.count("unet") == 2 and "text_encoder" in worked
    )


def test_pairs_go_through_the_hooks(tiny_pipe):
    asked = {"seeds": [1], "p": 0.5, "guidance_scale": 2.0, "num_inference_steps": 2}
    plain = sample_pairs(tiny_pipe, ["a red cat"], ["a blue cat"], **asked)
    worked = with_hooks(tiny_pipe)
    try:
        hooked = sample_pairs(tiny_pipe, ["a red cat"], ["a blue cat"], **asked)
    finally:
        tiny_pipe.remove_all_hooks()
    assert all(torch.equal(a, b) for a, b in zip(plain, hooked, strict=True))
    assert set(worked) == {"text_encoder", "unet", "vae"}


class Pipe:
    """Notes what `settle` does with it."""

    def __init__(self):
        self.done = []
        self.vae = self

    def to(self, device):
        self.done.append(f"to {device}")
        return self

    def enable_slicing(self):
        self.done.append("slicing")

    def enable_model_cpu_offload(self, device):
        self.done.append(f"offload {device}")


@pytest.mark.parametrize(
    "device, low_memory, done",
    [
        ("cuda", False, ["to cuda"]),
        ("cuda", True, ["slicing", "offload cuda"]),
        ("cpu", True, ["slicing"]),
    ],
)
def test_where_a_pipeline_settles(device, low_memory, done):
    pipe = Pipe()
    assert settle(pipe, torch.device(device), low_memory) is pipe and pipe.done == done


@pytest.mark.weights  # needs a GPU
def test_low_memory_takes_less_of_a_gpu_and_paints_the_same():
    image = Image.new("RGB", (64, 64), "orange")
    peaks, pictures = [], []
    for low_memory in (False, True):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        editor = load_editor(replace(MINI, device="cuda", low_memory=low_memory))
        pictures.append(editor(image, "make it night", num_inference_steps=2))
        peaks.append(torch.cuda.max_memory_allocated())
        del editor
    assert pictures[0] == pictures[1] and peaks[1] < peaks[0]


# ----------------------------------------------------------------------------------------------- doctor


def test_the_doctor_finds_the_bundled_models(capsys):
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert f"torch {torch.__version__.partition('+')[0]}" in said and "--device auto is" in said
    for line in ("mini-sd", "mini-ip2p", "mini-clip"):
        assert f"{line}\n" in said
    assert "MISSING" not in said


def test_the_doctor_says_what_is_missing_and_what_helps(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "in_cache", lambda *_: doctor.MISSING)
    assert not doctor.examine(SD15)
    said = capsys.readouterr().out
    assert "MISSING edits: timbrooks/instruct-pix2pix, of the Hugging Face hub" in said
    assert "hf download timbrooks/instruct-pix2pix" in said and "MISSING filters: ViT-L-14-quickgelu" in said

    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "unet.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    assert not doctor.examine(replace(MINI, editor=str(tmp_path)))
    assert f"{tmp_path / 'unet.safetensors'} is broken" in capsys.readouterr().out
