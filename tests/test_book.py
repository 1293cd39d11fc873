"""How the book is built: what is executed again and when, what stops it, and the one setting of the repository."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup
from docutils import nodes
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import book  # noqa: E402
import book_extension  # noqa: E402
import notebooks  # noqa: E402

URL = "https://github.com/someone/tightening"
OURS = book.notebooks(ROOT)


class SmallBook:
    """A book of two pages, with the real book's configuration and tools."""

    def __init__(self, root: Path):
        self.root = root
        for name in ("_config.yml", "references.bib", "requirements.txt", "assets", "tools"):
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, root / name)
        for folder in ("src", "pages", "chapters", "teaching"):
            (root / folder).mkdir()
        self.write("src/package.py", "x = 1\n")
        self.write("_toc.yml", "format: jb-book\nroot: index\nchapters:\n- file: chapters/one\n")
        self.notebook("index.ipynb", "# A small book", "1 + 1")
        self.notebook("chapters/one.ipynb", "# One", "import os\nprint('one', os.getpid())")

    def write(self, path: str, text: str) -> None:
        (self.root / path).write_text(text)

    def notebook(self, path: str, prose: str, *code: str, **metadata) -> None:
        cells = [new_markdown_cell(prose), *(new_code_cell(cell, metadata=metadata) for cell in code)]
        nbformat.write(new_notebook(cells=cells, metadata=notebooks.METADATA), self.root / path)

    def setting(self, **repository: str) -> None:
        config = yaml.safe_load((self.root / "_config.yml").read_text())
        config["launch_buttons"]["jupyterhub_url"] = repository.pop("jupyterhub_url", "")
        config["repository"] |= repository
        self.write("_config.yml", yaml.safe_dump(config))

    def build(self) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, self.root / "tools/book.py", "--no-open"],
                              capture_output=True, text=True)

    def made(self) -> str:
        """Builds the book, and returns what it said in the end."""
        done = self.build()
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-2]

    def page(self, name: str) -> BeautifulSoup:
        return BeautifulSoup((self.root / f"_build/html/{name}.html").read_text(), "html.parser")


@pytest.fixture
def small(tmp_path):
    return SmallBook(tmp_path)


# ---- what is made again ------------------------------------------------------------------------------------

def test_only_what_changed_is_made_again(small):
    assert "notebooks executed: 2" in small.made()
    first = small.page("chapters/one").select_one(".cell_output").text
    assert small.made() == "The book is up to date."

    small.notebook("index.ipynb", "# Another title", "1 + 1")  # prose alone
    assert "notebooks executed: 0" in small.made()
    assert small.page("index").h1.text == "Another title"
    assert small.page("chapters/one").select_one(".cell_output").text == first

    small.notebook("index.ipynb", "# Another title", "2 + 2")  # a cell
    assert "notebooks executed: 1" in small.made()

    small.write("src/package.py", "x = 2\n")  # the package
    assert "notebooks executed: 2" in small.made()
    assert small.page("chapters/one").select_one(".cell_output").text != first


def test_a_page_that_left_the_contents_is_gone(small):
    small.made()
    small.write("_toc.yml", "format: jb-book\nroot: index\n")
    small.made()
    assert not (small.root / "_build/html/chapters/one.html").exists()


def test_fingerprint_sees_content_names_and_python(tmp_path, monkeypatch):
    def state():
        return book.fingerprint(tmp_path, ("src",))

    (tmp_path / "src/__pycache__").mkdir(parents=True)
    (tmp_path / "src/a.py").write_text("1")
    seen = [state()]
    (tmp_path / "src/__pycache__/a.pyc").write_text("cache")
    assert state() == seen[0]
    (tmp_path / "src/a.py").write_text("2")
    seen.append(state())
    (tmp_path / "src/a.py").rename(tmp_path / "src/b.py")
    seen.append(state())
    monkeypatch.setattr(sys, "version", "4.0")
    seen.append(state())
    assert len(set(seen)) == 4


