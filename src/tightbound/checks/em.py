"""The exercises of the chapter on the bound and EM, and its quiz."""

from __future__ import annotations

import functools
import math
import random

import torch
from torch import Tensor

from tightbound import em as method
from tightbound.checks.check import Check, Wrong
from tightbound.checks.quiz import Option, Question, Quiz

LOG_2 = math.log(2)
LOG_2PI = math.log(2 * math.pi)


def _normals(stream: random.Random, n: int, scale: float = 1.0) -> Tensor:
    return torch.tensor([stream.gauss(0, scale) for _ in range(n)], dtype=torch.float64)


def _between(stream: random.Random, n: int, low: float, high: float) -> Tensor:
    return torch.tensor([stream.uniform(low, high) for _ in range(n)], dtype=torch.float64)


def _normal(x: Tensor, mean: Tensor, sd) -> Tensor:
    """log N(x; mean, sd^2)."""
    sd = torch.as_tensor(sd, dtype=torch.float64)
    return -0.5 * ((x - mean) / sd).square() - sd.log() - 0.5 * LOG_2PI


# 1. The E step --------------------------------------------------------------------------------------------------------

def _draw_e_step(stream):
    K = stream.randint(2, 4)
    weights, x = _between(stream, K, 0.2, 2.0), _normals(stream, stream.randint(5, 8), 2.0)
    if stream.random() < 0.4:
        x[0] = stream.choice([-150.0, 150.0])  # where every density underflows
    return {"x": x, "weights": weights / weights.sum(),
            "means": _normals(stream, K, 2.0), "sds": _between(stream, K, 0.4, 2.2)}


def _joint(x, weights, means, sds):
    return weights.log() + _normal(x.unsqueeze(-1), means, sds)


def _e_step(x, weights, means, sds):
    q, log_evidence = method.e_step(_joint(x, weights, means, sds))
    return q, log_evidence.sum()


e_step = Check(
    "E step", draw=_draw_e_step, reference=_e_step, outputs=["responsibilities", "log likelihood"],
    wrongs=[
        Wrong("underflow", lambda x, weights, means, sds: (joint := _joint(x, weights, means, sds).exp()) / joint.sum(-1, keepdim=True),
              "right, but for a datum far from every bell: there all densities underflow to zero, and you divide 0 by 0. Stay with "
              "logarithms until the normalisation is done."),
        Wrong("no weights", lambda x, weights, means, sds: torch.softmax(_normal(x.unsqueeze(-1), means, sds), -1),
              "the mixture weights are missing: a rare component needs better evidence than a common one."),
        Wrong("normalised over the data", lambda x, weights, means, sds: torch.softmax(_joint(x, weights, means, sds), 0),
              "each column sums to one, but it is each row that should: a datum's shares are spread over the components."),
        Wrong("not normalised", lambda x, weights, means, sds: _joint(x, weights, means, sds).exp(),
              "these are joint densities p(x, z = k). To be a posterior over k they must sum to one for every datum."),
        Wrong("logarithm of the responsibilities", lambda x, weights, means, sds: torch.where(
            (q := torch.softmax(_joint(x, weights, means, sds), -1)) > 1e-300, q.log(), math.nan),  # where q underflows, any logarithm
              "these are logarithms of responsibilities: take the exponential at the end."),
        Wrong("standard deviation taken for a variance", lambda x, weights, means, sds: torch.softmax(_joint(x, weights, means, sds.sqrt()), -1),
              "sds holds standard deviations; it looks as if you took them for variances."),
        Wrong("no 1/sd in the density", lambda x, weights, means, sds: torch.softmax(_joint(x, weights, means, sds) + sds.log(), -1),
              "the densities are not normalised: a wide bell is also a low one, and the factor that says so differs from component to component."),
        Wrong("winner takes all", lambda x, weights, means, sds: method.hard_e_step(_joint(x, weights, means, sds)),
              "you gave each datum to its best component outright. That is the hard E step; the posterior is soft."),
        Wrong("underflow in the likelihood", lambda x, weights, means, sds: _joint(x, weights, means, sds).exp().sum(-1).log().sum(),
              "right, but for a datum far from every bell: its density underflows to zero, whose logarithm is minus infinity.", 1),
        Wrong("not summed", lambda x, weights, means, sds: _joint(x, weights, means, sds).logsumexp(-1),
              "this is one log density a datum: add the sum over the data.", 1),
        Wrong("mean, not sum", lambda x, weights, means, sds: _e_step(x, weights, means, sds)[1] / len(x),
              "this is the log likelihood a datum; asked for is that of all data.", 1),
        Wrong("no 2 pi", lambda x, weights, means, sds: _e_step(x, weights, means, sds)[1] + 0.5 * len(x) * LOG_2PI,
              "the factors of 2 pi are missing. They cancel in responsibilities, but not here.", 1),
        Wrong("sum of logarithms", lambda x, weights, means, sds: _joint(x, weights, means, sds).sum(),
              "you added the logarithms over the components. Densities of alternatives add up before the logarithm is taken.", 1),
        Wrong("logarithm of the whole sum", lambda x, weights, means, sds: _joint(x, weights, means, sds).flatten().logsumexp(0),
              "you added over the data inside the logarithm. Data are independent: their densities multiply.", 1),
        Wrong("expected complete-data log likelihood", lambda x, weights, means, sds: (
            _e_step(x, weights, means, sds)[0] * _joint(x, weights, means, sds)).sum(),
              "this is the mean log joint under the posterior. It is a part of the bound; a second term is missing before the two are equal.", 1),
        Wrong("best component only", lambda x, weights, means, sds: _joint(x, weights, means, sds).amax(-1).sum(),
              "you counted only each datum's best component. The others have a share in its density too.", 1),
        Wrong("no weights in the likelihood", lambda x, weights, means, sds: _normal(x.unsqueeze(-1), means, sds).logsumexp(-1).sum(),
              "the mixture weights are missing, so the densities of the mixture do not integrate to one.", 1),
    ],
    hints=["Bayes' rule for each datum: prior times likelihood over their sum. What is the prior of component k?",
           "Make the table of log joints first: log pi_k + log N(x_n; mu_k, sd_k^2), shape (N, K), by broadcasting x[:, None].",
           "`log_joint.logsumexp(-1)` is log p(x_n); its sum is the second answer. The first is exp(log_joint - log p(x_n))."])


