"""Stage 1, section 3.1 of InstructPix2Pix: a language model turns captions into edit triplets (text only).

A triplet is an input caption, an edit instruction and the edited caption. The authors wrote 700 by hand,
fine-tuned GPT-3 on them for one epoch and sampled 454,445 more. Here SmolLM2-135M learns in minutes on a CPU
from the hand-written triplets of `data/triplets/mini.jsonl`; any server with OpenAI's API can take its place.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from tqdm.auto import tqdm

from ip2p import language_model
from ip2p.language_model import load as load_language_model
from ip2p.language_model import save as save_language_model

SEED_TRIPLETS = Path(__file__).parents[1] / "data" / "triplets" / "mini.jsonl"
FIELDS = ("input", "edit", "output")

# ---------------------------------------------------------------------------- files


def _triplet(line: bytes) -> dict:
    """One JSON line as a triplet. Raises ValueError that says what is wrong with it."""
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON ({error.msg} at column {error.colno})") from None
    if not isinstance(row, dict):
        raise ValueError(f"it is a {type(row).__name__}, not an object with input, edit and output")
    row = {"input": row.get("caption"), **row}  # the authors' scripts disagree on the name: both are read
    for name in FIELDS:
        if row.get(name) is None:
            raise ValueError(f"{name!r} is missing; a triplet has input, edit and output")
        if not isinstance(row[name], str) or not row[name].strip():
            raise ValueError(f"{name!r} is {row[name]!r}, not a text")
    return {name: row[name] for name in FIELDS}


def read_triplets(path: str | Path) -> list[dict]:
    """The triplets of a file of JSON lines, as dicts of input, edit, output (`caption` is read as `input`).

    Raises ValueError that names the file and the line if one is wrong. Blank lines are skipped.
    """
    out = []
    for number, line in enumerate(Path(path).read_bytes().splitlines(), 1):
        try:
            out += [_triplet(line)] if line.strip() else []
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    return out


def _json_line(triplet: dict) -> str:
    return json.dumps({name: triplet[name] for name in FIELDS}, ensure_ascii=False) + "\n"


def write_triplets(path: str | Path, triplets: Iterable[dict], append: bool = False) -> None:
    """Write triplets as JSON lines, to a new file or to the end of one."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a" if append else "w", encoding="utf-8") as file:
        file.writelines(map(_json_line, triplets))


def read_captions(path: str | Path) -> list[str]:
    """Captions, one a line, plain or JSON with `caption` or `input`. Raises ValueError if there is none."""
    out = []
    for number, line in enumerate(Path(path).read_text("utf-8-sig", errors="replace").split("\n"), 1):
        if line.lstrip().startswith("{"):
            try:
                row = json.loads(line)
                line = row["input"] if "input" in row else row["caption"]
            except (json.JSONDecodeError, KeyError):
                raise ValueError(f"{path}, line {number}: it is not JSON with a caption") from None
        out.append(" ".join(line.split()))
    if not any(out):
        raise ValueError(f"{path} holds no captions; write one a line")
    return list(filter(None, out))


# ---------------------------------------------------------------------------- the authors' text format
PROMPT_END = "\n##\n"  # caption + PROMPT_END -> instruction + DELIMITER + edited caption + STOP
DELIMITER = "\n%%\n"
STOP = "\nEND"


def to_prompt(caption: str, examples: Iterable[dict] = ()) -> str:
    """The text to be continued. `examples` (triplets) come first if the model was not fine-tuned."""
    return "".join(to_prompt(t["input"]) + to_completion(t) + "\n\n" for t in examples) + caption + PROMPT_END


def to_completion(triplet: dict) -> str:
    return triplet["edit"] + DELIMITER + triplet["output"] + STOP


def from_completion(caption: str, text: str) -> dict:
    """The triplet that an answer holds. Raises ValueError that says why it holds none."""
    body, stop, _ = text.partition(STOP)
    if not stop:
        raise ValueError("the answer breaks off before END")
    parts = [part.strip() for part in body.split(DELIMITER)]
    if len(parts) != 2 or not all(parts):
        raise ValueError("the answer is not an instruction, %%, and a caption")
    if "\n" in "".join(parts) or "##" in body:
        raise ValueError("the instruction or the caption is more than one line")
    return {"input": caption, "edit": parts[0], "output": parts[1]}


# ---------------------------------------------------------------------------- the language model


def finetune(model, tokenizer, triplets: list[dict], **options) -> list[float]:
    """Teach the model the authors' format; returns all losses. `options`: see `language_model.finetune`."""
    pairs = [(to_prompt(t["input"]), to_completion(t)) for t in triplets]
    return language_model.finetune(model, tokenizer, pairs, **options)


