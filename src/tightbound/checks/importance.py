"""The exercises of the chapter on importance sampling, and its quiz."""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor

from tightbound.checks.check import Check, Wrong
from tightbound.checks.quiz import Option, Question, Quiz


def _normals(stream: random.Random, *shape: int, mean: float = 0.0, scale: float = 1.0) -> Tensor:
    values = [stream.gauss(mean, scale) for _ in range(math.prod(shape))]
    return torch.tensor(values, dtype=torch.float64).reshape(shape)


def _softmax(log_weights: Tensor) -> Tensor:
    return torch.softmax(log_weights, 0)


def _relative(log_weights: Tensor) -> Tensor:
    """Weights in units of the largest, which is a safe way to exponentiate."""
    return torch.exp(log_weights - log_weights.max())


def _shift(stream: random.Random) -> int:
    """A constant in the log weights: in half of the instances the exponential of it is 0 or infinite."""
    return stream.choice([0, 0, -1000, 1000])


# 1. The log of an average -----------------------------------------------------------------------------------

def _draw_log_weights(stream):
    """Log weights about as far out as 800 nats, on either side."""
    mean = stream.choice([-1, 1]) * stream.uniform(800, 1500)
    return {"log_weights": _normals(stream, stream.randint(5, 20), mean=mean, scale=stream.uniform(1, 3))}


def _log_mean_exp(log_weights):
    return torch.logsumexp(log_weights, 0) - math.log(len(log_weights))


log_mean_exp = Check(
    "log of an average", draw=_draw_log_weights, reference=_log_mean_exp, outputs=["log evidence"],
    when_nan="The exponential of numbers this far from zero does not fit into double precision.",
    wrongs=[
        Wrong("mean of the logs", lambda log_weights: log_weights.mean(),
              "you averaged the logarithms, which estimates the ELBO. The evidence is the average of the "
              "weights themselves."),
        Wrong("sum, not mean", lambda log_weights: torch.logsumexp(log_weights, 0),
              "this is the logarithm of the sum of the weights: it has not been divided by their number."),
        Wrong("number of samples with the wrong sign",
              lambda log_weights: torch.logsumexp(log_weights, 0) + math.log(len(log_weights)),
              "the logarithm of the number of samples has the wrong sign: to divide is to subtract a "
              "logarithm."),
        Wrong("divided outside the logarithm",
              lambda log_weights: torch.logsumexp(log_weights, 0) / len(log_weights),
              "you divided the logarithm of the sum by the number of samples; the division belongs inside "
              "the logarithm."),
        Wrong("exponentiated at once", lambda log_weights: torch.exp(log_weights).mean().log(),
              "your weights became 0 or infinite: the exponential of numbers this far from zero does not fit "
              "into double precision. Make them smaller before you exponentiate."),
        Wrong("maximum not added back", lambda log_weights: _log_mean_exp(log_weights - log_weights.max()),
              "you made the log weights smaller before exponentiating, which is right; what was taken away "
              "must come back in the end."),
        Wrong("mean not added back", lambda log_weights: _log_mean_exp(log_weights - log_weights.mean()),
              "you took the mean from the log weights before exponentiating, which helps; what was taken away "
              "must come back in the end."),
        Wrong("maximum taken away once more",
              lambda log_weights: _log_mean_exp(log_weights) - 2 * log_weights.max(),
              "what you took from the log weights is taken away a second time at the end, where it has to be "
              "added."),
        Wrong("largest weight only", lambda log_weights: log_weights.max(),
              "this is the largest log weight: the others count as well, and there is a number of samples to "
              "divide by."),
        Wrong("largest weight as the whole sum",
              lambda log_weights: log_weights.max() - math.log(len(log_weights)),
              "only the largest weight is in your sum; the others are smaller, but not nothing."),
        Wrong("logarithm to base ten", lambda log_weights: log_weights.max()
              + torch.exp(log_weights - log_weights.max()).mean().log10(),
              "one of your logarithms is to base ten; nats need natural ones."),
        Wrong("log evidence to base ten", lambda log_weights: _log_mean_exp(log_weights) / math.log(10),
              "this is the power of ten of the evidence; nats are powers of e."),
        Wrong("S - 1 for S",
              lambda log_weights: torch.logsumexp(log_weights, 0) - math.log(len(log_weights) - 1),
              "you divided by S - 1. That belongs to a variance, whose mean is estimated too; a mean is over "
              "all S."),
        Wrong("minus the log evidence", lambda log_weights: -_log_mean_exp(log_weights),
              "this is the free energy, minus what is asked for: the sign is turned around."),
        Wrong("evidence, not its logarithm", lambda log_weights: torch.exp(_log_mean_exp(log_weights)),
              "this is the evidence itself, which is 0 or infinite in double precision. Asked for is its "
              "logarithm."),
    ],
    hints=["The average of exp(l_s) has to be taken before the logarithm. Which of the numbers l_s may be "
           "exponentiated safely?",
           "exp(l_s) = exp(m) exp(l_s - m) for every m. With m the largest of them, no exponential is above "
           "one, and one of them is one.",
           "m + log of the mean of exp(l_s - m); or `torch.logsumexp(log_weights, 0)` less the logarithm of "
           "their number."])


