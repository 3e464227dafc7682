"""`ip2p docs`: the parts of pages that follow from files and settings."""

import re
import shutil

import pytest

from ip2p.common.durable import digest
from ip2p.common.markdown import pages_of
from ip2p.paths import ROOT
from ip2p.profiles import MINI
from ip2p.teaching.docs import in_words, renew

PAGES = ("docs/settings.md", "data/README.md")
FILES = ("data/triplets/mini.jsonl", "data/triplets/open.jsonl", "data/captions/mini.txt")


@pytest.fixture
def copy(tmp_path):
    """Our pages, and a few of the files of which they tell."""
    of_all = [path.relative_to(ROOT) for path in pages_of(ROOT)]
    for name in (*of_all, "data/README.md", *FILES):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def pages(root) -> list[str]:
    return [(root / name).read_text(encoding="utf-8") for name in PAGES]


def test_a_changed_file_is_noted_and_a_second_run_changes_nothing(copy):
    triplets = copy / "data" / "triplets" / "open.jsonl"
    lessons = triplets.read_text(encoding="utf-8").splitlines(keepends=True)
    renew(copy)
    before = digest(triplets)
    assert f"| triplets/open.jsonl | {triplets.stat().st_size:,} | `{before}` |" in pages(copy)[1]

    triplets.write_text("".join(lessons[1:]), encoding="utf-8")
    renew(copy)
    of_settings, of_data = once = pages(copy)
    assert before not in of_data
    assert f"| triplets/open.jsonl | {triplets.stat().st_size:,} | `{digest(triplets)}` |" in of_data
    assert f"<!-- figures:lessons_open -->{len(lessons) - 1}<!-- /figures -->" in of_settings
    renew(copy)
    assert pages(copy) == once


def test_settings_are_written_anew_and_the_rest_stays(copy):
    """Of our own pages nothing changes but the table of the files, of which the copy has a few."""
    page = copy / "docs" / "settings.md"
    text = page.read_text(encoding="utf-8")
    name = re.search(r"figures:(mini\.\w+) -->", text)[1]
    value = in_words(getattr(MINI, name.removeprefix("mini.")))
    ours = f"<!-- figures:{name} -->{value}<!-- /figures -->"
    assert ours in text
    page.write_text(text.replace(ours, f"<!-- figures:{name} -->stale<!-- /figures -->"), encoding="utf-8")
    renew(copy)
    assert page.read_text(encoding="utf-8") == text


def test_what_passes_is_not_listed(copy):
    for name in (".lock", "models/work/checkpoint.pt", "notes.txt~", "half.tmp"):
        (copy / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / "data" / name).write_text("passing")
    renew(copy)
    listed = re.findall(r"^\| (\S+) \| [\d,]+ \| `", pages(copy)[1], re.MULTILINE)
    assert listed == ["captions/mini.txt", "triplets/mini.jsonl", "triplets/open.jsonl"]
