"""Texts: one that Python brings along, and three that are read from files."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from tightbound.arguments import count
from tightbound.data.files import File, read

SHAKESPEARE = File(
    "text_tiny_shakespeare/input.txt",
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    "https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/"
    "data/tinyshakespeare/input.txt",
)
THREE_MEN = File("text_three_men/three_men_en.txt", "0c23ee8063b0b5141027f898bca3bdb9690d0ebab97a012a06bfb89063ccd69e")
REUTERS = "https://raw.githubusercontent.com/lda-project/lda/016037863acf08cfdaa29534c7b496be79762bd0/lda/tests"
REUTERS_SHA256 = {
    "ldac": "4bfe5b21ed263334ddf7af56f7b38632f6ccae7d9441c8b56071167841e71b5e",
    "tokens": "8fc788b258bb76f9e352885cc20971d64e0011b8d74781129d060818930e3d5a",
    "titles": "fac5f54e85f07852d0edaede84642806b08e3c437e24597f79aae0aa82d5d7ee",
}


class Corpus(NamedTuple):
    """Documents as bags of words: counts (documents, words), the vocabulary, and the documents' titles."""

    counts: Tensor
    vocabulary: list[str]
    titles: list[str]


@lru_cache
def python_help(least_documents: int = 3, least_words: int = 40, passage: int | None = None) -> Corpus:
    """Python's own help texts, `pydoc_data.topics`: some eighty documents that every Python brings along.

    Words are runs of at least three letters, in lower case, without English stop words. The texts differ a little
    from one release of Python to the next.

    Args:
        least_documents: leave out words that stand in fewer texts.
        least_words: leave out documents with fewer words.
        passage: cut every text into passages of so many words, counted without stop words, each a document of its own.

    Raises:
        ValueError: for a passage of less than a word.
    """
    from pydoc_data.topics import topics

    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(token_pattern=r"[a-z]{3,}", stop_words="english", min_df=least_documents)
    vectorizer.fit(topics.values())
    texts = list(topics.items())
    if passage is not None:
        length, analyse = count("passage", passage, least=1), vectorizer.build_analyzer()
        words = [(title, analyse(text)) for title, text in texts]
        texts = [(title, " ".join(text[first:first + length]))
                 for title, text in words for first in range(0, len(text), length)]
    counts = torch.tensor(vectorizer.transform([text for _, text in texts]).toarray(), dtype=torch.float64)
    long = counts.sum(1) >= least_words
    titles = [title for (title, _), keep in zip(texts, long.tolist()) if keep]
    return Corpus(counts[long], list(vectorizer.get_feature_names_out()), titles)


@lru_cache
def three_men() -> list[tuple[int, str]]:
    """Jerome K. Jerome's novel *Three Men in a Boat* (1889): its 1,357 paragraphs, each with its chapter.

    Chapters are numbered 1 to 19, and each begins with its heading and its contents; chapter 0 is the title. The
    text is in the public domain; in this form, a line a paragraph, it has no public home, so it is only read where it lies.

    Raises:
        OSError: if it is not at hand; names the folder to fill.

    Source: posteriordb (Magnusson and others), three_men_multilingual.csv.zip, its English rows.
    """
    lines = (line.split("\t") for line in read(THREE_MEN).decode().splitlines())
    return [(int(chapter), paragraph) for chapter, paragraph in lines]


def tiny_shakespeare() -> str:
    """Plays of Shakespeare as one string of 1,115,394 characters, 65 of them distinct. Fetched once, 1.1 MB.

    Its first nine tenths are commonly for training and the rest for validation.

    Raises:
        OSError: if it is not at hand and cannot be fetched; names the folder to fill.

    Source: Karpathy (2015), char-rnn; the plays are in the public domain.
    """
    return read(SHAKESPEARE).decode()


@lru_cache
def reuters() -> Corpus:
    """News of 1996: 395 items as bags of 4,258 words, 84,010 words in all, and their titles. Fetched once, 0.4 MB.

    Raises:
        OSError: if it is not at hand and cannot be fetched; names the folder to fill.

    Source: Reuters-21578, the part that the Python package lda ships.
    """
    documents, words, titles = (
        read(File(f"text_reuters/reuters.{part}", sha256, f"{REUTERS}/reuters.{part}")).decode().splitlines()
        for part, sha256 in REUTERS_SHA256.items()
    )
    counts = torch.zeros(len(documents), len(words), dtype=torch.float64)
    for row, document in zip(counts, documents):  # "number of distinct words" "word:count" "word:count" ...
        for pair in document.split()[1:]:
            word, count = pair.split(":")
            row[int(word)] = int(count)
    return Corpus(counts, words, [title.partition(" ")[2] for title in titles])
