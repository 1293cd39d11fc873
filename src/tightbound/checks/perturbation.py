"""The exercises of the perturbation chapter, and its quiz."""

from __future__ import annotations

import math

import torch

from tightbound import perturbation as method
from tightbound.checks.check import Check, Wrong
from tightbound.checks.quiz import Option, Question, Quiz


def _samples(stream, count, centre, scale):
    """Log weights that lean to one side, as they do in life."""
    return torch.tensor([centre + scale * (stream.gauss(0, 1) - 0.3 * stream.gauss(0, 1) ** 2)
                         for _ in range(count)],
                        dtype=torch.float64)


# 1. Two cumulants -------------------------------------------------------------------------------------------

def _draw_two(stream):
    return {"log_weights": _samples(stream, stream.randint(5, 12), stream.uniform(-30, -3),
                                    stream.uniform(0.5, 2.0))}


def _elbo(log_weights):
    return log_weights.mean()


def _variance(log_weights):
    return log_weights.var(correction=0)


two = Check(
    "two cumulants", draw=_draw_two, outputs=["ELBO", "two cumulants"],
    reference=lambda log_weights: (_elbo(log_weights), _elbo(log_weights) + 0.5 * _variance(log_weights)),
    wrongs=[
        Wrong("logarithm of the mean weight",
              lambda log_weights: log_weights.logsumexp(0) - math.log(len(log_weights)),
              "this is the logarithm of the average weight, importance sampling. The ELBO averages the "
              "logarithms."),
        Wrong("sum, not mean", lambda log_weights: log_weights.sum(), "you added the log weights up; an "
                                                                      "expectation is their mean."),
        Wrong("the whole variance", lambda log_weights: _elbo(log_weights) + _variance(log_weights),
              "the variance enters with a factor: look at the factorial in the series of cumulants.", 1),
        Wrong("minus the variance", lambda log_weights: _elbo(log_weights) - 0.5 * _variance(log_weights),
              "the correction has the wrong sign: the ELBO lies below log p(x), so its leading correction "
              "must raise it.", 1),
        Wrong("standard deviation",
              lambda log_weights: _elbo(log_weights) + 0.5 * _variance(log_weights).sqrt(),
              "you added a standard deviation where a variance belongs.", 1),
        Wrong("second term alone", lambda log_weights: 0.5 * _variance(log_weights),
              "this is the second term of the series alone. A sum up to it holds the first as well.", 1),
        Wrong("logarithm of one plus",
              lambda log_weights: _elbo(log_weights) + torch.log1p(0.5 * _variance(log_weights)),
              "you put the correction into a logarithm, as one does with moments. Cumulants are those of a logarithm "
              "already.", 1),
        Wrong("divided by S - 1", lambda log_weights: _elbo(log_weights) + 0.5 * log_weights.var(),
              "you divided by S - 1. Asked for is the plain average of squared deviations over the given "
              "points.", 1),
        Wrong("second moment about zero",
              lambda log_weights: _elbo(log_weights) + 0.5 * (log_weights**2).mean(),
              "this is the mean of W squared. The second cumulant is taken about the mean.", 1),
        Wrong("no correction", lambda log_weights: _elbo(log_weights), "this is the ELBO again: the second "
                                                                       "cumulant is missing.", 1),
    ],
    hints=["The first two cumulants of any variable have well-known names.",
           "They are the mean and the variance. In the series, kappa_n is divided by n factorial.",
           "`log_weights.mean()`, and that plus half of `log_weights.var(correction=0)`."])


# 2. The recursion -------------------------------------------------------------------------------------------

def _draw_recursion(stream):
    order = stream.randint(4, 6)
    return {"moments": method.moments(_samples(stream, 9, stream.uniform(-1.5, 1.5), 1.0), order)}


def _recursion(moments, binomial, sign=-1.0, last=1):
    found = []
    for n in range(1, len(moments) + 1):
        total = sum(binomial(n, k) * found[k - 1] * moments[n - k - last] for k in range(1, n))
        found.append(moments[n - 1] + sign * total)
    return torch.stack(found)


def _moments_twice(moments):
    return torch.stack([moments[n - 1] - sum(math.comb(n - 1, k - 1) * moments[k - 1] * moments[n - k - 1]
                                             for k in range(1, n)) for n in range(1, len(moments) + 1)])


