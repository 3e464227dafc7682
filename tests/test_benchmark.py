"""`ip2p benchmark`: the set is frozen, every kind of editor can be asked, and nothing is lost or mixed up."""

import json
import shutil
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from kills import results, survive
from PIL import Image

from ip2p.cli import main
from ip2p.common.images import encode_image
from ip2p.miniworld import Scene, render
from ip2p.miniworld.held_out import held_out_edits
from ip2p.profiles import MINI, PROFILES
from ip2p.study import benchmark as bench
from ip2p.study import editors, measures, photos
from ip2p.study.benchmark import benchmark, checksum, export, tasks
from ip2p.study.editors import Answers, Command, NotDone, Question, open_editor, read_options
from ip2p.study.photos import benchmark_photos, find_dino, read_magicbrush

NOISE = Scene("cat", "red", "meadow").attributes()  # what the stub of a judge reads in any unknown picture


def few() -> tuple:
    """Twelve of the edits, one of each kind, and two worded by hand."""
    return (*tasks()[:12], *tasks()[bench.IN_RANDOM_WORDS : bench.IN_RANDOM_WORDS + 2])


@pytest.fixture(scope="module")
def small_set():
    """The edits, and what an exact judge reads in their pictures before and after."""
    chosen = few()
    read = {}
    for task in chosen:
        for scene in (task.edit.before, task.edit.after):
            read[render(scene).tobytes()] = scene.attributes()
    return chosen, read


@pytest.fixture
def small(small_set, monkeypatch, tmp_path):
    """A benchmark of these edits with that judge, in a folder of its own; returns the edits."""
    chosen, read = small_set

    def judge(images):
        return [read.get(image.tobytes(), NOISE) for image in images]

    monkeypatch.setattr(measures, "judge", judge)
    monkeypatch.setattr(bench, "tasks", lambda: chosen)
    monkeypatch.setattr(bench, "FROZEN", checksum(chosen))
    monkeypatch.chdir(tmp_path)
    return chosen


class Stub:
    """An editor made of a function of the question."""

    at_once = 4

    def __init__(self, edit, name="stub"):
        self.edit = edit
        self.identity = {"editor": name}
        self.asked = []

    def __call__(self, ids):
        self.ids = list(ids)
        return self

    def answer(self, questions):
        self.asked += [question.id for question in questions]
        return [self.edit(question) for question in questions]


def perfect(small) -> Stub:
    after = {task.id: render(task.edit.after) for task in small}
    return Stub(lambda question: after[question.id], "perfect")


def unedited(name="unedited") -> Stub:
    return Stub(lambda question: question.image, name)


# ------------------------------------------------------------------------------------------------ the set


def test_the_set_is_frozen():
    """A benchmark is comparable only as long as this holds: do not renew FROZEN without measuring every
    editor of the leaderboard again."""
    assert len(tasks()) == 400 and checksum(tasks()) == bench.FROZEN
    assert [task.id for task in tasks()] == [f"{k:03}" for k in range(400)]
    kinds = [task.edit.kind for task in tasks()]
    assert set(kinds) == set(bench.KINDS) and min(map(kinds.count, bench.KINDS)) >= 20
    assert [task.words for task in tasks()].count("by hand") == 120
    held_out = {edit.before for edit in held_out_edits(100)}
    assert not held_out & {task.edit.before for task in tasks()}


def test_a_changed_set_is_refused(small, monkeypatch):
    changed = small[0]._replace(edit=small[0].edit._replace(instruction="make it night!"))
    monkeypatch.setattr(bench, "tasks", lambda: (changed, *small[1:]))
    with pytest.raises(ValueError, match="not the frozen ones"):
        benchmark("x", unedited(), "out")


