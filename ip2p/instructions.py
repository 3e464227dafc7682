"""Stage 1, section 3.1 of InstructPix2Pix: a language model turns captions into edit triplets (text only).

A triplet is an input caption, an edit instruction and the edited caption. The authors wrote 700 by hand,
fine-tuned GPT-3 on them for one epoch and sampled 454,445 more. Here SmolLM2-135M learns in minutes on a CPU
from the hand-written triplets of `data/triplets/mini.jsonl`; any server with OpenAI's API can take its place
(`ip2p.backends.openai`).
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from tqdm.auto import tqdm

from ip2p.backends import local
from ip2p.backends.protocol import Backend, Hopeless, NoAnswer, Objection
from ip2p.common.durable import append_line, locked, read_json, whole_lines, write_atomically
from ip2p.common.errors import UserError
from ip2p.dataset.checks import check
from ip2p.dataset.triplets import (
    DELIMITER,
    SEED_TRIPLETS,
    STOP,
    decoded,
    from_completion,
    json_line,
    one_triplet,
    read_captions,
    read_triplets,
    to_completion,
    to_prompt,
    triplets_of,
)
from ip2p.miniworld.parsing import is_said, say_the_same
from ip2p.miniworld.retelling import retell
from ip2p.options import refuse_outside

# ---------------------------------------------------------------------------- fine-tuning


def finetune(model, tokenizer, triplets: list[dict], **options) -> list[float]:
    """Teach the model the authors' format; returns all losses. `options`: see `finetune` in
    `ip2p.backends.local`."""
    pairs = [(to_prompt(t["input"]), to_completion(t)) for t in triplets]
    return local.finetune(model, tokenizer, pairs, **options)


EPOCHS = 3  # of all lessons, each time about another scene in the miniature world


def load_finetuned(
    name: str | Path | None = None,
    triplets: list[dict] | None = None,
    device: str = "cpu",
    world: bool = True,
    dtype: str = "auto",
):
    """(model, tokenizer) that know the authors' format. A folder is taken as it is; another model ("smollm2",
    a .gguf file or one of the hub) is fine-tuned on `triplets` and kept in ~/.cache/ip2p (270 MB) for the
    next such call. One that was killed meanwhile goes on, and one that another process is at is waited for.
    `world`: they are about the miniature world, so each epoch retells them (see `retell`). `dtype`: in which
    format the fine-tuning computes, see `finetuning_dtype`; the model's weights are float32."""
    name = name or local.BUNDLED
    if Path(name).is_dir():
        return local.load(name, device)
    triplets = read_triplets(SEED_TRIPLETS) if triplets is None else triplets
    # The defaults are the learning rate and so on: where they change, no earlier model is taken for this one.
    recipe = [str(name), triplets, world, EPOCHS, local.finetune.__defaults__]
    if dtype != "auto":
        recipe.append(dtype)
    key = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]
    folder = local.cache_folder() / f"finetuned-{key}"
    if (folder / "config.json").exists():
        return local.load(folder, device)
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = folder.with_suffix(".unfinished")
    computing = local.finetuning_dtype(dtype, device)  # a wrong one is refused before the model is loaded
    with locked(folder.with_suffix(".model"), "fine-tuning", wait=True):
        if (folder / "config.json").exists():  # by now
            return local.load(folder, device)
        model, tokenizer = local.load(name, device)
        lessons = lessons_of_all_epochs(triplets, world)
        announce(str(name), len(lessons), folder)
        finetune(model, tokenizer, lessons, work=work, dtype=computing)
        local.save(model, tokenizer, folder, cache=True)
        shutil.rmtree(work, ignore_errors=True)
    return model, tokenizer


def announce(name: str, lessons: int, folder: Path) -> None:
    """Say what is about to happen; how long it takes on this machine is said after the first steps."""
    print(
        f"fine-tuning {name} on {lessons:,} lessons; stopped, the same command goes on, and later ones find "
        f"the model in {folder}",
        file=sys.stderr,
        flush=True,
    )


