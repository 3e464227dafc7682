"""`ip2p benchmark --photos`: public sets of edited photographs, turn by turn, against the edits that people
made.

MagicBrush (Zhang et al., arXiv 2306.10012) in both of its published layouts: the folders of its dev and test
sets, and the Parquet files of the hub. Its two settings: single-turn, each turn on the set's own picture, all
turns measured; multi-turn, each turn on the editor's answer to the one before, the last turn measured. No
mask is shown to the editor. Its measures: L1 and L2 (mean absolute and squared difference of pixels in
[0, 1]), CLIP-I and DINO (cosine of answer and target), and CLIP-T (cosine of answer and target's caption).

Our CLIP is the profile's, and sees the whole picture squeezed into its square; the authors' is ViT-B/32,
which sees the square in the middle. Compare only what was measured in one way.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from tqdm.auto import tqdm

from ip2p.clip_filter import ClipSimilarity
from ip2p.common.durable import locked, name_of_model, read_json
from ip2p.common.images import as_tensor, decode_image, fit, open_image
from ip2p.options import refuse_outside
from ip2p.profiles import Profile, quiet_loading
from ip2p.study.benchmark import (
    as_file_name,
    begin_rows,
    count_failed,
    means_of,
    open_log,
    save_picture,
    with_interval,
)
from ip2p.study.editors import AnyEditor, NotDone, Question

DINO = "facebook/dino-vits16"  # what MagicBrush's authors measure with
DINO_MEAN = (0.485, 0.456, 0.406)  # of ImageNet
DINO_STD = (0.229, 0.224, 0.225)
BEYOND = 256 / 224  # the side before the middle is cut out, to the side after it

# Where captions of the targets stand, the best for CLIP-T first.
CAPTION_FILES = (
    "local_descriptions.json",
    "local_captions.json",
    "global_descriptions.json",
    "global_description.json",
)
CAPTION_COLUMNS = ("target_local_caption", "target_global_caption")
COLUMNS = ("img_id", "turn_index", "source_img", "instruction", "target_img")

NAMES = {"l1": "L1", "l2": "L2", "clip_i": "CLIP-I", "clip_t": "CLIP-T", "dino": "DINO"}
TURNS = ("single", "multi", "both")


class Turn(NamedTuple):
    """One edit of a photograph, as people did it."""

    session: str  # the photograph's id
    number: int  # from 1
    instruction: str
    source: Callable[[], Image.Image]
    target: Callable[[], Image.Image]
    caption: str | None  # of the target


# ------------------------------------------------------------------------------------ the published layouts


def read_magicbrush(folder: Path) -> tuple[list[list[Turn]], str]:
    """Sessions, each with its turns in order, and where their captions stand ("" if nowhere).

    folder: of the dev or test set ("edit_sessions.json" or "edit_turns.json", and images/ID/ID-input.png), or
    with Parquet files of the hub. Pictures are read when they are asked for. Raises ValueError, one sentence,
    for what is missing.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; give MagicBrush's dev or test folder")
    for name in ("edit_sessions.json", "edit_turns.json"):
        if (folder / name).is_file():
            return sessions_of_folder(folder, folder / name)
    shards = shards_of(folder)
    if not shards:
        raise ValueError(
            f"{folder} is no set of MagicBrush: it has neither edit_sessions.json nor edit_turns.json nor "
            "Parquet files; give the folder of its dev or test set"
        )
    return sessions_of_shards(shards)


def sessions_of_folder(folder: Path, index: Path) -> tuple[list[list[Turn]], str]:
    captions, where = read_captions(folder)
    sessions = []
    missing = []
    for session, rows in rows_of_index(index).items():
        turns = []
        for number, row in enumerate(rows, 1):
            source = folder / "images" / session / row["input"]
            target = folder / "images" / session / row["output"]
            for path in (source, target):
                if not path.is_file() and path not in missing:  # a target is the source of the next turn
                    missing.append(path)
            caption = caption_of(captions, session, row["output"])
            turns.append(
                Turn(
                    session,
                    number,
                    row["instruction"],
                    partial(open_image, source),
                    partial(open_image, target),
                    caption,
                )
            )
        sessions.append(turns)
    if missing:
        raise ValueError(
            f"{folder} lacks {len(missing)} pictures, such as {missing[0]}; unpack the whole set there"
        )
    return checked(sessions, index), where


