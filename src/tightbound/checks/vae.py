"""The exercises of the chapter on variational auto-encoders, and its quiz."""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from tightbound.checks.check import Check, Wrong
from tightbound.checks.quiz import Option, Question, Quiz

LOG_2PI = math.log(2 * math.pi)


def _table(stream: random.Random, *shape: int, scale: float = 1.0) -> Tensor:
    numbers = [stream.gauss(0, scale) for _ in range(math.prod(shape))]
    return torch.tensor(numbers, dtype=torch.float64).reshape(shape)


# 1. The rate --------------------------------------------------------------------------------------------------------------

def _draw_rate(stream):
    size = stream.randint(2, 5), stream.randint(2, 4)
    return {"mean": _table(stream, *size), "log_variance": _table(stream, *size, scale=0.8) - 0.7}


def _terms(mean, log_variance):
    return mean**2 + log_variance.exp() - 1 - log_variance


def _rate(mean, log_variance):
    return 0.5 * _terms(mean, log_variance).sum(-1)


def _as_log_scale(mean, log_variance):
    return _rate(mean, 2 * log_variance)


rate = Check(
    "the rate", draw=_draw_rate, reference=_rate, outputs=["rate"],
    wrongs=[
        Wrong("minus the rate", lambda mean, log_variance: -_rate(mean, log_variance),
              "this is negative, and no divergence is. The sum as some print it is minus the divergence."),
        Wrong("variance left out", lambda mean, log_variance: 0.5 * (mean**2 - 1 - log_variance).sum(-1),
              "the variance itself is missing. Without it nothing stops the widths from growing; try q = p(z): it should give 0."),
        Wrong("minus the rate, variance left out", lambda mean, log_variance: -0.5 * (mean**2 - 1 - log_variance).sum(-1),
              "two slips at once: the sign of the whole, and a missing variance. Try q = p(z): it should give 0."),
        Wrong("no half", lambda mean, log_variance: 2 * _rate(mean, log_variance),
              "twice too large: a half stands before the sum, as it does in the Gaussian's exponent."),
        Wrong("no minus one", lambda mean, log_variance: 0.5 * (_terms(mean, log_variance) + 1).sum(-1),
              "at q = p(z) this gives d/2, not 0: a constant is missing for each latent."),
        Wrong("log of a standard deviation", lambda mean, log_variance: _as_log_scale(mean, log_variance),
              "you took log_variance for the logarithm of a standard deviation: its exponential is the variance already."),
        Wrong("variance squared", lambda mean, log_variance: 0.5 * (mean**2 + (2 * log_variance).exp() - 1 - log_variance).sum(-1),
              "inside the sum the variance stands as it is, but yours is squared."),
        Wrong("standard deviation for variance", lambda mean, log_variance: 0.5 * (mean**2 + (0.5 * log_variance).exp() - 1
                                                                                 - log_variance).sum(-1),
              "you added the standard deviation where the variance belongs."),
        Wrong("log variance for variance", lambda mean, log_variance: 0.5 * (mean**2 + log_variance - 1 - log_variance).sum(-1),
              "you added the logarithm of the variance where the variance itself belongs: take its exponential."),
        Wrong("sign of the logarithm", lambda mean, log_variance: 0.5 * (mean**2 + log_variance.exp() - 1 + log_variance).sum(-1),
              "the logarithm has the wrong sign: a narrower q is further from the prior, so a small variance must cost more."),
        Wrong("mean not squared", lambda mean, log_variance: 0.5 * (mean + log_variance.exp() - 1 - log_variance).sum(-1),
              "the mean is not squared: which side of zero it lies on cannot matter."),
        Wrong("mean over latents", lambda mean, log_variance: 0.5 * _terms(mean, log_variance).mean(-1),
              "you averaged over the latents. Independent latents bring divergences that add up."),
        Wrong("sum over pictures", lambda mean, log_variance: _rate(mean, log_variance).sum(),
              "you summed over the pictures as well: one number a picture is asked for, shape (B,)."),
        Wrong("mean over pictures", lambda mean, log_variance: _rate(mean, log_variance).mean(),
              "you averaged over the pictures: one number a picture is asked for, shape (B,)."),
        Wrong("not summed", lambda mean, log_variance: 0.5 * _terms(mean, log_variance),
              "this is the divergence of every latent by itself; sum over the last dimension."),
        Wrong("the other direction", lambda mean, log_variance: 0.5 * ((1 + mean**2) * (-log_variance).exp() - 1 + log_variance).sum(-1),
              "this is the divergence of the prior from q. Asked for is that of q from the prior: q does the averaging."),
        Wrong("one subtracted once", lambda mean, log_variance: 0.5 * ((_terms(mean, log_variance) + 1).sum(-1) - 1),
              "the constant is taken off once for all latents. Try q = p(z), where every latent by itself should give 0."),
        Wrong("half of the logarithm", lambda mean, log_variance: 0.5 * (mean**2 + log_variance.exp() - 1 - 0.5 * log_variance).sum(-1),
              "the logarithm counts half of what it should: the half before the sum is there already."),
        Wrong("bits", lambda mean, log_variance: _rate(mean, log_variance) / math.log(2),
              "this is in bits; nats are asked for."),
    ],
    hints=["For one latent: average log q(z) - log p(z) over q. Which two squares does the average touch?",
           "E_q[z^2] = mean^2 + variance, and E_q[(z - mean)^2] = variance. The two factors of 2 pi cancel.",
           "1/2 sum (mean^2 + variance - 1 - log variance), over the last dimension, with variance = exp(log_variance)."])


