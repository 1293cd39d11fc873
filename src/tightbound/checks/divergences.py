"""The exercises of the chapter on divergences, and its quiz."""

from __future__ import annotations

import functools
import math
import random

import torch
from torch import Tensor

from tightbound import divergences as method
from tightbound import laplace
from tightbound.checks.check import Check, Wrong
from tightbound.checks.quiz import Option, Question, Quiz
from tightbound.problem import Problem


def _tensor(numbers) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def _normals(stream: random.Random, *shape: int) -> Tensor:
    return _tensor([stream.gauss(0, 1) for _ in range(math.prod(shape))]).reshape(shape)


def _positive_definite(stream: random.Random, d: int) -> Tensor:
    root = _normals(stream, d, d)
    return root @ root.T + 0.5 * torch.eye(d, dtype=torch.float64)


# 1. KL between two normals ------------------------------------------------------------------------------------------------

def _draw_kl(stream):
    d = stream.randint(2, 4)
    return {"mean_q": _normals(stream, d), "cov_q": _positive_definite(stream, d),
            "mean_p": _normals(stream, d), "cov_p": _positive_definite(stream, d)}


def _parts(mean_q, cov_q, mean_p, cov_p):
    """tr(Sp^-1 Sq), the squared distance in units of p, d, log det Sp - log det Sq."""
    offset = mean_p - mean_q
    return (torch.linalg.solve(cov_p, cov_q).trace(), offset @ torch.linalg.solve(cov_p, offset), len(offset),
            torch.logdet(cov_p) - torch.logdet(cov_q))


def _kl(mean_q, cov_q, mean_p, cov_p):
    trace, distance, d, volume = _parts(mean_q, cov_q, mean_p, cov_p)
    return 0.5 * (trace + distance - d + volume)


def _kl_with(change):
    """A wrong answer: the four parts, put together otherwise."""
    return lambda mean_q, cov_q, mean_p, cov_p: change(*_parts(mean_q, cov_q, mean_p, cov_p))


kl = Check(
    "KL between two normals", draw=_draw_kl, reference=_kl, outputs=["KL"],
    wrongs=[
        Wrong("the other direction", lambda mean_q, cov_q, mean_p, cov_p: _kl(mean_p, cov_p, mean_q, cov_q),
              "this is KL(p || q). The average is over the first argument, and here that is q."),
        Wrong("no half", _kl_with(lambda trace, distance, d, volume: trace + distance - d + volume),
              "it is twice what it should be: every term of a normal log density carries a half."),
        Wrong("dimension left out", _kl_with(lambda trace, distance, d, volume: 0.5 * (trace + distance + volume)),
              "put p = q: the divergence must be zero, and yours is not. Under q its own quadratic form averages to something."),
        Wrong("log-determinants exchanged", _kl_with(lambda trace, distance, d, volume: 0.5 * (trace + distance - d - volume)),
              "the log-determinants have changed places: a wider p must cost something, not earn it."),
        Wrong("log-determinants left out", _kl_with(lambda trace, distance, d, volume: 0.5 * (trace + distance - d)),
              "the volumes of the two normals are missing."),
        Wrong("means left out", _kl_with(lambda trace, distance, d, volume: 0.5 * (trace - d + volume)),
              "the distance between the means is missing: yours does not change when q moves away."),
        Wrong("trace left out", _kl_with(lambda trace, distance, d, volume: 0.5 * (distance - d + volume)),
              "the spread of q in the units of p is missing: E_q of p's quadratic form has two parts, of the mean and of the covariance."),
        Wrong("distance in units of q", lambda mean_q, cov_q, mean_p, cov_p: _kl(mean_q, cov_q, mean_p, cov_p) + 0.5 * (
            (mean_p - mean_q) @ torch.linalg.solve(cov_q, mean_p - mean_q) - _parts(mean_q, cov_q, mean_p, cov_p)[1]),
              "you measure the distance of the means in the units of q. It comes from log p, which has the units of p."),
        Wrong("no half before the volumes", _kl_with(lambda trace, distance, d, volume: 0.5 * (trace + distance - d) + volume),
              "the log-determinants lack their half: a normaliser holds the root of a determinant."),
        Wrong("trace turned", lambda mean_q, cov_q, mean_p, cov_p: _kl(mean_q, cov_q, mean_p, cov_p) + 0.5 * (
            torch.linalg.solve(cov_q, cov_p).trace() - _parts(mean_q, cov_q, mean_p, cov_p)[0]),
              "the two covariances have changed places in the trace: it is the spread of q, in the units of p."),
        Wrong("product entry by entry", lambda mean_q, cov_q, mean_p, cov_p: _kl(mean_q, cov_q, mean_p, cov_p) + 0.5 * (
            torch.linalg.inv(cov_p).diagonal() @ cov_q.diagonal() - _parts(mean_q, cov_q, mean_p, cov_p)[0]),
              "in the trace only the diagonals of the two matrices meet: `*` multiplies entry by entry, `@` is the product of matrices."),
        Wrong("negative", lambda mean_q, cov_q, mean_p, cov_p: -_kl(mean_q, cov_q, mean_p, cov_p),
              "the sign is turned: a divergence is never negative."),
        Wrong("only the diagonals", lambda mean_q, cov_q, mean_p, cov_p: _kl(mean_q, cov_q.diagonal().diag(), mean_p, cov_p.diagonal().diag()),
              "only the diagonals of the covariances are used: here the latents are correlated."),
        Wrong("cross-entropy", lambda mean_q, cov_q, mean_p, cov_p: _kl(mean_q, cov_q, mean_p, cov_p) + 0.5 * (
            len(mean_q) * (1 + math.log(2 * math.pi)) + torch.logdet(cov_q)),
              "this is the cross-entropy, minus the average of log p; the entropy of q must be taken off."),
    ],
    hints=["KL = E_q[log q] - E_q[log p]. Each is a normal log density, averaged over q.",
           "E_q[(z - m_p)' S_p^-1 (z - m_p)] = tr(S_p^-1 S_q) + (m_q - m_p)' S_p^-1 (m_q - m_p). For p = q it is d.",
           "1/2 (tr(S_p^-1 S_q) + (m_p - m_q)' S_p^-1 (m_p - m_q) - d + log det S_p - log det S_q)."])


