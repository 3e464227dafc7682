"""`ip2p evaluate`: what the models reach on held-out scenes, part by part.

If asked to, it also renews the README, docs/*.md and the model cards.

The judge (`ip2p.miniworld.judge`) decides what a picture shows. It measures only: it chooses no data, no
threshold and no checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ip2p.common.durable import append_line, write_atomically
from ip2p.common.markdown import fill, fill_pages
from ip2p.editing import load_editor
from ip2p.miniworld.held_out import HELD_OUT, scenes
from ip2p.options import refuse_outside
from ip2p.paths import DATA, ROOT
from ip2p.profiles import Profile, get_profile, load_text_to_image
from ip2p.study.answers import language_model_figures
from ip2p.study.editor_figures import editor_figures, fast_editor_figures
from ip2p.study.factory_figures import filter_figures, sharing_figures, text_to_image_figures
from ip2p.study.progress import Notes, begin_or_resume, model_checksums
from ip2p.study.tables import SHORT_TABLE_PARTS, data_facts, markdown_table, short_table

FIGURES = DATA / "eval" / "figures.json"  # numbers; the paper's figures are those of `ip2p figures`


def load_vae(profile: Profile):
    """The profile's autoencoder, float32."""
    return load_text_to_image(profile, dtype="float32").vae


# ----------------------------------------------------------------------------------------- the parts

FULL = 330  # edits, of which the README tells; the other parts' numbers fall with them


def in_proportion(full: int, n: int) -> int:
    """As many of `full` as n are of FULL edits, at least one."""
    return max(1, round(full * n / FULL))


def measure_instructions(profile: Profile, n: int, notes: Notes) -> dict:
    return language_model_figures(profile)


def measure_open_instructions(profile: Profile, n: int, notes: Notes) -> dict:
    return language_model_figures(get_profile("sd15", device=profile.device, dtype=profile.dtype))


def measure_autoencoder(profile: Profile, n: int, notes: Notes) -> dict:
    return autoencoder_figures(load_vae(profile))


