"""The exercises of the chapter on VAEs in practice, and its quiz."""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor

from tightbound import vae_practice as method
from tightbound.checks.check import Check, Wrong
from tightbound.checks.quiz import Option, Question, Quiz

LOG_2 = math.log(2)


def _normals(stream: random.Random, *shape: int, scale: float = 1.0) -> Tensor:
    return torch.tensor([stream.gauss(0, scale) for _ in range(math.prod(shape))], dtype=torch.float64).reshape(shape)


def _between(stream: random.Random, low: float, high: float, *shape: int) -> Tensor:
    return torch.tensor([stream.uniform(low, high) for _ in range(math.prod(shape))], dtype=torch.float64).reshape(shape)


# 1. Rates by unit ---------------------------------------------------------------------------------------------------------

def _draw_rates(stream):
    n, d = stream.randint(4, 7), stream.randint(2, 3)
    return {"mean": _normals(stream, n, d), "log_variance": _between(stream, -3.0, 0.8, n, d)}


def _rates(mean, log_variance):
    return method.gaussian_rates(mean, log_variance / 2)


rates = Check(
    "rates by unit", draw=_draw_rates, reference=lambda mean, log_variance: _rates(mean, log_variance).mean(0), outputs=["rates"],
    wrongs=[
        Wrong("sum over the data", lambda mean, log_variance: _rates(mean, log_variance).sum(0),
              "these are sums over the data. The rate of a unit is an average: nats a datum."),
        Wrong("over units, not data", lambda mean, log_variance: _rates(mean, log_variance).mean(1),
              "this is one number a datum, averaged over the units. Asked for is one number a unit, averaged over the data."),
        Wrong("one number", lambda mean, log_variance: _rates(mean, log_variance).sum(-1).mean(),
              "this is the whole rate, of all units together. Keep the units apart: that one of them is dead cannot be seen in a sum."),
        Wrong("no minus one", lambda mean, log_variance: (_rates(mean, log_variance) + 0.5).mean(0),
              "a constant is missing: where q is the prior, the rate has to be zero."),
        Wrong("no variance", lambda mean, log_variance: 0.5 * (mean.square() - 1 - log_variance).mean(0),
              "a term is missing, the variance itself beside its logarithm: as it stands, a wide q would be cheap without end. "
              "(One of the lectures that this book grew from prints it so.)"),
        Wrong("no half", lambda mean, log_variance: 2 * _rates(mean, log_variance).mean(0), "a factor of one half is missing."),
        Wrong("sign", lambda mean, log_variance: -_rates(mean, log_variance).mean(0),
              "the sign: this is minus the divergence. A rate is never negative."),
        Wrong("sign of the logarithm", lambda mean, log_variance: 0.5 * (mean.square() + log_variance.exp() - 1 + log_variance).mean(0),
              "the sign of the log variance: as it stands, a narrow q would have a rate below zero."),
        Wrong("deviation for variance", lambda mean, log_variance: 0.5 * (mean.square() + (log_variance / 2).exp() - 1 - log_variance).mean(0),
              "the standard deviation stands where the variance should."),
        Wrong("logarithm of the deviation", lambda mean, log_variance: _rates(mean, 2 * log_variance).mean(0),
              "you took log_variance for the logarithm of the standard deviation."),
        Wrong("variance for its logarithm", lambda mean, log_variance: 0.5 * (mean.square() + log_variance - 1 - torch.log(log_variance.abs())).mean(0),
              "you took log_variance for the variance: it is its logarithm, and may be negative."),
        Wrong("at the mean of the means", lambda mean, log_variance: _rates(mean.mean(0), log_variance.mean(0)),
              "you averaged means and log variances first. The rate is the average of each datum's divergence."),
        Wrong("of the aggregated posterior", lambda mean, log_variance: _rates(
            mean.mean(0), (mean.var(0, correction=0) + log_variance.exp().mean(0)).log()),
              "this is the divergence of one Gaussian with the mean and the variance of all codes together. Each datum has a posterior, and a divergence, of its own."),
        Wrong("the other divergence", lambda mean, log_variance: (
            0.5 * ((1 + mean.square()) * (-log_variance).exp() - 1 + log_variance)).mean(0),
              "this is KL(p || q), the other way round. The average is to be taken over q."),
        Wrong("in bits", lambda mean, log_variance: _rates(mean, log_variance).mean(0) / LOG_2,
              "this is in bits. Rates are in nats: natural logarithms."),
        Wrong("no mean", lambda mean, log_variance: _rates(torch.zeros_like(mean), log_variance).mean(0),
              "the means do not enter. A q that has moved away from the prior pays for it."),
    ],
    hints=["KL(N(mu, s^2) || N(0, 1)) has a closed form in mu, s^2 and log s^2. It is zero at mu = 0, s = 1.",
           "1/2 (mu^2 + s^2 - 1 - log s^2), for each datum and each unit; s^2 is the exponential of what you are given.",
           "Average over the first axis, the data: `.mean(0)`. What remains has one number a unit."])


