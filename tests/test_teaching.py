"""The pages for teachers: plans, derivations and exam questions are complete, every number in them is recomputed,
what they name exists, and no page of the students' holds a word of the solutions.

A line ``% check: LEFT = RIGHT`` of these pages, which no reader sees, recomputes what stands above it: a LEFT such
as -2.4849 must stand in the text and be RIGHT, rounded; any other LEFT must equal RIGHT. ``% given: 0.5`` names a
number that was chosen, ``% chapter: 10.7`` one that the chapter has found.
"""

from __future__ import annotations

import importlib
import io
import math
import re
import sys
import zipfile
from functools import cache
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from bs4 import BeautifulSoup
from scipy import integrate, optimize, special, stats

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import book_extension  # noqa: E402
import kit  # noqa: E402
from classroom import assignments  # noqa: E402

TOPICS = sorted(path.stem for path in (ROOT / "chapters").glob("*.ipynb"))
PLAN, BOARDS, EXAM = "A session of 90 minutes", "Three derivations for the board", "Exam questions"
ROW = re.compile(r"^\| (\d+)–(\d+) \| (.+) \| (.+) \|$", re.M)
ITALICS = re.compile(r"(?<!\*)\*([^*]+)\*(?!\*)")
QUESTION = re.compile(r"(\d)\. (Compute|Explain|Decide|Find the mistake|Prove): (.*) \((\d+) points, (\d+) minutes\)")
CHECK = re.compile(r"^% check: (.+?) = (.+)$", re.M)
LITERAL = re.compile(r"-?\d+\.\d+")
STRAIGHT = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "…": "..."})  # undoes typography
DECIMAL = re.compile(r"(?<![\w.,])\d[\d,]*\.\d+")


# ---- what check lines may use ------------------------------------------------------------------------------

def quad(f, a, b):
    return integrate.quad(f, a, b, limit=200)[0]


def normal(x, mean, variance):
    return stats.norm.pdf(x, mean, math.sqrt(variance))


def mean(f, mu=0.0, sd=1.0):
    """The mean of f under N(mu, sd^2)."""
    return quad(lambda e: f(mu + sd * e) * normal(e, 0, 1), -12, 12)


def kl(p, q):
    """KL between two Gaussians, each given as (mean, variance)."""
    (m, v), (n, w) = p, q
    return 0.5 * (v / w + (m - n) ** 2 / w - 1 + math.log(w / v))


def D(f, x, h=1e-4):
    """The derivative of f at x."""
    return (8 * (f(x + h) - f(x - h)) - f(x + 2 * h) + f(x - 2 * h)) / (12 * h)


NAMES = {**vars(math), "np": np, "stats": stats, "special": special, "optimize": optimize, "beta": special.beta,
         "sigmoid": special.expit, "digamma": special.digamma, "Phi": stats.norm.cdf,
         "quad": quad, "normal": normal, "mean": mean, "kl": kl, "D": D}


# ---- reading the pages -------------------------------------------------------------------------------------

def read(path: str) -> str:
    return (ROOT / "teaching" / f"{path}.md").read_text(encoding="utf-8")


def parts(text: str, level: int) -> dict[str, str]:
    """What stands below each heading of this level."""
    pieces = re.split(rf"^#{{{level}}} (.*)$", text, flags=re.M)
    return dict(zip(pieces[1::2], pieces[2::2]))


def plain(text: str) -> str:
    """The text without check lines, with one kind of minus and numbers without their separators."""
    text = re.sub(r"^%.*\n?", "", text, flags=re.M)
    return text.replace("−", "-").replace("{,}", "").replace(",", "")


def chapter(topic: str):
    return nbformat.read(ROOT / f"chapters/{topic}.ipynb", as_version=4)


def everything(topic: str) -> str:
    """All that a chapter says and stores."""
    outputs = (output.get("text", "") or str(output.get("data", "")) for cell in chapter(topic).cells
               if cell.cell_type == "code" for output in cell.outputs)
    return plain("\n".join([*(cell.source for cell in chapter(topic).cells), *outputs]))