# 2. What the samples are worth ------------------------------------------------------------------------------

def _draw_weights(stream):
    size = stream.randint(10, 40)
    mean = stream.uniform(-2, 2) + _shift(stream)
    return {"log_weights": _normals(stream, size, mean=mean, scale=stream.uniform(0.5, 1.5))}


def _ess(log_weights):
    return 1 / _softmax(log_weights).square().sum()


def _standard_error(log_weights):
    ess = _ess(log_weights)
    return ess, torch.sqrt(1 / ess - 1 / len(log_weights))


def _plain_ess(log_weights):
    weights = torch.exp(log_weights)
    return weights.sum() ** 2 / weights.square().sum()


def _perplexity(log_weights):
    share = _softmax(log_weights)
    return torch.exp(-(share * share.log()).sum())


standard_error = Check(
    "worth of the samples", draw=_draw_weights, reference=_standard_error,
    outputs=["effective sample size", "standard error"],
    wrongs=[
        Wrong("exponentiated at once", _plain_ess,
              "right where the log weights are near zero. Some lie near -1000 or 1000, and there the "
              "exponential is 0 or infinite: the ESS does not change when all weights are multiplied by one "
              "number, so choose it well."),
        Wrong("in the other order", lambda log_weights: _standard_error(log_weights)[1],
              "this is the standard error: the ESS is to be returned first."),
        Wrong("weights not normalised", lambda log_weights: 1 / torch.exp(2 * log_weights).sum(),
              "the weights have to sum to one in this formula (or their sum has to stand above it, squared): "
              "multiply all of them by two, and nothing may change."),
        Wrong("sum not squared",
              lambda log_weights: torch.exp(log_weights).sum() / torch.exp(2 * log_weights).sum(),
              "the sum above the line is not squared, so that your answer depends on the unit of the "
              "weights."),
        Wrong("largest weight for the sum", lambda log_weights: 1 / _relative(log_weights).square().sum(),
              "you divided the weights by the largest, which is safe, but they do not sum to one by that, "
              "and this formula needs it."),
        Wrong("sum not squared, in units of the largest",
              lambda log_weights: _relative(log_weights).sum() / _relative(log_weights).square().sum(),
              "the sum above the line is not squared: your answer would be another if you had divided the "
              "weights by any other number than the largest."),
        Wrong("squares forgotten", lambda log_weights: 1.0,
              "your answer is one whatever the weights are: the shares sum to one, their squares do not."),
        Wrong("number of samples", lambda log_weights: float(len(log_weights)),
              "this is the number of samples; they are worth so many only when all weights are equal."),
        Wrong("share of the samples", lambda log_weights: _ess(log_weights) / len(log_weights),
              "this is the share of the samples that is left, between 0 and 1; asked for is how many."),
        Wrong("turned over", lambda log_weights: 1 / _ess(log_weights),
              "the fraction is upside down: your number falls below one, and grows as the weights become "
              "less even."),
        Wrong("log weights not exponentiated",
              lambda log_weights: log_weights.sum() ** 2 / log_weights.square().sum(),
              "the formula speaks of weights, and you put log weights into it."),
        Wrong("S - 1 for S", lambda log_weights: (
            len(log_weights) / (1 + _relative(log_weights).var() / _relative(log_weights).mean() ** 2)),
              "nearly: `torch.var` divides by S - 1, and the sums in the formula mean S (`correction=0`)."),
        Wrong("exponential of the entropy", _perplexity,
              "this is the exponential of the entropy of the shares: a fair measure, but another one, and "
              "not tied to the variance."),
        Wrong("one over the largest share", lambda log_weights: 1 / _softmax(log_weights).max(),
              "this is one over the largest share. All of the weights have their say, through their "
              "squares."),
        Wrong("minus 1/S forgotten", lambda log_weights: torch.sqrt(1 / _ess(log_weights)),
              "with all weights equal the estimate has no error at all, and yours has one.", 1),
        Wrong("plus for minus", lambda log_weights: torch.sqrt(1 / _ess(log_weights) + 1 / len(log_weights)),
              "a sign is turned: with all weights equal the error has to vanish.", 1),
        Wrong("logarithm", lambda log_weights: _standard_error(log_weights)[1].log(),
              "you took a logarithm of the error. That of log p is asked for, which is an error in nats already.", 1),
        Wrong("no root", lambda log_weights: 1 / _ess(log_weights) - 1 / len(log_weights),
              "this is the variance; the standard error is its root.", 1),
        Wrong("difference of the roots",
              lambda log_weights: _ess(log_weights) ** -0.5 - len(log_weights) ** -0.5,
              "you took the roots first and the difference then; it is variances that are subtracted.", 1),
        Wrong("1 over the root of S", lambda log_weights: len(log_weights) ** -0.5,
              "this depends on the number of samples alone. Uneven weights make the estimate worse.", 1),
        Wrong("exponentiated at once, in the error", lambda log_weights: torch.sqrt(
            1 / _plain_ess(log_weights) - 1 / len(log_weights)),
              "right where the log weights are near zero; where they are hundreds of nats away, an "
              "exponential in it became 0 or infinite.", 1),
        Wrong("not divided by S", lambda log_weights: torch.sqrt(len(log_weights) / _ess(log_weights) - 1),
              "this is how much one weight varies, beside the mean weight. Your estimate is the mean of "
              "many.", 1),
        Wrong("that of the evidence",
              lambda log_weights: torch.exp(log_weights).std(correction=0) / math.sqrt(len(log_weights)),
              "this is the standard error of the evidence. A small relative error of a number is the error "
              "of its logarithm.", 1),
        Wrong("that of the evidence, in units of the largest weight",
              lambda log_weights: _relative(log_weights).std(correction=0) / math.sqrt(len(log_weights)),
              "this is the standard error of the mean weight (with the largest as unit), not of its "
              "logarithm: in another unit it would be another number.", 1),
        Wrong("that of the ELBO", lambda log_weights: log_weights.std() / math.sqrt(len(log_weights)),
              "this is the standard error of the mean log weight, which estimates the ELBO.", 1),
        Wrong("S - 1 for S in the error", lambda log_weights: (
            _relative(log_weights).std() / _relative(log_weights).mean() / math.sqrt(len(log_weights))),
              "nearly: `torch.std` divides by S - 1; use `correction=0`, or the effective sample size that "
              "you have just computed.", 1),
    ],
    hints=["Both depend on the weights only through the ratio of the mean of their squares to the square of "
           "their mean.",
           "With the shares v_s = w_s / sum w: ESS = 1 / sum v_s^2. For the error: if p is off by a small "
           "dp, log p is off by dp/p, and the variance of a mean is a variance over S.",
           "`v = torch.softmax(log_weights, 0)`; ESS is one over the sum of its squares; the standard error "
           "is the root of 1/ESS - 1/S."])