# 2. The coin's three terms ----------------------------------------------------------------------------------------------

def _draw_faces(stream):
    return {"heads": stream.randint(1, 12), "tails": stream.randint(1, 12), "a": stream.uniform(1.2, 6), "b": stream.uniform(1.2, 6),
            "alpha": stream.uniform(1.5, 14), "beta": stream.uniform(1.5, 14)}


def _log_beta(a, b):
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _digamma(value):
    return float(torch.special.digamma(torch.tensor(value, dtype=torch.float64)))


def _mean_logs(alpha, beta):
    """E[log p] and E[log(1 - p)] under Beta(alpha, beta)."""
    psi = [_digamma(v) for v in (alpha, beta, alpha + beta)]
    return psi[0] - psi[2], psi[1] - psi[2]


def _kl(alpha, beta, a, b):
    """KL(Beta(alpha, beta) || Beta(a, b))."""
    heads, tails = _mean_logs(alpha, beta)
    return (alpha - a) * heads + (beta - b) * tails - _log_beta(alpha, beta) + _log_beta(a, b)


def _fit(heads, tails, alpha, beta):
    log_p, log_1p = _mean_logs(alpha, beta)
    return heads * log_p + tails * log_1p


def _faces(heads, tails, a, b, alpha, beta):
    return _fit(heads, tails, alpha, beta), _kl(alpha, beta, a, b), _kl(alpha, beta, a + heads, b + tails)


def _mean_log_prior(a, b, alpha, beta):
    log_p, log_1p = _mean_logs(alpha, beta)
    return (a - 1) * log_p + (b - 1) * log_1p - _log_beta(a, b)