# 2. Forward KL: moments ----------------------------------------------------------------------------------------------------

def _draw_match(stream):
    K = stream.randint(2, 5)
    weights = _tensor([stream.uniform(0.1, 1) for _ in range(K)])
    return {"weights": weights / weights.sum(), "means": 3 * _normals(stream, K),
            "variances": _tensor([stream.uniform(0.2, 3) for _ in range(K)])}


def _match(weights, means, variances):
    mean = weights @ means
    return mean, weights @ (variances + (means - mean) ** 2)


match = Check(
    "best normal by forward KL", draw=_draw_match, reference=_match, outputs=["mean", "variance"],
    wrongs=[
        Wrong("unweighted mean", lambda weights, means, variances: means.mean(),
              "every component counts the same in your mean; the weights are not used."),
        Wrong("heaviest component", lambda weights, means, variances: means[weights.argmax()],
              "you sit on one component. That is what the reverse KL tends to do; the forward KL covers them all."),
        Wrong("median of the means", lambda weights, means, variances: means.median(),
              "this is the middle one of the means. The forward KL matches an average."),
        Wrong("variances only", lambda weights, means, variances: weights @ variances,
              "you averaged the variances of the components; how far the components lie apart is missing.", 1),
        Wrong("means only", lambda weights, means, variances: weights @ (means - weights @ means) ** 2,
              "you took the spread of the means; the width of each component is missing.", 1),
        Wrong("variances taken for deviations", lambda weights, means, variances: weights @ (variances**2 + (means - weights @ means) ** 2),
              "you squared the variances of the components: they are squares already.", 1),
        Wrong("spread of the means unweighted", lambda weights, means, variances: (
            weights @ variances + ((means - weights @ means) ** 2).mean()),
              "in the spread of the means every component counts the same; the weights belong there too.", 1),
        Wrong("second moment", lambda weights, means, variances: weights @ (variances + means**2),
              "this is the average of z squared. The variance is taken around the mean.", 1),
        Wrong("standard deviation", lambda weights, means, variances: _match(weights, means, variances)[1].sqrt(),
              "this is the standard deviation; asked for is the variance.", 1),
        Wrong("weights squared", lambda weights, means, variances: weights**2 @ variances,
              "squared weights belong to the variance of a weighted sum of independent variables. A mixture draws from one component at a time.", 1),
        Wrong("sum of standard deviations", lambda weights, means, variances: (weights @ variances.sqrt()) ** 2
              + weights @ (means - weights @ means) ** 2,
              "you averaged standard deviations; it is second moments that average over a mixture.", 1),
    ],
    hints=["Minimise -E_p[log q] over the mean and the variance of q. Which moments of p appear?",
           "The best q has the mean and the variance of p. For a mixture: the law of total variance.",
           "mean = sum w_k m_k,   variance = sum w_k (v_k + (m_k - mean)^2)."])