def rows_of_index(index: Path) -> dict[str, list[dict]]:
    """{photograph's id: its turns}, of a file of sessions or one of single turns."""
    content = read_json(index)
    if isinstance(content, dict):
        for rows in content.values():
            if not isinstance(rows, list):
                raise ValueError(f"{index} has no list of turns, but {str(rows)[:80]}; get the set again")
            for row in rows:
                check_row(row, index)
        return content
    sessions: dict[str, list[dict]] = {}
    for row in content if isinstance(content, list) else [content]:  # a session's turns follow each other
        check_row(row, index)
        sessions.setdefault(row["input"].partition("-")[0], []).append(row)
    return sessions


def check_row(row, index: Path) -> None:
    """Raises ValueError if a turn lacks its texts, or names a file that is none of its photograph's."""
    names = ("input", "output", "instruction")
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in names):
        raise ValueError(f'{index} has a turn without "input", "output" or "instruction": {str(row)[:80]}')
    for name in names[:2]:
        if Path(row[name]).name != row[name]:
            raise ValueError(f"{index} names the picture {row[name]!r}; it must be a file of images/ID")


def read_captions(folder: Path) -> tuple[dict, str]:
    """The first of CAPTION_FILES that is there, {photograph's id: {file: caption}}, and its name."""
    for name in CAPTION_FILES:
        if (folder / name).is_file():
            return read_json(folder / name), name
    return {}, ""


def caption_of(captions: dict, session: str, file: str) -> str | None:
    """The caption of a photograph's file; in some copies of the set all files stand in one dict."""
    of_session = captions.get(session, captions)
    return of_session.get(file) if isinstance(of_session, dict) else None


def shards_of(folder: Path) -> list[Path]:
    """The Parquet files in it, or in its folder `data`; if there are several sets, not those of training."""
    shards = sorted(folder.glob("*.parquet")) or sorted((folder / "data").glob("*.parquet"))
    held_out = [path for path in shards if not path.name.startswith("train")]
    return held_out or shards


def sessions_of_shards(shards: Sequence[Path]) -> tuple[list[list[Turn]], str]:
    sessions: dict[str, list[Turn]] = {}
    where = ""
    for path in shards:
        groups, where = texts_of_shard(path)
        for group, rows in enumerate(groups):
            for k, row in enumerate(rows):
                turn = Turn(
                    str(row["img_id"]),
                    row["turn_index"],
                    row["instruction"],
                    partial(picture_of_shard, path, group, k, "source_img"),
                    partial(picture_of_shard, path, group, k, "target_img"),
                    row.get(where),
                )
                sessions.setdefault(turn.session, []).append(turn)
    in_order = [sorted(turns, key=lambda turn: turn.number) for turns in sessions.values()]
    return checked(in_order, shards[0]), where


def texts_of_shard(path: Path) -> tuple[list[list[dict]], str]:
    """The rows of each row group, without pictures, and the column of their captions ("": there is none)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            known = file.schema_arrow.names
            lacks = [name for name in COLUMNS if name not in known]
            if lacks:
                raise ValueError(f"{path} has no column {', '.join(lacks)}; give a set of MagicBrush")
            where = next((name for name in CAPTION_COLUMNS if name in known), "")
            texts = ["img_id", "turn_index", "instruction"]
            if where:
                texts.append(where)
            groups = range(file.num_row_groups)
            return [file.read_row_group(group, texts).to_pylist() for group in groups], where
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as Parquet ({error}); download it again") from None


def picture_of_shard(path: Path, group: int, row: int, column: str) -> Image.Image:
    cell = pictures_of_group(path, group)[column][row].as_py()
    return decode_image(cell, f"{path}, {column} of row {row} in group {group}")


@lru_cache(maxsize=1)
def pictures_of_group(path: Path, group: int):
    """The pictures of a row group, still encoded."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        return file.read_row_group(group, ["source_img", "target_img"])


