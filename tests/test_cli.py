"""Bad input is one clear line and a non-zero exit, and nothing is written; nobody's files are touched."""

import json
import subprocess
import sys
from dataclasses import replace

import nbformat
import pytest
import test_instructions
from PIL import Image, ImageChops, ImageStat
from servers import openai_server, serving

from ip2p import instructions
from ip2p.backends import local
from ip2p.cli import main
from ip2p.common.errors import UserError
from ip2p.common.markdown import pages_of
from ip2p.dataset.shards import read_pairs
from ip2p.dataset.triplets import DELIMITER, json_line, read_triplets
from ip2p.paths import DATA, ROOT
from ip2p.profiles import PROFILES
from ip2p.study import plots, points
from ip2p.teaching import run_notebooks, site
from ip2p.teaching.notebook_files import NOTEBOOKS
from ip2p.training import new_editor

TRIPLET = {
    "input": "a red cat on the beach",
    "edit": "make it night",
    "output": "a red cat on the beach at night",
}


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["edit", "nowhere.png", "make it night", "--out", "out.png"], "there is no image nowhere.png"),
        (["edit", "broken.png", "make it night", "--out", "out.png"], "cannot be read as an image"),
        (["edit", "good.png", "  ", "--out", "out.png"], "the instruction is empty"),
        (
            ["edit", "good.png", "night", "--out", "out.png", "--profile", "maxi"],
            "there is no profile 'maxi'",
        ),
        (
            ["edit", "good.png", "night", "--out", "out.png", "--model", "folder"],
            "it has no model_index.json",
        ),
        (["pairs", "--triplets", "wrong.jsonl", "--out", "out.png"], "wrong.jsonl, line 1"),
        (["train", "--pairs", "folder", "--out", "out.png"], "there are no pairs in folder"),
        (["train", "--pairs", "folder", "--out", "out.png", "--steps", "0"], "steps is 0; it must be"),
        (["train", "--pairs", "folder", "--out", "out.png", "--lr", "nan"], "lr is nan; it must be from"),
        (["train", "--pairs", "folder", "--out", "out.png", "--dtype", "float16"], "choose bfloat16 or"),
        (["train", "--pairs", "folder", "--out", "out.png", "--device", "gpu"], "there is no device 'gpu'"),
        (
            ["train", "--pairs", "folder", "--out", "out.png", "--validate-every", "0"],
            "validate_every is 0; it must be 1 or more",
        ),
        (["pairs", "--triplets", "t.jsonl", "--out", "out.png", "--keep", "0"], "keep is 0; it must be"),
        (
            ["pairs", "--triplets", "t.jsonl", "--out", "out.png", "--workers", "0"],
            "workers is 0; it must be",
        ),
        (["pairs", "--triplets", "t.jsonl", "--out", "out.png", "--device", "cuda:x"], "cuda"),
        (["edit", "good.png", "night", "--out", "out.png", "--device", "gpu"], "there is no device 'gpu'"),
        (["models", "build", "--out", "out.png", "--device", "gpu"], "there is no device 'gpu'"),
        (["hero", "--out", "out.png", "--device", "gpu"], "there is no device 'gpu'"),
        (["eye", "--out", "out", "--device", "gpu"], "there is no device 'gpu'"),
        (["finetune", "--out", "out.png", "--device", "gpu"], "there is no device 'gpu'"),
        (
            ["instructions", "--captions", "captions.txt", "--out", "out.png", "--device", "gpu"],
            "there is no device 'gpu'",
        ),
        (
            ["pairs", "--triplets", "t.jsonl", "--out", "out.png", "--executor", "ray", "--device", "gpu"],
            "there is no device 'gpu'",
        ),
        (["evaluate", "--device", "gpu"], "there is no device 'gpu'"),
        (["figures", "plane", "--device", "gpu"], "there is no device 'gpu'"),
        (["bench", "filter", "--device", "gpu"], "there is no device 'gpu'"),
        (["finetune", "--out", "out.png", "--dtype", "float16"], "choose bfloat16 or"),
        (["models", "build", "--out", "out.png", "--dtype", "float16"], "choose bfloat16 or"),
        (["figures", "plane", "figure10", "--dtype", "float16"], "choose bfloat16 or"),
        (["bench", "memory", "--dtype", "float16"], "choose bfloat16 or"),
        (["models", "build", "--out", "out.png", "--only", "all"], "there is no part 'all'"),
        (["instructions", "--captions", "none.txt", "--out", "out.png"], "none.txt"),
        (["evaluate", "--only", "all"], "there is no part all"),
        (["edit", "good.png", "night", "--out", "out.cat"], "out.cat has no ending of a picture; call it"),
        (["edit", "good.png", "night", "--out", "no/out.png"], "no/out.png cannot be written (No such file"),
        (["edit", "good.png", "night", "--out", "device.png"], "device.png is no file; choose another name"),
        (["hero", "--out", "no/out.png"], "no/out.png cannot be written (No such file or directory)"),
        (["site", "--out", "good.png"], "good.png"),
        (["notebooks", "--only", "00", "--out", "good.png"], "good.png"),
        (["notebooks", "--only", "77", "--out", "new"], "77"),
        (["evaluate", "--out", "good.png", "--only", "filter"], "good.png"),
        (["evaluate", "--n", "0"], "n is 0; it must be a whole number, 1 or more"),
        (["benchmark", "--model", "mini", "--n", "0"], "n is 0; it must be a whole number, from 1 to 400"),
        (["benchmark", "--model", "folder"], "it has no model_index.json"),
        (["benchmark", "--model", "mini", "--device", "gpu"], "there is no device 'gpu'"),
        (["benchmark", "--model", "mini", "--options", "steps"], "'steps' is no option; write NAME=VALUE"),
        (["benchmark", "--model", "mini", "--write"], "on the leaderboard: --name NAME"),
        (["benchmark", "--command", "cp {image} {out}"], "the command has no {instruction}; write it like"),
        (["benchmark", "--answers", "none"], "there is no folder none; give one with a picture ID.png"),
        (["benchmark", "--answers", "folder"], "folder lacks 400 of 400 pictures, such as 000.png; put them"),
        (["benchmark", "--export", "good.png"], "good.png is a file; choose a folder"),
        (["benchmark", "--model", "mini", "--photos", "folder"], "folder is no set of MagicBrush"),
        (["benchmark", "--export", "new", "--photos", "folder"], "leave out --photos"),
        (["bench", "fast", "--n", "-1"], "n is -1; it must be a whole number, 1 or more"),
        (["pairs", "--triplets", "t.jsonl", "--out", "good.png"], "good.png"),
        (["instructions", "--captions", "captions.txt", "--out", "wrong.jsonl"], "wrong.jsonl, line 1"),
        (["train", "--pairs", "good.png", "--out", "out.png"], "good.png"),
        (["edit", "good.png", "night", "--out", "out.png", "--mask", "broken.png"], "cannot be read as an"),
        (["edit", "folder", "night", "--out", "out.png"], "there is no image folder"),
        (["instructions", "--captions", "folder", "--out", "out.png"], "folder"),
        (["instructions", "--captions", "good.png", "--out", "out.png"], "good.png, line 1: it is not UTF-8"),
        (["instructions", "--captions", "captions.txt", "--out", "folder"], "is a folder; choose a file"),
        (["triplets", "check", "captions.txt"], "captions.txt, line 1: it is not JSON"),
        (["triplets", "check", "none.jsonl"], "none.jsonl"),
    ],
)
def test_bad_input(tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (tmp_path / "wrong.jsonl").write_text('{"input": "a red cat"}\n')
    (tmp_path / "t.jsonl").write_text(
        '{"input": "a cat", "edit": "make it night", "output": "a cat at night"}'
    )
    (tmp_path / "captions.txt").write_text("a red cat in a meadow\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "device.png").symlink_to("/dev/full")
    Image.new("RGB", (64, 64)).save(tmp_path / "good.png")
    assert main(arguments) == 1
    printed = capsys.readouterr().err
    assert sentence in printed and printed.count("\n") == 1
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--pairs", "p", "--out", "o", "--dtype", "float8"],
        ["paint"],
        ["pairs", "--out", "o"],
        ["docs", "--out", "o"],
        ["finetune", "--out", "o", "--seed", "1"],
    ],
)
def test_what_argparse_refuses_is_its_own_exit(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2 and "usage: ip2p" in capsys.readouterr().err


@pytest.mark.parametrize("shard", ["3", "a/b", "3/", "-1/4"])
def test_a_shard_is_said_as_a_fraction(capsys, shard):
    with pytest.raises(SystemExit):
        main(["instructions", "--captions", "c.txt", "--out", "t.jsonl", f"--shard={shard}"])
    assert "argument --shard: give I/N, such as 2/8" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, goes_on",
    [
        (["train", "--pairs", "p", "--out", "o"], True),
        (["evaluate", "--out", "o"], True),
        (["evaluate"], False),
        (["benchmark", "--model", "m"], True),
        (["hero", "--out", "h.png"], False),
    ],
)
def test_a_stopped_command_promises_to_go_on_only_if_it_does(monkeypatch, capsys, arguments, goes_on):
    def stop(*_, **__):
        raise KeyboardInterrupt

    for place in (
        "training.train",
        "study.evaluate.evaluate",
        "study.benchmark.benchmark",
        "teaching.hero.hero",
    ):
        monkeypatch.setattr(f"ip2p.{place}", stop)
    assert main(arguments) == 130
    promise = "; what is done is kept, and the same command goes on" if goes_on else ""
    assert capsys.readouterr().err == f"ip2p: stopped{promise}\n"


