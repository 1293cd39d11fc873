"""Data: what comes along, and files that are read, checked, and fetched, from a real server on this machine alone."""

import gzip
import hashlib
import http.server
import io
import os
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.io import savemat
from sklearn.datasets import load_digits

from tightbound import data
from tightbound.data import files, uci
from tightbound.data.files import VARIABLE, File, read

LIBRARY = Path(os.environ.get(VARIABLE) or Path(__file__).resolve().parents[2] / "shared" / "data")

# --------------------------------------------------------------------------------- what the package brings along


def test_digits_are_those_of_scikit_learn_split_once_and_for_all():
    train, test, everything = data.digits(), data.digits("test"), data.digits("all")
    assert train.images.shape == (1500, 64) and test.images.shape == (297, 64)
    assert torch.equal(torch.cat([train.images, test.images]), everything.images)
    assert torch.equal(torch.cat([train.labels, test.labels]), everything.labels)
    assert everything.images.dtype == torch.float32 and everything.labels.dtype == torch.int64
    assert everything.images.min() == 0 and everything.images.max() == 1

    ours = np.column_stack([everything.images.numpy() * 16, everything.labels])
    theirs = np.column_stack(load_digits(return_X_y=True))
    assert sorted(map(tuple, ours)) == sorted(map(tuple, theirs)), "the same digits, in another order"
    assert train.labels[:8].tolist() == [2, 8, 2, 6, 6, 7, 1, 9], "the split is the same on every machine"


def test_changing_what_came_leaves_the_next_caller_alone():
    data.digits().images.zero_()
    assert data.digits().images.sum() > 0


UNKNOWN = {
    "digits": (lambda: data.digits("valid"), "unknown split 'valid': choose from train, test, all"),
    "mnist": (lambda: data.mnist("valid"), "unknown split 'valid': choose from train, test"),
    "binarised": (lambda: data.binarised_mnist("all"), "unknown split 'all': choose from train, valid, test"),
    "omniglot": (lambda: data.omniglot("valid"), "unknown split 'valid': choose from train, test"),
    "binary set": (lambda: data.uci_binary("adult"), "unknown set 'adult': choose from dna, mushrooms, nips"),
    "binary split": (lambda: data.uci_binary("dna", "all"), "unknown split 'all'"),
    "regression": (lambda: data.uci_regression("boston"), "unknown set 'boston': choose from concrete, energy"),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_unknown_names(case):
    call, words = UNKNOWN[case]
    with pytest.raises(ValueError, match=words):
        call()


def test_the_nile():
    years, flow = data.nile()
    assert years[0] == 1871 and years[-1] == 1970 and flow.sum() == 91935  # as in R


# ------------------------------------------------------------------------------------- files, and a real server

CONTENT = bytes(range(256)) * 400
PACKED = gzip.compress(CONTENT, mtime=0)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server():
    """A server whose `answers` are sent one after the other, the last for ever; `asked` counts the requests."""
    seen = SimpleNamespace(answers=[PACKED], asked=0)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            answer = seen.answers[min(seen.asked, len(seen.answers) - 1)]
            seen.asked += 1
            if answer is None:
                return self.send_error(404)
            whole, sent = answer if isinstance(answer, tuple) else (len(answer), answer)
            self.send_response(200)
            if whole is not None:
                self.send_header("Content-Length", str(whole))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *_):
            pass

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, args=(0.02,))
    thread.start()
    seen.file = File("set/file", SHA256, f"http://127.0.0.1:{listening.server_port}/file.gz", gzip.decompress)
    yield seen
    listening.shutdown()
    thread.join()
    listening.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache of this test's own, and no folder of data."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(files.pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # pooch waits a second before it tries again
    return tmp_path / "cache" / "tightbound"