def _central(moments):
    """Moments about the mean, the first one kept."""
    raw, mean = [1.0, *moments.tolist()], float(moments[0])
    about = [sum(math.comb(n, k) * raw[k] * (-mean) ** (n - k) for k in range(n + 1))
             for n in range(2, len(raw))]
    return torch.tensor([mean, *about], dtype=torch.float64)


recursion = Check(
    "moments to cumulants", draw=_draw_recursion, reference=method.cumulants, outputs=["cumulants"],
    wrongs=[
        Wrong("binomial of n and k", lambda moments: _recursion(moments, lambda n, k: math.comb(n, k)),
              "the binomial coefficient is off: its upper number is not n."),
        Wrong("binomial of n - 1 and k",
              lambda moments: _recursion(moments, lambda n, k: math.comb(n - 1, k)),
              "the binomial coefficient is off: its lower number is not k. Or it is right, and moment and cumulant have "
              "changed places."),
        Wrong("no binomial", lambda moments: _recursion(moments, lambda n, k: 1.0),
              "the binomial coefficients are missing: they count in how many ways a set of n can be split."),
        Wrong("plus", lambda moments: _recursion(moments, lambda n, k: math.comb(n - 1, k - 1), 1.0),
              "the sum has the wrong sign: try it on n = 2, where a variance must come out."),
        Wrong("central moments", _central,
              "these are moments about the mean. They agree with the cumulants up to the third, and differ "
              "from the fourth on."),
        Wrong("moments twice", _moments_twice,
              "the sum multiplies two moments. One of the two factors should be a cumulant, found before."),
        Wrong("moments", lambda moments: moments, "these are the moments themselves."),
        Wrong("over n factorial",
              lambda moments: method.cumulants(moments) / torch.tensor([math.factorial(n)
                                                                        for n in range(1, len(moments) + 1)]),
              "you divided by n factorial. That comes later, when they are added up."),
    ],
    hints=["Begin with kappa_1 = m_1, and compute one after the other: each needs the ones before it.",
           "kappa_n is m_n minus a sum over k = 1..n-1 of binom(n-1, k-1) kappa_k m_{n-k}. Mind that Python "
           "counts from zero.",
           "In a loop over n: `m[n-1] - sum(math.comb(n-1, k-1) * kappa[k-1] * m[n-k-1] for k in range(1, "
           "n))`."])


# 3. The bound of order three --------------------------------------------------------------------------------

def _draw_three(stream):
    return {"log_weights": _samples(stream, stream.randint(6, 15), stream.uniform(-30, -3),
                                    stream.uniform(0.6, 1.5))}


def _best(log_weights, order=3):
    return method.best_reference(log_weights, order)


def _three(log_weights):
    return _best(log_weights), method.bound(log_weights, 3)


def _at(reference, order=3):
    return lambda log_weights: method.bound(log_weights, order, reference(log_weights))