def test_only_what_is_meant_for_users_is_a_sentence_alone(monkeypatch, capsys):
    def fail(error):
        def hero(*_, **__):
            raise error

        monkeypatch.setattr("ip2p.teaching.hero.hero", hero)
        assert main(["hero", "--out", "h.png"]) == 1
        return capsys.readouterr().err

    assert fail(UserError("the moon is not full")) == "ip2p: the moon is not full\n"
    for error in (RuntimeError("shapes do not match"), KeyError("latents")):
        said = fail(error)
        assert "Traceback" in said and "please report it with the lines above" in said


def test_help_names_defaults_of_0_too(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "in the end merged; 0: all weights (0)" in said and "(slower) --" in said


def test_help_comes_at_once():
    """Nothing heavy is imported to say what there is."""
    code = """
import sys
from ip2p.cli import main
try:
    main(sys.argv[1:])
finally:
    print("heavy:", sorted({"torch", "numpy", "diffusers", "accelerate"} & set(sys.modules)))
"""
    for arguments in ([], ["train"], ["pairs"], ["edit"], ["notebooks"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments, "--help"], capture_output=True, text=True
        )
        assert done.returncode == 0 and "heavy: []" in done.stdout


# ---------------------------------------------------------------------------- every command, on tiny models

tiny_language_model = test_instructions.tiny


@pytest.fixture(scope="module")
def tiny_world(tiny_pipe, tmp_path_factory):
    """A folder with tiny models, triplets and captions, and the name of a profile of these models."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_pipe.save_pretrained(folder / "sd")
    new_editor(replace(PROFILES["mini"], text_to_image=str(folder / "sd"))).save_pretrained(folder / "editor")
    more = [TRIPLET | {"input": f"{n} dogs", "output": f"{n} dogs at night"} for n in range(8)]
    (folder / "t.jsonl").write_text("".join(map(json_line, [TRIPLET, *more])))
    (folder / "captions.txt").write_text("a red cat in a meadow\na blue dog on a beach\n")
    Image.new("RGB", (48, 32), "red").save(folder / "red.png")
    profile = replace(
        PROFILES["mini"],
        name="tiny",
        text_to_image=str(folder / "sd"),
        editor=str(folder / "editor"),
        resolution=32,
        train_steps=2,
        train_batch=2,
        candidates=2,
        per_seed=2,
        pair_steps=2,
        batch=4,
        steps=2,
    )
    PROFILES["tiny"] = profile
    yield folder
    del PROFILES["tiny"]


def run_command(command: str, *arguments) -> None:
    """A command that must succeed."""
    assert main([command, *map(str, arguments)]) == 0


def test_pairs_then_train_then_edit(tiny_world, tmp_path, capsys):
    pairs, editor = tmp_path / "pairs", tmp_path / "editor"
    tiny = ("--profile", "tiny")
    anything = ("--min-image", -1, "--min-caption", -1, "--min-direction", -1)
    run_command("pairs", "--triplets", tiny_world / "t.jsonl", "--out", pairs, *anything, *tiny)
    assert "triplets 9, candidates 18, kept 18" in capsys.readouterr().out
    run_command("pairs", "--triplets", tiny_world / "t.jsonl", "--out", pairs, *anything, *tiny)
    assert "nothing left to do" in capsys.readouterr().out
    assert len(read_pairs(pairs)) == 18

    run_command(
        "train", "--pairs", pairs, "--out", editor, "--dtype", "bfloat16", "--validate-every", 1, *tiny
    )
    assert (editor / "model_index.json").exists() and (editor / "validation" / "000002.png").exists()
    settings = json.loads((editor / "work" / "settings.json").read_text())
    assert (settings["dtype"], settings["steps"], settings["batch"]) == ("bfloat16", 2, 2)

    run_command(
        "edit", tiny_world / "red.png", "make it night", "--model", editor, "--out", tmp_path / "e.png", *tiny
    )
    assert Image.open(tmp_path / "e.png").size == (32, 32)


def test_instructions_by_a_server_and_by_a_model_of_ones_own(
    tiny_world, tiny_language_model, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("OPENAI_API_KEY", "a-secret-key")
    captions = ("--captions", tiny_world / "captions.txt")

    def night(caption):
        return f"make it night{DELIMITER}{caption} at night"

    with serving(openai_server(night, [])) as url:
        server = ("--backend", "openai", "--model", "text", "--base-url", url)
        run_command("instructions", *captions, *server, "--out", tmp_path / "served.jsonl")
    assert "accepted 2" in capsys.readouterr().out
    assert {t["edit"] for t in read_triplets(tmp_path / "served.jsonl")} == {"make it night"}

    local.save(*tiny_language_model, tmp_path / "tiny")
    on_cpu = ("--device", "cpu", "--dtype", "bfloat16")
    run_command("finetune", "--model", tmp_path / "tiny", "--out", tmp_path / "tuned", *on_cpu)
    own = ("--model", tmp_path / "tuned", "--out", tmp_path / "own.jsonl", "--n", 1, *on_cpu)
    assert main([str(argument) for argument in ("instructions", *captions, *own)]) == 1
    assert "no answer was accepted" in capsys.readouterr().err
    assert read_triplets(tmp_path / "own.jsonl") == [], "it knows nothing, and none of its answers passes"


def test_hero_samples_and_triplets(tiny_world, tmp_path, capsys):
    run_command("hero", "--profile", "tiny", "--out", tmp_path / "hero.webp")
    assert Image.open(tmp_path / "hero.webp").n_frames == 14
    run_command("samples", "--out", tmp_path)
    assert (tmp_path / "cat.png").read_bytes() == (DATA / "images" / "cat.png").read_bytes()
    run_command("triplets", "check", DATA / "triplets" / "open.jsonl", "--chat", tmp_path / "chat.jsonl")
    assert (tmp_path / "chat.jsonl").read_text().count("\n") > 100
    (tmp_path / "bad.jsonl").write_text(json.dumps(TRIPLET | {"output": TRIPLET["input"]}) + "\n")
    assert main(["triplets", "check", str(tmp_path / "bad.jsonl")]) == 1


ROUGH = [("cpu", "bfloat16"), pytest.param("cuda", "float16", marks=pytest.mark.weights)]


@pytest.mark.parametrize("device, dtype", ROUGH)
def test_the_workshop_runs_where_and_as_it_is_told(tiny_world, tmp_path, monkeypatch, capsys, device, dtype):
    rough = ("--profile", "tiny", "--device", device, "--dtype", dtype)
    exact = ("--profile", "tiny", "--device", "cpu", "--dtype", "float32")
    for name, place in (("rough", rough), ("exact", exact)):
        run_command("hero", "--out", tmp_path / f"{name}.png", *place)
    with Image.open(tmp_path / "rough.png") as one, Image.open(tmp_path / "exact.png") as other:
        apart = ImageStat.Stat(ImageChops.difference(one.convert("RGB"), other.convert("RGB"))).mean
    assert 0 < max(apart) < 8, "alike, but not to the bit"

    for module in (points, plots):
        monkeypatch.setattr(module, "DATA", tmp_path)
    monkeypatch.setattr(points, "OUT", tmp_path / "figures")
    (tmp_path / "eval").mkdir()
    run_command("figures", "plane", "--n", 2, *rough)
    head = (tmp_path / "eval" / "plane.csv").read_text().splitlines()[0]
    assert head.startswith("# command: ip2p figures plane --profile tiny --n 2")
    if device == "cpu":  # where "auto" is float32
        assert head.endswith("--dtype bfloat16")
        assert main(["figures", "plane", "--n", "2", *exact]) == 1
        assert "begun with other command" in capsys.readouterr().err

    before = [path.read_bytes() for path in pages_of(ROOT)]
    run_command("bench", "filter", "--n", 2, *rough)
    assert "| Times one at a time |" in capsys.readouterr().out
    assert [path.read_bytes() for path in pages_of(ROOT)] == before


def test_notebooks_run_with_parameters(tmp_path):
    nb = nbformat.v4.new_notebook()
    nb.cells = [
        nbformat.v4.new_code_cell("N: int = 1  # how often", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("print('said', N, 'times')"),
    ]
    (tmp_path / "notebooks").mkdir()
    nbformat.write(nb, tmp_path / "notebooks" / "00_tiny.ipynb")
    places = ("--notebooks", tmp_path / "notebooks", "--out", tmp_path / "out")
    run_command("notebooks", "--only", "00", "-p", "N", 3, *places)
    assert "said 3 times" in (tmp_path / "out" / "00_tiny.ipynb").read_text()


# ---------------------------------------------------------------------------- other people's files


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def thesis(tmp_path, monkeypatch):
    """A folder of the user's own, with whatever our commands might write, too; it is the working folder."""
    folder = tmp_path / "thesis"
    names = (
        "thesis.tex",
        "site/index.html",
        "site-source/notes.txt",
        "config.json",
        "model_index.json",
        "unet/config.json",
        "work/notes.txt",
        "manifest.jsonl",
        "manifest.lock",
        "pairs-old.tmp",
        "index.html",
        "00_quickstart.ipynb",
        "00_quickstart.html",
    )
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name} is mine")
    (folder / "manifest.jsonl").write_text('{"audio_filepath": "a.wav", "text": "hello"}\n{"half of a l')
    triplet = {"input": "a cat", "edit": "make it night", "output": "a cat at night"}
    (tmp_path / "t.jsonl").write_text(json_line(triplet))
    monkeypatch.chdir(folder)
    return folder