# 2. Active units ----------------------------------------------------------------------------------------------------------

def _draw_active(stream):
    n, d = stream.randint(20, 30), stream.randint(6, 9)
    # the fourth lies below the threshold with the divisor N, and above it with N - 1
    spread = torch.tensor([stream.choice([0.004, 0.06, 0.16, math.sqrt(0.0099), 0.9]) for _ in range(d)], dtype=torch.float64)
    mean = _normals(stream, n, d)
    mean = (mean - mean.mean(0)) / mean.std(0, correction=0)
    mean = mean * spread + _normals(stream, d) * torch.tensor([stream.choice([0.0, 1.0]) for _ in range(d)])
    width = torch.tensor([stream.choice([0.05, 0.7, 1.0]) for _ in range(d)], dtype=torch.float64)
    return {"mean": mean, "scale": width * _between(stream, 0.99, 1.02, n, d)}


active = Check(
    "active units", draw=_draw_active, outputs=["active"],
    reference=lambda mean, scale: (mean.var(0, correction=0) > 0.01).double(),
    wrongs=[
        Wrong("how many", lambda mean, scale: (mean.var(0, correction=0) > 0.01).sum(),
              "this is how many there are. Asked for is which: one True or False a unit."),
        Wrong("deviation against the threshold", lambda mean, scale: (mean.std(0, correction=0) > 0.01).double(),
              "you held the standard deviation against 0.01. The threshold is meant for the variance."),
        Wrong("squares, not variance", lambda mean, scale: (mean.square().mean(0) > 0.01).double(),
              "this is the mean square. A unit whose mean is the same for every datum, zero or not, tells nothing: take the variance."),
        Wrong("posterior's width", lambda mean, scale: (scale.square().mean(0) > 0.01).double(),
              "this looks at the width of q(z | x). Active is a unit whose *mean* differs from datum to datum."),
        Wrong("total variance", lambda mean, scale: (mean.var(0, correction=0) + scale.square().mean(0) > 0.01).double(),
              "this is the variance of the aggregated posterior: it is about one for dead units, too. Look at the means alone."),
        Wrong("over units", lambda mean, scale: (mean.var(1, correction=0) > 0.01).double(),
              "the variance is to be taken over the data, the first axis, for each unit."),
        Wrong("the dead ones", lambda mean, scale: (mean.var(0, correction=0) <= 0.01).double(),
              "these are the collapsed units. Turn the inequality round."),
        Wrong("divisor N - 1", lambda mean, scale: (mean.var(0) > 0.01).double(),
              "you divided by N - 1, which is torch's habit: near the threshold that can decide. Asked for is the divisor N."),
        Wrong("narrow posterior", lambda mean, scale: (scale.mean(0) < 0.5).double(),
              "a narrow q is a sign, but not the definition: look at how the means vary over the data."),
        Wrong("none", lambda mean, scale: torch.zeros(mean.shape[1]),
              "you find no unit active, in any instance. Is it the variance of `mean` that you took (that of `scale` is tiny), and over the data?"),
        Wrong("size of the means", lambda mean, scale: (mean.abs().mean(0) > 0.01).double(),
              "you held the size of the means against 0.01. Means that are large but all the same tell nothing: take their variance."),
        Wrong("mean of the means", lambda mean, scale: (mean.mean(0).abs() > 0.01).double(),
              "you averaged the means over the data first. What counts is how they differ, not where they lie."),
        Wrong("narrower than the prior", lambda mean, scale: (scale.square().mean(0) < 0.9).double(),
              "these are the units whose q is narrower than the prior. A narrow q costs nats, but if it is the same for every datum it "
              "tells nothing."),
        Wrong("the rate", lambda mean, scale: (method.gaussian_rates(mean, scale.log()).mean(0) > 0.01).double(),
              "you held the rate against 0.01. A q that is off the prior in the same way for every datum has a rate, too, and says nothing: "
              "look at how the means vary."),
        Wrong("the rate above a tenth", lambda mean, scale: (method.gaussian_rates(mean, scale.log()).mean(0) > 0.1).double(),
              "you counted units by a rate above a tenth of a nat, as the chapter does for the sheets. Active is defined by how the means vary."),
        Wrong("the variances", lambda mean, scale: mean.var(0, correction=0),
              "these are the variances themselves. Compare them with the threshold."),
        Wrong("the sample variances", lambda mean, scale: mean.var(0),
              "these are the variances themselves (divided by N - 1). Compare them with the threshold."),
    ],
    hints=["Which of the two arguments says how a unit *differs* from one datum to the next?",
           "Burda's definition: the variance over the data of the posterior mean, unit by unit, against 0.01.",
           "`mean.var(0, correction=0) > 0.01`."])


