"""Triplets as text: files, the authors' format, what is wrong with one, and the hand-written ones."""

import json
import random

import pytest

from ip2p.cli import main
from ip2p.dataset.checks import check
from ip2p.dataset.review import follows, mix, near_duplicates, problems
from ip2p.dataset.triplets import (
    DELIMITER,
    PROMPT_END,
    SEED_TRIPLETS,
    STOP,
    from_completion,
    json_line,
    read_captions,
    read_triplets,
    to_completion,
    to_prompt,
    write_chats,
)
from ip2p.miniworld.retelling import retell
from ip2p.paths import DATA

OPEN = DATA / "triplets" / "open.jsonl"
NIGHT = {"input": "a red cat in a field", "edit": "make it night", "output": "a red cat in a field at night"}
BLUE = {"input": "a red dog on a beach", "edit": "paint the dog blue", "output": "a blue dog on a beach"}


# ---------------------------------------------------------------------------- files and format


def test_format_is_the_authors_and_comes_back():
    prompt, completion = to_prompt(NIGHT["input"]), to_completion(NIGHT)
    assert prompt == "a red cat in a field\n##\n"
    assert completion == "make it night\n%%\na red cat in a field at night\nEND"
    assert from_completion(NIGHT["input"], completion) == NIGHT
    assert from_completion(NIGHT["input"], completion + "\n\nand more") == NIGHT
    few = to_prompt(BLUE["input"], [NIGHT])
    assert few.startswith(prompt + completion) and few.endswith(BLUE["input"] + PROMPT_END)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        STOP,
        "make it night" + STOP,
        f"make it night{DELIMITER}a cat at ni",
        f"{DELIMITER}a cat{STOP}",
        f"make it night{DELIMITER}{STOP}",
        f"one{DELIMITER}two{DELIMITER}three{STOP}",
        f"a\nb{DELIMITER}c{STOP}",
    ],
)
def test_malformed_answers_say_why(answer):
    with pytest.raises(ValueError, match="the "):
        from_completion("a cat", answer)


def test_triplets_come_back_from_disk_and_caption_is_read_as_input(tmp_path):
    path = tmp_path / "t.jsonl"
    french = NIGHT | {"edit": "une nuit d'été"}
    odd = {"caption": "a cat", "edit": "b", "output": "c", "url": "x"}
    with open(path, "w", encoding="utf-8") as file:
        file.write(json_line(french) + json_line(BLUE))
        file.write("\n" + json.dumps(odd) + "\r\n")
    assert read_triplets(path) == [french, BLUE, {"input": "a cat", "edit": "b", "output": "c"}]


@pytest.mark.parametrize(
    "line, what",
    [
        (b'{"input": "a", "edit": "b", "out', "not JSON"),
        (b'["a", "b", "c"]', "list"),
        (b'{"input": ["a"], "edit": "b", "output": "c"}', "'input' is ['a'], not a text"),
        (b'{"input": "a", "edit": "b", "output": null}', "'output' is missing"),
        (b"[" * 100_000, "nested too deep"),
        (json.dumps(NIGHT).encode("utf-16-le"), "UTF-8"),
        (b'{"input": "a", "edit": "b"}', "'output' is missing"),
        (b'{"edit": "b", "output": "c"}', "'input' is missing"),
        (b'{"input": "a", "edit": 3, "output": "c"}', "'edit' is 3"),
        (b'{"input": " ", "edit": "b", "output": "c"}', "' '"),
        (b'{"input": "caf\xe9", "edit": "b", "output": "c"}', "UTF-8"),
    ],
)
def test_wrong_line_is_named(tmp_path, line, what):
    path = tmp_path / "t.jsonl"
    path.write_bytes(json.dumps(NIGHT).encode() + b"\n\n" + line + b"\n" + json.dumps(BLUE).encode())
    with pytest.raises(ValueError, match="t.jsonl, line 3: ") as error:
        read_triplets(path)
    assert what in str(error.value) and "\n" not in str(error.value)


def test_captions_plain_or_json(tmp_path):
    path = tmp_path / "c.txt"
    path.write_text('a  cat \n\n{"caption": "a dog"}\n{"input": "an owl", "edit": "x"}', encoding="utf-8")
    assert read_captions(path) == ["a cat", "a dog", "an owl"]
    for text, what in (("\n \n", "no captions"), ('a cat\n{"text": "a dog"}', "line 2")):
        path.write_text(text)
        with pytest.raises(ValueError, match=what):
            read_captions(path)


