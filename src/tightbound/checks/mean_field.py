"""The exercises of the mean field chapter, and its quiz."""

from __future__ import annotations

import functools
import math
import random

import torch
from torch import Tensor

from tightbound import laplace
from tightbound import mean_field as method
from tightbound.checks.check import Check, Wrong
from tightbound.checks.quiz import Option, Question, Quiz
from tightbound.problem import Problem

LOG_2PI = math.log(2 * math.pi)


def _positive_definite(stream: random.Random, d: int) -> Tensor:
    root = torch.tensor([[stream.gauss(0, 1) for _ in range(d)] for _ in range(d)], dtype=torch.float64)
    return root @ root.T + 0.5 * torch.eye(d, dtype=torch.float64)


def _vector(stream: random.Random, d: int, scale: float = 1.0) -> Tensor:
    return torch.tensor([stream.gauss(0, scale) for _ in range(d)], dtype=torch.float64)


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


# 1. One coordinate step on a Gaussian -----------------------------------------------------------------------------------

def _draw_factor(stream):
    return {"mean": _vector(stream, 2, 2.0), "covariance": _positive_definite(stream, 2), "other": _number(stream.gauss(0, 3))}


def _factor(mean, covariance, other):
    Lambda = torch.linalg.inv(covariance)
    return mean[0] - Lambda[0, 1] / Lambda[0, 0] * (other - mean[1]), 1 / Lambda[0, 0]


factor = Check(
    "one factor", draw=_draw_factor, reference=_factor, outputs=["mean", "variance"],
    wrongs=[
        Wrong("sign of the pull", lambda mean, covariance, other: 2 * mean[0] - _factor(mean, covariance, other)[0],
              "the first latent is moved the wrong way. With a positive covariance the two lean to the same side, and then the "
              "off-diagonal entry of the precision is negative."),
        Wrong("posterior mean", lambda mean, covariance, other: mean[0],
              "this is the posterior's mean, where the ascent ends. One step from where the other factor is now does not reach it."),
        Wrong("mean of the other left out", lambda mean, covariance, other: mean[0] + covariance[0, 1] / covariance[1, 1] * other,
              "only the other latent's distance from its own mean can move this one."),
        Wrong("own mean left out", lambda mean, covariance, other: _factor(mean, covariance, other)[0] - mean[0],
              "this is how far the first latent is pulled: from where?"),
        Wrong("precision not divided by", lambda mean, covariance, other: mean[0] - torch.linalg.inv(covariance)[0, 1] * (other - mean[1]),
              "the pull is there, but not the stiffness against which it works: the terms in z1 squared belong to the square as well."),
        Wrong("regression the wrong way round", lambda mean, covariance, other: mean[0] + covariance[0, 1] / covariance[0, 0] * (other - mean[1]),
              "the covariance is divided by the wrong variance: this predicts the second latent from the first."),
        Wrong("covariance for precision", lambda mean, covariance, other: mean[0] - covariance[0, 1] / covariance[0, 0] * (other - mean[1]),
              "covariances stand where precisions belong: in the exponent of a Gaussian is the inverse of its covariance."),
        Wrong("marginal variance", lambda mean, covariance, other: covariance[0, 0],
              "this is the true marginal variance. The factor's is smaller: it does not know that the other latent varies too.", 1),
        Wrong("precision, not variance", lambda mean, covariance, other: torch.linalg.inv(covariance)[0, 0],
              "this is the factor's precision; its variance is one over it.", 1),
        Wrong("inverse of the marginal variance", lambda mean, covariance, other: 1 / covariance[0, 0],
              "you took an entry of the covariance and inverted it; invert the matrix first, then take the entry.", 1),
        Wrong("standard deviation", lambda mean, covariance, other: torch.sqrt(_factor(mean, covariance, other)[1]),
              "this is the standard deviation; asked for is the variance.", 1),
        Wrong("other's variance", lambda mean, covariance, other: 1 / torch.linalg.inv(covariance)[1, 1],
              "this is the variance of the other factor.", 1),
    ],
    hints=["Write the log joint as -1/2 (z - mu)' Lambda (z - mu), and collect what depends on z1 only.",
           "-1/2 Lambda11 (z1 - mu1)^2 - Lambda12 (z1 - mu1)(z2 - mu2). Average over q2: z2 enters linearly, so its mean is all that counts.",
           "Complete the square: mean mu1 - Lambda12/Lambda11 (m2 - mu2), variance 1/Lambda11, with Lambda the inverse of the covariance."])


