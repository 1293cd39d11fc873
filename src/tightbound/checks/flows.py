"""The exercises of the chapter on flows, and its quiz."""

from __future__ import annotations

import functools
import math
import random

import torch
from torch import Tensor
from torch.nn.functional import softplus

from tightbound import divergences, laplace, problems
from tightbound.checks.check import Check, Wrong
from tightbound.checks.quiz import Option, Question, Quiz
from tightbound.problem import Problem

LOG_2PI = math.log(2 * math.pi)


def _tensor(numbers) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def _normals(stream: random.Random, *shape: int) -> Tensor:
    return _tensor([stream.gauss(0, 1) for _ in range(math.prod(shape))]).reshape(shape)


def _log_normal(x: Tensor) -> Tensor:
    return -0.5 * x.square().sum(-1) - 0.5 * x.shape[-1] * LOG_2PI


# 1. The density of a pushed point ---------------------------------------------------------------------------------------------

def _draw_push(stream):
    d = stream.randint(2, 4)
    A = _normals(stream, d, d) + 0.5 * torch.eye(d, dtype=torch.float64)
    if bool(torch.linalg.det(A) > 0):
        A[0] = -A[0]  # so that the sign of the determinant matters
    return {"x": _normals(stream, d), "A": A, "c": _normals(stream, d)}


def _push(x, A, c):
    y = A @ x + c
    return y.exp(), _log_normal(x) - torch.linalg.slogdet(A)[1] - y.sum()


def _push_with(change):
    """A wrong log density from log p_0(x), log |det A|, sum of A x + c, and what else there is."""
    return lambda x, A, c: change(_log_normal(x), torch.linalg.slogdet(A)[1], (A @ x + c).sum(), x, A, c)