def checked(sessions: list[list[Turn]], place: Path) -> list[list[Turn]]:
    """The sessions. Raises ValueError if there is none, one lacks a turn, or a turn says nothing."""
    if not any(sessions):
        raise ValueError(f"{place} has no edits; give the folder of a whole set")
    for turns in sessions:
        numbers = [turn.number for turn in turns]
        session = turns[0].session
        if as_file_name(session) != session:
            raise ValueError(f"{place} has a photograph called {session!r}; its name must do as a folder's")
        if numbers != list(range(1, len(turns) + 1)):
            raise ValueError(f"{place} has the turns {numbers} of {session}; get the whole set")
        for turn in turns:
            if not turn.instruction or not turn.instruction.strip():
                raise ValueError(f"{place} has no instruction for turn {turn.number} of {session}")
    return sessions


FORMATS = {"magicbrush": read_magicbrush}


# --------------------------------------------------------------------------------------- what is asked


class Ask(NamedTuple):
    """One edit to be measured. Pictures are called as the authors call them: ID_1, ID_inde_2 (on the set's
    own picture), ID_iter_2 (on the answer before)."""

    turn: Turn
    id: str
    setting: str  # "single", "multi", or "both": the first turn is the same in either
    before: str | None  # the id of the answer that is edited; None: the set's own picture
    last: bool

    @property
    def counts(self) -> list[str]:
        """The settings whose means it is part of."""
        settings = []
        if self.setting in ("single", "both"):
            settings.append("single")
        if self.setting in ("multi", "both") and self.last:
            settings.append("multi")
        return settings


def asks_of(sessions: Sequence[Sequence[Turn]], turns: str) -> Iterator[Ask]:
    """All edits. turns: one of TURNS."""
    for of_session in sessions:
        before = None
        for turn in of_session:
            last = turn is of_session[-1]
            head = f"{turn.session}/{turn.session}_"
            if turn.number == 1:
                before = f"{head}1"
                yield Ask(turn, before, turns, None, last)
                continue
            if turns != "multi":
                yield Ask(turn, f"{head}inde_{turn.number}", "single", None, last)
            if turns != "single":
                name = f"{head}iter_{turn.number}"
                yield Ask(turn, name, "multi", before, last)
                before = name


# ---------------------------------------------------------------------------------------- the measures


class Dino:
    """Self-supervised features (Caron et al., arXiv 2104.14294): the class token of a vision transformer."""

    def __init__(self, model: str, device: torch.device):
        from transformers import AutoModel

        quiet_loading()
        self.model = AutoModel.from_pretrained(local_folder(model)).eval().to(device)
        self.side = self.model.config.image_size
        self.mean = torch.tensor(DINO_MEAN, device=device)[:, None, None]
        self.std = torch.tensor(DINO_STD, device=device)[:, None, None]

    @torch.no_grad()
    def __call__(self, image: Image.Image) -> torch.Tensor:
        """(d,) of unit length, of the square in the middle."""
        whole = round(self.side * BEYOND)
        square = fit(image, (whole, whole))
        edge = (whole - self.side) // 2
        square = square.crop((edge, edge, edge + self.side, edge + self.side))
        pixels = as_tensor([square]).to(self.mean.device)
        states = self.model((pixels - self.mean) / self.std).last_hidden_state  # (1, tokens, d)
        return F.normalize(states[0, 0].float(), dim=0)


def local_folder(model: str) -> str:
    """A folder, or where this machine keeps a model of the hub. Given a hub name that is not here,
    transformers would ask the network for half a minute, even if told not to."""
    from huggingface_hub import snapshot_download

    return model if Path(model).is_dir() else snapshot_download(model, local_files_only=True)


