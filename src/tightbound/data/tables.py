"""Real data for the problems: the tables that scikit-learn ships, and the Nile."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

Columns = Sequence[str | int] | str | None


class Data(NamedTuple):
    """A regression's data: design matrix X (n, d), its first column ones; y (n,); and the columns' names."""

    X: Tensor
    y: Tensor
    names: list[str]


class Groups(NamedTuple):
    """Data from several groups: measurements X (n, d), the group of each row (n,), and the columns' names."""

    X: Tensor
    group: Tensor
    names: list[str]


def breast_cancer(columns: Columns = ("mean radius", "mean texture"), num_data: int | None = None) -> Data:
    """Breast tumours: 569 patients, 30 measurements of cell nuclei, y = 1 for benign and 0 for malignant.

    Args:
        columns: the measurements by name or by index, none for an intercept alone (``()``), all 30 for None.
            Each is standardised over all 569 patients to mean 0 and standard deviation 1.
        num_data: keep the first so many patients; all if left out.

    Raises:
        ValueError: for an unknown or repeated column, or a number of patients out of range.

    Source: Wolberg, Street & Mangasarian (1995), Breast Cancer Wisconsin (Diagnostic); in scikit-learn.
    """
    return _design(*_breast_cancer(), columns, num_data)


def diabetes(columns: Columns = None, num_data: int | None = None) -> Data:
    """Diabetes: 442 patients, 10 baseline measurements, y = progression of the disease a year on.

    Columns and y are standardised over all 442 patients to mean 0 and standard deviation 1; arguments and
    errors are those of `breast_cancer`.

    Source: Efron, Hastie, Johnstone & Tibshirani (2004), Least angle regression, in scikit-learn.
    """
    return _design(*_diabetes(), columns, num_data)


def iris() -> Groups:
    """Irises: 150 flowers, their sepals' and petals' length and width in cm, of three species (0, 1, 2).

    Source: Anderson (1936), Fisher (1936), in scikit-learn.
    """
    return _groups("iris")


def wine() -> Groups:
    """Wines: 178 bottles, 13 chemical measurements, in their own units, from three cultivars (0, 1, 2).

    Source: Forina and others, PARVUS, in scikit-learn.
    """
    return _groups("wine")


@lru_cache
def _groups(name: str) -> Groups:
    from sklearn import datasets

    found = getattr(datasets, f"load_{name}")()
    return Groups(torch.tensor(found.data, dtype=torch.float64), torch.tensor(found.target), list(found.feature_names))


@lru_cache
def _breast_cancer() -> tuple[Tensor, Tensor, list[str]]:
    from sklearn.datasets import load_breast_cancer  # here, for scikit-learn takes a second to import

    found = load_breast_cancer()
    benign = torch.tensor(found.target, dtype=torch.float64)
    return _standardised(found.data), benign, list(found.feature_names)


@lru_cache
def _diabetes() -> tuple[Tensor, Tensor, list[str]]:
    from sklearn.datasets import load_diabetes

    found = load_diabetes(scaled=False)
    return _standardised(found.data), _standardised(found.target), list(found.feature_names)


def _standardised(values) -> Tensor:
    values = torch.as_tensor(values, dtype=torch.float64)
    return (values - values.mean(0)) / values.std(0, correction=0)


def _design(measurements: Tensor, y: Tensor, names: list[str], columns: Columns,
            num_data: int | None) -> Data:
    total = len(y)
    num_data = total if num_data is None else num_data
    if isinstance(num_data, bool) or not isinstance(num_data, int) or not 1 <= num_data <= total:
        raise ValueError(f"num_data must be an integer from 1 to {total}, or None for all, got {num_data!r}")
    chosen = [_index(column, names) for column in _listed(columns, names)]
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"a column is named twice among {columns!r}: name each once")
    X = torch.cat([torch.ones(total, 1, dtype=torch.float64), measurements[:, chosen]], 1)
    return Data(X[:num_data].contiguous(), y[:num_data].clone(), ["intercept", *(names[i] for i in chosen)])


def _listed(columns: Columns, names: list[str]) -> Sequence[str | int]:
    if columns is None:
        return names
    return (columns,) if isinstance(columns, (str, int)) else columns


def _index(column: str | int, names: list[str]) -> int:
    if isinstance(column, str) and column in names:
        return names.index(column)
    if isinstance(column, int) and not isinstance(column, bool) and 0 <= column < len(names):
        return column
    raise ValueError(f"no column {column!r}: give an index from 0 to {len(names) - 1}, or a name among "
                     f"{', '.join(map(repr, names))}")


NILE = (1120, 1160, 963, 1210, 1160, 1160, 813, 1230, 1370, 1140, 995, 935, 1110, 994, 1020, 960, 1180, 799, 958, 1140,
        1100, 1210, 1150, 1250, 1260, 1220, 1030, 1100, 774, 840, 874, 694, 940, 833, 701, 916, 692, 1020, 1050, 969,
        831, 726, 456, 824, 702, 1120, 1100, 832, 764, 821, 768, 845, 864, 862, 698, 845, 744, 796, 1040, 759,
        781, 865, 845, 944, 984, 897, 822, 1010, 771, 676, 649, 846, 812, 742, 801, 1040, 860, 874, 848, 890,
        744, 749, 838, 1050, 918, 986, 797, 923, 975, 815, 1020, 906, 901, 1170, 912, 746, 919, 718, 714, 740)


def nile() -> tuple[Tensor, Tensor]:
    """The Nile at Aswan: the years 1871 to 1970 (100,), and the water that flowed by in each, in 10^8 m^3 (100,).

    Source: Cobb (1978); Durbin & Koopman (2012), the standard example of a level that wanders.
    """
    return torch.arange(1871, 1971, dtype=torch.float64), torch.tensor(NILE, dtype=torch.float64)
