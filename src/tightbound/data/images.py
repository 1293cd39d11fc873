"""Images: the digits that scikit-learn ships, and MNIST and its kin, which are fetched once."""

from __future__ import annotations

import gzip
import io
import struct
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tightbound.data.files import File, known, read

NUM_DIGITS_TRAIN = 1500


class Images(NamedTuple):
    """Grey images (n, pixels), float32 in [0, 1], rows of pixels end to end, 1 is ink; and their classes (n,)."""

    images: Tensor
    labels: Tensor


def digits(split: str = "train") -> Images:
    """The 1,797 handwritten digits of 8x8 pixels that scikit-learn ships: images (n, 64), labels 0 to 9.

    Pixels are multiples of 1/16, so they are exact in single precision as in double. The file is in the order of
    its writers; a fixed shuffle mixes them, then the first 1,500 are for training.

    Args:
        split: "train" (1,500), "test" (297) or "all".

    Raises:
        ValueError: for another split.

    Source: Alpaydin & Kaynak (1998), Optical Recognition of Handwritten Digits; in scikit-learn.
    """
    part = {"train": slice(NUM_DIGITS_TRAIN), "test": slice(NUM_DIGITS_TRAIN, None), "all": slice(None)}
    images, labels = _digits()
    chosen = part[known(split, part, "split")]
    return Images(images[chosen].clone(), labels[chosen].clone())


@lru_cache
def _digits() -> Images:
    from sklearn.datasets import load_digits  # here, for scikit-learn takes a second to import

    found = load_digits()
    order = np.random.RandomState(0).permutation(len(found.data))  # NumPy promises never to change this stream
    return Images(torch.tensor(found.data[order] / 16, dtype=torch.float32), torch.tensor(found.target[order]))


def mnist(split: str = "train") -> Images:
    """MNIST: handwritten digits of 28x28 pixels, images (n, 784), labels 0 to 9. Fetched once, 12 MB.

    Args:
        split: "train" (60,000) or "test" (10,000). Papers often keep the last 10,000 of the first to validate.

    Raises:
        ValueError: for another split.
        OSError: if it is not at hand and cannot be fetched; names the folder to fill.

    Source: LeCun, Bottou, Bengio & Haffner (1998), Gradient-based learning applied to document recognition.
    """
    return _idx("mnist", split)


def fashion_mnist(split: str = "train") -> Images:
    """Fashion-MNIST: clothes of ten kinds in MNIST's format, images (n, 784), labels 0 to 9. Fetched once, 31 MB.

    Splits and errors are those of `mnist`. The kinds are T-shirt, trousers, pullover, dress, coat, sandal, shirt,
    trainer, bag, ankle boot.

    Source: Xiao, Rasul & Vollgraf (2017), Fashion-MNIST.
    """
    return _idx("fashion_mnist", split)


def binarised_mnist(split: str = "train") -> Tensor:
    """MNIST in black and white: one fixed draw of Bernoulli(grey value) for each pixel, images (n, 784), float32.

    The set behind most published log-likelihoods of "statically binarised" MNIST. It is shuffled and has no labels.
    Fetched once, up to 78 MB, of which 5 MB are kept.

    Args:
        split: "train" (50,000), "valid" (10,000) or "test" (10,000).

    Raises:
        ValueError: for another split.
        OSError: if it is not at hand and cannot be fetched; names the folder to fill.

    Source: Salakhutdinov & Murray (2008); Larochelle & Murray (2011).
    """
    sha256 = BINARISED[known(split, BINARISED, "split")]
    file = File(f"mnist_binarized/{split}.bits", sha256, f"{LAROCHELLE}/binarized_mnist_{split}.amat", _packed,
                (("mnist_binarized/binarized_mnist_larochelle.npz", partial(_array_of_npz, split)),))
    bits = np.unpackbits(np.frombuffer(read(file), np.uint8)).reshape(-1, 784)
    return torch.from_numpy(bits).float()


def omniglot(split: str = "train") -> Images:
    """Omniglot: characters of fifty alphabets, 28x28 pixels, images (n, 784), labels the alphabet, 0 to 49.

    The version of Burda, Grosse & Salakhutdinov, with which published log-likelihoods are comparable. Fetched once.

    Args:
        split: "train" (24,345) or "test" (8,070).

    Raises:
        ValueError: for another split.
        OSError: if it is not at hand and cannot be fetched; names the folder to fill.

    Source: Lake, Salakhutdinov & Tenenbaum (2015); Burda, Grosse & Salakhutdinov (2016).
    """
    from scipy.io import loadmat

    prefix = {"train": "", "test": "test"}[known(split, ("train", "test"), "split")]
    arrays = loadmat(io.BytesIO(read(OMNIGLOT)), variable_names=[f"{prefix}data", f"{prefix}target"])
    images = torch.from_numpy(arrays[f"{prefix}data"]).float()  # (784, n), each image by columns
    images = images.reshape(28, 28, -1).permute(2, 1, 0).flatten(1)
    return Images(images.contiguous(), torch.from_numpy(arrays[f"{prefix}target"]).argmax(0))


HOMES = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist",
    "fashion_mnist": "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/"
                     "b2617bb6d3ffa2e429640350f613e3291e10b141/data/fashion",
}
# SHA-256 of images and labels.
IDX = {
    "mnist": {
        "train": ("ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                  "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
        "test": ("0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                 "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
    },
    "fashion_mnist": {
        "train": ("c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                  "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
        "test": ("5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                 "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
    },
}
LAROCHELLE = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist"
# SHA-256 of the packed bits.
BINARISED = {
    "train": "727146c35424b019f3e350e1e69faa05644a0abaf787e3f4e1a9632220a13906",
    "valid": "a256ac44ae26be720fad8616a05ed6ecfd1619930d9a208379bb2a4405df5b6d",
    "test": "9fcd8da6f0fdf09b2ba30fe63a0bb784042a0de82563172530229b983e294ff2",
}
OMNIGLOT = File("omniglot/chardata.mat", "md5:21ecaf34373511aa7691cf2e0802aa3d",
                "https://raw.githubusercontent.com/yburda/iwae/master/datasets/OMNIGLOT/chardata.mat")


def _idx(name: str, split: str) -> Images:
    images, labels = _bytes(name, known(split, IDX[name], "split"))
    return Images(images.float() / 255, labels.long())


@lru_cache
def _bytes(name: str, split: str) -> tuple[Tensor, Tensor]:
    """Images (n, 784) and labels (n,) of a set in MNIST's format, as bytes, which are a quarter of the floats."""
    prefix = {"train": "train", "test": "t10k"}[split]
    files = [f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"]
    images, labels = (
        _array(read(File(f"{name}/{file}", sha256, f"{HOMES[name]}/{file}.gz", gzip.decompress)))
        for file, sha256 in zip(files, IDX[name][split])
    )
    return images.flatten(1), labels


def _array(content: bytes) -> Tensor:
    """A tensor from the IDX format: two zeros, the type, the number of dimensions, the shape, the bytes."""
    *_, num_dims = struct.unpack(">4B", content[:4])
    shape = struct.unpack(f">{num_dims}I", content[4 : 4 * (1 + num_dims)])
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=4 * (1 + num_dims)).reshape(shape)


def _packed(amat: bytes) -> bytes:
    """Packed bits, eight a byte, of a text of zeros and ones with spaces between."""
    characters = np.frombuffer(amat, np.uint8)
    return np.packbits(characters[characters >= ord("0")] == ord("1")).tobytes()


def _array_of_npz(name: str, npz: bytes) -> bytes:
    return np.load(io.BytesIO(npz), allow_pickle=False)[name].tobytes()