# 3. What a factorised normal can say ------------------------------------------------------------------------------------------

def _draw_factorised(stream):
    return {"precision": _positive_definite(stream, stream.randint(2, 5))}


def _factorised(precision):
    reverse = 1 / precision.diagonal()
    forward = torch.linalg.inv(precision).diagonal()
    gap = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
    return reverse, forward, gap


factorised = Check(
    "factorised normals", draw=_draw_factorised, reference=_factorised,
    outputs=["reverse-KL variances", "forward-KL variances", "gap"],
    wrongs=[
        Wrong("forward for reverse", lambda precision: _factorised(precision)[1],
              "these are the true marginal variances. Reverse KL gives smaller ones."),
        Wrong("precisions", lambda precision: precision.diagonal(),
              "these are precisions; asked for are variances."),
        Wrong("standard deviations", lambda precision: precision.diagonal().rsqrt(),
              "these are standard deviations; asked for are variances."),
        Wrong("precision taken for a covariance", lambda precision: 1 / _factorised(precision)[1],
              "you inverted the matrix first, as if it were a covariance. It is the precision already."),
        Wrong("reverse for forward", lambda precision: _factorised(precision)[0],
              "these are the conditional variances again. The forward KL matches the marginal ones.", 1),
        Wrong("diagonal of the precision", lambda precision: precision.diagonal(),
              "this is the diagonal of the precision. Invert the whole matrix first.", 1),
        Wrong("gap with the other sign", lambda precision: -_factorised(precision)[2],
              "a gap of a lower bound cannot be negative: the sign is turned.", 2),
        Wrong("gap without the half", lambda precision: 2 * _factorised(precision)[2],
              "the gap is twice too large: log-determinants of covariances come with a half.", 2),
        Wrong("log-determinant left out", lambda precision: 0.5 * precision.diagonal().log().sum(),
              "only q's log-determinant is in it; that of the posterior is missing. For a diagonal precision the gap must be zero.", 2),
        Wrong("gap of the forward solution", lambda precision: 0.5 * (
            (precision.diagonal() * _factorised(precision)[1]).sum() - len(precision)
            - _factorised(precision)[1].log().sum() - torch.logdet(precision)),
              "this is the gap that the other q, with the marginal variances, would leave. Asked for is the smallest one.", 2),
        Wrong("forward KL", lambda precision: 0.5 * (_factorised(precision)[1].log().sum() + torch.logdet(precision)),
              "this is the forward KL of the other q. The gap of a bound is the reverse KL.", 2),
    ],
    hints=["For q = N(m, diag v) and p = N(m, P^-1), write KL(q || p) with the formula of exercise 1. What depends on v?",
           "1/2 (sum P_ii v_i - sum log v_i) + constant: set its derivative to zero. For the forward KL, moments match.",
           "Reverse: 1/P_ii. Forward: the diagonal of P^-1. Gap: 1/2 (sum log P_ii - log det P)."])


# 4. The Rényi bound --------------------------------------------------------------------------------------------------------

def _draw_renyi(stream):
    level = -900 if stream.random() < 0.5 else 900
    return {"log_weights": level + 1.5 * _normals(stream, stream.randint(20, 60)),
            "alpha": stream.choice([-1.0, -0.5, 0.5, 0.25, 1.0, 1.5, 2.0])}


def _renyi_with(power, factor=lambda alpha: 1 / (1 - alpha), average=lambda t: t.logsumexp(0) - math.log(len(t))):
    """A wrong answer: another power, factor or average, right at alpha = 1."""
    return lambda log_weights, alpha: (log_weights.mean() if alpha == 1 else
                                       factor(alpha) * average(power(alpha) * log_weights))