# 3. Under water -----------------------------------------------------------------------------------------------------------

def _draw_water(stream):
    variances = torch.tensor(sorted((math.exp(stream.uniform(-3, 1.2)) for _ in range(stream.randint(4, 7))), reverse=True),
                             dtype=torch.float64)
    noise, beta = stream.uniform(0.08, 0.4), stream.choice([0.5, 2.0, 3.0])
    while not variances[-1] * 1.05 < noise * beta < variances[0] / 1.05:
        noise, beta = stream.uniform(0.05, 0.6), stream.choice([0.5, 2.0, 3.0])
    return {"variances": variances, "noise": noise, "beta": beta}


def _water(variances, noise, beta):
    found = method.water_filling(variances, noise * beta)
    return found.rates.sum(), found.distortions.sum()


def _half_way(variances, noise, beta):
    """A decoder that is best at beta = 1, with the encoder that is best at beta: w^2, s^2, and the mean's slope by w."""
    weight = (variances - noise).clamp(min=0)
    return weight, beta * noise / (weight + beta * noise), weight / (weight + beta * noise)


def _half_way_rate(variances, noise, beta):
    weight, square, slope = _half_way(variances, noise, beta)
    means = torch.where(weight > 0, slope.square() * variances / weight, 0.0)
    return 0.5 * (means + square - 1 - square.log()).sum()


def _half_way_error(variances, noise, beta):
    weight, square, slope = _half_way(variances, noise, beta)
    return (variances * (1 - slope).square() + weight * square).sum()