push = Check(
    "the density of a pushed point", draw=_draw_push, reference=_push, outputs=["z", "log density"],
    wrongs=[
        Wrong("no exponential", lambda x, A, c: A @ x + c, "you stopped after the linear map: the exponential of every coordinate comes last."),
        Wrong("no shift", lambda x, A, c: (A @ x).exp(), "the shift c is missing."),
        Wrong("A transposed", lambda x, A, c: (x @ A + c).exp(), "this is A transposed times x."),
        Wrong("added", _push_with(lambda p, a, s, *_: p + a + s),
              "you added the log-determinants. Where the map stretches, the same mass fills more space.", 1),
        Wrong("no determinants", _push_with(lambda p, a, s, *_: p), "this is the base density: the point has moved, but the volume around it, too.", 1),
        Wrong("linear map only", _push_with(lambda p, a, s, *_: p - a), "the exponential stretches as well: by how much, at this very point?", 1),
        Wrong("exponential only", _push_with(lambda p, a, s, *_: p - s), "the linear map stretches as well.", 1),
        Wrong("linear map added", _push_with(lambda p, a, s, *_: p + a - s),
              "both maps stretch, so both log-determinants count the same way: that of the linear map has the wrong sign.", 1),
        Wrong("exponential added", _push_with(lambda p, a, s, *_: p - a + s),
              "both maps stretch, so both log-determinants count the same way: that of the exponential has the wrong sign.", 1),
        Wrong("determinant without logarithm", _push_with(lambda p, a, s, x, A, c: p - torch.linalg.det(A).abs() - s),
              "log densities take the logarithm of the determinant.", 1),
        Wrong("signed determinant", _push_with(lambda p, a, s, x, A, c: p - torch.linalg.det(A) - s),
              "you took off the determinant itself, with its sign. Volumes change by its absolute value, log densities by the logarithm of that.", 1),
        Wrong("diagonal of A", _push_with(lambda p, a, s, x, A, c: p - A.diagonal().abs().log().sum() - s),
              "the diagonal alone gives the determinant of a triangular matrix. A is a full one.", 1),
        Wrong("half the determinant", _push_with(lambda p, a, s, *_: p - a / 2 - s),
              "you took half of log |det A|. The half belongs to a covariance, whose determinant is the square of this one.", 1),
        Wrong("twice the determinant", _push_with(lambda p, a, s, *_: p - 2 * a - s),
              "you took log |det A| twice, which is the log-determinant of A A'. Volumes change by that of A.", 1),
        Wrong("base at z", _push_with(lambda p, a, s, x, A, c: _log_normal((A @ x + c).exp()) - a - s),
              "the base density belongs at the point x where the flow started, not at the point where it arrived.", 1),
        Wrong("base at y", _push_with(lambda p, a, s, x, A, c: _log_normal(A @ x + c) - a - s),
              "the base density belongs at x, where the flow started; yours is taken half way, at y = A x + c.", 1),
        Wrong("sum of z", _push_with(lambda p, a, s, x, A, c: p - a - (A @ x + c).exp().sum()),
              "the slope of the exponential at y is z itself: what is the logarithm of that? You summed the slopes.", 1),
        Wrong("bits", lambda x, A, c: _push(x, A, c)[1] / math.log(2), "this is in bits; asked for is nats: leave the natural logarithm as it is.", 1),
        Wrong("no constant", _push_with(lambda p, a, s, x, A, c: p - a - s + 0.5 * len(x) * LOG_2PI),
              "the normal density has a normaliser, d/2 log 2 pi.", 1),
        Wrong("constant once", _push_with(lambda p, a, s, x, A, c: p - a - s + 0.5 * (len(x) - 1) * LOG_2PI),
              "the normaliser of the base density stands there once; each of the d coordinates has one.", 1),
        Wrong("slope at x", _push_with(lambda p, a, s, x, A, c: p - a - x.sum()),
              "the exponential acts on y = A x + c: its slope is taken there, not at x.", 1),
        Wrong("density, not its logarithm", lambda x, A, c: _push(x, A, c)[1].exp(), "this is the density; asked for is its logarithm, in nats.", 1),
    ],
    when_nan="The determinant of A is negative here: it is its absolute value that counts.",
    hints=["Two maps in a row: y = A x + c, then z_i = exp(y_i). Each has a log-determinant.",
           "log |det| of the first is log |det A|; the second has a diagonal Jacobian with exp(y_i) on it.",
           "log q(z) = log N(x; 0, I) - log |det A| - sum_i y_i."])


# 2. A planar layer ------------------------------------------------------------------------------------------------------------

def _draw_planar(stream):
    d = stream.randint(2, 4)
    w = _normals(stream, d)
    u = _normals(stream, d)
    u = u - (stream.uniform(1.2, 3) + w @ u) * w / (w @ w)  # w'u below -1: the constraint is needed
    return {"x": _normals(stream, d), "w": w, "u": u, "b": stream.gauss(0, 0.5)}


def _constrained(w, u):
    return u + (softplus(w @ u) - 1 - w @ u) * w / (w @ w)


def _planar(x, w, u, b):
    t, v = torch.tanh(w @ x + b), _constrained(w, u)
    return x + v * t, torch.log1p((1 - t**2) * (w @ v))


def _planar_ladj(change):
    return lambda x, w, u, b: change(torch.tanh(w @ x + b), w @ _constrained(w, u), w @ u)


