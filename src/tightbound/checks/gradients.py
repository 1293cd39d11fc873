"""The exercises of the chapter on gradient estimators, and its quiz."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tightbound.checks.check import Check, Wrong
from tightbound.checks.quiz import Option, Question, Quiz


def _normals(stream, *shape: int, scale: float = 1.0) -> Tensor:
    flat = [stream.gauss(0, scale) for _ in range(math.prod(shape))]
    return torch.tensor(flat, dtype=torch.float64).reshape(shape)


# 1. The score function by hand ------------------------------------------------------------------------------------------

def _draw_score(stream):
    mean, scale = stream.uniform(-2, 2), stream.uniform(0.4, 0.8)
    z = mean + scale * _normals(stream, stream.randint(4, 9))
    return {"z": z, "f": _normals(stream, len(z), scale=3.0) + 2, "mean": mean, "scale": scale}


def _eps(z, mean, scale):
    return (z - mean) / scale


def _score(z, f, mean, scale):
    e = _eps(z, mean, scale)
    return (f * e / scale).mean(), (f * (e**2 - 1)).mean()


score = Check(
    "score function", draw=_draw_score, reference=_score, outputs=["gradient in the mean", "gradient in the log scale"],
    wrongs=[
        Wrong("sign", lambda z, f, mean, scale: -_score(z, f, mean, scale)[0],
              "the sign is turned around. Where f is high to the right of the mean, the mean should move to the right."),
        Wrong("not divided by the scale", lambda z, f, mean, scale: (f * _eps(z, mean, scale)).mean(),
              "one factor of 1/scale is missing: -(z - mean)²/(2 scale²) has the square of the scale below."),
        Wrong("not divided at all", lambda z, f, mean, scale: (f * (z - mean)).mean(),
              "the scale is missing: differentiate -(z - mean)²/(2 scale²)."),
        Wrong("sum", lambda z, f, mean, scale: _score(z, f, mean, scale)[0] * len(z),
              "this is a sum over the samples. An expectation is estimated by their mean."),
        Wrong("average of f times average of the score", lambda z, f, mean, scale: f.mean() * (_eps(z, mean, scale) / scale).mean(),
              "you multiplied two averages. Each sample's f belongs to its own score: multiply first, then average."),
        Wrong("score alone", lambda z, f, mean, scale: (_eps(z, mean, scale) / scale).mean(),
              "this is the mean score, which is zero but for chance. f is missing."),
        Wrong("centred f", lambda z, f, mean, scale: ((f - f.mean()) * _eps(z, mean, scale) / scale).mean(),
              "either you took the mean of f off, which is a baseline, the next exercises' matter; or you measured z from the samples' own "
              "mean in place of q's. Made from the same samples, either shrinks the estimate."),
        Wrong("one missing", lambda z, f, mean, scale: (f * _eps(z, mean, scale) ** 2).mean(),
              "a term is missing: -log scale, which stands in the log density too, has a derivative.", 1),
        Wrong("in the scale", lambda z, f, mean, scale: _score(z, f, mean, scale)[1] / scale,
              "this is the gradient in the scale. Asked for is that in its logarithm: d/d log s = s d/ds.", 1),
        Wrong("in the log variance", lambda z, f, mean, scale: 0.5 * _score(z, f, mean, scale)[1],
              "this is the gradient in the log variance. The log variance is twice the log scale.", 1),
        Wrong("not standardised", lambda z, f, mean, scale: (f * ((z - mean) ** 2 - 1)).mean(),
              "the square needs the scale: it is that of (z - mean)/scale.", 1),
        Wrong("sign in the log scale", lambda z, f, mean, scale: -_score(z, f, mean, scale)[1],
              "the sign is turned around. Where f is high far out, the scale should grow.", 1),
        Wrong("half a square", lambda z, f, mean, scale: (f * (_eps(z, mean, scale) ** 2 / 2 - 1)).mean(),
              "the square comes with a half in log q, but 1/scale² brings a factor down when it is differentiated.", 1),
        Wrong("in the scale, one missing", lambda z, f, mean, scale: (f * (z - mean) ** 2 / scale**3).mean(),
              "this is a derivative in the scale, not in its logarithm, and it lacks that of -log scale.", 1),
        Wrong("in the variance", lambda z, f, mean, scale: _score(z, f, mean, scale)[1] / (2 * scale**2),
              "this is the gradient in the variance. Asked for is that in log s.", 1),
        Wrong("sum in the log scale", lambda z, f, mean, scale: _score(z, f, mean, scale)[1] * len(z),
              "this one is a sum over the samples; take their mean.", 1),
    ],
    hints=["Write log q(z) down, with all terms that contain the mean or the scale, and differentiate.",
           "log q = -log scale - (z - mean)²/(2 scale²) + constant. With eps = (z - mean)/scale, its derivative in the mean is eps/scale.",
           "In the log scale it is eps² - 1. Multiply each by f, sample by sample, and average."])


# 2. The best constant ---------------------------------------------------------------------------------------------------

def _draw_baseline(stream):
    S = stream.randint(6, 12)
    return {"f": _normals(stream, S, scale=2.0) + 3, "score": _normals(stream, S, scale=1.5)}


def _baseline(f, score):
    return (f * score**2).sum() / score.square().sum()


baseline = Check(
    "best baseline", draw=_draw_baseline, reference=_baseline, outputs=["baseline"],
    wrongs=[
        Wrong("mean of f", lambda f, score: f.mean(),
              "this is the mean of f: popular, and often close. But a sample with a large score does more harm, so it should weigh more."),
        Wrong("weighted by the score", lambda f, score: (f * score).sum() / score.sum(),
              "you weigh by the score itself, which has either sign and a mean near zero. The variance holds its square."),
        Wrong("weighted by the size of the score", lambda f, score: (f * score.abs()).sum() / score.abs().sum(),
              "you weigh by the score's size; a variance is a mean of squares."),
        Wrong("mean of f times score²", lambda f, score: (f * score**2).mean(),
              "the numerator is right. Set the derivative to zero: what stands beside the c²?"),
        Wrong("regression slope", lambda f, score: (lambda g, s: (g * s).sum() / s.square().sum())(f * score - (f * score).mean(), score - score.mean()),
              "this is a regression slope with both means estimated. The score's mean is known: it is zero. Use that."),
        Wrong("half", lambda f, score: 0.5 * _baseline(f, score),
              "a factor of two is lost: the square of (f - c) has the cross term 2 f c."),
        Wrong("sign", lambda f, score: -_baseline(f, score),
              "the sign is turned around: the baseline is taken off, (f - c)."),
        Wrong("upside down", lambda f, score: 1 / _baseline(f, score),
              "numerator and denominator have changed places: the baseline must have the unit of f."),
        Wrong("gradient per score²", lambda f, score: (f * score).sum() / score.square().sum(),
              "one power of the score is missing above: the baseline must have the unit of f, and yours has another."),
        Wrong("one f too many", lambda f, score: (f**2 * score**2).sum() / (f * score**2).sum(),
              "it has the unit of f, but one f too many above and below: these are the first two terms of the parabola. Its lowest point hangs on the last two."),
        Wrong("regression on score²", lambda f, score: (lambda g, s: (g * s).sum() / s.square().sum())(f - f.mean(), score**2 - score.square().mean()),
              "this is the slope of a regression of f on score². Asked for is no slope, but the level that is to be taken off f."),
    ],
    hints=["The mean of (f - c) s does not depend on c, for E[s] = 0. So minimise the mean of its square over c.",
           "E[(f - c)² s²] = E[f² s²] - 2 c E[f s²] + c² E[s²]: a parabola in c.",
           "Its lowest point is at E[f s²]/E[s²]; put sums over the samples for the expectations."])


# 3. Leave one out -------------------------------------------------------------------------------------------------------

def _draw_leave(stream):
    S, d = stream.randint(3, 6), stream.randint(2, 4)
    return {"f": _normals(stream, S, scale=2.0) + 3, "score": _normals(stream, S, d)}


def _weighted(f, score):
    return (f.unsqueeze(-1) * score).mean(0)


def _leave(f, score):
    return _weighted(f - (f.sum() - f) / (len(f) - 1), score)


leave_one_out = Check(
    "leave one out", draw=_draw_leave, reference=_leave, outputs=["gradient"],
    wrongs=[
        Wrong("mean of all", lambda f, score: _weighted(f - f.mean(), score),
              "your baseline is the mean of all samples, the sample itself among them. It then knows z_s, and the estimate is too small by a factor."),
        Wrong("divided by S", lambda f, score: _weighted(f - (f.sum() - f) / len(f), score),
              "there are only S - 1 others: divide their sum by that."),
        Wrong("sum of the others", lambda f, score: _weighted(f - (f.sum() - f), score),
              "you took off the sum of the others. A baseline is their mean."),
        Wrong("no baseline", lambda f, score: _weighted(f, score),
              "this is the score function without a baseline: right on average, but not what is asked for."),
        Wrong("baseline added", lambda f, score: _weighted(f + (f.sum() - f) / (len(f) - 1), score),
              "the baseline is added. It has to be taken off."),
        Wrong("sum over samples", lambda f, score: _leave(f, score) * len(f),
              "this is a sum over the samples; the estimate is their mean."),
        Wrong("over S - 1 twice", lambda f, score: _leave(f, score) * len(f) / (len(f) - 1),
              "the outer mean has S terms: with the others' mean inside, its divisor is S."),
        Wrong("next sample's f", lambda f, score: _weighted(f - f.roll(1), score),
              "your baseline is one other sample alone. That is unbiased, but noisier than the mean of all others."),
        Wrong("sum of all over S - 1", lambda f, score: _weighted(f - f.sum() / (len(f) - 1), score),
              "you divided by the number of the others, but the sum still holds the sample's own f."),
        Wrong("median", lambda f, score: _weighted(f - f.median(), score),
              "you took off a median. It is made from the sample's own f too, and asked for is a mean."),
        Wrong("sign", lambda f, score: -_leave(f, score), "the sign is turned around."),
        Wrong("not averaged", lambda f, score: (f - (f.sum() - f) / (len(f) - 1)).unsqueeze(-1) * score,
              "this is one row a sample. Average over the samples."),
        Wrong("averaged over the parameters", lambda f, score: ((f - (f.sum() - f) / (len(f) - 1)).unsqueeze(-1) * score).mean(),
              "you averaged over the parameters as well: the gradient has an entry for each."),
        Wrong("baseline alone", lambda f, score: _weighted((f.sum() - f) / (len(f) - 1), score),
              "only the baseline is weighted with the score. It has to be taken off the sample's own f first."),
    ],
    hints=["For sample s, the baseline is the mean of f over the S - 1 others.",
           "All of them at once: (f.sum() - f) / (S - 1).",
           "Multiply f minus that, as a column, with the scores, and take the mean over the samples: `.mean(0)`."])


# 4. Along the path ------------------------------------------------------------------------------------------------------

def _draw_path(stream):
    S = stream.randint(4, 9)
    return {"slope": _normals(stream, S, scale=2.0) + 1, "eps": _normals(stream, S), "log_variance": torch.tensor(stream.uniform(-1.8, -0.4), dtype=torch.float64)}


def _path(slope, eps, log_variance):
    return slope.mean(), 0.5 * math.exp(0.5 * log_variance) * (slope * eps).mean()


reparametrise = Check(
    "along the path", draw=_draw_path, reference=_path, outputs=["gradient in the mean", "gradient in the log variance"],
    wrongs=[
        Wrong("sum", lambda slope, eps, log_variance: slope.sum(), "this is a sum over the samples; take their mean."),
        Wrong("score function in place of the path", lambda slope, eps, log_variance: (slope * eps).mean() / math.exp(0.5 * log_variance),
              "you multiplied by the score. Along the path, dz/dmean = 1."),
        Wrong("times the standard deviation", lambda slope, eps, log_variance: slope.mean() * math.exp(0.5 * log_variance),
              "the standard deviation does not belong here: if the mean moves by one, so does z."),
        Wrong("times eps", lambda slope, eps, log_variance: (slope * eps).mean(),
              "eps does not belong here: if the mean moves by one, every z moves by one."),
        Wrong("minus", lambda slope, eps, log_variance: -slope.mean(), "the sign is turned around."),
        Wrong("in the log standard deviation", lambda slope, eps, log_variance: 2 * _path(slope, eps, log_variance)[1],
              "this is the gradient in log sigma. sigma = exp(half the log variance): where does the half go?", 1),
        Wrong("in the standard deviation", lambda slope, eps, log_variance: (slope * eps).mean(),
              "this is the gradient in sigma. Go on by the chain rule, to the logarithm of its square.", 1),
        Wrong("in the variance", lambda slope, eps, log_variance: 0.5 * math.exp(-0.5 * log_variance) * (slope * eps).mean(),
              "this is the gradient in the variance. Asked for is that in its logarithm.", 1),
        Wrong("variance for standard deviation", lambda slope, eps, log_variance: 0.5 * math.exp(log_variance) * (slope * eps).mean(),
              "you multiplied by the variance. z = mean + sigma eps has the standard deviation in it.", 1),
        Wrong("no standard deviation", lambda slope, eps, log_variance: 0.5 * (slope * eps).mean(),
              "sigma is missing: its derivative in the log variance is half of *itself*.", 1),
        Wrong("variance, no half", lambda slope, eps, log_variance: math.exp(log_variance) * (slope * eps).mean(),
              "you multiplied by the variance, as if z moved with it. Write z with sigma = exp(log_variance / 2), and differentiate that.", 1),
        Wrong("no eps", lambda slope, eps, log_variance: 0.5 * math.exp(0.5 * log_variance) * slope.mean(),
              "eps is missing: if the spread grows, each z moves by its own noise, to either side.", 1),
        Wrong("sum in the log variance", lambda slope, eps, log_variance: len(slope) * _path(slope, eps, log_variance)[1],
              "this one is a sum over the samples; take their mean.", 1),
        Wrong("product of averages", lambda slope, eps, log_variance: 0.5 * math.exp(0.5 * log_variance) * slope.mean() * eps.mean(),
              "you multiplied two averages. Each slope belongs to its own eps.", 1),
        Wrong("eps squared less one", lambda slope, eps, log_variance: 0.5 * (slope * (eps**2 - 1)).mean(),
              "this is the score in the log variance; with the slope of f the path's own derivative is wanted.", 1),
        Wrong("entropy added", lambda slope, eps, log_variance: _path(slope, eps, log_variance)[1] + 0.5,
              "you added the derivative of an entropy. Asked for is the gradient of E[f], whatever f is; there is no entropy in it.", 1),
        Wrong("sign in the log variance", lambda slope, eps, log_variance: -_path(slope, eps, log_variance)[1],
              "the sign is turned around: a larger log variance moves z the way that eps points.", 1),
        Wrong("eps squared", lambda slope, eps, log_variance: 0.5 * math.exp(0.5 * log_variance) * (slope * eps**2).mean(),
              "eps is squared. z is linear in eps, so its derivative has one eps.", 1),
        Wrong("logarithm for standard deviation", lambda slope, eps, log_variance: 0.5 * log_variance * (slope * eps).mean(),
              "the log variance itself stands where sigma belongs: take half of it, and its exponential.", 1),
    ],
    hints=["z = mean + sigma eps with sigma = exp(log_variance / 2). How does z move with each of the two parameters?",
           "dz/dmean = 1, and dz/dlog_variance = sigma eps / 2.",
           "Multiply by the slope f'(z), sample by sample, and average."])


# 5. What straight through believes --------------------------------------------------------------------------------------

def _draw_through(stream):
    f0, f1 = stream.uniform(-3, 3), stream.uniform(-3, 3)
    return {"p": stream.choice([stream.uniform(0.1, 0.4), stream.uniform(0.6, 0.9)]), "f0": f0, "f1": f1,
            "slope0": stream.uniform(-3, 3), "slope1": stream.uniform(-3, 3)}


def _through(p, f0, f1, slope0, slope1):
    return p * (1 - p) * (f1 - f0), p * (1 - p) * (p * slope1 + (1 - p) * slope0)


straight_through = Check(
    "straight through", draw=_draw_through, reference=_through, outputs=["exact gradient", "mean of straight through"],
    wrongs=[
        Wrong("in p", lambda p, f0, f1, slope0, slope1: f1 - f0,
              "this is the gradient in p. Asked for is that in the logit; dp/da is missing."),
        Wrong("sign", lambda p, f0, f1, slope0, slope1: p * (1 - p) * (f0 - f1),
              "the sign is turned around: where f(1) is the larger, the logit should rise."),
        Wrong("the mean itself", lambda p, f0, f1, slope0, slope1: p * f1 + (1 - p) * f0,
              "this is E[f]. Differentiate it."),
        Wrong("p alone", lambda p, f0, f1, slope0, slope1: p * (f1 - f0),
              "the derivative of the sigmoid is p (1 - p), not p."),
        Wrong("only f(1)", lambda p, f0, f1, slope0, slope1: p * (1 - p) * f1,
              "you left f(0) out: as p rises, 1 - p falls."),
        Wrong("the mean times the sigmoid's slope", lambda p, f0, f1, slope0, slope1: p * (1 - p) * (p * f1 + (1 - p) * f0),
              "this is E[f] times dp/da. By the chain rule dp/da multiplies the derivative of E[f] in p."),
        Wrong("standard deviation of the bit", lambda p, f0, f1, slope0, slope1: math.sqrt(p * (1 - p)) * (f1 - f0),
              "dp/da has no root: the root is the standard deviation of the bit."),
        Wrong("half the sum of the slopes", lambda p, f0, f1, slope0, slope1: 0.5 * p * (1 - p) * (slope0 + slope1),
              "you took the plain mean of the slopes. That is DARN's half. Straight through sees each slope as often as its bit falls.", 1),
        Wrong("weights exchanged", lambda p, f0, f1, slope0, slope1: p * (1 - p) * (p * slope0 + (1 - p) * slope1),
              "the weights are exchanged: p is the probability of the bit being *one*.", 1),
        Wrong("derivative of the sigmoid missing", lambda p, f0, f1, slope0, slope1: p * slope1 + (1 - p) * slope0,
              "this is the mean slope. The derivative goes on, through the mean p, to the logit.", 1),
        Wrong("exact again", lambda p, f0, f1, slope0, slope1: _through(p, f0, f1, slope0, slope1)[0],
              "this is the exact gradient again. Straight through never looks at f(1) - f(0), but at the slopes of f at the bits.", 1),
        Wrong("sum of the slopes", lambda p, f0, f1, slope0, slope1: p * (1 - p) * (slope0 + slope1),
              "you added the slopes. A sample has one bit, and so one slope: weigh them.", 1),
        Wrong("difference of the slopes", lambda p, f0, f1, slope0, slope1: p * (1 - p) * (slope1 - slope0),
              "you took a difference of slopes, as for the values. Straight through averages what it returns over the bits.", 1),
        Wrong("only the slope at one", lambda p, f0, f1, slope0, slope1: p * (1 - p) * p * slope1,
              "you left the slope at 0 out. When the bit falls zero, straight through returns something, too.", 1),
        Wrong("sign of the second", lambda p, f0, f1, slope0, slope1: -_through(p, f0, f1, slope0, slope1)[1],
              "the sign is turned around.", 1),
    ],
    hints=["E[f] = p f(1) + (1 - p) f(0), and dp/da = p (1 - p).",
           "Straight through returns f'(b) dp/da for the bit that fell. How often does it fall one?",
           "p (1 - p) times (f(1) - f(0)); and p (1 - p) times (p f'(1) + (1 - p) f'(0))."])


# 6. Project: VIMCO ------------------------------------------------------------------------------------------------------

def _draw_vimco(stream):
    K = stream.randint(3, 6)
    return {"log_w": _normals(stream, K, scale=2.0) + stream.choice([-900.0, 0.0, 800.0])}


def _rows(log_w, stand_in):
    eye = torch.eye(len(log_w), dtype=torch.bool)
    return torch.where(eye, stand_in.expand_as(log_w).unsqueeze(-1), log_w)


def _signals(log_w, stand_in):
    return log_w.logsumexp(0) - _rows(log_w, stand_in).logsumexp(1)


def _others(log_w):
    return (log_w.sum() - log_w) / (len(log_w) - 1)


def _log_others(log_w):
    return _rows(log_w, torch.tensor(-math.inf, dtype=torch.float64)).logsumexp(1) - math.log(len(log_w) - 1)


vimco = Check(
    "VIMCO", draw=_draw_vimco, reference=lambda log_w: _signals(log_w, _others(log_w)), outputs=["signals"],
    when_nan="Weights are given as logarithms, some hundreds of nats from zero: stay in the log domain, with `torch.logsumexp`.",
    wrongs=[
        Wrong("one signal for all", lambda log_w: (log_w.logsumexp(0) - math.log(len(log_w))).expand(len(log_w)),
              "every sample gets L itself. Take off what L would have been without that sample."),
        Wrong("arithmetic mean", lambda log_w: _signals(log_w, _log_others(log_w)),
              "you put the arithmetic mean of the other weights in its place (or left the sample out, which is the same). Unbiased too, but asked for is the geometric mean: that of the logarithms."),
        Wrong("own weight in the stand-in", lambda log_w: _signals(log_w, log_w.mean()),
              "your stand-in averages over all log weights, the replaced one too. It must not know its sample."),
        Wrong("sign", lambda log_w: -_signals(log_w, _others(log_w)),
              "the sign is turned around: a sample whose weight is above the others' should have a positive signal."),
        Wrong("replaced by nothing", lambda log_w: log_w.logsumexp(0) - math.log(len(log_w))
              - (_rows(log_w, torch.tensor(-math.inf, dtype=torch.float64)).logsumexp(1) - math.log(len(log_w))),
              "you left the sample out and still divided by K. Something has to stand in its place."),
        Wrong("weight less stand-in", lambda log_w: log_w - _others(log_w),
              "you compared single log weights. The signal compares two values of the bound, which is a log of a mean."),
        Wrong("share of the weight", lambda log_w: torch.softmax(log_w, 0),
              "these are the normalised weights. They belong to the other half of the gradient, that of f's own parameters."),
        Wrong("sum of others not averaged", lambda log_w: _signals(log_w, log_w.sum() - log_w),
              "the stand-in's logarithm is the *mean* of the other log weights, over K - 1."),
        Wrong("L_k alone", lambda log_w: _rows(log_w, _others(log_w)).logsumexp(1) - math.log(len(log_w)),
              "these are the L_k. The signal is L minus each of them."),
        Wrong("log K in L_k alone", lambda log_w: _signals(log_w, _others(log_w)) + math.log(len(log_w)),
              "all signals are too large by one constant: L is a log of a sum, and L_k of a mean. Treat both alike."),
        Wrong("log K in L alone", lambda log_w: _signals(log_w, _others(log_w)) - math.log(len(log_w)),
              "all signals are too small by one constant: L_k is a log of a sum, and L of a mean. Treat both alike."),
        Wrong("L less the stand-in", lambda log_w: log_w.logsumexp(0) - math.log(len(log_w)) - _others(log_w),
              "you took the stand-in itself off. It replaces one weight; L_k is the whole bound with it."),
        Wrong("means of log weights", lambda log_w: (log_w - _others(log_w)) / len(log_w),
              "both bounds are means of log weights here, which is the ELBO. L averages the weights and then takes the logarithm."),
        Wrong("mean log weight for L", lambda log_w: log_w.mean() - (_rows(log_w, _others(log_w)).logsumexp(1) - math.log(len(log_w))),
              "L is the mean of the log weights in yours. It is the logarithm of the mean weight, as L_k is."),
    ],
    hints=["L = logsumexp(log_w) - log K. For L_k, replace the k-th log weight by the mean of the others, and do the same again.",
           "The stand-ins all at once: (log_w.sum() - log_w) / (K - 1). Put them on the diagonal of a (K, K) table whose rows are log_w.",
           "`torch.where(torch.eye(K, dtype=torch.bool), stand_in, log_w)`, then logsumexp along the rows. log K cancels."])

ALL = (score, baseline, leave_one_out, reparametrise, straight_through, vimco)


quiz = Quiz("gradients", [
    Question("You subtract a baseline c from f in the score-function estimator. When does the estimate stay unbiased?", [
        Option("Only if c is the mean of f.", "Any constant will do: it multiplies the score, whose mean is zero. The choice changes the variance alone."),
        Option("If c does not depend on the sample that it is subtracted from.",
               "Then E[c ∇log q] = c E[∇log q] = 0. c may depend on the datum, on other samples, on earlier steps.", True),
        Option("Always, whatever c depends on.", "If c knows the sample, c ∇log q need not have mean zero: with c = f nothing would be left."),
        Option("Only if c has been trained to convergence.", "A bad baseline is as unbiased as a good one.")]),
    Question("f is an average of step functions of z (the share of correct labels, say), q a Gaussian. Which gradient estimate of E_q[f] is right on average?", [
        Option("Pathwise: Gaussians can be reparametrised.", "The path is smooth, but f is flat wherever it has a slope at all. The estimate is zero, always."),
        Option("The score function.", "It needs no derivative of f, only that q moves smoothly.", True),
        Option("Both.", "They agree where f is continuous. Here the pathwise one misses the jumps, and so everything."),
        Option("Neither: E_q[f] has no gradient.", "The average of a jump over a Gaussian is smooth: that is what averages are good for.")]),
    Question("Training with straight through, the value of f rises nicely and settles. What does this tell about bias?", [
        Option("Nothing.", "The value is that of hard samples, and right. It settles where the biased gradient vanishes, which need not be a stationary point.", True),
        Option("The bias must be small.", "On the bench it settles at p = t, where the true gradient is not small at all compared with its largest value."),
        Option("The bias has averaged out.", "A bias is what does not average out."),
        Option("The estimator has become unbiased.", "It has not changed. Hold it against an unbiased one at the same parameters.")]),
    Question("The posterior lies in your Gaussian family, and q has reached it. Which single-sample gradient of the ELBO is exactly zero?", [
        Option("The pathwise one with the KL in closed form.", "The KL no longer varies, but the likelihood's slope does, from sample to sample: only its mean is balanced."),
        Option("The pathwise one through all of log p - log q.", "log p - log q is a constant there, so nothing comes along the path; but log q's own parameters still bring the score, noise of mean zero."),
        Option("The pathwise one with the parameters inside log q held.", "What is left runs through z alone, and log p(x, z) - log q(z) is a constant in z.", True),
        Option("The score function.", "f is a constant there, log p(x), which multiplies a noisy score. Only with that constant as baseline is it zero.")]),
    Question("You make the temperature of a Gumbel-softmax smaller, and leave everything else. Then", [
        Option("bias and variance fall.", "The bias does. The relaxed bit becomes a cliff, whose rare slopes are huge."),
        Option("the bias falls and the variance rises.", "Most samples lie on the flat parts and have no slope; the few on the cliff have a very large one.", True),
        Option("the bias rises and the variance falls.", "That is the direction of a larger temperature."),
        Option("nothing changes on average.", "The mean of the relaxed gradient depends on the temperature; only in the limit is it the true one.")]),
])