# 2. One spin ------------------------------------------------------------------------------------------------------------

def _draw_spin(stream):
    return {"neighbours": torch.tensor([stream.uniform(-0.95, 0.95) for _ in range(stream.randint(2, 5))], dtype=torch.float64),
            "beta": stream.uniform(0.1, 0.6), "field": stream.uniform(-0.5, 0.5)}


def _magnetisation(neighbours, beta, field):
    return torch.tanh(beta * neighbours.sum() + field)


def _entropy(m):
    up = 0.5 * (1 + m)
    return -(up * torch.log(up) + (1 - up) * torch.log1p(-up))


spin = Check(
    "one spin", draw=_draw_spin, outputs=["magnetisation", "entropy"],
    reference=lambda neighbours, beta, field: (_magnetisation(neighbours, beta, field), _entropy(_magnetisation(neighbours, beta, field))),
    wrongs=[
        Wrong("average of the neighbours", lambda neighbours, beta, field: torch.tanh(beta * neighbours.mean() + field),
              "you averaged the neighbours. Each pair has a term of its own in the log joint, so their pulls add up."),
        Wrong("probability, not magnetisation", lambda neighbours, beta, field: torch.sigmoid(2 * (beta * neighbours.sum() + field)),
              "this is the probability that the spin points up; its mean runs from -1 to 1."),
        Wrong("sigmoid", lambda neighbours, beta, field: torch.sigmoid(beta * neighbours.sum() + field),
              "a sigmoid belongs to states 0 and 1. Here the two states are -1 and +1: normalise exp(a) and exp(-a)."),
        Wrong("sigmoid for the probability", lambda neighbours, beta, field: torch.tanh(0.5 * (beta * neighbours.sum() + field)),
              "this mean belongs to a spin that points up with probability sigmoid(a). That is so for states 0 and 1, whose distance is "
              "one; here it is two."),
        Wrong("all twice", lambda neighbours, beta, field: torch.tanh(2 * (beta * neighbours.sum() + field)),
              "everything in the argument is twice too large. Normalise exp(a) and exp(-a), and take the mean of -1 and +1."),
        Wrong("sign of the field", lambda neighbours, beta, field: torch.tanh(beta * neighbours.sum() - field),
              "the outer field has the wrong sign: in this log joint a positive one pulls the spin up."),
        Wrong("half the coupling", lambda neighbours, beta, field: torch.tanh(0.5 * beta * neighbours.sum() + field),
              "the pull of the neighbours is half of what it should be: this spin's pairs stand in the log joint whole, each once."),
        Wrong("hard sign", lambda neighbours, beta, field: torch.sign(beta * neighbours.sum() + field),
              "the spin is set to the side it is pulled to. Its factor is a distribution, and gives the other side some probability too."),
        Wrong("field left out", lambda neighbours, beta, field: torch.tanh(beta * neighbours.sum()),
              "the outer field is missing: it pulls at the spin whatever its neighbours do."),
        Wrong("beta on the field too", lambda neighbours, beta, field: torch.tanh(beta * (neighbours.sum() + field)),
              "beta multiplies the pairs only; look at the log joint once more."),
        Wrong("beta left out", lambda neighbours, beta, field: torch.tanh(neighbours.sum() + field),
              "the coupling is missing: at beta = 0 the neighbours would not matter at all."),
        Wrong("no squashing", lambda neighbours, beta, field: beta * neighbours.sum() + field,
              "this is the field that the spin feels. The mean of a spin lies between -1 and 1."),
        Wrong("pairs counted twice", lambda neighbours, beta, field: torch.tanh(2 * beta * neighbours.sum() + field),
              "the pull of the neighbours is twice too strong: in the log joint each pair stands once."),
        Wrong("bits", lambda neighbours, beta, field: _entropy(_magnetisation(neighbours, beta, field)) / math.log(2),
              "this is the entropy in bits; asked for are nats.", 1),
        Wrong("sign of the entropy", lambda neighbours, beta, field: -_entropy(_magnetisation(neighbours, beta, field)),
              "the entropy of a spin is never negative: the sign is turned.", 1),
        Wrong("half of the entropy", lambda neighbours, beta, field: (lambda up: -up * torch.log(up))(0.5 * (1 + _magnetisation(neighbours, beta, field))),
              "only one of the two states is in the sum: a spin that points down has its probability as well.", 1),
        Wrong("entropy of a sigmoid", lambda neighbours, beta, field: _entropy(torch.tanh(0.5 * (beta * neighbours.sum() + field))),
              "this is the entropy of a spin that points up with probability sigmoid(a), which does not go with your mean.", 1),
        Wrong("magnetisation as a probability", lambda neighbours, beta, field: (lambda m: -m.abs() * torch.log(m.abs()) - (1 - m.abs()) * torch.log1p(-m.abs()))(
            _magnetisation(neighbours, beta, field)),
              "you put the magnetisation where a probability belongs. With mean m the spin points up with probability (1 + m)/2.", 1),
    ],
    hints=["As a function of s_i alone the log joint is s_i times a number. Which number, once the neighbours are averaged?",
           "a = beta (sum of the neighbours' means) + field, and q(s) ∝ exp(a s) with s = -1 or +1.",
           "m = tanh(a). With p = (1 + m)/2 the entropy is -p log p - (1 - p) log(1 - p)."])


