"""Editors from anywhere, asked in one way: a picture and a sentence in, a picture out.

Four kinds: ours (`ip2p.editing`), any diffusers pipeline that takes `image` and `prompt`, any program that
reads and writes files, and pictures that were made elsewhere. `open_editor` gives one of them.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, Protocol

import torch
from accelerate.utils.memory import should_reduce_batch_size
from PIL import Image

from ip2p.common.durable import digest, name_of_model, refuse_broken
from ip2p.common.fitting import largest_that_fits
from ip2p.common.images import open_image
from ip2p.editing import load_editor
from ip2p.options import refuse_outside
from ip2p.profiles import PROFILES, Profile, get_profile, quiet_loading
from ip2p.study.measures import BATCH

STRETCHED = 1.2  # an answer may be wider or higher by this factor, as editors round sides to what they paint
OURS = "StableDiffusionInstructPix2PixPipeline"  # the class of pipeline that `ip2p.editing` runs itself


class Question(NamedTuple):
    """One edit that an editor is asked for."""

    id: str  # what its picture is called, without ".png"; may have a folder in front
    image: Image.Image
    instruction: str
    seed: int


class NotDone(NamedTuple):
    """What an editor gave instead of a picture."""

    why: str


Answer = Image.Image | NotDone


class AnyEditor(Protocol):
    """identity: what it is and how it is asked, as JSON: rows of another identity are not its own. at_once:
    questions that it likes to have together."""

    identity: dict
    at_once: int

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """An answer each. Raises ValueError for what will not be better with the next question."""
        ...


def open_editor(
    profile: Profile,
    ids: Sequence[str],
    *,
    model: str | None = None,
    command: str | None = None,
    answers: str | Path | None = None,
    options: dict | None = None,
    allow_missing: bool = False,
) -> AnyEditor:
    """The editor that was named: by one of model, command and answers.

    ids: of all questions to come. options: of the editor's call; of a command "timeout" alone, in seconds.
    Raises ValueError, one sentence, for what there is not.
    """
    options = dict(options or {})
    if command is not None:
        return Command(command, **known_options("a command", options, ("timeout",)))
    if answers is not None:
        known_options("a folder of answers", options, ())
        return Answers(Path(answers), ids, allow_missing)
    if model is None:
        raise ValueError("there is no editor; name one by --model, --command or --answers")
    if model in PROFILES:
        profile = get_profile(model, device=profile.device, dtype=profile.dtype)
        return OurEditor(profile.editor, profile, options)
    if class_of(model) == OURS and "pipeline" not in options:
        return OurEditor(model, defaults_of(model, profile), options)
    return Pipeline(model, profile, options)


def read_options(texts: Sequence[str]) -> dict:
    """["steps=4", "mode=soft"] -> {"steps": 4, "mode": "soft"}; values are JSON, or else text."""
    options = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not name or not sign:
            raise ValueError(f"{text!r} is no option; write NAME=VALUE, such as guidance_scale=2")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


def known_options(whose: str, options: dict, known: Sequence[str]) -> dict:
    """The options. Raises ValueError for one that is not known."""
    for name in options:
        if name not in known:
            there = f"it knows {', '.join(known)}" if known else "it has none"
            raise ValueError(f"{whose} has no option {name!r}; {there}")
    return options


def other_shape(question: Question, picture: Image.Image) -> str | None:
    """What is wrong with the shape of an answer; None: nothing. Its size is free, as it is scaled."""
    asked, given = question.image, picture
    stretched = (given.width / given.height) / (asked.width / asked.height)
    if 1 / STRETCHED <= stretched <= STRETCHED:
        return None
    return f"{given.width} x {given.height} for a picture of {asked.width} x {asked.height}"


# ------------------------------------------------------------------------------------------------- models


def class_of(model: str) -> str:
    """The class of a diffusers pipeline, in a folder or of the hub. Raises ValueError if there is none."""
    import diffusers

    folder = Path(model)
    if not folder.exists() and "/" not in model:
        raise ValueError(f"there is no profile or folder {model!r}; profiles are {', '.join(PROFILES)}")
    if folder.exists() and not (folder / "model_index.json").is_file():
        raise ValueError(f"{model} is no diffusers model: it has no model_index.json")
    refuse_broken(model)
    try:
        return diffusers.DiffusionPipeline.load_config(model)["_class_name"]
    except OSError as error:
        raise cannot_load(model, error) from error


def cannot_load(model: str, error: Exception) -> ValueError:
    why = first_line(error)
    return ValueError(
        f"cannot load {model}: give a diffusers folder, or connect to the hub once to download it ({why})"
    )


def cannot_ask(who: str, error: Exception) -> ValueError:
    return ValueError(f"{who} cannot be asked so ({first_line(error)}); check --options")


def first_line(error: Exception | str) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def defaults_of(model: str, profile: Profile) -> Profile:
    """The profile whose editor it is, with the scales that fit it; else `profile`."""
    for known in PROFILES.values():
        if known.editor == model:
            return get_profile(known, device=profile.device, dtype=profile.dtype)
    return profile


def identity_of_model(model: str, call: str, options: dict, place: tuple) -> dict:
    """place: device and number format."""
    device, dtype = place
    return {
        "editor": name_of_model(model),
        "call": call,
        "options": options,
        "device": device.type,
        "dtype": str(dtype).removeprefix("torch."),
    }


class OurEditor:
    """An `ip2p.editing.Editor`; the scales and steps of `profile`, unless the options say otherwise.

    Options: guidance_scale, image_guidance_scale, num_inference_steps, scheduler, and fast (by the distilled
    UNet). A picture that is no square is edited as a whole, in its own shape.
    """

    NAMES = ("guidance_scale", "image_guidance_scale", "num_inference_steps", "scheduler", "fast")

    def __init__(self, model: str, profile: Profile, options: dict):
        known_options("our editor", options, self.NAMES)
        place = profile.place()
        s_t, s_i, steps = profile.guidance_scale, profile.image_guidance_scale, profile.steps
        self.options = dict(options)
        fast = bool(self.options.pop("fast", False))
        self.editor = load_editor(model, profile=profile, fast=fast)
        asked = {"guidance_scale": s_t, "image_guidance_scale": s_i, "num_inference_steps": steps}
        if fast and self.editor.fast:
            asked["num_inference_steps"] = self.editor.fast.steps
        self.identity = identity_of_model(model, "ip2p", asked | options, place)
        self.at_once = BATCH

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        work = partial(self.in_parts, questions)
        pictures, self.at_once = largest_that_fits(work, self.at_once, "edits")
        return pictures

    def in_parts(self, questions: Sequence[Question], size: int) -> list[Answer]:
        """size: questions at once."""
        pictures = []
        for start in range(0, len(questions), size):
            pictures += self.edit(questions[start : start + size])
        return pictures

    def edit(self, questions: Sequence[Question]) -> list[Image.Image]:
        """One batch where all are squares; else one at a time."""
        long = [question for question in questions if question.image.width != question.image.height]
        if long and len(questions) > 1:
            return self.in_parts(questions, 1)
        images = [question.image for question in questions]
        instructions = [question.instruction for question in questions]
        seeds = [question.seed for question in questions]
        size = "keep" if long else None
        try:
            return self.editor.many(images, instructions, seeds=seeds, size=size, **self.options)
        except TypeError as error:  # a text where a number is wanted
            raise cannot_ask("the editor", error) from None


class Pipeline:
    """A diffusers pipeline that takes `image` and `prompt`, asked by its own call, one picture at a time.

    Options are those of the call, and two of ours: pipeline, the class to load it as (a text-to-image model
    edits as "StableDiffusionImg2ImgPipeline"), and size, pixels of the shorter side to which the picture is
    scaled beforehand (512 for Stable Diffusion 1.5).
    """

    at_once = 1

    def __init__(self, model: str, profile: Profile, options: dict):
        place = profile.place()
        self.name = model
        self.options = dict(options)
        self.size = self.options.pop("size", None)
        if self.size is not None:
            refuse_outside("size", self.size, "count")
        self.pipe = load_pipeline(model, self.options.pop("pipeline", None), *place)
        self.pipe.set_progress_bar_config(disable=True)
        call = type(self.pipe).__name__
        self.parameters = inspect.signature(self.pipe.__call__).parameters
        if not {"image", "prompt"} <= set(self.parameters):
            raise ValueError(
                f"{call} does not take a picture and a sentence; choose a pipeline with image and prompt, "
                "such as --options pipeline=StableDiffusionImg2ImgPipeline"
            )
        known_options(call, self.options, tuple(self.parameters))
        self.identity = identity_of_model(model, call, options, place)

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        return [self.edit(question) for question in questions]

    def edit(self, question: Question) -> Image.Image:
        asked = dict(self.options)
        if "generator" in self.parameters:
            asked["generator"] = torch.Generator().manual_seed(question.seed)
        image = question.image if self.size is None else scaled(question.image, self.size)
        try:
            picture = self.pipe(image=image, prompt=question.instruction, **asked).images[0]
        except Exception as error:
            if should_reduce_batch_size(error):  # no memory: the command line has a sentence for it
                raise
            raise cannot_ask(self.name, error) from error
        wrong = other_shape(question, picture)
        if wrong:
            raise ValueError(
                f"{self.name} answers {wrong}; give --options under which it keeps the shape, such as "
                "height=512 width=512"
            )
        return picture


def load_pipeline(model: str, as_class: str | None, device: torch.device, dtype: torch.dtype):
    """A diffusers pipeline, as what it was saved as, or as the class that is named."""
    import diffusers

    kind = getattr(diffusers, as_class or "DiffusionPipeline", None)
    if kind is None:
        raise ValueError(f"diffusers has no pipeline {as_class!r}; check the name")
    quiet_loading()
    try:
        return kind.from_pretrained(model, dtype=dtype).to(device)
    except (OSError, ValueError, TypeError) as error:
        raise cannot_load(model, error) from error


def scaled(image: Image.Image, side: int) -> Image.Image:
    """The picture with a shorter side of `side` pixels, in its own shape."""
    factor = side / min(image.size)
    size = (round(image.width * factor), round(image.height * factor))
    return image.resize(size, Image.Resampling.LANCZOS)


# ----------------------------------------------------------------------------------------------- programs

PLACES = ("{image}", "{instruction}", "{out}")
EXAMPLE = 'write it like "edit {image} {instruction} {out}"'


class Command:
    """A program that is started for each edit, without a shell: "edit {image} {instruction} {out}".

    {image} is a PNG file to read and {out} one to write. An edit that fails, for whatever reason, is not
    done; the next one is asked all the same. timeout: seconds for one edit.
    """

    at_once = 1

    def __init__(self, template: str, timeout: float = 600):
        refuse_outside("timeout", timeout, (0, 10**6), "float")
        try:
            self.parts = shlex.split(template)
        except ValueError as error:
            raise ValueError(f"the command cannot be read ({error}); {EXAMPLE}") from None
        for place in PLACES:
            if not any(place in part for part in self.parts):
                raise ValueError(f"the command has no {place}; {EXAMPLE}")
        if shutil.which(self.parts[0]) is None:
            raise ValueError(f"there is no program {self.parts[0]}; check the command")
        self.timeout = timeout
        files = {part: digest(Path(part))[:12] for part in self.parts if Path(part).is_file()}
        self.identity = {"editor": f"command {template}", "files": files}

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        return [self.edit(question) for question in questions]

    def edit(self, question: Question) -> Answer:
        with TemporaryDirectory() as work:
            image = Path(work, "image.png")
            out = Path(work, "out.png")
            question.image.save(image)
            failed = self.run({"image": image, "instruction": question.instruction, "out": out}, Path(work))
            if failed:
                return NotDone(failed)
            if not out.is_file():
                return NotDone("the command wrote no picture")
            try:
                picture = open_image(out, "its answer")
            except ValueError as error:
                return NotDone(str(error))
        wrong = other_shape(question, picture)
        return NotDone(f"the command answers {wrong}; let it keep the shape") if wrong else picture

    def run(self, values: dict, work: Path) -> str | None:
        """Start the program. Returns why it failed; None: it did not."""
        call = []
        for part in self.parts:  # in one go, as an instruction may hold "{out}"
            call.append(re.sub(r"\{(image|instruction|out)\}", lambda place: str(values[place[1]]), part))
        log = work / "log.txt"  # a file: a pipe would stay open while a grandchild lives
        try:
            with open(log, "wb") as said:
                done = subprocess.run(
                    call, stdin=subprocess.DEVNULL, stdout=said, stderr=said, timeout=self.timeout
                )
        except subprocess.TimeoutExpired:
            return f"the command took longer than {self.timeout:g} s"
        except OSError as error:
            return f"the command cannot be started ({error.strerror})"
        if done.returncode == 0:
            return None
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = f": {lines[-1].strip()}" if lines else ""
        return f"the command failed with status {done.returncode}{last}"


# --------------------------------------------------------------------------------- pictures made elsewhere


class Answers:
    """A folder with the answers to all questions, ID.png each.

    Raises ValueError if one is missing; with `allow_missing` that one is not done.
    """

    at_once = BATCH

    def __init__(self, folder: Path, ids: Sequence[str], allow_missing: bool = False):
        if not folder.is_dir():
            raise ValueError(f"there is no folder {folder}; give one with a picture ID.png for each edit")
        self.folder = folder
        missing = [name for name in ids if not self.path(name).is_file()]
        if missing and (not allow_missing or len(missing) == len(ids)):
            raise ValueError(
                f"{folder} lacks {len(missing)} of {len(ids)} pictures, such as {missing[0]}.png; put them "
                "there, or give --allow-missing to count them as not done"
            )
        sha256 = hashlib.sha256()
        for name in ids:
            if self.path(name).is_file():
                sha256.update(f"{name} {digest(self.path(name))}\n".encode())
        self.identity = {"editor": f"answers {folder.resolve().name}", "pictures": sha256.hexdigest()[:12]}

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.png"

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        return [self.read(question) for question in questions]

    def read(self, question: Question) -> Answer:
        path = self.path(question.id)
        if not path.is_file():
            return NotDone("there is no picture")
        picture = open_image(path)
        wrong = other_shape(question, picture)
        if wrong:
            raise ValueError(f"{path} is {wrong}; make it again in the shape of what was to be edited")
        return picture