faces = Check(
    "three terms of the bound", draw=_draw_faces, reference=_faces, outputs=["reconstruction", "complexity", "gap"],
    wrongs=[
        Wrong("heads only", lambda heads, tails, a, b, alpha, beta: heads * _mean_logs(alpha, beta)[0],
              "only the heads are counted. A flip that shows tails has a likelihood too."),
        Wrong("heads and tails swapped", lambda heads, tails, a, b, alpha, beta: _fit(tails, heads, alpha, beta),
              "heads and tails have changed places: p is the probability of heads, and alpha goes with it."),
        Wrong("likelihood at the mean", lambda heads, tails, a, b, alpha, beta: (
            heads * math.log(alpha / (alpha + beta)) + tails * math.log(beta / (alpha + beta))),
              "this is the log likelihood at the mean of q. A logarithm bends, so its average is lower than its value at the average."),
        Wrong("logarithm of the mean likelihood", lambda heads, tails, a, b, alpha, beta: (
            _log_beta(alpha + heads, beta + tails) - _log_beta(alpha, beta)),
              "you averaged the likelihood and then took the logarithm. The bound averages the logarithm."),
        Wrong("binomial coefficient", lambda heads, tails, a, b, alpha, beta: (
            _fit(heads, tails, alpha, beta) + math.log(math.comb(heads + tails, heads))),
              "there is a binomial coefficient in it: the data are one sequence of flips, not their count."),
        Wrong("digamma of the total left out", lambda heads, tails, a, b, alpha, beta: (
            _fit(heads, tails, alpha, beta) + (heads + tails) * _digamma(alpha + beta)),
              "the mean of log p under a Beta is a difference of two digammas; one of them is missing."),
        Wrong("under the prior", lambda heads, tails, a, b, alpha, beta: _fit(heads, tails, a, b),
              "this is an average over the prior. It is q that the bound averages over."),
        Wrong("log joint", lambda heads, tails, a, b, alpha, beta: (
            _fit(heads, tails, alpha, beta) + _mean_log_prior(a, b, alpha, beta)),
              "the prior is in it as well: that is the mean log joint. Here the prior belongs to the complexity."),
        Wrong("divergence turned round", lambda heads, tails, a, b, alpha, beta: _kl(a, b, alpha, beta),
              "this is KL(prior || q). The average in the bound is over q.", 1),
        Wrong("digamma of the total left out of the complexity", lambda heads, tails, a, b, alpha, beta: (
            _kl(alpha, beta, a, b) + (alpha - a + beta - b) * _digamma(alpha + beta)),
              "the mean of log p under a Beta is a difference of two digammas; in the divergence one of them is missing.", 1),
        Wrong("no entropy", lambda heads, tails, a, b, alpha, beta: -_mean_log_prior(a, b, alpha, beta),
              "this is how badly q codes under the prior, without what the spread of q gives back.", 1),
        Wrong("entropy alone", lambda heads, tails, a, b, alpha, beta: (
            _mean_log_prior(a, b, alpha, beta) + _kl(alpha, beta, a, b)),
              "this is minus the entropy of q. A complexity compares q with the prior.", 1),
        Wrong("negative complexity", lambda heads, tails, a, b, alpha, beta: -_kl(alpha, beta, a, b),
              "the sign is turned: a divergence is never negative.", 1),
        Wrong("normalisers swapped", lambda heads, tails, a, b, alpha, beta: (
            _kl(alpha, beta, a, b) + 2 * (_log_beta(alpha, beta) - _log_beta(a, b))),
              "the two normalisers log B have each other's sign.", 1),
        Wrong("bound for gap", lambda heads, tails, a, b, alpha, beta: _fit(heads, tails, alpha, beta) - _kl(alpha, beta, a, b),
              "this is the bound itself. The gap is what it lacks of log p(x).", 2),
        Wrong("digamma of the total left out of the gap", lambda heads, tails, a, b, alpha, beta: (
            _kl(alpha, beta, a + heads, b + tails) + (alpha - a - heads + beta - b - tails) * _digamma(alpha + beta)),
              "in this divergence a digamma is missing from the means of the two logarithms.", 2),
        Wrong("gap turned round", lambda heads, tails, a, b, alpha, beta: _kl(a + heads, b + tails, alpha, beta),
              "this is KL(posterior || q). The gap of the bound averages over q.", 2),
        Wrong("negative gap", lambda heads, tails, a, b, alpha, beta: -_kl(alpha, beta, a + heads, b + tails),
              "the sign is turned: a bound from below leaves a gap that is not negative.", 2),
        Wrong("log evidence", lambda heads, tails, a, b, alpha, beta: _log_beta(a + heads, b + tails) - _log_beta(a, b),
              "this is the exact log evidence. The gap is its distance from the bound.", 2),
    ],
    hints=["Three expectations under q = Beta(alpha, beta). Each needs the mean of log p and of log(1 - p) only.",
           "Under Beta(alpha, beta), E[log p] = digamma(alpha) - digamma(alpha + beta). What is the posterior of p?",
           "Reconstruction: h E[log p] + t E[log(1-p)]. Both others are KL(Beta(alpha, beta) || Beta(c, d)) = (alpha-c) E[log p] + "
           "(beta-d) E[log(1-p)] - log B(alpha, beta) + log B(c, d), with the prior's c, d and with the posterior's."])