# 3. What a Dirichlet expects of a logarithm -----------------------------------------------------------------------------

def _draw_dirichlet(stream):
    return {"concentration": torch.tensor([stream.uniform(1.1, 8) for _ in range(stream.randint(3, 5))], dtype=torch.float64)}


expected_log = Check(
    "expected log weights", draw=_draw_dirichlet, outputs=["expected log weights"],
    reference=lambda concentration: torch.digamma(concentration) - torch.digamma(concentration.sum()),
    wrongs=[
        Wrong("log of the mean", lambda concentration: torch.log(concentration / concentration.sum()),
              "this is the logarithm of the mean, which by Jensen's inequality is larger than the mean of the logarithm."),
        Wrong("log of the sum", lambda concentration: torch.digamma(concentration) - torch.log(concentration.sum()),
              "the first term is right; the second is of the same kind, and a logarithm only comes near it."),
        Wrong("numerator one off", lambda concentration: torch.digamma(concentration + 1) - torch.digamma(concentration.sum()),
              "the first argument is one too large."),
        Wrong("exponents for parameters", lambda concentration: torch.digamma(concentration - 1) - torch.digamma((concentration - 1).sum()),
              "the exponents of the density are one less than its parameters; the formula is in the parameters."),
        Wrong("log of the mode", lambda concentration: torch.log((concentration - 1) / (concentration.sum() - len(concentration))),
              "this is the logarithm of the mode, of the likeliest weights; asked for is a mean."),
        Wrong("second term left out", lambda concentration: torch.digamma(concentration),
              "half of it: this would be the answer for independent gamma variables that nobody has made to sum to one."),
        Wrong("sum of digammas", lambda concentration: torch.digamma(concentration) - torch.digamma(concentration).sum(),
              "in the second term first add up, then apply the function."),
        Wrong("sign", lambda concentration: torch.digamma(concentration.sum()) - torch.digamma(concentration),
              "the sign is turned: the logarithm of a probability is never positive."),
        Wrong("log-gamma", lambda concentration: torch.lgamma(concentration) - torch.lgamma(concentration.sum()),
              "this is the log of gamma functions; the expectation is a derivative of it."),
        Wrong("mean weights", lambda concentration: concentration / concentration.sum(),
              "this is the mean of the weights; asked for is the mean of their logarithm."),
        Wrong("one off", lambda concentration: torch.digamma(concentration + 1) - torch.digamma(concentration.sum() + 1),
              "both arguments are one too large."),
        Wrong("exponentiated", lambda concentration: torch.exp(torch.digamma(concentration) - torch.digamma(concentration.sum())),
              "right up to an exponential: leave the expectation as a logarithm."),
    ],
    hints=["The Dirichlet is an exponential family with log pi as its statistic: its mean is the derivative of the log normaliser.",
           "The log normaliser is sum_k log Gamma(a_k) - log Gamma(sum_k a_k). Differentiate by a_k.",
           "`torch.digamma` is the derivative of log Gamma: digamma(a_k) - digamma(sum of all a)."])


