"""The exercises of the chapter on what we want to know, and its quiz."""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from tightbound.checks.check import Check, Wrong
from tightbound.checks.quiz import Option, Question, Quiz


def _normals(stream: random.Random, *shape: int, mean: float = 0.0, scale: float = 1.0) -> Tensor:
    values = [stream.gauss(mean, scale) for _ in range(math.prod(shape))]
    return torch.tensor(values, dtype=torch.float64).reshape(shape)


def _simplex(stream: random.Random, size: int) -> Tensor:
    return torch.softmax(_normals(stream, size, scale=0.7), 0)


def _covariance(stream: random.Random, d: int) -> Tensor:
    root = _normals(stream, d, d)
    return root @ root.T / d + 0.3 * torch.eye(d, dtype=torch.float64)


def _eye(n: int) -> Tensor:
    return torch.eye(n, dtype=torch.float64)


# 1. A bag of coins ------------------------------------------------------------------------------------------------------

def _draw_coins(stream):
    """Some thousand flips, near enough to two of the coins that neither is certain."""
    size = stream.randint(3, 6)
    middle, step = stream.uniform(0.3, 0.6), stream.uniform(0.01, 0.02)
    flips = stream.randint(2000, 4000)
    heads = round(flips * (middle + step * stream.uniform(0.3, 0.7)))
    p = torch.tensor([middle + step * (k - size // 2) for k in range(size)], dtype=torch.float64)
    return {"p": p, "prior": _simplex(stream, size), "heads": heads, "tails": flips - heads}


def _log_posterior(p, prior, heads, tails):
    return torch.log_softmax(prior.log() + heads * p.log() + tails * (1 - p).log(), 0)


def _posterior(p, prior, heads, tails):
    return _log_posterior(p, prior, heads, tails).exp()


coins = Check(
    "bag of coins", draw=_draw_coins, outputs=["posterior", "next flip"],
    reference=lambda p, prior, heads, tails: ((v := _posterior(p, prior, heads, tails)), v @ p),
    when_nan="The probability of some thousand flips is zero in double precision, with every coin.",
    wrongs=[
        Wrong("prior forgotten", lambda p, prior, heads, tails: _posterior(p, torch.ones_like(prior), heads, tails),
              "this is the likelihood, normalised: every coin was as probable as any other before the flips. The bag says "
              "otherwise."),
        Wrong("prior unchanged", lambda p, prior, heads, tails: prior,
              "this is what was known before the flips: they have not been taken into account."),
        Wrong("not normalised", lambda p, prior, heads, tails: prior * (heads * p.log() + tails * (1 - p).log()).exp(),
              "this is the joint density of coin and flips, a number so small that it is hardly there. As a function of the coin "
              "it has the right shape, but probabilities of coins add up to one."),
        Wrong("heads only", lambda p, prior, heads, tails: torch.softmax(prior.log() + heads * p.log(), 0),
              "only the heads are in your likelihood; each of the tails says something about the coin as well."),
        Wrong("heads and tails exchanged", lambda p, prior, heads, tails: _posterior(p, prior, tails, heads),
              "heads and tails are exchanged: p is the probability of heads."),
        Wrong("likelihood as log weights", lambda p, prior, heads, tails: torch.softmax(
            heads * p.log() + tails * (1 - p).log() + prior, 0),
              "the prior is added to the log likelihood as it is. Probabilities multiply, so it is their logarithms that add."),
        Wrong("prior for every flip", lambda p, prior, heads, tails: torch.softmax(
            (heads + tails) * prior.log() + heads * p.log() + tails * (1 - p).log(), 0),
              "the prior counts once for every flip in your answer. The coin was taken from the bag once."),
        Wrong("most probable coin only", lambda p, prior, heads, tails: (
            _posterior(p, prior, heads, tails) == _posterior(p, prior, heads, tails).max()).double(),
              "all of your probability is on the most probable coin. Another one may have fallen so as well."),
        Wrong("logarithm", _log_posterior,
              "these are logarithms; asked for are the probabilities themselves."),
        Wrong("plug-in", lambda p, prior, heads, tails: p[_posterior(p, prior, heads, tails).argmax()],
              "this is the probability of heads for the most probable coin. Another coin may be in your hand: average over "
              "all of them.", 1),
        Wrong("prior predictive", lambda p, prior, heads, tails: prior @ p,
              "this is the prediction from before the flips.", 1),
        Wrong("plain average", lambda p, prior, heads, tails: p.mean(),
              "this is the plain average over the coins; the flips have made some of them more probable than others.", 1),
        Wrong("frequency", lambda p, prior, heads, tails: heads / (heads + tails),
              "this is the frequency of heads so far. Which coins there are in the bag is not in it.", 1),
        Wrong("rule of succession", lambda p, prior, heads, tails: (heads + 1) / (heads + tails + 2),
              "this is Laplace's rule of succession, which is right for a flat prior over all of [0, 1]. Here p is one of K "
              "numbers.", 1),
        Wrong("probability of tails", lambda p, prior, heads, tails: 1 - _posterior(p, prior, heads, tails) @ p,
              "this is the probability of tails.", 1),
        Wrong("probability of the flips", lambda p, prior, heads, tails: torch.logsumexp(
            prior.log() + heads * p.log() + tails * (1 - p).log(), 0).exp(),
              "this is the evidence, the probability of the flips that have been seen. Asked for is that of one more.", 1),
    ],
    hints=["Bayes' rule: the posterior of coin k is in proportion to its prior times the probability of these flips with coin k. "
           "For the next flip: what would you answer if you knew the coin, and with which weights do you average that?",
           "With thousands of flips the likelihood is zero in double precision, so work with log prior + log likelihood, (K,). "
           "Subtracting the same number from all of them changes no posterior.",
           "`posterior = torch.softmax(prior.log() + heads * p.log() + tails * (1 - p).log(), 0)`; the next flip is `posterior @ p`."])


# 2. One more patient ----------------------------------------------------------------------------------------------------

def _draw_predictive(stream):
    d = stream.randint(2, 3)
    n = stream.randint(d + 1, d + 4)
    return {"X": _normals(stream, n, d), "y": _normals(stream, n, scale=2.0), "x_new": _normals(stream, d),
            "noise_variance": stream.uniform(0.2, 0.8), "prior_variance": stream.uniform(1.2, 4.0)}


def _weights(X, y, noise_variance, prior_variance):
    """Posterior mean and covariance of w."""
    covariance = torch.linalg.inv(X.T @ X / noise_variance + _eye(X.shape[1]) / prior_variance)
    return covariance @ X.T @ y / noise_variance, covariance


def _predictive(X, y, x_new, noise_variance, prior_variance):
    mean, covariance = _weights(X, y, noise_variance, prior_variance)
    return x_new @ mean, x_new @ covariance @ x_new + noise_variance


def _parameter_variance(X, y, x_new, noise_variance, prior_variance):
    return _predictive(X, y, x_new, noise_variance, prior_variance)[1] - noise_variance


def _ridge(X, y, x_new, penalty):
    return x_new @ torch.linalg.solve(X.T @ X + penalty * _eye(X.shape[1]), X.T @ y)


predictive = Check(
    "one more patient", draw=_draw_predictive, reference=_predictive, outputs=["mean", "variance"],
    wrongs=[
        Wrong("least squares", lambda X, y, x_new, noise_variance, prior_variance: _ridge(X, y, x_new, 0.0),
              "this is the prediction by least squares: the prior on the coefficients has been forgotten."),
        Wrong("noise variance taken for one", lambda X, y, x_new, noise_variance, prior_variance:
              _ridge(X, y, x_new, 1 / prior_variance),
              "the prior has its weight, but the noise is not in your mean: the noisier the data, the more the prior should "
              "have to say."),
        Wrong("prior variance taken for one", lambda X, y, x_new, noise_variance, prior_variance:
              _ridge(X, y, x_new, noise_variance),
              "the variance of the prior is not in your mean: you took it for one."),
        Wrong("prior variance for precision", lambda X, y, x_new, noise_variance, prior_variance:
              _ridge(X, y, x_new, noise_variance * prior_variance),
              "the variance of the prior is where its inverse belongs: a wide prior should hold the coefficients less, not more."),
        Wrong("ratio turned over", lambda X, y, x_new, noise_variance, prior_variance:
              _ridge(X, y, x_new, prior_variance / noise_variance),
              "noise and prior are exchanged: a wide prior should hold the coefficients less, not more."),
        Wrong("standard deviations", lambda X, y, x_new, noise_variance, prior_variance:
              _ridge(X, y, x_new, math.sqrt(noise_variance / prior_variance)),
              "standard deviations stand where variances belong."),
        Wrong("variances squared", lambda X, y, x_new, noise_variance, prior_variance:
              _ridge(X, y, x_new, (noise_variance / prior_variance) ** 2),
              "variances have been squared: what you are given are variances already, not standard deviations."),
        Wrong("penalty times n", lambda X, y, x_new, noise_variance, prior_variance:
              _ridge(X, y, x_new, len(y) * noise_variance / prior_variance),
              "the prior counts once for each datum in your mean; it counts once."),
        Wrong("minus the mean", lambda X, y, x_new, noise_variance, prior_variance:
              -_predictive(X, y, x_new, noise_variance, prior_variance)[0], "the sign of your mean is turned around."),
        Wrong("mean of the data", lambda X, y, x_new, noise_variance, prior_variance: y.mean(),
              "this is the mean of the data, wherever the new patient stands: x_new is not in it."),
        Wrong("noise forgotten", _parameter_variance,
              "this is how uncertain the line is. A new patient does not lie on the line.", 1),
        Wrong("plug-in", lambda X, y, x_new, noise_variance, prior_variance: noise_variance,
              "this is the noise alone, as though the coefficients were known: the uncertainty about them is missing.", 1),
        Wrong("standard deviation", lambda *a, **k: _predictive(*a, **k)[1].sqrt(),
              "this is the standard deviation; asked for is the variance.", 1),
        Wrong("sum of standard deviations, squared", lambda X, y, x_new, noise_variance, prior_variance: (
            math.sqrt(noise_variance) + _parameter_variance(X, y, x_new, noise_variance, prior_variance).sqrt()) ** 2,
              "you added standard deviations. Two independent errors add their variances.", 1),
        Wrong("noise added as a standard deviation", lambda X, y, x_new, noise_variance, prior_variance:
              _parameter_variance(X, y, x_new, noise_variance, prior_variance) + math.sqrt(noise_variance),
              "the root of the noise variance was added to a variance.", 1),
        Wrong("prior predictive", lambda X, y, x_new, noise_variance, prior_variance:
              prior_variance * x_new @ x_new + noise_variance,
              "this is the variance before any data: they have taught nothing.", 1),
        Wrong("prior forgotten", lambda X, y, x_new, noise_variance, prior_variance: noise_variance
              * (1 + x_new @ torch.linalg.solve(X.T @ X, x_new)),
              "this is the variance of least squares: the prior is missing in it, which knows something as well.", 1),
        Wrong("noise not in the covariance", lambda X, y, x_new, noise_variance, prior_variance: noise_variance + x_new
              @ torch.linalg.solve(X.T @ X + noise_variance / prior_variance * _eye(len(x_new)), x_new),
              "nearly: (X'X + noise/prior I)^-1 is right for the mean, where the noise cancels. The covariance of the coefficients "
              "is this times something.", 1),
        Wrong("precision for covariance", lambda X, y, x_new, noise_variance, prior_variance: noise_variance
              + x_new @ torch.linalg.inv(_weights(X, y, noise_variance, prior_variance)[1]) @ x_new,
              "a precision stands where a covariance belongs: your variance grows as data come in.", 1),
        Wrong("variances only", lambda X, y, x_new, noise_variance, prior_variance: noise_variance
              + x_new.square() @ _weights(X, y, noise_variance, prior_variance)[1].diagonal(),
              "the coefficients are correlated after the data; you took their variances and left out the covariances.", 1),
        Wrong("not weighted with the new input", lambda X, y, x_new, noise_variance, prior_variance: noise_variance
              + _weights(X, y, noise_variance, prior_variance)[1].trace(),
              "your variance does not depend on where the new patient stands.", 1),
        Wrong("spread of the residuals", lambda X, y, x_new, noise_variance, prior_variance: (
            y - X @ _weights(X, y, noise_variance, prior_variance)[0]).square().mean(),
              "this is the mean square residual of the data at hand, which the line has been fitted to. The noise is known here.", 1),
    ],
    hints=["First the posterior of w. The log joint is quadratic in w: its curvature, with a minus, is the precision, and its maximum "
           "is the mean. Then y_new = x_new . w + noise, a sum of two independent Gaussian variables.",
           "Precision = X'X / noise_variance + I / prior_variance, covariance = its inverse, mean = covariance X'y / noise_variance. "
           "What are mean and variance of x_new . w?",
           "mean = x_new . (posterior mean); variance = x_new' (posterior covariance) x_new + noise_variance."])


# 3. A sum over all assignments ------------------------------------------------------------------------------------------

def _draw_mixture(stream):
    """Log densities of pictures: about a thousand nats from zero, on either side."""
    N, K = stream.randint(3, 8), stream.choice([2, 3, 4, 5])
    centre = stream.choice([-1, 1]) * stream.uniform(800, 1500)
    return {"weights": _simplex(stream, K), "log_density": _normals(stream, N, K, mean=centre, scale=1.5)}


def _terms(weights, log_density):
    return weights.log() + log_density


def _mixture(weights, log_density):
    return torch.logsumexp(_terms(weights, log_density), 1).sum()


mixture = Check(
    "sum over all assignments", draw=_draw_mixture, reference=_mixture, outputs=["log evidence"],
    wrongs=[
        Wrong("sum and product exchanged", lambda weights, log_density: torch.logsumexp(weights.log() + log_density.sum(0), 0),
              "sum and product are exchanged: you chose one cluster for all points together. Each point chooses its own."),
        Wrong("weights for every point, one cluster", lambda weights, log_density: torch.logsumexp(
            _terms(weights, log_density).sum(0), 0),
              "you multiplied over the points first and added up over clusters then: only assignments in which all points share a "
              "cluster are in your sum."),
        Wrong("logarithm inside", lambda weights, log_density: (weights * log_density).sum(),
              "the logarithm is inside of the sum over clusters: you averaged log densities, which is a lower bound (Jensen)."),
        Wrong("weights forgotten", lambda weights, log_density: torch.logsumexp(log_density, 1).sum(),
              "the weights of the clusters are missing."),
        Wrong("equal weights", lambda weights, log_density: (torch.logsumexp(log_density, 1)
                                                             - math.log(len(weights))).sum(),
              "you took the clusters for equally probable."),
        Wrong("weights as log weights", lambda weights, log_density: torch.logsumexp(weights + log_density, 1).sum(),
              "the weights are added to the log densities as they are. Probabilities multiply, so it is their logarithms that add."),
        Wrong("weights once", lambda weights, log_density: torch.logsumexp(log_density, 1).sum() + weights.log().sum(),
              "the weights stand outside of the sum over clusters, and there only once."),
        Wrong("weights divided by", lambda weights, log_density: torch.logsumexp(log_density - weights.log(), 1).sum(),
              "you divided by the weights where they multiply."),
        Wrong("all in one sum", lambda weights, log_density: torch.logsumexp(_terms(weights, log_density).flatten(), 0),
              "all N K terms are in one sum: over points the densities multiply."),
        Wrong("axes exchanged", lambda weights, log_density: torch.logsumexp(_terms(weights, log_density), 0).sum(),
              "you added over the points. Clusters are the columns; it is over them that you add, inside the logarithm."),
        Wrong("exponentiated at once", lambda weights, log_density: (log_density.exp() @ weights).log().sum(),
              "your densities became 0 or infinite: the exponential of numbers this far from zero does not fit into double precision. "
              "Make them smaller before you exponentiate."),
        Wrong("maximum not added back", lambda weights, log_density: _mixture(
            weights, log_density - log_density.amax(1, keepdim=True)),
              "you made the log densities smaller before exponentiating, which is right; what was taken away must come back."),
        Wrong("best cluster only", lambda weights, log_density: _terms(weights, log_density).amax(1).sum(),
              "only the most probable cluster of each point is in your sum: this is the best single assignment. The others are "
              "smaller, but not nothing."),
        Wrong("nearest cluster only", lambda weights, log_density: log_density.amax(1).sum(),
              "you gave each point to the cluster with the highest density, for certain, and left the weights out."),
        Wrong("expected complete data", lambda weights, log_density: (
            torch.softmax(_terms(weights, log_density), 1) * _terms(weights, log_density)).sum(),
              "this is log p(x, z) of the complete data, averaged over the posterior of z. It lacks the entropy of that posterior."),
        Wrong("mean over the points", lambda weights, log_density: _mixture(weights, log_density) / len(log_density),
              "this is the mean over the points; the log evidence of all of them is a sum."),
        Wrong("minus the log evidence", lambda weights, log_density: -_mixture(weights, log_density),
              "the sign is turned around."),
        Wrong("bits", lambda weights, log_density: _mixture(weights, log_density) / math.log(2),
              "this is in bits; asked for are nats."),
    ],
    hints=["The points are independent given the weights: p(x) is a product over points. What is p(x_n), if the cluster of x_n is not "
           "known?",
           "p(x_n) = sum_k weights_k p(x_n | k). Take its logarithm without leaving the range of double precision: with m the largest of "
           "the log terms of a row, log sum_k exp(t_k) = m + log sum_k exp(t_k - m).",
           "`torch.logsumexp(weights.log() + log_density, 1)` has shape (N,); add it up."])


# 4. What an experiment will tell ----------------------------------------------------------------------------------------

def _draw_gain(stream):
    d = stream.randint(3, 4)
    n = stream.randint(2, d - 1)
    return {"A": _normals(stream, n, d), "S": _covariance(stream, d),
            "noise_variance": torch.tensor([stream.uniform(0.2, 0.8) for _ in range(n)], dtype=torch.float64)}


def _signal(A, S, noise_variance):
    """A S A' in units of the noise."""
    root = noise_variance.sqrt()
    return A @ S @ A.T / root / root.unsqueeze(-1)


def _gain(A, S, noise_variance):
    return 0.5 * torch.logdet(_eye(len(A)) + _signal(A, S, noise_variance))


gain = Check(
    "what an experiment will tell", draw=_draw_gain, reference=_gain, outputs=["information gain"],
    wrongs=[
        Wrong("no half", lambda A, S, noise_variance: 2 * _gain(A, S, noise_variance),
              "your number is twice what it should be: the entropy of a Gaussian is half a log determinant, plus a constant."),
        Wrong("a quarter", lambda A, S, noise_variance: 0.5 * _gain(A, S, noise_variance),
              "your number is half of what it should be."),
        Wrong("noise not divided out", lambda A, S, noise_variance: 0.5 * torch.logdet(_eye(len(A)) + A @ S @ A.T),
              "the noise is not in your answer: the signal has to be measured in units of it."),
        Wrong("noise as a standard deviation", lambda A, S, noise_variance: _gain(A, S, noise_variance.square()),
              "the variances of the noise were squared once too often."),
        Wrong("root of the noise", lambda A, S, noise_variance: _gain(A, S, noise_variance.sqrt()),
              "the signal was divided by the standard deviation of the noise; it is a variance, and wants a variance."),
        Wrong("noise multiplied", lambda A, S, noise_variance: _gain(A, S, 1 / noise_variance),
              "the noise is multiplied where it should divide: the noisier an experiment, the less it tells."),
        Wrong("identity forgotten", lambda A, S, noise_variance: 0.5 * torch.logdet(_signal(A, S, noise_variance)),
              "the identity is missing: an experiment that sees nothing, A = 0, has to tell zero, and yours tells minus infinity."),
        Wrong("noise not subtracted", lambda A, S, noise_variance: 0.5 * torch.logdet(A @ S @ A.T + noise_variance.diag()),
              "this is the half log determinant of the covariance of x. What is left of it when z is known is still in there."),
        Wrong("entropy of x", lambda A, S, noise_variance: MultivariateNormal(
            torch.zeros(len(A), dtype=torch.float64), A @ S @ A.T + noise_variance.diag()).entropy(),
              "this is the entropy of the data, noise included. The information is the entropy of x less that of x given z."),
        Wrong("posterior precision alone", lambda A, S, noise_variance: _gain(A, S, noise_variance) - 0.5 * torch.logdet(S),
              "this is half the log determinant of the posterior precision. That of the prior is to be compared with it."),
        Wrong("posterior covariance alone", lambda A, S, noise_variance: 0.5 * torch.logdet(S) - _gain(A, S, noise_variance),
              "this is half the log determinant of the posterior covariance. What was known before is not in it, and a gain is a "
              "difference."),
        Wrong("entropy of the prior", lambda A, S, noise_variance: MultivariateNormal(
            torch.zeros(len(S), dtype=torch.float64), S).entropy(),
              "this is the entropy of z before the experiment. How much of it does the experiment take away?"),
        Wrong("entropy of the posterior", lambda A, S, noise_variance: MultivariateNormal(
            torch.zeros(len(S), dtype=torch.float64), S).entropy() - _gain(A, S, noise_variance),
              "this is the entropy of z that is left after the experiment; asked for is what has gone."),
        Wrong("prior forgotten", lambda A, S, noise_variance: _gain(A, _eye(len(S)), noise_variance),
              "the prior covariance is missing: you took it for the identity."),
        Wrong("precision for covariance", lambda A, S, noise_variance: _gain(A, torch.linalg.inv(S), noise_variance),
              "S enters by its inverse in your answer; it is a covariance: the less is known before, the more there is to learn."),
        Wrong("each measurement on its own", lambda A, S, noise_variance: 0.5 * torch.log(
            1 + _signal(A, S, noise_variance).diagonal()).sum(),
              "you added up what each measurement would tell by itself. What two of them say alike counts twice so."),
        Wrong("trace, not log determinant", lambda A, S, noise_variance: 0.5 * _signal(A, S, noise_variance).trace(),
              "a trace stands where a log determinant belongs. They agree for weak signals only, to first order."),
        Wrong("determinant, not its logarithm", lambda A, S, noise_variance: 0.5 * torch.det(
            _eye(len(A)) + _signal(A, S, noise_variance)),
              "the logarithm is missing."),
        Wrong("bits", lambda A, S, noise_variance: _gain(A, S, noise_variance) / math.log(2),
              "this is in bits; asked for are nats."),
        Wrong("sign", lambda A, S, noise_variance: -_gain(A, S, noise_variance),
              "the sign is turned around: on average, an experiment tells something, not less than nothing."),
    ],
    hints=["The expected information gain is a mutual information, which can be written as a difference of entropies in two ways: of z "
           "before and after, or of x without and with z known. Which has the smaller matrices here?",
           "x ~ N(A m, A S A' + D), and given z it is N(A z, D). The entropy of a Gaussian of covariance C in n dimensions is "
           "n/2 log(2 pi e) + 1/2 log det C.",
           "1/2 log det(A S A' + D) - 1/2 log det D, with D = diag(noise_variance); `torch.logdet` is what you need."])


# 5. Two models, and the shorter code ------------------------------------------------------------------------------------

def _draw_models(stream):
    n = stream.randint(6, 10)
    X = _normals(stream, n, 3)
    y = X @ _normals(stream, 3, scale=0.7) + _normals(stream, n, scale=0.8)
    return {"X1": X, "X0": X[:, :1].clone(), "y": y, "noise_variance": stream.uniform(0.3, 0.8),
            "prior_variance": stream.uniform(1.3, 3.0), "precision": stream.choice([0.1, 0.01, 0.001])}


def _log_evidence(X, y, noise_variance, prior_variance):
    covariance = noise_variance * _eye(len(y)) + prior_variance * X @ X.T
    return MultivariateNormal(torch.zeros_like(y), covariance).log_prob(y)


def _fit(X, y, noise_variance, prior_variance=math.inf):
    """log p(y | w) at the most probable w; with the flat prior, at the best fit."""
    w = torch.linalg.solve(X.T @ X + noise_variance / prior_variance * _eye(X.shape[1]), X.T @ y)
    return Normal(X @ w, math.sqrt(noise_variance)).log_prob(y).sum()


def _factor(X1, X0, y, noise_variance, prior_variance, precision):
    return _log_evidence(X1, y, noise_variance, prior_variance) - _log_evidence(X0, y, noise_variance, prior_variance)


def _bits(X1, X0, y, noise_variance, prior_variance, precision):
    return -(_log_evidence(X1, y, noise_variance, prior_variance) + len(y) * math.log(precision)) / math.log(2)


def _quadratic_part(X, y, noise_variance, prior_variance):
    return -0.5 * y @ torch.linalg.solve(noise_variance * _eye(len(y)) + prior_variance * X @ X.T, y)


factor = Check(
    "two models and a code", draw=_draw_models, outputs=["log Bayes factor", "code length"],
    reference=lambda **a: (_factor(**a), _bits(**a)),
    wrongs=[
        Wrong("best fit", lambda X1, X0, y, noise_variance, prior_variance, precision:
              _fit(X1, y, noise_variance) - _fit(X0, y, noise_variance),
              "these are likelihoods at the best fit, by which the model with more columns wins always. The evidence is the average "
              "of the likelihood over the prior."),
        Wrong("most probable coefficients", lambda X1, X0, y, noise_variance, prior_variance, precision:
              _fit(X1, y, noise_variance, prior_variance) - _fit(X0, y, noise_variance, prior_variance),
              "these are likelihoods at the most probable coefficients. The evidence is the average over all of them."),
        Wrong("BIC", lambda X1, X0, y, noise_variance, prior_variance, precision: _fit(X1, y, noise_variance)
              - _fit(X0, y, noise_variance) - 0.5 * (X1.shape[1] - X0.shape[1]) * math.log(len(y)),
              "this is BIC, which knows the evidence up to a constant, for many data. Here it can be had exactly."),
        Wrong("sign", lambda **a: -_factor(**a), "the sign is turned around: it should be positive where model 1 is favoured."),
        Wrong("first model only", lambda X1, X0, y, noise_variance, prior_variance, precision:
              _log_evidence(X1, y, noise_variance, prior_variance),
              "this is the log evidence of model 1. By itself it says little; compare it with that of model 0."),
        Wrong("not a logarithm", lambda **a: _factor(**a).exp(), "this is the Bayes factor; asked for is its logarithm."),
        Wrong("base ten", lambda **a: _factor(**a) / math.log(10), "this logarithm is to base ten; asked for are nats."),
        Wrong("bits", lambda **a: _factor(**a) / math.log(2), "this is in bits; the Bayes factor is asked for in nats."),
        Wrong("twice", lambda **a: 2 * _factor(**a),
              "this is twice the log Bayes factor (a custom, to compare with deviances)."),
        Wrong("posterior probability", lambda **a: torch.sigmoid(_factor(**a)),
              "this is the posterior probability of model 1, with both as probable before; asked for is the log Bayes factor."),
        Wrong("determinants forgotten", lambda X1, X0, y, noise_variance, prior_variance, precision:
              _quadratic_part(X1, y, noise_variance, prior_variance) - _quadratic_part(X0, y, noise_variance, prior_variance),
              "the determinants are missing, with which a model pays for all the data that it could have explained as well."),
        Wrong("prior variance taken for one", lambda X1, X0, y, noise_variance, prior_variance, precision:
              _factor(X1, X0, y, noise_variance, 1.0, precision),
              "the variance of the prior is not in your answer. In predictions it matters little; in an evidence it does."),
        Wrong("prior standard deviation", lambda X1, X0, y, noise_variance, prior_variance, precision:
              _factor(X1, X0, y, noise_variance, math.sqrt(prior_variance), precision),
              "the root of the prior's variance stands where the variance belongs."),
        Wrong("noise standard deviation", lambda X1, X0, y, noise_variance, prior_variance, precision:
              _factor(X1, X0, y, math.sqrt(noise_variance), prior_variance, precision),
              "the root of the noise variance stands where the variance belongs."),
        Wrong("noise forgotten", lambda X1, X0, y, noise_variance, prior_variance, precision:
              _factor(X1, X0, y, 1.0, prior_variance, precision),
              "the noise variance is not in your answer: you took it for one."),
        Wrong("nats for bits", lambda **a: _bits(**a) * math.log(2), "this length is in nats; asked for are bits.", 1),
        Wrong("negative length", lambda **a: -_bits(**a), "the sign is turned around: improbable data make long codes.", 1),
        Wrong("precision forgotten", lambda **a: _bits(**a | {"precision": 1.0}),
              "this takes a density for a probability: the precision to which y is written down is not in it. A real number has "
              "infinitely many digits.", 1),
        Wrong("multiplied by log 2", lambda **a: _bits(**a) * math.log(2) ** 2,
              "you multiplied by log 2. A bit is log 2 nats, so there are more bits than nats.", 1),
        Wrong("nats and bits mixed", lambda X1, X0, y, noise_variance, prior_variance, precision:
              -_log_evidence(X1, y, noise_variance, prior_variance) - len(y) * math.log2(precision),
              "two units are mixed: of evidence and precision, one is in nats and the other in bits.", 1),
        Wrong("precision once", lambda **a: _bits(**a) + (len(a["y"]) - 1) * math.log2(a["precision"]),
              "the precision is in your length once; each of the n numbers is written down to it.", 1),
        Wrong("precision divides", lambda **a: _bits(**a) + 2 * len(a["y"]) * math.log2(a["precision"]),
              "your code gets shorter the more digits it writes down: the probability of a cell is density times width.", 1),
        Wrong("the other model", lambda X1, X0, y, noise_variance, prior_variance, precision:
              _bits(X0, X1, y, noise_variance, prior_variance, precision),
              "this is the code length with model 0.", 1),
        Wrong("code for the residuals alone", lambda X1, X0, y, noise_variance, prior_variance, precision: -(
            _fit(X1, y, noise_variance) + len(y) * math.log(precision)) / math.log(2),
              "this is the length of the residuals about the best fit. Who reads the code does not know that fit: it would have to "
              "be sent as well.", 1),
        Wrong("residuals of the most probable fit", lambda X1, X0, y, noise_variance, prior_variance, precision: -(
            _fit(X1, y, noise_variance, prior_variance) + len(y) * math.log(precision)) / math.log(2),
              "this is the length of the residuals about the most probable coefficients, which the reader of the code does not know.", 1),
        Wrong("bits per datum", lambda **a: _bits(**a) / len(a["y"]), "this is the length for each datum; asked for is all of it.", 1),
    ],
    hints=["Nothing has to be fitted. Under each model y = X w + noise is a sum of Gaussian variables with mean zero: what is its "
           "covariance, an n by n matrix?",
           "y ~ N(0, noise_variance I + prior_variance X X'). The Bayes factor is a ratio of two such densities. A code of -log2 P bits "
           "needs a probability P: that of a cell of width `precision` in each of n directions is about density times width^n.",
           "`torch.distributions.MultivariateNormal(torch.zeros_like(y), C).log_prob(y)` for both models; the code length is "
           "-(log evidence of model 1 + n log precision) / log 2."])


# 6. Project: what was not measured --------------------------------------------------------------------------------------

def _draw_missing(stream):
    D = stream.randint(5, 7)
    hidden = set(stream.sample(range(D), stream.randint(2, D - 3)))
    seen = torch.tensor([i not in hidden for i in range(D)])
    return {"mean": _normals(stream, D, scale=2.0), "covariance": _covariance(stream, D), "seen": seen,
            "x": _normals(stream, int(seen.sum()), scale=2.0)}


def _blocks(mean, covariance, seen):
    return mean[seen], mean[~seen], covariance[seen][:, seen], covariance[~seen][:, seen], covariance[~seen][:, ~seen]


def _fill(mean, covariance, seen, x, *, invert=torch.linalg.inv, centre=True, back=True, sign=1.0):
    m, other, C, cross, _ = _blocks(mean, covariance, seen)
    return (other if back else 0.0) + sign * cross @ invert(C) @ (x - m if centre else x)


def _left(mean, covariance, seen, x, sign=1.0):
    *_, C, cross, own = _blocks(mean, covariance, seen)
    return (own - sign * cross @ torch.linalg.solve(C, cross.T)).diagonal()


def _whole(mean, seen, x, filling):
    full = mean.clone()
    full[seen], full[~seen] = x, filling
    return full


def _seen_evidence(mean, covariance, seen, x):
    return MultivariateNormal(mean[seen], covariance[seen][:, seen]).log_prob(x)


missing = Check(
    "what was not measured", draw=_draw_missing, outputs=["posterior mean", "posterior variance", "log evidence"],
    reference=lambda **a: (_fill(**a), _left(**a), _seen_evidence(**a)),
    wrongs=[
        Wrong("means filled in", lambda mean, covariance, seen, x: mean[~seen],
              "these are the means of what is missing: what has been seen says nothing in your answer."),
        Wrong("mean not subtracted", lambda **a: _fill(**a, centre=False),
              "what is seen counts by how far it lies from its mean."),
        Wrong("mean not added", lambda **a: _fill(**a, back=False),
              "this is how far the missing ones move from their means; the means themselves are not in it."),
        Wrong("wrong direction", lambda **a: _fill(**a, sign=-1.0),
              "a sign is turned around: positive covariance means that both go up together. (With blocks of the precision matrix there "
              "is a minus.)"),
        Wrong("covariance not inverted", lambda **a: _fill(**a, invert=lambda C: C),
              "the covariance of what is seen multiplies where it should divide."),
        Wrong("covariance left out", lambda **a: _fill(**a, invert=lambda C: _eye(len(C))),
              "the covariance of what is seen is missing: check the units of your answer."),
        Wrong("one regression each", lambda **a: _fill(**a, invert=lambda C: torch.diag(1 / C.diagonal())),
              "you took what is seen for uncorrelated, so what two of them say alike counts twice."),
        Wrong("inverse of the whole", lambda mean, covariance, seen, x: _fill(
            mean, covariance, seen, x, invert=lambda C: torch.linalg.inv(covariance)[seen][:, seen]),
              "you inverted the whole covariance and took a block of it. The inverse of a block is another matrix."),
        Wrong("prior variance", lambda mean, covariance, seen, x: covariance.diagonal()[~seen],
              "these are the variances before anything was seen.", 1),
        Wrong("added, not subtracted", lambda **a: _left(**a, sign=-1.0),
              "your variances are larger than those of the prior: seeing the others took nothing away.", 1),
        Wrong("what was explained", lambda mean, covariance, seen, x: covariance.diagonal()[~seen]
              - _left(mean, covariance, seen, x),
              "this is the variance that the seen ones explain; asked for is what is left.", 1),
        Wrong("standard deviation", lambda **a: _left(**a).sqrt(), "these are standard deviations; asked for are variances.", 1),
        Wrong("all others known", lambda mean, covariance, seen, x: 1 / torch.linalg.inv(covariance).diagonal()[~seen],
              "one over a diagonal entry of the precision is the variance given all the others. The other missing ones are not known.", 1),
        Wrong("precision", lambda mean, covariance, seen, x: torch.linalg.inv(covariance).diagonal()[~seen],
              "these are entries of the precision matrix, not variances.", 1),
        Wrong("nothing left", lambda mean, covariance, seen, x: torch.zeros(int((~seen).sum()), dtype=torch.float64),
              "you are certain of what was not measured. The best guess is a guess.", 1),
        Wrong("bits", lambda **a: _seen_evidence(**a) / math.log(2), "this is in bits; asked for are nats.", 2),
        Wrong("posterior mean filled in", lambda mean, covariance, seen, x: MultivariateNormal(mean, covariance).log_prob(
            _whole(mean, seen, x, _fill(mean, covariance, seen, x))),
              "you filled the best guess in and took the density of all, as though the guess had been measured.", 2),
        Wrong("means filled in for all", lambda mean, covariance, seen, x: MultivariateNormal(mean, covariance).log_prob(
            _whole(mean, seen, x, mean[~seen])),
              "you filled the means in and took the density of all, as though they had been measured.", 2),
        Wrong("independent entries", lambda mean, covariance, seen, x: Normal(
            mean, covariance.diagonal().sqrt()).log_prob(_whole(mean, seen, x, mean[~seen]))[seen].sum(),
              "you took the entries for independent: their covariances are missing.", 2),
        Wrong("2 pi forgotten", lambda **a: _seen_evidence(**a) + 0.5 * len(a["x"]) * math.log(2 * math.pi),
              "the factor 2 pi is missing, once for each entry that was seen.", 2),
        Wrong("2 pi for all entries", lambda **a: _seen_evidence(**a)
              - 0.5 * int((~a["seen"]).sum()) * math.log(2 * math.pi),
              "the factor 2 pi counts only for entries that were seen.", 2),
        Wrong("determinant forgotten", lambda mean, covariance, seen, x: _seen_evidence(mean, covariance, seen, x)
              + 0.5 * torch.logdet(covariance[seen][:, seen]), "the determinant is missing.", 2),
        Wrong("determinant without its half", lambda mean, covariance, seen, x: _seen_evidence(mean, covariance, seen, x)
              - 0.5 * torch.logdet(covariance[seen][:, seen]), "the log determinant lacks its factor of one half.", 2),
        Wrong("determinant of all", lambda mean, covariance, seen, x: _seen_evidence(mean, covariance, seen, x)
              + 0.5 * torch.logdet(covariance[seen][:, seen]) - 0.5 * torch.logdet(covariance),
              "the determinant is that of the whole covariance; the density is one of the seen entries alone.", 2),
        Wrong("mean forgotten", lambda mean, covariance, seen, x: _seen_evidence(0 * mean, covariance, seen, x),
              "the mean is not subtracted in your density.", 2),
        Wrong("sign", lambda **a: -_seen_evidence(**a), "the sign is turned around.", 2),
        Wrong("density, not its logarithm", lambda **a: _seen_evidence(**a).exp(),
              "this is the density; asked for is its logarithm.", 2),
    ],
    hints=["To leave entries of a Gaussian out means to strike out their rows and columns: that is the density of what was seen. The "
           "posterior of the rest is p(all) / p(seen), quadratic in what is missing.",
           "With s for seen and m for missing: mean_m + C_ms C_ss^-1 (x - mean_s), and C_mm - C_ms C_ss^-1 C_sm, of which the diagonal is "
           "asked for.",
           "`covariance[~seen][:, seen]` is C_ms. `torch.linalg.solve(C_ss, C_sm)` does the division. The log evidence is "
           "`MultivariateNormal(mean[seen], C_ss).log_prob(x)`."])

ALL = (coins, predictive, mixture, gain, factor, missing)


quiz = Quiz("questions", [
    Question("A model has been fitted to data, and one more observation is to be predicted. Instead of averaging over the posterior, "
             "somebody plugs the most probable parameters in. What goes wrong, typically?", [
        Option("The prediction is too sure of itself.", "What is not known about the parameters is missing in its spread. With many data "
               "the difference vanishes; far from the data, or with few of them, it does not.", True),
        Option("The prediction is too cautious.", "It is the average over parameters that is broader, as it adds their uncertainty to the "
               "noise."),
        Option("Nothing: the posterior has its maximum there, after all.", "A maximum says nothing of the width around it, and all "
               "parameters in that width predict something a little different."),
        Option("The mean of the prediction is wrong, its spread is right.", "In a linear Gaussian model it is the other way round: the "
               "mean is right and the spread too small.")]),
    Question("A mixture of K clusters, N independent points, weights and means known. How many terms does p(x) take?", [
        Option("K^N, one for each assignment: there is no way around it.", "That is the sum written out. But it factors: each point "
               "chooses its cluster without regard for the others."),
        Option("N K.", "The sum over assignments is a product over points of sums over clusters. It holds while the points are "
               "independent, which they are once weights and means are given.", True),
        Option("N, one for the best cluster of each point.", "The best clusters give one assignment out of many. Where clusters overlap the "
               "others matter."),
        Option("N + K.", "Each of the points has to be held against each of the clusters.")]),
    Question("The expected information gain of an experiment is estimated by nested Monte Carlo with few inner samples. The estimate is", [
        Option("too low on average, like every estimate of a log evidence.", "The log evidence in it is too low, by Jensen's inequality. "
               "But mind the sign with which it enters."),
        Option("unbiased, as both averages are.", "The inner average is unbiased for p(x). Its logarithm is not."),
        Option("wrong by an amount that more outer samples remove.", "Outer samples make the error bar small, around the wrong number. It "
               "takes inner samples to move it."),
        Option("too high on average, and falls as inner samples are added.", "log p(x) comes out too low and is subtracted. With M inner "
               "samples the bias goes like 1/M, once M is large enough.", True)]),
    Question("A larger model fits the data better than a smaller one, and its evidence is lower. How can that be?", [
        Option("It cannot: more parameters never hurt.", "Not at the best fit, they do not. The evidence is not the best fit."),
        Option("The evidence is an average over the prior, and the larger model has spent much of its probability on data that did not "
               "come.", "A density over data adds up to one. Who allows for more must give less to each; the best fit is weighed with how "
               "little of the prior lies close to it.", True),
        Option("The larger model is penalised for its parameters by an extra term.", "Nobody has added a term. It is what the sum and product "
               "rule of probability give; BIC is an approximation to it."),
        Option("Its posterior has not been computed accurately.", "That may happen, but it is not needed: the same is true in linear Gaussian "
               "models, where everything is exact.")]),
    Question("Some entries of a datum were not measured. In a generative model, what is their exact treatment?", [
        Option("Fill in the means, and go on as if they had been measured.", "This pretends to know, and pulls each datum towards the middle. "
               "It distorts variances and correlations."),
        Option("Fill in the posterior means, and go on as if they had been measured.", "The best guess is a guess still: what depends on the "
               "missing entries would come out too certain."),
        Option("Integrate them out: they are latents, like all others.", "For a Gaussian, to integrate out means to strike out rows and "
               "columns. Their own values, if asked for, have a posterior with a mean and a width.", True),
        Option("Leave out every datum with a gap.", "What was measured of it is thrown away. And should it depend on the values which data "
               "have gaps, the rest is no fair sample.")]),
])