water = Check(
    "under water", draw=_draw_water, reference=_water, outputs=["rate", "squared error"],
    wrongs=[
        Wrong("no beta", lambda variances, noise, beta: _water(variances, noise, 1.0)[0],
              "beta does not enter. A dearer nat raises the water."),
        Wrong("beta the wrong way", lambda variances, noise, beta: _water(variances, noise, 1 / beta)[0],
              "the water moves the wrong way: a larger beta makes nats dearer, so that fewer are spent."),
        Wrong("drowned units count", lambda variances, noise, beta: 0.5 * (variances / (noise * beta)).log().sum(),
              "units under water have entered with a negative rate. A rate is at least zero: they are switched off."),
        Wrong("level over the noise", lambda variances, noise, beta: 0.5 * (variances.clamp(min=noise * beta) / noise).log().sum(),
              "a unit under water gets a rate other than zero: what stands above and what below the fraction there?"),
        Wrong("no half", lambda variances, noise, beta: 2 * _water(variances, noise, beta)[0],
              "twice too much: a logarithm of variances needs a half."),
        Wrong("in bits", lambda variances, noise, beta: _water(variances, noise, beta)[0] / LOG_2,
              "this is in bits. Rates are in nats: natural logarithms."),
        Wrong("mean rate", lambda variances, noise, beta: _water(variances, noise, beta)[0] / len(variances),
              "this is the rate a direction. Asked for is the rate of all units together."),
        Wrong("channel capacity", lambda variances, noise, beta: 0.5 * torch.log1p(variances / (noise * beta)).sum(),
              "this is 1/2 log(1 + variance / noise), with the noise added to the signal. Here the variances are those of the data, which "
              "contain the noise already."),
        Wrong("decoder of beta = 1", _half_way_rate,
              "beta enters the encoder alone; it looks as if the decoder was fitted at beta = 1. Both are at the optimum for this beta, and "
              "the decoder's weights shrink as well."),
        Wrong("decoder of beta = 1, log only", lambda variances, noise, beta: -0.5 * _half_way(variances, noise, beta)[1].log().sum(),
              "this is -1/2 log s^2 with weights that were fitted at beta = 1. Both are at the optimum for this beta: the weights shrink, too."),
        Wrong("deviation for variance", lambda variances, noise, beta: _water(variances, noise**2, beta)[0],
              "you squared `noise`, but it is a variance already."),
        Wrong("times beta", lambda variances, noise, beta: beta * _water(variances, noise, beta)[0],
              "this is beta times the rate, which is what the objective charges. Asked for is the rate itself."),
        Wrong("noise in every direction", lambda variances, noise, beta: noise * beta * len(variances),
              "this leaves the water level in every direction. A direction under water cannot lose more than it has.", 1),
        Wrong("what is lost under water alone", lambda variances, noise, beta: variances[variances <= noise * beta].sum(),
              "you counted the drowned directions only. The others are coded with an error too, for q is no point.", 1),
        Wrong("error without beta", lambda variances, noise, beta: _water(variances, noise, 1.0)[1],
              "beta does not enter the error: it sets how sharply a unit is coded.", 1),
        Wrong("a mean", lambda variances, noise, beta: _water(variances, noise, beta)[1] / len(variances),
              "this is the error a direction. Add them up.", 1),
        Wrong("pixel noise added", lambda variances, noise, beta: _water(variances, noise, beta)[1] + noise * len(variances),
              "you added pixel noise. A reconstruction is W z + b, without it.", 1),
        Wrong("noise where alive", lambda variances, noise, beta: torch.where(
            variances > noise * beta, torch.full_like(variances, noise), variances).sum(),
              "in the directions that stand out you left the noise: beta raises or lowers what is left there.", 1),
        Wrong("what is lost above water alone", lambda variances, noise, beta: noise * beta * (variances > noise * beta).sum(),
              "you counted the directions that stand out only. The drowned ones are lost whole.", 1),
        Wrong("error of the mean", lambda variances, noise, beta: (
            variances * torch.where(variances > noise * beta, noise * beta / variances, torch.ones_like(variances)).square()).sum(),
              "this is the error of the posterior mean's reconstruction. The bound averages over z from q, whose spread adds to it.", 1),
        Wrong("error with the decoder of beta = 1", _half_way_error,
              "beta enters the encoder alone; it looks as if the decoder was fitted at beta = 1. It, too, is at the optimum for this beta.", 1),
        Wrong("what is kept", lambda variances, noise, beta: (variances - noise * beta).clamp(min=0).sum(),
              "this is the variance that stands out of the water, what is kept. The error is the rest.", 1),
    ],
    hints=["Draw it: the variances as bars, the water at beta times the noise. Which bars stand out, and what is left of each?",
           "Rate of a bar that stands out: half the logarithm of bar over water; else zero. Error: the bar up to the water.",
           "`level = beta * noise`; `0.5 * torch.log(variances.clamp(min=level) / level).sum()`; `variances.clamp(max=level).sum()`."])


# 4. Free bits -------------------------------------------------------------------------------------------------------------

def _draw_free(stream):
    n, d = stream.randint(4, 6), stream.randint(3, 5)
    level = torch.tensor([stream.choice([0.1, 0.4, 1.2]) for _ in range(d)], dtype=torch.float64)
    level[0], level[1] = 0.2, 1.5
    return {"reconstruction": -20 + 3 * _normals(stream, n), "rates": level * _between(stream, 0.1, 1.9, n, d) * stream.choice([1.0, 0.1]),
            "floor": stream.uniform(0.4, 0.8)}