renyi = Check(
    "Rényi bound", draw=_draw_renyi, outputs=["bound"],
    reference=lambda log_weights, alpha: method.renyi_bound(log_weights, alpha),
    wrongs=[
        Wrong("ELBO for every alpha", lambda log_weights, alpha: log_weights.mean(),
              "this is the average log weight, the bound at alpha = 1, for every alpha."),
        Wrong("alpha = 0 for every alpha", lambda log_weights, alpha: log_weights.logsumexp(0) - math.log(len(log_weights)),
              "this is the logarithm of the average weight, the bound at alpha = 0, for every alpha."),
        Wrong("sum for mean", _renyi_with(lambda alpha: 1 - alpha, average=lambda t: t.logsumexp(0)),
              "you add the powers of the weights; the expectation is their mean."),
        Wrong("alpha for 1 - alpha", _renyi_with(lambda alpha: alpha, factor=lambda alpha: 1 / alpha),
              "the weights are raised to the power alpha: your dial runs the wrong way, and the ELBO sits at alpha = 0."),
        Wrong("alpha and 1 - alpha exchanged", lambda log_weights, alpha: method.renyi_bound(log_weights, 1 - alpha),
              "your dial runs the wrong way: this is the bound at 1 - alpha, and the ELBO sits at alpha = 0."),
        Wrong("power alpha", _renyi_with(lambda alpha: alpha),
              "the weights are raised to the power alpha. If all weights are w, the bound must be log w."),
        Wrong("divided by alpha", _renyi_with(lambda alpha: 1 - alpha, factor=lambda alpha: 1 / alpha),
              "you divide by alpha. If all weights are w, the bound must be log w: what must the factor undo?"),
        Wrong("factor left out", _renyi_with(lambda alpha: 1 - alpha, factor=lambda alpha: 1.0),
              "the factor before the logarithm is missing: if all weights are w, the bound must be log w."),
        Wrong("sign of the factor", _renyi_with(lambda alpha: 1 - alpha, factor=lambda alpha: -1 / (1 - alpha)),
              "the sign of the factor before the logarithm is turned: if all weights are w, the bound must be log w."),
        Wrong("not in the log domain", _renyi_with(lambda alpha: 1 - alpha, average=lambda t: t.exp().mean().log()),
              "exp overflows, or falls to zero: weights of real problems lie hundreds of nats from one. Stay in the log domain."),
        Wrong("power alpha - 1", _renyi_with(lambda alpha: alpha - 1),
              "the exponent has the wrong sign: if all weights are w, the bound must be log w."),
        Wrong("log S not divided", lambda log_weights, alpha: log_weights.mean() if alpha == 1 else
              ((1 - alpha) * log_weights).logsumexp(0) / (1 - alpha) - math.log(len(log_weights)),
              "the factor before the logarithm belongs to the whole logarithm of the mean; log S stands outside of it."),
        Wrong("maximum not added back", _renyi_with(lambda alpha: 1 - alpha, average=lambda t: (t - t.max()).logsumexp(0) - math.log(len(t))),
              "you subtracted the largest term before the exponential, and have not put it back after the logarithm."),
        Wrong("undefined at one", lambda log_weights, alpha: torch.tensor(math.nan) if alpha == 1 else method.renyi_bound(log_weights, alpha),
              "right but for alpha = 1, where the formula is 0/0. There the bound is a limit (l'Hôpital), which has a name of its own."),
    ],
    hints=["All the weights equal to w should give log w, whatever alpha. Does yours?",
           "log of the mean of w^(1 - alpha), by `torch.logsumexp((1 - alpha) * log_weights, 0)`; then one more factor.",
           "(logsumexp((1 - alpha) log w) - log S) / (1 - alpha); and at alpha = 1 its limit, the mean of log w."])


# 5. One step of expectation propagation ---------------------------------------------------------------------------------------

def _draw_tilted(stream):
    return {"mean": _tensor(stream.gauss(0, 1.5)), "variance": _tensor(stream.uniform(0.3, 5))}


def _z(mean, variance):
    return mean / torch.sqrt(1 + variance)


def _ratio(z):
    return torch.exp(-0.5 * z**2 - 0.5 * math.log(2 * math.pi) - torch.special.log_ndtr(z))