def no_work(*_, **__):
    raise AssertionError("there was work before the refusal")


@pytest.mark.parametrize("out", [".", "../thesis", "thesis.tex", "thesis.tex/new"])
def test_finetune_refuses_a_folder_that_it_did_not_make(thesis, monkeypatch, capsys, out):
    monkeypatch.setattr(instructions, "load_finetuned", no_work)
    before = contents(thesis)
    assert main(["finetune", "--out", out]) == 1
    printed = capsys.readouterr().err
    assert f"ip2p: {out} " in printed and "choose" in printed and printed.count("\n") == 1
    assert contents(thesis) == before


def test_pairs_and_training_leave_other_peoples_folders_alone(thesis, capsys):
    before = contents(thesis)
    assert main(["pairs", "--triplets", "../t.jsonl", "--out", "."]) == 1
    assert "manifest.jsonl is not a manifest of pairs" in capsys.readouterr().err
    assert main(["train", "--pairs", str(DATA / "pairs"), "--out", "."]) == 1
    assert "holds a model that was not trained there" in capsys.readouterr().err
    assert contents(thesis) == before


def test_a_build_of_the_models_refuses_a_foreign_folder(thesis, capsys):
    (thesis / "work").rename(thesis / "job")
    before = contents(thesis)
    assert main(["models", "build", "--out", "."]) == 1
    assert "was not made by `ip2p models build`" in capsys.readouterr().err and contents(thesis) == before


