"""The figures of `ip2p evaluate` as Markdown, for the terminal, the pages and the model cards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from ip2p.dataset.shards import read_pairs
from ip2p.dataset.triplets import GENERATED_TRIPLETS, read_triplets
from ip2p.models.files import CORES, minutes
from ip2p.profiles import Profile
from ip2p.study.measures import BATCH


def data_facts(profile: Profile, figures: dict) -> dict[str, str]:
    """What docs/settings.md says of the bundled data."""
    log = Path(profile.editor) / "training_log.jsonl"
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    seconds = figures["mini-ip2p"]["seconds_an_edit"]
    return {
        "triplets": f"{len(read_triplets(GENERATED_TRIPLETS)):,}",
        "pairs": f"{len(read_pairs(profile.pairs)):,}",
        "train_time": f"{minutes(lines):.0f} minutes on {CORES}",
        "edit_time": f"{seconds:.2f} s on {CORES}, in a batch of {BATCH}",
    }


def markdown_table(figures: dict) -> str:
    """The figures, by part of `ip2p evaluate`, as Markdown tables: what was aimed at, and what came out."""
    rows = ["| What | Aim | Measured |", "|---|---:|---:|"]
    for part, rows_of_part in ROWS_OF_PARTS.items():
        if part in figures:
            rows += rows_of_part(figures[part])
    tables = ["\n".join(rows)]
    editor = figures.get("mini-ip2p") or figures.get("editor")
    if editor:
        tables.append(table_of_kinds(editor["by_kind"]))
    if "filter" in figures:
        tables.append(table_of_candidates(figures["filter"]["kinds"]))
    return "\n\n".join(tables)


def short_table(figures: dict) -> str:
    """The README's table: what each stage reaches, in eight rows. figures: of all parts."""
    few_shot = figures["instructions"]["few-shot"]["valid"]
    written = figures["instructions"]["fine-tuned"]["valid"]
    filtered = figures["filter"]
    editor = figures["mini-ip2p"]
    rows = [
        "| What | Aim | Measured |",
        "|---|---:|---:|",
        row(f"1. Instructions valid, fine-tuned (few-shot: {few_shot:.3f})", "0.850", written),
        row("2. All that a caption states is painted right", "0.650", figures["mini-sd"]["all"]),
        row(
            f"3. Invalid pairs after the filter (before: {filtered['invalid_before']:.3f})",
            f"{0.6 * filtered['invalid_before']:.3f}",
            filtered["invalid_after"],
        ),
        row("4. Edit success", "0.800", editor["renders"]["success"]),
        row("4. The rest is preserved", "0.900", editor["renders"]["preservation"]),
        row("4. Edit success, instructions reworded by hand", "0.650", editor["reworded"]["success"]),
        row_of_sweep("5. s_I up: likeness to the input", editor["image_guidance_scale"]),
        row_of_sweep("5. s_T up: direction of the edit", editor["guidance_scale"]),
    ]
    return "\n".join(rows)


def row_of_sweep(what: str, sweep: dict) -> str:
    """From the first to the last of a scale's values."""
    first, *_, last = sweep["values"]
    return f"| {what}, {first:g} to {last:g} | rising | {sweep['mean'][0]:.3f} to {sweep['mean'][-1]:.3f} |"


def row(what: str, aim: str, value: float, spec: str = ".3f") -> str:
    """A line of the first table; an empty aim where there is none."""
    return f"| {what} | {aim} | {value:{spec}} |"


def rows_of_language_model(figures: dict, captions: str) -> Iterator[str]:
    """figures: of `language_model_figures`; captions: what was asked, in words."""
    few_shot = figures["few-shot"]
    finetuned = figures["fine-tuned"]
    asked = f"{few_shot['n']:,} {captions}"
    yield row(f"SmolLM2, few-shot, {asked}: well-formed, and a change", "", few_shot["formed"])
    asked = f"{finetuned['n']:,} {captions}"
    yield row(f"SmolLM2, fine-tuned, {asked}: well-formed, and a change", "0.950", finetuned["formed"])
    if "valid" in finetuned:
        yield row("SmolLM2, few-shot: of the world, and just the edit asked for", "", few_shot["valid"])
        yield row(
            "SmolLM2, fine-tuned: of the world, and just the edit asked for", "0.850", finetuned["valid"]
        )
    yield row(f"SmolLM2, fine-tuned, {captions}: distinct instructions", "0.600", finetuned["distinct"])