def generate(model, tokenizer, captions: list[str], examples: Iterable[dict] = (), **options) -> list[str]:
    """Raw answers to captions, at the paper's temperature 0.7. `options`: see `language_model.complete`."""
    examples = list(examples)
    prompts = [to_prompt(caption, examples) for caption in captions]
    return language_model.complete(model, tokenizer, prompts, STOP, **options)


def load_finetuned(name: str | Path | None = None, triplets: list[dict] | None = None, device: str = "cpu"):
    """(model, tokenizer) that know the authors' format. A folder is taken as it is; another model ("smollm2"
    or one of the hub) is fine-tuned on `triplets` and kept in ~/.cache/ip2p (270 MB) for the next such call.
    """
    name = name or language_model.BUNDLED
    if Path(name).is_dir():
        return load_language_model(name, device)
    triplets = read_triplets(SEED_TRIPLETS) if triplets is None else triplets
    recipe = json.dumps([str(name), triplets, language_model.finetune.__defaults__])
    folder = language_model.cache_folder() / f"finetuned-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if (folder / "config.json").exists():
        return load_language_model(folder, device)
    model, tokenizer = load_language_model(name, device)
    finetune(model, tokenizer, triplets)
    save_language_model(model, tokenizer, folder)
    return model, tokenizer


# ---------------------------------------------------------------------------- which answers are kept


def _mentions(text: str) -> set[tuple[str, object]]:
    """What of the miniature world a text names, as (slot, value); unlike `parse`, it skips other words."""
    from ip2p.miniworld.parsing import LEXICON, LONGEST, SPELLINGS

    text = re.sub(r"time of day|^clear|\bclear (the|away|up)\b|wet brush", "", text.lower())  # not meant so
    words, out, i = [SPELLINGS.get(w, w) for w in re.findall(r"[a-z0-9]+", text)], set(), 0
    while i < len(words):
        n = next((n for n in range(LONGEST, 0, -1) if tuple(words[i:i + n]) in LEXICON), 0)
        if n:
            slot, value = LEXICON[tuple(words[i:i + n])]
            out.add(("kind" if slot == "kinds" else slot, value))
        i += max(n, 1)
    return out


# Words that ask for a change without naming the new value, by the start of the word where no \b ends it.
RELATIVE = {"bigger": r"bigg|large|enlarg|grow|scale (it |them )?up|blow|huge|giant|increas|expand|zoom in",
            "smaller": r"small|shrink|scale (it |them )?down|tiny|little|reduc|mini|decreas|zoom out|far",
            "more": r"another|second|third|doubl|tripl|twin|clone|cop[yi]|more|again|friend|one extra",
            "fewer": r"alone|single|only|just|less|fewer|remov|away|keep|lone|leav",
            "gone": r"no\b|not|never|none|dont|\w+n't|without|remov|delet|eras|drop|los[et]|rid|ditch|tak(e|en|ing)|"
                    r"away|off|out|leave|disappear|vanish|go\b|goes|gone|clear|stop|end\b|over|pop|pick|bye|scare|"
                    r"fl[ey]w?|lower|scrap|skip|kill|hide|less|back|instead"}


def _asked(text: str, name: str, old, new) -> bool:
    """Whether an instruction asks for this change of one attribute: it names the new value, or, where something goes,
    the old one and that it goes; sizes and numbers may be relative."""
    from ip2p.miniworld import EXTRAS, SIZES
    from ip2p.miniworld.scene import DEFAULTS

    named, slot = _mentions(text), "extra" if name in EXTRAS else name.removeprefix("second_")
    if name in EXTRAS:
        old, new = old and name, new and name

    def relative(key: str) -> bool:
        return bool(re.search(rf"\b({RELATIVE[key]})", text.lower()))

    if slot == "size" and relative("bigger" if SIZES.index(new) > SIZES.index(old) else "smaller"):
        return True
    if slot == "count" and relative("more" if new > old else "fewer"):
        return True
    if new in (None, False, DEFAULTS.get(slot)) and (slot, old) in named and relative("gone"):
        return True
    return (slot, new) in named