def test_the_site_replaces_only_a_site_of_its_own(thesis, monkeypatch, capsys):
    monkeypatch.setattr(site, "collect_sources", no_work)
    before, sources = contents(thesis), contents(ROOT / "site")
    for out in (".", str(ROOT)):
        assert main(["site", "--out", out]) == 1
        printed = capsys.readouterr().err
        assert "site is not empty and was not made by `ip2p site`" in printed and printed.count("\n") == 1
    assert contents(thesis) == before and contents(ROOT / "site") == sources


@pytest.mark.parametrize("theirs", ["00_quickstart.ipynb", "00_quickstart.html", "index.html"])
def test_running_notebooks_overwrites_only_results_of_runs(thesis, monkeypatch, capsys, theirs):
    monkeypatch.setattr(run_notebooks, "execute", no_work)
    for name in {"00_quickstart.ipynb", "00_quickstart.html", "index.html"} - {theirs}:
        (thesis / name).unlink()
    before = contents(thesis)
    assert main(["notebooks", "--only", "00", "--out", "."]) == 1
    printed = capsys.readouterr().err
    assert f"{theirs} is not the result of a run" in printed and printed.count("\n") == 1
    assert contents(thesis) == before


def test_notebooks_are_not_run_over_themselves(capsys):
    sources = contents(NOTEBOOKS)
    assert main(["notebooks", "--only", "00", "--out", str(NOTEBOOKS)]) == 1
    assert contents(NOTEBOOKS) == sources


def test_edit_with_the_bundled_model(tmp_path, capsys):
    """The README's first example: night falls, and the thing and its place are still there."""
    from ip2p.common.images import open_image
    from ip2p.miniworld import judge
    from ip2p.paths import DATA

    cat = str(DATA / "images" / "cat.png")
    assert main(["edit", cat, "make it night", "--out", str(tmp_path / "e.png")]) == 0
    assert "saved" in capsys.readouterr().out
    before, after = judge([open_image(DATA / "images" / "cat.png"), open_image(tmp_path / "e.png")])
    assert (before["time"], after["time"]) == ("day", "night")
    assert (before["kind"], before["place"]) == (after["kind"], after["place"])