def questions(topic: str) -> dict[int, re.Match]:
    found = [QUESTION.fullmatch(heading) for heading in parts(parts(read(topic), 2)[EXAM], 3)]
    assert all(found), f"{topic}: {list(parts(parts(read(topic), 2)[EXAM], 3))}"
    return {int(match[1]): match for match in found}


def solutions(topic: str) -> dict[str, str]:
    return parts(read(f"solutions/{topic}"), 2)


# ---- complete ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("topic", TOPICS)
def test_plan_fills_ninety_minutes_with_what_exists(topic):
    rows = ROW.findall(parts(read(topic), 2)[PLAN])
    times = [(int(begin), int(end)) for begin, end, *_ in rows]
    assert times[0][0] == 0 and times[-1][1] == 90 and len(rows) >= 6
    assert all(a[1] == b[0] for a, b in zip(times, times[1:])) and all(begin < end for begin, end in times)
    happens = " ".join(row[2] for row in rows)
    explorers = re.findall(r"`explore\.(\w+)`", happens)
    assert explorers and {f"explore.{name}()" for name in explorers} <= set(
        re.findall(r"explore\.\w+\(\)", everything(topic)))
    assert all(hasattr(importlib.import_module(f"tightbound.explore.{topic}"), name) for name in explorers)
    named = ITALICS.findall(happens)
    assert named and set(named) <= headings(topic)


def headings(topic: str) -> set[str]:
    prose = "\n".join(cell.source for cell in chapter(topic).cells if cell.cell_type == "markdown")
    return set(re.findall(r"^#+ (.*)$", prose, re.M))


def minutes_left(plan: str) -> int:
    """The minutes that a plan's rows last after the cuts of its sentence on 60 minutes.

    A row goes by the name of any section in it, or by its first words: "leave out *Board 1* (12)", or, where only a
    part of it goes, "shorten *How fast?* from 12 to 8 (without Board 1)".
    """
    said, left = re.search(r"^\*\*In 60 minutes:\*\* (.+) That leaves (\d+) minutes\.$", plan, re.M).groups()
    rows = [(end - begin, happens) for begin, end, happens in
            ((int(begin), int(end), happens) for begin, end, happens, _ in ROW.findall(plan))]
    remain, cut = sum(minutes for minutes, _ in rows), set()

    def row(name: str, minutes: str) -> str:
        found = [i for i, (_, happens) in enumerate(rows)
                 if name in (*ITALICS.findall(happens), re.split(r"[:;.,]", happens)[0])]
        assert len(found) == 1 and found[0] not in cut, f"not one row of the table, or cut twice: {name}"
        assert rows[found[0]][0] == int(minutes), f"{name} lasts {rows[found[0]][0]} minutes, not {minutes}"
        cut.add(found[0])
        return rows[found[0]][1]

    known = set()
    for name, minutes in re.findall(r"\*([^*]+)\* \((\d+)\)", said):
        row(name, minutes)
        known.add(name)
        remain -= int(minutes)
    for name, before, after, part in re.findall(r"\*([^*]+)\* from (\d+) to (\d+)(?: \((.+?)\))?", said):
        happens = row(name, before)
        known |= {name, *ITALICS.findall(part)}
        assert 0 < int(after) < int(before)
        for piece in (*ITALICS.findall(part), *re.findall(r"Board \d|`explore\.\w+`", part)):
            assert piece in happens, f"{piece} is not in the row of {name}"
        remain -= int(before) - int(after)
    assert known == set(ITALICS.findall(said)), "a row is named without its minutes"
    assert remain == int(left), f"{remain} minutes remain, not {left}"
    return remain


@pytest.mark.parametrize("topic", TOPICS)
def test_sixty_minutes_are_sixty(topic):
    plan = parts(read(topic), 2)[PLAN]
    assert 55 <= minutes_left(plan) <= 60


@pytest.mark.parametrize("right, wrong, complaint", [
    ("*How fast?* (12)", "*How slow?* (12)", "not one row"),
    ("*How fast?* (12)", "*How fast?* (10)", "lasts 12 minutes"),
    ("*How fast?* (12)", "*How fast?*", "without its minutes"),
    ("*How fast?* (12)", "*On real data: three species of iris* (9)", "cut twice"),
    ("from 10 to 7 (without Board 3)", "from 10 to 7 (without Board 2)", "is not in the row"),
    ("from 10 to 7", "from 10 to 8", "minutes remain"),
])
def test_cuts_that_do_not_fit_the_table_are_found(right, wrong, complaint):
    plan = parts(read("em"), 2)[PLAN]
    assert right in plan
    with pytest.raises(AssertionError, match=complaint):
        minutes_left(plan.replace(right, wrong))