def _disagreement(instruction: str, before, after) -> str | None:
    """Why an instruction cannot mean this edit: "inconsistent", it names what neither scene holds, or does not ask for
    all that changed; "unsaid", it asks for nothing of what changed. None if it may."""
    from ip2p.miniworld import EXTRAS, difference

    def facts(scene) -> set:
        return {("extra", name) if name in EXTRAS else (name.removeprefix("second_"), value)
                for name, value in scene.attributes().items() if value not in (False, None)}

    was, changed = before.attributes(), difference(before, after)
    if changed.keys() & {"count", "second_kind"}:  # a row, or a second object, moves a single object to the middle
        changed.pop("position", None)
    if "second_kind" in changed:  # its colour goes without saying
        changed.pop("second_colour", None)
    named = _mentions(instruction) - facts(before) - facts(after)
    if any(slot in ("kind", "colour", "place", "time", "weather", "style", "extra") for slot, _ in named):
        return "inconsistent"  # the rest is said freely
    asked = [_asked(instruction, name, was[name], new) for name, new in changed.items()]
    return None if all(asked) else "inconsistent" if any(asked) else "unsaid"


def check(triplet: dict, world: bool = True) -> str | None:
    """None for a good triplet, else why it is not: "malformed", "no-op" and, with `world` (captions of the
    miniature world), "out-of-world" (nobody can paint the edited caption), "inconsistent" (not the edit that was
    asked for) or "unsaid" (the instruction asks for nothing that changes: it may be a subtle one, or nonsense).
    """
    before, edit, after = (" ".join(re.findall(r"\w+", triplet[name].lower())) for name in FIELDS)
    if not (before and edit and after) or len(triplet["edit"]) > 200 or edit in (before, after):
        return "malformed"
    if before == after:
        return "no-op"
    if world:
        from ip2p.miniworld import parse

        try:
            before, after = parse(triplet["input"]), parse(triplet["output"])
        except ValueError:
            return "out-of-world"
        if before == after:
            return "no-op"
        return _disagreement(triplet["edit"], before, after)
    return None


# ---------------------------------------------------------------------------- who answers


class LocalBackend:
    """Answers from a model in this process. `options`: see `generate`."""

    def __init__(self, model, tokenizer, **options):
        self.model, self.tokenizer, self.options = model, tokenizer, options

    def complete(self, captions: list[str], seed: int) -> list[str]:
        return generate(self.model, self.tokenizer, captions, seed=seed, **self.options)


class OpenAIBackend:
    """Answers from a server with OpenAI's API: their own, or another at `base_url` (or OPENAI_BASE_URL).

    Asks /v1/completions, as the authors did, and where the server has no such model, /v1/chat/completions
    (OpenAI retired its last completion models in September 2026). The key comes from the environment only.
    Raises RuntimeError if the server fails.
    """

    def __init__(self, model: str, base_url: str | None = None, examples: Iterable[dict] = (),
                 temperature: float = 0.7, max_tokens: int = 256, frequency_penalty: float = 0.1,
                 workers: int = 8):
        if not os.environ.get("OPENAI_API_KEY"):
            raise ValueError("OPENAI_API_KEY is not set; put your key into this environment variable "
                             "(for a server of your own, any word will mostly do)")
        from openai import OpenAI

        self.client, self.model = OpenAI(base_url=base_url), model
        self.examples, self.workers = list(examples), workers
        self.options = {"temperature": temperature, "max_tokens": max_tokens,
                        "frequency_penalty": frequency_penalty, "stop": [STOP]}
        self.chat, self.refused = False, set()  # learnt from the server's answers

    def complete(self, captions: list[str], seed: int) -> list[str]:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(lambda caption: self._ask(caption, seed), captions))

    def _ask(self, caption: str, seed: int) -> str:
        import openai

        while True:
            chat, options = self.chat, self.options | {"seed": seed}
            if chat:  # many chat models think first, and need room for it
                options["max_completion_tokens"] = 8 * options.pop("max_tokens")
                options["messages"] = self._messages(caption)
            else:
                options["prompt"] = to_prompt(caption, self.examples)
            options = {name: value for name, value in options.items() if name not in self.refused}
            api = self.client.chat.completions if chat else self.client.completions
            try:
                answer = api.create(model=self.model, **options).choices[0]
            except openai.OpenAIError as error:
                if isinstance(error, openai.NotFoundError) and not chat:
                    self.chat = True
                elif isinstance(error, openai.BadRequestError) and error.param in options:
                    self.refused.add(error.param)  # many chat models take no temperature, no stop, ...
                else:
                    where = f"{self.model!r} at {self.client.base_url}"
                    raise RuntimeError(f"no answer from {where}: {error}") from None
                continue
            text = (answer.message.content if chat else answer.text) or ""
            if STOP not in text and answer.finish_reason != "length":
                text += STOP  # most servers swallow the text that stops them
            return text

    def _messages(self, caption: str) -> list[dict]:
        turns = [("system", "Invent an edit of the image described. Answer in exactly the examples' form.")]
        for t in self.examples:
            turns += [("user", to_prompt(t["input"])), ("assistant", to_completion(t))]
        return [{"role": role, "content": text} for role, text in (*turns, ("user", to_prompt(caption)))]


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


