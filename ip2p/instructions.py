"""Stage 1, section 3.1 of InstructPix2Pix: a language model turns captions into edit triplets (text only).

A triplet is an input caption, an edit instruction and the edited caption. The authors wrote 700 by hand,
fine-tuned GPT-3 on them for one epoch and sampled 454,445 more. Here SmolLM2-135M learns in minutes on a CPU
from the hand-written triplets of `data/triplets/mini.jsonl`; any server with OpenAI's API can take its place
(`ip2p.backends.openai`).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable
from pathlib import Path

from tqdm.auto import tqdm

from ip2p.backends import local as language_model
from ip2p.backends.local import LocalBackend
from ip2p.backends.local import load as load_language_model
from ip2p.backends.local import save as save_language_model
from ip2p.backends.protocol import FLAGGED_CAPTION, Objection
from ip2p.dataset.checks import check, retell
from ip2p.dataset.triplets import (
    SEED_TRIPLETS,
    from_completion,
    json_line,
    one_triplet,
    read_captions,
    read_triplets,
    to_completion,
    to_prompt,
    triplets_of,
)

# ---------------------------------------------------------------------------- the language model


def finetune(model, tokenizer, triplets: list[dict], **options) -> list[float]:
    """Teach the model the authors' format; returns all losses. `options`: see `language_model.finetune`."""
    pairs = [(to_prompt(t["input"]), to_completion(t)) for t in triplets]
    return language_model.finetune(model, tokenizer, pairs, **options)


EPOCHS = 3  # of all lessons, hand-written or its own, each time about another scene in the miniature world


def load_finetuned(
    name: str | Path | None = None,
    triplets: list[dict] | None = None,
    device: str = "cpu",
    world: bool = True,
    own: Iterable[dict] = (),
):
    """(model, tokenizer) that know the authors' format. A folder is taken as it is; another model ("smollm2", a .gguf
    file or one of the hub) is fine-tuned on `triplets` and kept in ~/.cache/ip2p (270 MB) for the next such call.
    `world`: they are about the miniature world, so each epoch retells them (see `retell`). `own`: answers of an earlier
    model that passed every check, to be learned from as well.
    """
    name = name or language_model.BUNDLED
    if Path(name).is_dir():
        return load_language_model(name, device)
    triplets = [*(read_triplets(SEED_TRIPLETS) if triplets is None else triplets), *own]
    recipe = json.dumps([str(name), triplets, world, EPOCHS, language_model.finetune.__defaults__])
    folder = language_model.cache_folder() / f"finetuned-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if (folder / "config.json").exists():
        return load_language_model(folder, device)
    model, tokenizer = load_language_model(name, device)
    rng = random.Random(0)
    finetune(model, tokenizer, [retell(t, rng) if world else t for _ in range(EPOCHS) for t in triplets])
    save_language_model(model, tokenizer, folder, cache=True)
    return model, tokenizer


# ---------------------------------------------------------------------------- the loop


def _key(caption: str) -> str:
    """What makes two captions the same."""
    return " ".join(caption.casefold().split())


def _parses(caption: str) -> bool:
    from ip2p.miniworld import parse

    try:
        return bool(parse(caption))
    except ValueError:
        return False


def distinct(captions: Iterable[str]) -> list[str]:
    """Captions without repetitions; case and blanks do not count."""
    unique = {}
    for caption in captions:
        unique.setdefault(_key(caption), caption)
    return list(unique.values())


def _resume(out: Path) -> list[dict]:
    """The triplets that `out` holds already. A half line at its end, left by a killed job, is cut off."""
    if not out.exists():
        return []
    data, ours = out.read_bytes(), b'{"input": "'
    end = data.rfind(b"\n") + 1
    half = data[end:]
    if half.strip():
        try:
            one_triplet(half)
            with open(out, "ab") as file:
                file.write(b"\n")  # only the line end was missing
        except ValueError:
            if not (half.startswith(ours) or ours.startswith(half)):
                raise ValueError(f"{out} holds something else than triplets; choose another file") from None
            triplets_of(data[:end], out)  # a foreign file is not cut
            os.truncate(out, end)
    return read_triplets(out)


def _verdict(caption: str, answer: str, world: bool) -> tuple[dict | None, str | None]:
    """The triplet of an answer, and None or the reason to reject it."""
    if isinstance(answer, Objection):
        return None, str(answer)
    try:
        triplet = from_completion(caption, answer)
    except ValueError:
        return None, "malformed"
    return triplet, check(triplet, world)


