"""Bad input is one clear line and a non-zero exit, and nothing is written."""

import pytest

from ip2p.cli import main


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