# 4. The bound of a factorised Gaussian ----------------------------------------------------------------------------------

def _draw_bound(stream):
    d = stream.randint(2, 4)
    return {"height": _number(stream.uniform(-5, 5)), "mean": _vector(stream, d), "precision": _positive_definite(stream, d),
            "m": _vector(stream, d), "v": torch.tensor([stream.uniform(0.2, 2) for _ in range(d)], dtype=torch.float64)}


def _fit(height, mean, precision, m, v):
    return height - 0.5 * (m - mean) @ precision @ (m - mean)


def _spread(precision, v):
    return 0.5 * (precision.diagonal() * v).sum()


def _entropies(v):
    return 0.5 * (torch.log(v) + LOG_2PI + 1).sum()


bound = Check(
    "bound of a factorised Gaussian", draw=_draw_bound, outputs=["bound"],
    reference=lambda height, mean, precision, m, v: _fit(height, mean, precision, m, v) - _spread(precision, v) + _entropies(v),
    wrongs=[
        Wrong("entropy left out", lambda height, mean, precision, m, v: _fit(height, mean, precision, m, v) - _spread(precision, v),
              "this is the expected log joint. The bound also pays for spreading out: -log q is missing."),
        Wrong("spread left out", lambda height, mean, precision, m, v: _fit(height, mean, precision, m, v) + _entropies(v),
              "the log joint is taken at the mean of q. Averaged over q it is lower, the more so the wider q is."),
        Wrong("sign of the entropy", lambda height, mean, precision, m, v: _fit(height, mean, precision, m, v) - _spread(precision, v) - _entropies(v),
              "the entropy has the wrong sign: of two q that fit alike, the wider one has the higher bound."),
        Wrong("standard deviations", lambda height, mean, precision, m, v: _fit(height, mean, precision, m, v)
              - 0.5 * (precision.diagonal() * v.sqrt()).sum() + _entropies(v),
              "in the spread stand standard deviations where variances belong."),
        Wrong("no half before the spread", lambda height, mean, precision, m, v: _fit(height, mean, precision, m, v) - 2 * _spread(precision, v) + _entropies(v),
              "the spread is twice too large: the quadratic form carries a half."),
        Wrong("no half before the entropy", lambda height, mean, precision, m, v: _fit(height, mean, precision, m, v) - _spread(precision, v) + 2 * _entropies(v),
              "the entropy is twice too large: a Gaussian's holds the log of a standard deviation."),
        Wrong("entropy without 2 pi", lambda height, mean, precision, m, v: _fit(height, mean, precision, m, v) - _spread(precision, v)
              + 0.5 * (torch.log(v) + 1).sum(),
              "the entropy lacks a logarithm of 2 pi: it comes from the normaliser of the Gaussian."),
        Wrong("whole log-variance in the entropy", lambda height, mean, precision, m, v: _fit(height, mean, precision, m, v) - _spread(precision, v)
              + (torch.log(v) + 0.5 * (LOG_2PI + 1)).sum(),
              "in the entropy the logarithm of the variance stands without its half."),
        Wrong("off-diagonals in the spread", lambda height, mean, precision, m, v: _fit(height, mean, precision, m, v)
              - 0.5 * (precision @ v).sum() + _entropies(v),
              "entries beside the diagonal of the precision got into the spread. The factors are independent, so their covariances are zero."),
        Wrong("no half before the fit", lambda height, mean, precision, m, v: 2 * _fit(height, mean, precision, m, v) - height
              - _spread(precision, v) + _entropies(v),
              "where the means stand, the quadratic form lacks its half."),
        Wrong("entropy without its constant", lambda height, mean, precision, m, v: _fit(height, mean, precision, m, v) - _spread(precision, v)
              + 0.5 * torch.log(v).sum(),
              "the entropy of a Gaussian of variance one is not zero: a constant a latent is missing."),
        Wrong("one nat short a pair", lambda height, mean, precision, m, v: _fit(height, mean, precision, m, v) - _spread(precision, v)
              + 0.5 * (torch.log(v) + LOG_2PI).sum(),
              "this is log of the root of 2 pi v, the volume. The entropy has half a nat more for each latent."),
        Wrong("sign of the fit", lambda height, mean, precision, m, v: 2 * height - _fit(height, mean, precision, m, v) - _spread(precision, v) + _entropies(v),
              "far from the posterior's mean the bound must fall; yours rises."),
        Wrong("diagonal only in the fit", lambda height, mean, precision, m, v: height - 0.5 * (precision.diagonal() * (m - mean) ** 2).sum()
              - _spread(precision, v) + _entropies(v),
              "where the means stand, the whole precision matters, off-diagonal entries too. It is the spread alone that sees only the diagonal."),
        Wrong("no half at all", lambda height, mean, precision, m, v: 2 * (_fit(height, mean, precision, m, v) - _spread(precision, v))
              - height + _entropies(v),
              "the quadratic form lacks its half, where the means stand and in the spread."),
        Wrong("variances taken for deviations", lambda height, mean, precision, m, v: _fit(height, mean, precision, m, v)
              - _spread(precision, v**2) + _entropies(v**2),
              "v holds variances; it looks as if you took them for standard deviations."),
        Wrong("spread as a quadratic form", lambda height, mean, precision, m, v: _fit(height, mean, precision, m, v)
              - 0.5 * v @ precision @ v + _entropies(v),
              "the variances stand in a quadratic form. The average of one is a trace, linear in the covariance of q."),
        Wrong("sign of the spread", lambda height, mean, precision, m, v: _fit(height, mean, precision, m, v) + _spread(precision, v) + _entropies(v),
              "the spread has the wrong sign: averaged over a wider q, the log joint is lower."),
        Wrong("one constant for all latents", lambda height, mean, precision, m, v: _fit(height, mean, precision, m, v) - _spread(precision, v)
              + 0.5 * (torch.log(v).sum() + LOG_2PI + 1),
              "the constant of the entropy is counted once; each latent has an entropy of its own."),
        Wrong("height left out", lambda height, mean, precision, m, v: _fit(height, mean, precision, m, v) - height - _spread(precision, v) + _entropies(v),
              "the height of the log joint at its top is missing."),
        Wrong("log evidence", lambda height, mean, precision, m, v: height + 0.5 * len(mean) * LOG_2PI - 0.5 * torch.logdet(precision),
              "this is the exact log evidence, which the bound does not reach unless q is the posterior."),
    ],
    hints=["E_q of a quadratic form: its value at the mean of q, plus the trace of matrix times covariance.",
           "q has a diagonal covariance, so the trace is sum_i Lambda_ii v_i. Then add the entropy of d independent Gaussians.",
           "height - 1/2 (m - mean)' Lambda (m - mean) - 1/2 sum_i Lambda_ii v_i + 1/2 sum_i log(2 pi e v_i)."])


