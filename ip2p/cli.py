"""The command line: `ip2p --help`. Heavy imports happen inside the commands, so that help and errors come at once."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ip2p.paths import DATA, ROOT


def instructions(a) -> None:
    from ip2p.instructions import run
    from ip2p.profiles import get_profile

    profile = get_profile(a.profile)
    server = {
        name: value
        for name in ("base_url", "api", "shots", "in_flight", "price", "max_cost")
        if (value := getattr(a, name)) is not None
    }
    counts = run(
        a.captions,
        a.out,
        a.n,
        a.backend,
        a.model or (profile.language_model if a.backend == "local" else ""),
        a.seed,
        a.lessons or profile.triplets,
        profile.in_world,
        shard=a.shard,
        own=None if a.lessons else profile.own_triplets,
        **server,
    )
    print(", ".join(f"{name} {count}" for name, count in counts.items()) or "nothing left to do")


def finetune(a) -> None:
    from ip2p.backends.local import MAKER
    from ip2p.common.folders import refuse_foreign
    from ip2p.dataset.triplets import read_triplets
    from ip2p.instructions import load_finetuned, save_language_model
    from ip2p.profiles import get_profile

    refuse_foreign(a.out, MAKER)
    profile = get_profile(a.profile)
    lessons = read_triplets(a.lessons or profile.triplets)
    own = read_triplets(profile.own_triplets) if profile.own_triplets and not a.lessons else ()
    model = load_finetuned(a.model or profile.language_model, lessons, world=profile.in_world, own=own)
    save_language_model(*model, a.out)
    print(
        f"saved {a.out}; serve it with `transformers serve {a.out}`, or give it to `ip2p instructions --model`"
    )


def pairs(a) -> None:
    from ip2p.dataset.triplets import read_triplets
    from ip2p.factory.pairs import make_pairs

    counts = make_pairs(
        read_triplets(a.triplets),
        a.out,
        a.profile,
        seed=a.seed,
        executor=a.executor,
        workers=a.workers,
        candidates=a.candidates,
        keep=a.keep,
        steps=a.steps,
        attention=a.attention,
        per_seed=a.per_seed,
        enough=a.enough,
    )
    print(", ".join(f"{name} {count}" for name, count in counts.items()) or "nothing left to do")


def train(a) -> None:
    from ip2p.training import train

    rows, look = a.pairs, None
    if a.validate_every:
        from ip2p.dataset.shards import read_pairs
        from ip2p.profiles import get_profile
        from ip2p.study.validation import hold_out, validation

        rows, kept = hold_out(read_pairs(a.pairs))
        look = validation(kept, get_profile(a.profile), a.out / "validation")
    train(
        rows,
        a.out,
        a.profile,
        steps=a.steps,
        seed=a.seed,
        batch=a.batch,
        lr=a.lr,
        start=a.start,
        sample=look,
        sample_every=a.validate_every,
        augment=a.augment,
        accumulate=a.accumulate,
        mixed_precision=a.mixed_precision,
        lora=a.lora,
        checkpointing=a.checkpointing,
        gamma=a.gamma,
        dropout=a.dropout,
        eight_bit=a.eight_bit,
        keep=a.keep,
        tensorboard=a.tensorboard,
        device=a.device,
    )
    print(f"saved {a.out}")


def edit(a) -> None:
    from ip2p.common.images import open_image
    from ip2p.editing import load_editor

    image, mask = open_image(a.image), open_image(a.mask) if a.mask else None
    if not a.instruction.strip():
        raise ValueError('the instruction is empty; say what to change, such as "make it night"')
    editor = load_editor(a.model or a.profile, profile=a.profile)
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
        guidance_every=a.guidance_every,
    )
    edited.save(a.out)
    print(f"saved {a.out}")


def evaluate(a) -> None:
    from ip2p.study.evaluate import evaluate

    evaluate(a.model, a.out, a.profile, a.n, a.only, write=a.write)


def models(a) -> None:
    from ip2p.models.build import build

    build(a.out, a.only, a.device, a.seed)


def hero(a) -> None:
    from ip2p.teaching.hero import hero

    hero(a.out, a.profile, a.seed)
    print(f"saved {a.out}")


def samples(a) -> None:
    from ip2p.miniworld.samples import write

    write(a.out)
    print(f"saved the sample pictures in {a.out}")


def triplets(a) -> int:
    from ip2p.dataset.checks import report

    return 0 if report(a.file, a.chat) else 1


def figures(a) -> None:
    from ip2p.study.figures import make_figures

    make_figures(a.name, a.profile, a.n)


def bench(a) -> None:
    from ip2p.study.speed import run_benchmark

    run_benchmark(a.name, a.n)


def notebooks(a) -> int:
    from ip2p.teaching import colab, pages, run_notebooks

    if a.readme:
        pages.renew_readme_table(a.out)
        return 0
    if a.colab:
        for path in sorted(a.notebooks.glob("*.ipynb")):
            colab.prepare_for_colab(path, a.colab)
        return 0
    values = {name: run_notebooks.value_of(value) for name, value in a.p}
    return 0 if run_notebooks.run_notebooks(a.only, a.out, values, a.notebooks) else 1


def site(a) -> None:
    from ip2p.teaching.site import build_site

    print(f"Open this in a browser: {build_site(a.out).resolve()}")


def docs(a) -> None:
    from ip2p.teaching.docs import renew

    renew()


def shard(text: str) -> tuple[int, int]:
    i, n = map(int, text.split("/"))
    return i, n


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(
        "ip2p", description=__doc__.split(":")[0] + " of InstructPix2Pix, stage by stage."
    )
    commands = main.add_subparsers(required=True, metavar="COMMAND")

    def command(function, help: str, out: bool | Path = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(function.__name__, help=help, description=help)
        sub.set_defaults(run=function)
        sub.add_argument("--profile", default="mini", help="mini (bundled) or sd15 (the paper's models)")
        sub.add_argument("--seed", type=int, default=0)
        default = out if isinstance(out, Path) else None
        sub.add_argument("--out", required=out is True, default=default, type=Path)
        return sub

    sub = command(instructions, "stage 1: captions in, edit triplets out")
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
        type=shard,
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
    sub = command(finetune, "stage 1: teach a language model by hand-written triplets, and save it")
    sub.add_argument("--model", help="a .gguf file or a hub name, instead of the profile's model")
    sub.add_argument("--lessons", metavar="FILE", help="triplets to learn from, instead of the profile's")
    sub = command(pairs, "stages 2 and 3: triplets in, filtered image pairs out")
    sub.add_argument("--triplets", required=True)
    sub.add_argument("--candidates", type=int, help="candidates a caption pair")
    sub.add_argument("--keep", type=int, help="pairs kept at most of a caption pair")
    sub.add_argument("--steps", type=int, help="denoising steps")
    sub.add_argument(
        "--attention", choices=("self", "cross", "both"), help="which attention the two images share"
    )
    sub.add_argument(
        "--per-seed",
        type=int,
        help="candidates of one seed, which share what they have in common "
        "(1: a seed for each, as the authors do)",
    )
    sub.add_argument(
        "--enough",
        action=argparse.BooleanOptionalAction,
        help="stop painting for a caption pair that has as many good pairs as are kept",
    )
    sub.add_argument(
        "--executor", default="local", choices=("local", "ray"), help="in this process, or on Ray"
    )
    sub.add_argument("--workers", type=int, help="actors on the cluster, each with a model of its own")
    sub = command(train, "stage 4: pairs in, an editor out")
    sub.add_argument("--pairs", required=True)
    sub.add_argument("--steps", type=int, help="optimiser steps")
    sub.add_argument(
        "--batch", type=int, help="pairs a step, of all processes together (`accelerate launch`)"
    )
    sub.add_argument("--lr", type=float, help="peak learning rate")
    sub.add_argument(
        "--start", metavar="DIR", help="an editor to go on from, instead of the text-to-image model"
    )
    sub.add_argument(
        "--augment", action="store_true", help="resize, crop and mirror the pairs at random (slower)"
    )
    sub.add_argument("--accumulate", type=int, default=1, help="work through a batch in so many parts")
    sub.add_argument("--mixed-precision", default="no", choices=("no", "bf16"))
    sub.add_argument("--checkpointing", action="store_true", help="less memory, more time")
    sub.add_argument(
        "--lora",
        type=int,
        default=0,
        metavar="RANK",
        help="train adapters of the attention, in the end merged",
    )
    sub.add_argument("--gamma", type=float, default=5.0, help="of the min-SNR weights; inf: none")
    sub.add_argument(
        "--dropout",
        type=float,
        default=0.05,
        metavar="RATE",
        help="how often the text alone, the image alone, and both are left out (0.05 each)",
    )
    sub.add_argument("--eight-bit", action="store_true", help="AdamW with 8-bit moments (needs bitsandbytes)")
    sub.add_argument("--keep", type=int, default=2, help="checkpoints to keep (2)")
    sub.add_argument(
        "--validate-every",
        type=int,
        default=0,
        metavar="N",
        help="every N steps edit pairs that are kept away: a sheet and CLIP's figures in OUT/validation",
    )
    sub.add_argument(
        "--tensorboard", action="store_true", help="the loss for TensorBoard, too, in OUT/tensorboard"
    )
    sub.add_argument("--device", default="cpu", help="cpu, or cuda for a GPU")
    sub = command(edit, "stage 5: edit a picture as a sentence says")
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
    sub.add_argument(
        "--guidance-every",
        type=int,
        default=1,
        metavar="N",
        help="faster, not exact: all three "
        "predictions in every N-th step, only the last of them in the others",
    )
    sub.add_argument("--model", help="an editor's folder instead of the profile's")
    sub = command(
        evaluate, "measure an editor, or every bundled model and the figures of the README", out=False
    )
    sub.add_argument("--model", help="an editor's folder; without it every bundled model is measured")
    sub.add_argument("--n", type=int, default=300, help="edits (300)")
    sub.add_argument(
        "--only", nargs="+", metavar="PART", help="without --model: only these parts, such as filter"
    )
    sub.add_argument("--write", action="store_true", help="also renew README, model cards and data/eval")
    sub = command(models, "build: train every bundled model from nothing")
    sub.add_argument("action", choices=("build",))
    sub.add_argument("--only", nargs="+", metavar="PART", help="only these parts, such as mini-sd")
    sub.add_argument("--device", default="cpu")
    command(hero, "draw the picture at the top of the README")

    # the workshop: what measures, executes and documents this project itself
    sub = command(samples, "draw the sample pictures", out=DATA / "images")
    sub = command(triplets, "check: what is wrong with a file of open-domain triplets", out=False)
    sub.add_argument("action", choices=("check",))
    sub.add_argument("file")
    sub.add_argument(
        "--chat", metavar="FILE", help="also write the triplets as chats, to fine-tune a chat model"
    )
    sub = command(figures, "measure the paper's curves and ablations (hours on a CPU)", out=False)
    sub.add_argument("name", nargs="*", help="which, such as figure8 (all)")
    sub.add_argument("--n", type=int, default=300, help="edits a point of a curve (300)")
    sub = command(bench, "time one thing against another, and write the table into the README", out=False)
    sub.add_argument(
        "name", help="pairs, early, editing, guidance, training, filter, ray, finetuning or memory"
    )
    sub.add_argument("--n", type=int, help="caption pairs, rounds of edits or steps")
    sub = command(notebooks, "execute the notebooks, and make pages with an index of them", out=ROOT / "out")
    sub.add_argument(
        "--only",
        nargs="+",
        metavar="NN",
        default=("00", "01", "02", "03", "04", "05"),
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
        "--readme",
        action="store_true",
        help="do not run anything: renew the README's table from the last run",
    )
    command(site, "make a static site of the executed notebooks", out=ROOT / "out")
    command(docs, "renew the checksums in data/README.md, and settings in README.md", out=False)
    return main


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        print(f"ip2p: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ip2p: stopped; what is done is kept, and the same command goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
