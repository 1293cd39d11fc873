"""Runs notebooks and stores their text outputs, and nothing else: no pictures, no widgets, no HTML.

    python tools/notebooks.py            # all notebooks of the book
    python tools/notebooks.py PATH ...   # these
    python tools/notebooks.py --check    # run nothing; say which notebooks are not as this tool leaves them

What is stored is what tests compare with: the numbers that a cell printed. The tool also keeps the first code
cell of every notebook, which installs the package on Colab, in step with `repository: url` of _config.yml.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from difflib import unified_diff
from pathlib import Path

import nbformat
import yaml
from book import ROOT, WORKERS, Trouble, explain, notebooks, run
from nbformat import NotebookNode

METADATA = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"}}
CHECKED = "nbval-check-output"  # the tag of cells whose outputs are held to what is stored
COLAB = {"jupyter": {"source_hidden": True}, "tags": ["colab", "remove-cell"]}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Runs notebooks and stores their text outputs, nothing else.")
    parser.add_argument("paths", nargs="*", type=Path, help="notebooks; all of the book if left out")
    parser.add_argument("--check", action="store_true", help="run nothing; fail where a notebook is out of order")
    options = parser.parse_args(arguments)
    try:
        paths = [path.resolve() for path in options.paths] or notebooks(ROOT)
        url = repository(ROOT)
        if options.check:
            sys.exit("\n".join(fault for path in paths for fault in faults(path, url)) or None)
        os.environ["OMP_NUM_THREADS"] = "1"  # as in the book and in the tests: sums come out alike
        os.environ["TIGHTBOUND_PROGRESS"] = "off"
        os.environ.pop("TIGHTBOUND_STATIC", None)
        with ThreadPoolExecutor(WORKERS) as pool:
            for path, changed in zip(paths, pool.map(lambda path: refresh(path, url), paths)):
                print(f"{path}: {'stored anew' if changed else 'as it was'}", flush=True)
    except Trouble as trouble:
        sys.exit(str(trouble))
    except OSError as error:
        sys.exit(explain(error, ROOT))


def refresh(path: Path, url: str) -> bool:
    """Runs the notebook in a fresh kernel and stores it; whether that changed the file."""
    notebook = nbformat.read(path, as_version=4)
    install_on_colab(notebook, url)
    run(path, notebook, ROOT)
    strip(notebook)
    return write(path, notebook)


def faults(path: Path, url: str) -> list[str]:
    """What `refresh` would mend without running anything, a line each."""
    notebook, wanted = nbformat.read(path, as_version=4), colab_cell(url)
    stored, found = nbformat.writes(notebook), []
    first = next((cell for cell in notebook.cells if cell.cell_type == "code"), None)
    if first is None or (first.source, first.metadata) != (wanted.source, wanted.metadata):
        found.append(f"{path}: its first code cell is not the one that installs the package on Colab")
    strip(notebook)
    if nbformat.writes(notebook) != stored:
        found.append(f"{path}: stores more than text outputs")
    return found


# ---- what is stored ----------------------------------------------------------------------------------------

def strip(notebook: NotebookNode) -> None:
    """Leaves of the outputs their text, and of the metadata what does not change from run to run."""
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for cell in notebook.cells:
        for key in ("execution", "collapsed", "scrolled", "ExecuteTime"):
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in map(text_only, cell.outputs) if output is not None]


def text_only(output: NotebookNode) -> NotebookNode | None:
    """The output reduced to its text; None where it has none, or is a stream of progress bars and warnings."""
    if output.output_type == "stream":
        return output if output.name == "stdout" else None
    if output.output_type == "error":
        return output
    if "text/plain" not in output.data:
        return None
    output.data = nbformat.from_dict({"text/plain": output.data["text/plain"]})
    output.metadata = nbformat.from_dict({})
    return output


def differences(stored: NotebookNode, executed: NotebookNode) -> list[str]:
    """Where a run of the notebook said something else than the notebook stores, as a diff for each cell.

    Compared are the cells tagged `nbval-check-output`, as `pytest --nbval-lax` would: what they print and return.
    """
    found = []
    code = [[cell for cell in notebook.cells if cell.cell_type == "code"] for notebook in (stored, executed)]
    for before, after in zip(*code, strict=True):
        if CHECKED in before.metadata.get("tags", []):
            old, new = ([line for output in cell.outputs for line in text_of(output)] for cell in (before, after))
            if old != new:
                name = before.metadata.get("name", before.id)
                found.append("\n".join(unified_diff(old, new, f"{name}, stored", f"{name}, executed", lineterm="")))
    return found


def text_of(output: NotebookNode) -> list[str]:
    """The lines of an output's text; none for progress bars, warnings and pictures."""
    left = text_only(copy.deepcopy(output))
    if left is None:
        return []
    text = left.text if "text" in left else left.data["text/plain"] if "data" in left else left.evalue
    return text.splitlines()


def write(path: Path, notebook: NotebookNode) -> bool:
    """Writes the notebook in one step, unless the file says the same already; whether it did."""
    text = nbformat.writes(notebook).rstrip("\n") + "\n"
    if path.exists() and path.read_text() == text:
        return False
    new = path.with_suffix(".new")
    new.write_text(text)
    os.replace(new, path)
    return True


# ---- Colab -------------------------------------------------------------------------------------------------

def repository(root: Path) -> str:
    """The public repository that _config.yml names; empty if it names none."""
    settings = yaml.safe_load((root / "_config.yml").read_text())
    return ((settings.get("repository") or {}).get("url") or "").strip().rstrip("/")


def colab_cell(url: str) -> NotebookNode:
    """The cell that installs the package where the notebook is opened in Colab, and is silent elsewhere."""
    if url:
        action = f'%pip install --quiet "tightbound @ git+{url}"'
    else:
        action = ('raise RuntimeError("This copy of the book names no public repository to install its package from: "\n'
                  '                       "fill in `repository: url` in _config.yml, and run `make outputs`.")')
    source = f'import sys\n\nif "google.colab" in sys.modules:  # Colab lacks the book\'s package\n    {action}'
    return nbformat.v4.new_code_cell(source, id="colab", metadata=COLAB)


def install_on_colab(notebook: NotebookNode, url: str) -> None:
    """Puts the cell for Colab before all other code, in place of an older one."""
    notebook.cells = [cell for cell in notebook.cells if "colab" not in cell.metadata.get("tags", [])]
    first = next((i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"), len(notebook.cells))
    notebook.cells.insert(first, colab_cell(url))


if __name__ == "__main__":
    main()