# 3. Reconstruction and complexity of a Bernoulli q ------------------------------------------------------------------------

def _draw_terms(stream):
    n = stream.randint(4, 8)
    r = _between(stream, n, 0.05, 0.95)
    if stream.random() < 0.4:
        r[0], r[1] = 0.0, 1.0  # a q may be sure: 0 log 0 = 0
    return {"x": _normals(stream, n, 2.0), "r": r, "mu": stream.uniform(0.7, 2.5), "w": stream.uniform(0.15, 0.4)}


def _both(r):
    return torch.stack([r, 1 - r], -1)


def _entropies(r):
    return -torch.xlogy(_both(r), _both(r)).sum(-1)


def _fits(x, mu):
    return torch.stack([_normal(x, mu, 1.0), _normal(x, -mu, 1.0)], -1)


def _log_prior(w):
    return torch.tensor([w, 1 - w], dtype=torch.float64).log()


def _terms(x, r, mu, w):
    return (_both(r) * _fits(x, mu)).sum(), (-_entropies(r) - (_both(r) * _log_prior(w)).sum(-1)).sum()


terms = Check(
    "reconstruction and complexity", draw=_draw_terms, reference=_terms, outputs=["reconstruction", "complexity"],
    wrongs=[
        Wrong("bell at the mean of the means", lambda x, r, mu, w: _normal(x, (2 * r - 1) * mu, 1.0).sum(),
              "you put one bell at the average of the two means. The datum came from one bell or the other: average the log densities."),
        Wrong("mixture density", lambda x, r, mu, w: (_fits(x, mu) + _both(r).log()).logsumexp(-1).sum(),
              "you averaged the densities and then took the logarithm; in the bound the logarithm stands inside the average."),
        Wrong("no 2 pi", lambda x, r, mu, w: _terms(x, r, mu, w)[0] + 0.5 * len(x) * LOG_2PI,
              "the factors of 2 pi are missing from the densities."),
        Wrong("log joint", lambda x, r, mu, w: (_both(r) * (_fits(x, mu) + _log_prior(w))).sum(),
              "log w is in it: that is the mean log joint. What the prior says is counted in the complexity."),
        Wrong("the two bells swapped", lambda x, r, mu, w: (_both(1 - r) * _fits(x, mu)).sum(),
              "r is the probability of the bell at +mu; it looks as if you gave it to the other."),
        Wrong("mean over the data", lambda x, r, mu, w: _terms(x, r, mu, w)[0] / len(x),
              "this is an average over the data; asked for is the sum."),
        Wrong("0 log 0", lambda x, r, mu, w: (_both(r) * (_both(r).log() - _log_prior(w))).sum(),
              "right, but where q is 0 or 1: there your formula has 0 times the logarithm of 0, which is NaN on a computer and 0 "
              "in the limit. torch.xlogy(q, q) knows it.", 1),
        Wrong("entropy as complexity", lambda x, r, mu, w: _entropies(r).sum(),
              "this is the entropy of q, which one of the lectures calls complexity too. A q that is as undecided as the prior has learnt nothing, and costs nothing.", 1),
        Wrong("uniform prior", lambda x, r, mu, w: (LOG_2 - _entropies(r)).sum(),
              "this is the divergence from a prior of one half each. Here the prior is w and 1 - w.", 1),
        Wrong("divergence turned round", lambda x, r, mu, w: (_log_prior(w).exp() * (_log_prior(w) - _both(r).log())).sum(),
              "this is KL(prior || q). The average in the bound is over q.", 1),
        Wrong("no entropy", lambda x, r, mu, w: -(_both(r) * _log_prior(w)).sum(),
              "this is the cost of z under the prior alone; what the spread of q gives back is missing.", 1),
        Wrong("negative complexity", lambda x, r, mu, w: -_terms(x, r, mu, w)[1],
              "the sign is turned: a divergence is never negative.", 1),
        Wrong("complexity averaged", lambda x, r, mu, w: _terms(x, r, mu, w)[1] / len(x),
              "this is the mean complexity of a datum; asked for is that of all data together.", 1),
        Wrong("one term of the divergence", lambda x, r, mu, w: (r * (r / w).log()).sum(),
              "this is only the term of the bell at +mu. The other bell contributes as well.", 1),
        Wrong("entropy alone", lambda x, r, mu, w: -_entropies(r).sum(),
              "this is minus the entropy of q. A complexity compares q with the prior.", 1),
    ],
    hints=["Both are averages over q, a datum at a time: q says +mu with probability r, -mu with probability 1 - r.",
           "Reconstruction: r log N(x; mu, 1) + (1-r) log N(x; -mu, 1). Complexity: the KL divergence of (r, 1-r) from (w, 1-w).",
           "KL = r log(r/w) + (1-r) log((1-r)/(1-w)), with 0 log 0 = 0 (torch.xlogy). Sum both over the data."])


