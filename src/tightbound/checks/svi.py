"""The exercises of the chapter on stochastic variational inference, and its quiz."""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor

from tightbound.checks.check import Check, Wrong
from tightbound.checks.quiz import Option, Question, Quiz


def _vector(stream: random.Random, d: int, scale: float = 1.0) -> Tensor:
    return torch.tensor([stream.gauss(0, scale) for _ in range(d)], dtype=torch.float64)


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


# 1. A few data for all ------------------------------------------------------------------------------------------------

def _draw_minibatch(stream):
    b = stream.randint(3, 12)
    return {"log_prior": _number(-stream.uniform(2, 20)), "log_likelihoods": -_vector(stream, b).abs() - 0.1,
            "num_data": stream.randint(50, 900)}


def _minibatch(log_prior, log_likelihoods, num_data):
    return log_prior + num_data / len(log_likelihoods) * log_likelihoods.sum()


minibatch = Check(
    "minibatch", draw=_draw_minibatch, reference=_minibatch, outputs=["log joint"],
    wrongs=[
        Wrong("not scaled up", lambda log_prior, log_likelihoods, num_data: log_prior + log_likelihoods.sum(),
              "the batch counts for itself alone. It has to stand for all N data, so its mean over random batches is too small in size."),
        Wrong("mean of the batch", lambda log_prior, log_likelihoods, num_data: log_prior + log_likelihoods.mean(),
              "the batch counts as a single datum: the log joint holds a sum over N data, not a mean."),
        Wrong("prior scaled too", lambda log_prior, log_likelihoods, num_data: num_data / len(log_likelihoods) * (
            log_prior + log_likelihoods.sum()),
              "you scaled the prior as well. However many data there are, there is one prior."),
        Wrong("prior added for every datum", lambda log_prior, log_likelihoods, num_data: num_data * (log_prior + log_likelihoods.mean()),
              "the prior is in there once for every datum. It belongs to the log joint once."),
        Wrong("prior left out", lambda log_prior, log_likelihoods, num_data: _minibatch(0.0, log_likelihoods, num_data),
              "this estimates the log-likelihood. A log joint has a prior too."),
        Wrong("scaled by the batch alone", lambda log_prior, log_likelihoods, num_data: log_prior + len(log_likelihoods) * log_likelihoods.sum(),
              "you multiplied by the size of the batch. A larger batch should make the estimate better, not larger."),
        Wrong("ratio upside down", lambda log_prior, log_likelihoods, num_data: log_prior + len(log_likelihoods) / num_data * log_likelihoods.sum(),
              "the ratio is upside down: it makes the sum over the batch smaller, where it must grow to that over all."),
        Wrong("sum times all", lambda log_prior, log_likelihoods, num_data: log_prior + num_data * log_likelihoods.sum(),
              "you multiplied the sum of the batch by N. That counts every datum as often as there are data in the batch."),
        Wrong("for each datum", lambda log_prior, log_likelihoods, num_data: _minibatch(log_prior, log_likelihoods, num_data) / num_data,
              "this is the log joint divided by N, nats per datum. Asked for is that of all data."),
        Wrong("mean left out", lambda log_prior, log_likelihoods, num_data: log_prior + num_data * log_likelihoods,
              "there is a number for every datum of the batch. Each of them estimates the log joint; asked for is one estimate from them all."),
        Wrong("sum left out", lambda log_prior, log_likelihoods, num_data: log_prior + num_data / len(log_likelihoods) * log_likelihoods,
              "there is a number for every datum of the batch: where do they come together to one?"),
        Wrong("minus the log joint", lambda log_prior, log_likelihoods, num_data: -_minibatch(log_prior, log_likelihoods, num_data),
              "the sign of the whole is turned: this is the energy."),
        Wrong("logarithm of a mean", lambda log_prior, log_likelihoods, num_data: log_prior + num_data * (
            log_likelihoods.logsumexp(0) - math.log(len(log_likelihoods))),
              "you averaged likelihoods and took the logarithm. What is unbiased is the average of the logarithms, for the log joint is a sum of them."),
        Wrong("logarithm of a sum", lambda log_prior, log_likelihoods, num_data: log_prior + log_likelihoods.logsumexp(0)
              + math.log(num_data / len(log_likelihoods)),
              "you added up likelihoods and took the logarithm. Independent data multiply theirs: what adds up is the logarithms."),
    ],
    hints=["If every datum had the same log-likelihood l, the sum over all data would be N l. What is l, estimated from a batch?",
           "The mean over the batch estimates the mean over all data; multiplied by N, it estimates the sum.",
           "`log_prior + num_data / len(log_likelihoods) * log_likelihoods.sum()`"])


