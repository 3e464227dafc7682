"""The project around the code: set-up files in step, sizes, clean notebooks, truthful Markdown."""

import ast
import pkgutil
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import nbformat
import pytest
import yaml
from slow import SLOW

from ip2p.cli import main
from ip2p.common.markdown import fill, fill_pages, pages_of
from ip2p.teaching import docs
from ip2p.teaching.colab import prepare_for_colab
from ip2p.teaching.notebook_files import (
    first_picture,
    minutes,
    name_and_question,
    number_of,
    parameters,
    read,
)
from ip2p.teaching.pages import readme_table

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
IGNORED = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split()] + [".git"]


def tracked(folder: Path = ROOT) -> list[Path]:
    """Every file that git does not ignore (.gitignore holds plain names and patterns only)."""
    out = []
    for path in sorted(folder.iterdir()):
        if not any(fnmatch(path.name, pattern) for pattern in IGNORED):
            out += tracked(path) if path.is_dir() else [path]
    return out


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_conda_installs_what_make_installs():
    project = tomllib.loads(page("pyproject.toml"))["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    python, pip, packages = yaml.safe_load(page("environment.yml"))["dependencies"]
    assert python.startswith("python=3.") and pip == "pip"
    assert packages["pip"] == ["-c constraints.txt", *wanted, "-e ."]


def test_every_dependency_has_a_tested_version():
    project = tomllib.loads(page("pyproject.toml"))["project"]
    pinned = {line.split("==")[0] for line in page("constraints.txt").split("\n") if "==" in line}
    for dependency in project["dependencies"] + project["optional-dependencies"]["dev"]:
        name = re.match(r"[\w-]+", dependency)[0].lower().replace("_", "-")
        assert name in pinned, f"{name}: run make lock"
    assert {"torch", "torchvision"} <= pinned  # one release, one kind: they only work as a pair


def test_the_slow_tests_are_there():
    for name in SLOW:
        file, _, test = name.partition("::")
        assert f"def {test.partition('[')[0]}(" in page(f"tests/{file}"), f"tests/slow.py: {name}"


@pytest.mark.parametrize("backend", ["", "cpu"])
def test_which_pytorch_make_installs(backend):
    command = ["make", "--dry-run", "--always-make", f"TORCH={backend}", ".venv/.ready"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert ("--torch-backend" in done.stdout) == bool(backend)
    assert not backend or f"--torch-backend {backend} -c constraints.txt" in done.stdout


def test_size():
    size = sum(path.lstat().st_size for path in tracked())  # of a link, not of what it leads to
    assert size <= 80e6, f"all files together take {size / 1e6:.1f} MB"
    pairs = sum(path.stat().st_size for path in (ROOT / "data" / "pairs").iterdir())
    assert pairs <= 12e6, f"the pairs take {pairs / 1e6:.1f} MB"


def test_no_private_path_or_host():
    private = re.compile(rb"(?<![\w.~}>-])/(root|home|Users|work|opt)/[\w.]|(index-url|find-links)[ =]+[\w/]")
    for path in tracked():
        found = private.search(path.read_bytes()) if path != Path(__file__) else None
        assert not found or path.suffix in (".parquet", ".safetensors", ".png"), f"{path}: {found[0]}"


def test_local_links_lead_somewhere():
    for path in tracked():
        in_site = ROOT / "site" in path.parents  # whose pages lie elsewhere when it is made (test_site.py)
        if path.suffix == ".md" and not in_site:
            text = path.read_text(encoding="utf-8")
            text = re.sub(r"<!--.*?-->|```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
            for link in re.findall(r"\]\(([^)#\s]+)", text):
                assert link.startswith("https://") or (path.parent / link).exists(), f"{path}: {link}"


def is_there(name: str) -> bool:
    """Whether a dotted name such as ip2p.editing.Editor.sample is a module, or can be had from one."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def test_pages_and_notebooks_name_files_and_modules_that_exist():
    for path in tracked():
        if path.suffix not in (".md", ".ipynb") or path.name == "CHANGELOG.md":
            continue
        text = path.read_text(encoding="utf-8")
        for file in re.findall(r"\b(?:ip2p|tests|notebooks|data)/[\w/]+\.(?:py|ipynb)\b", text):
            assert "NN_" in file or (ROOT / file).exists(), f"{path}: {file}"
        for name in re.findall(r"\bip2p(?:\.[A-Za-z_]\w*)+", text):
            assert is_there(name), f"{path}: {name}"


def test_checksums_and_settings_are_those_of_now():
    data = page("data/README.md")
    hint = "run ip2p docs"
    assert docs.checksums(ROOT / "data") in data, hint
    for path in pages_of(ROOT):
        text = path.read_text(encoding="utf-8")
        for name, value in docs.settings(text).items():
            assert f"<!-- figures:{name} -->{value}<!-- /figures -->" in text, f"{path}, {name}: {hint}"
    for folder in (ROOT / "data").iterdir():
        assert not folder.is_dir() or f"\n## {folder.name}\n" in data, f"data/README.md: {folder.name}?"


def test_fill(tmp_path):
    file = tmp_path / "page.md"
    file.write_text(
        "| a | <!-- figures:a -->?<!-- /figures --> |\n<!-- figures:b -->\nold\n<!-- /figures -->\n"
    )
    for _ in range(2):  # a second time changes nothing
        fill(file, {"a": r"1\2", "b": "| x |\n|---|"})
        assert file.read_text() == (
            "| a | <!-- figures:a -->1\\2<!-- /figures --> |\n"
            "<!-- figures:b -->\n\n| x |\n|---|\n\n<!-- /figures -->\n"
        )
    with pytest.raises(KeyError, match="figures:c"):
        fill(file, {"c": ""})


def test_a_part_is_filled_on_every_page_that_has_it(tmp_path):
    (tmp_path / "docs").mkdir()
    readme, first, second = tmp_path / "README.md", tmp_path / "docs" / "a.md", tmp_path / "docs" / "b.md"
    for path in (readme, first):
        path.write_text("It takes <!-- figures:time -->?<!-- /figures -->.\n")
    second.write_text("Nothing is measured here.\n")
    fill_pages(tmp_path, {"time": "3 s"})
    for path in (readme, first):
        assert path.read_text() == "It takes <!-- figures:time -->3 s<!-- /figures -->.\n"
    assert second.read_text() == "Nothing is measured here.\n"
    with pytest.raises(KeyError, match="no page has a part called rate"):
        fill_pages(tmp_path, {"rate": "1"})


def test_minutes_of_notebooks_that_did_not_run_again_stay(tmp_path):
    readme = page("README.md")
    assert readme_table(tmp_path, readme) in readme, "run ip2p notebooks --readme"
    assert readme_table(tmp_path, "").count("not measured yet") == len(NOTEBOOKS)


def test_the_readme_is_short():
    assert len(page("README.md").splitlines()) <= 150


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_in_shape(path):
    nb = nbformat.read(path, as_version=4)
    nbformat.validate(nb)
    assert nb.metadata.kernelspec.name == "python3" and "widgets" not in nb.metadata
    for cell in nb.cells:
        assert not cell.get("outputs") and not cell.get("execution_count"), "run nbstripout notebooks/*.ipynb"
    assert nb.cells[0].source.startswith(f"# {number_of(path)} "), "begin with: # NN Name: the question?"
    assert name_and_question(nb)[1].endswith("?")
    tagged = [cell.source for cell in nb.cells if "parameters" in cell.metadata.get("tags", ())]
    assert len(tagged) == 1
    for node in ast.parse(tagged[0]).body:
        line = tagged[0].split("\n")[node.lineno - 1]
        assert isinstance(node, ast.AnnAssign) and "  # " in line, f"no type or no comment: {line}"
    assert {"PROFILE", "SEED", "OUT"} <= set(parameters(nb))
    assert f"](notebooks/{path.name})" in page("README.md"), "run ip2p notebooks --readme"


# ------------------------------------------------------------------------------------ running notebooks


@pytest.fixture
def folder(tmp_path):
    """Two tiny notebooks: 00 draws a picture, 01 fails."""
    from nbformat import v4

    first = "SEED: int = 0  # any\nOUT: str = '.'  # folder"
    cells = {
        "00_fine": [
            "import sys\nprint(sys.prefix, SEED)",
            "from PIL import Image\nImage.new('RGB', (8, 8), 'red')",
            "open(OUT + '/note.txt', 'w').write('here')",
        ],
        "01_wrong": ["one = 1", "one / 0"],
    }
    for name, sources in cells.items():
        nb = v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
        nb.cells = [
            v4.new_markdown_cell(f"# {name[:2]} Tiny <b>: is it {name[3:]}?\n"),
            v4.new_code_cell(first, metadata={"tags": ["parameters"]}),
            *map(v4.new_code_cell, sources),
        ]
        nbformat.write(nb, tmp_path / f"{name}.ipynb")
    return tmp_path


def test_notebooks_run_and_failures_are_explained(folder, capfd, monkeypatch):
    stranger = folder / "jupyter" / "kernels" / "python3"  # another kernel of that name must not win
    stranger.mkdir(parents=True)
    (stranger / "kernel.json").write_text('{"argv": ["false"], "display_name": "x", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(folder / "jupyter"))
    out, common = (
        folder / "out",
        ["--notebooks", str(folder), "--only", "00", "01", "--out", str(folder / "out")],
    )

    assert main(["notebooks", *common, "-p", "SEED", "7"]) == 1
    said = capfd.readouterr().err
    assert "01_wrong.ipynb failed at In [" in said and "ZeroDivisionError" in said and "    one / 0" in said
    fine, wrong = (read(out / f"{name}.ipynb") for name in ("00_fine", "01_wrong"))
    assert f"{sys.prefix} 7" in str(fine.cells) and (out / "00_fine" / "note.txt").read_text() == "here"
    assert first_picture(fine).startswith(b"\x89PNG") and minutes(fine) > 0
    assert minutes(wrong) is None
    index = (out / "index.html").read_text()
    assert index.count("data:image/png") == 1 and "is it wrong?<br>not finished" in index
    assert "Tiny &lt;b&gt;" in index
    assert "is it fine?" in (out / "00_fine.html").read_text()


def test_colab_fetches_what_is_missing_and_elsewhere_nothing_happens(folder, tmp_path):
    """Run as Colab would, in an empty folder where there is no ip2p, but with a repository on this disk."""
    tiny = tmp_path / "them" / "tiny"
    (tiny / "ip2p").mkdir(parents=True)
    (tiny / "notebooks").mkdir()
    (tiny / "notebooks" / "00.ipynb").touch()
    (tiny / "ip2p" / "__init__.py").write_text("here = 7\n")
    (tiny / "pyproject.toml").write_text('[project]\ndependencies = ["pillow"]\n')
    for command in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"],
    ):
        subprocess.run(["git", *command], cwd=tiny, check=True)
    for _ in range(2):  # a second time replaces the first
        prepare_for_colab(folder / "00_fine.ipynb", "them/tiny", tmp_path.as_uri())
    nb = read(folder / "00_fine.ipynb")
    nbformat.validate(nb)
    assert nb.cells[0].source.startswith("# 00 Tiny") and nb.cells[0].source.count("colab-badge") == 1
    assert "/github/them/tiny/blob/main/notebooks/00_fine.ipynb)" in nb.cells[0].source
    assert [c.cell_type for c in nb.cells[:3]] == ["markdown", "code", "code"] and "SEED" in nb.cells[
        2
    ].source
    cell, empty = nb.cells[1].source, tmp_path / "empty"
    empty.mkdir()
    hidden = (
        f"import importlib.util, sys; find = importlib.util.find_spec; importlib.util.find_spec = "
        f"lambda name, *a: None if name == 'ip2p' else find(name, *a)\n{cell}\nimport os, ip2p; "
        "print(ip2p.here, os.listdir())"
    )
    for _ in range(2):  # a second time: the session was restarted
        done = subprocess.run(
            [sys.executable, "-c", hidden], cwd=empty, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip().endswith("7 ['00.ipynb']")
    there = subprocess.run(
        [sys.executable, "-c", cell], cwd=folder, capture_output=True, text=True, check=True
    )
    assert there.stdout == "" and not (folder / "ip2p").exists()


@pytest.mark.parametrize("wrong", [["--only", "07"], ["-p", "NOPE", "1"]])
def test_notebooks_refuse_what_is_not_there(folder, wrong, capsys):
    assert main(["notebooks", "--notebooks", str(folder), "--out", str(folder / "out"), *wrong]) == 1
    assert wrong[1] in capsys.readouterr().err


def test_notebooks_refuse_a_folder_that_cannot_be_written_before_they_run(folder, tmp_path, capsys):
    (tmp_path / "file").touch()
    for out in ("file", "file/inside"):
        assert (
            main(["notebooks", "--notebooks", str(folder), "--only", "00", "--out", str(tmp_path / out)]) == 1
        )
        said = capsys.readouterr().err
        assert said.startswith(f"ip2p: {tmp_path / out} ") and said.count("\n") == 1