@pytest.mark.parametrize("topic", TOPICS)
def test_two_hours_add_what_exists(topic):
    plan = parts(read(topic), 2)[PLAN]
    added = re.search(r"^\*\*In 120 minutes:\*\* add (.+)$", plan, re.M)[1]
    happens = " ".join(row[2] for row in ROW.findall(plan))
    assert ITALICS.findall(added) and set(ITALICS.findall(added)) <= headings(topic)
    boards = {heading[:7] for heading in parts(parts(read(topic), 2)[BOARDS], 3)}
    assert set(re.findall(r"Board \d", added)) <= boards
    for piece in (*ITALICS.findall(added), *re.findall(r"Board \d", added)):
        assert piece not in happens, f"{piece} is in the plan of 90 minutes"


@pytest.mark.parametrize("topic", TOPICS)
def test_three_derivations_of_a_board_each(topic):
    boards = parts(parts(read(topic), 2)[BOARDS], 3)
    assert [heading[:8] for heading in boards] == ["Board 1.", "Board 2.", "Board 3."]
    for heading, board in boards.items():
        assert 4 <= len(re.findall(r"^\d\. ", board, re.M)) <= 8, heading
        assert "**Start.**" in board and "**The point.**" in board and CHECK.search(board), heading


@pytest.mark.parametrize("topic", TOPICS)
def test_every_question_has_its_solution(topic):
    asked, solved = questions(topic), solutions(topic)
    assert 4 <= len(asked) <= 6 and list(asked) == list(range(1, len(asked) + 1))
    assert len({match[2] for match in asked.values()}) >= 3, "questions of mixed kinds"
    assert list(solved) == [f"{number}. {match[3][0].upper()}{match[3][1:]}" for number, match in asked.items()]
    for match, solution in zip(asked.values(), solved.values()):
        marking = solution.split("**Marking.**")[1]
        assert sum(map(int, re.findall(r"(?<![\w.])(\d+) for ", marking))) == int(match[4]), match[3]
        assert 1 <= int(match[5]) / int(match[4]) <= 2, "minutes for a point"


MINUTES = {"an hour and a half": 90, "about an hour": 60, "two hours": 120, "about 75 minutes": 75,
           "about 70 minutes": 70, "about ninety minutes": 90}
TAUGHT = re.compile(r"\{doc\}`([^`<]+) <(\w+)>`")


def announced(topic: str) -> tuple[int, int]:
    """The minutes for reading that the chapter's opening announces, and those for the assignment's exercises, which
    each of them states."""
    opening = next(cell.source for cell in chapter(topic).cells if "**Time:**" in cell.source)
    reading = re.search(r"\*\*Time:\*\* (.*?) to read,", " ".join(opening.split()))[1]
    cells = nbformat.read(ROOT / f"chapters/exercises/{topic}/{topic}.ipynb", as_version=4).cells
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    exercises = re.findall(r"^\*\d+ points?, about (\d+) minutes\.\*$", prose, re.M)
    assert len(exercises) == len(re.findall(r"^## Exercise \d", prose, re.M)) >= 4
    return MINUTES[reading], sum(map(int, exercises))


@pytest.mark.parametrize("weeks, topics", [(12, 12), (6, 12)])
def test_syllabus_adds_up(weeks, topics):
    text = parts(read("syllabus"), 2)["Twelve weeks" if weeks == 12 else "Six weeks"]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in re.findall(r"^\| \d.*$", text, re.M)]
    assert [int(row[0]) for row in rows] == list(range(1, weeks + 1))
    total = []
    for row in rows:
        taught = TAUGHT.findall(row[1])
        graded = re.findall(rf"\*\*{TAUGHT.pattern}\*\*", row[1]) or taught
        class_, reading, exercises = map(int, row[2:5])
        assert reading == sum(announced(topic)[0] for _, topic in taught) and len(graded) == 1
        assert exercises == announced(graded[0][1])[1]
        assert float(row[5]) == math.floor((class_ + reading + exercises) / 60 * 10 + 0.5) / 10
        total.append((class_, reading, exercises, len(taught), graded[0][0]))
    assert sum(row[3] for row in total) == topics
    due = [row[6] for row in rows]
    assert due == ["–", *(row[4] for row in total[:-1])]
    said = plain(text).replace(" ", "")
    sums = [sum(row[i] for row in total) for i in range(3)]
    for number in (*sums, sum(sums), f"{sum(sums) / 60:.1f}"):
        assert re.search(rf"(?<![\d.]){number}(?![\d.]?\d)", said), number