tilted = Check(
    "tilted moments", draw=_draw_tilted, outputs=["log normaliser", "mean", "variance"],
    reference=lambda mean, variance: method.tilted_moments(mean, variance, "probit"),
    wrongs=[
        Wrong("normaliser, not its logarithm", lambda mean, variance: torch.special.ndtr(_z(mean, variance)),
              "this is the normaliser; asked for is its logarithm."),
        Wrong("plug-in", lambda mean, variance: torch.special.log_ndtr(mean),
              "this is log Phi at the mean: the uncertainty of the activation is left out."),
        Wrong("no root", lambda mean, variance: torch.special.log_ndtr(mean / (1 + variance)),
              "the mean is divided by 1 + v; widths add up as variances, but it is the width that divides."),
        Wrong("one left out", lambda mean, variance: torch.special.log_ndtr(mean / variance.sqrt()),
              "Phi has a width of its own, one, which adds to that of the activation."),
        Wrong("variance taken for a deviation", lambda mean, variance: torch.special.log_ndtr(mean / torch.sqrt(1 + variance**2)),
              "the variance is squared under the root: it is the square of a width already."),
        Wrong("derivative only", lambda mean, variance: _ratio(_z(mean, variance)) / torch.sqrt(1 + variance),
              "this is the derivative of log Z. The mean is the cavity's, moved by that derivative times something.", 1),
        Wrong("cavity mean", lambda mean, variance: mean,
              "this is the cavity's mean: the observation has not moved it.", 1),
        Wrong("derivative without the root",
              lambda mean, variance: mean + variance * _ratio(_z(mean, variance)),
              "a factor is missing in the derivative of log Z: z depends on m through a root.", 1),
        Wrong("wrong way", lambda mean, variance: mean - variance * _ratio(_z(mean, variance)) / torch.sqrt(1 + variance),
              "the mean moves the wrong way: seeing a success must raise the activation.", 1),
        Wrong("no variance before the derivative", lambda mean, variance: mean + _ratio(_z(mean, variance)) / torch.sqrt(1 + variance),
              "the step must grow with the cavity's variance: an activation that is known well moves little.", 1),
        Wrong("cavity variance", lambda mean, variance: variance,
              "this is the cavity's variance: an observation must make it smaller.", 2),
        Wrong("standard deviation", lambda mean, variance: method.tilted_moments(mean, variance, "probit")[2].sqrt(),
              "this is the standard deviation; asked for is the variance.", 2),
        Wrong("ratio squared only", lambda mean, variance: variance - variance**2 * _ratio(_z(mean, variance)) ** 2 / (1 + variance),
              "in the second derivative of log Phi there is r squared, and one term more.", 2),
        Wrong("variance grows", lambda mean, variance: 2 * variance - method.tilted_moments(mean, variance, "probit")[2],
              "the variance grows, but log Z bends downwards: an observation must make it smaller.", 2),
        Wrong("v for v squared", lambda mean, variance: variance - variance * _ratio(_z(mean, variance)) * (
            _z(mean, variance) + _ratio(_z(mean, variance))) / (1 + variance),
              "the second derivative of log Z is multiplied by too low a power of the cavity's variance.", 2),
        Wrong("m for z", lambda mean, variance: variance - variance**2 * _ratio(_z(mean, variance)) * (
            mean + _ratio(_z(mean, variance))) / (1 + variance),
              "in the second derivative stands the cavity's mean where z belongs, at which log Phi is differentiated.", 2),
        Wrong("variance without 1 + v", lambda mean, variance: variance - variance**2 * _ratio(_z(mean, variance)) * (
            _z(mean, variance) + _ratio(_z(mean, variance))),
              "z depends on m through a root, and the second derivative meets it twice; without it the variance can even be negative.", 2),
        Wrong("second moment", lambda mean, variance: method.tilted_moments(mean, variance, "probit")[2]
              + method.tilted_moments(mean, variance, "probit")[1] ** 2,
              "this is the average of the activation squared; take off the square of the mean.", 2),
    ],
    hints=["Phi(a) is the probability that a standard normal variable is below a. With a itself normal, what is the chance that it is below?",
           "Z = Phi(z), z = m / sqrt(1 + v). The moments follow from its derivatives: mean = m + v dlogZ/dm, variance = v + v^2 d2logZ/dm2.",
           "With r = N(z; 0, 1)/Phi(z):  m + v r / sqrt(1 + v)  and  v - v^2 r (z + r) / (1 + v)."])


# 6. Project: expectation propagation ---------------------------------------------------------------------------------------------