planar = Check(
    "a planar layer", draw=_draw_planar, reference=_planar, outputs=["z", "log-determinant"],
    wrongs=[
        Wrong("u as it is", lambda x, w, u, b: x + u * torch.tanh(w @ x + b),
              "you moved along u itself. With w'u below -1 that folds space: use the constrained direction."),
        Wrong("no tanh", lambda x, w, u, b: x + _constrained(w, u) * (w @ x + b), "the tanh is missing: this layer is linear."),
        Wrong("not divided by |w|^2", lambda x, w, u, b: x + torch.tanh(w @ x + b) * (u + (softplus(w @ u) - 1 - w @ u) * w),
              "check w'û: it must be softplus(w'u) - 1. The correction along w is of the wrong length."),
        Wrong("divided by |w|", lambda x, w, u, b: x + torch.tanh(w @ x + b) * (u + (softplus(w @ u) - 1 - w @ u) * w / w.norm()),
              "check w'û: it must be softplus(w'u) - 1. You divided by the length of w; by what must it be?"),
        Wrong("only the move", lambda x, w, u, b: _constrained(w, u) * torch.tanh(w @ x + b), "this is how far the point moves; add where it was."),
        Wrong("without the one", lambda x, w, u, b: x + torch.tanh(w @ x + b) * (u + (softplus(w @ u) - w @ u) * w / (w @ w)),
              "check w'û: it may be as low as -1, and no lower. Yours stops at 0."),
        Wrong("not taken off", lambda x, w, u, b: x + torch.tanh(w @ x + b) * (u + (softplus(w @ u) - 1) * w / (w @ w)),
              "check w'û: it must be softplus(w'u) - 1. You added that much along w, but u brings some of its own."),
        Wrong("along w alone", lambda x, w, u, b: x + torch.tanh(w @ x + b) * (softplus(w @ u) - 1) * w / (w @ w),
              "w'û is right, but what u has across w is lost. The correction is added to u."),
        Wrong("along u", lambda x, w, u, b: x + torch.tanh(w @ x + b) * (softplus(w @ u) - 1) * u / (w @ u),
              "w'û is right, but you changed the length of u, and with it what lies across w. The correction goes along w."),
        Wrong("no b", lambda x, w, u, b: x + _constrained(w, u) * torch.tanh(w @ x), "b does not enter: your plane goes through the origin."),
        Wrong("slope is 1 - t", _planar_ladj(lambda t, wv, wu: torch.log1p((1 - t) * wv)),
              "the derivative of tanh is not one minus tanh: look at its power.", 1),
        Wrong("slope is t", _planar_ladj(lambda t, wv, wu: torch.log1p(t * wv)), "the derivative of tanh is not tanh.", 1),
        Wrong("slope left out", _planar_ladj(lambda t, wv, wu: torch.log1p(wv)), "the derivative of tanh is missing: far from the plane volumes do not change.", 1),
        Wrong("determinant", _planar_ladj(lambda t, wv, wu: 1 + (1 - t**2) * wv), "this is the determinant; asked for is its logarithm.", 1),
        Wrong("with u", _planar_ladj(lambda t, wv, wu: torch.log((1 + (1 - t**2) * wu).abs())),
              "the determinant, too, is that of the constrained layer.", 1),
        Wrong("with softplus", _planar_ladj(lambda t, wv, wu: torch.log1p((1 - t**2) * softplus(wu))),
              "w'û has a value of its own in this formula, and it is not softplus(w'u): it may be negative.", 1),
        Wrong("diagonal of the Jacobian", lambda x, w, u, b: torch.log1p((1 - torch.tanh(w @ x + b)**2) * w * _constrained(w, u)).sum(),
              "you multiplied the diagonal of the Jacobian only. Every coordinate moves by all the others: the Jacobian is full.", 1),
        Wrong("inverse's", _planar_ladj(lambda t, wv, wu: -torch.log1p((1 - t**2) * wv)), "this is minus the log-determinant: that of the inverse.", 1),
    ],
    when_nan="With u in place of û the determinant may be negative.",
    hints=["First û: add to u a multiple of w, such that w'û = softplus(w'u) - 1.",
           "û = u + (softplus(w'u) - 1 - w'u) w / |w|^2. Then z = x + û t with t = tanh(w'x + b).",
           "log |det| = log(1 + (1 - t^2) w'û)."])


# 3. A coupling, read backwards ---------------------------------------------------------------------------------------------------

def _draw_uncouple(stream):
    a, b = stream.randint(1, 3), stream.randint(1, 3)
    return {"y": _normals(stream, a + b), "S": _normals(stream, b, a), "T": _normals(stream, b, a)}