def generate_triplets(
    captions: Iterable[str],
    backend,
    out: str | Path,
    n: int | None = None,
    retries: int = 3,
    seed: int = 0,
    world: bool = True,
    callback: Callable[[str, str, str | None], None] | None = None,
) -> Counter:
    """One triplet a caption, appended to `out` until it holds `n` (None: one for every caption).

    An answer that `check` or the backend rejects is asked for again, up to `retries` times. Stopped at any moment,
    even by kill -9, the same call goes on where it was; captions that were given up stand in `out`.given-up, and
    are not asked again. Returns counts: "accepted", every reason of a rejection, and of captions "duplicate",
    "out-of-world caption", "given up". `callback(caption, answer, reason or None)` sees every answer.

    Raises ValueError if `out` holds something else, or another job is writing to it.
    """
    out, counts, captions = Path(out), Counter(), list(captions)
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = not out.exists()
    with open(out, "a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with this process, however it ends
        except BlockingIOError:
            raise ValueError(
                f"another job is writing to {out}; wait for it, or choose another file"
            ) from None
        held, hopeless = _resume(out), out.with_name(out.name + ".given-up")
        if fresh:
            hopeless.unlink(missing_ok=True)
        done, have = {_key(t["input"]) for t in held}, len(held)
        if hopeless.exists():
            *whole, half = hopeless.read_bytes().split(b"\n")
            os.truncate(hopeless, hopeless.stat().st_size - len(half))
            done |= {_key(line.decode()) for line in whole}
        unique = distinct(captions)
        counts["duplicate"] = len(captions) - len(unique)
        todo = deque((caption, 0) for caption in unique if _key(caption) not in done)
        n = have + len(todo) if n is None else n
        asked = {}  # caption -> how often it was asked before, of those that wait for their answer

        def ask() -> tuple[str, int] | None:
            while todo and have + len(asked) < n:
                caption, attempt = todo.popleft()
                if world and not _parses(caption):
                    counts["out-of-world caption"] += 1
                    continue
                asked[caption] = attempt
                return caption, 1000 * seed + attempt
            return None

        with tqdm(total=n, initial=min(have, n), desc="instructions", unit="triplet") as bar:
            for caption, answer in backend.answers(ask):
                attempt = asked.pop(caption)
                triplet, reason = _verdict(caption, answer, world)
                counts[reason or "accepted"] += 1
                if reason is None:
                    file.write(json_line(triplet))
                    file.flush()
                    have += 1
                    bar.update()
                elif attempt < retries and reason != FLAGGED_CAPTION:
                    todo.appendleft((caption, attempt + 1))
                else:
                    counts["given up"] += 1
                    with open(hopeless, "a", encoding="utf-8") as rest:
                        rest.write(caption + "\n")
                if cost := getattr(backend, "cost", None):
                    bar.set_postfix(cost=f"${cost:.2f}", refresh=False)
                if callback:
                    callback(caption, answer, reason)
    return +counts  # without zeros


def run(
    captions_path: str | Path,
    out: str | Path,
    n: int | None = None,
    backend: str = "local",
    model: str | None = None,
    seed: int = 0,
    triplets: str | Path = SEED_TRIPLETS,
    world: bool = True,
    device: str = "cpu",
    shots: int = 8,
    shard: tuple[int, int] = (0, 1),
    own: str | Path | None = None,
    **options,
) -> Counter:
    """`ip2p instructions`: captions in, triplets out. `seed` and the counts are those of `generate_triplets`.

    backend "local": `model` as in `load_finetuned`, "smollm2" if None; `own` is a file of its own earlier answers, to
    learn from, too. backend "openai", or "batch" for OpenAI's
    Batch API: `model` is the name the server knows, the first `shots` of `triplets`, evenly spread, are its examples
    (0 for a model that was fine-tuned on them), `options` are those of `OpenAIBackend`. `shard` (i, of): every
    `of`-th distinct caption from the i-th on, for one of many workers, each with an `out` of its own. Raises
    ValueError or OSError for what the caller got wrong, RuntimeError if a server fails (run again to go on).
    """
    captions, lessons = read_captions(captions_path), read_triplets(triplets)
    if not 0 <= shard[0] < shard[1]:
        raise ValueError(f"there is no shard {shard[0]} of {shard[1]}; the first is 0/{max(shard[1], 1)}")
    if n is not None and Path(out).exists() and Path(out).read_bytes().count(b"\n") >= n:
        return Counter()
    if backend == "local":
        if options:
            raise ValueError(f"{', '.join(options)}: only for a server; choose the backend openai or batch")
        if (
            own and Path(own).resolve() == Path(out).resolve()
        ):  # it cannot learn from what it is about to write
            own = None
        worker = LocalBackend(
            *load_finetuned(model, lessons, device, world, read_triplets(own) if own else ())
        )
    elif backend in ("openai", "batch"):
        from ip2p.backends.openai import BatchBackend, OpenAIBackend

        if not model:
            raise ValueError(f"the {backend} backend needs the name of a model that the server has")
        examples = lessons[:: max(1, len(lessons) // shots)][:shots] if shots else ()
        worker = (
            OpenAIBackend(model, examples=examples, **options)
            if backend == "openai"
            else BatchBackend(
                model, Path(out).with_name(Path(out).name + ".batch"), examples=examples, **options
            )
        )
    else:
        raise ValueError(f"there is no backend {backend!r}; choose local, openai or batch")
    if shard != (0, 1):
        captions = distinct(captions)[shard[0] :: shard[1]]
    return generate_triplets(captions, worker, out, n, seed=seed, world=world)