# 2. A reparametrised sample -----------------------------------------------------------------------------------------------

def _draw_sample(stream):
    d, samples = stream.randint(2, 4), stream.randint(3, 6)
    return {"mean": _table(stream, d), "log_variance": _table(stream, d, scale=0.8) - 0.7, "eps": _table(stream, samples, d)}


def _sample(mean, log_variance, eps):
    return (mean + (0.5 * log_variance).exp() * eps,
            -0.5 * (eps**2 + log_variance + LOG_2PI).sum(-1))


def _gradients(function, mean, log_variance, eps):
    """Whether two calls give the same samples, whether these have gradients, and these in the mean and the log variance."""
    inputs = [mean.clone().requires_grad_(), log_variance.clone().requires_grad_()]
    try:
        first, second = (torch.as_tensor(function(mean=mean, log_variance=log_variance, eps=eps)[0]) for _ in range(2))
        same = torch.equal(first, second)
    except Exception:  # what is wrong with the values has been said already
        same = True
    try:
        z = torch.as_tensor(function(mean=inputs[0], log_variance=inputs[1], eps=eps)[0])
        found = torch.autograd.grad(z.square().sum(), inputs, allow_unused=True)
    except Exception:  # of NumPy, or of a tensor without a history
        return same, False, math.nan, math.nan
    return same, True, *(math.nan if one is None else one for one in found)


class _ThroughNoise(Check):
    """A check that also asks that z be made of the noise that was given, and carry the gradient.

    Values alone show neither: a sample whose gradient was cut has the right ones, and one of other noise only looks wrong.
    """

    probe = staticmethod(_gradients)

    def judge(self, instances, answers):
        answers = iter(answers)
        found = super().judge(instances, answers)
        if found is not None and found[0] != "other":
            return found
        tried = next(answers)
        if tried.fault:
            return tried.fault, self._excuse(tried, instances[0])
        same, worked, *gradients = tried.outputs
        if found is None:
            return _gradient_cut(instances[0], bool(worked), gradients)
        if not same:
            return "own noise", ("two calls with the same arguments give different samples: your function draws noise of its own. "
                                 "Make the samples of `eps`, which was drawn beforehand.")
        return found


def _gradient_cut(instance: dict, worked: bool, found: list[Tensor]) -> tuple[str, str] | None:
    """What to say if the samples do not pass the gradient on to the mean and the log variance."""
    inputs = [instance[name].clone().requires_grad_() for name in ("mean", "log_variance")]
    cut = ("the values are right, but no gradient passes from z to {}. Without it an encoder cannot learn: "
           "what in your function cuts it off (`detach`, `no_grad`, `.item()`, a new tensor made of numbers)?")
    if not worked:
        return "gradient cut", cut.format("the mean or the log variance")
    wanted = torch.autograd.grad(_sample(*inputs, instance["eps"])[0].square().sum(), inputs)
    for name, one, other in zip(("the mean", "the log variance"), found, wanted):
        if one.shape != other.shape or not torch.allclose(one, other):
            return "gradient cut", cut.format(name)
    return None