def test_syllabus_names_its_links():
    """A link without words of its own shows the page's title, "Teaching: ...", in the middle of a sentence."""
    links = re.findall(r"\{doc\}`([^`]*)`", read("syllabus"))
    assert links and all(re.fullmatch(r"[^<]+ <\w+>", link) for link in links)
    named = set(TAUGHT.findall(read("syllabus")))
    assert len(named) == len({topic for _, topic in named}), "one name a page"


# ---- right -------------------------------------------------------------------------------------------------

def sections():
    for topic in TOPICS:
        for heading, board in parts(parts(read(topic), 2)[BOARDS], 3).items():
            yield pytest.param(topic, board, board, id=f"{topic}-{heading[:7]}")
        asked = parts(parts(read(topic), 2)[EXAM], 3)
        for question, (heading, solution) in zip(asked.values(), solutions(topic).items()):
            yield pytest.param(topic, solution, solution + question, id=f"{topic}-{heading}")


@pytest.mark.parametrize("topic, text, known", [*sections()])
def test_numbers_are_recomputed(topic, text, known):
    computed = set()
    for left, right in CHECK.findall(text):
        value = float(eval(right, dict(NAMES)))
        if LITERAL.fullmatch(left):
            computed.add(left.lstrip("-"))
            assert left.lstrip("-") in DECIMAL.findall(plain(text)), f"{left} is recomputed, but not said"
            assert round(value, len(left.split(".")[1])) == float(left), f"{left} = {right}: {value}"
        else:
            assert math.isclose(float(eval(left, dict(NAMES))), value, rel_tol=1e-6, abs_tol=1e-9), (left, value)
    found = set(re.findall(r"\d+\.\d+", " ".join(re.findall(r"^% chapter: (.+)$", text, re.M))))
    assert found <= set(re.findall(r"\d+\.\d+", everything(topic))), "the chapter has no such number"
    given = set(DECIMAL.findall(plain(known[len(text):]) + " ".join(re.findall(r"^% given: (.+)$", text, re.M))))
    assert not set(DECIMAL.findall(plain(text))) - computed - given - found, "numbers that nothing recomputes"


@pytest.mark.parametrize("topic", TOPICS)
def test_numbers_of_the_plan_are_the_chapter_s(topic):
    page = parts(read(topic), 2)
    text = plain("".join(text for heading, text in page.items() if heading not in (BOARDS, EXAM)))
    assert set(DECIMAL.findall(text)) <= set(re.findall(r"\d+\.\d+", everything(topic)))


@pytest.mark.parametrize("topic", TOPICS)
def test_misconceptions_are_those_of_the_checks(topic, book):
    module = importlib.import_module(f"tightbound.checks.{topic}")
    shown = BeautifulSoup((book / f"teaching/{topic}.html").read_text(), "html.parser")
    boxes = shown.select(".admonition.misconceptions")
    checks = book_extension.catalogue(module)
    assert len(boxes) == len(checks) >= 4
    for box, check in zip(boxes, checks):
        said = [item.get_text().translate(STRAIGHT) for item in box.select("li")]
        assert said == [f"{wrong.name}: {wrong.message.replace('`', '')}" for wrong in check.wrongs]


@pytest.mark.browser
@pytest.mark.parametrize("topic", TOPICS)
def test_formulas_fit_a_phone(topic, book, open_page):
    """A blackboard's formula that has to be scrolled is read by nobody; those in tables scroll with them."""
    tab = open_page((book / f"teaching/{topic}.html").as_uri(), viewport={"width": 390, "height": 844}).page
    tab.evaluate("() => window.MathJax.startup.promise")
    wide = tab.evaluate("""() => [...document.querySelectorAll('.bd-article mjx-container')]
        .filter(m => !m.closest('table') && m.getBoundingClientRect().right > 390)
        .map(m => m.closest('p, li').textContent.slice(0, 80))""")
    assert not wide