# 4. The M step ----------------------------------------------------------------------------------------------------------

def _draw_m_step(stream):
    n, K = stream.randint(6, 12), stream.randint(2, 4)
    q = torch.stack([_between(stream, K, 0.05, 1.0) for _ in range(n)])
    return {"x": 1.5 + _normals(stream, n, 2.0), "q": q / q.sum(-1, keepdim=True)}


def _m_step(x, q):
    N = q.sum(0)
    means = x @ q / N
    return N / len(x), means, (q * (x.unsqueeze(-1) - means).square()).sum(0) / N


def _scatter(x, q):
    return (q * (x.unsqueeze(-1) - _m_step(x, q)[1]).square()).sum(0)


m_step = Check(
    "M step", draw=_draw_m_step, reference=_m_step, outputs=["weights", "means", "variances"],
    wrongs=[
        Wrong("counts, not weights", lambda x, q: q.sum(0), "these are the soft counts N_k. Weights are shares: they sum to one."),
        Wrong("equal weights", lambda x, q: torch.full_like(q[0], 1 / q.shape[1]),
              "the weights stayed equal. They too are parameters, and the soft counts say what they should be."),
        Wrong("hard counts", lambda x, q: method.hard_e_step(q).mean(0),
              "you counted each datum wholly for its best component. The counts of EM are soft."),
        Wrong("divided by N", lambda x, q: x @ q / len(x),
              "you divided by the number of data. A component's mean is taken over the data that it owns, as far as it owns them.", 1),
        Wrong("mean of all data", lambda x, q: x.mean().expand(q.shape[1]),
              "every component got the mean of all data: the responsibilities do not enter.", 1),
        Wrong("not divided", lambda x, q: x @ q, "these are weighted sums; a mean still has to be divided by its total weight.", 1),
        Wrong("hard means", lambda x, q: x @ method.hard_e_step(q) / method.hard_e_step(q).sum(0),
              "you averaged only the data for which a component is the best. In EM every datum counts, by its share; "
              "and a component that is nobody's best would be 0/0.", 1),
        Wrong("squared deviations divided by N", lambda x, q: _scatter(x, q) / len(x),
              "you divided by the number of data, not by the soft count of the component.", 2),
        Wrong("standard deviations", lambda x, q: _m_step(x, q)[2].sqrt(), "these are standard deviations; asked for are variances.", 2),
        Wrong("around the mean of all data", lambda x, q: (q * (x.unsqueeze(-1) - x.mean()).square()).sum(0) / q.sum(0),
              "the deviations are taken from the mean of all data. Each component has a centre of its own.", 2),
        Wrong("second moment", lambda x, q: x.square() @ q / q.sum(0),
              "this is the mean of x squared: the square of the mean has not been subtracted.", 2),
        Wrong("N_k minus one", lambda x, q: _scatter(x, q) / (q.sum(0) - 1),
              "you divided by N_k - 1. That corrects a bias; but the M step maximises the bound, and the maximum has N_k.", 2),
        Wrong("squared deviations not divided", lambda x, q: _scatter(x, q),
              "these are weighted sums of squared deviations; a mean still has to be divided by its total weight.", 2),
        Wrong("precisions", lambda x, q: 1 / _m_step(x, q)[2], "these are precisions; asked for are variances.", 2),
        Wrong("responsibilities squared", lambda x, q: (q * (x.unsqueeze(-1) - _m_step(x, q)[1])).square().sum(0) / q.sum(0),
              "the responsibilities are squared together with the deviations. A weight stands outside of the square.", 2),
    ],
    hints=["Maximise sum_n q_nk log(pi_k N(x_n; mu_k, v_k)): a weighted maximum likelihood for each component by itself.",
           "Everything is an average with weights q_nk. Their sum N_k = sum_n q_nk is the number of data that component k owns.",
           "pi_k = N_k/N; mu_k = sum_n q_nk x_n / N_k; v_k = sum_n q_nk (x_n - mu_k)^2 / N_k, with the new mu_k."])