# 3. A posterior mean ----------------------------------------------------------------------------------------

def _draw_mean(stream):
    size = stream.randint(10, 40)
    f = _normals(stream, size, mean=stream.uniform(2, 5), scale=2.0)
    mean = stream.uniform(-2, 2) + _shift(stream)
    return {"f": f, "log_weights": _normals(stream, size, mean=mean, scale=stream.uniform(0.5, 1.5))}


def _mean(f, log_weights):
    return _softmax(log_weights) @ f


def _spread(f, log_weights):
    """The posterior variance of f by the same weights."""
    return _softmax(log_weights) @ (f - _mean(f, log_weights)).square()


def _error(f, log_weights, centre):
    return (_softmax(log_weights) * (f - centre)).square().sum().sqrt()


posterior_mean = Check(
    "posterior mean", draw=_draw_mean, outputs=["mean", "standard error"],
    reference=lambda f, log_weights: (_mean(f, log_weights), _error(f, log_weights, _mean(f, log_weights))),
    wrongs=[
        Wrong("exponentiated at once",
              lambda f, log_weights: torch.exp(log_weights) @ f / torch.exp(log_weights).sum(),
              "right where the log weights are near zero. They are known up to a constant, and with a large "
              "one their exponentials are 0 or infinite. The constant drops out of the mean: choose a better "
              "one."),
        Wrong("no weights", lambda f, log_weights: f.mean(),
              "this is the plain average, the mean of f under the proposal: the weights are not in it."),
        Wrong("divided by S", lambda f, log_weights: (torch.exp(log_weights) * f).mean(),
              "you divided by the number of samples. That would be right for a normalised posterior; these "
              "weights know it only up to a constant."),
        Wrong("divided by S, in units of the largest weight",
              lambda f, log_weights: (_relative(log_weights) * f).mean(),
              "with the largest weight as unit the weights do not average to one: it is not the number of "
              "samples that you have to divide by."),
        Wrong("log weights as weights", lambda f, log_weights: log_weights @ f / log_weights.sum(),
              "the average is weighted with log weights; exponentiate them first."),
        Wrong("normalised and divided again", lambda f, log_weights: (_softmax(log_weights) * f).mean(),
              "your weights sum to one already, and then you divided by the number of samples as well."),
        Wrong("weights squared", lambda f, log_weights: _softmax(2 * log_weights) @ f,
              "the weights are squared in your mean; they count once here."),
        Wrong("turned weights", lambda f, log_weights: _softmax(-log_weights) @ f,
              "your weights are q/p: a sample from where the posterior is low counts most."),
        Wrong("best sample only", lambda f, log_weights: f[log_weights.argmax()],
              "this is f at the sample of the largest weight: the others have a share as well."),
        Wrong("exponentiated at once, in the error", lambda f, log_weights: (
            (torch.exp(log_weights) * (f - _mean(f, log_weights))).square().sum().sqrt()
            / torch.exp(log_weights).sum()),
              "right where the log weights are near zero; where the unknown constant is large, an "
              "exponential in it became 0 or infinite.", 1),
        Wrong("that of a plain mean", lambda f, log_weights: f.std() / math.sqrt(len(f)),
              "this is the standard error of a plain average; it knows nothing of the weights.", 1),
        Wrong("spread over the root of S",
              lambda f, log_weights: torch.sqrt(_spread(f, log_weights) / len(f)),
              "this is the posterior standard deviation over the root of the number of samples, as though "
              "each was worth one.", 1),
        Wrong("spread over the root of ESS",
              lambda f, log_weights: torch.sqrt(_spread(f, log_weights) / _ess(log_weights)),
              "this is a rule of thumb, the posterior standard deviation over the root of the ESS: it takes "
              "f and the weight of a sample for unrelated. The delta method looks at each sample's own "
              "weight.", 1),
        Wrong("proposal's spread over the root of ESS",
              lambda f, log_weights: f.std() / _ess(log_weights).sqrt(),
              "the spread in it is that of f under the proposal, without weights, and even the posterior's "
              "would make a rule of thumb only.", 1),
        Wrong("posterior standard deviation", lambda f, log_weights: torch.sqrt(_spread(f, log_weights)),
              "this is how far the posterior spreads, which more samples do not change: the weights in the "
              "sum are not squared.", 1),
        Wrong("no root", lambda f, log_weights: _error(f, log_weights, _mean(f, log_weights)) ** 2,
              "this is the variance; its root is asked for.", 1),
        Wrong("S - 1 for S", lambda f, log_weights: _error(f, log_weights, _mean(f, log_weights))
              * math.sqrt(len(f) / (len(f) - 1)),
              "nearly: you divided by S - 1 where the exercise means S.", 1),
        Wrong("denominator forgotten", lambda f, log_weights: torch.sqrt(
            len(f) * (_softmax(log_weights) * f).var(correction=0)),
              "this is the error of the numerator alone. The denominator is off as well, and the two errors are related.", 1),
        Wrong("not centred", lambda f, log_weights: _error(f, log_weights, 0.0),
              "you forgot to subtract the mean: add a constant to f, and the error may not change.", 1),
        Wrong("centred at the plain mean", lambda f, log_weights: _error(f, log_weights, f.mean()),
              "deviations are taken from the plain mean of f; they belong to the weighted one.", 1),
        Wrong("divided by the root of S again",
              lambda f, log_weights: _error(f, log_weights, _mean(f, log_weights)) / math.sqrt(len(f)),
              "you divided by the root of the number of samples although the weights, each about 1/S, have "
              "done that.", 1),
        Wrong("weights not normalised",
              lambda f, log_weights: (
                  _error(f, log_weights, _mean(f, log_weights)) * torch.exp(log_weights).sum()),
              "the weights in the error have to sum to one, as those in the mean do.", 1),
        Wrong("weights not normalised, in units of the largest", lambda f, log_weights: (
            _error(f, log_weights, _mean(f, log_weights)) * _relative(log_weights).sum()),
              "the largest weight is one in your error, and the sum of them is not, as it is in the "
              "mean.", 1),
    ],
    hints=["The mean is a ratio of two averages, of w f and of w: so the unknown constant in the weights "
           "drops out.",
           "To first order the ratio is off by sum_s v_s (f_s - mean), with v_s the shares. Its terms are "
           "independent, with mean zero: what is the variance of their sum, estimated by the terms "
           "themselves?",
           "`v = torch.softmax(log_weights, 0)`; mean = v @ f; the standard error is the root of sum_s v_s^2 "
           "(f_s - mean)^2."])