# ---- what stops it -----------------------------------------------------------------------------------------

def test_a_cell_that_raises_is_named_in_a_few_lines(small):
    small.notebook("chapters/one.ipynb", "# One", "x = 1", "y = x + 1\nz = y / (x - 1)", name="division")
    done = small.build()
    assert done.returncode == 1
    assert done.stderr.strip() == ("chapters/one.ipynb, cell 3 (division): ZeroDivisionError: division by zero\n"
                                   "    line 2: z = y / (x - 1)")
    assert not (small.root / "_build/html").exists()


def test_an_error_that_a_cell_announces_is_none(small):
    small.notebook("chapters/one.ipynb", "# One", "1 / 0", tags=["raises-exception"])
    assert "notebooks executed: 2" in small.made()


def test_a_warning_stops_it_and_the_old_pages_stay(small):
    small.made()
    small.notebook("index.ipynb", "# A small book\n\n{ref}`nowhere`", "1 + 1")
    done = small.build()
    assert done.returncode == 1 and "nowhere" in done.stderr and "Traceback" not in done.stderr
    assert small.page("index").h1.text == "A small book"
    assert small.build().returncode == 1  # and stops it again


@pytest.mark.parametrize("missing, told", [
    ("chapters/one.ipynb", "_toc.yml lists chapters/one, but there is neither chapters/one.ipynb nor chapters/one.md"),
    ("references.bib", "references.bib is missing: fetch it again")])
def test_missing_files_are_named(small, missing, told):
    (small.root / missing).unlink()
    done = small.build()
    assert done.returncode == 1 and told in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("broken, told", [
    ("_toc.yml", "_toc.yml cannot be read"), ("chapters/one.ipynb", "chapters/one.ipynb is no notebook")])
def test_broken_files_are_named(broken, told, small):
    small.write(broken, "{a: [")
    done = small.build()
    assert done.returncode == 1 and told in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("number, told", [(errno.ENOSPC, "The disk is full"), (errno.EACCES, "may not be written")])
def test_errors_of_the_system_become_sentences(number, told, tmp_path):
    assert told in book.explain(OSError(number, os.strerror(number), str(tmp_path)), tmp_path)


# ---- the repository, in one setting ------------------------------------------------------------------------

def test_no_repository_no_button(small):
    small.made()
    for name in ("index", "chapters/one"):
        assert not small.page(name).select("a[href^=http]")


def test_a_repository_brings_its_buttons(small):
    small.setting(url=URL, jupyterhub_url="https://hub.example.org")
    small.write("pages/prose.md", "# Prose\n")
    small.write("_toc.yml", "format: jb-book\nroot: index\nchapters:\n- file: chapters/one\n- file: pages/prose\n")
    small.made()
    links = {link["href"] for link in small.page("chapters/one").select("a[href^=http]")}
    assert links == {
        "https://colab.research.google.com/github/someone/tightening/blob/main/chapters/one.ipynb",
        "https://mybinder.org/v2/gh/someone/tightening/main?urlpath=lab/tree/chapters/one.ipynb",
        "https://hub.example.org/hub/user-redirect/git-pull?repo=https%3A//github.com/someone/tightening"
        "&urlpath=lab/tree/tightening/chapters/one.ipynb&branch=main",
        URL, next(link for link in links if link.startswith(f"{URL}/issues/new"))}
    assert "colab" not in str(small.page("pages/prose"))  # nothing to run there


def test_a_repository_that_is_none_is_named(small):
    small.setting(url="someone/tightening")
    done = small.build()
    assert done.returncode == 1 and "must look like https://github.com/NAME/REPO" in done.stderr


# ---- what pages show of an exercise ------------------------------------------------------------------------