@pytest.mark.parametrize(
    "line, what",
    [
        (b"caf\xe9 at night", "it is not UTF-8 text"),
        ("a cat".encode("utf-16"), "it is not UTF-8 text"),
        (b'{"caption": null}', "'caption' is None, not a text"),
        (b'{"input": ["a cat"]}', r"'input' is \['a cat'\], not a text"),
        (b'{"caption": 7}', "'caption' is 7, not a text"),
        (b'{"caption": "a cat"', "it is not JSON"),
        (b'{"caption": ' + b"[" * 100_000, "its brackets are nested too deep"),
    ],
)
def test_a_caption_that_is_none_is_named_by_its_line(tmp_path, line, what):
    path = tmp_path / "c.txt"
    path.write_bytes(b"a dog\n\n" + line + b"\nan owl\n")
    with pytest.raises(ValueError, match="c.txt, line 3: " + what) as error:
        read_captions(path)
    assert len(str(error.value)) < 300 + len(str(path)) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text, what",
    [
        ('["a cat", "a dog"]', "is a JSON array"),
        ('[\n  {"caption": "a cat"}\n]', "is a JSON array"),
        ("id,caption\n1,a cat\n", "is a table"),
        ("caption\na cat\n", "is a table"),
        ("image\tcaption\nx.png\ta cat\n", "is a table"),
        ('1,"a cat, red"\n2,"a dog"\n', "is a table"),
    ],
)
def test_captions_in_a_table_or_an_array_are_refused(tmp_path, text, what):
    (tmp_path / "c.txt").write_text(text)
    with pytest.raises(ValueError, match=what + ".*one caption a line"):
        read_captions(tmp_path / "c.txt")


def test_captions_that_only_look_like_a_table_are_read(tmp_path):
    captions = [
        "3,000 birds, above a lake",
        "[sketch] a cat, a dog",
        'a sign, "stop"',
        "a caption contest, 1950",
    ]
    for caption in captions:
        (tmp_path / "c.txt").write_text(caption)
        assert read_captions(tmp_path / "c.txt") == [caption]


def test_half_of_a_surrogate_pair_is_replaced_and_a_whole_one_is_read(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"input": "a \\ud83d", "edit": "\\ud83d\\ude00", "output": "b"}')
    assert read_triplets(tmp_path / "t.jsonl") == [{"input": "a \ufffd", "edit": "\U0001f600", "output": "b"}]
    assert read_captions(tmp_path / "t.jsonl") == ["a \ufffd"]


# ---------------------------------------------------------------------------- which triplets are good


def test_hand_written_triplets_are_all_good():
    assert [(check(t), t) for t in read_triplets(SEED_TRIPLETS) if check(t)] == []


@pytest.mark.parametrize(
    "edit, output, reason",
    [
        ("make it night", "a red cat with a hat in a meadow at night", None),
        ("make it night", "a red cat with a hat in a meadow", "no-op"),
        ("give it a cap", "in a field, a red kitten wearing a hat.", "no-op"),
        ("make it a dragon", "a red dragon with a hat in a meadow", "out-of-world"),
        ("move it", "a red cat with a hat", "forgotten"),
        ("make it blue", "a green cat with a hat in a meadow", "unsaid"),
        ("swap the cat for a dog", "a blue cat with a hat in a meadow", "unsaid"),
        ("make it night", "a blue cat with a hat in a meadow at night", "inconsistent"),
        ("make it a blue cat at night", "a blue cat with a hat in a meadow at night", None),
        ("let it snow", "a red cat with a hat on the beach", "unsaid"),
        ("let it snow", "a red cat with a hat on the beach in the snow", "inconsistent"),
        ("make it night", "a cat with a hat in a meadow at night", "forgotten"),
        ("a dog too", "a red cat with a hat and a dog in a meadow", None),
        ("a blue dog too", "a red cat with a hat and a dog in a meadow", "inconsistent"),
        ("a dog too", "a red dog with a hat in a meadow", "inconsistent"),
        ("take the red cat's hat off", "a red cat in a meadow", None),
        ("make the cat bigger", "a big red cat with a hat in a meadow", None),
        ("trade it for a computer", "a pencil sketch of a red cat with a hat in a meadow", "unsaid"),
        ("revise the cat", "a red cat with a hat on the right in a meadow", "unsaid"),
        ("two of them", "two red cats with hats in a meadow", None),
        ("three please", "two red cats with hats in a meadow", "unsaid"),
        ("I'd like the hat", "a red cat in a meadow", "unsaid"),
        ("no hat", "a red cat in a meadow", None),
        ("make the cat smaller", "a big red cat with a hat in a meadow", "unsaid"),
        ("no snow, make it rain", "a red cat with a hat in a snowy meadow", "inconsistent"),
        (
            "a red cat with a hat in a meadow at night",
            "a red cat with a hat in a meadow at night",
            "malformed",
        ),
        ("...", "a red cat with a hat in a meadow at night", "malformed"),
    ],
)
def test_check(edit, output, reason):
    assert check({"input": "a red cat with a hat in a meadow", "edit": edit, "output": output}) == reason