# 2. One noisy gradient ---------------------------------------------------------------------------------------------------

def _draw_gradient(stream):
    S = stream.randint(4, 9)
    return {"slopes": _vector(stream, S, 2.0), "eps": _vector(stream, S), "log_sd": _number(stream.uniform(-1.5, 1.2))}


def _gradient(slopes, eps, log_sd):
    return slopes.mean(), (slopes * eps).mean() * torch.exp(log_sd) + 1


gradient = Check(
    "gradient of a bound", draw=_draw_gradient, reference=_gradient, outputs=["derivative in the mean", "derivative in the log deviation"],
    wrongs=[
        Wrong("summed over the draws", lambda slopes, eps, log_sd: slopes.sum(),
              "you summed over the draws. The bound is an average over eps, so its gradient is one, too."),
        Wrong("downhill", lambda slopes, eps, log_sd: -slopes.mean(),
              "the sign is turned: this leads down. The bound is to rise where the log joint rises."),
        Wrong("deviation in the mean's gradient", lambda slopes, eps, log_sd: slopes.mean() * torch.exp(log_sd),
              "dz/dm is 1, whatever the deviation is: m moves every draw by the same amount."),
        Wrong("score", lambda slopes, eps, log_sd: (slopes * eps).mean() * torch.exp(-log_sd),
              "this is a slope times the score of q. Here the gradient goes through z, and the score has no place."),
        Wrong("entropy left out", lambda slopes, eps, log_sd: _gradient(slopes, eps, log_sd)[1] - 1,
              "the entropy of q is missing: nothing would stop the deviation from shrinking to a point.", 1),
        Wrong("entropy subtracted", lambda slopes, eps, log_sd: _gradient(slopes, eps, log_sd)[1] - 2,
              "the entropy has the wrong sign: the bound holds minus E log q, which grows with the deviation.", 1),
        Wrong("in the deviation, not its logarithm", lambda slopes, eps, log_sd: (slopes * eps).mean() + torch.exp(-log_sd),
              "this is the gradient in the deviation itself. Asked for is that in its logarithm, by the chain rule.", 1),
        Wrong("entropy of the deviation", lambda slopes, eps, log_sd: (slopes * eps).mean() * torch.exp(log_sd) + torch.exp(-log_sd),
              "the first part is in log sigma, but the entropy's is in sigma: differentiate the entropy in log sigma too.", 1),
        Wrong("no deviation in the chain rule", lambda slopes, eps, log_sd: (slopes * eps).mean() + 1,
              "the chain rule lacks a factor: z = m + exp(log_sd) eps, so dz/dlog_sd is not eps alone.", 1),
        Wrong("logarithm for the deviation", lambda slopes, eps, log_sd: (slopes * eps).mean() * log_sd + 1,
              "the logarithm of the deviation stands where the deviation belongs: z = m + exp(log_sd) eps.", 1),
        Wrong("no noise in the chain rule", lambda slopes, eps, log_sd: slopes.mean() * torch.exp(log_sd) + 1,
              "the noise is missing: the deviation moves each draw in proportion to its own eps.", 1),
        Wrong("averages multiplied", lambda slopes, eps, log_sd: slopes.mean() * eps.mean() * torch.exp(log_sd) + 1,
              "you multiplied two averages. What counts is the average of the products: slope and noise belong together, draw by draw.", 1),
        Wrong("deviation summed over the draws", lambda slopes, eps, log_sd: (slopes * eps).sum() * torch.exp(log_sd) + 1,
              "you summed over the draws where an average belongs.", 1),
        Wrong("deviation downhill", lambda slopes, eps, log_sd: -_gradient(slopes, eps, log_sd)[1],
              "the sign is turned: this is the gradient of minus the bound.", 1),
        Wrong("variance for deviation", lambda slopes, eps, log_sd: (slopes * eps).mean() * torch.exp(2 * log_sd) + 1,
              "the variance stands where the deviation belongs: z = m + sigma eps.", 1),
        Wrong("the entropy itself", lambda slopes, eps, log_sd: _gradient(slopes, eps, log_sd)[1] - 1 + log_sd,
              "the entropy itself is added, where its derivative belongs.", 1),
        Wrong("all summed over the draws", lambda slopes, eps, log_sd: len(eps) * _gradient(slopes, eps, log_sd)[1],
              "all of it is summed over the draws, the entropy too: an average is asked for.", 1),
    ],
    hints=["The bound is the average of log p(x, z) with z = m + exp(log_sd) eps, plus the entropy of q. Differentiate one draw's term first.",
           "dz/dm = 1 and dz/dlog_sd = exp(log_sd) eps. The entropy is log_sd plus a constant.",
           "In m: the mean of the slopes. In log_sd: the mean of slope times eps, times exp(log_sd), plus 1."])