# ---- kept apart --------------------------------------------------------------------------------------------

@cache
def pieces(topic: str) -> set[str]:
    """Pieces of a solution's words, long enough to be nobody else's."""
    words = re.sub(r"^[%#].*$", "", read(f"solutions/{topic}"), flags=re.M)
    words = re.sub(r"\$\$.*?\$\$|\$[^$]*\$|[*_`]", "\n", words, flags=re.S)
    words = re.sub(r"(?<=\w)\n(?=\w)", " ", words)
    return {piece.strip() for piece in re.split(r"[\n.:;()|]|\s,", words) if len(piece.strip()) >= 24}


def holding(text: str) -> list[str]:
    """The pieces of solutions that a text holds."""
    text = " ".join(text.translate(STRAIGHT).split())
    return [piece for topic in TOPICS for piece in pieces(topic) if piece in text]


@pytest.mark.parametrize("topic", TOPICS)
def test_solutions_can_be_recognised(topic):
    assert len(pieces(topic)) >= 10
    assert not holding(read(topic)), "a question gives away its solution"


def test_students_pages_hold_no_solution(book):
    pages = [path for path in book.rglob("*") if path.suffix in (".html", ".js", ".md", ".txt", ".ipynb")
             and "_static" not in path.parts]
    assert len(pages) > 90 and not [path for path in pages if "solutions" in path.parts]
    for path in pages:
        text = path.read_text()
        assert not holding(BeautifulSoup(text, "html.parser").get_text(" ") if path.suffix == ".html" else text), path


def test_students_archive_holds_no_solution(tmp_path):
    assignments.write_assignments(["laplace"], tmp_path, [])
    inside = list(contents_of((tmp_path / "laplace.zip").read_bytes()))
    assert len(inside) > 50 and not [name for name, _ in inside if "teaching" in name]
    assert not [name for name, text in inside if holding(text)]


def contents_of(archive: bytes):
    """Names and texts of all files in an archive, those of archives in it (a wheel) included."""
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        for name in file.namelist():
            if name.endswith(".whl"):
                yield from contents_of(file.read(name))
            else:
                yield name, file.read(name).decode(errors="replace")


def test_search_index_knows_no_solution(book):
    index = (book / "searchindex.js").read_text()
    assert "teaching/laplace" in index and "solutions/" not in index


def test_contents_leave_the_solutions_out():
    assert "solutions" not in (ROOT / "_toc.yml").read_text()


@pytest.fixture(scope="module")
def teachers(book):
    """The teacher's kit, built."""
    kit.build(ROOT)
    return ROOT / "_build/kit"


@pytest.mark.parametrize("topic", TOPICS)
def test_kit_holds_questions_and_solutions(topic, teachers):
    def said(name):
        soup = BeautifulSoup((teachers / f"{name}.html").read_text(), "html.parser")
        return " ".join(soup.select_one("article").get_text().split()), soup

    text, soup = said(f"teaching/solutions/{topic}")
    assert all(heading in text for heading in solutions(topic)) and "check:" not in text
    text, soup = said(f"teaching/{topic}")
    assert all(match[3] in text for match in questions(topic).values())
    assert soup.select(f'a[href$="solutions/{topic}.html"]')
    for link in soup.select("article a[href]"):
        target = link["href"].split("#")[0]
        assert not target or (teachers / "teaching" / target).exists() or target.startswith("https:"), target


def test_kit_s_contents_are_the_book_s_part_for_teachers():
    toc = kit.contents(yaml.safe_load((ROOT / "_toc.yml").read_text()), ROOT)
    listed = [page["file"] for page in toc["chapters"]]
    assert [f"teaching/{topic}" in listed for topic in TOPICS] == [True] * len(TOPICS)
    solved = [section["file"] for page in toc["chapters"] for section in page.get("sections", [])]
    assert sorted(solved) == [f"teaching/solutions/{topic}" for topic in TOPICS]