sample = _ThroughNoise(
    "a reparametrised sample", draw=_draw_sample, reference=_sample, outputs=["z", "log q"],
    wrongs=[
        Wrong("stretched by the variance", lambda mean, log_variance, eps: mean + log_variance.exp() * eps,
              "the noise is stretched by the variance. A width is a standard deviation."),
        Wrong("stretched by the logarithm", lambda mean, log_variance, eps: mean + log_variance * eps,
              "the noise is stretched by the logarithm of the variance, which may even be negative."),
        Wrong("stretched by half the logarithm", lambda mean, log_variance, eps: mean + 0.5 * log_variance * eps,
              "half of log_variance is the logarithm of the standard deviation; its exponential is missing."),
        Wrong("variance squared", lambda mean, log_variance, eps: mean + (2 * log_variance).exp() * eps,
              "the noise is stretched by the square of the variance: log_variance is doubled where it should be halved."),
        Wrong("not stretched", lambda mean, log_variance, eps: mean + eps,
              "the noise is not stretched: every q would have the width of the prior."),
        Wrong("mean left out", lambda mean, log_variance, eps: (0.5 * log_variance).exp() * eps,
              "the samples lie around zero: the mean is missing."),
        Wrong("no 2 pi", lambda mean, log_variance, eps: -0.5 * (eps**2 + log_variance).sum(-1),
              "the density is not normalised: a half of log 2 pi is missing for each latent.", 1),
        Wrong("width left out", lambda mean, log_variance, eps: -0.5 * (eps**2 + LOG_2PI).sum(-1),
              "this is the density of eps. z lives on a stretched axis, and its density is lower where the axis was stretched.", 1),
        Wrong("sign of the width", lambda mean, log_variance, eps: -0.5 * (eps**2 - log_variance + LOG_2PI).sum(-1),
              "the width enters with the wrong sign: a wider Gaussian is lower.", 1),
        Wrong("log variance without half", lambda mean, log_variance, eps: -0.5 * (eps**2 + 2 * log_variance + LOG_2PI).sum(-1),
              "the logarithm of the variance counts twice too much: the density holds the standard deviation.", 1),
        Wrong("prior", lambda mean, log_variance, eps: -0.5 * (_sample(mean, log_variance, eps)[0] ** 2 + LOG_2PI).sum(-1),
              "this is the prior's density at z; asked for is that of q.", 1),
        Wrong("variance for the scale", lambda mean, log_variance, eps: -0.5 * (eps**2 / log_variance.exp() + 2 * log_variance + LOG_2PI).sum(-1),
              "this is the density of a normal whose *standard deviation* is exp(log_variance). `Normal` asks for a standard deviation.", 1),
        Wrong("deviation for the variance", lambda mean, log_variance, eps: -0.5 * (eps**2 * (0.5 * log_variance).exp() + 0.5 * log_variance
                                                                                   + LOG_2PI).sum(-1),
              "this is the density of a normal whose *variance* is the standard deviation. A covariance matrix has variances on its diagonal.", 1),
        Wrong("noise divided again", lambda mean, log_variance, eps: -0.5 * (eps**2 / log_variance.exp() + log_variance + LOG_2PI).sum(-1),
              "eps is in units of the width already; you divided its square by the variance once more.", 1),
        Wrong("mean not taken off", lambda mean, log_variance, eps: -0.5 * (_sample(mean, log_variance, eps)[0] ** 2 / log_variance.exp()
                                                                           + log_variance + LOG_2PI).sum(-1),
              "this is a density around zero: the square is that of the distance from the mean.", 1),
        Wrong("constant once", lambda mean, log_variance, eps: -0.5 * ((eps**2 + log_variance).sum(-1) + LOG_2PI),
              "log 2 pi is in there once, but every latent has its own: it belongs inside the sum.", 1),
        Wrong("constant without half", lambda mean, log_variance, eps: -0.5 * (eps**2 + log_variance + 2 * LOG_2PI).sum(-1),
              "log 2 pi counts twice too much: the half stands before it, too.", 1),
        Wrong("minus log q", lambda mean, log_variance, eps: -_sample(mean, log_variance, eps)[1],
              "the sign of the whole is turned: this is minus the log density.", 1),
        Wrong("not summed", lambda mean, log_variance, eps: -0.5 * (eps**2 + log_variance + LOG_2PI),
              "there is one number for every latent; independent latents' log densities add up to one number a sample.", 1),
        Wrong("mean over latents", lambda mean, log_variance, eps: _sample(mean, log_variance, eps)[1] / len(mean),
              "you averaged over the latents where their log densities add up.", 1),
        Wrong("density, not its logarithm", lambda mean, log_variance, eps: _sample(mean, log_variance, eps)[1].exp(),
              "this is the density; its logarithm is asked for.", 1),
    ],
    hints=["A normal variable is a mean plus a width times standard noise. What is the width, when you know the log variance?",
           "z = mean + exp(log_variance / 2) * eps. For the density, (z - mean)^2 / variance is eps^2: no need to undo anything.",
           "log q = -1/2 sum (eps^2 + log_variance + log 2 pi), over the last dimension."])


# 3. The likelihood, from logits -------------------------------------------------------------------------------------------

