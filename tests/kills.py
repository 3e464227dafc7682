"""Jobs that are killed -9 at random moments, again and again, until they have been killed often enough.

A process imports and loads all that a job needs once, and forks for every attempt, so that a kill costs
only what the job itself does.
"""

import importlib
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

TESTS = Path(__file__).parent


def survive(
    out: Path, prepare, kills: int, share: float = 1.0, together: int = 1, **arguments
) -> subprocess.CompletedProcess:
    """Kill a job `kills` times; returns the process that did so, which says what the kills left.

    `prepare(**arguments)`, a function of a test module, returns the job, a function of a folder. Undisturbed
    it works in out/undisturbed. The killed one goes on in out/killed-0, and once it has come to its end
    before it could be killed, in out/killed-1, and so on. share: a kill comes within this share of the time
    that the undisturbed job takes. together: how many bring the last folder to its end.
    """
    order = [prepare.__module__, prepare.__name__, arguments, str(out), kills, share, together]
    places = [str(TESTS), str(TESTS.parent)]
    program = f"import sys; sys.path[:0] = {places}; import kills; kills.main(*{order})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout)
    return done


def results(out: Path) -> tuple[Path, list[Path]]:
    """The folder of the undisturbed job, and those of the killed one."""
    return out / "undisturbed", sorted(out.glob("killed-*"))


def main(
    module: str, prepare: str, arguments: dict, out: str, kills: int, share: float, together: int
) -> None:
    import torch

    torch.set_num_threads(1)  # and no other thread, so that forks are safe
    job = getattr(importlib.import_module(module), prepare)(**arguments)
    rng = random.Random(0)
    begin = time.perf_counter()
    assert end(start(job, f"{out}/undisturbed")) == 0
    seconds = time.perf_counter() - begin
    killed = rounds = 0
    left: set[str] = set()
    while killed < kills:
        child = start(job, f"{out}/killed-{rounds}")
        time.sleep(rng.uniform(0, share) * seconds)
        os.kill(child, signal.SIGKILL)
        code = end(child)
        assert code in (0, -signal.SIGKILL), f"it failed after {killed} kills"
        if code != 0:
            folder = f"{out}/killed-{rounds}"
            left.update(os.listdir(folder) if os.path.exists(folder) else ())
        killed += code != 0
        rounds += code == 0
    last = f"{out}/killed-{rounds}"
    children = [start(job, last) for _ in range(together)]
    assert [end(child) for child in children] == [0] * together
    print(f"{killed} kills, {rounds + 1} times to the end, {seconds:.2f} s undisturbed; they left:", *left)


def start(job, folder: str) -> int:
    """The process that works on it."""
    child = os.fork()
    if child:
        return child
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        job(Path(folder))
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(1)


def end(child: int) -> int:
    """Its exit status, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