def rows_of_instructions(figures: dict) -> Iterator[str]:
    return rows_of_language_model(figures, "captions of the miniature world")


def rows_of_open_instructions(figures: dict) -> Iterator[str]:
    return rows_of_language_model(figures, "open captions")


def rows_of_autoencoder(psnr: float) -> Iterator[str]:
    yield row("Autoencoder of mini-sd: PSNR on 500 held-out renders, dB", "27.0", psnr, ".1f")


def rows_of_judge(figures: dict) -> Iterator[str]:
    for name, aim, what in (
        ("renders", "0.985", "held-out renders"),
        ("after_autoencoder", "0.970", "the same after the autoencoder"),
    ):
        right = figures[name]
        weakest = min(right, key=right.get)
        yield row(
            f"Judge, {figures['held_out']:,} {what}: its weakest attribute ({weakest})", aim, right[weakest]
        )


def rows_of_clip(figures: dict) -> Iterator[str]:
    found = figures["renders"]["image_to_text"]
    yield row("mini-clip: own caption found among 100 scenes", "0.800", found)


def rows_of_text_to_image(figures: dict) -> Iterator[str]:
    asked = f"{figures['n']} held-out captions"
    yield row(f"mini-sd, {asked}: mean accuracy of the stated attributes", "0.920", figures["mean"])
    yield row("mini-sd: all stated attributes right", "0.650", figures["all"])


def rows_of_filter(figures: dict) -> Iterator[str]:
    before = figures["invalid_before"]
    yield row(f"Invalid share of {figures['n']:,} candidates, before the filter", "", before)
    aim = f"{0.6 * before:.3f}"
    yield row(f"Invalid share of the {figures['kept']:,} that it keeps", aim, figures["invalid_after"])


def rows_of_editor(figures: dict) -> Iterator[str]:
    """figures: of `editor_figures`."""
    for name, aim_of_success, aim_of_preservation, what in (
        ("renders", "0.800", "0.900", "renders"),
        ("samples", "0.800", "0.900", "pictures by mini-sd"),
        ("reworded", "0.650", "", "renders, reworded by hand"),
    ):
        means = figures[name]
        yield row(f"Edit success, {means['n']} {what}", aim_of_success, means["success"])
        yield row(f"Preservation, {what}", aim_of_preservation, means["preservation"])
    for name, what in (
        ("image_guidance_scale", "s_I raises CLIP image similarity"),
        ("guidance_scale", "s_T raises directional similarity"),
    ):
        sweep = figures[name]
        values = ", ".join(f"{value:g}" for value in sweep["values"])
        means = ", ".join(f"{mean:.3f}" for mean in sweep["mean"])
        rises = ", ".join(f"{share:.2f}" for share in sweep["rises"])
        yield f"| {what}: at {values} | rising | {means} (each step, by bootstrap: {rises}) |"


ROWS_OF_PARTS = {
    "instructions": rows_of_instructions,
    "open-instructions": rows_of_open_instructions,
    "autoencoder": rows_of_autoencoder,
    "judge": rows_of_judge,
    "mini-clip": rows_of_clip,
    "mini-sd": rows_of_text_to_image,
    "filter": rows_of_filter,
    "mini-ip2p": rows_of_editor,
    "editor": rows_of_editor,
}


def table_of_kinds(by_kind: dict[str, dict]) -> str:
    """by_kind: of `summary_by_kind`."""
    lines = ["| Kind of edit | Success | Preservation | Edits |", "|---|---:|---:|---:|"]
    for kind, means in by_kind.items():
        lines.append(f"| {kind} | {means['success']:.2f} | {means['preservation']:.2f} | {means['n']} |")
    return "\n".join(lines)


def table_of_candidates(kinds: dict[str, dict]) -> str:
    """kinds: for each kind of edit, `validity_by_p`."""
    lines = ["| Unfiltered candidates | Valid | Valid at the best p | Best p |", "|---|---:|---:|---:|"]
    for kind, valid in kinds.items():
        lines.append(f"| {kind} | {valid['valid']:.2f} | {valid['best']:.2f} | {valid['p']:.2f} |")
    return "\n".join(lines)