def _draw_ep(stream):
    n = stream.randint(6, 12)
    X = torch.cat([torch.ones(n, 1, dtype=torch.float64), _normals(stream, n, 1)], -1)
    noisy = X[:, 1] + _normals(stream, n)
    return {"X": X, "y": (noisy > 0).double(), "prior_scale": stream.uniform(1, 3)}


@functools.lru_cache(maxsize=256)
def _ep_cached(X: tuple, y: tuple, prior_scale: float, one_sweep: float | None = None):
    """At convergence, or after one sweep from the prior, of all sites, by the fraction `one_sweep` of the way."""
    X, y = _tensor(X), _tensor(y)
    if one_sweep is None:
        return method.expectation_propagation(X, y, prior_scale, link="probit", tolerance=1e-10)
    A, zero = method._signed(X, y), torch.zeros(len(y), dtype=torch.float64)
    prior = method._from_sites(A, method.Sites(zero, zero), prior_scale**2)
    _, _, m, v = method._cavities(A, prior, method.Sites(zero, zero))
    _, mean, variance = method.tilted_moments(m, v, "probit")
    return method._from_sites(A, method.Sites(one_sweep * (1 / variance - 1 / v), one_sweep * (mean / variance - m / v)), prior_scale**2)


def _found(X, y, prior_scale):
    return _ep_cached(tuple(map(tuple, X.tolist())), tuple(y.tolist()), prior_scale)


def _one_sweep(X, y, prior_scale, damping):
    return _ep_cached(tuple(map(tuple, X.tolist())), tuple(y.tolist()), prior_scale, damping).loc


def _ep(X, y, prior_scale):
    found = _found(X, y, prior_scale)
    return found.q.loc, found.q.covariance_matrix, float(found.log_evidence)


def _without_cavities(X, y, prior_scale):
    """Where the mean settles if each site is renewed in the context of the whole of q, itself included."""
    A, nothing = method._signed(X, y), torch.zeros(len(y), dtype=torch.float64)
    tau, nu = nothing, nothing
    for _ in range(100):
        q = method._from_sites(A, method.Sites(tau, nu), prior_scale**2)
        m, v, _, _ = method._cavities(A, q, method.Sites(nothing, nothing))
        _, mean, variance = method.tilted_moments(m, v, "probit")
        tau, nu = tau + 0.5 * (1 / variance - 1 / v - tau), nu + 0.5 * (mean / variance - m / v - nu)
    return q.loc


def _laplace(X, y, prior_scale):
    A = method._signed(X, y)
    return laplace.approximate(Problem(lambda w: (0.5 * torch.erfc(-(w @ A.T) / 2**0.5)).log().sum(-1)
                                       - 0.5 * (w / prior_scale).square().sum(-1), X.shape[1]), num_starts=1).q


def _ep_pieces(X, y, prior_scale):
    found, A = _found(X, y, prior_scale), method._signed(X, y)
    mean, variance, m, v = method._cavities(A, found.q, found.diagnostics["sites"])
    return found, method.tilted_moments(m, v, "probit")[0].sum(), (mean, variance), (m, v)


def _phi(mean, variance):
    return 0.5 * (mean**2 / variance + variance.log()).sum()


def _evidence_with(change, X, y, prior_scale):
    """A wrong answer: what is added to the log evidence, from EP's result, the sums of phi and the prior's deviation."""
    found, _, marginal, cavity = _ep_pieces(X, y, prior_scale)
    return float(found.log_evidence) + float(change(found, _phi(*cavity), _phi(*marginal), prior_scale))


