"""The house: the environment that make makes, its failures, the pins, the Makefile and the README.

tools/environment.py runs as it would for a reader, on small projects in temporary folders, and nothing here
asks the network for anything.
"""

import ast
import importlib.util
import inspect
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from importlib.metadata import metadata, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PYTHON = getattr(sys, "_base_executable", None) or sys.executable  # the one that .venv was made with
AGAIN = "run the same command again"

PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "house"
version = "1.0"
"""


def write_wheel(folder, name, files):
    """Writes a small wheel by hand and returns its name."""
    wheel = f"{name}-1.0-py3-none-any.whl"
    facts = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(f"{folder}/{wheel}", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(f"{facts}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{facts}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{facts}/RECORD", "")
    return wheel


# The small project builds itself, so that installing it needs neither the network nor setuptools.
BACKEND = f"""
import os
import zipfile

{inspect.getsource(write_wheel)}

def build_editable(folder, config_settings=None, metadata_directory=None):
    return write_wheel(folder, "house", {{"house.pth": os.path.abspath("src")}})
"""


def load_environment():
    spec = importlib.util.spec_from_file_location("environment", ROOT / "tools" / "environment.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


environment = load_environment()


def small_project(folder):
    """A project with the real tools/environment.py, which installs without the network."""
    (folder / "tools").mkdir(parents=True)
    (folder / "src").mkdir()
    shutil.copy(ROOT / "tools" / "environment.py", folder / "tools")
    (folder / "src" / "house.py").write_text("rooms = 9\n")
    (folder / "backend.py").write_text(BACKEND)
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "requirements.txt").write_text("")
    return folder


def unconnected(**more):
    """Environment variables that leave pip without any index, then the given ones."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    cut = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}
    return {**kept, **cut, **more}


def make_environment(folder, python=PYTHON, user=None, **variables):
    command = [str(python), str(folder / "tools" / "environment.py")]
    variables = unconnected(**variables)
    return subprocess.run(command, env=variables, capture_output=True, text=True, cwd="/", user=user)


def house_python(folder, code):
    python = environment.python_of(str(folder))
    return subprocess.run([python, "-c", code], capture_output=True, text=True, cwd="/")


