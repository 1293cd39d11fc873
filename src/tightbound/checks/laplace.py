"""The exercises of the Laplace chapter, and its quiz."""

from __future__ import annotations

import functools
import math
import random

import torch
from torch import Tensor

from tightbound import laplace as method
from tightbound import problems
from tightbound.checks.check import Check, Wrong
from tightbound.checks.quiz import Option, Question, Quiz

LOG_2PI = math.log(2 * math.pi)


def _positive_definite(stream: random.Random, d: int) -> Tensor:
    root = torch.tensor([[stream.gauss(0, 1) for _ in range(d)] for _ in range(d)], dtype=torch.float64)
    return root @ root.T + 0.5 * torch.eye(d, dtype=torch.float64)


def _vector(stream: random.Random, d: int, scale: float = 1.0) -> Tensor:
    return torch.tensor([stream.gauss(0, scale) for _ in range(d)], dtype=torch.float64)


# 1. The formula at a mode ----------------------------------------------------------------------------------------------

def _draw_evidence(stream):
    return {"energy": torch.tensor(stream.uniform(1, 30), dtype=torch.float64),
            "hessian": _positive_definite(stream, stream.randint(2, 5))}


def _evidence(energy, hessian):
    return -energy + 0.5 * len(hessian) * LOG_2PI - 0.5 * torch.logdet(hessian)


evidence = Check(
    "evidence at a mode", draw=_draw_evidence, reference=_evidence, outputs=["log evidence"],
    wrongs=[
        Wrong("sign of the log-determinant", lambda energy, hessian: _evidence(energy, hessian) + torch.logdet(hessian),
              "the log-determinant has the wrong sign. A sharper peak (a larger H) has a smaller area, so it must lower the evidence."),
        Wrong("no half before the log-determinant", lambda energy, hessian: _evidence(energy, hessian) - 0.5 * torch.logdet(hessian),
              "you took the whole log-determinant. A Gaussian's area holds the square root of det H."),
        Wrong("no log-determinant", lambda energy, hessian: _evidence(energy, hessian) + 0.5 * torch.logdet(hessian),
              "you left out half the log-determinant: the height of the peak is there, its width is not."),
        Wrong("no 2 pi", lambda energy, hessian: _evidence(energy, hessian) - 0.5 * len(hessian) * LOG_2PI,
              "the factors of 2 pi are missing: a standard Gaussian bell does not have area one before it is normalised."),
        Wrong("2 pi once for all dimensions", lambda energy, hessian: _evidence(energy, hessian) - 0.5 * (len(hessian) - 1) * LOG_2PI,
              "2 pi stands there for one dimension only. Every dimension brings a factor of its own."),
        Wrong("2 pi without the root", lambda energy, hessian: _evidence(energy, hessian) + 0.5 * len(hessian) * LOG_2PI,
              "each dimension brings the square root of 2 pi, not 2 pi."),
        Wrong("sign of 2 pi", lambda energy, hessian: _evidence(energy, hessian) - len(hessian) * LOG_2PI,
              "the factors of 2 pi have the wrong sign: the area under a bell of height one is larger than one over its curvature's root."),
        Wrong("determinant, not its logarithm", lambda energy, hessian: _evidence(energy, hessian)
              + 0.5 * torch.logdet(hessian) - 0.5 * torch.det(hessian),
              "the determinant of H stands there without its logarithm."),
        Wrong("sign of the energy", lambda energy, hessian: _evidence(energy, hessian) + 2 * energy,
              "the energy has the wrong sign: u = -log p(x, z), so a low energy means a high peak."),
        Wrong("energy left out", lambda energy, hessian: _evidence(energy, hessian) + energy,
              "the height of the peak is missing: you have the log volume under a bell of height one."),
        Wrong("minus the log evidence", lambda energy, hessian: -_evidence(energy, hessian),
              "this is minus the log evidence: the sign of the whole is turned around."),
        Wrong("logarithm to base ten", lambda energy, hessian: -energy + (_evidence(energy, hessian) + energy) / math.log(10),
              "your logarithms are to base ten; nats need natural ones."),
        Wrong("evidence, not its logarithm", lambda energy, hessian: torch.exp(_evidence(energy, hessian)),
              "this is the evidence itself; asked for is its logarithm, in nats."),
    ],
    hints=["The integral of a Gaussian bell is its height times its volume. Which of the two does H set?",
           "In d dimensions the integral of exp(-1/2 z'Hz) is det(2 pi H^-1)^(1/2). Take its logarithm.",
           "Three terms: -u, plus d/2 times log 2 pi, minus half of log det H. `torch.logdet` gives the last."])