def _draw_bernoulli(stream):
    size = stream.randint(3, 4), stream.randint(5, 9)
    logits = _table(stream, *size, scale=stream.choice([2.0, 800.0]))
    x = torch.tensor([[float(stream.random() < 0.5) for _ in range(size[1])] for _ in range(size[0])], dtype=torch.float64)
    sure = logits.abs() > 30
    sure[-1] = False  # in the last picture a sure decoder may be wrong, and pays hundreds of nats; in the others it is right
    return {"x": torch.where(sure, (logits > 0).double(), x), "logits": logits}


def _pixels(x, logits):
    return x * logits - softplus(logits)


def _bernoulli(x, logits):
    return _pixels(x, logits).sum(-1)


def _overflowing(x, logits):
    """x l - log(1 + e^l) as it stands; NaN, at which anything goes, where e^l is infinite."""
    found = (x * logits - (1 + logits.exp()).log()).sum(-1)
    return found.where(found.isfinite(), torch.nan)


def _unless_surprised(x, logits):
    """The right answer; NaN, at which anything goes, where a pixel had less than one chance in twenty."""
    return _bernoulli(x, logits).where(_pixels(x, logits).amin(-1) > math.log(0.05), torch.nan)


bernoulli = Check(
    "log-likelihood from logits", draw=_draw_bernoulli, reference=_bernoulli, outputs=["log likelihood"],
    when_nan="Where a logit is 800, its sigmoid is 1 to the last digit, and log(1 - 1) is minus infinity.",
    wrongs=[
        Wrong("cross-entropy", lambda x, logits: -_bernoulli(x, logits),
              "this is positive: a cross-entropy, minus the log-likelihood. A probability is at most one."),
        Wrong("mean over pixels", lambda x, logits: _bernoulli(x, logits) / x.shape[-1],
              "you averaged over the pixels. Independent pixels' log probabilities add up; the mean makes the rate count "
              "hundreds of times too much."),
        Wrong("sum over pictures", lambda x, logits: _bernoulli(x, logits).sum(),
              "you summed over the pictures as well: one number a picture is asked for."),
        Wrong("mean over pictures", lambda x, logits: _bernoulli(x, logits).mean(),
              "you averaged over the pictures: one number a picture is asked for."),
        Wrong("mean over all", lambda x, logits: _pixels(x, logits).mean(),
              "you averaged over pixels and pictures alike, as a loss function does by default."),
        Wrong("cross-entropy, mean over all", lambda x, logits: -_pixels(x, logits).mean(),
              "this is what a loss function gives by default: the sign is turned, and it is averaged over pixels and pictures."),
        Wrong("not summed", lambda x, logits: _pixels(x, logits),
              "there is one number for every pixel; independent pixels' log probabilities add up."),
        Wrong("black pixels only", lambda x, logits: (x * (logits - softplus(logits))).sum(-1),
              "only black pixels count in yours. A white pixel has a probability, too."),
        Wrong("white and black swapped", lambda x, logits: _bernoulli(1 - x, logits),
              "black and white are swapped: the sigmoid of a logit is the probability of x = 1."),
        Wrong("sigmoid twice", lambda x, logits: _bernoulli(x, torch.sigmoid(logits)),
              "a sigmoid was taken twice: the function that you call expects logits and makes probabilities itself."),
        Wrong("softplus left out", lambda x, logits: (x * logits).sum(-1),
              "this is not normalised: the probabilities of black and white do not add up to one."),
        Wrong("softplus of black pixels only", lambda x, logits: (x * logits - (1 - x) * softplus(logits)).sum(-1),
              "log(1 + e^logit) belongs to every pixel, black or white."),
        Wrong("sign in the softplus", lambda x, logits: (x * logits - softplus(-logits)).sum(-1),
              "the logit has the wrong sign inside log(1 + e^...). Try a logit of 5 and a black pixel, which should cost next to nothing."),
        Wrong("softplus added", lambda x, logits: (x * logits + softplus(logits)).sum(-1),
              "log(1 + e^l) is added. It is the price of normalising: it makes a probability smaller."),
        Wrong("every pixel black", lambda x, logits: (logits - softplus(logits)).sum(-1),
              "yours does not look at x: every pixel is taken to be black."),
        Wrong("probability", lambda x, logits: _bernoulli(x, logits).exp(),
              "this is a probability; its logarithm is asked for."),
        Wrong("bits", lambda x, logits: _bernoulli(x, logits) / math.log(2),
              "you used logarithms to base 2, which gives bits; nats are asked for."),
        Wrong("overflow", _overflowing,
              "right for logits of a moderate size. But e^800 is infinite to a computer: log(1 + e^l) has to be found without e^l."),
        Wrong("a sure decoder that is wrong", _unless_surprised,
              "right where the pictures are what the decoder expects, but not where it is sure and wrong. With a logit of 800 a white "
              "pixel costs 800 nats; a probability that was rounded, clamped, or kept from zero by a small number, hides it. "
              "Stay with the logits."),
    ],
    hints=["log sigmoid(l) = l - log(1 + e^l), and log(1 - sigmoid(l)) = -log(1 + e^l). What do the two share?",
           "x l - log(1 + e^l) for every pixel, then a sum over the last dimension. For large l, e^l overflows: log(1 + e^l) has a name.",
           "`torch.nn.functional.softplus(logits)` is log(1 + e^l), computed safely."])


