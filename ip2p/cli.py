"""The command line: `ip2p --help`. Heavy imports happen inside the commands, so that help and errors come at once."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def instructions(a) -> None:
    from ip2p.instructions import run
    from ip2p.profiles import get_profile

    profile = get_profile(a.profile)
    counts = run(a.captions, a.out, a.n, a.backend, a.model, a.seed, profile.triplets, profile.in_world)
    print(", ".join(f"{name} {count}" for name, count in counts.items()) or "nothing left to do")


def pairs(a) -> None:
    from ip2p.instructions import read_triplets
    from ip2p.pairs import make_pairs

    counts = make_pairs(read_triplets(a.triplets), a.out, a.profile, candidates=a.candidates, keep=a.keep,
                        steps=a.steps, attention=a.attention, seed=a.seed)
    print(", ".join(f"{name} {count}" for name, count in counts.items()) or "nothing left to do")


def train(a) -> None:
    from ip2p.training import train

    train(a.pairs, a.out, a.profile, steps=a.steps, seed=a.seed)
    print(f"saved {a.out}")


def edit(a) -> None:
    from ip2p.editing import load_editor, open_image

    image = open_image(a.image)
    if not a.instruction.strip():
        raise ValueError('the instruction is empty; say what to change, such as "make it night"')
    editor = load_editor(a.model or a.profile)
    edited = editor(image, a.instruction, guidance_scale=a.guidance_scale,
                    image_guidance_scale=a.image_guidance_scale, num_inference_steps=a.steps, seed=a.seed)
    edited.save(a.out)
    print(f"saved {a.out}")


def evaluate(a) -> None:
    from ip2p.evaluation import evaluate

    evaluate(a.model, a.out, a.profile, a.n)


def models(a) -> None:
    from ip2p.models.build import build

    build(a.out, a.only, a.device, a.seed)


def hero(a) -> None:
    from ip2p.hero import hero

    hero(a.out, a.profile, a.seed)
    print(f"saved {a.out}")


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser("ip2p", description=__doc__.split(":")[0] + " of InstructPix2Pix, stage by stage.")
    commands = main.add_subparsers(required=True, metavar="COMMAND")

    def command(function, help: str, out: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(function.__name__, help=help, description=help)
        sub.set_defaults(run=function)
        sub.add_argument("--profile", default="mini", help="mini (bundled) or sd15 (the paper's models)")
        sub.add_argument("--seed", type=int, default=0)
        sub.add_argument("--out", required=out, type=Path)
        return sub

    sub = command(instructions, "stage 1: captions in, edit triplets out")
    sub.add_argument("--captions", required=True, help="a text file, one caption a line")
    sub.add_argument("--n", type=int, help="stop after so many triplets")
    sub.add_argument("--backend", default="local", choices=("local", "openai"))
    sub.add_argument("--model", help="language model: a folder, a hub name, or the server's name for it")
    sub = command(pairs, "stages 2 and 3: triplets in, filtered image pairs out")
    sub.add_argument("--triplets", required=True)
    sub.add_argument("--candidates", type=int, help="candidates a caption pair")
    sub.add_argument("--keep", type=int, help="pairs kept at most of a caption pair")
    sub.add_argument("--steps", type=int, help="denoising steps")
    sub.add_argument("--attention", choices=("self", "cross", "both"), help="which attention the two images share")
    sub = command(train, "stage 4: pairs in, an editor out")
    sub.add_argument("--pairs", required=True)
    sub.add_argument("--steps", type=int, help="optimiser steps")
    sub = command(edit, "stage 5: edit a picture as a sentence says")
    sub.add_argument("image")
    sub.add_argument("instruction")
    sub.add_argument("--guidance-scale", type=float, help="s_T, strength of the instruction")
    sub.add_argument("--image-guidance-scale", type=float, help="s_I, likeness to the input")
    sub.add_argument("--steps", type=int, help="denoising steps")
    sub.add_argument("--model", help="an editor's folder instead of the profile's")
    sub = command(evaluate, "measure an editor, or every bundled model and the figures of the README", out=False)
    sub.add_argument("--model", help="an editor's folder; without it every bundled model is measured")
    sub.add_argument("--n", type=int, default=300, help="edits (300)")
    sub = command(models, "build: train every bundled model from nothing")
    sub.add_argument("action", choices=("build",))
    sub.add_argument("--only", nargs="+", metavar="PART", help="only these parts, such as mini-sd")
    sub.add_argument("--device", default="cpu")
    command(hero, "draw the picture at the top of the README")
    return main


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        args.run(args)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"ip2p: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