@pytest.mark.parametrize(
    "before, edit, after, reason",
    [
        ("قطة حمراء", "اجعلها ليلا", "قطة حمراء في الليل", None),
        ("一只红猫", "变成夜晚", "夜晚的一只红猫", None),
        ("एक काला किला", "इसे नीला करो", "एक काला कीला", None),  # only the sign of a vowel differs
        ("красный кот", "сделай ночь", "Красный кот!", "no-op"),
        ("a café at noon", "make it night", "a cafe\u0301 at noon", "no-op"),
        ("a red cat", "make it night", "a\xa0red\u2003cat", "no-op"),
        ("a red cat", "make it night", "ａ ｒｅｄ ｃａｔ", "no-op"),
        ("a red cat", "make it night", "A RED CAT.", "no-op"),
        ("straße", "make it night", "STRASSE", "no-op"),
        ("a red cat", "make it night", "...", "malformed"),
        ("a red cat", "🌙", "a red cat at night", "malformed"),
        ("a red cat", "make it night " * 20, "a red cat at night", "malformed"),
        ("a red cat", "make it night", "a red cat at night" + " and day" * 200, "malformed"),
        ("a red cat", "A red cat!", "a red cat at night", "malformed"),
    ],
)
def test_words_are_words_in_any_script(before, edit, after, reason):
    assert check({"input": before, "edit": edit, "output": after}, world=False) == reason


NO_TEXT = {
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03KT\x04\x00",
    "a picture": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
    "Parquet": b"PAR1\x15\x00\x15\x10",
    "zip": b"PK\x03\x04\x14\x00\x00\x00\x08\x00",
    "pickle": b"\x80\x04\x95\x0e\x00\x00\x00",
    "UTF-16, big end first": "a cat".encode("utf-16-be"),
    "UTF-32": "a cat".encode("utf-32"),
    "Latin-1 later on": b"a cat\nan owl\ncaf\xe9\n",
}


@pytest.mark.parametrize("data", NO_TEXT.values(), ids=NO_TEXT)
@pytest.mark.parametrize("read", [read_captions, read_triplets])
def test_a_file_that_is_no_text_is_refused_by_its_line(tmp_path, data, read):
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(ValueError, match="file, line [123]: it is not ") as error:
        read(tmp_path / "file")
    assert "\n" not in str(error.value)


ODD_CAPTIONS = {
    "a mark of UTF-8": "\ufeffa cat\n",
    "line ends of Windows": "a cat\r\n\r\n",
    "line ends of old": "a cat\r\r",
    "tabs and blanks": " \ta\u2003cat\xa0 \n",
    "a colour of the terminal": "a \x1b\x07cat",
    "from right to left": "a \u202ecat",
    "a key twice": '{"caption": "a dog", "caption": "a cat"}',
    "more keys": '{"url": null, "caption": "a cat", "n": NaN}',
    "JSON with a mark": '\ufeff{"caption": "a cat"}',
}


@pytest.mark.parametrize("text", ODD_CAPTIONS.values(), ids=ODD_CAPTIONS)
def test_a_caption_is_read_from_whichever_editor_it_comes(tmp_path, text):
    (tmp_path / "c.txt").write_bytes(text.encode())
    assert read_captions(tmp_path / "c.txt") == ["a cat"]


@pytest.mark.parametrize("text", ['{"caption": ' + "9" * 5000 + "}", '{"caption": true}', '{"caption": {}}'])
def test_a_caption_that_is_no_text_is_refused_by_its_line(tmp_path, text):
    (tmp_path / "c.txt").write_text("a cat\n" + text)
    with pytest.raises(ValueError, match="c.txt, line 2: ") as error:
        read_captions(tmp_path / "c.txt")
    assert len(str(error.value)) < 300 + len(str(tmp_path))


def test_check_outside_of_the_miniature_world():
    girl = {"input": "photograph of a girl riding a horse", "edit": "have her ride a dragon"}
    assert check(girl | {"output": "photograph of a girl riding a dragon"}, world=False) is None
    assert check(girl | {"output": "Photograph of a girl riding a horse."}, world=False) == "no-op"


def test_a_retold_lesson_is_the_same_instruction_about_another_scene():
    lessons, rng = read_triplets(SEED_TRIPLETS), random.Random(0)
    told = [retell(t, rng) for t in lessons]
    assert [t["edit"] for t in told] == [t["edit"] for t in lessons]
    assert [check(t) for t in told] == [check(t) for t in lessons]
    assert sum(a != b for a, b in zip(told, lessons, strict=True)) > 0.7 * len(lessons)
    longer = [len(b["input"].split()) - len(a["input"].split()) for a, b in zip(lessons, told, strict=True)]
    assert min(longer) < 0 < max(longer), "captions of every length"
    girl = {"input": "a girl on a horse", "edit": "have her ride a dragon", "output": "a girl on a dragon"}
    assert retell(girl, rng) == girl, "another world's lesson stays as it is"