# 5. Responsibilities ----------------------------------------------------------------------------------------------------

def _draw_responsibilities(stream):
    K, d = stream.randint(2, 4), stream.randint(1, 3)
    return {"x": _vector(stream, d, 1.5), "log_weights": torch.log_softmax(_vector(stream, K), 0) - 0.1, "log_dets": _vector(stream, K),
            "means": torch.stack([_vector(stream, d) for _ in range(K)]),
            "mean_precision": torch.tensor([stream.uniform(0.5, 5) for _ in range(K)], dtype=torch.float64),
            "precisions": torch.stack([_positive_definite(stream, d) for _ in range(K)])}


def _scores(x, log_weights, log_dets, means, mean_precision, precisions, *, det=0.5, unsure=0.5, fit=0.5, weights=1.0):
    off = x - means
    distance = torch.einsum("ki,kij,kj->k", off, precisions, off)
    return weights * log_weights + det * log_dets - unsure * len(x) / mean_precision - fit * distance


def _responsibilities(**arguments):
    return torch.softmax(_scores(**arguments), 0)


def _with(**changes):
    return lambda **arguments: torch.softmax(_scores(**arguments, **changes), 0)


responsibilities = Check(
    "responsibilities", draw=_draw_responsibilities, reference=_responsibilities, outputs=["responsibilities"],
    wrongs=[
        Wrong("not normalised", lambda **arguments: torch.exp(_scores(**arguments)),
              "they do not add up to one: a datum has come from one of the components."),
        Wrong("logarithms", lambda **arguments: torch.log_softmax(_scores(**arguments), 0),
              "these are the logarithms of the responsibilities."),
        Wrong("uncertainty of the mean left out", _with(unsure=0.0),
              "the mean of each component is taken as known. Under q it is uncertain, and E[(x - mu)' Lambda (x - mu)] has a term for that."),
        Wrong("one dimension of uncertainty", lambda **arguments: torch.softmax(
            _scores(**arguments, unsure=0.5 / len(arguments["x"])), 0) if len(arguments["x"]) > 1 else _responsibilities(**arguments),
              "the uncertainty of the mean is counted for one dimension; a datum has several."),
        Wrong("no half before the uncertainty", _with(unsure=1.0),
              "the term of the uncertain mean is twice too large: it comes out of the same quadratic form, which carries a half."),
        Wrong("sign of the uncertainty", _with(unsure=-0.5),
              "an uncertain mean should make a component less likely to be responsible, not more."),
        Wrong("log-determinant left out", _with(det=0.0),
              "the normaliser of each Gaussian is missing: a broad component has a low density everywhere."),
        Wrong("whole log-determinant", _with(det=1.0),
              "the log-determinant enters with a half: the normaliser of a Gaussian holds its square root."),
        Wrong("sign of the log-determinant", _with(det=-0.5),
              "the log-determinant has the wrong sign: these are precisions, and a sharper component is higher at its centre."),
        Wrong("weights left out", _with(weights=0.0),
              "every component is given the same weight; the rare ones should have less to say."),
        Wrong("no half before the distance", _with(fit=1.0),
              "the squared distance lacks its half."),
        Wrong("no half before the quadratic form", _with(unsure=1.0, fit=1.0),
              "the whole quadratic form lacks its half, with the distance and the uncertain mean."),
        Wrong("log-determinant of the mean", lambda **arguments: _responsibilities(
            **{**arguments, "log_dets": torch.logdet(arguments["precisions"])}),
              "you took the log-determinant of the mean precision. The mean of the log-determinant is smaller, and is given."),
        Wrong("times b", lambda **arguments: _responsibilities(**{**arguments, "mean_precision": 1 / arguments["mean_precision"]}),
              "b multiplies in the term of the uncertain mean. A larger b is a mean known better: what does that do to the term?"),
        Wrong("the nearest takes all", lambda **arguments: torch.nn.functional.one_hot(_scores(**arguments).argmax(), len(arguments["means"])).double(),
              "this gives the datum to one component altogether, as K-means does. Here it is shared."),
    ],
    hints=["r_k ∝ exp of the expected log joint, as a function of the label alone. Which terms depend on k?",
           "E[log pi_k] + 1/2 E[log det Lambda_k] - 1/2 E[(x - mu_k)' Lambda_k (x - mu_k)]. In the last, mu_k and Lambda_k are both uncertain.",
           "The last expectation is d/b_k + (x - m_k)' E[Lambda_k] (x - m_k). Then `torch.softmax`."])


