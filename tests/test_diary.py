"""The file of progress: one line a try, read back as a table, never a reason to fail."""

import json
import random

import pytest

from tightbound import checks
from tightbound.checks import Check, CheckFailed, Wrong, diary


def draw(stream: random.Random):
    return {"x": stream.random()}


DOUBLE = Check("double", draw=draw, reference=lambda x: 2 * x, outputs=["the double"], hints=["a", "b", "c"],
               wrongs=[Wrong("squared", lambda x: x * x, "you squared it")])


@pytest.fixture
def path(tmp_path, monkeypatch):
    path = tmp_path / "mine.jsonl"
    monkeypatch.setenv(diary.VARIABLE, str(path))
    return path


def fail(answer):
    with pytest.raises(CheckFailed):
        DOUBLE(answer)


def test_tries_are_kept_until_the_first_success(path):
    assert "No check has been tried yet" in str(checks.progress()) and not path.exists()
    fail(lambda x: x * x)
    fail(lambda x: x)
    assert "double: 2 tries, last: other" in str(checks.progress())
    DOUBLE(lambda x: x + x)
    fail(lambda x: x)
    found = checks.progress().exercises["test_diary"]["double"]
    assert found.tries == 3 and found.passed and found.last == "other"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["outcome"] for line in lines] == ["squared", "other", "passed", "other"]
    assert f"passed on {found.passed}" in checks.progress()._repr_html_() and "1 of 1 tried checks passed" in str(checks.progress())


def test_another_file_can_be_shown(path, tmp_path):
    DOUBLE(lambda x: 2 * x)
    path.rename(tmp_path / "theirs.jsonl")
    assert checks.progress().exercises == {}
    assert checks.progress(tmp_path / "theirs.jsonl").exercises["test_diary"]["double"].tries == 1
    with pytest.raises(FileNotFoundError, match="name a file of progress"):
        checks.progress(tmp_path / "nobody's.jsonl")


def test_damaged_lines_cost_themselves_only(path):
    DOUBLE(lambda x: 2 * x)
    with open(path, "ab") as file:
        file.write(b'half a li\xff\n[]\n{"topic": "<b>"}\n\n')
    DOUBLE(lambda x: 2 * x)
    found = checks.progress()
    assert found.unread == 3 and "3 line(s) of it cannot be read" in str(found) and "<b>" not in found._repr_html_()
    assert found.exercises["test_diary"]["double"].passed


def test_a_file_that_cannot_be_written_is_a_note(path, monkeypatch, capsys):
    monkeypatch.setenv(diary.VARIABLE, str(path / "no such folder"))
    DOUBLE(lambda x: 2 * x)
    said = capsys.readouterr()
    assert said.out.startswith("✓ double") and "Your progress is not kept" in said.err and diary.VARIABLE in said.err


def test_off_keeps_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    DOUBLE(lambda x: 2 * x)  # the tests' own setting is "off"
    assert not list(tmp_path.iterdir()) and "is off" in str(checks.progress())
    monkeypatch.delenv(diary.VARIABLE)
    DOUBLE(lambda x: 2 * x)
    assert [path.name for path in tmp_path.iterdir()] == ["tightbound-progress.jsonl"]