three = Check(
    "bound of order three", draw=_draw_three, reference=_three, outputs=["reference energy", "bound"],
    when_nan="At a V0 that is too high the sum of the series is negative, and has no logarithm; at the best V0 it is "
             "positive.",
    wrongs=[
        Wrong("the mean", _elbo, "this is the mean of W, the best reference energy of order one. At order "
                                 "three another power must vanish."),
        Wrong("the median", lambda log_weights: log_weights.quantile(0.5),
              "this is the median, where as many are below as above. Their third powers do not balance "
              "there."),
        Wrong("order five", lambda log_weights: _best(log_weights, 5),
              "this is the best reference energy of order five: the power is too high."),
        Wrong("zero",
              lambda log_weights: torch.tensor(0.0), "at V0 = 0 the log weights are far away: find the place "
                                                           "where the last term vanishes."),
        Wrong("the highest weight", lambda log_weights: log_weights.amax(),
              "this is the largest log weight. There all deviations are negative, and so is the average of "
              "their cubes."),
        Wrong("swapped", lambda log_weights: method.bound(log_weights, 3),
              "this is the bound. The reference energy comes first, the bound second."),
        Wrong("mean as reference in the bound", _at(_elbo),
              "a valid bound, but taken at the mean of W. It is higher at the reference energy that you "
              "found.", 1),
        Wrong("order one", lambda log_weights: method.bound(log_weights, 1, _best(log_weights)),
              "the series stops after its linear term.", 1),
        Wrong("constant term missing", lambda log_weights: method.bound(log_weights, 3) + torch.log(
            1 - torch.exp(_best(log_weights) - method.bound(log_weights, 3))),
              "the term of k = 0 is missing from your sum.", 1),
        Wrong("sum, not mean", lambda log_weights: method.bound(log_weights, 3) + math.log(len(log_weights)),
              "you summed over the points; an expectation is a mean.", 1),
        Wrong("no factorials", lambda log_weights: _best(log_weights) + torch.log(
            1 + method.moments(log_weights, 3, _best(log_weights)).sum()),
              "the factorials are missing.", 1),
        Wrong("reference not added back",
              lambda log_weights: method.bound(log_weights, 3) - _best(log_weights),
              "the factor exp(V0) in front of the series is missing: in logarithms it is added.", 1),
        Wrong("no logarithm", lambda log_weights: _best(log_weights)
              + torch.exp(method.bound(log_weights, 3) - _best(log_weights)),
              "the series was not put into a logarithm: it estimates p(x), and asked for is a bound on log "
              "p(x).", 1),
        Wrong("the sum alone",
              lambda log_weights: torch.exp(method.bound(log_weights, 3) - _best(log_weights)),
              "this is the sum of the series. Asked for is the logarithm of exp(V0) times that.", 1),
        Wrong("a probability", lambda log_weights: torch.exp(method.bound(log_weights, 3)),
              "this bounds p(x) itself: its logarithm is asked for.", 1),
        Wrong("importance sampling",
              lambda log_weights: log_weights.logsumexp(0) - math.log(len(log_weights)),
              "this is the logarithm of the average weight, with the whole exponential in place of its first "
              "terms.", 1),
    ],
    hints=["At the best V0, the derivative of the bound with respect to V0 is zero. Which average has to "
           "vanish for that?",
           "E[(W - V0)^3] = 0. The left side falls as V0 grows, and changes its sign between the smallest "
           "and the largest W: bisect.",
           "`scipy.optimize.brentq` finds the root between `log_weights.min()` and `log_weights.max()`. Then "
           "with u = W - V0: V0 + log "
           "of the mean of 1 + u + u^2/2 + u^3/6."])


# 4. Stirling ------------------------------------------------------------------------------------------------

def _laplace(a):
    return a * math.log(a) - a + 0.5 * math.log(2 * math.pi / a)


def _stirling(a, lean=5 / 24, steep=1 / 8):
    return _laplace(a) + (lean - steep) / a


stirling = Check(
    "Stirling's formula", draw=lambda stream: {"a": stream.uniform(1.2, 6.0)}, outputs=["Laplace",
                                                                                        "corrected"],
    reference=lambda a: (_laplace(a), _stirling(a)), tolerance=1e-8,
    wrongs=[
        Wrong("without the Jacobian", lambda a: _laplace(a - 1),
              "the Jacobian is missing: with t = e^z, dt is not dz, and the exponent of t changes."),
        Wrong("without the Jacobian, at another mode", lambda a: _laplace(a) - math.log(a),
              "the Jacobian is missing from the height of the peak: with t = e^z, dt is not dz."),
        Wrong("in t", lambda a: (a - 1) * math.log(a - 1) - (a - 1) + 0.5 * math.log(2 * math.pi * (a - 1)),
              "this is Laplace's method in t. Asked for is the one in z = log t: first change the variable, and then "
              "look for the mode."),
        Wrong("no 2 pi", lambda a: _laplace(a) - 0.5 * math.log(2 * math.pi),
              "the area under a bell is its width times a constant: that is missing."),
        Wrong("exponentiated", lambda a: math.exp(_laplace(a)),
              "this approximates Gamma(a) itself: its logarithm is asked for."),
        Wrong("exact", lambda a: math.lgamma(a), "this is the exact log Gamma(a). Asked for is what "
                                                 "Laplace's method says."),
        Wrong("no volume", lambda a: a * math.log(a) - a, "the height of the peak is there, its width is "
                                                          "not."),
        Wrong("volume upside down", lambda a: a * math.log(a) - a + 0.5 * math.log(2 * math.pi * a),
              "either the curvature stands upside down (a sharper peak has a smaller area), or you took the integral of "
              "a!, which has another exponent."),
        Wrong("uncorrected", _laplace, "the correction is missing: this is Laplace's number again.", 1),
        Wrong("correction alone", lambda a: 1 / (12 * a),
              "this is the correction by itself: Laplace's number is to be added.", 1),
        Wrong("in a logarithm", lambda a: _laplace(a) + math.log1p(1 / (12 * a)),
              "you took the logarithm of one plus the correction. The correction is one of log Gamma(a) already.", 1),
        Wrong("without a", lambda a: _laplace(a) + 1 / 12,
              "the correction should shrink as a grows: put the derivatives at the mode in.", 1),
        Wrong("lean alone", lambda a: _stirling(a, steep=0.0),
              "only the third derivative is used; the fourth contributes at the same order.", 1),
        Wrong("steepness alone", lambda a: _stirling(a, lean=0.0),
              "only the fourth derivative is used; the square of the third contributes at the same order.", 1),
        Wrong("signs exchanged", lambda a: _stirling(a, -5 / 24, -1 / 8),
              "both terms have the wrong sign. A lean adds area; steeper walls take some away.", 1),
        Wrong("both added", lambda a: _stirling(a, steep=-1 / 8),
              "the two terms have opposite signs: a positive fourth derivative of the energy lowers the "
              "integral.", 1),
        Wrong("5/12 in place of 5/24", lambda a: _stirling(a, lean=5 / 12),
              "the term of the third derivative is too large by two: half the variance enters, not the "
              "whole.", 1),
        Wrong("exact, at last", lambda a: math.lgamma(a), "this is the exact log Gamma(a): the formula to "
                                                          "this order is close to it, not equal.", 1),
    ],
    hints=["With t = e^z the integral becomes that of exp(a z - e^z) over the whole line. The energy is u(z) "
           "= e^z - a z.",
           "The mode is z = log a. There all derivatives from the second on are equal: to what?",
           "u2 = u3 = u4 = a. Laplace: a log a - a + 1/2 log(2 pi / a); correction: (5/24 - 1/8)/a."])