def test_exported_tasks_keep_the_truth_apart_and_answers_come_back(small, tmp_path, capsys):
    assert export(tmp_path / "set") == len(small)
    rows = [json.loads(line) for line in (tmp_path / "set" / "tasks.jsonl").read_text().splitlines()]
    assert [set(row) for row in rows] == [{"id", "file", "instruction"}] * len(small)
    truths = [json.loads(line) for line in (tmp_path / "set" / "truth.jsonl").read_text().splitlines()]
    (tmp_path / "mine").mkdir()
    for row, truth in zip(rows, truths, strict=True):
        with Image.open(tmp_path / "set" / row["file"]) as image:
            assert image.size == (128, 128)
        after = Scene(**{k: tuple(v) if isinstance(v, list) else v for k, v in truth["after"].items()})
        render(after).save(tmp_path / "mine" / f"{row['id']}.png")
    assert main(["benchmark", "--answers", "mine"]) == 0
    assert "| all | 1.00 (0.78 to 1.00) | 1.00 (0.78 to 1.00) | 1.00 (" in capsys.readouterr().out

    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and was not made by"):
        export(tmp_path / "thesis")


# --------------------------------------------------------------------------------------- the measurement


def test_the_bounds_are_what_they_must_be(small):
    best = benchmark("best", perfect(small), "out")
    same = benchmark("same", unedited(), "out")
    assert best["all"]["right"][0] == 1 and same["all"]["right"][0] == 0
    assert same["all"]["preservation"][0] == 1 and same["all"]["success"][0] == 0
    assert best["all"]["n"] == 14 and best["by hand"]["n"] == 2 and best["swap"]["n"] == 1


def test_a_stopped_run_goes_on_and_half_a_line_does_not_count(small, tmp_path):
    figures = benchmark("x", perfect(small), "out")
    rows = tmp_path / "out" / "x" / "miniature" / "rows.jsonl"
    whole = rows.read_bytes()
    lines = whole.splitlines(keepends=True)
    rows.write_bytes(b"".join(lines[:6]) + lines[6][:20])  # the first line says what made it
    again = perfect(small)
    assert benchmark("x", again, "out") == figures
    assert again.asked == [task.id for task in small[5:]] and rows.read_bytes() == whole
    assert Image.open(rows.parent / f"{small[0].id}.png").size == (128, 128)


def test_more_edits_go_on_with_fewer(small):
    editor = perfect(small)
    assert benchmark("x", editor, "out", 3)["all"]["n"] == 3
    assert benchmark("x", editor, "out", 5)["all"]["n"] == 5
    assert editor.asked == [task.id for task in small[:5]]