free_bits = Check(
    "free bits", draw=_draw_free, outputs=["objective"],
    reference=lambda reconstruction, rates, floor: reconstruction.mean() - rates.mean(0).clamp(min=floor).sum(),
    wrongs=[
        Wrong("no floor", lambda reconstruction, rates, floor: reconstruction.mean() - rates.sum(-1).mean(),
              "this is the bound itself: the floor does not enter."),
        Wrong("datum by datum", lambda reconstruction, rates, floor: reconstruction.mean() - rates.clamp(min=floor).sum(-1).mean(),
              "you applied the floor to each datum. It holds for a unit's mean over the batch, so that one datum may use more and another less."),
        Wrong("on the sum", lambda reconstruction, rates, floor: reconstruction.mean() - rates.sum(-1).mean().clamp(min=floor),
              "you applied the floor to the sum over units. Then one unit can use it up and the others may still die."),
        Wrong("on the sum, all units' floors", lambda reconstruction, rates, floor: (
            reconstruction.mean() - rates.sum(-1).mean().clamp(min=floor * rates.shape[1])),
              "you held all units' floors together against the sum of their rates. Then one unit can fill them all, and the others may still die."),
        Wrong("on one mean of all", lambda reconstruction, rates, floor: reconstruction.mean() - rates.mean().clamp(min=floor),
              "you averaged over data and units alike. Average over the data alone: each unit meets the floor by itself, and then they add up."),
        Wrong("nothing below the floor", lambda reconstruction, rates, floor: (
            reconstruction.mean() - torch.where(rates.mean(0) > floor, rates.mean(0), 0.0).sum()),
              "below the floor you charge nothing. The objective charges the larger of the two, so at least the floor, and makes no jump there."),
        Wrong("a ceiling", lambda reconstruction, rates, floor: reconstruction.mean() - rates.mean(0).clamp(max=floor).sum(),
              "you took the smaller of rate and floor. Then a rate above the floor costs nothing, and below it the price is as before."),
        Wrong("free, not floored", lambda reconstruction, rates, floor: reconstruction.mean() - (rates.mean(0) - floor).clamp(min=0).sum(),
              "this differs by a constant, the floor itself for each unit: the same gradient, but no longer a lower bound. Keep the larger of the two."),
        Wrong("sign", lambda reconstruction, rates, floor: reconstruction.mean() + rates.mean(0).clamp(min=floor).sum(),
              "the sign: the objective is to be maximised, and rate is a cost."),
        Wrong("a cost", lambda reconstruction, rates, floor: -(reconstruction.mean() - rates.mean(0).clamp(min=floor).sum()),
              "this is a loss, to be minimised. Asked for is the objective, to be maximised."),
        Wrong("sum over the data", lambda reconstruction, rates, floor: reconstruction.sum() - rates.mean(0).clamp(min=floor).sum(),
              "the reconstruction is a sum over the batch and the rate a mean. Take both as means."),
        Wrong("for the whole batch", lambda reconstruction, rates, floor: (
            reconstruction.sum() - len(rates) * rates.mean(0).clamp(min=floor).sum()),
              "this is the objective of the whole batch. Asked for is that of a datum: means over the batch."),
        Wrong("mean over units", lambda reconstruction, rates, floor: reconstruction.mean() - rates.mean(0).clamp(min=floor).mean(),
              "you averaged over the units. Their rates add up."),
        Wrong("no reconstruction", lambda reconstruction, rates, floor: -rates.mean(0).clamp(min=floor).sum(),
              "the reconstruction is missing."),
    ],
    hints=["Three steps, and their order matters: a mean over the batch, a maximum with the floor, a sum over units.",
           "The unit's rate is averaged over the batch *before* it meets the floor.",
           "`reconstruction.mean() - rates.mean(0).clamp(min=floor).sum()`."])


# 5. What z says of x ------------------------------------------------------------------------------------------------------

def _draw_information(stream):
    n, d = stream.randint(3, 6), stream.randint(1, 3)
    mean, scale = _normals(stream, n, d, scale=1.3), _between(stream, 0.3, 1.2, n, d)
    z = mean + scale * _normals(stream, n, d)
    if stream.random() < 0.4:
        z[0] = z[0] + stream.choice([-60.0, 60.0])    # where every density underflows
    return {"mean": mean, "scale": scale, "z": z}


def _pairs(mean, scale, z):
    """log q(z_n | x_m), (n, m)."""
    standard = (z.unsqueeze(1) - mean) / scale
    return (-0.5 * standard.square() - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)


def _information(mean, scale, z):
    return _information_of(_pairs(mean, scale, z))


def _information_of(pairs):
    return (pairs.diagonal() - pairs.logsumexp(1) + math.log(len(pairs))).mean()


def _patched(mean, scale, z):
    """Right where q(z) is no small number; NaN, which agrees with anything, where what stands for it decides."""
    small = bool((_pairs(mean, scale, z).exp().mean(1) < 1e-6).any())
    return torch.tensor(math.nan) if small else _information(mean, scale, z)


def _matched(mean, scale, z):
    """With q(z) as one Gaussian, of the mixture's mean and variance."""
    spread = (mean.var(0, correction=0) + scale.square().mean(0)).sqrt()
    return (_pairs(mean, scale, z).diagonal() - _pairs(mean.mean(0, keepdim=True), spread[None], z)[:, 0]).mean()


def _prior(z):
    return (-0.5 * z.square() - 0.5 * math.log(2 * math.pi)).sum(-1)