# 6. Project: turn the axes ----------------------------------------------------------------------------------------------

def _draw_axes(stream):
    rho, scales = stream.choice((-1, 1)) * stream.uniform(0.75, 0.95), [stream.uniform(0.5, 3) for _ in range(2)]
    covariance = torch.tensor([[scales[0] ** 2, rho * scales[0] * scales[1]], [rho * scales[0] * scales[1], scales[1] ** 2]], dtype=torch.float64)
    mean, height, Lambda, bend = _vector(stream, 2), stream.uniform(-8, -2), torch.linalg.inv(covariance), stream.uniform(0.01, 0.03)

    def log_joint(z):  # a Gaussian with its tails cut back a little, alike in all axes that whiten it
        square = ((z - mean) @ Lambda * (z - mean)).sum(-1)
        return height - 0.5 * square - bend * square**2

    return {"problem": Problem(log_joint, 2, name="correlated")}


@functools.lru_cache(maxsize=256)
def _turned(problem, turn: str = "white") -> float:
    """The mean-field bound in coordinates w, z = c + A w, with A from the Cholesky factor L of Laplace's covariance."""
    q = laplace.approximate(problem).q
    L = q.scale_tril
    A = {"white": L, "transposed": L.T, "inverse": torch.linalg.inv(L), "none": torch.eye(2, dtype=L.dtype)}[turn]
    shift = torch.linalg.slogdet(A).logabsdet
    return float(method.approximate(Problem(lambda w: problem.log_joint(q.loc + w @ A.T) + shift, 2, name="turned")).log_evidence)