# 4. The importance-weighted bound ---------------------------------------------------------------------------

def _draw_groups(stream):
    num_groups = stream.randint(3, 12)
    group = stream.choice([k for k in range(2, 11) if k != num_groups])
    mean = stream.uniform(-40, -20) + _shift(stream)
    return {"log_weights": _normals(stream, num_groups, group, mean=mean, scale=stream.uniform(1, 2))}


def _bounds(log_weights):
    return torch.logsumexp(log_weights, 1) - math.log(log_weights.shape[1])


iwae = Check(
    "importance-weighted bound", draw=_draw_groups, outputs=["bound"],
    reference=lambda log_weights: _bounds(log_weights).mean(),
    wrongs=[
        Wrong("exponentiated at once", lambda log_weights: torch.exp(log_weights).mean(1).log().mean(),
              "right while the log weights are small. Some are near -1000 or 1000, and there your bound is "
              "infinite: what kept the exponentials in range in exercise 1?"),
        Wrong("one value a group", _bounds,
              "you return one value a group. Asked for is one number, for the expectation."),
        Wrong("axes exchanged", lambda log_weights: _bounds(log_weights.T).mean(),
              "you took groups of R and averaged over K: the weights of one group stand in a row."),
        Wrong("one logarithm over all", lambda log_weights: _log_mean_exp(log_weights.flatten()),
              "you averaged all the weights inside one logarithm, which is the bound for a group of R K: the "
              "average over groups belongs outside."),
        Wrong("sum in the group, not mean", lambda log_weights: torch.logsumexp(log_weights, 1).mean(),
              "inside the logarithm stands a sum of K weights, not their mean: yours would pass log p(x) for "
              "large K."),
        Wrong("divided by R in the group",
              lambda log_weights: (torch.logsumexp(log_weights, 1) - math.log(log_weights.shape[0])).mean(),
              "inside the logarithm you divided by the number of groups; there are K weights in one."),
        Wrong("ELBO", lambda log_weights: log_weights.mean(),
              "this is the average log weight, the ELBO, or the bound for K = 1: grouping has done nothing."),
        Wrong("largest of each group", lambda log_weights: log_weights.amax(1).mean(),
              "you took the largest weight of each group for the mean of the group, which is too much."),
        Wrong("sum over groups", lambda log_weights: _bounds(log_weights).sum(),
              "the groups are summed; their average is the estimate."),
        Wrong("best group", lambda log_weights: _bounds(log_weights).max(),
              "this is the best of the groups. The bound is an expectation: average over them."),
        Wrong("median over groups", lambda log_weights: _bounds(log_weights).median(),
              "this is the median of the groups. The bound is an expectation, and low values count in it as "
              "much as they are low."),
        Wrong("divided by K outside the logarithm",
              lambda log_weights: (torch.logsumexp(log_weights, 1) / log_weights.shape[1]).mean(),
              "you divided the logarithm by K; the division belongs inside of it."),
        Wrong("minus the bound", lambda log_weights: -_bounds(log_weights).mean(),
              "the sign is turned around: this would be a loss to minimise."),
    ],
    hints=["Two averages are taken here, one inside the logarithm and one outside of it. Which of the two "
           "axes belongs to which?",
           "For each group, the logarithm of the mean of its K weights is one estimate of log p(x): that is "
           "exercise 1. It is low on average, and the bound is what it is on average.",
           "`torch.logsumexp(log_weights, 1)`, less log K, is (R,); its mean is the answer."])