information = Check(
    "what z says of x", draw=_draw_information, reference=_information, outputs=["information"],
    wrongs=[
        Wrong("underflow", lambda mean, scale, z: (_pairs(mean, scale, z).diagonal() - _pairs(mean, scale, z).exp().mean(1).log()).mean(),
              "right, but for a z far from every posterior: there all densities underflow to zero. Stay with logarithms: log-sum-exp."),
        Wrong("underflow, patched by 1e-8", lambda mean, scale, z: (
            _pairs(mean, scale, z).diagonal() - (_pairs(mean, scale, z).exp().mean(1) + 1e-8).log()).mean(),
              "a small number inside the logarithm keeps it finite, but where q(z) is small it decides the answer, and elsewhere it disturbs. "
              "Stay with logarithms: log-sum-exp."),
        Wrong("underflow, patched", _patched,
              "right, but for a z far from every posterior: there all densities underflow to zero. A small number added inside the logarithm, or "
              "a clamp, hides the zero and puts another value in its place. Stay with logarithms: log-sum-exp."),
        Wrong("no log N", lambda mean, scale, z: _information(mean, scale, z) - math.log(len(z)),
              "q(z) is a *mean* of N posteriors, and you have their sum: a term that depends on N is missing."),
        Wrong("minus log N", lambda mean, scale, z: _information(mean, scale, z) - 2 * math.log(len(z)),
              "the sign of log N: q(z) is the *sum* of N posteriors divided by N, and log q(z) is taken off."),
        Wrong("the rate", lambda mean, scale, z: (_pairs(mean, scale, z).diagonal() - _prior(z)).mean(),
              "this is the rate, held against the prior. The information is held against the aggregated posterior q(z)."),
        Wrong("the rate in closed form", lambda mean, scale, z: method.gaussian_rates(mean, scale.log()).sum(-1).mean(),
              "this is the rate, KL to the prior in closed form, without the draws. The information is held against the aggregated posterior q(z)."),
        Wrong("the mismatch", lambda mean, scale, z: (_pairs(mean, scale, z).logsumexp(1) - math.log(len(z)) - _prior(z)).mean(),
              "this is the other part of the rate, KL(q(z) || p(z))."),
        Wrong("mean of logarithms", lambda mean, scale, z: (_pairs(mean, scale, z).diagonal() - _pairs(mean, scale, z).mean(1)).mean(),
              "you averaged logarithms to get log q(z). The densities are to be averaged, then comes the logarithm."),
        Wrong("logarithm of the mean", lambda mean, scale, z: (
            _pairs(mean, scale, z).diagonal() - _pairs(mean, scale, z).logsumexp(1)).logsumexp(0),
              "you averaged the ratios over the data and took the logarithm last. The information is a mean of logarithms."),
        Wrong("over the wrong axis", lambda mean, scale, z: (
            _pairs(mean, scale, z).diagonal() - _pairs(mean, scale, z).logsumexp(0) + math.log(len(z))).mean(),
              "for each z you need all posteriors at this z; it looks as if you took one posterior at all z."),
        Wrong("without itself", lambda mean, scale, z: (
            _pairs(mean, scale, z).diagonal() - _pairs(mean, scale, z).masked_fill(torch.eye(len(z), dtype=torch.bool), -math.inf).logsumexp(1)
            + math.log(len(z) - 1)).mean(),
              "you left each datum's own posterior out of q(z). It is one of the N."),
        Wrong("sum, not mean", lambda mean, scale, z: _information(mean, scale, z) * len(z),
              "this is a sum over the data. The information is an average, in nats a datum."),
        Wrong("sign", lambda mean, scale, z: -_information(mean, scale, z), "the sign: log q(z | x) minus log q(z), not the other way round."),
        Wrong("in bits", lambda mean, scale, z: _information(mean, scale, z) / LOG_2, "this is in bits. Asked for are nats."),
        Wrong("units apart", lambda mean, scale, z: sum(_information(mean[:, [j]], scale[:, [j]], z[:, [j]]) for j in range(z.shape[1])),
              "you added the information of single units. Given x the units are independent, but over all x they are not: work with all units at once."),
        Wrong("variance for deviation", lambda mean, scale, z: _information(mean, scale.sqrt(), z),
              "`scale` holds standard deviations; it looks as if you took them for variances."),
        Wrong("deviation squared", lambda mean, scale, z: _information(mean, scale.square(), z),
              "`scale` holds standard deviations, and you squared them first: Normal() wants the deviation, not the variance."),
        Wrong("deviation not squared", lambda mean, scale, z: _information_of(_pairs(mean, scale.sqrt(), z) - 0.5 * scale.log().sum(-1)),
              "in the exponent the square of z - mean stands over `scale`, not over its square."),
        Wrong("not normalised", lambda mean, scale, z: _information_of(_pairs(mean, scale, z) + scale.log().sum(-1)),
              "the densities are not normalised: a narrow Gaussian is higher than a wide one, and here each has a width of its own."),
        Wrong("one Gaussian for q(z)", _matched,
              "you took q(z) for one Gaussian with the mean and the variance of all codes. It is a mixture of N Gaussians."),
    ],
    hints=["Make the table first: log q(z_n | x_m) for every pair, shape (N, N), by broadcasting z[:, None] against mean and scale; sum over units.",
           "The diagonal holds log q(z_n | x_n). log q(z_n) is the log-mean-exp of row n.",
           "`(table.diagonal() - table.logsumexp(1) + math.log(N)).mean()`."])