@functools.lru_cache(maxsize=256)
def _half_log_det(problem) -> float:
    return float(laplace.approximate(problem).q.scale_tril.diagonal().log().sum())


axes = Check(
    "turned axes", draw=_draw_axes, reference=lambda problem: _turned(problem), outputs=["bound"], num_instances=3, tolerance=1e-4,
    wrongs=[
        Wrong("axes as they were", lambda problem: _turned(problem, "none"),
              "this is the bound in the problem's own coordinates, or in coordinates that are only stretched, which does not "
              "help: what costs is the correlation. The covariance itself, in the place of its root, turns the correlation round."),
        Wrong("Laplace's evidence", lambda problem: float(laplace.approximate(problem).log_evidence),
              "this is Laplace's estimate, which is no bound, and off where the posterior is not quite Gaussian. Take its axes, and let "
              "mean field make the bound in them."),
        Wrong("transposed", lambda problem: _turned(problem, "transposed"),
              "the triangular factor stands the wrong way round: with w as a row, its product with which matrix has the covariance of z?"),
        Wrong("inverse", lambda problem: _turned(problem, "inverse"),
              "the factor is inverted: that is the way from the old coordinates to the new, and the log joint is asked in the old ones."),
        Wrong("Jacobian twice", lambda problem: _turned(problem) + _half_log_det(problem),
              "the log-Jacobian is twice too large. The factor is a root of the covariance, and so is its determinant."),
        Wrong("Jacobian left out", lambda problem: _turned(problem) - _half_log_det(problem),
              "the change of coordinates changes volumes, and their logarithm is missing from the log joint."),
        Wrong("Jacobian the wrong way", lambda problem: _turned(problem) - 2 * _half_log_det(problem),
              "the log-Jacobian has the wrong sign. Ask of which map it is the derivative: from new coordinates to old."),
        Wrong("minus the bound", lambda problem: -_turned(problem),
              "the sign of the whole is turned around."),
        Wrong("evidence, not its logarithm", lambda problem: math.exp(_turned(problem)),
              "this is the evidence itself; asked for is its logarithm, in nats."),
    ],
    hints=["With z = c + L w, the density of w is that of z times |det L|. Which L makes the w of a Gaussian independent?",
           "`laplace.approximate(problem).q` has a `loc` and a `scale_tril` L, with L L' its covariance.",
           "Make a `Problem` of w with log joint `problem.log_joint(c + w @ L.T) + log det L`, and hand it to `mean_field.approximate`."])