def lessons_of_all_epochs(triplets: list[dict], world: bool) -> list[dict]:
    """EPOCHS times all triplets, in the miniature world each time about another scene."""
    rng = random.Random(0)
    lessons = []
    for _ in range(EPOCHS):
        for triplet in triplets:
            lessons.append(retell(triplet, rng) if world else triplet)
    return lessons


# ---------------------------------------------------------------------------- one triplet for each caption


def generate_triplets(
    captions: Iterable[str],
    backend: Backend,
    out: str | Path,
    n: int | None = None,
    retries: int = 3,
    seed: int = 0,
    world: bool = True,
    callback: Callable[[str, str, str | None], None] | None = None,
    made_by: dict | None = None,
) -> Counter:
    """One triplet a caption, appended to `out` until it holds `n` (None: one for every caption).

    An answer that `check` or the backend rejects is asked for again, up to `retries` times. Stopped at any
    moment, even by kill -9, the same call goes on where it was; captions that were given up stand in
    `out`.given-up, and are not asked again. Returns counts: "accepted", every reason of a rejection, and of
    captions "duplicate", "out-of-world caption", "given up". `callback(caption, answer, reason or None)` sees
    every answer.

    Raises ValueError if `out` holds something else, or what was made otherwise, or another job is writing to
    it.
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with locked(out, "writing to"):
        job = Generation(out, list(captions), n, retries, seed, world)
        job.note(made_by or {})
        already = min(job.held, job.n)
        with tqdm(total=job.n, initial=already, desc="instructions", unit="triplet") as bar:
            for caption, answer in backend.answers(job.next_question):
                triplet, reason = check_answer(caption, answer, world)
                if reason is None:
                    job.accept(caption, triplet)
                    bar.update()
                else:
                    job.reject(caption, answer, reason)
                if backend.cost:
                    bar.set_postfix(cost=f"${backend.cost:.2f}", refresh=False)
                if callback:
                    callback(caption, answer, reason)
    return +job.counts  # without zeros


class Generation:
    """What `generate_triplets` knows of its captions: which are done, which wait to be asked, which for an
    answer."""

    def __init__(
        self, out: Path, captions: list[str], n: int | None, retries: int, seed: int, world: bool
    ) -> None:
        self.out = out
        self.given_up = out.with_name(out.name + ".given-up")
        self.retries = retries
        self.seed = seed
        self.world = world
        done = self.resume()
        unique = distinct(captions)
        self.counts = Counter(duplicate=len(captions) - len(unique))
        self.to_ask = deque((caption, 0) for caption in unique if same_as(caption) not in done)
        # caption -> how often it was asked before, while it waits for its answer
        self.asked: dict[str, int] = {}
        self.n = self.held + len(self.to_ask) if n is None else n

    def resume(self) -> set[str]:
        """What the captions have in common with those that `out` and the list of given-up ones hold
        already."""
        if not self.out.exists():
            self.given_up.unlink(missing_ok=True)  # of a file that is gone
        triplets = resume_triplets(self.out)
        self.held = len(triplets)
        done = {same_as(triplet["input"]) for triplet in triplets}
        done |= {same_as(caption) for caption in whole_lines(self.given_up, cut=True)}
        return done

    def note(self, made_by: dict) -> None:
        """Raises ValueError if the file holds triplets that were made by something else."""
        path = self.out.with_name(self.out.name + ".made-by")
        if self.held and path.exists():
            there = read_json(path)
            differ = " and ".join(name for name in made_by if there.get(name) != made_by[name])
            if differ:
                raise ValueError(f"{self.out} holds triplets of another {differ}; choose another file")
        if made_by:
            write_atomically(path, json.dumps(made_by))

    def next_question(self) -> tuple[str, int] | None:
        """The next (caption, seed), as long as `n` triplets are neither held nor waited for."""
        while self.to_ask and self.held + len(self.asked) < self.n:
            caption, attempt = self.to_ask.popleft()
            if self.world and not is_said(caption):
                self.counts["out-of-world caption"] += 1
                continue
            self.asked[caption] = attempt
            return caption, 1000 * self.seed + attempt
        return None

    def accept(self, caption: str, triplet: dict) -> None:
        """Write a good triplet to the file; it is on the disk when this returns."""
        del self.asked[caption]
        append_line(self.out, json_line(triplet).rstrip("\n"))
        self.held += 1
        self.counts["accepted"] += 1

    def reject(self, caption: str, answer: str, reason: str) -> None:
        """Ask again, or give the caption up and note that, so that no later run asks for it."""
        attempt = self.asked.pop(caption)
        self.counts[reason] += 1
        if attempt < self.retries and not isinstance(answer, Hopeless):
            self.to_ask.appendleft((caption, attempt + 1))
        elif not isinstance(answer, NoAnswer):
            self.counts["given up"] += 1
            append_line(self.given_up, " ".join(caption.split()))


def check_answer(caption: str, answer: str, world: bool) -> tuple[dict | None, str | None]:
    """The triplet of an answer, if it has one, and None or the reason to reject it."""
    if isinstance(answer, Objection):
        return None, str(answer)
    try:
        triplet = from_completion(caption, answer)
    except ValueError:
        return None, "malformed"
    return triplet, check(triplet, world)


def resume_triplets(out: Path) -> list[dict]:
    """The triplets that `out` holds already. A half line at its end, left by a killed job, is cut off.

    Raises ValueError, and leaves the file as it is, if it holds something else.
    """
    out.touch()
    data = out.read_bytes()
    end = data.rfind(b"\n") + 1
    half = data[end:]
    if is_triplet(half):  # only the line end was missing
        with open(out, "ab") as file:
            file.write(b"\n")
        return read_triplets(out)
    start = b'{"input": "'
    if half.strip() and not half.startswith(start) and not start.startswith(half):
        raise ValueError(f"{out} holds something else than triplets; choose another file")
    triplets = triplets_of(data[:end], out)
    whole_lines(out, cut=True)
    return triplets


def is_triplet(line: bytes) -> bool:
    try:
        return bool(one_triplet(decoded(line)))
    except ValueError:
        return False


def same_as(caption: str) -> str:
    """What two captions share that count as the same: case and blanks do not matter."""
    return " ".join(caption.casefold().split())


def distinct(captions: Iterable[str]) -> list[str]:
    """Captions without repetitions; the first of those that are the same stays."""
    unique: dict[str, str] = {}
    for caption in captions:
        unique.setdefault(same_as(caption), caption)
    return list(unique.values())


# ---------------------------------------------------------------------------- `ip2p instructions`


def run(
    captions_path: str | Path,
    out: str | Path,
    n: int | None = None,
    backend: str = "local",
    model: str | None = None,
    seed: int = 0,
    triplets: str | Path = SEED_TRIPLETS,
    world: bool = True,
    device: str = "auto",
    shard: tuple[int, int] = (0, 1),
    dtype: str = "auto",
    **options,
) -> Counter:
    """`ip2p instructions`: captions in, triplets out. `seed` and the counts are those of `generate_triplets`.

    backend "local": `model` as in `load_finetuned`, "smollm2" if None; `device` as in `choose_device`;
    `dtype`, in which it answers, as in `choose_dtype`. backend "openai", or "batch" for OpenAI's Batch API:
    `model` is the name the server knows, and `options` are the fields of
    `ip2p.backends.openai.ServerOptions` and `shots`, how many of `triplets`, evenly spread, are its examples
    (8; 0 for a model that was fine-tuned on them). `shard` (i, of): every `of`-th distinct caption from the
    i-th on, for one of many workers, each with an `out` of its own.

    Raises ValueError or OSError for what the caller got wrong, UserError if a server fails (run again to
    go on) or if no answer was accepted."""
    out = Path(out)
    if n is not None:
        refuse_outside("n", n, "count")
    refuse_unwritable(out)
    captions = read_captions(captions_path)
    lessons = read_triplets(triplets)
    index, shards = shard
    if not 0 <= index < shards:
        raise ValueError(f"there is no shard {index} of {shards}; the first is 0/{max(shards, 1)}")
    if n is not None and out.exists() and out.read_bytes().count(b"\n") >= n:
        return Counter()  # nothing left to do, so no model is loaded and no key asked for
    if backend == "local":
        if options:
            raise ValueError(f"{', '.join(options)}: only for a server; choose the backend openai or batch")
        worker = local_backend(model, lessons, device, dtype, world)
    elif backend in ("openai", "batch"):
        worker = server_backend(backend, model, lessons, out, **options)
    else:
        raise ValueError(f"there is no backend {backend!r}; choose local, openai or batch")
    if shards > 1:
        captions = distinct(captions)[index::shards]
    made_by = {"model": str(model or local.BUNDLED), "seed": seed}
    counts = generate_triplets(captions, worker, out, n, seed=seed, world=world, made_by=made_by)
    rejected = counts.keys() - {"accepted", "duplicate", "out-of-world caption"}
    if not counts["accepted"] and (rejected or not out.read_bytes()):
        reasons = ", ".join(f"{reason} {count}" for reason, count in counts.items())
        raise UserError(f"no answer was accepted ({reasons or 'nothing could be asked'})")
    return counts


def refuse_unwritable(out: Path) -> None:
    """Raises ValueError, before a model is loaded, if `out` is a folder, holds something else than triplets
    or is written by another job."""
    if out.is_dir():
        raise ValueError(f"{out} is a folder; choose a file")
    if out.exists():
        with locked(out, "writing to"):
            resume_triplets(out)


def local_backend(model: str | None, lessons: list[dict], device: str, dtype: str, world: bool) -> Backend:
    """A model in this process that was fine-tuned on the lessons and answers in `dtype`. In the miniature
    world it reads its answers once more, see `reread`."""
    from ip2p.common.devices import choose_device, choose_dtype

    where = choose_device(device)
    number_format = choose_dtype(dtype, where)
    tuned, tokenizer = load_finetuned(model, lessons, where, world)
    tuned = tuned.to(number_format)
    return local.LocalBackend(tuned, tokenizer, review=partial(reread, tuned, tokenizer) if world else None)


def reread(model, tokenizer, captions: list[str], answers: list[str]) -> list[str]:
    """A round trip that finds instructions which do not say what was done: the model writes each edited
    caption once more, of its caption and its own instruction and without chance. Where it comes to another
    meaning in the miniature world, the Objection "misread" takes the answer's place. Answers that are
    rejected anyway stay as they are."""
    checked = list(answers)
    triplets = {}
    for row, (caption, answer) in enumerate(zip(captions, answers, strict=True)):
        triplet, reason = check_answer(caption, answer, world=True)
        if reason is None:
            triplets[row] = triplet
    prompts = [to_prompt(triplet["input"]) + triplet["edit"] + DELIMITER for triplet in triplets.values()]
    again = local.complete(model, tokenizer, prompts, STOP, temperature=0.0)
    for (row, triplet), text in zip(triplets.items(), again, strict=True):
        if not say_the_same(text.partition(STOP)[0], triplet["output"]):
            checked[row] = Objection("misread")
    return checked


def server_backend(
    backend: str, model: str | None, lessons: list[dict], out: Path, shots: int = 8, **options
) -> Backend:
    """A server with OpenAI's API, which is shown some of the lessons."""
    from ip2p.backends.batch import BatchBackend
    from ip2p.backends.openai import OpenAIBackend

    if not model:
        raise ValueError(f"the {backend} backend needs the name of a model that the server has")
    refuse_outside("shots", shots, "natural")
    examples = evenly_spread(lessons, shots)
    if backend == "openai":
        return OpenAIBackend(model, examples=examples, **options)
    return BatchBackend(model, out.with_name(out.name + ".batch"), examples=examples, **options)


def evenly_spread(lessons: list[dict], count: int) -> list[dict]:
    """`count` of the lessons, from the first on."""
    return lessons[:: max(1, len(lessons) // max(1, count))][:count]
