"""Bad input is one clear line and a non-zero exit, and nothing is written; nobody's files are touched."""

import pytest

from ip2p import instructions
from ip2p.cli import main
from ip2p.dataset.triplets import write_triplets
from ip2p.paths import ROOT
from ip2p.teaching import run_notebooks, site
from ip2p.teaching.notebook_files import NOTEBOOKS


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["edit", "nowhere.png", "make it night", "--out", "out.png"], "there is no image nowhere.png"),
        (["edit", "broken.png", "make it night", "--out", "out.png"], "cannot be read as an image"),
        (["edit", "good.png", "  ", "--out", "out.png"], "the instruction is empty"),
        (
            ["edit", "good.png", "night", "--out", "out.png", "--profile", "maxi"],
            "there is no profile or folder 'maxi'",
        ),
        (
            ["edit", "good.png", "night", "--out", "out.png", "--model", "folder"],
            "it has no model_index.json",
        ),
        (["pairs", "--triplets", "wrong.jsonl", "--out", "out.png"], "wrong.jsonl, line 1"),
        (["train", "--pairs", "folder", "--out", "out.png"], "there are no pairs in folder"),
    ],
)
def test_bad_input(tmp_path, monkeypatch, capsys, arguments, sentence):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (tmp_path / "wrong.jsonl").write_text('{"input": "a red cat"}\n')
    (tmp_path / "folder").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "good.png")
    assert main(arguments) == 1
    printed = capsys.readouterr().err
    assert sentence in printed and printed.count("\n") == 1
    assert not (tmp_path / "out.png").exists()


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
    write_triplets(
        tmp_path / "t.jsonl", [{"input": "a cat", "edit": "make it night", "output": "a cat at night"}]
    )
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
    from ip2p.training import same_run

    before = contents(thesis)
    assert main(["pairs", "--triplets", "../t.jsonl", "--out", "."]) == 1
    assert "manifest.jsonl is not a manifest of pairs" in capsys.readouterr().err
    with pytest.raises(ValueError, match="holds a model that was not trained there"):
        same_run(thesis / "work" / "settings.json", {})
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


@pytest.mark.parametrize("options", [[], ["--guidance-every", "2"]])
def test_edit_with_the_bundled_model(tmp_path, capsys, options):
    """The README's first example: night falls, and the thing and its place are still there."""
    from ip2p.common.images import open_image
    from ip2p.miniworld import judge
    from ip2p.paths import DATA

    assert (
        main(
            [
                "edit",
                str(DATA / "images" / "cat.png"),
                "make it night",
                "--out",
                str(tmp_path / "e.png"),
                *options,
            ]
        )
        == 0
    )
    assert "saved" in capsys.readouterr().out
    before, after = judge([open_image(DATA / "images" / "cat.png"), open_image(tmp_path / "e.png")])
    assert (before["time"], after["time"]) == ("day", "night")
    assert (before["kind"], before["place"]) == (after["kind"], after["place"])