def _halves(y, S, T):
    a = y[: S.shape[1]]
    return a, y[S.shape[1]:], torch.tanh(S @ a), T @ a


def _uncouple(y, S, T):
    a, b, s, t = _halves(y, S, T)
    x = torch.cat([a, (b - t) * torch.exp(-s)])
    return x, _log_normal(x) - s.sum()


def _uncouple_with(change, output=0):
    def answer(y, S, T):
        a, b, s, t = _halves(y, S, T)
        return torch.cat([a, change(b, s, t)]) if output == 0 else change(_uncouple(y, S, T)[0], s, y)
    return answer


uncouple = Check(
    "a coupling, read backwards", draw=_draw_uncouple, reference=_uncouple, outputs=["x", "log density"],
    wrongs=[
        Wrong("no tanh", lambda y, S, T: torch.cat([y[: S.shape[1]], (y[S.shape[1]:] - T @ y[: S.shape[1]])
                                                    * torch.exp(-S @ y[: S.shape[1]])]),
              "your scale is not bounded: what stands between S x_a and s?"),
        Wrong("forwards", _uncouple_with(lambda b, s, t: b * torch.exp(s) + t), "this is the coupling itself, from x to y. You are given y."),
        Wrong("scale first", _uncouple_with(lambda b, s, t: b * torch.exp(-s) - t), "undo the last step first: what was added must go before what was multiplied."),
        Wrong("shift only", _uncouple_with(lambda b, s, t: b - t), "the scale is not undone."),
        Wrong("scale only", _uncouple_with(lambda b, s, t: b * torch.exp(-s)), "the shift is not undone."),
        Wrong("shift added", _uncouple_with(lambda b, s, t: (b + t) * torch.exp(-s)), "the coupling added the shift: undo it."),
        Wrong("divided by s", _uncouple_with(lambda b, s, t: (b - t) / s), "the scale is exp(s), not s: so it can never be zero."),
        Wrong("multiplied", _uncouple_with(lambda b, s, t: (b - t) * torch.exp(s)), "after taking off the shift you must divide by the scale, not multiply."),
        Wrong("no determinant", _uncouple_with(lambda x, s, y: _log_normal(x), 1), "this is the base density at x: the change of volume is missing.", 1),
        Wrong("no base", _uncouple_with(lambda x, s, y: -s.sum(), 1), "this is the change of volume alone: the base density at x is missing.", 1),
        Wrong("plus", _uncouple_with(lambda x, s, y: _log_normal(x) + s.sum(), 1),
              "the sign of the log-determinant is wrong: where the coupling stretches, the density of y is lower.", 1),
        Wrong("scales summed", _uncouple_with(lambda x, s, y: _log_normal(x) - s.exp().sum(), 1),
              "the determinant is the product of the scales; its logarithm is the sum of what?", 1),
        Wrong("base at y", _uncouple_with(lambda x, s, y: _log_normal(y) - s.sum(), 1), "the base density is taken at x, which you have just found, not at y.", 1),
        Wrong("no constant", _uncouple_with(lambda x, s, y: _log_normal(x) - s.sum() + 0.5 * len(x) * LOG_2PI, 1),
              "the normal density has a normaliser, d/2 log 2 pi.", 1),
    ],
    hints=["The first half of y is the first half of x: so s and t can be computed at once.",
           "x_b = (y_b - t) exp(-s). The log-determinant of x -> y is the sum of s.",
           "log q(y) = log N(x; 0, I) - sum_i s_i."])


# 4. The masks of MADE ----------------------------------------------------------------------------------------------------------

def _draw_masks(stream):
    dim = stream.randint(3, 6)
    return {"dim": dim, "degrees": torch.tensor([stream.randint(1, dim - 1) for _ in range(dim + stream.randint(1, 4))])}


def _masks(dim, degrees, first=lambda unit, input: unit >= input, last=lambda output, unit: output > unit):
    inputs = torch.arange(1, dim + 1)
    return (first(degrees.unsqueeze(-1), inputs).double(), last(inputs.unsqueeze(-1), degrees).double())