# 5. The curse of dimension, by hand -------------------------------------------------------------------------

def _draw_curse(stream):
    low, high = stream.choice([(0.3, 0.68), (0.75, 0.97), (1.05, 1.35), (1.5, 1.9)])
    return {"s": stream.uniform(low, high), "d": stream.randint(2, 6)}


def _share(s):
    """ESS/S in one dimension."""
    return math.sqrt(2 * s**2 - 1) / s**2 if s**2 > 0.5 else 0.0


def _k(s):
    return max(0.0, 1 - s**2)


curse = Check(
    "curse of dimension", draw=_draw_curse, outputs=["ESS per sample", "k"], num_instances=30,
    reference=lambda s, d: (_share(s) ** d, _k(s)),
    when_nan="The formula is not the same for all s: what does it mean where your root has none?",
    wrongs=[
        Wrong("no threshold", lambda s, d: _share(s) ** d if s**2 > 0.5 else math.nan,
              "right for wide proposals and for those that are slightly too narrow. For the narrowest the "
              "variance of the weights is infinite, and the formula, which takes it for finite, says "
              "nothing."),
        Wrong("threshold at s = 1", lambda s, d: _share(s) ** d if s > 1 else 0.0,
              "you have zero for every proposal narrower than the target. The variance of the weights is "
              "infinite for some of those, not for all: for which s does the integral of p^2/q diverge?"),
        Wrong("no dimension", lambda s, d: _share(s),
              "right in one dimension. The coordinates are independent, and each of them costs as much."),
        Wrong("times d", lambda s, d: _share(s) * d,
              "the dimension multiplies your answer. The weight is a product over coordinates, and so is the "
              "mean of its square."),
        Wrong("s forgotten", lambda s, d: math.sqrt(2 - 1 / s**2) ** d if s**2 > 0.5 else math.nan,
              "a factor of s is missing: the proposal is normalised, so its density has s in front of it too."),
        Wrong("half the dimension", lambda s, d: _share(s) ** (d / 2),
              "the power is half of what it should be: there are d factors, one a coordinate, with a root "
              "inside each already."),
        Wrong("turned over", lambda s, d: 1 / _share(s) ** d if s**2 > 0.5 else math.nan,
              "this is E[w^2] / E[w]^2, which is at least one; the share of samples that is left is its "
              "inverse."),
        Wrong("no root", lambda s, d: ((2 * s**2 - 1) / s**2) ** d if s**2 > 0.5 else math.nan,
              "a root is missing: the integral of exp(-a z^2) goes like the inverse root of a."),
        Wrong("share squared", lambda s, d: _share(s) ** (2 * d) if s**2 > 0.5 else math.nan,
              "yours is the square of the share: did a root get lost on the way, or was a mean squared "
              "twice?"),
        Wrong("s as a variance", lambda s, d: (math.sqrt(2 * s - 1) / s) ** d if s > 0.5 else 0.0,
              "s is the standard deviation of the proposal, and you took it for the variance."),
        Wrong("target and proposal exchanged",
              lambda s, d: (s * math.sqrt(2 - s**2)) ** d if s**2 < 2 else 0.0,
              "you drew from N(0, I) for a target N(0, s^2 I): the roles of the two are exchanged."),
        Wrong("exponential of the divergence", lambda s, d: math.exp(-d * (0.5 / s**2 - 0.5 + math.log(s))),
              "this is exp(-KL(p || q)). It says how many samples one needs, in another sense; the ESS goes "
              "with the mean of w^2."),
        Wrong("no threshold in k", lambda s, d: 1 - s**2,
              "for a wide proposal your k is negative. There the weights are bounded and have no tail; the "
              "exercise calls that k = 0.", 1),
        Wrong("k with s for its square", lambda s, d: max(0.0, 1 - s),
              "s enters by its square, for log w is quadratic in z.", 1),
        Wrong("square of s", lambda s, d: s**2 if s < 1 else math.nan,
              "your k grows with s. The narrower the proposal, the heavier the tail of the weights.", 1),
        Wrong("k turned over", lambda s, d: 1 / (1 - s**2) if s < 1 else 0.0,
              "this is 1/k, the power with which the tail falls (and the order of the first moment that is "
              "infinite).", 1),
        Wrong("k times d", lambda s, d: d * _k(s),
              "your k grows with the dimension. A chi-squared variable of d degrees of freedom falls like "
              "exp(-y/2) up to a power of y, whatever d is: the dimension changes how often the tail is "
              "reached, not its index.", 1),
        Wrong("half of k", lambda s, d: 0.5 * _k(s),
              "your k is half of what it should be: P(y > u) falls like exp(-u/2), and log w holds y with a "
              "half as well.", 1),
        Wrong("tail in z", lambda s, d: max(0.0, 1 / s**2 - 1),
              "you put z on the scale of the target. Here it is drawn from the proposal: z = s eps.", 1),
        Wrong("k of a wide proposal", lambda s, d: max(0.0, 1 - 1 / s**2),
              "your k is zero for a narrow proposal and above it for a wide one. It is the narrow one that "
              "meets large weights.", 1),
    ],
    hints=["In one dimension first. ESS/S tends to E[w]^2 / E[w^2], and with both densities normalised E[w] "
           "= 1 and E[w^2] is the integral of p^2/q, of a Gaussian shape. When does it converge?",
           "p^2/q is a constant times exp(-z^2 (1 - 1/(2 s^2))). In d dimensions the integral is a product "
           "of d equal ones. For k: with z = s eps and y = |eps|^2, log w = constant + (1 - s^2) y/2, and "
           "P(y > u) falls like exp(-u/2).",
           "E[w^2] = (s^2 / sqrt(2 s^2 - 1))^d for s^2 > 1/2, else infinite. And P(w > t) = P(y > 2 log t / "
           "(1 - s^2) + ...) ~ t^(-1/(1 - s^2)): compare with t^(-1/k)."])