# ---------------------------------------------------------------------------- open-domain triplets


def test_the_open_triplets_are_fit_to_learn_from():
    """700 as the authors', at least 12 kinds, none rare; no duplicate, no no-op, every edited caption
    follows."""
    kinds = mix(OPEN)
    assert kinds.total() == 700 and len(kinds) >= 12 and min(kinds.values()) >= 30
    assert problems(OPEN) == []


def test_the_open_captions_are_2000_and_no_lesson():
    captions, lessons = read_captions(DATA / "captions" / "open.txt"), read_triplets(OPEN)
    assert len(captions) == len(set(map(str.casefold, captions))) == 2000
    assert near_duplicates([t["input"] for t in lessons] + captions) == []


@pytest.mark.parametrize(
    "caption, edit, output, good",
    [
        (
            "photograph of a girl riding a horse",
            "have her ride a dragon",
            "photograph of a girl riding a dragon",
            True,
        ),
        ("a harbour at dusk", "make it winter", "a harbour at dusk in winter", True),
        ("a man with an umbrella on a bridge", "remove the umbrella", "a man on a bridge", True),
        ("a harbour at dusk", "make it winter", "a harbour at dusk in summer", False),
        ("a harbour at dusk", "remove the lighthouse", "a harbour", False),
        ("a harbour at dusk with many boats", "make it winter", "winter", False),
    ],
)
def test_follows(caption, edit, output, good):
    assert follows({"input": caption, "edit": edit, "output": output}) == good


def test_the_checker_names_what_is_wrong(tmp_path, capsys):
    bad = [
        {"input": "a man with an umbrella on a bridge", "edit": "snow please", "output": "a man on a bridge"},
        {
            "input": "a man with his umbrella on the bridge",
            "edit": "Snow, please!",
            "output": "the same in snow",
        },
        {"input": "a harbour at dusk", "edit": "a nicer one", "output": "A harbour at dusk."},
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(t) + "\n" for t in [*bad, NIGHT]))
    assert main(["triplets", "check", str(tmp_path / "t.jsonl"), "--chat", str(tmp_path / "chat.jsonl")]) == 1
    printed = capsys.readouterr().out
    for sentence in (
        "line 1: the edited caption does not follow",
        "line 3: no-op",
        "'Snow, please!' stands in line 1",
        "lines 1 and 2: near-duplicate",
    ):
        assert sentence in printed
    assert "line 4" not in printed
    chat = json.loads((tmp_path / "chat.jsonl").read_text().splitlines()[-1])["messages"]
    assert [turn["role"] for turn in chat] == ["system", "user", "assistant"]
    assert from_completion(NIGHT["input"], chat[-1]["content"]) == NIGHT


def test_the_checker_finds_lies_about_the_miniature_world(tmp_path, capsys):
    """By itself, where all captions are of it; alike captions and common instructions are no fault there."""
    lie = {
        "input": "a white rabbit at night",
        "edit": "daytime, and no rabbit",
        "output": "a white rabbit by day",
    }
    silent = {"input": "a cat at night", "edit": "make it blue", "output": "a blue cat"}
    foreign = {"input": "a red cat", "edit": "make it a dragon", "output": "a red dragon"}
    good = [NIGHT, NIGHT | {"input": "a red dog in a field", "output": "a red dog in a field at night"}, BLUE]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(map(json_line, [*good, lie, silent, foreign, NIGHT])))
    assert main(["triplets", "check", str(path)]) == 1
    printed = capsys.readouterr().out
    assert "7 triplets, 4 kinds of edit: time 4" in printed
    for sentence in (
        "line 4: what shall go is still there: 'a white rabbit at night'",
        "line 5: the edited caption forgets something",
        "line 6: it is not of the miniature world",
        "line 7: 'make it night' stands with the same caption in line 1 already",
    ):
        assert sentence in printed
    assert "line 1:" not in printed and "line 2:" not in printed and "line 3:" not in printed
    path.write_text("".join(map(json_line, good)))
    assert main(["triplets", "check", str(path)]) == 0
    path.write_text("".join(map(json_line, [lie, {"input": "a girl", "edit": "a boy", "output": "a boy"}])))
    assert main(["triplets", "check", str(path)]) == 1
    assert "still there" not in capsys.readouterr().out, "this file is about something else, too"


def test_chats_are_one_a_line(tmp_path):
    write_chats(tmp_path / "c.jsonl", [NIGHT, BLUE])
    assert [
        len(json.loads(line)["messages"]) for line in (tmp_path / "c.jsonl").read_text().splitlines()
    ] == [3, 3]