masks = Check(
    "the masks of MADE", draw=_draw_masks, reference=_masks, outputs=["mask into units (H, d)", "mask into outputs (d, H)"],
    wrongs=[
        Wrong("strict into the units", lambda dim, degrees: _masks(dim, degrees, first=lambda u, i: u > i)[0],
              "a unit of degree k may see the inputs up to the k-th, the k-th among them: yours stop one short."),
        Wrong("backwards into the units", lambda dim, degrees: _masks(dim, degrees, first=lambda u, i: u <= i)[0],
              "the order is turned round: a unit of degree k sees the inputs from 1 to k."),
        Wrong("transposed into the units", lambda dim, degrees: _masks(dim, degrees)[0].T,
              "transposed: the mask has the shape of the weight matrix, a row for every unit and a column for every input."),
        Wrong("inputs from 0", lambda dim, degrees: _masks(dim, degrees, first=lambda u, i: u >= i - 1)[0],
              "your inputs are numbered from 0, the degrees from 1: so every unit sees one input too many."),
        Wrong("exchanged", lambda dim, degrees: _masks(dim, degrees)[1].T,
              "this is the mask that belongs between the units and the outputs, transposed: have you exchanged the two?"),
        Wrong("all ones", lambda dim, degrees: torch.ones(len(degrees), dim).double(), "nothing is cut: with all connections every output sees every input."),
        Wrong("its own input alone", lambda dim, degrees: _masks(dim, degrees, first=lambda u, i: u == i)[0],
              "a unit of degree k may see all inputs up to the k-th; yours sees the k-th alone."),
        Wrong("outputs from 0", lambda dim, degrees: _masks(dim, degrees, last=lambda o, u: o - 1 > u)[1],
              "your outputs are numbered from 0, the degrees from 1: so every output misses the units of one degree.", 1),
        Wrong("itself seen", lambda dim, degrees: _masks(dim, degrees, last=lambda o, u: o >= u)[1],
              "output i would see units that see input i, which is itself: it could learn to copy.", 1),
        Wrong("backwards into the outputs", lambda dim, degrees: _masks(dim, degrees, last=lambda o, u: o < u)[1],
              "the order is turned round: output i may see units of a degree below i.", 1),
        Wrong("transposed into the outputs", lambda dim, degrees: _masks(dim, degrees)[1].T,
              "transposed: the mask has a row for every output and a column for every unit.", 1),
        Wrong("outputs see all", lambda dim, degrees: torch.ones(dim, len(degrees)).double(), "nothing is cut between the units and the outputs.", 1),
        Wrong("its own degree alone", lambda dim, degrees: _masks(dim, degrees, last=lambda o, u: o == u)[1],
              "output i is to see all units of the degrees below i; yours sees those of degree i, and so itself.", 1),
    ],
    hints=["A unit of degree k may depend on inputs 1, ..., k. Output i may depend on inputs 1, ..., i - 1.",
           "Into the units: 1 where degree >= number of the input. Into the outputs: 1 where number of the output > degree.",
           "degrees[:, None] >= arange(1, dim + 1), and arange(1, dim + 1)[:, None] > degrees."])


# 5. Bits per dimension ----------------------------------------------------------------------------------------------------------

def _draw_bits(stream):
    dim, levels = stream.choice([64, 196, 784, 3072]), stream.choice([2, 17, 256])
    wanted = stream.uniform(0.1, math.log2(levels))  # from next to nothing to what the bare levels take
    return {"log_density": dim * (math.log(levels) - wanted * math.log(2)), "dim": dim, "levels": levels}


def _bits(log_density, dim, levels):
    return (dim * math.log(levels) - log_density) / (dim * math.log(2))