# 3. Does it still drift? -------------------------------------------------------------------------------------------------

def _draw_trace(stream):
    T, drift = 2 * stream.randint(5, 15), stream.uniform(0, 3)
    return {"trace": torch.tensor([stream.gauss(drift * t / T, 1) for t in range(T)], dtype=torch.float64)}


def _halves(trace):
    return trace.reshape(2, -1)


def _parts(trace, correction=1):
    halves = _halves(trace)
    return halves.shape[1], halves.var(1, correction=correction).mean(), halves.mean(1).var(correction=correction)


def _r_hat(trace):
    n, W, B = _parts(trace)
    return torch.sqrt((n - 1) / n + B / W)


def _as_trace(n, W, B):
    return torch.sqrt((n - 1) / n + B / W)


r_hat = Check(
    "split R-hat", draw=_draw_trace, reference=_r_hat, outputs=["R-hat"],
    wrongs=[
        Wrong("no root", lambda trace: _r_hat(trace) ** 2, "this is a ratio of variances; R-hat is its root."),
        Wrong("B over n", lambda trace: (lambda n, W, B: _as_trace(n, W, B / n))(*_parts(trace)),
              "B is too small by n. Here it is the variance of the halves' means itself; in some books the letter stands for n times that, and is divided by n."),
        Wrong("B times n", lambda trace: (lambda n, W, B: _as_trace(n, W, n * B))(*_parts(trace)),
              "B is too large by n: it is the variance of the two means, as they are."),
        Wrong("divided by the number", lambda trace: _as_trace(*_parts(trace, 0)),
              "your variances divide by the number of values, which makes that of only two means half as large. Divide by one less."),
        Wrong("deviations for variances", lambda trace: (lambda h: torch.sqrt((h.shape[1] - 1) / h.shape[1] + h.mean(1).std() / h.std(1).mean()))(_halves(trace)),
              "standard deviations stand where variances belong."),
        Wrong("W over B", lambda trace: (lambda n, W, B: _as_trace(n, B, W))(*_parts(trace)),
              "the ratio is upside down: a drift makes the means differ, and must make R-hat larger."),
        Wrong("odd against even", lambda trace: _r_hat(torch.cat([trace[::2], trace[1::2]])),
              "you compared every second value with the others. Those see the same drift; compare the first half with the second."),
        Wrong("no (n - 1)/n", lambda trace: (lambda n, W, B: torch.sqrt(1 + B / W))(*_parts(trace)),
              "the first term is (n - 1)/n, not 1."),
        Wrong("n of the whole trace", lambda trace: (lambda n, W, B: torch.sqrt((2 * n - 1) / (2 * n) + B / W))(*_parts(trace)),
              "n counts the values of a half, not of the whole trace."),
        Wrong("variance of the whole", lambda trace: (lambda n, W, B: torch.sqrt((n - 1) / n + B / trace.var()))(*_parts(trace)),
              "W is the variance of the whole trace. A drift is in that, too, and hides itself; take the mean of the variances within the halves."),
        Wrong("summed variances", lambda trace: (lambda n, W, B: _as_trace(n, 2 * W, B))(*_parts(trace)),
              "B/W is half of what it should be. Either W is the sum of the two variances, where their mean belongs, or B divides by the number of "
              "means, two, and not by one less (as numpy's var does, unless told otherwise)."),
        Wrong("W divided by the number", lambda trace: (lambda n, W, B: _as_trace(n, W * (n - 1) / n, B))(*_parts(trace)),
              "W is a little too small: the variance within a half divides by n - 1, not by n (as numpy's var does, unless told otherwise)."),
        Wrong("deviation within", lambda trace: (lambda h: torch.sqrt((h.shape[1] - 1) / h.shape[1] + h.mean(1).var() / h.std(1).mean()))(_halves(trace)),
              "W is a standard deviation; it should be a variance, as B is."),
        Wrong("deviation squared", lambda trace: (lambda h: torch.sqrt((h.shape[1] - 1) / h.shape[1] + h.mean(1).var() / h.std(1).mean()**2))(_halves(trace)),
              "W is the square of a mean deviation. Take the mean of the two variances."),
        Wrong("deviations, divided by the number", lambda trace: (lambda h: torch.sqrt((h.shape[1] - 1) / h.shape[1] + h.mean(1).std(correction=0)
                                                                                      / h.std(1, correction=0).mean()))(_halves(trace)),
              "standard deviations stand where variances belong, and they divide by the number of values, not by one less."),
        Wrong("only the ratio", lambda trace: (lambda n, W, B: torch.sqrt(B / W))(*_parts(trace)),
              "the term that does not hang on the drift, (n - 1)/n, is missing: without drift R-hat should be near 1."),
    ],
    hints=["Cut the trace in the middle: `trace.reshape(2, -1)` has the two halves as rows.",
           "W is the mean of the two halves' variances, B the variance of their two means, both with one less than the number below (torch's default).",
           "`torch.sqrt((n - 1) / n + halves.mean(1).var() / halves.var(1).mean())`, n being the length of a half."])