def _resume(out: Path) -> list[dict]:
    """The triplets that `out` holds already. A half line at its end, left by a killed job, is cut off."""
    if not out.exists():
        return []
    data = out.read_bytes()
    end = data.rfind(b"\n") + 1
    if data[end:].strip():
        try:
            _triplet(data[end:])
            with open(out, "ab") as file:
                file.write(b"\n")  # only the line end was missing
        except ValueError:
            if not data[end:].startswith(b"{"):
                raise ValueError(f"{out} holds something else than triplets; choose another file") from None
            os.truncate(out, end)
    return read_triplets(out)


def generate_triplets(captions: Iterable[str], backend, out: str | Path, n: int | None = None,
                      retries: int = 3, seed: int = 0, world: bool = True, batch_size: int = 128,
                      callback: Callable[[str, str, str | None], None] | None = None) -> Counter:
    """One triplet a caption, appended to `out` until it holds `n` (None: one for every caption).

    An answer that `check` rejects is asked for again, up to `retries` times. Stopped at any moment, even by
    kill -9, the same call goes on where it was; captions that were given up stand in `out`.given-up, and are not
    asked again. Returns counts: "accepted", every reason of a rejection, and of captions "duplicate",
    "out-of-world caption", "given up". `callback(caption, answer, reason or None)` sees every answer.
    """
    out, counts, unique = Path(out), Counter(), {}
    out.parent.mkdir(parents=True, exist_ok=True)
    held, hopeless = _resume(out), out.with_name(out.name + ".given-up")
    if not held:
        hopeless.unlink(missing_ok=True)
    for caption in captions:
        counts["duplicate"] += _key(caption) in unique
        unique.setdefault(_key(caption), caption)
    done, have = {_key(t["input"]) for t in held}, len(held)
    if hopeless.exists():
        done |= set(map(_key, hopeless.read_text(encoding="utf-8").split("\n")))
    todo = [caption for key, caption in unique.items() if key not in done]
    n = have + len(todo) if n is None else n

    with (open(out, "a", encoding="utf-8") as file,
          tqdm(total=n, initial=min(have, n), desc="instructions", unit="triplet") as bar):
        while todo and have < n:
            size = min(batch_size, n - have)
            batch, todo = todo[:size], todo[size:]
            if world:
                counts["out-of-world caption"] += sum(not _parses(caption) for caption in batch)
                batch = [caption for caption in batch if _parses(caption)]
            for attempt in range(1 + retries):
                answers = backend.complete(batch, seed=1000 * seed + attempt) if batch else []
                asked, batch = batch, []
                for caption, answer in zip(asked, answers, strict=True):
                    try:
                        triplet = from_completion(caption, answer)
                        reason = check(triplet, world)
                    except ValueError:
                        reason = "malformed"
                    counts[reason or "accepted"] += 1
                    if reason:
                        batch.append(caption)
                    else:
                        file.write(_json_line(triplet))
                        have += 1
                        bar.update()
                    if callback:
                        callback(caption, answer, reason)
                file.flush()
            counts["given up"] += len(batch)
            if batch:
                with open(hopeless, "a", encoding="utf-8") as rest:
                    rest.writelines(caption + "\n" for caption in batch)
    return +counts  # without zeros


def run(captions_path: str | Path, out: str | Path, n: int | None = None, backend: str = "local",
        model: str | None = None, seed: int = 0, triplets: str | Path = SEED_TRIPLETS, world: bool = True,
        device: str = "cpu", base_url: str | None = None) -> Counter:
    """`ip2p instructions`: captions in, triplets out. `seed` and the counts are those of `generate_triplets`.

    backend "local": `model` as in `load_finetuned`, "smollm2" if None. backend "openai": `model` is the name
    the server knows; eight of `triplets` are its examples. Raises ValueError or OSError for what the caller
    got wrong, RuntimeError if a server fails (run again to go on).
    """
    captions, lessons = read_captions(captions_path), read_triplets(triplets)
    if n is not None and len(_resume(Path(out))) >= n:
        return Counter()
    if backend == "local":
        worker = LocalBackend(*load_finetuned(model, lessons, device))
    elif backend == "openai":
        if not model:
            raise ValueError("the openai backend needs the name of a model that the server has")
        worker = OpenAIBackend(model, base_url, examples=lessons[::max(1, len(lessons) // 8)][:8])
    else:
        raise ValueError(f"there is no backend {backend!r}; choose local or openai")
    return generate_triplets(captions, worker, out, n, seed=seed, world=world)