# 6. The game --------------------------------------------------------------------------------------------------------------

def _draw_game(stream):
    K = stream.randint(5, 8)
    p, g = _between(stream, 0.1, 1.0, K), _between(stream, 0.1, 1.0, K)
    g[stream.sample(range(K), 3)] = 0.0    # modes that the generator has lost: so many that a 1e-6 in a logarithm shows
    return {"p": p / p.sum(), "g": g / g.sum()}


def _game(p, g):
    best, value = method.game_value(p, g, 1.0)
    return best, 0.5 * value + LOG_2


def _kl(a, b):
    return (torch.xlogy(a, a) - torch.xlogy(a, b)).sum()


game = Check(
    "the game", draw=_draw_game, reference=_game, outputs=["discriminator", "Jensen-Shannon divergence"],
    when_nan="Where g is zero, 0 log 0 counts as 0: torch.xlogy knows that.",
    wrongs=[
        Wrong("probability of a fake", lambda p, g: g / (p + g),
              "this is the probability that x is a fake. D says how probable it is that x is real."),
        Wrong("ratio", lambda p, g: p / g, "this is the ratio of densities. A discriminator returns a probability."),
        Wrong("logit", lambda p, g: (p / g).log(), "this is the logit, the logarithm of the ratio. Asked for is the probability."),
        Wrong("ratio to the middle", lambda p, g: 2 * p / (p + g),
              "this is p over the middle, as it stands in the divergence. It goes up to two: no probability."),
        Wrong("a verdict", lambda p, g: (p > g).double(),
              "this says of each x which of the two is likelier. D is a probability: where both are likely it stays in doubt."),
        Wrong("one half", lambda p, g: torch.full_like(p, 0.5), "one half everywhere is right only where the two agree."),
        Wrong("value of the game", lambda p, g: method.game_value(p, g, 1.0)[1],
              "this is the value of the game. It is twice the divergence, less a constant.", 1),
        Wrong("twice", lambda p, g: 2 * _game(p, g)[1], "twice too much: the Jensen-Shannon divergence is the mean of two KL divergences.", 1),
        Wrong("no constant", lambda p, g: _game(p, g)[1] - LOG_2,
              "off by a constant: for g = p the divergence has to be zero. Does what you hold p and g against sum to one?", 1),
        Wrong("the root", lambda p, g: _game(p, g)[1]**0.5,
              "this is the square root, a distance, which is what scipy's jensenshannon returns. Asked for is the divergence.", 1),
        Wrong("constant twice", lambda p, g: 0.5 * method.game_value(p, g, 1.0)[1] + 2 * LOG_2,
              "the constant is off: for g = p the divergence has to be zero.", 1),
        Wrong("in bits", lambda p, g: _game(p, g)[1] / LOG_2, "this is in bits. Asked for are nats.", 1),
        Wrong("forward KL", lambda p, g: _kl(p, g), "this is KL(p || g), which is infinite as soon as the generator loses a mode.", 1),
        Wrong("reverse KL", lambda p, g: _kl(g, p), "this is KL(g || p). Here both are held against their mean, (p + g) / 2.", 1),
        Wrong("p against the middle alone", lambda p, g: _kl(p, (p + g) / 2), "half of it: only p is held against the middle. g has its turn too.", 1),
        Wrong("p's half", lambda p, g: 0.5 * _kl(p, (p + g) / 2), "this is the half that belongs to p. That of g is missing.", 1),
        Wrong("g against the middle alone", lambda p, g: _kl(g, (p + g) / 2), "half of it: only g is held against the middle. p has its turn too.", 1),
        Wrong("where g is positive", lambda p, g: sum(0.5 * _kl(a[g > 0], (p + g)[g > 0] / 2) for a in (p, g)),
              "you left out the x that the generator has lost. There g adds nothing, but p does.", 1),
        Wrong("patched by 1e-6", lambda p, g: 0.5 * sum((a * ((a + 1e-6) / ((p + g) / 2 + 1e-6)).log()).sum() for a in (p, g)),
              "right but for the small number inside the logarithm. Where g is zero the term is zero: leave it out, or take torch.xlogy.", 1),
        Wrong("sign", lambda p, g: -_game(p, g)[1], "the sign: a divergence is never negative.", 1),
    ],
    hints=["For a fixed x, which D maximises p log D + g log(1 - D)? Set the derivative to zero.",
           "Put this D into the sum: two KL divergences appear, each against the middle m = (p + g) / 2, and a constant.",
           "JS = 1/2 KL(p || m) + 1/2 KL(g || m) = 1/2 value + log 2. Use torch.xlogy for the terms with g = 0."])