# 5. Bits ----------------------------------------------------------------------------------------------------------------

def _draw_bits(stream):
    K = stream.randint(2, 5)
    q = _between(stream, K, 0.05, 1.0)
    if stream.random() < 0.4:
        q[stream.randrange(K)] = 0.0  # 0 log 0 = 0
    return {"log_joint": _normals(stream, K, 1.5) - 5.0, "q": q / q.sum()}


def _bits(log_joint, q):
    elbo = method.bound(log_joint, q)
    return -elbo / LOG_2, (log_joint.logsumexp(-1) - elbo) / LOG_2


bits = Check(
    "bits", draw=_draw_bits, reference=_bits, outputs=["expected length", "extra bits"],
    wrongs=[
        Wrong("0 log 0", lambda log_joint, q: (q * (q.log() - log_joint)).sum() / LOG_2,
              "right, but where a z has q = 0: there your formula has 0 times the logarithm of 0, which is NaN on a computer and 0 in "
              "the limit. torch.xlogy(q, q) knows it."),
        Wrong("nats", lambda log_joint, q: -method.bound(log_joint, q),
              "this is a length in nats. A bit is a smaller unit: how many nats does it hold?"),
        Wrong("times log 2", lambda log_joint, q: -method.bound(log_joint, q) * LOG_2,
              "you multiplied by log 2. A bit is less than a nat, so there must be more of them."),
        Wrong("no bits back", lambda log_joint, q: -(q * log_joint).sum() / LOG_2,
              "this is what it costs to send x and z. The bits that chose z come back to the receiver, and are to be deducted."),
        Wrong("negative length", lambda log_joint, q: method.bound(log_joint, q) / LOG_2,
              "the sign is turned: what is improbable takes a long message."),
        Wrong("exact code", lambda log_joint, q: -log_joint.logsumexp(-1) / LOG_2,
              "this is the length of the exact code, -log2 p(x), whatever q is. Asked for is what the message costs with this q."),
        Wrong("best z", lambda log_joint, q: -log_joint.max() / LOG_2,
              "this is the cost of sending the best z, and no bits back. Here z is drawn from q."),
        Wrong("likeliest z of q", lambda log_joint, q: -log_joint[q.argmax()] / LOG_2,
              "this is the cost of sending the z that q likes best. Here z is drawn from q, and bits come back."),
        Wrong("logarithm to base ten", lambda log_joint, q: -method.bound(log_joint, q) / math.log(10),
              "these are digits to base ten, not bits."),
        Wrong("bits paid twice", lambda log_joint, q: -(torch.xlogy(q, q) + q * log_joint).sum() / LOG_2,
              "the entropy of q has the wrong sign: the bits that chose z come back, and are not to be paid once more."),
        Wrong("joint in nats", lambda log_joint, q: torch.xlogy(q, q).sum() / LOG_2 - (q * log_joint).sum(),
              "two units are mixed: your entropy is in bits, but the table is in nats."),
        Wrong("entropy in nats", lambda log_joint, q: torch.xlogy(q, q).sum() - (q * log_joint).sum() / LOG_2,
              "two units are mixed: what sending x and z costs is in bits, but what comes back is in nats."),
        Wrong("extra in nats", lambda log_joint, q: _bits(log_joint, q)[1] * LOG_2,
              "these are nats; asked for are bits.", 1),
        Wrong("lengths added", lambda log_joint, q: -(method.bound(log_joint, q) + log_joint.logsumexp(-1)) / LOG_2,
              "you added the length of the exact code to yours. Watch the sign of log p(x): a length is minus a logarithm.", 1),
        Wrong("extra of the best z", lambda log_joint, q: (log_joint.logsumexp(-1) - log_joint.max()) / LOG_2,
              "this is what sending the best z wastes, with no bits back. Here z is drawn from q.", 1),
        Wrong("divergence turned round", lambda log_joint, q: (torch.softmax(log_joint, -1) * (torch.log_softmax(log_joint, -1) - q.log())).sum() / LOG_2,
              "this is KL(posterior || q). The z of the message are drawn from q, and so it is q that averages.", 1),
        Wrong("negative extra", lambda log_joint, q: -_bits(log_joint, q)[1],
              "the sign is turned: no q is shorter on average than the exact code.", 1),
        Wrong("bits that come back", lambda log_joint, q: -torch.xlogy(q, q).sum() / LOG_2,
              "this is the entropy of q: how many bits come back, not how many are lost for good.", 1),
        Wrong("bits of z", lambda log_joint, q: -(q * torch.log_softmax(log_joint, -1)).sum() / LOG_2,
              "this is a cross-entropy: what it would cost to send z by the posterior. What choosing z from q gave back is missing.", 1),
    ],
    hints=["Sending z and x costs -log p(x, z); having chosen z with a q of random bits returns -log q(z). Average over q.",
           "The mean length is -ELBO, in nats. The exact code has -log p(x), and log p(x) is a log-sum-exp of the table.",
           "Length: sum_k q_k (log q_k - log p(x, k)) / log 2. Extra: the length minus (-logsumexp / log 2)."])