# 4. The bounds from log weights -------------------------------------------------------------------------------------------

def _draw_bounds(stream):
    samples, pictures = stream.randint(4, 8), stream.randint(2, 3)
    return {"log_weights": _table(stream, samples, pictures, scale=2.0) - stream.choice([20.0, 90.0, 1500.0])}


def _bounds(log_weights):
    return log_weights.mean(0), log_weights.logsumexp(0) - math.log(len(log_weights))


def _iwae(log_weights):
    return _bounds(log_weights)[1]


bounds = Check(
    "bounds from log weights", draw=_draw_bounds, reference=_bounds, outputs=["ELBO", "L_K"],
    when_nan="Weights of e^-1500 are 0 to a computer, and log 0 is not a number that one wants: stay in logarithms.",
    wrongs=[
        Wrong("one sample", lambda log_weights: log_weights[0],
              "this is the first sample alone. It estimates the ELBO, too, but all K are to be used."),
        Wrong("sum of log weights", lambda log_weights: log_weights.sum(0),
              "you added up the log weights; the ELBO is their mean."),
        Wrong("the other bound in place of the ELBO", lambda log_weights: _iwae(log_weights),
              "this is L_K. In the ELBO the logarithm stands inside the mean."),
        Wrong("mean over pictures", lambda log_weights: log_weights.mean(1),
              "you averaged along the wrong dimension: samples come first, pictures second."),
        Wrong("mean over all", lambda log_weights: log_weights.mean(),
              "you averaged over samples and pictures; one number a picture is asked for."),
        Wrong("no log K", lambda log_weights: log_weights.logsumexp(0),
              "this is the logarithm of the sum of the weights. A bound needs that of their mean: more samples must not add nats by themselves.", 1),
        Wrong("log K added", lambda log_weights: log_weights.logsumexp(0) + math.log(len(log_weights)),
              "log K has the wrong sign: the mean is the sum divided by K.", 1),
        Wrong("divided by K", lambda log_weights: log_weights.logsumexp(0) / len(log_weights),
              "you divided the logarithm by K. The sum inside is what has to be divided.", 1),
        Wrong("mean of the log weights", lambda log_weights: log_weights.mean(0),
              "this is the ELBO once more. In L_K the mean stands inside the logarithm.", 1),
        Wrong("largest weight", lambda log_weights: log_weights.amax(0),
              "this is the largest log weight: L_K lies below it, by up to log K.", 1),
        Wrong("log K of the wrong dimension", lambda log_weights: log_weights.logsumexp(0) - math.log(log_weights.shape[1]),
              "you subtracted the logarithm of the number of pictures; K is the number of samples.", 1),
        Wrong("wrong dimension", lambda log_weights: log_weights.logsumexp(1) - math.log(log_weights.shape[1]),
              "this averages over the pictures, not over the samples: samples are the first dimension.", 1),
        Wrong("shift not undone", lambda log_weights: _iwae(log_weights) - log_weights.amax(0),
              "the largest log weight was taken off before the exponential, which is wise, but it has to be added back.", 1),
        Wrong("weights underflow", lambda log_weights: log_weights.exp().mean(0).log(),
              "right for weights of a moderate size. Weights of e^-1500 are 0 to a computer, and their logarithm is minus infinity: "
              "stay in logarithms.", 1),
    ],
    hints=["Both bounds are made of the same log weights. One averages logarithms, the other takes the logarithm of an average.",
           "log 1/K sum_k exp(l_k) = log sum_k exp(l_k) - log K, and `torch.logsumexp` does the first part without overflow.",
           "`log_weights.mean(0)`, and `torch.logsumexp(log_weights, 0) - math.log(len(log_weights))`."])


# 5. Whose fault is the gap? -----------------------------------------------------------------------------------------------

def _draw_gaps(stream):
    pictures = stream.randint(3, 6)
    log_evidence = _table(stream, pictures, scale=3.0) - 20
    best = log_evidence - _table(stream, pictures).abs() - 0.1
    return {"log_evidence": log_evidence, "best": best, "encoders": best - 2 * _table(stream, pictures).abs() - 0.1}