# 4. A natural step -------------------------------------------------------------------------------------------------------

def _draw_natural(stream):
    return {"mean": _number(stream.gauss(0, 2)), "log_sd": _number(stream.uniform(-1.5, 1.5)), "slope_mean": _number(stream.gauss(0, 2)),
            "slope_log_sd": _number(stream.gauss(0, 2)), "rho": _number(stream.uniform(0.05, 0.5))}


def _natural(mean, log_sd, slope_mean, slope_log_sd, rho):
    return mean + rho * torch.exp(2 * log_sd) * slope_mean, log_sd + 0.5 * rho * slope_log_sd


natural = Check(
    "natural step", draw=_draw_natural, reference=_natural, outputs=["mean", "log deviation"],
    wrongs=[
        Wrong("ordinary step", lambda mean, log_sd, slope_mean, slope_log_sd, rho: mean + rho * slope_mean,
              "this is an ordinary gradient step. Look at the units: the slope is nats per z, and the mean is a z."),
        Wrong("deviation for variance", lambda mean, log_sd, slope_mean, slope_log_sd, rho: mean + rho * torch.exp(log_sd) * slope_mean,
              "the deviation stands where the variance belongs. The Fisher information of the mean is one over the variance."),
        Wrong("precision for variance", lambda mean, log_sd, slope_mean, slope_log_sd, rho: mean + rho * torch.exp(-2 * log_sd) * slope_mean,
              "you multiplied by the Fisher information; its inverse is wanted. Where q is wide, the mean may take long steps."),
        Wrong("downhill", lambda mean, log_sd, slope_mean, slope_log_sd, rho: mean - rho * torch.exp(2 * log_sd) * slope_mean,
              "the mean goes downhill: the slopes are those of the bound, which is to rise."),
        Wrong("step size left out", lambda mean, log_sd, slope_mean, slope_log_sd, rho: mean + torch.exp(2 * log_sd) * slope_mean,
              "the step size is missing."),
        Wrong("step without the start", lambda mean, log_sd, slope_mean, slope_log_sd, rho: rho * torch.exp(2 * log_sd) * slope_mean,
              "this is the step alone: asked for is where it ends."),
        Wrong("log deviation for variance", lambda mean, log_sd, slope_mean, slope_log_sd, rho: mean + rho * log_sd**2 * slope_mean,
              "you squared the logarithm of the deviation. The variance is exp(2 log_sd)."),
        Wrong("no half", lambda mean, log_sd, slope_mean, slope_log_sd, rho: log_sd + rho * slope_log_sd,
              "the Fisher information of log sigma is not 1: what does the KL divergence of two normals say for a small change of log sigma?", 1),
        Wrong("twice for a half", lambda mean, log_sd, slope_mean, slope_log_sd, rho: log_sd + 2 * rho * slope_log_sd,
              "you multiplied by the Fisher information of log sigma; divide by it.", 1),
        Wrong("variance in the log deviation", lambda mean, log_sd, slope_mean, slope_log_sd, rho: log_sd + 0.5 * rho * torch.exp(2 * log_sd) * slope_log_sd,
              "the variance has no place here: a change of log sigma by 0.1 is the same distance for a wide q and for a narrow one.", 1),
        Wrong("log deviation downhill", lambda mean, log_sd, slope_mean, slope_log_sd, rho: log_sd - 0.5 * rho * slope_log_sd,
              "the log deviation goes downhill.", 1),
        Wrong("deviation returned", lambda mean, log_sd, slope_mean, slope_log_sd, rho: torch.exp(log_sd + 0.5 * rho * slope_log_sd),
              "this is the new deviation; asked for is its logarithm.", 1),
    ],
    hints=["The natural step is rho times the inverse Fisher information times the gradient. For a normal, in (m, log sigma), the Fisher information is diagonal.",
           "KL(N(m + a, sigma^2 e^(2c)) || N(m, sigma^2)) is a^2/(2 sigma^2) + c^2 to second order. Half of F stands before the squares.",
           "F = diag(1/sigma^2, 2): the mean moves by rho sigma^2 times its slope, log sigma by rho/2 times its own."])