# 2. The coin in logit p -------------------------------------------------------------------------------------------------

def _draw_coin(stream):
    return {"heads": stream.randint(2, 30), "tails": stream.randint(2, 30), "a": stream.uniform(1.5, 12), "b": stream.uniform(1.5, 12)}


def _log_beta(a, b):
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _mode_in_p(heads, tails, a, b):
    return (a + heads - 1) / (a + b + heads + tails - 2)


def _logit(p):
    return math.log(p / (1 - p))


def _p(heads, tails, a, b):
    return (a + heads) / (a + b + heads + tails)


def _precision(heads, tails, a, b):
    p = _p(heads, tails, a, b)
    return (a + b + heads + tails) * p * (1 - p)


def _height(heads, tails, a, b):
    p = _p(heads, tails, a, b)
    return (a + heads) * math.log(p) + (b + tails) * math.log(1 - p) - _log_beta(a, b)


def _coin(heads, tails, a, b):
    precision = _precision(heads, tails, a, b)
    return (_logit(_p(heads, tails, a, b)), 1 / precision,
            _height(heads, tails, a, b) + 0.5 * LOG_2PI - 0.5 * math.log(precision))


coin = Check(
    "coin in logit p", draw=_draw_coin, reference=_coin, outputs=["mean", "variance", "log evidence"],
    wrongs=[
        Wrong("mode without the Jacobian", lambda heads, tails, a, b: math.log((a + heads - 1) / (b + tails - 1)),
              "this is the logit of the mode in p. A density changes with its coordinate: the Jacobian dp/dz = p (1 - p) moves the mode."),
        Wrong("p in place of its logit", lambda heads, tails, a, b: _p(heads, tails, a, b),
              "this is p; the mean asked for is in the coordinate z = logit p."),
        Wrong("mode in p", lambda heads, tails, a, b: _mode_in_p(heads, tails, a, b),
              "this is the mode of the density of p. Laplace's method is asked for in the coordinate z = logit p."),
        Wrong("prior left out of the mode", lambda heads, tails, a, b: math.log(heads / tails),
              "this is where the likelihood peaks. The prior's counts a and b belong to it as well."),
        Wrong("logit upside down", lambda heads, tails, a, b: -_coin(heads, tails, a, b)[0],
              "the logit is log p/(1-p), heads over tails; yours is tails over heads."),
        Wrong("standard deviation", lambda heads, tails, a, b: math.sqrt(_coin(heads, tails, a, b)[1]),
              "this is the standard deviation; asked for is the variance.", 1),
        Wrong("precision", lambda heads, tails, a, b: _precision(heads, tails, a, b),
              "this is the curvature H. The variance is its inverse.", 1),
        Wrong("variance in p", lambda heads, tails, a, b: (lambda p: p * (1 - p) / (a + b + heads + tails))(_p(heads, tails, a, b)),
              "this is a variance in p: p (1 - p)/N. In logit p the factor p (1 - p) stands in the curvature, so it divides.", 1),
        Wrong("prior left out of the curvature", lambda heads, tails, a, b: 1 / ((heads + tails) * (lambda p: p * (1 - p))(_p(heads, tails, a, b))),
              "the curvature counts the flips only; the prior's a + b imaginary flips make the peak sharper too.", 1),
        Wrong("prior not normalised", lambda heads, tails, a, b: _coin(heads, tails, a, b)[2] + _log_beta(a, b),
              "the prior is not normalised: minus log B(a, b) belongs to the log joint.", 2),
        Wrong("height of the peak only", lambda heads, tails, a, b: _height(heads, tails, a, b),
              "this is the height of the peak; its width is missing.", 2),
        Wrong("sign of the log-curvature", lambda heads, tails, a, b: _height(heads, tails, a, b) + 0.5 * LOG_2PI
              + 0.5 * math.log(_precision(heads, tails, a, b)),
              "the width goes the wrong way: half the log of the curvature lowers the evidence.", 2),
        Wrong("Jacobian left out of the height", lambda heads, tails, a, b: (lambda p: _coin(heads, tails, a, b)[2] - math.log(p * (1 - p)))(
            _p(heads, tails, a, b)),
              "the height lacks the Jacobian: in logit p the exponents are a + h and b + t, one more than in p.", 2),
        Wrong("in p", lambda heads, tails, a, b: (lambda p: (a + heads - 1) * math.log(p) + (b + tails - 1) * math.log(1 - p)
              - _log_beta(a, b) + 0.5 * LOG_2PI + 0.5 * math.log(p * (1 - p) / (a + b + heads + tails - 2)))(_mode_in_p(heads, tails, a, b)),
              "this is what Laplace's method says in p. It depends on the coordinate: asked for is that in logit p.", 2),
        Wrong("binomial coefficient", lambda heads, tails, a, b: _coin(heads, tails, a, b)[2] - math.log(heads + tails + 1)
              - _log_beta(heads + 1, tails + 1),
              "a binomial coefficient is in your evidence. Here the order of the flips is known.", 2),
        Wrong("no 2 pi", lambda heads, tails, a, b: _coin(heads, tails, a, b)[2] - 0.5 * LOG_2PI,
              "the factor of 2 pi is missing from the area of the bell.", 2),
        Wrong("sign of log B", lambda heads, tails, a, b: _coin(heads, tails, a, b)[2] + 2 * _log_beta(a, b),
              "log B(a, b) has the wrong sign: the prior is divided by B.", 2),
        Wrong("minus the log evidence", lambda heads, tails, a, b: -_coin(heads, tails, a, b)[2],
              "this is minus the log evidence: the sign of the whole is turned around.", 2),
        Wrong("exact answer", lambda heads, tails, a, b: _log_beta(a + heads, b + tails) - _log_beta(a, b),
              "this is the exact log evidence. Well known, but asked for is Laplace's approximation of it.", 2),
    ],
    hints=["Write the log joint in z first: p = s(z), and the density of z is that of p times dp/dz = p (1 - p).",
           "It is (a+h) log s(z) + (b+t) log s(-z) - log B(a, b). Its derivative is (a+h) - (a+b+h+t) s(z).",
           "Mean: log (a+h)/(b+t). Curvature: N p (1-p) with N = a+b+h+t and p = (a+h)/N. Then the formula of exercise 1, with d = 1."])


