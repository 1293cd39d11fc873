"""A model of sentences with one latent each, and sentences to try it on."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from tightbound.data import three_men
from tightbound.device import generator, seeded
from tightbound.distributions import DiagonalGaussian

END, UNKNOWN = 0, 1


class Sentences(Distribution):
    """A sentence given its latent, word by word: log p(x | z) = sum_t log p(x_t | x_<t, z), in nats.

    Sentences are rows of word numbers that end in END = 0; what follows the first END does not count.
    """

    arg_constraints: dict = {}
    support = constraints.nonnegative_integer

    def __init__(self, model: SentenceVAE, z: Tensor):
        super().__init__(z.shape[:-1], validate_args=False)
        self.model, self.z = model, z

    def log_prob(self, x: Tensor, *, dropout: float = 0.0, generator: torch.Generator | None = None) -> Tensor:
        """(B, T) gives the latents' shape (..., B). Word dropout hides that share of the words from the decoder."""
        x = x.long()
        seen = F.pad(x[:, :-1], (1, 0), value=self.model.start)
        if dropout:
            hide = torch.rand(seen.shape, generator=generator, device=x.device) < dropout
            seen = torch.where(hide, self.model.start, seen)
        shape = self.z.shape[:-2]
        z = self.z.expand(*shape, len(x), -1).flatten(0, -2)
        logits, _ = self.model.predict(seen.repeat(math.prod(shape), 1), z)
        words = torch.log_softmax(logits, -1).unflatten(0, (-1, len(x)))
        scores = words.gather(-1, x.expand(len(words), -1, -1).unsqueeze(-1)).squeeze(-1)
        return (scores * _counts(x)).sum(-1).reshape(*shape, len(x))

    def most_likely(self, length: int) -> Tensor:
        """Greedy sentences (B, length) for latents (B, d): the likeliest word at each step."""
        word = torch.full((len(self.z), 1), self.model.start, device=self.z.device)
        state, found = None, []
        for _ in range(length):
            logits, state = self.model.predict(word, self.z, state)
            word = logits.argmax(-1)
            found.append(word)
        return torch.cat(found, 1)


def _counts(x: Tensor) -> Tensor:
    """Which words of (B, T) count: up to the first END, that one included."""
    return ((x == END).cumsum(-1) - (x == END).long()) == 0


class SentenceVAE(nn.Module):
    """A VAE for sentences: a GRU reads the sentence into q(z | x), another writes it, shown z and all words so far::

        q(z | x) = N(mean, diag(s^2)) of the last state;     p(x | z) = prod_t p(x_t | x_<t, z)

    With ``dim=0`` there is no latent, and the same decoder is a language model: its "bound" is log p(x) itself.

    Args:
        num_words: V, the size of the vocabulary, END and UNKNOWN included.
        dim: d, the number of latents.
        width: of both GRUs.
        embedding: of a word.

    Source: Bowman et al. (2016), Generating sentences from a continuous space.
    """

    def __init__(self, num_words: int, dim: int, *, width: int = 48, embedding: int = 24, seed: int = 0):
        super().__init__()
        self.start, self.dim, self.width = num_words, dim, width
        with seeded(seed):
            self.embed = nn.Embedding(num_words + 1, embedding)
            self.write = nn.GRU(embedding + dim, width, batch_first=True)
            self.output = nn.Linear(width, num_words)
            if dim:
                self.read, self.head = nn.GRU(embedding, width, batch_first=True), nn.Linear(width, 2 * dim)
                self.first = nn.Linear(dim, width)
        self.register_buffer("origin", torch.zeros(dim))

    def prior(self) -> DiagonalGaussian:
        """p(z) = N(0, I)."""
        return DiagonalGaussian(self.origin, torch.ones_like(self.origin), validate_args=False)

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        """q(z | x) for sentences (B, T)."""
        x = x.long()
        if not self.dim:
            nothing = self.origin.expand(len(x), 0)
            return DiagonalGaussian(nothing, nothing, validate_args=False)
        states, _ = self.read(self.embed(x))
        last = states[torch.arange(len(x), device=x.device), _counts(x).sum(-1) - 1]
        mean, log_scale = self.head(last).chunk(2, -1)
        return DiagonalGaussian(mean, log_scale.exp(), validate_args=False)

    def decode(self, z: Tensor) -> Sentences:
        """p(x | z) for z (..., B, d)."""
        return Sentences(self, z)

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x, z) in nats: (B, T) and (..., B, d) give (..., B)."""
        return self.prior().log_prob(z) + self.decode(z).log_prob(x)

    def predict(self, seen: Tensor, z: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits (B, T, V) of the next word after each of the words seen (B, T), for z (B, d); and the state (1, B, width)."""
        words = self.embed(seen)
        if self.dim:
            words = torch.cat([words, z.unsqueeze(1).expand(-1, seen.shape[1], -1)], -1)
            state = torch.tanh(self.first(z)).unsqueeze(0) if state is None else state
        states, state = self.write(words, state)
        return self.output(states), state