HALF = PACKED[: len(PACKED) // 2]
BROKEN = {
    "a half file, as the server's length shows": (len(PACKED), HALF),
    "a half file, with no word on its length": (None, HALF),
    "another file": gzip.compress(b"something else"),
    "damaged in the middle": PACKED[:100] + b"\0" * 8 + PACKED[108:],
    "no gzip at all": b"<html>Please log in</html>",
    "nothing": b"",
    "not found": None,
}


def test_fetched_once(server, cache, capfd):
    assert read(server.file) == CONTENT
    assert read(server.file) == CONTENT and server.asked == 1
    assert [path.relative_to(cache) for path in cache.rglob("*") if path.is_file()] == [Path("set/file")]
    assert "100%" in capfd.readouterr().err, "a progress bar"


@pytest.mark.parametrize("broken", BROKEN)
def test_what_comes_damaged_is_fetched_again(server, broken):
    server.answers = [BROKEN[broken], PACKED]
    assert read(server.file) == CONTENT and server.asked == 2


@pytest.mark.parametrize("broken", BROKEN)
def test_what_stays_damaged_is_an_error_that_names_the_file_to_fill(server, cache, broken):
    server.answers = [BROKEN[broken]]
    with pytest.raises(OSError, match="set/file is not on this machine") as told:
        read(server.file)
    assert f"save {server.file.url} by other means as {cache / 'set/file.gz'}" in str(told.value)
    assert not [path for path in cache.rglob("*") if path.is_file()], "nothing half is left"

    (cache / "set" / "file.gz").write_bytes(PACKED)  # the remedy works, with whatever compression
    assert read(server.file) == CONTENT


@pytest.mark.parametrize("damaged", [CONTENT[:1000], b"", CONTENT[:-1] + b"\0"])
def test_damaged_file_in_the_cache_is_fetched_again(server, cache, damaged):
    read(server.file)
    (cache / "set/file").write_bytes(damaged)
    with pytest.warns(UserWarning, match="set/file is damaged"):
        assert read(server.file) == CONTENT
    assert (cache / "set/file").read_bytes() == CONTENT and server.asked == 2


def test_folder_of_data_is_read_first_and_never_written(server, cache, tmp_path, monkeypatch):
    folder = tmp_path / "data"
    (folder / "set").mkdir(parents=True)
    monkeypatch.setenv(VARIABLE, str(folder))
    (folder / "set" / "file.gz").write_bytes(gzip.compress(CONTENT, 1))  # another wrapper, the same content
    assert read(server.file) == CONTENT and server.asked == 0 and not cache.exists()

    (folder / "set" / "file.gz").write_bytes(HALF)
    with pytest.warns(UserWarning, match="file.gz is damaged"):
        assert read(server.file) == CONTENT
    assert (folder / "set" / "file.gz").read_bytes() == HALF and (cache / "set/file").is_file()


def test_other_forms_and_unpacked_files_serve_too(server, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    file = server.file._replace(others=(("set/backwards", lambda content: content[::-1]),))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "backwards").write_bytes(CONTENT[::-1])
    assert read(file) == CONTENT
    (tmp_path / "set" / "backwards").unlink()
    (tmp_path / "set" / "file").write_bytes(CONTENT)
    assert read(file) == CONTENT and server.asked == 0


def test_no_network(cache, tmp_path, monkeypatch):
    unreachable = File("set/file", SHA256, "http://127.0.0.1:9/file.gz", gzip.decompress)
    with pytest.raises(OSError, match="could not be fetched") as told:
        read(unreachable)
    assert str(cache / "set/file.gz") in str(told.value) and "refused" in str(told.value)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(OSError) as told:
        read(unreachable)
    assert f"as {tmp_path / 'set/file.gz'} (" in str(told.value), "the reader's own folder is the one to fill"


def test_what_has_no_public_home_is_only_read(cache):
    with pytest.raises(FileNotFoundError, match="no public home") as told:
        read(File("set/file", SHA256))
    assert str(cache / "set/file") in str(told.value)
    (cache / "set").mkdir(parents=True)
    (cache / "set" / "file").write_bytes(CONTENT)
    assert read(File("set/file", SHA256)) == CONTENT


def test_folder_that_is_none(server, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(NotADirectoryError, match=f"{VARIABLE} names .*nowhere, which is no folder"):
        read(server.file)


def test_cache_that_may_not_be_written(server, cache):
    cache.parent.parent.joinpath("cache").write_text("a file stands where the folder should")
    with pytest.raises(OSError, match="save .* by other means"):
        read(server.file)


# ----------------------------------------------------------------------- the sets themselves, where they lie


@pytest.fixture
def library(monkeypatch):
    """The folder of data on this machine; without one these tests are skipped."""
    if not (LIBRARY / "mnist").is_dir():
        pytest.skip(f"the data sets are not on this machine: name their folder in {VARIABLE} to test them")
    monkeypatch.setenv(VARIABLE, str(LIBRARY))


def test_mnist(library):
    train, test = data.mnist(), data.mnist("test")
    assert train.images.shape == (60000, 784) and test.images.shape == (10000, 784)
    assert train.images.dtype == torch.float32 and train.images.min() == 0 and train.images.max() == 1
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4], "as everyone knows it"
    assert test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert train.images.mean() == pytest.approx(0.1307, abs=5e-5)  # the mean that the examples of PyTorch subtract


def test_fashion_mnist(library):
    train, test = data.fashion_mnist(), data.fashion_mnist("test")
    assert train.images.shape == (60000, 784) and train.labels[:5].tolist() == [9, 0, 0, 3, 0]
    assert train.labels.bincount().tolist() == [6000] * 10 and test.labels.bincount().tolist() == [1000] * 10
    assert train.images.mean() == pytest.approx(0.2860, abs=5e-5)


def test_binarised_mnist(library):
    sizes, means = {"train": 50000, "valid": 10000, "test": 10000}, {}
    for split, size in sizes.items():
        images = data.binarised_mnist(split)
        assert images.shape == (size, 784) and ((images == 0) | (images == 1)).all()
        means[split] = images.mean().item()
    assert means == pytest.approx({"train": 0.130562, "valid": 0.131127, "test": 0.132512}, abs=1e-6)


def test_text_that_is_fetched(library):
    assert len(data.tiny_shakespeare()) == 1_115_394 and len(set(data.tiny_shakespeare())) == 65
    counts, vocabulary, titles = data.reuters()
    assert counts.shape == (395, 4258) and counts.sum() == 84010 and vocabulary[:3] == ["church", "pope", "years"]
    assert titles[1].startswith("GERMANY: Historic Dresden church rising")
    assert counts[1, vocabulary.index("church")] > 0


def test_three_men(library):
    paragraphs = data.three_men()
    assert len(paragraphs) == 1357 and sorted({chapter for chapter, _ in paragraphs}) == list(range(20))
    assert paragraphs[4][1].startswith("THERE were four of us - George, and William Samuel Harris, and myself")
    assert paragraphs[-1][1].endswith("gave a short bark of decided concurrence with the toast.")


def test_uci_sets(library):
    assert data.uci_binary("dna").shape == (1400, 180) and data.uci_binary("nips", "test").shape == (1240, 500)
    mushrooms = [data.uci_binary("mushrooms", split) for split in uci.PARTS]
    assert [len(part) for part in mushrooms] == [2000, 500, 5624]
    assert (torch.cat(mushrooms).sum(1) == 21).all(), "one value of each of 21 attributes"
    for name, (_, n, d, splits, _) in uci.REGRESSION.items():
        X, y, test = data.uci_regression(name)
        assert X.shape == (n, d) and y.shape == (n,) and test.shape == (splits, n)
        assert (test.sum(1) == round(n / 10)).all()
        assert X.isfinite().all() and y.isfinite().all() and (X.std(0) > 0).any()


# ---------------------------------------------------- what the public homes serve, built from what lies here


def served(monkeypatch, module, packed):
    """Has `module` read those bytes as if they came from the public home, and nothing but them."""
    def read_packed(file):
        content = file.unpack(packed)
        algorithm, _, value = file.digest.rpartition(":")
        assert hashlib.new(algorithm or "sha256", content).hexdigest() == value
        return content

    monkeypatch.setattr(module, "read", read_packed)


def test_binarised_mnist_from_its_home(library, monkeypatch):
    images = data.binarised_mnist("valid")
    text = "\n".join(" ".join(map(str, row)) for row in images.byte().tolist()) + " \n"
    served(monkeypatch, data.images, text.encode())
    assert torch.equal(data.binarised_mnist("valid"), images)


def test_uci_binary_from_its_home(library, monkeypatch):
    parts = {split: data.uci_binary("dna", split) for split in uci.PARTS}
    file = io.BytesIO()
    np.savez_compressed(file, **{f"{split}_data": part.numpy() for split, part in parts.items()}, inputsize=180)
    served(monkeypatch, uci, file.getvalue())
    for split, part in parts.items():
        assert torch.equal(data.uci_binary("dna", split), part)


def test_uci_regression_from_its_home(library, monkeypatch):
    X, y, test = data.uci_regression("yacht")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        def write(name, numbers):
            text = io.StringIO()
            np.savetxt(text, numbers)
            opened.writestr(f"repository-commit/UCI_Datasets/yacht/data/{name}.txt", text.getvalue())

        write("data", torch.column_stack([X, y]))
        write("index_features", range(6))
        write("index_target", [6])
        for split, rows in enumerate(test):
            write(f"index_test_{split}", rows.nonzero()[:, 0].flip(0))
    data.uci_regression.cache_clear()
    served(monkeypatch, uci, archive.getvalue())
    for ours, theirs in zip(data.uci_regression("yacht"), (X, y, test)):
        assert torch.equal(ours, theirs)
    data.uci_regression.cache_clear()


def test_omniglot_from_its_home(monkeypatch):
    """Burda's file has pictures by columns, one a column; the test set stands beside under its own names."""
    rng = np.random.default_rng(0)
    pictures = {part: rng.random((n, 28, 28)) for part, n in [("", 5), ("test", 3)]}
    arrays = {f"{part}data": shown.transpose(2, 1, 0).reshape(784, -1) for part, shown in pictures.items()}
    arrays |= {f"{part}target": np.eye(50)[:, : len(shown)] for part, shown in pictures.items()}
    file = io.BytesIO()
    savemat(file, arrays)
    monkeypatch.setattr(data.images, "read", lambda _: file.getvalue())
    for split, part in [("train", ""), ("test", "test")]:
        images, labels = data.omniglot(split)
        assert torch.equal(images, torch.tensor(pictures[part]).flatten(1).float())
        assert labels.tolist() == list(range(len(images)))
    assert data.images.OMNIGLOT.digest == "md5:21ecaf34373511aa7691cf2e0802aa3d"