# 5. Hoffman's coin -------------------------------------------------------------------------------------------------------

def _draw_hoffman(stream):
    b = stream.randint(4, 40)
    return {"counts": torch.tensor([stream.uniform(2, 300), stream.uniform(2, 300)], dtype=torch.float64), "heads": stream.randint(1, b - 1),
            "batch_size": b, "num_data": stream.randint(100, 2000), "t": stream.randint(1, 60), "delay": stream.uniform(1, 30),
            "forgetting": stream.uniform(0.55, 1.0)}


def _target(heads, batch_size, num_data):
    return 1 + num_data / batch_size * torch.tensor([heads, batch_size - heads], dtype=torch.float64)


def _rho(t, delay, forgetting):
    return (t + delay) ** -forgetting


def _step(counts, target, rho):
    return (1 - rho) * counts + rho * target


def _hoffman(counts, heads, batch_size, num_data, t, delay, forgetting):
    return _step(counts, _target(heads, batch_size, num_data), _rho(t, delay, forgetting))


hoffman = Check(
    "Hoffman's update", draw=_draw_hoffman, reference=_hoffman, outputs=["counts"],
    wrongs=[
        Wrong("batch not scaled", lambda counts, heads, batch_size, num_data, t, delay, forgetting: _step(
            counts, _target(heads, batch_size, batch_size), _rho(t, delay, forgetting)),
              "lambda-hat counts the batch only. Pretend that all N flips fell like those of the batch."),
        Wrong("prior left out", lambda counts, heads, batch_size, num_data, t, delay, forgetting: _step(
            counts, _target(heads, batch_size, num_data) - 1, _rho(t, delay, forgetting)),
              "the prior's own counts, 1 and 1, belong to lambda-hat."),
        Wrong("prior scaled", lambda counts, heads, batch_size, num_data, t, delay, forgetting: _step(
            counts, _target(heads, batch_size, num_data) - 1 + num_data / batch_size, _rho(t, delay, forgetting)),
              "you scaled the prior's counts up with the batch; the prior is there once."),
        Wrong("weights exchanged", lambda counts, heads, batch_size, num_data, t, delay, forgetting: _step(
            counts, _target(heads, batch_size, num_data), 1 - _rho(t, delay, forgetting)),
              "the two weights are exchanged: rho goes to the new estimate, and 1 - rho to what was there."),
        Wrong("added up", lambda counts, heads, batch_size, num_data, t, delay, forgetting: counts
              + _rho(t, delay, forgetting) * _target(heads, batch_size, num_data),
              "nothing is forgotten: lambda-hat minus lambda is the direction, not lambda-hat. With steps like these the counts grow without end."),
        Wrong("lambda-hat alone", lambda counts, heads, batch_size, num_data, t, delay, forgetting: _target(heads, batch_size, num_data),
              "this is lambda-hat, where a full step would lead. The step goes only a part of the way."),
        Wrong("sign of the exponent", lambda counts, heads, batch_size, num_data, t, delay, forgetting: _step(
            counts, _target(heads, batch_size, num_data), _rho(t, delay, -forgetting)),
              "the step sizes grow with t. The exponent is negative."),
        Wrong("delay left out", lambda counts, heads, batch_size, num_data, t, delay, forgetting: _step(
            counts, _target(heads, batch_size, num_data), _rho(t, 0.0, forgetting)),
              "the delay is missing from the step size."),
        Wrong("forgetting left out", lambda counts, heads, batch_size, num_data, t, delay, forgetting: _step(
            counts, _target(heads, batch_size, num_data), _rho(t, delay, 1.0)),
              "the exponent is missing from the step size: you used 1/(t + delay)."),
        Wrong("heads and tails exchanged", lambda counts, heads, batch_size, num_data, t, delay, forgetting: _step(
            counts, _target(heads, batch_size, num_data).flip(0), _rho(t, delay, forgetting)),
              "heads and tails are exchanged in lambda-hat: the first count is that of heads."),
        Wrong("tails first", lambda counts, heads, batch_size, num_data, t, delay, forgetting: _hoffman(
            counts, heads, batch_size, num_data, t, delay, forgetting).flip(0),
              "the two numbers are right, in the wrong order: heads come first."),
        Wrong("all flips for tails", lambda counts, heads, batch_size, num_data, t, delay, forgetting: _step(
            counts, 1 + num_data / batch_size * torch.tensor([heads, batch_size], dtype=torch.float64), _rho(t, delay, forgetting)),
              "the second count gets the whole batch: tails are the flips that are not heads."),
        Wrong("batch scaled by all", lambda counts, heads, batch_size, num_data, t, delay, forgetting: _step(
            counts, 1 + num_data * torch.tensor([heads, batch_size - heads], dtype=torch.float64), _rho(t, delay, forgetting)),
              "you multiplied the batch's counts by N. They are b flips already, so each stands for N/b."),
        Wrong("counted", lambda counts, heads, batch_size, num_data, t, delay, forgetting: counts + torch.tensor(
            [heads, batch_size - heads], dtype=torch.float64),
              "you counted the batch as Bayes' rule does with new data. Here batches come back again and again, and the counts would grow without end."),
        Wrong("old q as prior", lambda counts, heads, batch_size, num_data, t, delay, forgetting: _step(
            counts, _target(heads, batch_size, num_data) - 1 + counts, _rho(t, delay, forgetting)),
              "lambda-hat starts from the old counts. The batch stands for all data, so only the prior, Beta(1, 1), is below it."),
        Wrong("ratio upside down", lambda counts, heads, batch_size, num_data, t, delay, forgetting: _step(
            counts, 1 + batch_size / num_data * torch.tensor([heads, batch_size - heads], dtype=torch.float64), _rho(t, delay, forgetting)),
              "the ratio is upside down: the few flips of the batch have to stand for many."),
        Wrong("tails of all data", lambda counts, heads, batch_size, num_data, t, delay, forgetting: _step(
            counts, 1 + num_data / batch_size * torch.tensor([heads, num_data - heads], dtype=torch.float64), _rho(t, delay, forgetting)),
              "your tails are all other flips there are. Count those of the batch, then scale."),
        Wrong("exponent of the delay alone", lambda counts, heads, batch_size, num_data, t, delay, forgetting: _step(
            counts, _target(heads, batch_size, num_data), 1 / (t + delay**forgetting)),
              "the exponent reaches the delay alone: it belongs to the whole sum, t + delay."),
    ],
    hints=["First lambda-hat: the counts of the posterior if the whole data set were N/b copies of this batch, prior included.",
           "lambda-hat = 1 + N/b times (heads, tails). Then lambda moves towards it: (1 - rho) lambda + rho lambda-hat.",
           "rho = (t + delay)^(-forgetting). Tails are batch_size - heads."])