bits = Check(
    "bits per dimension", draw=_draw_bits, reference=_bits, outputs=["bits per dimension"],
    wrongs=[
        Wrong("levels left out", lambda log_density, dim, levels: -log_density / (dim * math.log(2)),
              "a density over the unit cube is not a probability of a picture: a cell of one level has which volume?"),
        Wrong("levels once", lambda log_density, dim, levels: (math.log(levels) - log_density) / (dim * math.log(2)),
              "the volume of a cell shrinks with every pixel: you counted the levels of a single one."),
        Wrong("sign of the levels", lambda log_density, dim, levels: (-dim * math.log(levels) - log_density) / (dim * math.log(2)),
              "the cell is smaller than the cube, so the probability of a picture is smaller than the density: more bits, not fewer."),
        Wrong("sign", lambda log_density, dim, levels: -_bits(log_density, dim, levels), "the sign: more bits mean a worse model."),
        Wrong("sign of the density", lambda log_density, dim, levels: (dim * math.log(levels) + log_density) / (dim * math.log(2)),
              "a higher log density must make the code shorter."),
        Wrong("nats", lambda log_density, dim, levels: _bits(log_density, dim, levels) * math.log(2), "this is in nats per dimension: a bit is ln 2 nats."),
        Wrong("multiplied by ln 2", lambda log_density, dim, levels: _bits(log_density, dim, levels) * math.log(2) ** 2,
              "you multiplied by ln 2; from nats to bits one divides."),
        Wrong("whole picture", lambda log_density, dim, levels: _bits(log_density, dim, levels) * dim, "this is bits per picture."),
        Wrong("half the noise", lambda log_density, dim, levels: (dim * math.log(levels - 1) - log_density) / (dim * math.log(2)),
              "there are as many cells as levels, not one fewer."),
        Wrong("levels in nats", lambda log_density, dim, levels: math.log(levels) - log_density / (dim * math.log(2)),
              "the density is in bits, the levels are in nats still: both need the same logarithm."),
        Wrong("levels without logarithm", lambda log_density, dim, levels: (dim * levels - log_density) / (dim * math.log(2)),
              "you added the number of levels itself. A log density wants the logarithm of a cell's volume."),
    ],
    hints=["P(x) is the density integrated over a cell, of volume (1 / levels)^dim.",
           "log P(x) is about log_density - dim log(levels). Change its sign, divide by dim, and go from nats to bits.",
           "(dim * log(levels) - log_density) / (dim * log 2)."])


# 6. A flow of one's own ------------------------------------------------------------------------------------------------------------

def _draw_own(stream):
    y = [round(v + stream.gauss(0, 2), 2) for v in problems.EIGHT_SCHOOLS_Y]
    problem = problems.eight_schools(y=y)
    problem.y, problem.log_evidence = tuple(y), None  # a bound is to be found, not the answer read off
    return {"problem": problem}


def _exact(problem: Problem) -> float:
    return float(problems.eight_schools(y=problem.y).log_evidence)


@functools.lru_cache(maxsize=8)
def _best_gaussian(problem: Problem) -> float:
    return float(divergences.approximate(problem, num_starts=1).log_evidence)


class _BoundCheck(Check):
    """A check of a lower bound, that says whether a value lies above what it should bound, or how far below."""

    def _explain(self, bad, instances, got, right, fault):
        name, message = super()._explain(bad, instances, got, right, fault)
        if name != "other":
            return name, message
        if any(float(g[0] - r[0]) > self.tolerance * abs(float(r[0])) for g, r in zip(got, right)):
            return name, ("this is above log Z, so it is no lower bound: the sign of the log-determinant, too few samples, or the "
                          f"luckiest of many noisy batches?\n{message}")
        gap = max(float(r[0] - g[0]) for g, r in zip(got, right))
        return name, (f"below log Z, as a bound has to be, but by {gap:.3f} nats, and 0.015 are allowed. Train longer, or warm up; is log q in "
                      f"the loss? Then average log p - log q over thousands of fresh samples: the last batch is too noisy.\n{message}")