# 5. Project: stop in time -----------------------------------------------------------------------------------

def _draw_stop(stream):
    g, num_terms = math.exp(stream.uniform(math.log(0.004), math.log(0.06))), stream.randint(24, 30)
    return {"terms": method.quartic_terms(g, num_terms)}


def _smallest(terms):
    return int(terms.abs().argmin())


def _sum_to(terms, last):
    return terms[:last].sum()


stop = Check(
    "stop in time", draw=_draw_stop, outputs=["value", "error estimate"],
    reference=lambda terms: (_sum_to(terms, _smallest(terms)) + 0.5 * terms[_smallest(terms)],
                             0.5 * terms[_smallest(terms)].abs()),
    wrongs=[
        Wrong("all terms", lambda terms: terms.sum(), "you added all terms. They shrink at first and then "
                                                      "grow: stop in time."),
        Wrong("smallest term in full", lambda terms: _sum_to(terms, _smallest(terms) + 1),
              "you took the smallest term in full. Two partial sums, with it and without it, lie on either "
              "side of the answer."),
        Wrong("smallest term left out", lambda terms: _sum_to(terms, _smallest(terms)),
              "you stopped before the smallest term. Two partial sums, with it and without it, lie on either "
              "side of the answer."),
        Wrong("sum of the two", lambda terms: 2 * _sum_to(terms, _smallest(terms)) + terms[_smallest(terms)],
              "you added the two partial sums; asked for is their middle."),
        Wrong("half a term too far", lambda terms: _sum_to(terms, _smallest(terms) + 1) + 0.5 * terms[_smallest(terms)],
              "your smallest term counts one and a half times: the partial sum with it is already on the other side."),
        Wrong("logarithm", lambda terms: (_sum_to(terms, _smallest(terms)) + 0.5 * terms[_smallest(terms)]).log(),
              "this is the logarithm of the value; asked for is the value of the series itself."),
        Wrong("average of the terms", lambda terms: terms.mean(),
              "you averaged the terms; they are to be added, up to one of them."),
        Wrong("average of the sums", lambda terms: terms.cumsum(0).mean(),
              "you averaged all the partial sums. The late ones are far off: only two of them count."),
        Wrong("first term alone", lambda terms: terms[0], "this is the first term: the perturbation has not "
                                                          "been used."),
        Wrong("smallest with its sign",
              lambda terms: _sum_to(terms, int(terms.argmin())) + 0.5 * terms[int(terms.argmin())],
              "you looked for the least term with its sign, a large negative one. Look for the smallest in "
              "size."),
        Wrong("half of one too many",
              lambda terms: _sum_to(terms, _smallest(terms) + 1) + 0.5 * terms[_smallest(terms) + 1],
              "you went one term too far: the half belongs to the smallest term itself."),
        Wrong("the whole smallest term", lambda terms: terms[_smallest(terms)].abs(),
              "the two partial sums lie half a term away from your value on either side, not a whole one.", 1),
        Wrong("with a sign", lambda terms: 0.5 * terms[_smallest(terms)],
              "an error estimate has no sign: take its size.", 1),
        Wrong("the last term", lambda terms: terms[-1].abs(), "this is the last term given; the error is set "
                                                              "by the smallest.", 1),
    ],
    hints=["Find the term that is smallest in size. What do the partial sums just before and just after it "
           "have to do with the answer?",
           "The terms alternate, so that the two partial sums enclose the answer. Their middle is half of "
           "the smallest term away from each.",
           "With k the index of the smallest |term|: `terms[:k].sum() + terms[k] / 2`, and `abs(terms[k]) / "
           "2`."])

