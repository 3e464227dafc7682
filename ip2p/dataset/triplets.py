"""Triplets (input caption, edit instruction, edited caption) as text: their files, the authors' form, and what is wrong
with one.

`ip2p triplets check FILE` says whether a file of open-domain triplets is fit to teach a language model: it prints
the mix, and fails, naming the lines, on duplicates and near-duplicates, on no-ops, and on edited captions that do not
follow from the instruction. With `--chat OUT` it also writes them as chats, for servers that fine-tune on chats.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from ip2p.paths import DATA

SEED_TRIPLETS = DATA / "triplets" / "mini.jsonl"

GENERATED_TRIPLETS = (
    DATA / "triplets" / "generated.jsonl"
)  # by stage 1; of them the bundled pairs are painted

FIELDS = ("input", "edit", "output")

# ---------------------------------------------------------------------------- files


def one_triplet(line: bytes) -> dict:
    """One JSON line as a triplet. Raises ValueError that says what is wrong with it."""
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON ({error.msg} at column {error.colno})") from None
    if not isinstance(row, dict):
        raise ValueError(f"it is a {type(row).__name__}, not an object with input, edit and output")
    row = {"input": row.get("caption"), **row}  # the authors' scripts disagree on the name: both are read
    for name in FIELDS:
        if row.get(name) is None:
            raise ValueError(f"{name!r} is missing; a triplet has input, edit and output")
        if not isinstance(row[name], str) or not row[name].strip():
            raise ValueError(f"{name!r} is {row[name]!r}, not a text")
    return {name: row[name] for name in FIELDS}


def read_triplets(path: str | Path) -> list[dict]:
    """The triplets of a file of JSON lines, as dicts of input, edit, output (`caption` is read as `input`).

    Raises ValueError that names the file and the line if one is wrong. Blank lines are skipped.
    """
    return triplets_of(Path(path).read_bytes(), path)


def triplets_of(data: bytes, path: str | Path) -> list[dict]:
    """`read_triplets` of the bytes of a file `path`."""
    out = []
    for number, line in enumerate(data.splitlines(), 1):
        try:
            out += [one_triplet(line)] if line.strip() else []
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    return out


def json_line(triplet: dict) -> str:
    return json.dumps({name: triplet[name] for name in FIELDS}, ensure_ascii=False) + "\n"


def write_triplets(path: str | Path, triplets: Iterable[dict], append: bool = False) -> None:
    """Write triplets as JSON lines, to a new file or to the end of one."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a" if append else "w", encoding="utf-8") as file:
        file.writelines(map(json_line, triplets))


def read_captions(path: str | Path) -> list[str]:
    """Captions, one a line, plain or JSON with `caption` or `input`. Raises ValueError if there is none."""
    out = []
    for number, line in enumerate(Path(path).read_text("utf-8-sig", errors="replace").split("\n"), 1):
        if line.lstrip().startswith("{"):
            try:
                row = json.loads(line)
                line = row["input"] if "input" in row else row["caption"]
            except (json.JSONDecodeError, KeyError):
                raise ValueError(f"{path}, line {number}: it is not JSON with a caption") from None
        out.append(" ".join(line.split()))
    if not any(out):
        raise ValueError(f"{path} holds no captions; write one a line")
    return list(filter(None, out))


# ---------------------------------------------------------------------------- the authors' text format
PROMPT_END = "\n##\n"  # caption + PROMPT_END -> instruction + DELIMITER + edited caption + STOP

DELIMITER = "\n%%\n"

STOP = "\nEND"


def to_prompt(caption: str, examples: Iterable[dict] = ()) -> str:
    """The text to be continued. `examples` (triplets) come first if the model was not fine-tuned."""
    return "".join(to_prompt(t["input"]) + to_completion(t) + "\n\n" for t in examples) + caption + PROMPT_END


def to_completion(triplet: dict) -> str:
    return triplet["edit"] + DELIMITER + triplet["output"] + STOP


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
    turns = ("system", SYSTEM), ("user", to_prompt(triplet["input"])), ("assistant", to_completion(triplet))
    return [{"role": role, "content": content} for role, content in turns]


def write_chats(path: str | Path, triplets: Iterable[dict]) -> None:
    """Triplets as lines {"messages": [...]}, the form in which chat models are fine-tuned."""
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"messages": to_chat(t)}, ensure_ascii=False) + "\n" for t in triplets)