# 3. Away from the mode ---------------------------------------------------------------------------------------------------

def _draw_away(stream):
    d = stream.randint(2, 4)
    return {"mu": _vector(stream, d), "energy": torch.tensor(stream.uniform(1, 30), dtype=torch.float64),
            "gradient": _vector(stream, d), "hessian": _positive_definite(stream, d)}


def _step(gradient, hessian):
    return torch.linalg.solve(hessian, gradient)


def _away(mu, energy, gradient, hessian):
    return mu - _step(gradient, hessian), _evidence(energy, hessian) + 0.5 * gradient @ _step(gradient, hessian)


away = Check(
    "away from the mode", draw=_draw_away, reference=_away, outputs=["mean", "log evidence"],
    wrongs=[
        Wrong("uphill in energy", lambda mu, energy, gradient, hessian: mu + _step(gradient, hessian),
              "the mean went the wrong way: J points to higher energy, the Gaussian sits downhill."),
        Wrong("mean left at mu", lambda mu, energy, gradient, hessian: mu,
              "the mean stayed at the expansion point. With J ≠ 0 the parabola has its lowest point elsewhere."),
        Wrong("step alone", lambda mu, energy, gradient, hessian: -_step(gradient, hessian),
              "this is how far the mean lies from the expansion point; asked for is where it lies."),
        Wrong("gradient step", lambda mu, energy, gradient, hessian: mu - gradient,
              "this is a gradient step. The parabola's lowest point also depends on its curvature."),
        Wrong("H in place of its inverse in the mean", lambda mu, energy, gradient, hessian: mu - hessian @ gradient,
              "you multiplied J by H; where the curvature is large the step must be short."),
        Wrong("H in place of its inverse in the evidence",
              lambda mu, energy, gradient, hessian: _evidence(energy, hessian) + 0.5 * gradient @ hessian @ gradient,
              "J'HJ stands where J'H^-1J belongs. Look at the units: J is nats per z, H is nats per z squared.", 1),
        Wrong("sign of the gradient term",
              lambda mu, energy, gradient, hessian: _evidence(energy, hessian) - 0.5 * gradient @ _step(gradient, hessian),
              "the gradient term has the wrong sign: the peak of the bell is higher than at the expansion point.", 1),
        Wrong("gradient term left out", lambda mu, energy, gradient, hessian: _evidence(energy, hessian),
              "this is the formula at a mode. Here J is not zero, and completing the square leaves something behind.", 1),
        Wrong("no half before the gradient term",
              lambda mu, energy, gradient, hessian: _evidence(energy, hessian) + gradient @ _step(gradient, hessian),
              "the gradient term is twice too large: completing the square gives it a half.", 1),
        Wrong("sign of the log-determinant",
              lambda mu, energy, gradient, hessian: _away(mu, energy, gradient, hessian)[1] + torch.logdet(hessian),
              "the log-determinant has the wrong sign: a sharper peak has a smaller area.", 1),
        Wrong("no 2 pi", lambda mu, energy, gradient, hessian: _away(mu, energy, gradient, hessian)[1] - 0.5 * len(mu) * LOG_2PI,
              "the factors of 2 pi are missing, one root of 2 pi for each dimension.", 1),
    ],
    hints=["Complete the square in J'd + 1/2 d'Hd with d = z - mu.",
           "J'd + 1/2 d'Hd = 1/2 (d + H^-1 J)' H (d + H^-1 J) - 1/2 J'H^-1 J. Where is its lowest point, and how deep is it?",
           "Mean: mu - H^-1 J, by `torch.linalg.solve(hessian, gradient)`. Log evidence: that of exercise 1 plus 1/2 J'H^-1 J."])