def _gaps(log_evidence, best, encoders):
    return (log_evidence - best).mean(), (best - encoders).mean()


gaps = Check(
    "whose fault is the gap", draw=_draw_gaps, reference=_gaps, outputs=["approximation gap", "amortisation gap"],
    wrongs=[
        Wrong("sign of the approximation gap", lambda log_evidence, best, encoders: (best - log_evidence).mean(),
              "it came out negative. A gap is what is missing: exact minus bound."),
        Wrong("the whole gap", lambda log_evidence, best, encoders: (log_evidence - encoders).mean(),
              "this is the whole gap, the family's and the encoder's part together."),
        Wrong("approximation gap, summed", lambda log_evidence, best, encoders: (log_evidence - best).sum(),
              "you summed over the pictures; the mean is asked for."),
        Wrong("approximation gap, not averaged", lambda log_evidence, best, encoders: log_evidence - best,
              "there is one number a picture; their mean is asked for."),
        Wrong("median of the approximation gap", lambda log_evidence, best, encoders: (log_evidence - best).median(),
              "you took the median over the pictures; the mean is asked for, so that the two parts add up to the mean gap."),
        Wrong("the encoder's part in place of the family's", lambda log_evidence, best, encoders: (best - encoders).mean(),
              "this is what the encoder loses; the approximation gap is what even the best member of the family leaves."),
        Wrong("sign of the amortisation gap", lambda log_evidence, best, encoders: (encoders - best).mean(),
              "it came out negative: the encoder cannot beat the best member of its own family. Best minus the encoder's.", 1),
        Wrong("the whole gap for the encoder's part", lambda log_evidence, best, encoders: (log_evidence - encoders).mean(),
              "this is the whole gap. The encoder is not to blame for what no member of the family could do.", 1),
        Wrong("amortisation gap, summed", lambda log_evidence, best, encoders: (best - encoders).sum(),
              "this is the sum over the pictures, and their mean is asked for.", 1),
        Wrong("amortisation gap, not averaged", lambda log_evidence, best, encoders: best - encoders,
              "you return a number for every picture; asked for is their mean.", 1),
        Wrong("median", lambda log_evidence, best, encoders: (best - encoders).median(),
              "this is the median over the pictures; the mean is asked for, to which a few bad pictures may contribute most.", 1),
        Wrong("a share", lambda log_evidence, best, encoders: ((best - encoders) / (log_evidence - encoders)).mean(),
              "this is the encoder's share of the gap; nats are asked for.", 1),
    ],
    hints=["Three numbers a picture, each at most the one before: log p(x), the best member's bound, the encoder's bound.",
           "The first step down is the family's fault, the second the encoder's. They add up to the gap.",
           "Means of log_evidence - best, and of best - encoders."])


# 6. Project: the bound of a picture ---------------------------------------------------------------------------------------

def _network(stream: random.Random, *widths: int) -> nn.Sequential:
    layers = [nn.Linear(widths[0], widths[1]), nn.Tanh(), nn.Linear(widths[1], widths[2])]
    for layer in layers[::2]:
        layer.weight.data = _table(stream, *layer.weight.shape, scale=0.8 / math.sqrt(layer.in_features))
        layer.bias.data = _table(stream, len(layer.bias), scale=0.2)
    return nn.Sequential(*layers).requires_grad_(False)


def _draw_bound(stream):
    pixels, d, pictures, samples = stream.randint(6, 8), 2, stream.randint(2, 3), stream.randint(3, 4)
    x = torch.tensor([[float(stream.random() < 0.5) for _ in range(pixels)] for _ in range(pictures)], dtype=torch.float64)
    return {"x": x, "encoder": _network(stream, pixels, 5, 2 * d), "decoder": _network(stream, d, 5, pixels),
            "eps": _table(stream, samples, pictures, d)}


def _parts(x, encoder, decoder, eps, noise=lambda log_scale: log_scale.exp()):
    """Reconstruction (S, B) and rate (B,)."""
    mean, log_scale = encoder(x).chunk(2, -1)
    logits = decoder(mean + noise(log_scale) * eps)
    return _bernoulli(x, logits), _rate(mean, 2 * log_scale)


def _bound(x, encoder, decoder, eps):
    reconstruction, rate = _parts(x, encoder, decoder, eps)
    return reconstruction.mean(0) - rate


def _halves_swapped(x, encoder, decoder, eps):
    return _bound(x, lambda x: encoder(x).roll(eps.shape[-1], -1), decoder, eps)