# 6. Project: annealed importance sampling -------------------------------------------------------------------

def _draw_path(stream):
    steps, size = stream.randint(3, 6), stream.randint(3, 6)
    inner = sorted(stream.uniform(0.02, 0.95) for _ in range(steps - 1))
    return {"log_joint": _normals(stream, steps + 1, size, mean=-30.0, scale=3.0),
            "log_q": _normals(stream, steps + 1, size, mean=-14.0, scale=2.0),
            "b": torch.tensor([0.0, *inner, 1.0], dtype=torch.float64)}


def _terms(log_joint, log_q, b):
    return b.diff().unsqueeze(-1) * (log_joint - log_q)[:-1]


annealed = Check(
    "annealed importance sampling", draw=_draw_path, outputs=["log weights"],
    reference=lambda log_joint, log_q, b: _terms(log_joint, log_q, b).sum(0),
    wrongs=[
        Wrong("off by one",
              lambda log_joint, log_q, b: (b.diff().unsqueeze(-1) * (log_joint - log_q)[1:]).sum(0),
              "each step is weighed with the point that it leads to. The weight belongs to the point that it "
              "starts from, before it moves."),
        Wrong("temperature for its difference",
              lambda log_joint, log_q, b: (b[1:].unsqueeze(-1) * (log_joint - log_q)[:-1]).sum(0),
              "each term is multiplied with b_t itself. From one density to the next, the exponent changes "
              "by a difference."),
        Wrong("earlier temperature for the difference",
              lambda log_joint, log_q, b: (b[:-1].unsqueeze(-1) * (log_joint - log_q)[:-1]).sum(0),
              "each term is multiplied with b_{t-1}, so that the first one vanishes. It is the change of the "
              "exponent that counts."),
        Wrong("proposal forgotten", lambda log_joint, log_q, b: _terms(log_joint, 0.0, b).sum(0),
              "the proposal is missing: the power of q changes along the path as well, from one to nothing."),
        Wrong("proposal with the wrong sign", lambda log_joint, log_q, b: _terms(log_joint, -log_q, b).sum(0),
              "log q has the wrong sign: its power falls as that of the joint rises."),
        Wrong("mean, not sum", lambda log_joint, log_q, b: _terms(log_joint, log_q, b).mean(0),
              "you averaged the steps. The weight is a product over them, so its logarithm is a sum."),
        Wrong("no temperatures", lambda log_joint, log_q, b: (log_joint - log_q)[:-1].sum(0),
              "the temperatures are missing: every step counts here as though it went all the way."),
        Wrong("equal steps", lambda log_joint, log_q, b: (log_joint - log_q)[:-1].mean(0),
              "you took the steps in b for equal. They are given, and they are not."),
        Wrong("start only", lambda log_joint, log_q, b: (log_joint - log_q)[0],
              "this is plain importance sampling, from the first point of each path: the chain has been for "
              "nothing."),
        Wrong("end over start", lambda log_joint, log_q, b: log_joint[-1] - log_q[0],
              "f_t is taken at the point after the move, and f_{t-1} at that before it, so that all that lies between "
              "cancels. Both belong to the same point."),
        Wrong("end only", lambda log_joint, log_q, b: (log_joint - log_q)[-1],
              "these are the weights of the last points as though they came from q, which they no longer "
              "do."),
        Wrong("trapezium rule", lambda log_joint, log_q, b: (
            b.diff().unsqueeze(-1) * ((log_joint - log_q)[1:] + (log_joint - log_q)[:-1]) / 2).sum(0),
              "you averaged both ends of each step. That is thermodynamic integration: often close, but such "
              "weights are not unbiased."),
        Wrong("weights added", lambda log_joint, log_q, b: torch.logsumexp(_terms(log_joint, log_q, b), 0),
              "you added the factors of the steps. They follow one another, so they multiply."),
        Wrong("weights, not their logarithms",
              lambda log_joint, log_q, b: _terms(log_joint, log_q, b).sum(0).exp(),
              "these are the weights themselves; asked for are their logarithms, which never get too small "
              "for double precision."),
        Wrong("log evidence", lambda log_joint, log_q, b: _log_mean_exp(_terms(log_joint, log_q, b).sum(0)),
              "this is one number, the log evidence that the paths estimate together. Asked for is the log "
              "weight of each path."),
        Wrong("summed over paths as well", lambda log_joint, log_q, b: _terms(log_joint, log_q, b).sum(),
              "you summed over steps and paths, to one number. A weight is a product over the steps of one "
              "path: asked for is one for each of the S paths."),
        Wrong("averaged over paths", lambda log_joint, log_q, b: _terms(log_joint, log_q, b).sum(0).mean(),
              "you averaged over the paths, to one number; asked for is the log weight of each of the S "
              "paths."),
        Wrong("summed over paths, not steps", lambda log_joint, log_q, b: _terms(log_joint, log_q, b).sum(1),
              "you summed along the wrong axis: a row is one step of all paths, and a path is a column."),
        Wrong("minus the log weights", lambda log_joint, log_q, b: -_terms(log_joint, log_q, b).sum(0),
              "the sign of the whole is turned around: b rises."),
    ],
    hints=["The weight is a product of small importance weights, one a step: the next density over the "
           "present one, at a point that the present one has made.",
           "f_t/f_{t-1} at z is (p(x, z)/q(z)) to the power b_t - b_{t-1}. At which of z_{t-1} and z_t is it "
           "taken, if the chain has yet to move under f_t?",
           "`b.diff()` has shape (T,). Multiply it, as a column, with the first T rows of log_joint - log_q, "
           "and sum over the rows."])