def test_rows_of_another_editor_or_judge_and_foreign_folders_are_refused(small, tmp_path, monkeypatch):
    benchmark("x", unedited(), "out", 2)
    with pytest.raises(ValueError, match="was begun with other editor; delete it, or move it away"):
        benchmark("x", unedited("another"), "out", 2)
    monkeypatch.setattr(bench, "name_of_model", lambda path: "judge 2")
    with pytest.raises(ValueError, match="was begun with other judge"):
        benchmark("x", unedited(), "out", 2)
    (tmp_path / "out" / "mine" / "miniature").mkdir(parents=True)
    (tmp_path / "out" / "mine" / "miniature" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files; choose another --name or --out"):
        benchmark("mine", unedited(), "out", 2)


def killed_benchmark():
    """For `kills.survive`: a benchmark with real pictures, and a judge that needs no weights."""
    chosen = few()
    measures.judge = lambda images: [NOISE for _ in images]
    bench.tasks = lambda: chosen
    bench.FROZEN = checksum(chosen)
    editor = unedited()
    editor.at_once = 1
    return lambda folder: benchmark("x", editor, folder)


def test_kills_lose_and_repeat_nothing(tmp_path):
    survive(tmp_path, killed_benchmark, kills=6)
    whole, killed = results(tmp_path)
    rows = (whole / "x" / "miniature" / "rows.jsonl").read_bytes()
    assert rows.count(b"\n") == 15
    for folder in killed:
        assert (folder / "x" / "miniature" / "rows.jsonl").read_bytes() == rows


# ------------------------------------------------------------------------------------------------ editors

EDITOR = """
import sys
from PIL import Image

image, instruction, out = sys.argv[1:]
picture = Image.open(image)
print("editing", instruction)
if instruction == INSTRUCTIONS[1]:
    sys.exit("the moon is not full")
if instruction == INSTRUCTIONS[2]:
    picture = picture.resize((64, 32))
if instruction == INSTRUCTIONS[3]:
    open(out, "w").write("no picture")
elif instruction != INSTRUCTIONS[4]:
    picture.save(out)
"""


def program(tmp_path, instructions) -> str:
    """A command that fails in four ways."""
    (tmp_path / "edit.py").write_text(f"INSTRUCTIONS = {instructions!r}\n{EDITOR}")
    return f"{sys.executable} edit.py {{image}} {{instruction}} {{out}}"


def test_a_command_that_fails_now_and_then_is_told_and_counted(small, tmp_path, capsys):
    command = program(tmp_path, [task.edit.instruction for task in small])
    assert main(["benchmark", "--command", command, "--name", "prog", "--n", "6"]) == 0
    said = capsys.readouterr()
    assert "4 of 6 edits were not done, and count as 0" in said.out and "| all | 0.00 (" in said.out
    assert "001: not done (the command failed with status 1: the moon is not full)" in said.err
    assert "002: not done (the command answers 64 x 32 for a picture of 128 x 128; let it" in said.err
    assert "003: not done (its answer cannot be read as an image" in said.err
    assert "004: not done (the command wrote no picture)" in said.err
    assert main(["benchmark", "--command", command, "--name", "prog", "--n", "6"]) == 0
    assert "not done (" not in capsys.readouterr().err, "failures are on the disk, too"
    (tmp_path / "edit.py").write_text("another program")
    assert main(["benchmark", "--command", command, "--name", "prog", "--n", "6"]) == 1
    assert "was begun with other files" in capsys.readouterr().err


def test_an_editor_that_never_works_is_not_counted(small, tmp_path):
    broken = Stub(lambda question: NotDone("there is no weather today"))
    with pytest.raises(
        ValueError, match="the first 5 edits all failed, in the end since there is no weather"
    ):
        benchmark("x", broken, "out")
    assert (tmp_path / "out" / "x" / "miniature" / "rows.jsonl").read_text().count("\n") == 1
    broken.edit = lambda question: question.image
    assert benchmark("x", broken, "out")["all"]["preservation"][0] == 1


def test_a_command_has_no_shell_and_a_time_limit(tmp_path):
    question = Question("0", Image.new("RGB", (8, 8), "red"), "say '{out}; touch pwned' $HOME", 0)
    script = (
        "import sys; from PIL import Image; Image.open(sys.argv[1]).save(sys.argv[3]); print(sys.argv[2])"
    )
    (tmp_path / "edit.py").write_text(script + f"; assert sys.argv[2] == {question.instruction!r}")
    call = f"{sys.executable} {tmp_path}/edit.py {{image}} {{instruction}} {{out}}"
    [answer] = Command(call).answer([question])
    assert answer.getpixel((0, 0)) == (255, 0, 0)
    (tmp_path / "edit.py").write_text("import time; time.sleep(60)")
    [answer] = Command(call, timeout=0.2).answer([question])
    assert answer == NotDone("the command took longer than 0.2 s")


@pytest.mark.parametrize(
    "command, sentence",
    [
        ("cp {image} {out}", "the command has no {instruction}; write it like"),
        ("no-such-program {image} {instruction} {out}", "there is no program no-such-program"),
        ("cp '{image} {instruction} {out}", "the command cannot be read (No closing quotation)"),
    ],
)
def test_commands_that_cannot_be_are_refused(command, sentence):
    with pytest.raises(ValueError) as error:
        open_editor(MINI, [], command=command)
    assert sentence in str(error.value)


def test_answers_that_are_missing_broken_or_of_another_shape(tmp_path):
    ids = ["000", "001", "002"]
    picture = Image.new("RGB", (16, 16))
    picture.save(tmp_path / "000.png")
    with pytest.raises(ValueError, match="lacks 2 of 3 pictures, such as 001.png; put them there, or give"):
        Answers(tmp_path, ids)
    answers = Answers(tmp_path, ids, allow_missing=True)
    asked = [Question(name, picture, "x", 0) for name in ids]
    assert answers.answer(asked)[1:] == [NotDone("there is no picture")] * 2
    before = answers.identity
    picture.resize((16, 8)).save(tmp_path / "001.png")
    answers = Answers(tmp_path, ids, allow_missing=True)
    assert answers.identity != before
    with pytest.raises(ValueError, match="001.png is 16 x 8 for a picture of 16 x 16; make it again"):
        answers.answer(asked)
    (tmp_path / "001.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="cannot be read as an image"):
        answers.answer(asked)
    picture.resize((64, 64)).save(tmp_path / "001.png")
    assert answers.answer(asked)[1].size == (64, 64), "a larger answer of the same shape is none the worse"


@pytest.fixture
def tiny(tiny_profile, monkeypatch):
    """A profile of tiny models, "tiny" for the command."""
    monkeypatch.setitem(PROFILES, "tiny", tiny_profile)
    return tiny_profile


def red(size=(32, 32)) -> Question:
    return Question("000", Image.new("RGB", size, "red"), "make it blue", 3)


def test_our_editor_and_its_own_pipeline(tiny):
    ours = open_editor(tiny, [], model=tiny.editor, options={"guidance_scale": 3})
    assert ours.identity["options"] == {
        "guidance_scale": 3,
        "image_guidance_scale": tiny.image_guidance_scale,
        "num_inference_steps": 2,
    }
    one, other = ours.answer([red(), red()])
    assert one.size == (32, 32) and one.tobytes() == other.tobytes()
    assert ours.answer([red((48, 32)), red()])[0].size == (40, 24), "the whole picture, in its own shape"

    stock = {"pipeline": "StableDiffusionInstructPix2PixPipeline", "num_inference_steps": 2}
    theirs = open_editor(tiny, [], model=tiny.editor, options=stock)
    assert theirs.identity["call"] == "StableDiffusionInstructPix2PixPipeline"
    [first], [second] = theirs.answer([red()]), theirs.answer([red()])
    assert first.size == (32, 32) and first.tobytes() == second.tobytes()


def test_a_painter_edits_as_image_to_image(tiny):
    with pytest.raises(ValueError, match="StableDiffusionPipeline does not take a picture and a sentence"):
        open_editor(tiny, [], model=tiny.text_to_image)
    sdedit = {"pipeline": "StableDiffusionImg2ImgPipeline", "num_inference_steps": 4, "strength": 0.5}
    editor = open_editor(tiny, [], model=tiny.text_to_image, options=sdedit | {"size": 48})
    [picture] = editor.answer([red()])
    assert picture.size == (48, 48)
    with pytest.raises(ValueError, match="StableDiffusionImg2ImgPipeline has no option 'strenght'; it knows"):
        open_editor(tiny, [], model=tiny.text_to_image, options=sdedit | {"strenght": 0.5})
    editor = open_editor(tiny, [], model=tiny.text_to_image, options=sdedit | {"strength": 7})
    with pytest.raises(ValueError, match="cannot be asked so .* check --options"):
        editor.answer([red()])


def test_a_pipeline_that_answers_in_another_shape(tiny):
    editor = open_editor(tiny, [], model=tiny.editor, options={"pipeline": editors.OURS})
    wide = Image.new("RGB", (64, 32))
    editor.pipe = lambda **asked: type("Output", (), {"images": [wide]})
    with pytest.raises(ValueError, match="answers 64 x 32 for a picture of 32 x 32; give --options"):
        editor.answer([red()])


def test_options_and_editors_that_there_are_not(tiny, tmp_path):
    assert read_options(["a=1", "b=x=y", "c=true"]) == {"a": 1, "b": "x=y", "c": True}
    with pytest.raises(ValueError, match="'fast' is no option; write NAME=VALUE"):
        read_options(["fast"])
    with pytest.raises(ValueError, match="our editor has no option 'scale'"):
        open_editor(tiny, [], model=tiny.editor, options={"scale": 1})
    loud = open_editor(tiny, [], model=tiny.editor, options={"guidance_scale": "loud"})
    with pytest.raises(ValueError, match="cannot be asked so"):
        loud.answer([red()])
    with pytest.raises(ValueError, match="there is no profile or folder 'nothing'"):
        open_editor(tiny, [], model="nothing")
    with pytest.raises(ValueError, match="it has no model_index.json"):
        open_editor(tiny, [], model=str(tmp_path))


def test_a_tiny_editor_is_measured_by_the_command(tiny, small, capsys):
    options = ["--options", "num_inference_steps=1", "image_guidance_scale=1"]
    assert main(["benchmark", "--model", tiny.editor, "--n", "3", "--device", "cpu", *options]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0] == "| Kind of edit | Success | Preservation | Right | Edits |"
    assert len(table) == 2 + 1 + 3


# -------------------------------------------------------------------------------------- the leaderboard


@pytest.fixture
def board(small, monkeypatch, tmp_path):
    """A leaderboard and its page in a folder of their own."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("<!-- figures:leaders -->not measured yet<!-- /figures -->\n")
    page = tmp_path / "docs" / "results.md"
    page.write_text("<!-- figures:leaderboard -->not measured yet<!-- /figures -->\n")
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    monkeypatch.setattr(bench, "BOARD", tmp_path / "leaderboard.jsonl")
    return page


def test_the_leaderboard_is_sorted_and_keeps_one_row_a_name(small, board, tmp_path):
    benchmark("same | as before", unedited(), "out", write=True)
    benchmark("best", perfect(small), "out", write=True)
    lines = [line for line in board.read_text().splitlines() if line.startswith("|")]
    assert lines[2].startswith("| best | 1.00 (") and lines[3].startswith("| same \\| as before | 0.00 (")
    assert "| best | 1.00 | 1.00 |" in (tmp_path / "README.md").read_text()
    shutil.rmtree(tmp_path / "out" / "best")
    benchmark("best", unedited("worse now"), "out", write=True)
    rows = [json.loads(line) for line in (tmp_path / "leaderboard.jsonl").read_text().splitlines()]
    assert {row["name"]: row["editor"] for row in rows} == {
        "best": "worse now",
        "same | as before": "unedited",
    }


def test_the_leaderboard_compares_only_what_can_be_compared(small, board, monkeypatch, capsys):
    benchmark("same", unedited(), "out", write=True)
    with pytest.raises(ValueError, match="is of the whole set; leave out --n"):
        benchmark("same", unedited(), "out", 3, write=True)
    monkeypatch.setattr(bench, "name_of_model", lambda path: "judge 2")
    editor = unedited("new")
    with pytest.raises(ValueError, match="same on the leaderboard was measured by another judge"):
        benchmark("new", editor, "out", write=True)
    assert not editor.asked, "refused before any work"
    assert main(["benchmark", "--model", "mini", "--write"]) == 1
    assert "--name NAME" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------- photographs


TURNS = {"139": 3, "30": 1, "7": 2}  # photographs and their turns


def photograph(session: str, number: int) -> Image.Image:
    """Picture `number` of a session: 0 is the input, k the output of turn k."""
    rng = np.random.default_rng([int(session), number])
    return Image.fromarray(rng.integers(0, 255, (4, 6, 3), np.uint8)).resize(
        (48, 32), Image.Resampling.BICUBIC
    )


def write_folder(folder, captions="local_descriptions.json", index="edit_sessions.json"):
    """The layout of MagicBrush's dev and test sets."""
    sessions, described = {}, {}
    for session, n in TURNS.items():
        place = folder / "images" / session
        place.mkdir(parents=True)
        names = [f"{session}-input.png"] + [f"{session}-output{k}.png" for k in range(1, n + 1)]
        for k, name in enumerate(names):
            photograph(session, k).save(place / name)
            Image.new("RGBA", (48, 32)).save(place / f"{session}-mask{k}.png")
        described[session] = {name: f"a red cat, {name}" for name in names}
        sessions[session] = []
        for k in range(1, n + 1):
            turn = {"input": names[k - 1], "mask": f"{session}-mask{k}.png", "output": names[k]}
            sessions[session].append(turn | {"instruction": f"turn {k} of {session}"})
    content = sessions
    if index == "edit_turns.json":
        content = [turn for turns in sessions.values() for turn in turns]
    (folder / index).write_text(json.dumps(content))
    if captions:
        (folder / captions).write_text(json.dumps(described))
    return folder


def cell(image: Image.Image) -> dict:
    return encode_image(torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1))


def write_shards(folder, columns=()):
    """The hub's layout, in two files, rows in disorder."""
    (folder / "data").mkdir(parents=True)
    rows = []
    for session, n in TURNS.items():
        for k in range(n, 0, -1):
            row = {
                "img_id": session,
                "turn_index": k,
                "source_img": cell(photograph(session, k - 1)),
                "mask_img": cell(photograph(session, k - 1)),
                "instruction": f"turn {k} of {session}",
                "target_img": cell(photograph(session, k)),
            }
            rows.append(row | {name: "a red cat" for name in columns})
    for number, part in enumerate((rows[:5], rows[5:])):
        path = folder / "data" / f"dev-0000{number}-of-00002.parquet"
        pq.write_table(pa.Table.from_pylist(part), path, row_group_size=3)
    shutil.copy(path, folder / "data" / "train-00000-of-00001.parquet")
    return folder


def target_of(question: Question) -> Image.Image:
    """What people made: the picture of the id's turn."""
    session, _, rest = question.id.partition("/")
    return photograph(session, int(rest.split("_")[-1]))


def test_both_layouts_say_the_same(tmp_path):
    of_sessions, captions = read_magicbrush(write_folder(tmp_path / "a"))
    of_turns, none = read_magicbrush(write_folder(tmp_path / "b", captions=None, index="edit_turns.json"))
    of_shards, column = read_magicbrush(write_shards(tmp_path / "c", ["target_local_caption"]))
    assert (captions, none, column) == ("local_descriptions.json", "", "target_local_caption")
    assert of_sessions[0][1].caption == "a red cat, 139-output2.png" and of_turns[0][1].caption is None
    for sessions in (of_sessions, of_turns, of_shards):
        assert {turns[0].session: len(turns) for turns in sessions} == TURNS
        for turns in sessions:
            assert [turn.instruction for turn in turns] == [
                f"turn {k} of {turns[0].session}" for k in range(1, len(turns) + 1)
            ]
    third = [turn for turns in of_shards for turn in turns if (turn.session, turn.number) == ("139", 3)][0]
    apart = np.asarray(third.target(), int) - np.asarray(photograph("139", 3), int)
    assert third.source().size == (48, 32) and np.abs(apart).mean() < 12


def test_single_turn_and_multi_turn_are_the_authors(tmp_path, capsys, tiny):
    folder = write_folder(tmp_path / "set")
    editor = Stub(target_of)
    figures = benchmark_photos("x", editor, folder, tiny, out=tmp_path / "out")
    assert editor.asked == editor.ids == [
        "139/139_1", "139/139_inde_2", "139/139_iter_2", "139/139_inde_3", "139/139_iter_3",
        "30/30_1", "7/7_1", "7/7_inde_2", "7/7_iter_2",
    ]  # fmt: skip
    assert figures["single"]["n"] == 6 and figures["multi"]["n"] == 3
    for of_setting in figures.values():
        assert of_setting["l1"][0] == of_setting["l2"][0] == 0
        assert of_setting["clip_i"][0] == pytest.approx(1, abs=1e-4)
        assert set(of_setting) == {"n", "l1", "l2", "clip_i", "clip_t"}
    said = capsys.readouterr().out
    assert "| Setting | L1 (down) | L2 (down) | CLIP-I (up) | CLIP-T (up) | Edits |" in said
    assert "No DINO: facebook/dino-vits16 is not on this machine" in said
    assert "CLIP-T is by local_descriptions.json." in said and "give --profile sd15" in said
    assert (tmp_path / "out" / "x" / "magicbrush" / "139" / "139_iter_3.png").is_file()


def test_multi_turn_edits_the_editors_own_answers_even_after_a_stop(tmp_path, tiny):
    def darker(question):
        return question.image.point(lambda value: value // 2)

    folder = write_folder(tmp_path / "set", captions=None)
    out = tmp_path / "out" / "x" / "magicbrush"
    figures = benchmark_photos("x", Stub(darker), folder, tiny, turns="multi", out=tmp_path / "out")
    start = np.asarray(photograph("139", 0))
    with Image.open(out / "139" / "139_iter_3.png") as last:
        assert np.array_equal(np.asarray(last), start // 2 // 2 // 2)
    assert set(figures) == {"multi"} and "clip_t" not in figures["multi"]

    lines = (out / "rows.jsonl").read_bytes().splitlines(keepends=True)
    (out / "rows.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:9])
    again = Stub(darker)
    assert benchmark_photos("x", again, folder, tiny, turns="multi", out=tmp_path / "out") == figures
    assert again.asked[0] == "139/139_iter_3" and len(again.asked) == 4
    single = benchmark_photos("y", Stub(darker), folder, tiny, turns="single", out=tmp_path / "out")
    assert set(single) == {"single"} and single["single"]["n"] == 6
    index = folder / "edit_sessions.json"
    index.write_text(index.read_text().replace("turn 1 of 7", "make it night"))
    with pytest.raises(ValueError, match="begun with other photos"):
        benchmark_photos("x", again, folder, tiny, turns="multi", out=tmp_path / "out", n=1)


def test_a_failed_turn_counts_as_the_picture_before_it(tmp_path, capsys, tiny):
    def sometimes(question):
        return NotDone("no paint") if question.id == "139/139_iter_2" else target_of(question)

    folder = write_folder(tmp_path / "set")
    benchmark_photos("x", Stub(sometimes), folder, tiny, out=tmp_path / "out")
    with Image.open(tmp_path / "out" / "x" / "magicbrush" / "139" / "139_iter_2.png") as kept:
        assert np.array_equal(np.asarray(kept), np.asarray(photograph("139", 1)))
    said = capsys.readouterr()
    assert "1 of 9 edits were not done, and count as the picture before them." in said.out
    assert "139/139_iter_2: not done (no paint)" in said.err


def test_dino_is_measured_where_it_is(tmp_path, tiny):
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32
    )
    torch.manual_seed(0)
    ViTModel(config).save_pretrained(tmp_path / "dino")
    folder = write_shards(tmp_path / "set", ["target_global_caption"])
    found = benchmark_photos(
        "x", Stub(target_of), folder, tiny, turns="single", out=tmp_path / "out", dino=str(tmp_path / "dino")
    )
    assert 0.9 < found["single"]["dino"][0] <= 1.0001 and "clip_t" in found["single"]
    model, _ = find_dino(str(tmp_path / "dino"), torch.device("cpu"))
    assert model(photograph("7", 0)) @ model(photograph("7", 0)) == pytest.approx(1, abs=1e-4)
    with pytest.raises(ValueError, match="is no model of transformers on this machine"):
        find_dino(str(tmp_path / "nothing"), torch.device("cpu"))


def test_photographs_by_the_command_with_a_model_and_with_answers(tiny, tmp_path, monkeypatch, capsys):
    folder = write_folder(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    few = ["--photos", str(folder), "--n", "1", "--profile", "tiny"]
    model = ["--model", tiny.editor, "--options", "num_inference_steps=1", "--device", "cpu"]
    assert main(["benchmark", *model, "--name", "tiny", *few]) == 0
    first = capsys.readouterr().out
    assert "single-turn" in first and "multi-turn" in first
    assert main(["benchmark", "--answers", "out/benchmark/tiny/magicbrush", "--name", "again", *few]) == 0
    assert capsys.readouterr().out == first
    assert main(["benchmark", "--answers", "set", *few]) == 1
    assert "set lacks 5 of 5 pictures, such as 139/139_1.png" in capsys.readouterr().err
    assert main(["benchmark", *model, "--name", "tiny", "--write", *few]) == 1
    assert "the leaderboard is of the miniature world" in capsys.readouterr().err


def spoil(folder, what: str) -> None:
    """Break a set in one way."""
    index = folder / "edit_sessions.json"
    if what == "picture":
        (folder / "images" / "7" / "7-output1.png").unlink()
    elif what == "json":
        index.write_text("{")
    elif what == "empty":
        index.write_text("{}")
    elif what == "turn":
        index.write_text('{"7": [{"input": "7-input.png"}]}')
    elif what == "path":
        turn = {"input": "../../x.png", "output": "7-output1.png", "instruction": "x"}
        index.write_text(json.dumps({"7": [turn]}))
    elif what == "silent":
        index.write_text(index.read_text().replace("turn 1 of 7", " "))
    elif what == "nothing":
        shutil.rmtree(folder)
        folder.mkdir()


@pytest.mark.parametrize(
    "what, sentence",
    [
        ("picture", "lacks 1 pictures, such as .*7-output1.png; unpack the whole set there"),
        ("json", "edit_sessions.json is broken, no JSON"),
        ("empty", "has no edits; give the folder of a whole set"),
        ("turn", 'has a turn without "input", "output" or "instruction"'),
        ("path", "names the picture '../../x.png'; it must be a file of images/ID"),
        ("silent", "has no instruction for turn 1 of 7"),
        ("nothing", "is no set of MagicBrush: it has neither"),
    ],
)
def test_a_broken_set_is_one_sentence(tmp_path, what, sentence):
    folder = write_folder(tmp_path / "set")
    spoil(folder, what)
    with pytest.raises(ValueError, match=sentence):
        read_magicbrush(folder)


def test_broken_shards_are_one_sentence(tmp_path):
    path = write_shards(tmp_path / "set") / "data" / "dev-00001-of-00002.parquet"
    path.unlink()
    with pytest.raises(ValueError, match=r"has the turns \[2\] of 7; get the whole set"):
        read_magicbrush(tmp_path / "set")
    path.write_bytes(b"PAR1 no more")
    with pytest.raises(ValueError, match="cannot be read as Parquet"):
        read_magicbrush(tmp_path / "set")
    pq.write_table(pa.table({"img_id": ["7"]}), path)
    with pytest.raises(ValueError, match="has no column turn_index, source_img, instruction, target_img"):
        read_magicbrush(tmp_path / "set")
    with pytest.raises(ValueError, match="there is no format 'emu'"):
        benchmark_photos("x", Stub(target_of), tmp_path / "set", MINI, format="emu")
    assert set(photos.FORMATS) == {"magicbrush"}