project = Check(
    "expectation propagation", draw=_draw_ep, reference=_ep, outputs=["mean", "covariance", "log evidence"], num_instances=3,
    tolerance=1e-5, when_nan="Where y = 0 the row turns its sign; it does not become zero.",
    wrongs=[
        Wrong("one sweep", lambda X, y, prior_scale: _one_sweep(X, y, prior_scale, damping=1.0),
              "these are the sites after a single sweep from the prior. Go round until they stop moving."),
        Wrong("Laplace", lambda X, y, prior_scale: _laplace(X, y, prior_scale).loc,
              "this is the mode, which Laplace's method would give. Expectation propagation matches moments."),
        Wrong("logistic link", lambda X, y, prior_scale: method.expectation_propagation(X, y, prior_scale, tolerance=1e-10).q.loc,
              "this is the answer for the logistic sigmoid; the exercise has the probit, Phi."),
        Wrong("prior variance for its deviation",
              lambda X, y, prior_scale: method.expectation_propagation(X, y, prior_scale**0.5, link="probit", tolerance=1e-10).q.loc,
              "prior_scale is a standard deviation; you used it as a variance."),
        Wrong("prior deviation squared",
              lambda X, y, prior_scale: method.expectation_propagation(X, y, prior_scale**2, link="probit", tolerance=1e-10).q.loc,
              "your prior has the variance s^4: prior_scale is squared once too often."),
        Wrong("labels flipped", lambda X, y, prior_scale: _found(X, 1 - y, prior_scale).q.loc,
              "the labels are exchanged: it is the rows with y = 0 whose sign turns."),
        *(Wrong(f"one sweep, damping {damping}", functools.partial(_one_sweep, damping=damping),
                f"this is where a single sweep from the prior leads, damped by {damping}. Go round until nothing moves.")
          for damping in (0.5, 0.8)),
        Wrong("labels ignored", lambda X, y, prior_scale: _found(X, torch.ones_like(y), prior_scale).q.loc,
              "the labels do not enter: every row is taken for a success."),
        Wrong("cavities not made", _without_cavities,
              "each site is renewed with itself still in q, so that its observation counts twice: divide it out first."),
        Wrong("standard deviations", lambda X, y, prior_scale: _found(X, y, prior_scale).q.stddev,
              "these are standard deviations; asked for is the whole covariance matrix.", 1),
        Wrong("variances", lambda X, y, prior_scale: _found(X, y, prior_scale).q.variance,
              "these are the variances; asked for is the whole covariance matrix.", 1),
        Wrong("precision", lambda X, y, prior_scale: _found(X, y, prior_scale).q.precision_matrix,
              "this is the precision; asked for is its inverse.", 1),
        Wrong("prior left out", lambda X, y, prior_scale: torch.linalg.inv(
            _found(X, y, prior_scale).q.precision_matrix - torch.eye(X.shape[1], dtype=X.dtype) / prior_scale**2),
              "the prior's precision is missing from the covariance.", 1),
        Wrong("covariance of Laplace", lambda X, y, prior_scale: _laplace(X, y, prior_scale).covariance_matrix,
              "this is the inverse curvature at the mode, Laplace's covariance.", 1),
        Wrong("normalisers only", lambda X, y, prior_scale: _ep_pieces(X, y, prior_scale)[1],
              "this is the sum of the log normalisers. The sites are not normalised, so what they integrate to must be accounted for.", 2),
        Wrong("normalisers at the marginals", lambda X, y, prior_scale: (lambda found, log_z, marginal, cavity:
              method.tilted_moments(*marginal, "probit")[0].sum())(*_ep_pieces(X, y, prior_scale)),
              "you sum log Z_n with q's own marginals in the place of the cavities: every factor then counts twice, and the sites are missing.", 2),
        Wrong("log determinant turned", lambda X, y, prior_scale: _ep(X, y, prior_scale)[2]
              + float(torch.logdet(_found(X, y, prior_scale).q.precision_matrix)),
              "the sign of the log-determinant is turned: the sharper q, the smaller the volume that is integrated.", 2),
        Wrong("prior's volume left out", lambda X, y, prior_scale: _ep(X, y, prior_scale)[2] + X.shape[1] * math.log(prior_scale),
              "phi of the prior is missing: the prior is a density, and its volume counts.", 2),
        Wrong("marginals left out", lambda X, y, prior_scale: (lambda found, log_z, marginal, cavity:
              float(found.log_evidence) + _phi(*marginal))(*_ep_pieces(X, y, prior_scale)),
              "the terms phi(m, v) of q's own marginals are missing; each site's normaliser has them beside those of its cavity.", 2),
        Wrong("cavities left out", lambda X, y, prior_scale: (lambda found, log_z, marginal, cavity:
              float(found.log_evidence) - _phi(*cavity))(*_ep_pieces(X, y, prior_scale)),
              "the terms phi(m, v) of the cavities are missing.", 2),
        *(Wrong(name, functools.partial(_evidence_with, change), message, 2) for name, change, message in (
            ("sites left out", lambda found, cavities, marginals, s: marginals - cavities,
             "what the sites themselves integrate to is missing, that is all the terms phi(m, v)."),
            ("sites turned", lambda found, cavities, marginals, s: 2 * (marginals - cavities),
             "the terms phi(m, v) of cavities and marginals have each other's sign."),
            ("quadratic form left out", lambda found, cavities, marginals, s: -0.5 * found.q.loc @ found.q.precision_matrix @ found.q.loc,
             "the height of q at its mean is missing: the sites and the prior integrate to more than a volume."),
            ("prior's volume twice", lambda found, cavities, marginals, s: -len(found.q.loc) * math.log(s),
             "the prior's log-volume is twice too large: it is that of a deviation in each coordinate, not of a variance."))),
    ],
    hints=["Flip the sign of the rows with y = 0; then every factor is Phi(a_n). Keep two numbers a site, tau and nu, all zero at first.",
           "A sweep: q from the sites, all cavities, all tilted moments (exercise 5), new sites; move 80 % of the way. Fifty sweeps are plenty.",
           "Lambda = I/s^2 + A' diag(tau) A, mean = Lambda^-1 A'nu. Log evidence: sum_n (log Z_n + phi(cavity) - phi(marginal)) + 1/2 mean' Lambda mean "
           "- 1/2 log det Lambda - d/2 log s^2, with phi(m, v) = (m^2/v + log v)/2."])