ALL = (rates, active, water, free_bits, information, game)


quiz = Quiz("vae_practice", [
    Question("A sentence VAE has the same held-out bound as a language model with the same decoder, and a rate of 0.01 nats. What has happened?", [
        Option("The encoder is too small.", "A larger encoder would not be used either: the decoder does not listen."),
        Option("The latent has collapsed: q(z | x) is the prior, and the decoder ignores z.", "As the posterior of a decoder that "
               "ignores z is the prior itself, the gap is closed: the bound sees nothing wrong.", True),
        Option("The bound is loose.", "On the contrary: with q = p(z) = p(z | x) it is tight."),
        Option("The model has overfitted.", "That would show as a difference between training and held-out nats. A collapse can happen without.")]),
    Question("In the linear VAE a direction of variance 0.03 meets pixel noise of variance 0.05. The unit for it …", [
        Option("dies only if training starts badly.", "No start helps: at the global optimum its weight is zero."),
        Option("is off at the optimum, whatever the encoder.", "The noise explains that variance already. The exact evidence, too, is highest with the unit off.", True),
        Option("is on, with a small rate.", "The rate is half the logarithm of variance over noise, and not below zero."),
        Option("is rescued by KL annealing.", "It lives while beta is small, and sinks again when beta has risen to one.")]),
    Question("You train with free bits and report a rate of 3 nats. Which claim may you make?", [
        Option("The model is better than one that has collapsed.", "Not from the rate: it was paid for. Compare held-out nats."),
        Option("The model pays about 3 nats a datum for its z.", "That is all. Whether they help is for the held-out log-likelihood to say.", True),
        Option("z carries 3 nats of information on x.", "Less: a part of the rate may be a mismatch between aggregated posterior and prior, which is no information."),
        Option("The bound is tight.", "Rather the opposite: once the posterior is more than the prior, a Gaussian misses it by something. On the names free bits opened "
               "a gap that the collapsed VAE did not have.")]),
    Question("You train with beta = 1/4 in place of 1. Which of these numbers is no longer a lower bound on log p(x)?", [
        Option("The objective that was maximised.", "It charges a quarter of the rate, and so lies above the bound by the other three quarters: it "
               "may exceed log p(x). Score the trained model at beta = 1.", True),
        Option("Reconstruction minus rate, from the trained networks.", "It is the ELBO of this model with this q, and a bound whatever the two were "
               "trained for; with beta = 1/4 a loose one."),
        Option("Reconstruction minus four times the rate.", "A rate is never negative, so this lies below the ELBO: a bound, if a poor one."),
        Option("The importance-sampled estimate, on average.", "On average it lies below log p(x), for any q: it does not know what q was trained for.")]),
    Question("A GAN and a VAE are trained on the same two modes. What does the likelihood buy?", [
        Option("Sharper samples.", "Rather the opposite: what the VAE puts between the modes is the price of covering both."),
        Option("A number on held-out data that shows a lost mode.", "A lost mode costs the held-out log-likelihood many nats. The GAN's losses need not show it.", True),
        Option("Faster training.", "Not in general, and it was not what we measured."),
        Option("A model that cannot lose a mode.", "It can, in principle; but then the log-likelihood of that mode's data falls, and training pulls it back.")]),
])