ALL = (two, recursion, three, stirling, stop)


quiz = Quiz("perturbation", [
    Question("For some q the log weight W is the same number at every z. Then …", [
        Option("if q covers the posterior, q is the posterior, and the ELBO is log p(x).",
               "Constant W means that joint and q are proportional where q lives. If the posterior has no mass "
               "elsewhere, the constant is log p(x).", True),
        Option("the ELBO is log p(x), whether or not q covers all of the posterior.",
               "Two modes far apart, q on one of them: W is constant there, and the answer is wrong by the logarithm "
               "of the mass that q covers."),
        Option("the second cumulant is large, as W has nothing that could balance it.",
               "The second cumulant is the variance of W: it is zero."),
        Option("the series of cumulants diverges, for it has no small number in it.",
               "All its terms but the first are zero.")]),
    Question("Why is the series of order two no lower bound?", [
        Option("Because the variance of W could be infinite.", "Then there is no series of order two at all; "
                                                               "but it fails as a bound with "
               "finite moments too."),
        Option("Because 1 + u + u²/2 exceeds exp(u) for negative u.", "And so, if W − V0 is mostly negative, "
                                                                      "does the average. Raise V0 and "
               "the series grows without limit.", True),
        Option("Because cumulants may be negative.", "The second never is; and this is about moments."),
        Option("It is one, at the best V0.", "An even order has no best V0: its derivative in V0 is never "
                                             "negative.")]),
    Question("The partial sums of a series for log p(x) move by 0.1, 0.02, 0.008, 0.03, 0.4 nats from order "
             "to order. What do you report?", [
        Option("The sum to the end: more terms are more accurate.", "The terms grow: the expansion has left. "
                                                                    "The last is the worst."),
        Option("Nothing: a divergent series has no use.", "Its first terms may be excellent; that is the "
                                                          "point of an asymptotic series."),
        Option("The average of all partial sums.", "The large ones, which are wrong, would dominate."),
        Option("The sum up to about the smallest term, with an error of about its size.", "The rule for "
                                                                                          "asymptotic "
                                                                                          "series: 0.008 is "
                                                                                          "as "
               "close as it gets.", True)]),
    Question("You have E_q of W, W², …, W⁵ by quadrature, and the bounds of order 1, 3 and 5 are −10.4, "
             "−10.1 and −10.9. What is the best "
             "statement about log p(x)?", [
        Option("It is about −10.9, as the highest order is the most exact.", "Order 5 fell: q visits places "
                                                                             "where the joint is very small. "
               "It is still a bound, and a worse one."),
        Option("It lies between −10.9 and −10.1.", "These are lower bounds; none of them is an upper one."),
        Option("It is at least −10.1.", "All three are lower bounds, so the highest holds. Nothing promises "
                                        "that they rise with the order.", True),
        Option("Nothing: bounds that fall cannot be right.", "They may fall, and every one is right.")]),
    Question("Laplace's error is about c/n. Where does the constant c come from?", [
        Option("From the number of parameters alone, as in the penalty of BIC.",
               "That is the penalty of BIC, (d/2) log n, which "
                                                       "Laplace already contains."),
        Option("From the third and fourth derivatives of the energy at the mode.",
               "The square of the third raises the integral, the fourth lowers it if it steepens the walls; "
               "a change of coordinates changes both, and so the constant.", True),
        Option("From the third derivative: it shifts the answer in proportion.", "An odd term averages to "
                                                                                 "nothing at first order; it "
                                                                                 "is its square that counts."),
        Option("From the tails of the posterior, which a parabola cuts off.",
               "Tails contribute too little to be seen at any power of "
                                                   "1/n: derivatives at the mode know nothing of them.")]),
])