# 4. Predicting with an uncertain weight -----------------------------------------------------------------------------------

def _draw_predictive(stream):
    d = stream.randint(2, 4)
    return {"x": _vector(stream, d, 1.5), "mean": _vector(stream, d), "covariance": _positive_definite(stream, d)}


def _predictive(x, mean, covariance):
    return torch.sigmoid(x @ mean / torch.sqrt(1 + math.pi / 8 * (x @ covariance @ x)))


predictive = Check(
    "probit prediction", draw=_draw_predictive, reference=_predictive, outputs=["probability"],
    wrongs=[
        Wrong("plug-in", lambda x, mean, covariance: torch.sigmoid(x @ mean),
              "this is the plug-in prediction: it forgets that the weights are uncertain, and is too sure of itself."),
        Wrong("no root", lambda x, mean, covariance: torch.sigmoid(x @ mean / (1 + math.pi / 8 * (x @ covariance @ x))),
              "the square root is missing: widths, not variances, stretch the logit."),
        Wrong("standard deviation for variance", lambda x, mean, covariance: torch.sigmoid(
            x @ mean / torch.sqrt(1 + math.pi / 8 * torch.sqrt(x @ covariance @ x))),
              "inside the root stands the variance x'Sx, not the standard deviation."),
        Wrong("multiplied", lambda x, mean, covariance: torch.sigmoid(x @ mean * torch.sqrt(1 + math.pi / 8 * (x @ covariance @ x))),
              "you multiplied where you should divide: uncertainty must pull a prediction towards one half."),
        Wrong("no pi/8", lambda x, mean, covariance: torch.sigmoid(x @ mean / torch.sqrt(1 + (x @ covariance @ x))),
              "pi/8 is missing: it makes the logistic curve and the probit agree at the origin."),
        Wrong("8/pi for pi/8", lambda x, mean, covariance: torch.sigmoid(
            x @ mean / torch.sqrt(1 + 8 / math.pi * (x @ covariance @ x))),
              "the factor before the variance is upside down."),
        Wrong("one forgotten", lambda x, mean, covariance: torch.sigmoid(x @ mean / torch.sqrt(math.pi / 8 * (x @ covariance @ x))),
              "the one under the root is missing: with no uncertainty at all, the plug-in prediction must come out."),
        Wrong("probit for sigmoid", lambda x, mean, covariance: torch.special.ndtr(
            x @ mean / torch.sqrt(1 + x @ covariance @ x)),
              "this is the average of the probit function itself. The model has a sigmoid: the probit only lends its formula, with "
              "a factor that fits the two together."),
        Wrong("pi/2 for pi/8", lambda x, mean, covariance: torch.sigmoid(
            x @ mean / torch.sqrt(1 + math.pi / 2 * (x @ covariance @ x))),
              "the factor before the variance is pi/8; yours is four times that."),
        Wrong("variance squared", lambda x, mean, covariance: torch.sigmoid(
            x @ mean / torch.sqrt(1 + math.pi / 8 * (x @ covariance @ x) ** 2)),
              "v is a variance already: it is not squared once more."),
        Wrong("trace of the covariance", lambda x, mean, covariance: torch.sigmoid(
            x @ mean / torch.sqrt(1 + math.pi / 8 * torch.trace(covariance))),
              "you took the total variance of the weights; asked for is that of the activation x'w, which depends on x."),
        Wrong("diagonal only", lambda x, mean, covariance: torch.sigmoid(
            x @ mean / torch.sqrt(1 + math.pi / 8 * (x * x @ covariance.diagonal()))),
              "only the variances of the weights are used: their covariances change the spread of x'w as well."),
        Wrong("logit, not probability", lambda x, mean, covariance: x @ mean / torch.sqrt(1 + math.pi / 8 * (x @ covariance @ x)),
              "this is the shrunken logit; the probability is its sigmoid."),
        Wrong("other class", lambda x, mean, covariance: 1 - _predictive(x, mean, covariance),
              "this is the probability of the other class, 1 - p."),
    ],
    hints=["Under q the activation a = x'w is Gaussian. What are its mean and its variance?",
           "Mean m = x'mean, variance v = x'Sx. The average of sigmoid(a) is close to sigmoid of m, shrunk by a factor that depends on v.",
           "The factor is 1/sqrt(1 + pi v/8) (Spiegelhalter & Lauritzen 1990)."])