ALL = (kl, match, factorised, renyi, tilted, project)


quiz = Quiz("divergences", [
    Question("A target has two humps far apart; q is one Gaussian, fitted by reverse KL. The result …", [
        Option("lies between the humps, covering both.", "That is what the forward KL gives: it has the mean and the variance of the target. "
               "Between the humps log p is very low, and the reverse KL averages it over q."),
        Option("sits on one hump, which one depends on the start.", "Each hump is a local optimum. Leaving one out costs only minus the log "
               "of the share that is kept.", True),
        Option("sits on the hump with more mass, whatever the start.", "That is the better optimum, but a search that starts near the "
               "other hump stays there."),
        Option("does not exist.", "It does; q has density everywhere, and so has the target.")]),
    Question("All ten thousand samples of your q have nearly the same importance weight. You may conclude that …", [
        Option("q is close to the posterior.", "Only where q puts its samples. A hump that q never visits changes no weight."),
        Option("q has the shape of the posterior wherever q has samples.", "That is all that a look from inside q can tell.", True),
        Option("the ELBO equals the log evidence.", "It equals the log of the mass that q covers; a missed hump is missing from it."),
        Option("q was fitted by forward KL.", "Weights do not remember the fit. A forward fit to two humps would show very uneven weights.")]),
    Question("Which of these estimates, from a hundred samples of q, is an upper bound of log p(x) on average?", [
        Option("The Rényi bound with alpha = 2.", "For alpha above zero it is a lower bound."),
        Option("The Rényi bound with alpha = −1.", "Its limit of infinitely many samples is an upper bound. From few samples the logarithm "
               "of an average is too low, and the largest weights are missed, so the side is not certain."),
        Option("The importance-weighted bound.", "It lies below log p(x) on average, for any number of samples."),
        Option("None of them.", "Lower bounds come cheap from samples of q, by Jensen's inequality. Upper bounds need to know where q "
               "does not look.", True)]),
    Question("You need the variances of the latents, to within a few per cent. The posterior is correlated; your family is diagonal Gaussians. Which fit?", [
        Option("Reverse KL.", "It gives conditional variances, which are smaller than the marginal ones, the more so the stronger the correlation."),
        Option("Forward KL.", "It matches the marginal means and variances, for any family in which these are free. How to compute it is another matter.", True),
        Option("Either: both match the means and variances.", "Only the forward KL matches moments."),
        Option("The one with the larger ELBO.", "That is the reverse KL by construction; the ELBO asks where q's mass lies, not how wide the posterior is.")]),
    Question("Expectation propagation has converged. Its log evidence …", [
        Option("is a lower bound.", "It minimises no divergence from q to the posterior as a whole, only one to each tilted density."),
        Option("is an upper bound.", "It can err on either side."),
        Option("is close when the tilted densities are nearly Gaussian, and no bound.", "Each site is exact in its own context; what is lost is how the "
               "non-Gaussian remainders work together.", True),
        Option("is exact for any log-concave likelihood.", "Log-concavity helps it to converge. It is exact with one observation, or with Gaussian factors.")]),
])
