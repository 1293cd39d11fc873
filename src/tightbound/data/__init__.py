"""Real data. What scikit-learn and Python bring along needs no network.

MNIST and its kin are fetched once into a cache, ``~/.cache/tightbound`` on Linux; or name a folder that holds them
in the environment variable ``TIGHTBOUND_DATA``, and they are read from there.
"""

from tightbound.data.images import Images, binarised_mnist, digits, fashion_mnist, mnist, omniglot
from tightbound.data.tables import Columns, Data, Groups, breast_cancer, diabetes, iris, nile, wine
from tightbound.data.texts import Corpus, python_help, reuters, three_men, tiny_shakespeare
from tightbound.data.uci import Splits, uci_binary, uci_regression

__all__ = ["Columns", "Corpus", "Data", "Groups", "Images", "Splits", "binarised_mnist", "breast_cancer",
           "diabetes", "digits", "fashion_mnist", "iris", "mnist", "nile", "omniglot", "python_help", "reuters", "three_men", "tiny_shakespeare", "uci_binary", "uci_regression", "wine"]