# 6. Project: a fit that knows when it is done -----------------------------------------------------------------------------

def _draw_project(stream):
    mean, sd = _vector(stream, 2, 1.0).clamp(-2, 2), torch.tensor([stream.uniform(0.6, 1.6) for _ in range(2)], dtype=torch.float64)
    steep = torch.tensor([stream.choice([0.5, 1.5]) for _ in range(2)], dtype=torch.float64)
    sign = 1 if steep[0] == steep[1] else -1  # the other sign would pull the posterior's mean back to that of the best q
    return {"log_joint": _TwoPieces(mean, sd, steep, sign * stream.uniform(0.35, 0.45))}


class _TwoPieces:
    """A log joint of two latents, as a function; what it is made of is for the reference alone.

    A concave parabola whose curvature differs on the two sides of a ridge in each latent, tilted, with a product of both::

        u = (z - m)/s,      log joint = const + sum_i (tilt_i u_i - above_i [u_i > 0] u_i^2/2 - below_i [u_i < 0] u_i^2/2) + r u_1 u_2

    above + below = 2, so the curvature is 1 on average under any normal that is centred at m, and the tilt (above - below)
    phi(0), phi the standard normal density, is what its slopes miss: the best diagonal normal has the mean m and the deviations
    s. Its mode is elsewhere.
    """

    def __init__(self, mean: Tensor, sd: Tensor, above: Tensor, product: float):
        self._mean, self._sd, self._above, self._below, self._product = mean, sd, above, 2 - above, product
        self._tilt = (self._above - self._below) / math.sqrt(2 * math.pi)

    def __call__(self, z: Tensor) -> Tensor:
        u = (z - self._mean) / self._sd
        pieces = self._tilt * u - 0.5 * self._above * u.clamp(min=0).square() - 0.5 * self._below * u.clamp(max=0).square()
        return pieces.sum(-1) + self._product * u.prod(-1) - 3.0

    def __repr__(self):
        return f"a function of z (..., 2), {float(self(torch.zeros(2, dtype=torch.float64))):.6f} at zero"

    def mode(self) -> tuple[Tensor, Tensor]:
        """Where it is highest, and the Hessian of minus the log joint there: Newton's steps, from the middle."""
        u = torch.zeros(2, dtype=torch.float64)
        for _ in range(20):
            curvature = torch.where(u > 0, self._above, self._below)
            H = torch.diag(curvature)
            H[0, 1] = H[1, 0] = -self._product
            u = u + 0.7 * torch.linalg.solve(H, self._tilt - H @ u)
        return self._mean + self._sd * u, H / (self._sd[:, None] * self._sd)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviations of the posterior itself, on a grid."""
        side = torch.linspace(-12, 12, 301, dtype=torch.float64)
        u = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
        share = self(self._mean + self._sd * u).softmax(0)
        mean = share @ u
        return self._mean + self._sd * mean, self._sd * (share @ (u - mean).square()).sqrt()


def _project(log_joint):
    return log_joint._mean, log_joint._sd


class _Search(Check):
    """A check of a stochastic search, which may end near the answer without being right."""

    def _explain(self, bad, instances, got, right, fault):
        found = super()._explain(bad, instances, got, right, fault)
        if found[0] != "other":
            return found
        off = max(float((g.reshape(-1) - r.reshape(-1)).abs().max()) for answer, wanted in zip(got, right) for g, r in zip(answer, wanted))
        return "other", found[1] + (NEAR if off < 0.5 else "")


NEAR = ("\nNear, but not there. One iterate dances in a cloud, so average the second half of the walk; or there were too few steps, "
        "or the same draws throughout, and the search has found the best q for those.")

project = _Search(
    "a stochastic fit", draw=_draw_project, reference=_project, outputs=["mean", "deviations"], num_instances=3, tolerance=0.05, seconds=120.0,
    wrongs=[
        Wrong("mean at zero", lambda log_joint: torch.zeros(2, dtype=torch.float64),
              "the mean is still at zero: is it updated, and does it go up the bound?"),
        Wrong("mean mirrored", lambda log_joint: -log_joint._mean, "the mean has the wrong sign: the search seems to have run in a mirror."),
        Wrong("mode", lambda log_joint: log_joint.mode()[0],
              "this is the mode, where the log joint is highest at a point. The ELBO averages it over the whole of q, and these posteriors are "
              "lopsided. Or the entropy is missing, or too small beside a *sum* over draws: then q shrinks onto the mode."),
        Wrong("posterior's own mean", lambda log_joint: log_joint.moments()[0],
              "this is the mean of the posterior itself. The best diagonal q of a lopsided posterior has another."),
        Wrong("posterior's own deviations", lambda log_joint: log_joint.moments()[1],
              "these are the deviations of the posterior. By reverse KL a diagonal q has narrower ones, for it cannot follow the correlation.", 1),
        Wrong("curvature at the mode", lambda log_joint: log_joint.mode()[1].diagonal().rsqrt(),
              "these come from the curvature at the mode, as Laplace would have it. What counts is the curvature on average over q.", 1),
        Wrong("variances", lambda log_joint: log_joint._sd**2, "these are variances; asked for are standard deviations.", 1),
        Wrong("log deviations", lambda log_joint: log_joint._sd.log(),
              "these are the logarithms of the deviations; take the exponential before you return.", 1),
        Wrong("precisions", lambda log_joint: log_joint._sd**-2, "these are precisions, one over the variances.", 1),
        Wrong("deviations of one", lambda log_joint: torch.ones(2, dtype=torch.float64),
              "the deviations are still one: are they updated?", 1),
        Wrong("no deviations", lambda log_joint: torch.zeros(2, dtype=torch.float64),
              "q has shrunk to a point: without its entropy the bound is highest there.", 1),
    ],
    hints=["One step: draw eps (S, 2), z = m + exp(s) eps, bound = log_joint(z).mean() + s.sum(). `torch.autograd.grad(bound, (m, s))` gives the "
           "gradient.",
           "A constant step of about 0.05 with S = 32 arrives after some hundred steps. Then average the iterates; the last one alone is too noisy "
           "for this check, or needs tiny steps.",
           "Four hundred steps to arrive, a thousand to average, both m and s; return the average m and exp(average s). For part 2, keep all iterates in a list, and put the "
           "second half into the R-hat of exercise 3."])

ALL = (minibatch, gradient, r_hat, natural, hoffman, project)


quiz = Quiz("svi", [
    Question("You take 4 of 400 data a step, and 1 draw of z. The gradient is too noisy. Which change helps most at about the same cost, 32 times that of now?", [
        Option("32 draws of z.", "With 4 data nearly all of the noise is that of the data; more draws leave it as it is."),
        Option("128 data.", "The noise of the data dominates, and falls like one over the number of data (and a little faster, for they are drawn "
               "without replacement).", True),
        Option("Steps 32 times smaller.", "That lets 32 steps average out, at 32 times the steps: it does not make a gradient better, and the walk is slow everywhere, also "
               "where the noise does no harm."),
        Option("Nothing: the gradient is unbiased.", "Unbiased says nothing about the variance, which sets the size of the cloud.")]),
    Question("For two hundred steps the bound has stayed at −85.2 ± 0.4 nats. What follows?", [
        Option("The fit has converged.", "A slow drift of the parameters hides in noise of 0.4 nats a step. Thousands of steps of it can be worth many nats."),
        Option("The gap is below 0.4 nats.", "The gap hangs on log p(x), which no trace of the bound knows."),
        Option("Not much: look at the means and deviations of q.", "If they still drift, the bound still rises, however slowly. R-hat of each tells; then halve the step, and look "
               "whether the average moves.", True),
        Option("The step size is too large.", "It may be too large, too small, or right: all three can look like this.")]),
    Question("A constant step size is divided by four, everything else is as it was. Once the walk has become stationary …", [
        Option("the cloud is half as wide.", "Its variance is proportional to the step size, for small steps.", True),
        Option("the cloud is a quarter as wide.", "The variance is; the width is its root."),
        Option("the average over the same number of steps is four times better.", "Iterates of small steps resemble each other, so the average gains nothing from the smaller cloud."),
        Option("it arrives faster.", "It needs four times as many steps to forget where it began.")]),
    Question("In Hoffman's stochastic variational inference for topics, what is a noisy step taken in?", [
        Option("The shares of each document.", "Those are local: found anew for each document, and to the end, before the step."),
        Option("The parameters theta of a decoder.", "There is none: topics are latents with a posterior of their own."),
        Option("The weights of an encoder.", "That is amortised inference: a network in the place of the local loops."),
        Option("The parameters of q over the topics.", "They are global, shared by all documents, and the step is a natural gradient: a weighted mean of the old "
               "counts and those that the minibatch, scaled up, suggests.", True)]),
    Question("A colleague fits a q that is a single point, reports log p(x, z) there as 80 nats, and calls it a lower bound of log p(x). What is wrong?", [
        Option("Nothing: with q a point, the ELBO is log p(x, z).", "The entropy of a point is minus infinity, so the ELBO is, too."),
        Option("The entropy was dropped; without it, it bounds nothing.", "What is left is the height of a density, in nats per volume of z: it changes with the "
               "units of z and may exceed log p(x).", True),
        Option("The bound should be an upper one.", "It is no bound on either side."),
        Option("A log joint cannot be positive.", "A density may well exceed one, and its logarithm zero.")]),
])
