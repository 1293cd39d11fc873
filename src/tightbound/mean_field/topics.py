"""Latent Dirichlet allocation: what are these documents about?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tightbound.arguments import count, positive
from tightbound.device import generator

BATCH = 256          # documents at once
LOCAL_STEPS = 100    # of a document, at most
LOCAL_TOLERANCE = 1e-3  # words by which the topic counts of a document may still move


@dataclass(frozen=True)
class Topics:
    """q(topics) q(shares) of latent Dirichlet allocation.

    Attributes:
        words: of the topics' Dirichlets, lambda, (K, V).
        shares: of the documents' Dirichlets, gamma, (D, K).
        history: the bound in nats at the start of every iteration, and at the end.
        num_words: of all documents.
    """

    words: Tensor
    shares: Tensor
    history: Tensor
    num_words: float

    @property
    def log_evidence(self) -> float:
        """The bound on log p(all words), in nats."""
        return float(self.history[-1])


def fit_topics(counts: Tensor, num_topics: int, *, concentration: float = 0.1,
               word_concentration: float = 0.05,
               start: Tensor | None = None, num_iterations: int = 50, tolerance: float = 1e-5,
               seed: int | torch.Generator = 0) -> Topics:
    """Latent Dirichlet allocation by coordinate ascent, in batches of documents::

        topic_k ~ Dirichlet(eta),   shares_d ~ Dirichlet(alpha),   each word:  z ~ shares_d,  w ~ topic_z
        q(z = k | word v of d) ∝ T_dk B_kv,    T_dk = exp E[log shares_dk],  B_kv = exp E[log topic_kv]
        gamma_dk  = alpha + T_dk sum_v C_dv B_kv / (T B)_dv     (local: repeated until it settles)
        lambda_kv = eta + B_kv sum_d C_dv T_dk / (T B)_dv     (global: once all documents are done)

    The words' own q(z) is never stored: it goes into the two sums at once. Every local loop starts from equal
    shares. (To start it where the last iteration ended saves half of the time, and gets stuck half a nat a
    word lower.)

    Args:
        counts: C, how often word v stands in document d, (D, V).
        num_topics: K.
        concentration, word_concentration: alpha and eta.
        start: lambda to begin with, (K, V); K random documents, and one of every word, if left out.
        num_iterations: at most.
        tolerance: stop when the bound a word rises by less, in nats.
        seed: of the random start.

    Raises:
        ValueError: for counts that are negative, not finite, or of another shape, documents without words, or
            a start that does not fit.

    Source: Blei, Ng & Jordan (2003); Hoffman, Blei & Bach (2010).
    """
    C, K = torch.as_tensor(counts, dtype=torch.float64), count("num_topics", num_topics, least=1)
    if C.ndim != 2 or not bool((torch.isfinite(C) & (C >= 0)).all()) or not bool((C.sum(1) > 0).all()):
        raise ValueError("counts must be (documents, words), finite, not negative, and every document must have "
                         f"a word, got shape {tuple(C.shape)}")
    alpha, eta = positive("concentration", concentration), positive("word_concentration", word_concentration)
    if start is None:
        order = torch.randperm(len(C), generator=generator(seed))
        start = 1 + C[order.repeat(K)[:K]]  # topics begin far apart: of near-equal ones none gets ahead
    if start.shape != (K, C.shape[1]) or not bool((start > 0).all()):
        raise ValueError(f"start must be ({K}, {C.shape[1]}) and above zero, got shape {tuple(start.shape)}")
    words, history, num_words = start.to(C.dtype), [], float(C.sum())
    for _ in range(count("num_iterations", num_iterations, least=1)):
        shares, sums, local = _documents(C, exp_expected_log(words), alpha)
        history.append(local - _dirichlet_kl(words, eta).sum())
        words = eta + sums
        if len(history) > 1 and history[-1] - history[-2] < tolerance * num_words:
            break
    shares, _, local = _documents(C, exp_expected_log(words), alpha)
    history.append(local - _dirichlet_kl(words, eta).sum())
    return Topics(words, shares, torch.stack(history), num_words)


def topic_bound(counts: Tensor, words: Tensor, *, concentration: float = 0.1,
                word_concentration: float = 0.05) -> float:
    """The bound in nats that q(topics), (K, V), reaches on these counts, each document at its best shares."""
    local = _documents(counts, exp_expected_log(words), concentration)[2]
    return float(local - _dirichlet_kl(words, word_concentration).sum())


def document_bounds(counts: Tensor, topics: Tensor, *, concentration: float = 0.1) -> Tensor:
    """The bound on log p(words of d | topics) in nats, (D,), of documents (D, V) under known topics (K, V),
    rows that sum to one."""
    gamma = _shares(counts, topics, concentration)
    P = exp_expected_log(gamma) @ topics
    return torch.special.xlogy(counts, P).sum(1) - _dirichlet_kl(gamma, concentration)


def exp_expected_log(parameters: Tensor) -> Tensor:
    """exp E[log p] under Dirichlet(parameters), along the last axis."""
    return torch.exp(torch.digamma(parameters) - torch.digamma(parameters.sum(-1, keepdim=True)))


def _dirichlet_kl(parameters: Tensor, prior: float) -> Tensor:
    """KL(Dirichlet(parameters) ‖ Dirichlet(prior, ..., prior)) of every row."""
    total, size = parameters.sum(-1), parameters.shape[-1]
    prior = torch.tensor(prior, dtype=parameters.dtype)
    expected = torch.digamma(parameters) - torch.digamma(total).unsqueeze(-1)
    kl = (torch.lgamma(total) - torch.lgamma(parameters).sum(-1)
          - torch.lgamma(size * prior) + size * torch.lgamma(prior)
          + ((parameters - prior) * expected).sum(-1))
    return kl


def _documents(C: Tensor, B: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """The shares gamma (D, K), the sums for the topics (K, V), and the documents' part of the bound."""
    found, sums, bound = [], torch.zeros_like(B), torch.zeros((), dtype=B.dtype)
    for batch in C.split(BATCH):
        gamma = _shares(batch, B, alpha)
        T = exp_expected_log(gamma)
        P = T @ B
        sums += T.T @ (batch / P)
        bound += torch.special.xlogy(batch, P).sum() - _dirichlet_kl(gamma, alpha).sum()
        found.append(gamma)
    return torch.cat(found), sums * B, bound


def _shares(C: Tensor, B: Tensor, alpha: float) -> Tensor:
    """gamma (D, K) of a batch of documents, each iterated from equal shares until it settles; who has settled
    drops out."""
    K = len(B)
    gamma = (alpha + C.sum(1, keepdim=True) / K).repeat(1, K)
    active, now = torch.arange(len(C), device=C.device), gamma.clone()
    for _ in range(LOCAL_STEPS):
        T = exp_expected_log(now)
        new = alpha + T * ((C / (T @ B)) @ B.T)
        gamma[active] = new
        moving = (new - now).abs().mean(1) >= LOCAL_TOLERANCE
        now = new
        if not bool(moving.any()):
            break
        if int(moving.sum()) < 0.8 * len(active):  # copying costs: not for a few
            active, C, now = active[moving], C[moving], new[moving]
    return gamma