def make(*arguments, **options):
    return subprocess.run(["make", *arguments], capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small project in a path with spaces, whose environment `make` has made, from elsewhere and with -j2.

    It stood there before, complete by its stamp, but its Python has gone from the machine.
    """
    house = small_project(tmp_path_factory.mktemp("first") / "a house")
    shutil.copy(ROOT / "Makefile", house)
    python = Path(environment.python_of(str(house)))
    python.parent.mkdir(parents=True)
    python.symlink_to("a Python that was removed")
    (house / ".venv" / "stamp").write_text(environment.fingerprint(str(house)))

    run = make("-j2", "-C", str(house), "environment", f"PYTHON={PYTHON}", env=unconnected())
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Making again" in run.stdout
    assert house_python(house, "import house; print(house.rooms)").stdout == "9\n"
    return house


@pytest.fixture
def house(finished, tmp_path):
    """The finished project, moved to a place of its own."""
    return Path(shutil.copytree(finished, tmp_path / "house", symlinks=True))


def assert_one_sentence(run, *words):
    """It failed, and its last word is one line that holds the given words, with no traceback before it."""
    assert run.returncode == 1, run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr
    assert len(run.stderr.strip().splitlines()) == 1, run.stderr
    for word in words:
        assert word in run.stderr
    return run.stderr


# -------------------------------------------------------------------------------------------- the environment


def test_second_call_does_nothing(finished):
    log = finished / "_build" / "environment.log"
    before = log.stat()
    run = make_environment(finished)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert log.stat() == before


def test_moved_project_finds_itself(house):
    """An editable install knows its path, so a moved project is installed anew."""
    (house / "src" / "house.py").write_text("rooms = 10\n")
    assert house_python(house, "import house; print(house.rooms)").stdout == "9\n"
    assert make_environment(house).returncode == 0
    assert house_python(house, "import house; print(house.rooms)").stdout == "10\n"


def test_changed_requirements_are_installed(house, tmp_path):
    wheel = tmp_path / write_wheel(tmp_path, "chair", {"chair.py": ""})
    (house / "requirements.txt").write_text(f"chair @ {wheel.as_uri()}\n")
    run = make_environment(house)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Making" not in run.stdout, "what was there is kept"
    assert house_python(house, "import chair, house").returncode == 0


def test_no_network(house):
    """The sentence, and what was there still works."""
    (house / "requirements.txt").write_text("numpy==2.4.6\n")
    assert_one_sentence(make_environment(house), "network", "HTTPS_PROXY", AGAIN)
    assert "from versions: none" in (house / "_build" / "environment.log").read_text()
    assert house_python(house, "import house").returncode == 0
    assert_one_sentence(make_environment(house), "network")  # a failure is no success the second time


def test_network_that_breaks_off(house):
    """Packages were found before, and pip tried again in vain."""
    (house / "requirements.txt").write_text("numpy==2.4.6\n")
    assert_one_sentence(make_environment(house, PIP_RETRIES="1"), "network", AGAIN)
    said = "Collecting scipy\n" + (house / "_build" / "environment.log").read_text()
    assert "network" in environment.diagnose(said, str(house))


def test_what_cannot_be_built_is_named(house):
    (house / "backend.py").write_text("raise SystemExit('no tools')")
    assert_one_sentence(make_environment(house), "do not install", "environment.log")


def test_unfinished_environment_is_made_again(house):
    (house / ".venv" / "stray").write_text("")
    (house / ".venv" / "stamp").write_text(environment.UNFINISHED)  # as a power cut leaves it
    run = make_environment(house)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Making again" in run.stdout and not (house / ".venv" / "stray").exists()
    assert house_python(house, "import house").returncode == 0


def old_pythons():
    """Interpreters on this machine that are too old: pyenv's, and those on PATH."""
    found = list(Path.home().glob(".pyenv/versions/*/bin/python"))
    found += filter(None, map(shutil.which, ("python2.7", "python3.8", "python3.9", "python3.10")))
    for python in found:
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        said = subprocess.run([python, "-c", code], capture_output=True, text=True)
        if said.returncode == 0 and tuple(map(int, said.stdout.split("."))) < environment.OLDEST:
            yield said.stdout.strip(), python


OLD = dict(old_pythons())
NONE_OLD = [pytest.param("none", marks=pytest.mark.skip("no old Python on this machine"))]


@pytest.mark.parametrize("version", sorted(OLD) or NONE_OLD)
def test_old_python(version, tmp_path):
    house = small_project(tmp_path / "house")
    run = make_environment(house, OLD[version], PATH=str(tmp_path))
    said = assert_one_sentence(run, "needs Python 3.11", "make PYTHON=")
    assert f"Python {version}" in said
    assert not (house / ".venv").exists()


@pytest.mark.skipif(not OLD, reason="no old Python on this machine")
def test_old_python_goes_on_with_a_newer_one(house, tmp_path):
    names = tmp_path / "bin"
    names.mkdir()
    version = "python{}.{}".format(*sys.version_info[:2])
    (names / version).symlink_to(PYTHON)
    if version != "python3.14":  # an empty promise, like pyenv's
        (names / "python3.14").write_text("#!/bin/sh\nexit 127\n")
        (names / "python3.14").chmod(0o755)
    run = make_environment(house, OLD[min(OLD)], PATH=f"{names}:/usr/sbin")
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"Going on with {version}" in run.stdout
    assert make_environment(house, OLD[min(OLD)], PATH="").stdout == "", "once complete, any Python sees that"


def test_every_python_can_read_it():
    """Also without an old interpreter at hand: the compiler's older grammar, as far back as it goes."""
    ast.parse((ROOT / "tools" / "environment.py").read_text(), feature_version=(3, 4))


def test_no_venv_module(tmp_path):
    house = small_project(tmp_path / "house")
    crippled = tmp_path / "crippled"
    crippled.mkdir()
    (crippled / "ensurepip.py").write_text("raise ImportError('No module')")  # Debian's Python comes without
    run = make_environment(house, PYTHONPATH=str(crippled))
    assert_one_sentence(run, "apt install python{}.{}-venv".format(*sys.version_info[:2]), AGAIN)
    assert not (house / ".venv").exists()


def test_too_small_a_disk(tmp_path):
    with pytest.raises(environment.Trouble, match=r"needs about 1000000000 GB.* GB free"):
        environment.check_disk(str(tmp_path), needed=10**18)
    environment.check_disk(str(tmp_path), needed=1)


def on_a_disk_of(size, folder, command):
    """Runs the command with a disk of that size mounted at the folder, in a mount namespace of its own."""
    folder.mkdir(exist_ok=True)
    mounted = f'mount -t tmpfs -o size={size} tmpfs "$0" && shift 0 && exec "$@"'
    return subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", mounted, str(folder), *map(str, command)],
        capture_output=True, text=True, env=unconnected(), timeout=120,
    )  # fmt: skip