# 6. Project: lifetimes --------------------------------------------------------------------------------------------------

def _draw_lifetimes(stream):
    n, mean = stream.randint(12, 30), stream.uniform(2, 20)
    life = torch.tensor([stream.expovariate(1 / mean) for _ in range(n)], dtype=torch.float64)
    end = stream.uniform(0.6, 1.3) * mean
    failed = life < end
    failed[0], failed[1] = True, False  # some of each
    return {"times": torch.where(failed, life, torch.full_like(life, end)), "failed": failed}


def _lifetimes(times, failed):
    return times.sum() / failed.sum(), 1 - failed.double().mean()


def _after(rounds, times, failed):
    """The mean lifetime after so many rounds of EM, from the mean of all times."""
    theta, rate = _lifetimes(times, failed)
    return theta + rate**rounds * (times.mean() - theta)


def _seen_from_the_last_iterate(back, times, failed):
    """The factor by which the distance to the last iterate shrinks on its way to `back` rounds before it."""
    rate = _lifetimes(times, failed)[1]
    return (rate - rate**(back + 1)) / (1 - rate**(back + 1))


lifetimes = Check(
    "lifetimes", draw=_draw_lifetimes, reference=_lifetimes, outputs=["mean lifetime", "rate"],
    wrongs=[
        Wrong("failures only", lambda times, failed: times[failed].mean(),
              "this is the mean of the lamps that failed. Those that still burn at the end are the long-lived ones, and have to be "
              "counted with the time that they have burnt and what is yet to come. Or are they in it, and your E step forgets the time burnt?"),
        Wrong("taken for failures", lambda times, failed: times.mean(),
              "you took every lamp that still burns to fail at the end of the test. The E step asks for more: how long will it burn on?"),
        Wrong("one round", lambda times, failed: (times.sum() + (~failed).sum() * times.mean()) / len(times),
              "this looks like a single round of EM. Go on until nothing moves, or find the fixed point by pencil."),
        *(Wrong(f"{rounds} rounds", functools.partial(_after, rounds),
                f"this is where {rounds} rounds of EM lead from the mean of all times: not yet the end. Go on until nothing moves.")
          for rounds in (10, 20)),
        Wrong("failures a unit of time", lambda times, failed: failed.sum() / times.sum(),
              "this is the rate of failures, one over what is asked for."),
        Wrong("share that failed", lambda times, failed: failed.double().mean(),
              "this is the share of what was observed. What shrinks from round to round is governed by what was not.", 1),
        Wrong("a count", lambda times, failed: (~failed).sum(),
              "this is how many lamps still burn. A rate of EM is a factor, between zero and one.", 1),
        Wrong("ratio of unseen to seen", lambda times, failed: (~failed).sum() / failed.sum(),
              "this is the ratio of missing to seen lifetimes, and may exceed one. EM never moves away from its fixed point.", 1),
        Wrong("share of the time", lambda times, failed: times[~failed].sum() / times.sum(),
              "this is the share of the burning time. Write one round as mean_new = A + B mean_old: which is B?", 1),
        *(Wrong(f"seen from the last iterate, {back} rounds before", functools.partial(_seen_from_the_last_iterate, back),
                f"this is the ratio of two distances to your last iterate, {back + 1} rounds and {back} rounds before it. The last iterate is "
                "not quite the end, and so close to it that matters. Compare the steps of two successive rounds.", 1)
          for back in (1, 2, 3)),
    ],
    hints=["An exponential lifetime has no memory: a lamp that has burnt for t hours is as good as new. What does the E step expect of it?",
           "E step: t_n + mean for a lamp that still burns, t_n for one that failed. M step: the mean of these. Iterate.",
           "mean_new = (sum of all times + c mean_old) / n with c lamps still burning. Its fixed point, and the factor before mean_old, are the two answers."])