ALL = (factor, spin, expected_log, bound, responsibilities, axes)


quiz = Quiz("mean-field", [
    Question("The posterior is a plane Gaussian with variances 1 and correlation 0.8. What variance does each factor of the best q have?", [
        Option("1: the marginals are right.", "Those would be the factors of least KL(p ‖ q). The bound's divergence runs the other way."),
        Option("0.36.", "One over the diagonal of the precision: 1 - 0.8². It is the variance of one latent when the other is held still.", True),
        Option("0.64.", "That is 0.8², the share of the variance that the other latent explains. What remains is 1 - 0.64."),
        Option("1.36.", "Mean field is never too wide on a Gaussian: q avoids every place where the posterior is low.")]),
    Question("In q_i ∝ exp E[log p(x, z)], over what is the expectation?", [
        Option("All of q.", "Then nothing would depend on z_i any more, and q_i would be flat."),
        Option("The posterior of the other latents.", "It is what we cannot compute; and even it would not give the marginal: averaging the log is not integrating out."),
        Option("The other factors, as they are now.", "And so each update depends on the others, and they are taken in turn.", True),
        Option("The prior of the other latents.", "The prior is inside of the log joint. The expectation is over the current q.")]),
    Question("Coordinate ascent has stopped: no factor's update raises the bound. So q …", [
        Option("is the best factorised density.", "Each factor is best given the others. Two spins that both point the wrong way hold each other there."),
        Option("is a fixed point, which may be one of several.", "Start it from several places and keep the highest bound.", True),
        Option("has the right means.", "On a Gaussian it has. In general even the means are off."),
        Option("is the posterior.", "Only if the latents are independent given the data.")]),
    Question("A ferromagnet on a finite lattice, without a field, at beta = 0.6, well in its ordered phase. Mean field says m = 0.98; exactly, E[s] is", [
        Option("0, for up and down are equally likely.", "The posterior has two humps, and q sits on one of them. Half of the mass is missing, which costs log 2.", True),
        Option("0.98.", "A single hump of it has about that. The whole posterior is symmetric."),
        Option("a little below 0.98.", "In one of the two phases, yes. But both belong to the posterior."),
        Option("undefined.", "On any finite lattice it is a finite sum.")]),
    Question("A Bayesian mixture with ten components ends with three in use. What can you conclude?", [
        Option("The data come from three groups.", "From another start it may end with four. It is a local search."),
        Option("Seven components have lost all their data, and with a prior that likes few they cost little.", "Their factors are back at the prior. "
               "What that costs hangs on the prior: little with a small concentration. Whether three is better than two, compare their bounds to see.", True),
        Option("Ten was too many, so the evidence of ten is low.", "With a small concentration the unused ones lower it little. How much, only a comparison of bounds tells."),
        Option("The bound is exact.", "It is not even close: labels can be permuted, and q knows one order only.")]),
])