def find_dino(model: str | None, device: torch.device) -> tuple[Dino | None, str]:
    """DINO by its folder or hub name (None: the authors', where this machine has it), and its name; without
    it, None and a sentence. Raises ValueError if one was named that is not here."""
    name = model or DINO
    try:
        return Dino(name, device), name_of_model(name)
    except (OSError, ValueError) as error:
        if model:
            raise ValueError(f"{model} is no model of transformers on this machine; download it") from error
        return None, f"No DINO: {DINO} is not on this machine; download it, or name a folder by --dino."


class Measures:
    """What is measured of an answer: L1, L2, CLIP-I, CLIP-T where there is a caption, DINO where it is."""

    def __init__(self, clip: ClipSimilarity, dino: Dino | None):
        self.clip = clip
        self.dino = dino

    def __call__(self, answer: Image.Image, target: Image.Image, caption: str | None) -> dict[str, float]:
        """The answer is scaled to the target's size."""
        scaled = answer.resize(target.size, Image.Resampling.BICUBIC)
        ours = as_tensor([scaled])
        theirs = as_tensor([target])
        features = self.clip.encode_image(torch.cat([ours, theirs]))
        values = {
            "l1": (ours - theirs).abs().mean().item(),
            "l2": (ours - theirs).square().mean().item(),
            "clip_i": (features[0] @ features[1]).item(),
        }
        if caption:
            values["clip_t"] = (features[0] @ self.clip.encode_text([caption])[0]).item()
        if self.dino:
            values["dino"] = (self.dino(answer) @ self.dino(target)).item()
        return values


# ---------------------------------------------------------------------------------------- the whole run


def benchmark_photos(
    name: str,
    open_with: Callable[[Sequence[str]], AnyEditor],
    photos: str | Path,
    profile: Profile,
    format: str = "magicbrush",
    turns: str = "both",
    out: str | Path = "out/benchmark",
    n: int | None = None,
    dino: str | None = None,
) -> dict:
    """Measure an editor on a set of photographs, print the table, and return the figures, by setting.

    name, open_with, out: see `ip2p.study.benchmark.benchmark`. photos: the set's folder; format: one of
    FORMATS; turns: one of TURNS; n: only the first n photographs; dino: a model of transformers on this
    machine. Answers are left in OUT/NAME/FORMAT under the names that the authors' own program reads. An edit
    that fails counts as the picture before it.
    """
    if format not in FORMATS:
        raise ValueError(f"there is no format {format!r}; choose from {', '.join(FORMATS)}")
    if turns not in TURNS:
        raise ValueError(f"turns is {turns!r}; choose from {', '.join(TURNS)}")
    sessions, captions = FORMATS[format](Path(photos))
    of_set = checksum_of_turns(sessions)
    if n is not None:
        refuse_outside("n", n, "count")
        sessions = sessions[:n]
    asks = list(asks_of(sessions, turns))
    editor = open_with([ask.id for ask in asks])
    device, _ = profile.place()
    seen_by_dino, about_dino = find_dino(dino, device)
    measures = Measures(ClipSimilarity(profile.clip, device), seen_by_dino)
    made_by = {
        "photos": f"{format} {of_set}",
        "captions": captions,
        "clip": name_of_model(profile.clip),
        "dino": about_dino if seen_by_dino else "",
        **editor.identity,
    }
    folder = Path(out) / as_file_name(name) / format
    rows = measure_photos(editor, asks, measures, folder, made_by)
    figures = figures_of_photos(asks, rows)
    print(table_of_photos(figures) + "\n")
    clip = f"CLIP is {made_by['clip']}"
    if profile.in_world:
        clip += ", which knows the miniature world alone; for photographs give --profile sd15"
    print(f"{clip}.")
    for sentence in remarks(captions, about_dino if seen_by_dino is None else "", rows):
        print(sentence)
    return figures