# 5. BIC -------------------------------------------------------------------------------------------------------------------

def _draw_bic(stream):
    return {"log_likelihood": -stream.uniform(10, 500), "num_parameters": stream.randint(1, 12), "num_data": stream.randint(20, 5000)}


bic = Check(
    "BIC as log evidence", draw=_draw_bic, outputs=["approximate log evidence"],
    reference=lambda log_likelihood, num_parameters, num_data: log_likelihood - 0.5 * num_parameters * math.log(num_data),
    wrongs=[
        Wrong("deviance scale", lambda log_likelihood, num_parameters, num_data: -2 * log_likelihood + num_parameters * math.log(num_data),
              "this is BIC on the deviance scale, minus two times what is asked. Here we want an approximate log evidence in nats."),
        Wrong("twice", lambda log_likelihood, num_parameters, num_data: 2 * log_likelihood - num_parameters * math.log(num_data),
              "this is twice what is asked: minus BIC on the deviance scale. Here we want an approximate log evidence in nats."),
        Wrong("minus the log evidence", lambda log_likelihood, num_parameters, num_data: 0.5 * num_parameters * math.log(num_data)
              - log_likelihood, "the sign of the whole is turned around: here more is better."),
        Wrong("logarithm to base two", lambda log_likelihood, num_parameters, num_data: log_likelihood
              - 0.5 * num_parameters * math.log2(num_data), "the logarithm is to base two; nats need the natural one."),
        Wrong("no half", lambda log_likelihood, num_parameters, num_data: log_likelihood - num_parameters * math.log(num_data),
              "each parameter costs half of log n, not the whole: standard errors shrink with the root of n."),
        Wrong("bonus, not penalty", lambda log_likelihood, num_parameters, num_data: log_likelihood + 0.5 * num_parameters * math.log(num_data),
              "the sign of the penalty is turned: more parameters must cost something."),
        Wrong("AIC", lambda log_likelihood, num_parameters, num_data: log_likelihood - num_parameters,
              "this is AIC (over -2), a criterion for prediction. The Occam factor grows with log n."),
        Wrong("logarithm to base ten", lambda log_likelihood, num_parameters, num_data: log_likelihood - 0.5 * num_parameters * math.log10(num_data),
              "the logarithm is to base ten; nats need the natural one."),
        Wrong("no penalty", lambda log_likelihood, num_parameters, num_data: log_likelihood,
              "this is the best fit alone: the Occam factor is missing, and the larger model would always win."),
    ],
    hints=["Laplace's log evidence: best fit + log prior + d/2 log 2 pi - 1/2 log det H. How does each term grow with n?",
           "H is a sum over n data, so det H grows like n^d. The other terms stay as they are.",
           "log likelihood at its maximum, minus d/2 times the natural logarithm of n."])


# 6. Project: several modes ------------------------------------------------------------------------------------------------

def _draw_modes(stream):
    problem = problems.two_modes(separation=stream.uniform(4, 6), weight=stream.uniform(0.15, 0.4),
                                 scale=stream.uniform(0.3, 0.6))
    problem.log_evidence = None  # not to be handed back as the answer
    return {"problem": problem}


@functools.lru_cache(maxsize=64)
def _each_mode(problem) -> Tensor:
    return method.approximate(problem).diagnostics["log_evidences"]