def test_marker_lines_and_hidden_tests_are_not_shown():
    code = ("def f(x):\n    ### BEGIN SOLUTION\n    return x  # ### BEGIN\n    ### END SOLUTION\n\n"
            "### BEGIN HIDDEN TESTS\nassert f(2) == 2\n### END HIDDEN TESTS\nf(1)")
    block = nodes.literal_block(code, code)
    book_extension.plain_code(None, nodes.container("", block))
    assert block.astext() == block.rawsource == "def f(x):\n    return x  # ### BEGIN\n\nf(1)"


# ---- what notebooks store ----------------------------------------------------------------------------------

@pytest.mark.parametrize("path", OURS, ids=lambda path: path.parent.name + "/" + path.stem)
def test_notebooks_store_text_alone(path):
    assert not notebooks.faults(path, notebooks.repository(ROOT))


@pytest.mark.usefixtures("book")
@pytest.mark.parametrize("path", OURS, ids=lambda path: path.parent.name + "/" + path.stem)
def test_the_build_found_what_the_notebook_stores(path):
    """So no notebook has to be run a second time. One alone, live: `pytest --nbval-lax chapters/laplace.ipynb`."""
    notebook = nbformat.read(path, as_version=4)
    differ = notebooks.differences(notebook, book.executed(ROOT, notebook))
    assert not differ, "\n".join([*differ, "Is that right? Then `make outputs` stores it."])


def printing(text, **metadata):
    stream = new_output("stream", name="stdout", text=text)
    noise = new_output("stream", name="stderr", text=f"{len(text)} seconds")
    return new_notebook(cells=[new_markdown_cell("# Title", id="title"),
                               new_code_cell("gap", id="gap", outputs=[stream, noise], metadata=metadata)])


def test_differences_are_those_of_checked_cells():
    checked = {"tags": [notebooks.CHECKED], "name": "coin-gap"}
    assert not notebooks.differences(printing("gap 0.1\n", **checked), printing("gap 0.1\n", **checked))
    assert not notebooks.differences(printing("3 seconds\n"), printing("4 seconds\n"))
    (found,) = notebooks.differences(printing("gap\n0.1\n", **checked), printing("gap\n0.2\n", **checked))
    assert found.splitlines() == ["--- coin-gap, stored", "+++ coin-gap, executed", "@@ -1,2 +1,2 @@", " gap", "-0.1",
                                  "+0.2"]
    raised = printing("", **checked)
    raised.cells[1].outputs = [new_output("error", ename="ValueError", evalue="no", traceback=[])]
    assert "+no" in notebooks.differences(printing("gap 0.1\n", **checked), raised)[0]


def test_what_was_executed_is_found_again(small):
    small.made()
    notebook = nbformat.read(small.root / "chapters/one.ipynb", as_version=4)
    assert book.executed(small.root, notebook).cells[0].outputs[0].text.startswith("one ")
    notebook.cells[1].source += "  # another"
    with pytest.raises(KeyError):
        book.executed(small.root, notebook)


def full_notebook():
    outputs = [
        new_output("stream", name="stdout", text="gap 0.1\n"), new_output("stream", name="stderr", text="10%|..."),
        new_output("display_data", {"image/png": "iVBO", "text/html": "<b>"}),
        new_output("execute_result", {"text/plain": "Explorer: a coin", "text/html": "<div>",
                                      "application/vnd.jupyter.widget-view+json": {"model_id": "1"}})]
    cell = new_code_cell("gap", outputs=outputs, metadata={"execution": {"iopub.status.busy": "now"}})
    return new_notebook(cells=[new_markdown_cell("# Title"), cell], metadata={
        "widgets": {"state": {}}, "language_info": {"name": "python", "version": "3.11.2"}})


def test_strip_leaves_text():
    notebook = full_notebook()
    notebooks.strip(notebook)
    assert [output.get("text") or output.data for output in notebook.cells[1].outputs] == [
        "gap 0.1\n", {"text/plain": "Explorer: a coin"}]
    assert notebook.metadata == notebooks.METADATA and notebook.cells[1].metadata == {}
    once = nbformat.writes(notebook)
    notebooks.strip(notebook)
    assert nbformat.writes(notebook) == once