class Text(NamedTuple):
    """Sentences as rows of word numbers (N, T), split in two, and the words by number."""

    train: Tensor
    test: Tensor
    vocabulary: list[str]

    def words(self, x: Tensor) -> str:
        """A sentence (T,) as words."""
        kept = x[_counts(x[None])[0]].tolist()
        return " ".join(self.vocabulary[i] for i in kept if i != END)


def number(sentences: Sequence[Sequence[str]], num_words: int, *, unknown: bool, seed: int = 0) -> Text:
    """Distinct sentences as numbers: the `num_words` most frequent words, four fifths of the sentences to train on.

    Args:
        unknown: keep sentences with rarer words, each as UNKNOWN; else leave these sentences out.
    """
    distinct = sorted({tuple(sentence) for sentence in sentences})
    frequency = Counter(word for sentence in distinct for word in sentence)
    ranked = sorted(frequency, key=lambda word: (-frequency[word], word))[:num_words]
    place = {word: i for i, word in enumerate(ranked, start=2)}
    if not unknown:
        distinct = [sentence for sentence in distinct if all(word in place for word in sentence)]
    x = torch.zeros(len(distinct), max(map(len, distinct)) + 1, dtype=torch.long)
    for row, sentence in zip(x, distinct):
        row[:len(sentence)] = torch.tensor([place.get(word, UNKNOWN) for word in sentence])
    x = x[torch.randperm(len(x), generator=generator(seed))]
    cut = 4 * len(x) // 5
    return Text(x[:cut], x[cut:], ["<end>", "<unknown>", *ranked])


@lru_cache
def character_names(num_words: int = 200) -> Text:
    """Names of characters, as "greek small letter alpha with tonos": three to seven words each, from Unicode 3.2.

    Every Python brings them along, and that version is frozen since 2002, so they are the same everywhere.

    Source: The Unicode Consortium (2002), version 3.2, `unicodedata.ucd_3_2_0`.
    """
    found = (unicodedata.ucd_3_2_0.name(chr(code), "").lower() for code in range(0x30000))
    names = [name.split() for name in found if name and not name.startswith(("cjk", "hangul syllable"))]
    return number([name for name in names if 3 <= len(name) <= 7], num_words, unknown=False)


@lru_cache
def novel(num_words: int = 500) -> Text:
    """Sentences of 3 to 14 words from *Three Men in a Boat*: lower case, marks of punctuation are words, rare words UNKNOWN.

    Source: Jerome (1889), as `tightbound.data.three_men` brings it.
    """
    sentences = [re.findall(r"[a-z]+(?:'[a-z]+)?|[.,;:?!]", sentence.lower())
                 for _, paragraph in three_men() for sentence in re.split(r"(?<=[.!?])[\"']?\s+", paragraph)]
    return number([sentence for sentence in sentences if 3 <= len(sentence) <= 14], num_words, unknown=True)