@pytest.fixture
def small_disks(tmp_path):
    if not shutil.which("unshare") or on_a_disk_of("1m", tmp_path / "probe", ["true"]).returncode:
        pytest.skip("this machine lets nobody mount a small disk (unshare)")


@pytest.mark.usefixtures("small_disks")
def test_small_disk_is_seen_before_anything_is_made(tmp_path):
    small_project(tmp_path / "original")
    house = tmp_path / "house"
    copy = f'cp -r {tmp_path}/original/* . && "{PYTHON}" tools/environment.py; status=$?; ls -a; exit $status'
    run = on_a_disk_of("30m", house, ["sh", "-c", f'cd "{house}" && {copy}'])
    assert_one_sentence(run, "4 GB", "0.0 GB free", str(house), AGAIN)
    assert ".venv" not in run.stdout


@pytest.mark.usefixtures("small_disks")
def test_disk_that_fills_up(tmp_path):
    """Here .venv alone lies on a small disk, which the check of the project's disk cannot see."""
    house = small_project(tmp_path / "house")
    run = on_a_disk_of("5m", house / ".venv", [PYTHON, house / "tools" / "environment.py"])
    assert_one_sentence(run, "disk is full", str(house), AGAIN)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_folder_of_somebody_else():
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to others
        os.chmod(folder, 0o755)
        house = small_project(Path(folder) / "house")
        run = make_environment(house, "/usr/bin/python3", user="nobody")
        assert_one_sentence(run, "may not be written", str(house), AGAIN)


def test_missing_list_of_packages(tmp_path):
    house = small_project(tmp_path / "house")
    (house / "requirements.txt").unlink()
    assert_one_sentence(make_environment(house), "requirements.txt is missing", "git")


# --------------------------------------------------------------------------------------- the Makefile, README


def targets():
    text = (ROOT / "Makefile").read_text()
    return set(re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)[0].split())


