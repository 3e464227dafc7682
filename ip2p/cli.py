"""The command line: `ip2p --help`.

Heavy imports happen inside the commands, so that help and errors come at once. Each command is a function of
its arguments, and beside it stands one that declares its flags.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import traceback
from collections import Counter
from dataclasses import MISSING, fields
from pathlib import Path

from ip2p.common.errors import UserError
from ip2p.fast import DistillOptions
from ip2p.options import Job, Options, TrainOptions
from ip2p.paths import DATA, ROOT

DTYPES = ("auto", "float32", "bfloat16", "float16")
OF_MODELS = "auto: float32 on a CPU, else float16"  # what --dtype means for those that paint, edit and write
OF_TRAINING = "float32 (auto), or bfloat16 for mixed precision"
OUT_OF_MEMORY = (
    "the memory is full; what helps: for `train` --accumulate 4 (or more), --checkpointing and --lora 16, "
    "for `pairs` a smaller --batch, and where there is --low-memory, that"
)
LOW_MEMORY = "for GPUs of about 6 GB: models that do not work wait in main memory (slower)"
STOPPED = 130  # the exit status of what Ctrl-C ended


def add_flags(parser: argparse.ArgumentParser, kind: type[Options]) -> None:
    """A flag for each option of `kind` that has a help text; it is None if it is not given."""
    for f in fields(kind):
        if "help" not in f.metadata:
            continue
        about = {"help": f.metadata["help"]}
        # `is`, as 0 == False: a default of 0 is shown, a switch that is off is not
        if not any(f.default is nothing for nothing in (MISSING, None, False)):
            about["help"] += f" ({f.default:g})"
        if f.type == "bool":
            about["action"] = argparse.BooleanOptionalAction
        else:
            about["type"] = {"int": int, "float": float}.get(f.type, str)
            about["choices"] = f.metadata.get("choices")
            about["metavar"] = f.metadata.get("metavar", {"int": "N", "float": "X"}.get(f.type))
        parser.add_argument("--" + f.name.replace("_", "-"), **about)


def given(arguments: argparse.Namespace, kind: type[Options]) -> dict:
    """What the flags say, for `kind.of`."""
    return {f.name: getattr(arguments, f.name) for f in fields(kind) if hasattr(arguments, f.name)}


# ------------------------------------------------------------------------------------- the five stages


def instructions(a) -> None:
    from ip2p.instructions import run

    profile = chosen_profile(a)
    model = a.model
    if model is None and a.backend == "local":
        model = profile.language_model
    server = {}
    for name in ("base_url", "api", "shots", "in_flight", "price", "max_cost", "moderation"):
        if getattr(a, name) is not None:
            server[name] = getattr(a, name)
    counts = run(
        a.captions,
        a.out,
        a.n,
        a.backend,
        model,
        a.seed,
        a.lessons or profile.triplets,
        profile.in_world,
        shard=a.shard,
        device=a.device,  # chosen where a model runs: a server needs none, and so no PyTorch
        dtype=a.dtype,
        **server,
    )
    print_counts(counts)


def instructions_flags(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--captions", required=True, help="a text file, one caption a line")
    sub.add_argument("--n", type=int, help="stop after so many triplets")
    sub.add_argument(
        "--backend",
        default="local",
        choices=("local", "openai", "batch"),
        help="a model on this machine, a server with OpenAI's API, or its Batch API at half the price",
    )
    sub.add_argument("--model", help="a folder, a .gguf file, a hub name, or the server's name for it")
    sub.add_argument("--lessons", metavar="FILE", help="triplets to learn from, instead of the profile's")
    sub.add_argument(
        "--shard",
        type=one_of_many,
        default=(0, 1),
        metavar="I/N",
        help="for worker I of N, from 0: every N-th caption; give each worker an --out of its own",
    )
    sub.add_argument(
        "--base-url", help="the server (default: OpenAI, or OPENAI_BASE_URL); key from OPENAI_API_KEY"
    )
    sub.add_argument(
        "--api",
        choices=("completions", "chat"),
        help="settle what is otherwise tried: /v1/completions, then /v1/chat/completions",
    )
    sub.add_argument(
        "--shots", type=int, help="examples shown to the server's model (8; 0 if it was fine-tuned)"
    )
    sub.add_argument("--in-flight", type=int, help="questions asked at once (32)")
    sub.add_argument("--price", type=float, nargs=2, metavar=("IN", "OUT"), help="dollars a million tokens")
    sub.add_argument(
        "--max-cost", type=float, metavar="DOLLARS", help="stop before this is passed (with --price)"
    )
    sub.add_argument(
        "--moderation",
        action=argparse.BooleanOptionalAction,
        help="show captions and answers to the server's moderation, if it has one (it does)",
    )


def one_of_many(text: str) -> tuple[int, int]:
    """The text "2/8" -> (2, 8)."""
    numbers = re.fullmatch(r"(\d+)/(\d+)", text)
    if numbers is None:
        raise argparse.ArgumentTypeError("give I/N, such as 2/8")
    return int(numbers[1]), int(numbers[2])


def chosen_profile(a: argparse.Namespace):
    """The profile, and on which device and in which number format its models run."""
    from ip2p.profiles import get_profile

    return get_profile(a.profile, device=a.device, dtype=a.dtype, low_memory=getattr(a, "low_memory", False))


def print_counts(counts: Counter) -> None:
    print(", ".join(f"{name} {count}" for name, count in counts.items()) or "nothing left to do")


def finetune(a) -> None:
    from ip2p.backends.local import MAKER, save
    from ip2p.common.devices import choose_device
    from ip2p.common.folders import refuse_foreign
    from ip2p.dataset.triplets import read_triplets
    from ip2p.instructions import load_finetuned

    refuse_foreign(a.out, MAKER)
    profile = chosen_profile(a)
    lessons = read_triplets(a.lessons or profile.triplets)
    model, tokenizer = load_finetuned(
        a.model or profile.language_model,
        lessons,
        choose_device(a.device),
        profile.in_world,
        a.dtype,
    )
    save(model, tokenizer, a.out)
    print(
        f"saved {a.out}; serve it with `transformers serve {a.out}`, "
        "or give it to `ip2p instructions --model`"
    )


def finetune_flags(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--model", help="a .gguf file or a hub name, instead of the profile's model")
    sub.add_argument("--lessons", metavar="FILE", help="triplets to learn from, instead of the profile's")


def pairs(a) -> None:
    from ip2p.common.fitting import largest_that_fits
    from ip2p.dataset.shards import Manifest
    from ip2p.dataset.triplets import read_triplets
    from ip2p.factory.pairs import make_pairs

    triplets = read_triplets(a.triplets)
    profile = chosen_profile(a)
    begun = Manifest(a.out)
    options = given(a, Job)
    batch = options.pop("batch")
    if batch is None and begun.shards and begun.made_by:
        batch = begun.made_by["job"]["batch"]  # what fitted when the job was begun; its bytes depend on it

    def work(batch: int | None) -> Counter:
        return make_pairs(
            triplets, a.out, profile, executor=a.executor, workers=a.workers, batch=batch, **options
        )

    if a.executor == "ray":
        counts = work(batch)
    else:
        counts, _ = largest_that_fits(work, profile.batch if batch is None else batch, "pairs")
    print_counts(counts)


def pairs_flags(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--triplets", required=True)
    add_flags(sub, Job)
    sub.add_argument(
        "--executor", default="local", choices=("local", "ray"), help="in this process, or on Ray"
    )
    sub.add_argument("--workers", type=int, help="actors on the cluster, each with a model of its own")


def train(a) -> None:
    from ip2p.training import train

    profile = chosen_profile(a)
    pairs, sample = a.pairs, None
    if a.validate_every is not None:
        if a.validate_every < 1:
            raise ValueError(f"validate_every is {a.validate_every}; it must be 1 or more")
        from ip2p.dataset.shards import read_pairs
        from ip2p.study.validation import hold_out, validation

        pairs, kept_away = hold_out(read_pairs(a.pairs))
        if not pairs:
            raise ValueError(
                f"all pairs in {a.pairs} would be kept away to validate; make some of more captions"
            )
        sample = validation(kept_away, profile, a.out / "validation")
    train(
        pairs,
        a.out,
        profile,
        sample=sample,
        sample_every=a.validate_every,
        **given(a, TrainOptions),
    )
    print(f"saved {a.out}")


def train_flags(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--pairs", required=True)
    add_flags(sub, TrainOptions)
    sub.add_argument(
        "--validate-every",
        type=int,
        metavar="N",
        help="every N steps edit pairs that are kept away: a sheet and CLIP's figures in OUT/validation",
    )


def distill(a) -> None:
    from ip2p.distillation import distill

    distill(a.model, a.out, chosen_profile(a), pairs=a.pairs, **given(a, DistillOptions))
    print(f"saved {a.out}; edit with `ip2p edit IMAGE INSTRUCTION --fast --model {a.out} --out FILE`")


def distill_flags(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--model", required=True, help="the folder of an editor, the teacher")
    sub.add_argument("--pairs", help="a folder of pairs whose pictures it edits, instead of the profile's")
    add_flags(sub, DistillOptions)


def edit(a) -> None:
    from ip2p.common.durable import replacing
    from ip2p.common.images import open_image, open_mask
    from ip2p.common.picture_files import picture_format
    from ip2p.editing import load_editor

    format = picture_format(a.out)
    image = open_image(a.image)
    mask = open_mask(a.mask) if a.mask else None
    if not a.instruction.strip():
        raise ValueError('the instruction is empty; say what to change, such as "make it night"')
    profile = chosen_profile(a)
    editor = load_editor(a.model or profile, a.device, a.dtype, profile, a.fast)
    edited = editor(
        image,
        a.instruction,
        guidance_scale=a.guidance_scale,
        image_guidance_scale=a.image_guidance_scale,
        num_inference_steps=a.steps,
        seed=a.seed,
        mask=mask,
        size="keep" if a.keep_shape else None,
        scheduler=a.scheduler,
    )
    with replacing(a.out) as new:  # what was there stays until the new picture is whole
        edited.save(new, format)
    print(f"saved {a.out}")


def edit_flags(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("image")
    sub.add_argument("instruction")
    sub.add_argument("--guidance-scale", type=float, help="s_T, strength of the instruction")
    sub.add_argument("--image-guidance-scale", type=float, help="s_I, likeness to the input")
    sub.add_argument("--steps", type=int, help="denoising steps")
    sub.add_argument("--mask", help="an image: only where it is white may the picture change")
    sub.add_argument(
        "--keep-shape", action="store_true", help="edit the whole picture, not the square in its middle"
    )
    sub.add_argument(
        "--scheduler", help="class name of a diffusers scheduler (EulerAncestralDiscreteScheduler)"
    )
    sub.add_argument("--fast", action="store_true", help="by the distilled editor, in a few steps")
    sub.add_argument("--model", help="an editor's folder instead of the profile's")


def evaluate(a) -> None:
    from ip2p.study.evaluate import evaluate

    evaluate(a.model, a.out, chosen_profile(a), a.n, a.only, write=a.write)


def evaluate_flags(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--out", type=Path, metavar="DIR", help="leave the measurements there, and go on with them if stopped"
    )
    sub.add_argument("--model", help="an editor's folder; without it every bundled model is measured")
    sub.add_argument("--n", type=int, default=330, help="edits (330)")
    sub.add_argument(
        "--only", nargs="+", metavar="PART", help="without --model: only these parts, such as filter"
    )
    sub.add_argument("--write", action="store_true", help="also renew pages, model cards and data/eval")


def benchmark(a) -> None:
    from functools import partial

    from ip2p.study.benchmark import benchmark, export
    from ip2p.study.editors import open_editor, read_options

    if a.export and a.photos:
        raise ValueError("only the edits of the miniature world can be exported; leave out --photos")
    if a.export:
        print(f"wrote {export(a.export, a.n)} edits to {a.export}")
        return
    profile = chosen_profile(a)
    profile.place()  # a device that there is not is refused before anything is loaded
    open_with = partial(
        open_editor,
        profile,
        model=a.model,
        command=a.command,
        answers=a.answers,
        options=read_options(a.options),
        allow_missing=a.allow_missing,
    )
    name = a.name or default_name(a)
    if a.photos is None:
        benchmark(name, open_with, a.out, a.n, write=a.write)
        return
    if a.write:
        raise ValueError("the leaderboard is of the miniature world; leave out --write, or --photos")
    from ip2p.study.photos import benchmark_photos

    benchmark_photos(name, open_with, a.photos, profile, a.format, a.turns, a.out, a.n, a.dino)


def default_name(a: argparse.Namespace) -> str:
    """What an editor is called that was given no name. The leaderboard wants one."""
    if a.write:
        raise ValueError("say what the editor is to be called on the leaderboard: --name NAME")
    if a.model:
        return Path(a.model).resolve().name if Path(a.model).exists() else a.model
    return "command" if a.command else a.answers.resolve().name


def benchmark_flags(sub: argparse.ArgumentParser) -> None:
    editor = sub.add_mutually_exclusive_group(required=True)
    editor.add_argument(
        "--model", help="an editor's folder, profile or hub name, or any diffusers pipeline of a picture"
    )
    editor.add_argument(
        "--command",
        metavar="CALL",
        help='a program that is started for each edit, without a shell: "prog {image} {instruction} {out}"',
    )
    editor.add_argument("--answers", type=Path, metavar="DIR", help="pictures made elsewhere, DIR/ID.png")
    editor.add_argument(
        "--export",
        type=Path,
        metavar="DIR",
        help="measure nothing: write the pictures and tasks.jsonl there, for editors outside of Python",
    )
    sub.add_argument(
        "--options",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="of the editor's call, such as guidance_scale=2; of a program timeout=SECONDS (600)",
    )
    sub.add_argument("--name", help="what the editor is called (the model's name)")
    sub.add_argument("--n", type=int, help="only the first edits (all 400), or the first photographs")
    sub.add_argument(
        "--allow-missing", action="store_true", help="pictures that --answers lacks count as not done"
    )
    sub.add_argument(
        "--write", action="store_true", help="put it on the leaderboard, data/eval and docs/results.md"
    )
    sub.add_argument(
        "--photos", type=Path, metavar="DIR", help="instead of the miniature world a set of photographs"
    )
    sub.add_argument("--format", default="magicbrush", choices=("magicbrush",), help="the set's layout")
    sub.add_argument(
        "--turns",
        default="both",
        choices=("single", "multi", "both"),
        help="edit each turn's own picture, or the answer to the turn before (both)",
    )
    sub.add_argument("--dino", metavar="DIR", help="DINO's weights (facebook/dino-vits16, if it is here)")


def models(a) -> None:
    from ip2p.models.build import build

    build(a.out, a.only, a.device, a.seed, a.dtype)


def models_flags(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("action", choices=("build",))
    sub.add_argument("--only", nargs="+", metavar="PART", help="only these parts, such as mini-sd")


# ----------------------------------- the workshop: what measures, executes and documents this project itself


def hero(a) -> None:
    from ip2p.common.picture_files import picture_format
    from ip2p.teaching.hero import hero

    picture_format(a.out)
    hero(a.out, chosen_profile(a), a.seed)
    print(f"saved {a.out}")


def eye(a) -> None:
    from ip2p.study.eye import draw_sheets

    draw_sheets(a.out, chosen_profile(a))
    print(f"look at the sheets in {a.out}")


def samples(a) -> None:
    from ip2p.miniworld.samples import write

    write(a.out)
    print(f"saved the sample pictures in {a.out}")


def triplets(a) -> int:
    from ip2p.dataset.review import report

    return 0 if report(a.file, a.chat) else 1


def triplets_flags(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("action", choices=("check",))
    sub.add_argument("file")
    sub.add_argument(
        "--chat", metavar="FILE", help="also write the triplets as chats, to fine-tune a chat model"
    )


def figures(a) -> None:
    from ip2p.study.figures import make_figures

    make_figures(a.name, chosen_profile(a), a.n)


def figures_flags(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("name", nargs="*", help="which, such as figure8 (all)")
    sub.add_argument("--n", type=int, default=330, help="edits a point of a curve (330)")


def bench(a) -> None:
    from ip2p.study.speed import run_benchmark

    run_benchmark(a.name, a.n, chosen_profile(a))


def bench_flags(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "name", help="pairs, early, editing, fast, training, filter, ray, finetuning, memory or sd15"
    )
    sub.add_argument("--n", type=int, help="caption pairs, rounds, steps, or (sd15) pixels of a side")


def notebooks(a) -> int:
    from ip2p.teaching import colab, pages, run_notebooks

    if a.readme:
        pages.renew_readme_table(a.out)
        return 0
    if a.assignments:
        from ip2p.teaching.assignments import write_assignments

        print(f"wrote {len(write_assignments(a.assignments, a.notebooks))} notebooks to {a.assignments}")
        return 0
    if a.colab:
        for path in sorted(a.notebooks.glob("*.ipynb")):
            colab.prepare_for_colab(path, a.colab)
        return 0
    values = {name: run_notebooks.value_of(value) for name, value in a.p}
    return 0 if run_notebooks.run_notebooks(a.only or run_notebooks.STAGES, a.out, values, a.notebooks) else 1


def notebooks_flags(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--only",
        nargs="+",
        metavar="NN",
        help="these notebooks instead of 00 to 05, by number or name: 06",
    )
    sub.add_argument(
        "-p",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="set a parameter in every notebook that has it: -p PROFILE sd15",
    )
    sub.add_argument(
        "--notebooks", type=Path, default=ROOT / "notebooks", metavar="DIR", help="where they are"
    )
    sub.add_argument(
        "--colab",
        metavar="OWNER/NAME",
        help="do not run anything: give every notebook a badge and a "
        "first cell that open it in Colab from this repository on GitHub",
    )
    sub.add_argument(
        "--assignments",
        type=Path,
        metavar="DIR",
        help="do not run anything: copy the notebooks there without solutions, with nbgrader's marks",
    )
    sub.add_argument(
        "--readme",
        action="store_true",
        help="do not run anything: renew the README's table from the last run",
    )


def site(a) -> None:
    from ip2p.teaching.site import build_site

    print(f"Open this in a browser: {build_site(a.out).resolve()}")


def doctor(a) -> int:
    from ip2p.doctor import examine
    from ip2p.profiles import get_profile

    return 0 if examine(get_profile(a.profile)) else 1


def docs(a) -> None:
    from ip2p.teaching.docs import renew

    renew()


# ------------------------------------------------------------------------------------------- all of them

OUT = ROOT / "out"


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser("ip2p", description="InstructPix2Pix, stage by stage.")
    commands = main.add_subparsers(required=True, metavar="COMMAND")

    def command(
        function,
        help: str,
        flags=None,
        shared: str = "",
        out: Path | None = None,
        dtype: str = OF_MODELS,
        resumes=False,
    ):
        """shared: which flags it has of those that several commands have; out: the default of --out, which
        must be given otherwise; dtype: what --dtype means; resumes: whether it goes on with what a stopped
        one left."""
        sub = commands.add_parser(function.__name__, help=help, description=help)
        sub.set_defaults(run=function, resumes=resumes)
        names = shared.split()
        if "profile" in names:
            sub.add_argument("--profile", default="mini", help="mini (bundled) or sd15 (the paper's models)")
        if "seed" in names:
            sub.add_argument("--seed", type=int, default=0)
        if "out" in names:
            sub.add_argument("--out", type=Path, required=out is None, default=out)
        if "device" in names:
            sub.add_argument("--device", default="auto", help="auto (the default), cpu, cuda or mps")
            sub.add_argument("--dtype", default="auto", choices=DTYPES, help=dtype)
        if "memory" in names:
            sub.add_argument("--low-memory", action="store_true", help=LOW_MEMORY)
        if flags:
            flags(sub)

    stage = "profile seed out device"
    paints = stage + " memory"
    command(instructions, "stage 1: captions in, edit triplets out", instructions_flags, stage, resumes=True)
    command(
        finetune,
        "stage 1: teach a language model by hand-written triplets, and save it",
        finetune_flags,
        "profile out device",
        resumes=True,
        dtype="auto: float32, or bfloat16 where that is faster; the weights are float32",
    )
    command(pairs, "stages 2 and 3: triplets in, filtered image pairs out", pairs_flags, paints, resumes=True)
    command(train, "stage 4: pairs in, an editor out", train_flags, stage, dtype=OF_TRAINING, resumes=True)
    command(
        distill,
        "beyond the paper: teach an editor to edit in a few steps",
        distill_flags,
        stage,
        dtype=OF_TRAINING,
        resumes=True,
    )
    command(edit, "stage 5: edit a picture as a sentence says", edit_flags, paints)
    command(
        evaluate,
        "measure an editor, or every bundled model and the figures of the README and docs/",
        evaluate_flags,
        "profile device memory",
    )
    command(
        benchmark,
        "measure any editor on 400 edits whose truth is known, or on a set of photographs",
        benchmark_flags,
        "profile out device",
        out=Path("out") / "benchmark",
        resumes=True,
    )
    command(
        models,
        "build: train every bundled model from nothing",
        models_flags,
        "seed out device",
        dtype="of its trainings: " + OF_TRAINING,
        resumes=True,
    )
    command(hero, "draw the picture at the top of the README", shared=paints)
    command(
        eye, "draw sheets on which an eye can check the judge", shared="profile device out", out=OUT / "eye"
    )
    command(samples, "draw the sample pictures", shared="out", out=DATA / "images")
    command(triplets, "check: what is wrong with a file of triplets", triplets_flags)
    command(
        figures,
        "measure the paper's curves and ablations (hours on a CPU)",
        figures_flags,
        "profile device",
        resumes=True,
    )
    command(
        bench,
        "time one thing against another, and write the table into docs/benchmarks.md",
        bench_flags,
        "profile device",
    )
    command(
        notebooks, "execute the notebooks, and make pages with an index of them", notebooks_flags, "out", OUT
    )
    command(site, "make a static site of the executed notebooks", shared="out", out=OUT)
    command(doctor, "what a bug report needs, and what to do about what is missing", shared="profile")
    command(docs, "renew the checksums in data/README.md, and settings in docs/settings.md")
    return main


def is_out_of_memory(error: Exception) -> bool:
    """Whether PyTorch raised `error` because the memory of the device, or of the machine, is full."""
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("out of memory", "can't allocate memory")
    )


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except (ValueError, OSError, UserError, ImportError) as error:
        print(f"ip2p: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        if is_out_of_memory(error):
            print(f"ip2p: {OUT_OF_MEMORY}", file=sys.stderr)
            return 1
        traceback.print_exc()
        print("ip2p: this is a fault of ip2p itself; please report it with the lines above", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        # only with --out does an evaluation leave anything
        goes_on = args.out is not None if args.run is evaluate else args.resumes
        kept = "; what is done is kept, and the same command goes on" if goes_on else ""
        print(f"ip2p: stopped{kept}", file=sys.stderr)
        return STOPPED


def command() -> None:
    """What `ip2p` runs. After Ctrl-C it leaves at once: the interpreter would tidy up for another second."""
    status = main()
    if status == STOPPED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    command()