def _by_samples(x, encoder, decoder, eps):
    """The reconstruction (S, B), and log q - log p at the samples, (S, B), whose mean over q is the rate."""
    mean, log_scale = encoder(x).chunk(2, -1)
    z = mean + log_scale.exp() * eps
    return _bernoulli(x, decoder(z)), 0.5 * (z**2 - eps**2 - 2 * log_scale).sum(-1)


def _logits_averaged(x, encoder, decoder, eps):
    mean, log_scale = encoder(x).chunk(2, -1)
    return _bernoulli(x, decoder(mean + log_scale.exp() * eps).mean(0)) - _rate(mean, 2 * log_scale)


def _other(combine, **options):
    """A wrong answer made of reconstruction (S, B) and rate (B,)."""
    return lambda x, encoder, decoder, eps: combine(*_parts(x, encoder, decoder, eps, **options))


bound = Check(
    "the bound of a picture", draw=_draw_bound, reference=_bound, outputs=["ELBO"],
    wrongs=[
        Wrong("rate added", _other(lambda r, k: r.mean(0) + k),
              "the rate is added. It is a price: the bound goes down by what z says about x."),
        Wrong("rate left out", _other(lambda r, k: r.mean(0)),
              "this is the reconstruction alone, which is no bound on log p(x): nothing charges for a narrow q."),
        Wrong("loss", _other(lambda r, k: k - r.mean(0)),
              "this is minus the bound: what an optimiser minimises. The bound itself is asked for."),
        Wrong("rate twice", _other(lambda r, k: r.mean(0) - 2 * k),
              "the rate is twice too large: is a half missing?"),
        Wrong("reconstruction averaged over pixels",
              lambda x, encoder, decoder, eps: (lambda r, k: r.mean(0) / x.shape[1] - k)(*_parts(x, encoder, decoder, eps)),
              "the reconstruction is a mean over the pixels. They are independent given z, so their log probabilities add up."),
        Wrong("samples summed", _other(lambda r, k: r.sum(0) - k),
              "you summed over the samples; the average over q is a mean."),
        Wrong("one sample", _other(lambda r, k: r[0] - k), "only the first of the samples is used."),
        Wrong("no noise", _other(lambda r, k: r.mean(0) - k, noise=torch.zeros_like),
              "the decoder has seen the mean of q alone. The reconstruction is an average over draws from q."),
        Wrong("noise stretched by the log scale", _other(lambda r, k: r.mean(0) - k, noise=lambda log_scale: log_scale),
              "the noise is stretched by the logarithm of the scale: its exponential is missing."),
        Wrong("noise not stretched", _other(lambda r, k: r.mean(0) - k, noise=torch.ones_like),
              "the noise is not stretched: q has a width of its own."),
        Wrong("log scale for log variance", _other(lambda r, k: r.mean(0) - k, noise=lambda log_scale: (0.5 * log_scale).exp()),
              "the encoder's second half is the log of the standard deviation; you took it for that of the variance when stretching."),
        Wrong("rate of log variances", lambda x, encoder, decoder, eps: (
                  _parts(x, encoder, decoder, eps)[0].mean(0) - _rate(*encoder(x).chunk(2, -1))),
              "the rate takes the encoder's second half for logarithms of variances, as in exercise 1. Here they are those of "
              "standard deviations."),
        Wrong("log variances throughout", lambda x, encoder, decoder, eps: (
                  _parts(x, encoder, decoder, eps, noise=lambda log_scale: (0.5 * log_scale).exp())[0].mean(0)
                  - _rate(*encoder(x).chunk(2, -1))),
              "you took the encoder's second half for logarithms of variances, in the samples and in the rate. They are those of "
              "standard deviations."),
        Wrong("halves swapped", _halves_swapped,
              "the encoder's two halves are swapped: the means come first, the logarithms of the standard deviations second."),
        Wrong("rate by samples", lambda x, encoder, decoder, eps: (lambda r, k: (r - k).mean(0))(*_by_samples(x, encoder, decoder, eps)),
              "an honest estimate of the ELBO, but its rate is an average over the samples, and noisy. The rate is asked for in closed form."),
        Wrong("the other bound", lambda x, encoder, decoder, eps: (
                  (lambda r, k: (r - k).logsumexp(0) - math.log(len(r)))(*_by_samples(x, encoder, decoder, eps))),
              "this is L_K, the logarithm of the mean weight. In the ELBO the logarithm stands inside the average."),
        Wrong("logits averaged", _logits_averaged,
              "you averaged the logits over the samples before the likelihood. It is the log-likelihood that is averaged over q."),
        Wrong("sample not averaged", _other(lambda r, k: r - k), "there is one number for every sample: average over the first dimension."),
        Wrong("mean over pictures", _other(lambda r, k: (r.mean(0) - k).mean()),
              "you averaged over the pictures; one number a picture is asked for."),
        Wrong("log of the mean", _other(lambda r, k: r.logsumexp(0) - math.log(len(r)) - k),
              "the logarithm stands outside of the average over samples. In the ELBO it stands inside."),
        Wrong("sigmoid twice", lambda x, encoder, decoder, eps: _bound(x, encoder, lambda z: decoder(z).sigmoid(), eps),
              "a sigmoid was taken twice: the decoder's output has to go into the likelihood as it is, as logits."),
        Wrong("scale for variance", lambda x, encoder, decoder, eps: (lambda r, k, s: r.mean(0) - k + 0.5 * ((2 * s).exp() - s.exp()).sum(-1))(
                  *_parts(x, encoder, decoder, eps), encoder(x).chunk(2, -1)[1]),
              "inside the rate the standard deviation stands where the variance belongs."),
        Wrong("rate averaged over latents", _other(lambda r, k: r.mean(0) - k / 2),
              "the rate is too small by a factor: is it a mean over the latents, or is there a half too many?"),
    ],
    hints=["Five lines, as in the chapter: q(z | x), a draw, the logits, the reconstruction, the rate. Which have a dimension for the samples?",
           "z = mean + log_scale.exp() * eps is (S, B, d), the logits are (S, B, D), the reconstruction (S, B), the rate (B,).",
           "`reconstruction.mean(0) - rate`, with the rate of exercise 1 (its log_variance is 2 * log_scale) and the likelihood of exercise 3."])