def autoencoder_figures(vae, n: int = 500) -> dict:
    """Of n held-out renders, half of them of the mix "wild" and half of "even": "psnr" in dB, and
    "sharpness" as a multiple of the renders' own."""
    from ip2p.models.autoencoder import decode, encode, psnr, sharpness
    from ip2p.models.renders import draw

    todo = scenes(n - n // 2, HELD_OUT, "wild") + scenes(n // 2, HELD_OUT, "even")
    pictures = torch.from_numpy(draw(todo, vae.config.sample_size, "held-out renders"))
    again = decode(vae, encode(vae, pictures))
    return {"n": n, "psnr": psnr(again, pictures), "sharpness": sharpness(again, pictures)}


def measure_judge(profile: Profile, n: int, notes: Notes) -> dict:
    from ip2p.miniworld.judging import load_judge
    from ip2p.models.judge import measure

    with TemporaryDirectory() as work:
        return measure(load_judge(), Path(work), load_vae(profile))


def measure_clip(profile: Profile, n: int, notes: Notes) -> dict:
    from ip2p.models import clip

    model, tokenizer = clip.load(profile.clip)
    with TemporaryDirectory() as work:
        return clip.measure(model, tokenizer, Path(work), load_vae(profile))


def measure_text_to_image(profile: Profile, n: int, notes: Notes) -> dict:
    return text_to_image_figures(profile, in_proportion(500, n))


def measure_sharing(profile: Profile, n: int, notes: Notes) -> dict:
    return sharing_figures(profile, in_proportion(300, n), notes)


def measure_filter(profile: Profile, n: int, notes: Notes) -> dict:
    return filter_figures(profile, in_proportion(16, n), notes)


def measure_editor(profile: Profile, n: int, notes: Notes) -> dict:
    editor = load_editor(profile.editor, profile.device, profile.dtype, profile)
    return editor_figures(editor, profile, n)


def measure_fast_editor(profile: Profile, n: int, notes: Notes) -> dict:
    return fast_editor_figures(profile, n)


# What `ip2p evaluate` measures, by (profile, number of edits, notes that a stopped one goes on from).
PARTS: dict[str, Callable] = {
    "instructions": measure_instructions,
    "open-instructions": measure_open_instructions,
    "autoencoder": measure_autoencoder,
    "judge": measure_judge,
    "mini-clip": measure_clip,
    "mini-sd": measure_text_to_image,
    "sharing": measure_sharing,
    "filter": measure_filter,
    "mini-ip2p": measure_editor,
    "fast": measure_fast_editor,
}

LONG = ("sharing", "filter")  # parts that leave notes

CARDS = {
    "mini-sd": ("autoencoder", "mini-sd", "sharing"),
    "mini-ip2p": ("filter", "mini-ip2p", "fast"),
}  # model -> parts on its card


def evaluate(
    model: str | Path | None = None,
    out: str | Path | None = None,
    profile: str | Profile = "mini",
    n: int = FULL,
    only: list[str] | None = None,
    *,
    write: bool = False,
    device: str | None = None,
    dtype: str | None = None,
) -> dict:
    """`ip2p evaluate`: measure, print a Markdown table, and return the figures, by part.

    model: that editor alone (a folder or a hub name; its figures are the part "editor"). Without it every
    bundled model, or those parts of PARTS that `only` names. n: edits; what else is painted falls with it.
    out: a folder for figures.json, in which a stopped evaluation goes on with the parts that are missing, and
    within those of LONG.
    write: also renew data/eval/figures.json, the README, docs/*.md and the model cards. device, dtype: see
    `choose_device`, `choose_dtype`; None: the profile's. CLIP and the judge are float32 everywhere. Raises
    ValueError for an unknown part, for `write` with a model, and if `out` holds the figures of other models
    or settings.
    """
    refuse_outside("n", n, "count")
    profile = get_profile(profile)
    profile = replace(profile, device=device or profile.device, dtype=dtype or profile.dtype)
    unknown = sorted(set(only or ()) - set(PARTS))
    if unknown:
        raise ValueError(f"there is no part {', '.join(unknown)}; choose from {', '.join(PARTS)}")
    if model and write:
        raise ValueError("the README tells of the bundled models; leave out --write, or --model")
    profile.place()  # a device that there is not is refused before anything is measured
    if model:
        measures = {"editor": measure_editor}
        profile = replace(profile, editor=str(model))
    else:
        measures = {part: PARTS[part] for part in only or PARTS}
    figures = {}
    for part, of_part in measured_parts(measures, profile, n, Path(out) if out else None):
        figures[part] = of_part
        if write:
            renew_figures(figures)
    if out:
        write_atomically(Path(out) / "figures.json", as_json(figures))
    if write:
        figures = renew_figures(figures)
        renew_pages(figures, profile)
    print(markdown_table(figures))
    return figures


def measured_parts(
    measures: dict[str, Callable], profile: Profile, n: int, out: Path | None
) -> Iterator[tuple[str, Any]]:
    """The name and figures of each part; with `out`, first those that lie there already, which are not
    measured again."""
    there = set()
    made_by: dict = {}
    if out:
        path = out / "parts.jsonl"
        device, dtype = profile.place()
        settings = {"profile": profile.name, "n": n, "device": device.type, "dtype": str(dtype)}
        made_by = settings | model_checksums(profile)
        for line in begin_or_resume(path, made_by):
            there.add(line["part"])
            yield line["part"], line["figures"]
    for part, measure in measures.items():
        if part in there:
            continue
        notes = Notes(out / f"{part}.jsonl", made_by) if out and part in LONG else Notes()
        figures = measure(profile, n, notes)
        if out:
            append_line(path, {"part": part, "figures": figures})
        yield part, figures


def as_json(figures: dict) -> str:
    return json.dumps(figures, indent=1) + "\n"


def renew_figures(figures: dict) -> dict:
    """Put parts into data/eval/figures.json; returns all that are there then."""
    figures = json.loads(FIGURES.read_text(encoding="utf-8")) | figures if FIGURES.exists() else figures
    write_atomically(FIGURES, as_json(figures))
    return figures


def renew_pages(figures: dict, profile: Profile) -> None:
    """Put all parts of data/eval/figures.json into the pages, and those of a model into its card. Pages that
    need a part which was never measured stay as they are."""
    tables = {"results": markdown_table(figures)}
    if set(SHORT_TABLE_PARTS) <= set(figures):
        tables["reaches"] = short_table(figures)
        tables |= data_facts(profile, figures)
    fill_pages(ROOT, tables)
    for name, parts in CARDS.items():
        of_model = {part: figures[part] for part in parts if part in figures}
        if of_model:
            fill(DATA / "models" / name / "README.md", {"results": markdown_table(of_model)})
