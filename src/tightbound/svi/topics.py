"""Global parameters of a conjugate model: topics of documents, a few documents a step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tightbound.arguments import count, positive
from tightbound.device import generator
from tightbound.mean_field.topics import LOCAL_STEPS, LOCAL_TOLERANCE, exp_expected_log

DOCUMENTS = 16     # at once


@dataclass(frozen=True)
class StochasticTopics:
    """q(topics) of latent Dirichlet allocation, fitted by stochastic steps.

    Attributes:
        words: of the topics' Dirichlets, lambda, (K, V); of R runs side by side (R, K, V).
        seen: documents seen at every look, (L,).
        held_out: nats a word on the held-out documents at every look, (L,) or (L, R); empty where none were given.
    """

    words: Tensor
    seen: Tensor
    held_out: Tensor


def fit_topics(counts: Tensor, num_topics: int, *, batch_size: int = 16, delay: float | Tensor = 1.0,
               forgetting: float | Tensor = 0.7, num_seen: int = 5_000, concentration: float = 0.1,
               word_concentration: float = 0.05, start: Tensor | None = None, held_out: tuple[Tensor, Tensor] | None = None,
               num_looks: int = 20, seed: int | torch.Generator = 0) -> StochasticTopics:
    """Latent Dirichlet allocation by stochastic variational inference, a few documents a step::

        local:    gamma_d of every document of the batch, as in `mean_field.fit_topics`
        global:   lambda_hat = eta + D/b sum_{d in batch} (what the document's words add to the topics)
                  lambda <- (1 - rho_t) lambda + rho_t lambda_hat,      rho_t = (t + delay)^-forgetting

    lambda_hat - lambda is the natural gradient of the bound, estimated from b of D documents. With all documents in a batch
    and forgetting 0 it is coordinate ascent itself.

    Args:
        counts: how often word v stands in document d, (D, V).
        num_topics: K.
        batch_size: b.
        delay, forgetting: tau and kappa of the step sizes, rho_1 being (1 + delay)^-forgetting; tensors (R,) for R runs side by
            side, all with the same batches. Robbins and Monro ask for 0.5 < forgetting <= 1.
        num_seen: stop when so many documents have been seen.
        concentration, word_concentration: alpha and eta, of the priors.
        start: lambda to begin with, (K, V), or (R, K, V); K random documents, and one of every word, if left out.
        held_out: two halves of documents that are not among the counts, each (H, V); see `completion`.
        num_looks: how often they are looked at.
        seed: of the start and the batches.

    Raises:
        ValueError: for counts that are negative, not finite, or of another shape, documents without words, a batch larger than
            the corpus, step sizes out of range, or a start that does not fit.

    Source: Hoffman, Blei & Bach (2010); Hoffman, Blei, Wang & Paisley (2013).
    """
    C, K = torch.as_tensor(counts, dtype=torch.float64), count("num_topics", num_topics, least=1)
    if C.ndim != 2 or not bool((torch.isfinite(C) & (C >= 0)).all()) or not bool((C.sum(1) > 0).all()):
        raise ValueError("counts must be (documents, words), finite, not negative, and every document must have a word, got "
                         f"shape {tuple(C.shape)}")
    b = count("batch_size", batch_size, least=1, most=len(C))
    tau, kappa = (torch.as_tensor(v, dtype=C.dtype, device=C.device)[..., None, None] for v in (delay, forgetting))
    if not bool((tau >= 0).all() and (kappa >= 0).all()):
        raise ValueError("delay and forgetting must not be negative")
    alpha, eta = positive("concentration", concentration), positive("word_concentration", word_concentration)
    stream, looks, seen = generator(seed), [], []
    if start is None:
        start = 1 + C[torch.randperm(len(C), generator=stream).repeat(K)[:K]]
    if start.shape[-2:] != (K, C.shape[1]) or not bool((start > 0).all()):
        raise ValueError(f"start must be ({K}, {C.shape[1]}) and above zero, got shape {tuple(start.shape)}")
    words = start.to(C.dtype).expand(*torch.broadcast_shapes(tau.shape[:-2], kappa.shape[:-2], start.shape[:-2]), K, -1)
    steps = max(1, count("num_seen", num_seen, least=1) // b)
    looked = {round(steps ** (i / max(num_looks - 1, 1))) for i in range(num_looks)}       # closer together at the beginning
    order = _epochs(len(C), b, stream)
    for t in range(1, steps + 1):
        batch = C[next(order)]
        rho = (t + tau) ** -kappa
        words = (1 - rho) * words + rho * (eta + len(C) / b * _added(batch, words, alpha))
        if held_out is not None and t in looked:
            seen.append(t * b)
            looks.append(-completion(*held_out, words, concentration=alpha))
    return StochasticTopics(words, torch.tensor(seen), torch.stack(looks) if looks else torch.tensor([]))


def completion(observed: Tensor, hidden: Tensor, words: Tensor, *, concentration: float = 0.1) -> Tensor:
    """How well half of a document's words predicts the other half: the mean log probability of a hidden word, in nats::

        1/(number of hidden words) sum_{d, v} hidden_dv log sum_k E[shares_dk] E[topic_kv]

    The shares are those of the observed half (H, V). For topics (..., K, V) the result is (...).

    Source: Hoffman et al. (2013), section 4; Wallach, Murray, Salakhutdinov & Mimno (2009).
    """
    gamma = torch.cat([_local(part, B, concentration) for part, B, _ in _parts(observed, exp_expected_log(words))], -2)
    shares, topics = (v / v.sum(-1, keepdim=True) for v in (gamma, words))
    return torch.special.xlogy(hidden, shares @ topics).sum((-2, -1)) / hidden.sum()


def _added(C: Tensor, words: Tensor, alpha: float) -> Tensor:
    """sum_d C_dv q(topic k | word v of d): what these documents (b, V) add to the topics, (..., K, V)."""
    found = torch.zeros_like(words)
    for part, B, present in _parts(C, exp_expected_log(words)):
        T = exp_expected_log(_local(part, B, alpha))
        found[..., present] += B * (T.mT @ (part / (T @ B)))
    return found


def _parts(C: Tensor, B: Tensor):
    """A few documents (b, V) at a time, and of B (..., K, V) only their words: most words stand in none of a few documents."""
    for part in C.split(DOCUMENTS):
        present = part.sum(0) > 0
        yield part[:, present], B[..., present], present


def _local(C: Tensor, B: Tensor, alpha: float) -> Tensor:
    """gamma (..., b, K) of documents (b, V), from equal shares until it settles; B (..., K, V) = exp E[log topic]."""
    gamma = alpha + C.sum(1, keepdim=True) / B.shape[-2] * torch.ones_like(B[..., :1].mT)
    for _ in range(LOCAL_STEPS):
        T = exp_expected_log(gamma)
        before, gamma = gamma, alpha + T * ((C / (T @ B)) @ B.mT)
        if bool((gamma - before).abs().mean(-1).amax() < LOCAL_TOLERANCE):
            break
    return gamma


def _epochs(num_data: int, batch_size: int, stream: torch.Generator):
    """Batches of indices, every datum once before any comes again."""
    left = torch.tensor([], dtype=torch.long)
    while True:
        while len(left) < batch_size:
            left = torch.cat([left, torch.randperm(num_data, generator=stream)])
        batch, left = left[:batch_size], left[batch_size:]
        yield batch