def test_check_names_pictures_and_a_missing_first_cell(tmp_path):
    path = tmp_path / "full.ipynb"
    nbformat.write(full_notebook(), path)
    faults = notebooks.faults(path, "")
    assert len(faults) == 2 and "Colab" in faults[0] and "more than text" in faults[1]


def test_refresh_runs_live_and_is_idempotent(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    path = tmp_path / "live.ipynb"
    cells = ["import os, sys\nprint(os.environ.get('TIGHTBOUND_STATIC'))\nprint('...', file=sys.stderr)", "6 * 7"]
    nbformat.write(new_notebook(cells=[new_markdown_cell("# Live"), *map(new_code_cell, cells)]), path)
    monkeypatch.delenv("TIGHTBOUND_STATIC", raising=False)
    assert notebooks.refresh(path, URL)
    stored = nbformat.read(path, as_version=4)
    assert [cell.get("id") for cell in stored.cells][1] == "colab"
    assert stored.cells[2].outputs[0].text == "None\n" and len(stored.cells[2].outputs) == 1
    assert stored.cells[3].outputs[0].data == {"text/plain": "42"}
    assert not notebooks.refresh(path, URL) and not notebooks.faults(path, URL)


@pytest.fixture
def shell():
    """An IPython whose %pip notes what it is asked."""
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shell.asked = []
    shell.register_magic_function(shell.asked.append, magic_name="pip")
    return shell


@pytest.mark.parametrize("url", ["", URL])
def test_first_cell_is_silent_outside_of_colab(url, shell, capsys):
    assert shell.run_cell(notebooks.colab_cell(url).source).success
    assert shell.asked == [] and capsys.readouterr().out == ""


def test_first_cell_installs_on_colab(shell, monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", object())
    assert shell.run_cell(notebooks.colab_cell(URL).source).success
    assert shell.asked == [f'install --quiet "tightbound @ git+{URL}"']
    failed = shell.run_cell(notebooks.colab_cell("").source).error_in_exec
    assert isinstance(failed, RuntimeError) and "names no public repository" in str(failed)


# ---- contents ----------------------------------------------------------------------------------------------

def test_contents_and_chapters_agree():
    chapters = {path for path in (ROOT / "chapters").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts}
    assert chapters | {ROOT / "index.ipynb"} == set(OURS)
    for chapter in (ROOT / "chapters").glob("*.ipynb"):
        assert (ROOT / f"chapters/exercises/{chapter.stem}/{chapter.stem}.ipynb").exists()


def test_every_page_is_in_the_contents():
    from sphinx_external_toc.parsing import parse_toc_yaml

    listed = set(parse_toc_yaml(ROOT / "_toc.yml"))
    assert {f"{folder}/{path.stem}" for folder in ("pages", "teaching") for path in (ROOT / folder).glob("*.md")} <= listed


def test_notebooks_have_metadata_and_ids():
    for path in OURS:
        stored = json.loads(path.read_text())
        ids = [cell["id"] for cell in stored["cells"]]
        assert stored["metadata"] == notebooks.METADATA and len(set(ids)) == len(ids)


def test_a_cell_of_a_chapter_fits_a_screen():
    for path in (ROOT / "chapters").glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            assert cell.cell_type != "code" or cell.source.count("\n") < 25, (path.name, cell.metadata.get("name"))


def test_what_is_where_names_sections_that_exist():
    said = (ROOT / "pages" / "what_is_where.md").read_text(encoding="utf-8")
    places = re.findall(r"\{doc\}`\.\./chapters/(\w+)`, \*(.*?)\*", said)
    headings = {path.stem: {heading for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"
                            for heading in re.findall(r"^#+ (.*)$", cell.source, re.M)}
                for path in (ROOT / "chapters").glob("*.ipynb")}
    assert len(places) >= 40 and {chapter for chapter, _ in places} == set(headings)
    assert [place for place in places if place[1] not in headings[place[0]]] == []