ALL = (log_mean_exp, standard_error, posterior_mean, iwae, curse, annealed)


quiz = Quiz("importance", [
    Question("The mean weight is an unbiased estimate of p(x). What of its logarithm?", [
        Option("It is unbiased for log p(x).", "Expectations pass through straight lines only, and a "
               "logarithm is bent."),
        Option("It is too low on average, and the more the weights vary.", "Jensen's inequality: the "
               "logarithm is concave. Where the variance is finite it falls short by about Var(w) / (2 S "
               "p(x)^2).", True),
        Option("It is too high on average.", "A concave function pulls the other way: chance losses cost "
               "more in the logarithm than equal gains bring."),
        Option("It is low by an amount that does not depend on S.", "That is the ELBO, where the logarithm "
               "is taken before the average. Here the average comes first, and what is left shrinks with "
               "S.")]),
    Question("A million samples, a mean that looks settled, a small error bar, and k-hat = 0.8. What does "
             "that say?", [
        Option("All is well: k-hat below one means that the estimate converges.", "It does converge, as the "
               "mean exists, but slower than the root of S, and the error bar, made from a variance that "
               "does not exist, is too small."),
        Option("80 % of the samples are wasted.", "That would be a statement about the effective sample "
               "size. k-hat is an exponent."),
        Option("The tail of the weights looks as if their variance was infinite: rare huge weights are "
               "missing, and the error bar cannot be trusted.", "Above one half there is no variance, and "
               "above 0.7 no practical number of samples makes up for it. A proposal with heavier tails "
               "does.", True),
        Option("More samples of the same proposal will bring k-hat down.", "k is a property of target and "
               "proposal; more samples only tell it more precisely.")]),
    Question("10,000 samples have an effective sample size of 9,990. Which of these may still be the case?", [
        Option("The proposal has missed a mode that holds half of the posterior.",
               "Where no sample fell there is no weight to complain. "
               "Every diagnostic made from the weights is blind to it: log p(x) is then low by log 2, and "
               "nothing shows.", True),
        Option("A few weights carry nearly all of the sum.", "Then the sum of squares would be large, and "
               "the effective sample size small."),
        Option("The log weights vary by several nats from one sample to the next.",
               "Weights as uneven as that would leave far fewer than "
               "9,990; here they agree to a few per cent."),
        Option("The proposal is far from the posterior wherever it samples.", "Nearly equal weights say the "
               "opposite: where it samples, q is the posterior up to a constant factor.")]),
    Question("In the importance-weighted bound, K goes from 1 to 100. What changes, in expectation?", [
        Option("Nothing but the noise: an average over more samples has the same mean.",
               "The average stands inside the logarithm, so its "
               "noise is also a bias."),
        Option("The bound rises, and passes log p(x) for K large enough.", "The mean weight has mean p(x) "
               "for every K, so by Jensen's inequality its logarithm has a mean of at most log p(x). Single "
               "runs may lie above it."),
        Option("The bound falls, as more samples can go wrong.", "Dropping one weight of the group at random "
               "leaves the mean unbiased and makes it noisier: fewer samples are never better."),
        Option("The bound rises from the ELBO towards log p(x), and never passes it.",
               "With more weights in the average there is less "
               "variance for the logarithm to punish: the gap falls like 1/K where the variance is "
               "finite.", True)]),
    Question("The proposal is the prior, the posterior is narrow, and there are a hundred latents. What does "
             "a typical run with 10,000 samples show?", [
        Option("An estimate of p(x) that is right, with a large error bar.", "The error bar is made from the "
               "same weights, and those that matter are not among them."),
        Option("An estimate far above log p(x).", "By Markov's inequality the mean weight exceeds ten times "
               "p(x) in at most one run of ten; to be much too high is rare, to be much too low is not."),
        Option("An estimate far below log p(x), with an error bar that hardly hints at it.",
               "The mean is kept right by enormous weights, "
               "so rare that a typical run sees none: the median lies far below the mean.", True),
        Option("Weights that are nearly all equal.", "Each coordinate multiplies the weight by another "
               "random factor: their logarithms add up, and so does the variance of the log weight.")]),
])