def checksum_of_turns(sessions: Sequence[Sequence[Turn]]) -> str:
    """The first digits of SHA-256 over ids and texts."""
    sha256 = hashlib.sha256()
    for turns in sessions:
        for turn in turns:
            texts = [turn.session, turn.number, turn.instruction, turn.caption]
            sha256.update(json.dumps(texts).encode() + b"\n")
    return sha256.hexdigest()[:12]


def remarks(captions: str, no_dino: str, rows: Sequence[dict]) -> Iterator[str]:
    """What else is to be said below the table."""
    if all("clip_t" in row for row in rows):
        yield f"CLIP-T is by {captions}."
    elif captions:
        yield f"No CLIP-T: {captions} lacks captions of some targets."
    else:
        yield "No CLIP-T: the set has no captions."
    if no_dino:
        yield no_dino
    failed = count_failed(rows)
    if failed:
        yield f"{failed} of {len(rows)} edits were not done, and count as the picture before them."


def measure_photos(
    editor: AnyEditor, asks: Sequence[Ask], measures: Measures, folder: Path, made_by: dict
) -> list[dict]:
    """A row of each edit, in their order; those that lie in the folder are not asked for again."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, "measuring in"):
        rows = {row["id"]: row for row in begin_rows(folder, made_by)}
        todo = [ask for ask in asks if ask.id not in rows]
        log = open_log(editor, folder, list(rows.values()))
        for ask in tqdm(todo, desc="benchmark", unit="edit", mininterval=2.0, delay=2):
            row = row_of_ask(editor, ask, measures, folder)
            log.add(row)
            rows[ask.id] = row
        log.close()
    return [rows[ask.id] for ask in asks]


def row_of_ask(editor: AnyEditor, ask: Ask, measures: Measures, folder: Path) -> dict:
    """Edit, keep the picture, measure. The seed is the turn's number, whatever was measured before."""
    image = ask.turn.source() if ask.before is None else open_image(folder / f"{ask.before}.png")
    [answer] = editor.answer([Question(ask.id, image, ask.turn.instruction, ask.turn.number)])
    row: dict = {"id": ask.id}
    if isinstance(answer, NotDone):
        row["failed"] = answer.why
        answer = image
    save_picture(answer, folder / f"{ask.id}.png")
    return row | measures(answer, ask.turn.target(), ask.turn.caption)


def figures_of_photos(asks: Sequence[Ask], rows: Sequence[dict]) -> dict[str, dict]:
    """For each setting ("single", "multi") that was measured: the number of edits "n", and mean, low and high
    end of the 95% interval of each measure that all of its edits have."""
    groups: dict[str, list[dict]] = {}
    for ask, row in zip(asks, rows, strict=True):
        for setting in ask.counts:
            groups.setdefault(setting, []).append(row)
    figures = {}
    for setting, group in groups.items():
        names = [name for name in NAMES if all(name in row for row in group)]
        figures[setting] = {"n": len(group)} | means_of(group, names)
    return figures


SETTINGS = {
    "single": "single-turn (all turns, each on the set's own picture)",
    "multi": "multi-turn (the last turn, each on the answer before)",
}


def table_of_photos(figures: dict[str, dict]) -> str:
    """figures: of `figures_of_photos`. A Markdown table."""
    names = [name for name in NAMES if all(name in of_setting for of_setting in figures.values())]
    arrows = {"l1": "down", "l2": "down"}
    heads = [f"{NAMES[name]} ({arrows.get(name, 'up')})" for name in names]
    lines = [f"| Setting | {' | '.join(heads)} | Edits |", f"|---|{'---:|' * (len(names) + 1)}"]
    for setting, of_setting in figures.items():
        cells = [with_interval(of_setting[name], 3) for name in names]
        lines.append(f"| {SETTINGS[setting]} | {' | '.join(cells)} | {of_setting['n']} |")
    return "\n".join(lines)