def test_make_lists_every_target():
    listed = re.findall(r"^  make ([a-z-]+) +\S", make("-C", str(ROOT)).stdout, re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == targets()
    assert set("book lab test bench assignments grade outputs requirements clean".split()) <= targets()


@pytest.mark.parametrize("target", sorted(targets()))
def test_target_names_only_files_that_exist(target):
    dry = make("-C", str(ROOT), "-n", target, "SUBMISSIONS=folder")
    assert dry.returncode == 0, dry.stderr
    for name in re.findall(r"(?:tools|chapters|benchmarks|tests)/\w+\.py", dry.stdout):
        assert (ROOT / name).is_file(), f"make {target} calls {name}"


def test_make_without_python():
    run = make("-C", str(ROOT), "environment", "PYTHON=python3.99")
    assert run.returncode != 0
    assert "python3.99 is not on PATH: install Python 3.11" in run.stderr


def test_readme_names_what_exists():
    text = (ROOT / "README.md").read_text()
    named = re.findall(r"(?:`|^    )make ([a-z-]+)\b", text, re.MULTILINE)
    assert set(named) == targets() - {"help"}
    for name in re.findall(r"\]\(([^):]+)\)", text):
        assert (ROOT / name).is_file(), f"README.md shows {name}"
    for name in re.findall(r"^\| [^|]+ \| `(\S+/\S+)` \|$", text, re.MULTILINE):
        assert (ROOT / name).is_file(), f"README.md's rooms hold {name}"


def test_readme_example():
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    names = {}
    exec(code, names)
    claimed = float(re.search(r"what Laplace misses: ([\d.]+) nats", code)[1])
    assert round(float(names["approximation"].gap(names["problem"])), 2) == claimed


# --------------------------------------------------------------------------------------------------- the pins


PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def asked(group=None):
    project = PYPROJECT["project"]
    asked = map(Requirement, project["optional-dependencies"][group] if group else project["dependencies"])
    return {canonicalize_name(requirement.name): requirement.specifier for requirement in asked}


def pinned():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    lines = [line.split("#")[0].strip() for line in lines]
    pins = [re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.]+)", line) for line in lines if line]
    assert all(pins), lines
    return {canonicalize_name(pin[1]): pin[2] for pin in pins}


def test_every_dependency_is_pinned():
    for name, specifier in asked().items():
        assert specifier.contains(pinned()[name]), name
        assert {part.operator for part in specifier} <= {">="}, f"{name}: Colab is to keep its own"
        assert name in asked("dev"), f"{name} is not among the exact pins of pyproject.toml"


def test_pins_are_those_of_pyproject():
    for name, specifier in asked("dev").items():
        assert str(specifier) == f"=={pinned()[name]}", f"{name}: run `make requirements`"


def test_pins_are_those_installed():
    """The tests run in the environment that requirements.txt describes, whichever the build of torch."""
    differ = {name: version(name) for name in pinned() if version(name).split("+")[0] != pinned()[name]}
    assert not differ, "make environment brings them back"


def test_pins_take_the_oldest_python():
    """Pinned under one Python 3.11, they are to install under all, Debian's 3.11.2 among them."""
    oldest = PYPROJECT["project"]["requires-python"].removeprefix(">=") + ".0"
    asking = {name: metadata(name).get("Requires-Python") or "" for name in pinned()}
    assert not {name: asked for name, asked in asking.items() if not SpecifierSet(asked).contains(oldest)}


def test_pins_work_on_any_machine():
    text = (ROOT / "requirements.txt").read_text()
    assert "make requirements" in text.split("==")[0]
    assert not re.search(r"://|^-|@|/(?!toml)", re.sub(r"# via.*|\(pyproject.toml\)", "", text), re.MULTILINE)
    assert not [name for name in pinned() if name.startswith(("nvidia", "cuda", "triton"))]


def test_package_data_is_declared():
    declared = PYPROJECT["tool"]["setuptools"]["package-data"]["tightbound"]
    package = ROOT / "src" / "tightbound"
    data = [path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    covered = {path for pattern in declared for path in package.glob(pattern)}
    assert data and set(data) <= covered, set(data) - covered


def test_no_file_names_a_registry():
    hosts = ["pypi" + ".org", "python" + "hosted", "download.py" + "torch", "npm" + "js.", "yarn" + "pkg"]
    hosts += ["ana" + "conda.org", "deb.deb" + "ian", "jsde" + "livr", "unp" + "kg.com"]
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    names = [name for name in listed.stdout.decode().split("\0") if (ROOT / name).is_file()]
    assert "pyproject.toml" in names
    texts = {name: (ROOT / name).read_bytes() for name in names}
    assert not [(name, host) for name, text in texts.items() for host in hosts if host.encode() in text]