ALL = (e_step, faces, terms, m_step, bits, lifetimes)


quiz = Quiz("em", [
    Question("You change q, the model and the data stay. Which of these changes?", [
        Option("log p(x).", "It belongs to model and data alone; q does not occur in it."),
        Option("The sum of bound and gap.", "That sum is log p(x), and so it stays."),
        Option("The bound, and by as much the gap, in the other direction.", "What the bound gains, the gap loses.", True),
        Option("The bound, but not the gap.", "Their sum is constant, so neither moves alone.")]),
    Question("Two equally probable clusters. Which q(z) for a datum has the highest complexity KL(q ‖ prior)?", [
        Option("The flat one, (1/2, 1/2), for its entropy is highest.", "Its entropy is highest, and that is just why it is cheapest: it equals "
               "the prior, and the divergence is zero."),
        Option("One that names a cluster for certain.", "It differs from the prior as much as it can, and costs log 2 nats: one bit.", True),
        Option("All the same: the prior is uniform.", "Then the complexity is log 2 minus the entropy of q, which does vary."),
        Option("It depends on the datum.", "The reconstruction depends on the datum; the complexity compares q with the prior only.")]),
    Question("After an exact E step the bound equals log p(x | θ). Then an M step raises the bound by 3 nats. The log likelihood …", [
        Option("rises by exactly 3 nats.", "As a rule it rises by more: at the new θ the old q is no longer the posterior, so a gap has opened above "
               "the bound."),
        Option("rises by 3 nats or less.", "The other way round: the likelihood lies above the bound."),
        Option("may fall.", "Only if the E step was not exact. From a point where the bound touches, it cannot."),
        Option("rises by 3 nats or more.", "It is never below the bound, and it stood right on it before.", True)]),
    Question("EM on a mixture reports a log likelihood that keeps rising by several nats in every iteration, to values beyond belief. Most likely …", [
        Option("it has found a far better optimum: wait.", "There is no optimum at the end of this road: the likelihood is unbounded."),
        Option("a component is shrinking onto one datum, or onto data in a hyperplane.", "Its density there grows without bound. Look at the smallest "
               "eigenvalue of each covariance; a prior on the covariances mends it.", True),
        Option("the E step is wrong.", "A wrong E step can show as a likelihood that falls; values beyond belief are not its mark."),
        Option("the step size is too large.", "EM has none; that is one of its charms.")]),
    Question("You train with a hard E step (each datum wholly to its best component). Over the iterations …", [
        Option("once q is hard, the bound never falls, but the likelihood may, and the answer is biased.", "The hard q is a restricted "
               "one: the bound still climbs from the first hard q on, but it no longer touches the likelihood.", True),
        Option("bound and likelihood both never fall.", "For the likelihood one needs the bound to touch it after the E step, and a hard q does not."),
        Option("the answer is the same, only sooner.", "It is sooner, but elsewhere: overlapping clusters are pushed apart."),
        Option("neither is monotone.", "From the first hard q on both steps climb the bound, each over its own argument.")]),
])
