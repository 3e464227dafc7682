"""The figures of `ip2p evaluate` as Markdown, for the terminal, the pages and the model cards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from ip2p.dataset.shards import read_pairs
from ip2p.dataset.triplets import GENERATED_TRIPLETS, read_triplets
from ip2p.models.files import CORES, minutes
from ip2p.profiles import Profile
from ip2p.study.measures import BATCH, SURVIVORS, wilson_interval


def data_facts(profile: Profile, figures: dict) -> dict[str, str]:
    """What the README and docs/settings.md say of the bundled data and editor."""
    log = Path(profile.editor) / "training_log.jsonl"
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    seconds = figures["mini-ip2p"]["seconds_an_edit"]
    return {
        "triplets": f"{len(read_triplets(GENERATED_TRIPLETS)):,}",
        "pairs": f"{len(read_pairs(profile.pairs)):,}",
        "train_time": f"{minutes(lines):.0f} minutes on {lines[-1]['hardware']}",
        "edit_time": f"{seconds:.2f} s on {CORES}, in a batch of {BATCH}",
        "weakest": weakest_kinds(figures["mini-ip2p"]["by_kind"]),
    }


def weakest_kinds(by_kind: dict[str, dict], n: int = 3) -> str:
    """The n kinds of edit of which the smallest share is right, and these shares. by_kind: of
    `summary_by_kind`."""
    kinds = sorted(by_kind, key=lambda kind: by_kind[kind]["right"])[:n]
    return ", ".join(f"{kind} {by_kind[kind]['right']:.2f}" for kind in kinds)


def markdown_table(figures: dict) -> str:
    """The figures, by part of `ip2p evaluate`, as Markdown tables: what was aimed at, and what came out."""
    rows = ["| What | Aim | Measured |", "|---|---:|---:|"]
    for part, rows_of_part in ROWS_OF_PARTS.items():
        if part in figures:
            rows += rows_of_part(figures[part])
    tables = ["\n".join(rows)]
    if "mini-sd" in figures:
        tables.append(table_of_attributes(figures["mini-sd"]))
    editor = figures.get("mini-ip2p") or figures.get("editor")
    if editor:
        tables.append(table_of_kinds(editor["by_kind"]))
        tables.append(table_of_survivors(editor))
    if "sharing" in figures:
        tables.append(table_of_sharing(figures["sharing"]))
    if "filter" in figures:
        tables.append(table_of_candidates(figures["filter"]["kinds"]))
    return "\n\n".join(tables)


SHORT_TABLE_PARTS = ("instructions", "mini-sd", "sharing", "filter", "mini-ip2p")


def short_table(figures: dict) -> str:
    """The README's table: what each stage reaches, in eight rows. figures: of SHORT_TABLE_PARTS."""
    few_shot = figures["instructions"]["few-shot"]["valid"]
    written = figures["instructions"]["fine-tuned"]["valid"]
    sharing = figures["sharing"]
    filtered = figures["filter"]
    editor = figures["mini-ip2p"]
    rows = [
        "| What | Aim | Measured |",
        "|---|---:|---:|",
        row(f"1. Instructions valid, fine-tuned (few-shot: {few_shot:.3f})", "0.850", written),
        row("2. All that a caption says is painted right", "0.800", figures["mini-sd"]["all"]),
        row(
            f"2. Valid pairs with shared attention (without: {sharing['valid'][0]:.3f})",
            "0.800",
            sharing["best"],
        ),
        row(
            f"3. Invalid pairs after the filter (before: {filtered['invalid_before']:.3f})",
            "at most 0.050",
            filtered["invalid_after"],
        ),
        row("4. Edits right: success, and 90% of the rest kept", "0.800", editor["renders"]["right"]),
        row("4. Edits right, instructions reworded by hand", "0.700", editor["reworded"]["right"]),
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


def row_of_share(what: str, aim: str, share: float, n: int) -> str:
    """A line with the 95% interval of a share of n."""
    low, high = wilson_interval(share, n)
    return f"| {what} | {aim} | {share:.3f} ({low:.2f} to {high:.2f}) |"


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


def rows_of_autoencoder(figures: dict) -> Iterator[str]:
    yield row(
        f"Autoencoder of mini-sd: PSNR on {figures['n']} held-out renders, dB", "27.0", figures["psnr"], ".1f"
    )
    sharpness = figures["sharpness"]
    yield row("Autoencoder of mini-sd: sharpness, of the renders'", "0.92 to 1.05", sharpness, ".2f")


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
    seconds = figures["seconds"]
    for name, what in (("renders", ""), ("after_autoencoder", ", after the autoencoder")):
        for attribute in ("second_kind", "second_colour"):
            asked = attribute.removeprefix("second_")
            yield row(
                f"Judge, {seconds['n']:,} scenes with a second object: its {asked}{what}",
                "0.970",
                seconds[name][attribute],
            )


def rows_of_clip(figures: dict) -> Iterator[str]:
    found = figures["renders"]["image_to_text"]
    yield row("mini-clip: own caption found among those of 100 scenes, everything said", "0.950", found)
    partial = figures["partial"]
    yield row(
        "mini-clip, captions that say a part: own picture before all that the caption excludes "
        f"({partial['excluded']:.0f} of 100)",
        "",
        partial["text_to_image"],
    )
    edits = figures["edits"]
    told = edits["own_caption_preferred"]
    yield row(f"mini-clip, {edits['edits']} true edits: own caption before the old one", "", told)


def rows_of_text_to_image(figures: dict) -> Iterator[str]:
    asked = f"{figures['n']} held-out captions"
    yield row(f"mini-sd, {asked}: mean accuracy of what they say", "0.950", figures["mean"])
    yield row("mini-sd: all that a caption says is right", "0.800", figures["all"])
    if "second_kind" in figures["attributes"]:
        yield row("mini-sd: second object right", "0.800", figures["attributes"]["second_kind"])
    rarest = {name: rarest_value(shares) for name, shares in figures["spread"].items()}
    name = min(rarest, key=lambda name: rarest[name][1])
    value, share = rarest[name]
    yield row(
        f"mini-sd, where captions leave it open: the rarest value ({name} {value}), of its share in training",
        "0.400",
        share,
    )


def rarest_value(shares: dict[str, float]) -> tuple[str, float]:
    """The value that comes least often, and how often, of `spread`'s."""
    value = min(shares, key=lambda value: shares[value])
    return value, shares[value]


def rows_of_sharing(figures: dict) -> Iterator[str]:
    """figures: of `sharing_figures`."""
    n = figures["n"]
    yield row_of_share(
        f"Pairs of {n} partial caption pairs: valid without shared attention",
        "at most 0.500",
        figures["valid"][0],
        n,
    )
    best = f"valid with it, at the best p ({figures['p_best']:g})"
    yield row_of_share(f"Pairs of partial caption pairs: {best}", "0.800", figures["best"], n)
    yield row("Pairs of partial caption pairs: valid, each kind of edit at its best p", "", figures["each"])


def rows_of_filter(figures: dict) -> Iterator[str]:
    candidates = f"{figures['n']:,} candidates of {figures['triplets']} triplets"
    before = figures["invalid_before"]
    yield row(f"Invalid share of {candidates}, before the filter", "0.100 to 0.400", before)
    passing = f"{figures['passing']:,} that pass its thresholds"
    yield row(f"Invalid share of the {passing}", "at most 0.050", figures["invalid_passing"])
    kept = f"{figures['kept']:,} that it keeps, the best {figures['keep']} of a triplet"
    yield row(f"Invalid share of the {kept}", "at most 0.050", figures["invalid_after"])
    yield row("Triplets of which something passes, with 4 candidates", "", figures["something_of_few"])
    yield row("Triplets of which something passes, with 24 candidates", "more", figures["something_of_all"])


def rows_of_editor(figures: dict) -> Iterator[str]:
    """figures: of `editor_figures`."""
    for name, aim_of_success, aim_of_preservation, aim_of_right, what in (
        ("renders", "0.900", "0.950", "0.800", "renders"),
        ("samples", "0.900", "0.950", "0.800", "pictures by mini-sd"),
        ("reworded", "0.800", "", "0.700", "renders, reworded by hand"),
    ):
        means = figures[name]
        n = means["n"]
        yield row_of_share(f"Edit success, {n} {what}", aim_of_success, means["success"], n)
        yield row(f"Preservation, {what}", aim_of_preservation, means["preservation"])
        yield row_of_share(f"Right: both, {what}", aim_of_right, means["right"], n)
    for name, what in (
        ("image_guidance_scale", "s_I raises CLIP image similarity"),
        ("guidance_scale", "s_T raises directional similarity"),
    ):
        sweep = figures[name]
        values = ", ".join(f"{value:g}" for value in sweep["values"])
        means = ", ".join(f"{mean:.3f}" for mean in sweep["mean"])
        rises = ", ".join(f"{share:.2f}" for share in sweep["rises"])
        yield f"| {what}: at {values} | rising | {means} (each step, by bootstrap: {rises}) |"


def rows_of_fast_editor(figures: dict) -> Iterator[str]:
    """figures: of `fast_editor_figures`."""
    means = figures["renders"]
    n = means["n"]
    what = f"{n} renders, fast editor, {figures['steps']} steps"
    yield row_of_share(f"Edit success, {what}", "", means["success"], n)
    yield row(f"Preservation, {what}", "", means["preservation"])
    yield row_of_share(f"Right: both, {what}", "within 0.03 of the full one", means["right"], n)


ROWS_OF_PARTS = {
    "instructions": rows_of_instructions,
    "open-instructions": rows_of_open_instructions,
    "autoencoder": rows_of_autoencoder,
    "judge": rows_of_judge,
    "mini-clip": rows_of_clip,
    "mini-sd": rows_of_text_to_image,
    "sharing": rows_of_sharing,
    "filter": rows_of_filter,
    "mini-ip2p": rows_of_editor,
    "fast": rows_of_fast_editor,
    "editor": rows_of_editor,
}


def table_of_kinds(by_kind: dict[str, dict]) -> str:
    """by_kind: of `summary_by_kind`."""
    lines = [
        "| Kind of edit | Success | Preservation | Right (aim 0.60) | Edits |",
        "|---|---:|---:|---:|---:|",
    ]
    for kind, means in by_kind.items():
        shares = [f"{means[name]:.2f}" for name in ("success", "preservation", "right")]
        lines.append(f"| {kind} | {' | '.join(shares)} | {means['n']} |")
    return "\n".join(lines)


def table_of_survivors(editor: dict) -> str:
    """How often an attribute survives the edits that do not concern it. editor: of `editor_figures`."""
    inputs = {"renders": "Renders", "samples": "Pictures by mini-sd", "reworded": "Reworded by hand"}
    lines = [
        f"| Survives edits of something else (aim 0.95) | {' | '.join(inputs.values())} |",
        "|---|---:|---:|---:|",
    ]
    for name in SURVIVORS:
        shares = []
        for of_input in inputs:
            share = editor[of_input]["survives"].get(name)
            shares.append("" if share is None else f"{share:.2f}")
        lines.append(f"| {name} | {' | '.join(shares)} |")
    return "\n".join(lines)


def table_of_attributes(figures: dict) -> str:
    """figures: of `text_to_image_figures`."""
    lines = [
        "| Attribute | Right, where said | Rarest value, where left open, of its share in training |",
        "|---|---:|---:|",
    ]
    for name, share in figures["attributes"].items():
        rarest = ""
        if name in figures["spread"]:
            value, of_its_share = rarest_value(figures["spread"][name])
            rarest = f"{value} {of_its_share:.2f}"
        lines.append(f"| {name} | {share:.3f} | {rarest} |")
    return "\n".join(lines)


def table_of_sharing(figures: dict) -> str:
    """figures: of `sharing_figures`."""
    values = " | ".join(f"{p:g}" for p in figures["p"])
    lines = [
        f"| Valid pairs at p = | {values} | Best p | Edits |",
        "|---|" + "---:|" * (len(figures["p"]) + 2),
    ]
    for kind, valid in [*figures["kinds"].items(), ("all", figures)]:
        shares = " | ".join(f"{share:.2f}" for share in valid["valid"])
        lines.append(f"| {kind} | {shares} | {valid['p_best']:g} | {valid['n']} |")
    return "\n".join(lines)


def table_of_candidates(kinds: dict[str, dict]) -> str:
    """kinds: for each kind of edit, `validity_by_p`."""
    lines = ["| Unfiltered candidates | Valid | Valid at the best p | Best p |", "|---|---:|---:|---:|"]
    for kind, valid in kinds.items():
        lines.append(f"| {kind} | {valid['valid']:.2f} | {valid['best']:.2f} | {valid['p']:.2f} |")
    return "\n".join(lines)
