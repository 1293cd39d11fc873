"""The exercises of the chapter on iterative amortised inference, and its quiz."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from tightbound.checks.check import Check, Wrong
from tightbound.checks.quiz import Option, Question, Quiz


def _between(stream: random.Random, low: float, high: float, *shape: int) -> Tensor:
    n = 1
    for size in shape:
        n *= size
    return torch.tensor([stream.uniform(low, high) for _ in range(n)], dtype=torch.float64).reshape(shape)


# 1. Whose gap -------------------------------------------------------------------------------------------------------------

def _draw_gaps(stream):
    n = stream.randint(4, 7)
    log_evidence = _between(stream, -30, -10, n)
    best = log_evidence - _between(stream, 0.1, 1.0, n)
    return {"log_evidence": log_evidence, "best": best, "bound": best - _between(stream, 1.2, 4.0, n)}


whose = Check(
    "whose gap", draw=_draw_gaps, outputs=["approximation gap", "amortisation gap"],
    reference=lambda log_evidence, best, bound: (log_evidence - best, best - bound),
    wrongs=[
        Wrong("sign of the first", lambda log_evidence, best, bound: best - log_evidence,
              "the sign: a gap is what is missing, so it is never negative. No member of the family has a bound above log p(x)."),
        Wrong("the whole gap", lambda log_evidence, best, bound: log_evidence - bound,
              "this is the whole gap of the encoder's q. What would be missing if the encoder were perfect?"),
        Wrong("the other one first", lambda log_evidence, best, bound: best - bound,
              "this is the amortisation gap: the order is approximation first."),
        Wrong("mean of the first", lambda log_evidence, best, bound: (log_evidence - best).mean(),
              "this is an average over the images: give one number an image. A mean hides the few that are far off."),
        Wrong("ratio of the first", lambda log_evidence, best, bound: log_evidence / best,
              "this is a ratio of logarithms. Gaps are differences, in nats."),
        Wrong("sign of the second", lambda log_evidence, best, bound: bound - best,
              "the sign: best minus encoder. Written the other way round the two gaps do not add up to the whole.", 1),
        Wrong("the whole gap as second", lambda log_evidence, best, bound: log_evidence - bound,
              "this holds the encoder against log p(x), and so blames it for the family's part, too.", 1),
        Wrong("the family's as second", lambda log_evidence, best, bound: log_evidence - best,
              "this is the family's part. The encoder's q does not occur in it.", 1),
        Wrong("mean of the second", lambda log_evidence, best, bound: (best - bound).mean(),
              "this is an average. Give one number an image.", 1),
    ],
    hints=["Three heights: log p(x), then the best bound of the family below it, then the bound of the encoder's q.",
           "Each gap is a higher one minus the next lower one.",
           "`log_evidence - best, best - bound`."])


# 2. The filter's step -----------------------------------------------------------------------------------------------------

def _draw_filter(stream):
    return {"mean": stream.uniform(-3, 3), "variance": stream.uniform(0.3, 2), "y": stream.uniform(4, 8),
            "walk": stream.uniform(0.4, 1.5), "noise": stream.uniform(0.4, 1.8)}


def _filter(mean, variance, y, walk, noise):
    P = variance + walk
    K = P / (P + noise)
    return mean + K * (y - mean), (1 - K) * P


kalman = Check(
    "the filter's step", draw=_draw_filter, reference=_filter, outputs=["mean", "variance"],
    wrongs=[
        Wrong("no walk", lambda mean, variance, y, walk, noise: _filter(mean, variance, y, 0.0, noise)[0],
              "the level has moved since the last datum: its variance grows by that of the walk before the datum is seen."),
        Wrong("sign of the error", lambda mean, variance, y, walk, noise: 2 * mean - _filter(mean, variance, y, walk, noise)[0],
              "the estimate runs away from the datum. An error is observed minus predicted."),
        Wrong("gain the wrong way", lambda mean, variance, y, walk, noise: mean + noise / (variance + walk + noise) * (y - mean),
              "the gain is the wrong way round: the noisier the datum, the less it should count."),
        Wrong("deviations for variances", lambda mean, variance, y, walk, noise: mean + (variance + walk) ** 0.5 / (
            (variance + walk) ** 0.5 + noise**0.5) * (y - mean),
              "you took square roots: a gain is a ratio of variances."),
        Wrong("walk squared", lambda mean, variance, y, walk, noise: _filter(mean, variance, y, walk**2, noise)[0],
              "you squared `walk`, but it is a variance already."),
        Wrong("noise squared", lambda mean, variance, y, walk, noise: _filter(mean, variance, y, walk, noise**2)[0],
              "you squared `noise`, but it is a variance already."),
        Wrong("both squared", lambda mean, variance, y, walk, noise: _filter(mean, variance, y, walk**2, noise**2)[0],
              "you squared `walk` and `noise`, but both are variances already."),
        Wrong("gain of the old variance", lambda mean, variance, y, walk, noise: mean + variance / (variance + walk + noise) * (y - mean),
              "the walk is counted with the noise: it makes the datum weigh less. But it blurs what is known of the level, not the datum."),
        Wrong("the datum itself", lambda mean, variance, y, walk, noise: y,
              "this believes the datum and forgets all that went before: the gain is one."),
        Wrong("gain times the datum", lambda mean, variance, y, walk, noise: mean + _filter(0.0, variance, y, walk, noise)[0],
              "you added the gain times the datum, not times the error."),
        Wrong("gain times the datum alone", lambda mean, variance, y, walk, noise: _filter(0.0, variance, y, walk, noise)[0],
              "this is the gain times the datum, as if the mean had been zero."),
        Wrong("too long a step", lambda mean, variance, y, walk, noise: mean + (variance + walk) * (y - mean) / noise,
              "this is a step along the slope as long as the prediction's variance: too long. How well is the level known once y is seen?"),
        Wrong("correction alone", lambda mean, variance, y, walk, noise: _filter(mean, variance, y, walk, noise)[0] - mean,
              "this is the correction alone, by which the prediction has to be moved."),
        Wrong("variance before the datum", lambda mean, variance, y, walk, noise: variance + walk,
              "this is the variance before the datum is seen. Seeing it makes the level better known.", 1),
        Wrong("variance without the walk", lambda mean, variance, y, walk, noise: _filter(mean, variance, y, 0.0, noise)[1],
              "the walk is missing: uncertainty grows before the datum, then shrinks.", 1),
        Wrong("walk after the datum", lambda mean, variance, y, walk, noise: _filter(mean, variance, y, 0.0, noise)[1] + walk,
              "the walk comes between the last datum and this one, so before the update, not after it.", 1),
        Wrong("deviation", lambda mean, variance, y, walk, noise: _filter(mean, variance, y, walk, noise)[1] ** 0.5,
              "this is the standard deviation. Asked for is the variance.", 1),
        Wrong("precision", lambda mean, variance, y, walk, noise: 1 / _filter(mean, variance, y, walk, noise)[1],
              "this is the precision, one over what is asked for.", 1),
        Wrong("variance of the datum", lambda mean, variance, y, walk, noise: variance + walk + noise,
              "this is how far the datum was expected to lie off. Asked for is how well the level is known once it was seen.", 1),
        Wrong("walk twice", lambda mean, variance, y, walk, noise: _filter(mean, variance, y, walk, noise)[1] + walk,
              "right, and then the walk once more: only one step of time has gone by.", 1),
        Wrong("share of the old variance", lambda mean, variance, y, walk, noise: variance * noise / (variance + walk + noise),
              "the right share, but of the wrong variance: which one held just before y was seen?", 1),
        Wrong("gain kept", lambda mean, variance, y, walk, noise: (variance + walk) ** 2 / (variance + walk + noise),
              "this is K P: what was taken away. What is left is (1 - K) P.", 1),
    ],
    hints=["First predict: the mean stays, the variance grows by `walk`. Then correct by a part of the error.",
           "K = P / (P + noise) with P the variance of the prediction.",
           "`mean + K * (y - mean)` and `(1 - K) * P`."])


# 3. Errors and their gradient ---------------------------------------------------------------------------------------------

def _draw_errors(stream):
    D, d = stream.randint(4, 5), stream.randint(2, 3)
    return {"A": _between(stream, -2, 2, D, d), "x": _between(stream, -3, 3, D), "z": _between(stream, -2, 2, d),
            "scale_x": stream.uniform(0.4, 0.8), "prior_mean": _between(stream, -2, 2, d), "scale_z": stream.uniform(1.3, 2.0)}


def _gradient(A, x, z, scale_x, prior_mean, scale_z, data=1.0, prior=1.0, px=2, pz=2):
    return data * A.mT @ (x - A @ z) / scale_x**px - prior * (z - prior_mean) / scale_z**pz


errors = Check(
    "errors and their gradient", draw=_draw_errors, reference=lambda **a: _gradient(**a), outputs=["gradient"],
    wrongs=[
        Wrong("both signs", lambda **a: _gradient(**a, data=-1.0, prior=-1.0),
              "both signs are turned round: along this the density falls. Errors are observed minus expected. (One of the lectures prints it so.)"),
        Wrong("sign of the data's", lambda **a: _gradient(**a, data=-1.0),
              "the data push z away from where they would be explained: the sign of their error."),
        Wrong("sign of the prior's", lambda **a: _gradient(**a, prior=-1.0),
              "the prior pushes z away from its mean: the sign of the second term."),
        Wrong("no prior", lambda **a: _gradient(**a, prior=0.0), "the prior does not enter."),
        Wrong("no data", lambda **a: _gradient(**a, data=0.0), "the data do not enter."),
        Wrong("one scale of the data missing", lambda **a: _gradient(**a, px=1),
              "the data's error is in units of its scale already; on its way back it is divided by that scale once more."),
        Wrong("one scale of the prior missing", lambda **a: _gradient(**a, pz=1),
              "the prior's term is divided by its scale once only. The slope of a squared error in units of s has 1/s twice."),
        Wrong("one of each scale missing", lambda **a: _gradient(**a, px=1, pz=1),
              "each error is divided by its scale once only. It is in units of its scale already; its slope in z brings in the scale once more."),
        Wrong("scales swapped", lambda A, x, z, scale_x, prior_mean, scale_z: _gradient(A, x, z, scale_z, prior_mean, scale_x),
              "the two scales are swapped: each error is measured in units of its own."),
        Wrong("no scales", lambda **a: _gradient(**a, px=0, pz=0), "the scales do not enter: both errors would count the same."),
        Wrong("prior mean zero", lambda A, x, z, scale_x, prior_mean, scale_z: _gradient(A, x, z, scale_x, 0 * prior_mean, scale_z),
              "the prior's mean does not enter: you took it for zero."),
        Wrong("twice", lambda **a: 2 * _gradient(**a), "twice too much: the half of the squared error cancels the two of its derivative."),
        Wrong("half", lambda **a: 0.5 * _gradient(**a), "half of it: the derivative of a square brings a two, which cancels the half."),
        Wrong("a step", lambda **a: a["z"] + _gradient(**a), "this is z after a step along the gradient. Asked for is the gradient."),
        Wrong("the posterior mean", lambda A, x, z, scale_x, prior_mean, scale_z: torch.linalg.solve(
            A.mT @ A / scale_x**2 + torch.eye(len(z), dtype=A.dtype) / scale_z**2, A.mT @ x / scale_x**2 + prior_mean / scale_z**2),
              "this is the place where the gradient is zero. Asked for is the gradient at z."),
        Wrong("no prediction", lambda A, x, z, scale_x, prior_mean, scale_z: A.mT @ x / scale_x**2 - (z - prior_mean) / scale_z**2,
              "the data enter without what z predicts of them: no error is computed."),
    ],
    hints=["The density is a product of two normals, so the log is a sum of two squares, each with a minus one half.",
           "eps_x = (x - A z) / scale_x and eps_z = (z - prior_mean) / scale_z. The error of the data goes back through A'.",
           "`A.mT @ (eps_x / scale_x) - eps_z / scale_z`."])


# 4. The gate --------------------------------------------------------------------------------------------------------------

def _draw_gate(stream):
    b, n = stream.randint(2, 3), stream.randint(3, 4)
    return {"lam": _between(stream, -3, 3, b, n), "proposal": _between(stream, -3, 3, b, n), "logit": _between(stream, -2.5, 2.5, b, n)}


gate = Check(
    "the gate", draw=_draw_gate, outputs=["lambda"],
    reference=lambda lam, proposal, logit: torch.sigmoid(logit) * lam + torch.sigmoid(-logit) * proposal,
    wrongs=[
        Wrong("gate reversed", lambda lam, proposal, logit: torch.sigmoid(-logit) * lam + torch.sigmoid(logit) * proposal,
              "the gate is reversed: where it is near one, the old value is to be kept."),
        Wrong("logit for the gate", lambda lam, proposal, logit: logit * lam + (1 - logit) * proposal,
              "you took the logit for the gate, which lies between 0 and 1."),
        Wrong("proposal as a move", lambda lam, proposal, logit: lam + torch.sigmoid(-logit) * proposal,
              "the proposal is a new place, not a move: the old value is to be given up as far as the new one comes in."),
        Wrong("gated proposal added", lambda lam, proposal, logit: lam + torch.sigmoid(logit) * proposal,
              "the old value stays whole, and the proposal comes in by the gate. The gate is the old value's share, and the two shares have to add up to one."),
        Wrong("proposal whole", lambda lam, proposal, logit: torch.sigmoid(logit) * lam + proposal,
              "the proposal comes in whole, whatever the gate says. The two shares have to add up to one."),
        Wrong("both kept", lambda lam, proposal, logit: torch.sigmoid(logit) * (lam + proposal),
              "both are multiplied by the gate. Their shares have to add up to one."),
        Wrong("no gate", lambda lam, proposal, logit: proposal, "this is the proposal: the gate does nothing."),
        Wrong("nothing moves", lambda lam, proposal, logit: lam, "nothing has moved: this is the old lambda."),
        Wrong("a switch", lambda lam, proposal, logit: torch.where(logit > 0, lam, proposal),
              "your gate is open or shut. It is to take every value between 0 and 1."),
        Wrong("sigmoid twice", lambda lam, proposal, logit: torch.sigmoid(logit).sigmoid() * lam + torch.sigmoid(-logit.sigmoid()) * proposal,
              "the sigmoid was taken twice: such a gate never falls below one half."),
        Wrong("tanh", lambda lam, proposal, logit: torch.tanh(logit) * lam + (1 - torch.tanh(logit)) * proposal,
              "a hyperbolic tangent lies between -1 and 1. The gate is a logistic sigmoid."),
        Wrong("one gate a datum", lambda lam, proposal, logit: torch.sigmoid(logit.mean(-1, keepdim=True)) * lam
              + torch.sigmoid(-logit.mean(-1, keepdim=True)) * proposal,
              "there is one gate for each number of lambda, not one for each datum."),
        Wrong("softmax", lambda lam, proposal, logit: logit.softmax(-1) * lam + (1 - logit.softmax(-1)) * proposal,
              "a softmax makes the gates of a datum compete. Each number has a gate of its own."),
    ],
    hints=["A gate g between 0 and 1 says how much of the old value stays.", "g = sigmoid(logit), number by number.",
           "`g * lam + (1 - g) * proposal`."])


# 5. A step that one looks through -----------------------------------------------------------------------------------------

def _draw_through(stream):
    d = stream.randint(2, 4)
    return {"lam": _between(stream, -3, 3, d), "centre": _between(stream, -1, 1, d), "curvature": _between(stream, 0.4, 1.4, d),
            "rate": stream.uniform(0.15, 0.35), "steps": stream.randint(2, 4)}


def _last(lam, centre, curvature, rate, steps):
    return centre + (1 - rate * curvature) ** steps * (lam - centre)


def _slope(lam, centre, curvature):
    return -curvature * (lam - centre)


through = Check(
    "a step that one looks through", draw=_draw_through, outputs=["last lambda", "gradient"],
    reference=lambda **a: (_last(**a), _slope(_last(**a), a["centre"], a["curvature"]) * (1 - a["rate"] * a["curvature"]) ** a["steps"]),
    wrongs=[
        Wrong("downhill", lambda lam, centre, curvature, rate, steps: _last(lam, centre, curvature, -rate, steps),
              "the steps go down: they move away from the centre, where the bound is highest."),
        Wrong("one step", lambda lam, centre, curvature, rate, steps: _last(lam, centre, curvature, rate, 1),
              "this is lambda after a single step."),
        Wrong("one step too many", lambda lam, centre, curvature, rate, steps: _last(lam, centre, curvature, rate, steps + 1),
              "one step too many."),
        Wrong("one step too few", lambda lam, centre, curvature, rate, steps: _last(lam, centre, curvature, rate, steps - 1),
              "one step too few."),
        Wrong("no curvature", lambda lam, centre, curvature, rate, steps: _last(lam, centre, torch.ones_like(curvature), rate, steps),
              "the curvature does not enter the steps: each coordinate has its own slope."),
        Wrong("the start's gradient all along", lambda lam, centre, curvature, rate, steps: lam + steps * rate * _slope(lam, centre, curvature),
              "every step has used the gradient at the start: it has to be computed anew wherever one is."),
        Wrong("not looked through", lambda **a: _slope(_last(**a), a["centre"], a["curvature"]),
              "this is the gradient at the last lambda. When the start moves, the last lambda moves by less: look back through the steps.", 1),
        Wrong("through one step only", lambda **a: _slope(_last(**a), a["centre"], a["curvature"]) * (1 - a["rate"] * a["curvature"]),
              "this looks back through one step only.", 1),
        Wrong("back one step too few", lambda **a: _slope(_last(**a), a["centre"], a["curvature"])
              * (1 - a["rate"] * a["curvature"]) ** (a["steps"] - 1),
              "you look back through one step too few: the first step moves with the start, too.", 1),
        Wrong("back one step too many", lambda **a: _slope(_last(**a), a["centre"], a["curvature"])
              * (1 - a["rate"] * a["curvature"]) ** (a["steps"] + 1),
              "you look back through one step too many.", 1),
        Wrong("back twice", lambda **a: _slope(_last(**a), a["centre"], a["curvature"]) * (1 - a["rate"] * a["curvature"]) ** (2 * a["steps"]),
              "the way back is taken twice: at the last lambda the slope has shrunk already.", 1),
        Wrong("derivative of the last lambda", lambda lam, centre, curvature, rate, steps: (1 - rate * curvature) ** steps,
              "this says how the last lambda moves with the first. How does the bound move with the last?", 1),
        Wrong("curvature left out", lambda **a: (a["centre"] - _last(**a)) * (1 - a["rate"] * a["curvature"]) ** a["steps"],
              "the slope of the bound is left without its curvature.", 1),
        Wrong("the bound", lambda **a: -0.5 * (a["curvature"] * (_last(**a) - a["centre"]).square()).sum(),
              "this is the bound at the last lambda. Asked for is its gradient.", 1),
        Wrong("gradient at the start", lambda **a: _slope(a["lam"], a["centre"], a["curvature"]),
              "this is the gradient at the start, as if no step had been taken.", 1),
        Wrong("sign of the gradient", lambda **a: -_slope(_last(**a), a["centre"], a["curvature"]) * (1 - a["rate"] * a["curvature"]) ** a["steps"],
              "the sign: this is the gradient of minus the bound.", 1),
        Wrong("plus the curvature", lambda **a: _slope(_last(**a), a["centre"], a["curvature"]) * (1 + a["rate"] * a["curvature"]) ** a["steps"],
              "a step of ascent on a hill brings two starts nearer to each other. Yours takes them further apart.", 1),
        Wrong("summed", lambda **a: (_slope(_last(**a), a["centre"], a["curvature"]) * (1 - a["rate"] * a["curvature"]) ** a["steps"]).sum(),
              "this is a sum over the coordinates: the gradient has one number for each of them.", 1),
    ],
    hints=["Write the loop. Each step is lambda + rate * gradient, the gradient being -curvature * (lambda - centre).",
           "One step multiplies the distance to the centre by 1 - rate * curvature, and so does its derivative.",
           "Let autograd do it: `first = lam.clone().requires_grad_(True)` and `lam = first`, the loop on `lam`, then "
           "`torch.autograd.grad(bound, first)[0]`. In the first one, not in the last."])

ALL = [whose, kalman, errors, gate, through]


# Quiz ---------------------------------------------------------------------------------------------------------------------

quiz = Quiz("iterative", [
    Question(
        "An image has log p(x) = -20; the best q of the family has a bound of -20.5, the encoder's q one of -23. What is the amortisation gap?", [
        Option("3 nats", "No. That is the whole gap, KL(q || p(z | x)); half a nat of it no encoder could save."),
        Option("2.5 nats", "Yes. Best minus encoder. With the family's half nat it adds up to the 3 nats of the whole gap.", right=True),
        Option("-2.5 nats", "No. The best member of the family cannot be worse than another one, so best minus encoder is never negative."),
        Option("0.5 nats", "No. That is the approximation gap: what is missing even at the best q.")]),
    Question(
        "What does an iterative inference model see of the image x?", [
        Option("All pixels, always", "No. It need not see any: with gradient encoding, x acts only through the model's gradient."),
        Option("Nothing at all", "No. Without anything that depends on x it would give the same answer to every image."),
        Option("What the model makes of it: a gradient, or errors",
               "Yes. They say how the present q fails to explain x, and the model's structure comes along in them.", right=True),
        Option("The label of its class", "No. Nobody has told it a label; inference is about latents.")]),
    Question(
        "Why is an error observed minus expected, and not the other way round?", [
        Option("It is a convention, and does not matter", "No. With the other sign a step along the errors lowers the density: the estimate runs away."),
        Option("A step along it then raises log p(x, z)",
               "Yes. The gradient is J' eps_x / s_x - eps_z / s_z with errors of this sign, and Kalman's filter has it too.", right=True),
        Option("Because errors must be positive", "No. They have either sign: that is how they tell the direction."),
        Option("So that their mean is zero", "No. Where the model is right the mean is zero with either sign.")]),
    Question(
        "A rule was trained through five steps. At step twenty its bound is lower than at step five. What went wrong?", [
        Option("Gradient ascent cannot lower a bound, so there is a bug",
               "No. The rule is a network. Nothing makes it an ascent, least of all at places that its training never saw."),
        Option("Nothing was promised: its training ended at five steps",
               "Yes. The bound and the gradient's length tell, step by step; keep the best q, or train longer paths.", right=True),
        Option("The family is too small", "No. The family is the same at step five, where the bound was higher."),
        Option("The image was out of distribution", "No. That can make it worse, but this happens on ordinary images, too.")]),
    Question(
        "A picture shows two equal objects at a and -a. Why must a continuous encoder fail on some pictures?", [
        Option("Because it has too few parameters", "No. No number of them helps: continuity alone is enough."),
        Option("Half a turn brings back the picture, but takes a to -a",
               "Yes. It would have to name the first object before and after; somewhere it crosses from one to the other.", right=True),
        Option("Because the posterior is not normal", "No. Each of the two peaks is nearly so. To take one of them costs log 2, not more."),
        Option("Because gradients vanish there", "No. The trouble is in the map from pictures to answers, not in its training.")])])
