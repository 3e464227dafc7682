"""Triplets (input caption, edit instruction, edited caption) as text: their files and the authors' form.

What is wrong with a triplet, or with a whole file of them, is said in `ip2p.dataset.checks`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from ip2p.paths import DATA

SEED_TRIPLETS = DATA / "triplets" / "mini.jsonl"

# Made by stage 1; the bundled pairs are painted from them.
GENERATED_TRIPLETS = DATA / "triplets" / "generated.jsonl"

FIELDS = ("input", "edit", "output")

# ---------------------------------------------------------------------------- files


# Nobody sees them, but a terminal obeys, and a tokenizer reads them: control characters, other line ends and
# marks that turn the direction of what follows.
INVISIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """A text that can be written as UTF-8, and shown. JSON may hold half of a surrogate pair ("\\ud83d"),
    which cannot."""
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return INVISIBLE.sub(" ", whole)


def decoded(line: bytes) -> str:
    """A line of a file. Raises ValueError if it is not UTF-8."""
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    if "\0" in text:  # UTF-16 without its mark
        raise ValueError("it is not UTF-8 text")
    return text


def json_object(text: str) -> dict:
    """A line of JSON that must be an object. Raises ValueError that says what is wrong with it."""
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON ({error.msg} at column {error.colno})") from None
    except RecursionError:
        raise ValueError("its brackets are nested too deep") from None
    if not isinstance(row, dict):
        raise ValueError(f"it is a {type(row).__name__}, not an object")
    return row


def numbered_lines(data: bytes, path: str | Path) -> Iterator[tuple[int, str]]:
    """(number from 1, text) of the lines that are not blank of a file `path`. Raises ValueError that names
    the file and the line if one is not UTF-8."""
    for number, line in enumerate(data.splitlines(), 1):
        try:
            text = decoded(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        if text.strip():
            yield number, text


def json_rows(path: str | Path) -> Iterator[tuple[int, dict]]:
    """(number of the line, object) of a file of JSON lines. Raises ValueError that names the file and the
    line."""
    for number, text in numbered_lines(Path(path).read_bytes(), path):
        try:
            yield number, json_object(text)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None


def one_triplet(line: str) -> dict:
    """One JSON line as a triplet. Raises ValueError that says what is wrong with it."""
    row = json_object(line)
    row = {"input": row.get("caption"), **row}  # the authors' scripts disagree on the name: both are read
    for name in FIELDS:
        value = row.get(name)
        if value is None:
            raise ValueError(f"{name!r} is missing; a triplet has input, edit and output")
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{name!r} is {shortened(value)}, not a text")
    return {name: clean(row[name]) for name in FIELDS}


def shortened(value: object) -> str:
    """A value as it is shown in a sentence."""
    text = clean(repr(value))
    return text if len(text) <= 80 else text[:80] + "..."


def read_triplets(path: str | Path) -> list[dict]:
    """The triplets of a file of JSON lines, as dicts of input, edit, output (`caption` is read as `input`).

    Raises ValueError that names the file and the line if one is wrong. Blank lines are skipped.
    """
    return triplets_of(Path(path).read_bytes(), path)


def triplets_of(data: bytes, path: str | Path) -> list[dict]:
    """`read_triplets` of the bytes of a file `path`."""
    triplets = []
    for number, line in numbered_lines(data, path):
        try:
            triplets.append(one_triplet(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    return triplets


def json_line(triplet: dict) -> str:
    return json.dumps({name: triplet[name] for name in FIELDS}, ensure_ascii=False) + "\n"


# as tables of captions have them
COLUMNS = {"caption", "captions", "text", "prompt", "input", "edit", "output"}


def refuse_table(path: str | Path, first_line: str) -> None:
    """Raises ValueError if captions come as a JSON array, or as a table in CSV."""
    start = first_line.strip()
    if re.match(r"\[\s*($|[\[{\"])", start):
        raise ValueError(f"{path} is a JSON array; write one caption a line, plain or as JSON with `caption`")
    columns = {column.strip(' "').lower() for column in re.split(r"[,;\t]", start)}
    has_header = bool(columns & COLUMNS) and (len(columns) > 1 or start.lower().strip('"') == "caption")
    has_quotes = bool(re.match(r'\d+[,;\t]"|"[^"]*"[,;\t]', start))
    if has_header or has_quotes or Path(path).suffix.lower() in (".csv", ".tsv"):
        raise ValueError(
            f"{path} is a table (CSV); write one caption a line, plain or as JSON with `caption`"
        )


def one_caption(line: str) -> str:
    """The caption of a line, plain or JSON with `caption` or `input`. Raises ValueError if it has none."""
    if not line.lstrip().startswith("{"):
        return " ".join(clean(line).split())
    row = json_object(line)
    name = "input" if "input" in row else "caption"
    if name not in row:
        raise ValueError("it is not JSON with a caption")
    if not isinstance(row[name], str):
        raise ValueError(f"{name!r} is {shortened(row[name])}, not a text")
    return " ".join(clean(row[name]).split())


def read_captions(path: str | Path) -> list[str]:
    """Captions, one a line, plain or JSON with `caption` or `input`.

    Raises ValueError if there is none, if the file is not UTF-8, or if it is a table or a JSON array.
    """
    captions = []
    for number, line in numbered_lines(Path(path).read_bytes(), path):
        if not captions:
            refuse_table(path, line)
        try:
            captions.append(one_caption(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    captions = [caption for caption in captions if caption]
    if not captions:
        raise ValueError(f"{path} holds no captions; write one a line")
    return captions


# ---------------------------------------------------------------------------- the authors' text format
PROMPT_END = "\n##\n"  # caption + PROMPT_END -> instruction + DELIMITER + edited caption + STOP

DELIMITER = "\n%%\n"

STOP = "\nEND"


def to_prompt(caption: str, examples: Iterable[dict] = ()) -> str:
    """The text to be continued. `examples` (triplets) come first if the model was not fine-tuned."""
    shown = [caption_and_edit(triplet) + "\n\n" for triplet in examples]
    return "".join(shown) + caption + PROMPT_END


def to_completion(triplet: dict) -> str:
    """What the model has to write after the prompt."""
    return triplet["edit"] + DELIMITER + triplet["output"] + STOP


def caption_and_edit(triplet: dict) -> str:
    """A whole triplet in the authors' format."""
    return triplet["input"] + PROMPT_END + to_completion(triplet)


def from_completion(caption: str, text: str) -> dict:
    """The triplet that an answer holds. Raises ValueError that says why it holds none."""
    body, stop, _ = text.partition(STOP)
    if not stop:
        raise ValueError("the answer breaks off before END")
    parts = [part.strip() for part in body.split(DELIMITER)]
    if len(parts) != 2 or not all(parts):
        raise ValueError("the answer is not an instruction, %%, and a caption")
    if "\n" in "".join(parts) or "##" in body:
        raise ValueError("the instruction or the caption is more than one line")
    return {"input": caption, "edit": parts[0], "output": parts[1]}


SYSTEM = "Invent an edit of the image described."  # to chat models


def to_chat(triplet: dict) -> list[dict]:
    """A triplet as a chat, in which a chat model answers in the authors' format."""
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": to_prompt(triplet["input"])},
        {"role": "assistant", "content": to_completion(triplet)},
    ]


def write_chats(path: str | Path, triplets: Iterable[dict]) -> None:
    """Triplets as lines {"messages": [...]}, the form in which chat models are fine-tuned."""
    with open(path, "w", encoding="utf-8") as file:
        for triplet in triplets:
            file.write(json.dumps({"messages": to_chat(triplet)}, ensure_ascii=False) + "\n")