ALL = (rate, sample, bernoulli, bounds, gaps, bound)


quiz = Quiz("vae", [
    Question("A trained decoder is kept as it is, and the encoder is trained for longer. The mean ELBO of the training data rises. Then …", [
        Option("log p(x) has risen as well.", "log p(x) is the decoder's and the prior's alone. The encoder only says how much of it we see."),
        Option("the mean gap has fallen by as much.", "The bound has come closer to a log p(x) that stayed where it was.", True),
        Option("samples from the model look better.", "To sample, one draws z from the prior and decodes. The encoder takes no part."),
        Option("the rate has fallen.", "It may have risen: a narrower, better placed q costs more and reconstructs better.")]),
    Question("In a table, model A has an ELBO of −85.2 and model B an IS(5000) of −84.9, on the same test set. Which is better?", [
        Option("B: its number is higher.", "The two numbers lie below their truths by different amounts. A's log p(x) may well be above B's."),
        Option("A: an ELBO is a bound, IS an estimate, which may be too high.", "On average IS is a lower bound as well; it is rarely too high by much."),
        Option("B, for IS(5000) is practically exact.", "In this chapter it missed up to ten nats on a picture where the encoder was wrong."),
        Option("One cannot tell.", "An ELBO is below log p(x) by the whole gap, IS(5000) by less. Compare like with like.", True)]),
    Question("A colleague feeds grey pixels to the Bernoulli formula and reports 77.3 nats on MNIST; the best published models report about 79. What do you say?", [
        Option("The two numbers measure different things.", "The one is a cross-entropy of grey values, the other minus a log probability of black-and-white pictures.", True),
        Option("Congratulations.", "They would be due if both numbers measured the same thing."),
        Option("Subtract log 256 for each pixel and compare.", "That turns a density into a probability of levels, but the Bernoulli formula on grey values is no density to begin with."),
        Option("It is the sign that is wrong.", "Signs are fine: both are positive numbers to be made small.")]),
    Question("The rate of one latent is zero on every picture. What does the encoder say about it?", [
        Option("Its mean is zero and its variance tiny.", "A tiny variance costs much: minus the logarithm of it, halved."),
        Option("It copies the prior: mean 0, variance 1, whatever the picture.", "That is the only Gaussian with rate zero. The latent tells nothing about x: it is unused.", True),
        Option("It is always exactly right.", "It says nothing; only if the decoder ignores the latent, too, is that the exact posterior."),
        Option("Its posterior is a point.", "A point would have an infinite rate.")]),
    Question("On a held-out picture the ELBO is 28 nats below log p(x). Optimising q for this picture alone brings it to within 0.1. What helps?", [
        Option("A richer family for q, such as a flow.", "The family is not the trouble: one of its members is within a tenth of a nat."),
        Option("A larger decoder.", "log p(x) is a matter of the decoder, but here the gap below it is in question."),
        Option("A better encoder, or a few steps of optimisation at test time.", "All of the gap is the encoder's: an amortisation gap.", True),
        Option("More samples in IS.", "They come from the same misplaced q. Five thousand of them missed ten nats.")]),
])