modes = Check(
    "several modes", draw=_draw_modes, reference=lambda problem: _each_mode(problem).logsumexp(0), outputs=["log evidence"],
    num_instances=3,
    wrongs=[
        Wrong("highest mode only", lambda problem: _each_mode(problem)[0],
              "this is the highest mode alone. The other one has an area as well."),
        Wrong("lowest mode only", lambda problem: _each_mode(problem)[-1],
              "this is one mode alone, and not even the highest. Every mode has an area."),
        Wrong("mean of the areas", lambda problem: _each_mode(problem).logsumexp(0) - math.log(2),
              "you averaged the areas. They lie side by side, so they add up."),
        Wrong("sum of log evidences", lambda problem: _each_mode(problem).sum(),
              "you added logarithms, which multiplies the areas. Add the areas: log-sum-exp."),
        Wrong("mean of log evidences", lambda problem: _each_mode(problem).mean(),
              "you averaged logarithms. Add the areas themselves: log-sum-exp."),
        Wrong("every mode counted twice", lambda problem: _each_mode(problem).logsumexp(0) + math.log(2),
              "every mode seems to be counted twice: several starts end in the same mode, which has one area only."),
    ],
    hints=["`laplace.approximate(problem)` climbs from several starts. Look into its `diagnostics`.",
           "`diagnostics['log_evidences']` holds Laplace's log evidence of each distinct mode. Areas that do not overlap add up.",
           "Add in the log domain: `torch.logsumexp(log_evidences, 0)`."])

ALL = (evidence, coin, away, predictive, bic, modes)


quiz = Quiz("laplace", [
    Question("You fit the same posterior with Laplace's method in p and in logit p. What may differ?", [
        Option("The exact log evidence.", "An integral does not depend on the coordinate that one integrates in, as long as the "
               "Jacobian comes along."),
        Option("Laplace's log evidence.", "A second-order expansion in p is another curve than one in logit p, so their areas "
               "differ. The truth is the same in both.", True),
        Option("Neither, if the Jacobian is right.", "The Jacobian makes the two exact posteriors agree; the two parabolas still "
               "bend differently."),
        Option("Only where the mode is.", "The mode does move with the coordinate, but so does the curvature, and with both the "
               "estimate of the evidence.")]),
    Question("At a mode, the largest eigenvalue of the Hessian H of u = -log p(x, z) is multiplied by four. Laplace's log evidence …", [
        Option("rises by log 2.", "A sharper peak of the same height has less area."),
        Option("falls by log 2.", "log det H grows by log 4, and half of it is subtracted.", True),
        Option("falls by log 4.", "Almost: the log-determinant enters with a half, for a width is the inverse root of a curvature."),
        Option("stays: the height of the peak is the same.", "The height is one factor of the area, the width is the other.")]),
    Question("Laplace's log evidence of the Rosenbrock density is exact to the last digit. So …", [
        Option("its Gaussian is the posterior.", "The density is a bent ridge; no Gaussian looks like that."),
        Option("its Gaussian may still be a poor stand-in.", "Right: the area agrees by the luck of a coordinate change with Jacobian "
               "one, but few draws from the Gaussian fall on the ridge. The importance weights tell.", True),
        Option("the posterior must be Gaussian.", "A Gaussian posterior makes Laplace exact; the converse does not hold."),
        Option("the effective sample size must be close to the number of samples.", "That asks for q to be close to the posterior "
               "everywhere, which one number, the area, cannot show.")]),
    Question("You have no exact answer. Which of these warns you that Laplace's Gaussian is bad?", [
        Option("The optimizer took many iterations.", "That tells of the climb, not of the shape of the top."),
        Option("The Hessian is positive definite.", "It has to be, for there to be a Gaussian at all; it says nothing of the tails."),
        Option("Importance weights from q to the joint have a small effective sample size.", "They look at the joint where q puts its "
               "samples, and so notice where the two disagree. They stay blind to a mode that q never visits.", True),
        Option("The log evidence is negative.", "It usually is, for many data: each brings a factor below one.")]),
    Question("With n data, a fixed model and a peak that stays inside, how does Laplace's error in the log evidence shrink?", [
        Option("Like 1/n.", "The posterior narrows like the root of n; the first terms that the parabola leaves out, third and fourth "
               "derivatives, then contribute at order 1/n.", True),
        Option("Like 1 over the root of n.", "That is how the width of the posterior shrinks. The odd, cubic term averages out at first "
               "order, so the error is smaller."),
        Option("Like exp(-n).", "No: the posterior is never exactly Gaussian at finite n."),
        Option("It does not: BIC's error stays.", "BIC leaves out terms that do not grow with n, so its error stays. Laplace keeps them.")]),
])