own = _BoundCheck(
    "a flow of your own", draw=_draw_own, reference=_exact, outputs=["lower bound"], num_instances=2, tolerance=6e-4, seconds=180,
    wrongs=[
        Wrong("minus the bound", lambda problem: -_exact(problem), "the sign: this is minus the bound. A search minimises minus the ELBO; asked for is the ELBO itself."),
        Wrong("a Gaussian", _best_gaussian, "this is as far below the truth as the best Gaussian is. Perhaps the layers do nothing, and the last affine map is all that learns. "
              "Are the parameters of all layers given to the optimiser?"),
        Wrong("Laplace", lambda problem: float(laplace.approximate(problem, num_starts=1).log_evidence),
              "this is Laplace's estimate, not the bound of a flow."),
        Wrong("density, not its logarithm", lambda problem: math.exp(_exact(problem)), "this is the evidence; asked for is its logarithm, in nats."),
    ],
    hints=["z, log_q = flow().rsample_and_log_prob((256,)); the loss is (log_q - problem.log_joint(z)).mean(). Adam, a thousand steps.",
           "flows.make('affine', problem.dim, num_layers=4) is a Flow: parameters(), and flow() is a distribution. Let the step size shrink towards the end.",
           "Estimate the bound with 20,000 fresh samples under torch.no_grad(). (flows.approximate does all of it, if you only want to compare.)"])

ALL = [push, planar, uncouple, masks, bits, own]

quiz = Quiz("flows", [
    Question("A flow multiplies every coordinate of a ten-dimensional standard normal by 2. What happens to the log density at the centre?", [
        Option("It falls by 10 log 2, about 6.9 nats.", "The determinant is 2 to the power 10, and its logarithm is subtracted.", True),
        Option("It falls by log 2.", "The determinant of 2 I in ten dimensions is not 2: every coordinate stretches."),
        Option("It rises by 10 log 2.", "The mass spreads over more volume, so the density must fall."),
        Option("Nothing: the centre does not move.", "The point stays, but the volume around it grows.")]),
    Question("Why does a planar layer replace \\(u\\) by \\(\\hat u\\)?", [
        Option("To make training faster.", "It costs a little. The reason lies elsewhere."),
        Option("To keep the log-determinant small.", "It may still be as large as it likes on the positive side."),
        Option("So that every value of the parameters names an invertible layer.",
               "It keeps \\(w^\\top \\hat u\\) above -1, so that nothing folds, and the search needs no constraint.", True),
        Option("So that the layer has an inverse in closed form.", "It has an inverse, but none in closed form.")]),
    Question("You want to score ten thousand given pictures fast and seldom need samples. Which way round do you use an autoregressive layer?", [
        Option("As an IAF.", "An IAF scores its own samples fast. For a given picture it must invert, one coordinate after another."),
        Option("As a MAF.", "From data to base all coordinates are done in one pass; sampling is what takes d passes.", True),
        Option("It makes no difference: the map is the same.", "The map is, the cost of its two directions is not.")]),
    Question("A model of 28 x 28 pictures with 256 levels prints a log density of 0 nats on the unit cube. How many bits per dimension is that?", [
        Option("0", "That would be a perfect compressor. The density must be turned into the probability of a cell first."),
        Option("8", "The uniform density: every pixel costs log2 of 256.", True),
        Option("It depends on the number of pixels.", "Both the cell's log volume and the division grow with it; they cancel."),
        Option("5.55", "That is log 256 in nats; a bit is ln 2 nats.")]),
    Question("A flow posterior has k-hat 0.1 and an effective sample size of 99 %. What may still be wrong?", [
        Option("Nothing: the weights would show it.", "They are weights of the flow's own samples. What it never visits has no weight."),
        Option("Its bound may be above the log evidence.", "A bound in expectation cannot be; with such weights its noise is tiny."),
        Option("The log-determinant may have the wrong sign.", "Then the log weights would be far from equal."),
        Option("It may have left out a mode.", "From inside q a missed mode cannot be seen: ask other starts, or warm up.", True)]),
])
