"""The explorers of the perturbation chapter."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch

from tightbound import figures, perturbation, problems
from tightbound.distributions import Gaussian
from tightbound.explore import Area, Explorer, Line, Points, Slider

ORDERS = range(25)
COUPLINGS = np.geomspace(0.005, 0.5, 21).round(4)
BOUND_ORDERS = range(1, 8)


def coupling() -> Explorer:
    """The quartic integral: the series cut off at an order, its errors, and the sizes of its terms."""
    x, orders = np.linspace(0.0, 7.0, 106), np.arange(len(ORDERS))

    @lru_cache(maxsize=None)
    def at_coupling(g):
        exact = math.exp(float(problems.quartic(g).log_evidence))
        terms = perturbation.quartic_terms(g, len(ORDERS) + 1).numpy()
        sums = terms.cumsum()[:-1]
        return exact, terms, sums, np.abs(sums / exact - 1)

    def integrand(coupling, order):
        u = torch.tensor(-coupling * x**4)
        series = perturbation.truncated_exp(u, int(order)).numpy() * np.exp(-0.5 * x**2)
        return {"series": series.clip(-5, 5)}  # far outside of the picture

    def sizes(coupling):
        exact, terms, _, errors = at_coupling(coupling)
        best = int(errors.argmin())
        return {"integrand": np.exp(-0.5 * x**2 - coupling * x**4), "error": errors,
                "term": np.abs(terms[1:] / exact), "best_order": best, "best_error": errors[best],
                "best_percent": _three_digits(100 * errors[best]), "rule": 1 / (16 * coupling), "exact": exact}

    def here(coupling, order):
        _, _, sums, errors = at_coupling(coupling)
        error = errors[int(order)]
        return {"sum": sums[int(order)], "at_order": order, "at": error,
                "percent": _three_digits(100 * error) if error < 10 else math.nan,
                "power": math.floor(math.log10(error))}

    def figure():
        fig, (left, right) = figures.subplots(1, 2, figsize=(8.2, 3.6))
        left.set(xlim=(0, 7), ylim=(-0.6, 1.25), xlabel="x", ylabel="integrand (even in x)")
        left.axhline(0, color=figures.colour("faint"), lw=1)
        right.set(xlim=(-0.5, len(ORDERS) - 0.5), ylim=(1e-7, 1e4), yscale="log", xlabel="order",
                  ylabel="divided by the integral")
        return fig

    return Explorer(
        [integrand, sizes, here],
        {"coupling": Slider("coupling g", COUPLINGS, COUPLINGS[6]),
         "order": Slider("order of the series", ORDERS, 2, play=True)},
        figure,
        [Area(x=x, high="integrand", role="truth", label="exact integrand"),
         Line(x=x, y="integrand", role="truth"),
         Line(x=x, y="series", label="Gaussian times the series cut off at this order"),
         Line(axes=1, x=orders, y="term", role="prior", label="size of the next term"),
         Line(axes=1, x=orders, y="error", label="error of the partial sum"),
         Points(axes=1, x=orders, y="error", size=2.5),
         Points(axes=1, x="best_order", y="best_error", role="accent", shape="square", size=6.0,
                label="the best order"),
         Points(axes=1, x="at_order", y="at", role="truth", size=5.0, label="this order")],
        title="Explorer: the quartic integral",
        alt="""Left, the integrand exp(-x^2/2 - g x^4) and its stand-in, the Gaussian times the exponential
        series of -g x^4 cut off at some order. They agree near zero; further out the stand-in has a bump, up for
        even orders and down for odd ones, that moves outwards and, from some order on, grows. Right, on a
        logarithmic scale against the order, the error of the partial sum and the size of the next term: both fall,
        reach their least near order 1/(16 g), and climb without end. The smaller g, the deeper and the later the
        least.""",
        readout=["g = {coupling}: the integral is {exact:.6f}; the series to order {order:d} gives {sum:.6f}, off by "
                 "{percent} %"
                 " || g = {coupling}: the integral is {exact:.6f}; the series to order {order:d} is off by more than "
                 "10^{power:d} times that",
                 "best order {best_order:d} (1/(16 g) = {rule:.1f}), off by {best_percent} %"])


def bound() -> Explorer:
    """The truncated exponential under exp, and what it bounds: q's width, order and V0 by hand."""
    problem = problems.quartic(0.1)
    exact = float(problem.log_evidence)
    widths = np.linspace(0.4, 1.2, 17).round(2)
    V0 = np.concatenate([np.arange(-6.0, -2.0, 0.25), np.arange(-2.0, 1.876, 0.125)])
    v = np.linspace(-6.0, 3.0, 91)
    curve = np.linspace(V0[0], V0[-1], 64)
    chances = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)

    @lru_cache(maxsize=None)
    def weights(width):
        """W at the nodes of a rule for q, their probabilities, and W at quantiles of |x|."""
        q = _centred(width)
        W, probabilities = perturbation.by_quadrature(problem, q, 96)
        x = width * torch.erfinv(chances).unsqueeze(-1) * math.sqrt(2)
        return W, probabilities, problem.log_joint(x) - q.log_prob(x)

    def polynomial(order):
        y = perturbation.truncated_exp(torch.tensor(v), int(order)).numpy()
        y = np.where((y > -3.5) & (y < 6.5), y, np.nan)  # what the picture shows, and a little more
        return {"odd": np.where(order % 2, y, np.nan), "even": np.where(order % 2, np.nan, y)}

    def rug(width, reference):
        return {"v": weights(width)[2] - reference}

    def against_reference(width, order):
        W, probabilities, _ = weights(width)
        y = perturbation.bound(W, int(order), torch.tensor(curve), probabilities).numpy()
        y = np.where((y > -2.0) & (y < 2.3), y, np.nan)  # what the picture shows, and a little more
        best = top = math.nan
        if order % 2:
            best = float(perturbation.best_reference(W, int(order), probabilities))
            top = float(perturbation.bound(W, int(order), best, probabilities))
        return {"odd_curve": np.where(order % 2, y, np.nan), "even_curve": np.where(order % 2, np.nan, y),
                "best": best if best >= V0[0] else math.nan, "far": best if best < V0[0] else math.nan,
                "top": top, "top_gap": exact - top}

    def here(width, order, reference):
        W, probabilities, _ = weights(width)
        value = float(perturbation.bound(W, int(order), float(reference), probabilities))
        value = value if math.isfinite(value) else math.nan  # the sum is not positive
        return {"at": reference, "value": value, "gap": exact - value}

    def figure():
        fig, (left, right) = figures.subplots(1, 2, figsize=(8.2, 3.6))
        left.set(xlim=(-6, 3), ylim=(-1.6, 5), xlabel="v = W − V0, in nats")
        left.axhline(0, color=figures.colour("faint"), lw=1)
        right.set(xlim=(V0[0] - 0.1, V0[-1] + 0.1), ylim=(-1.6, 1.9), ylabel="nats",
                  xlabel="V0, the reference energy, in nats")
        right.axhline(exact, **figures.line("truth"))
        right.text(V0[0], exact + 0.1, "log Z", color=figures.colour("truth"))
        return fig

    return Explorer(
        [polynomial, rug, against_reference, here],
        {"width": Slider("width of q", widths, 0.8), "order": Slider("order K", BOUND_ORDERS, 1),
         "reference": Slider("reference energy V0", V0, -0.5)},
        figure,
        [Line(x=v, y=np.exp(v), role="truth", label="exp(v), or the exact log Z"),
         Line(x=v, y="odd", role="bound", label="series of odd order: below it everywhere"),
         Line(x=v, y="even", label="series of even order: no bound"),
         Points(x="v", y=-0.8, role="prior", size=3.0, label="where q puts v (25 quantiles)"),
         Line(axes=1, x=curve, y="odd_curve", role="bound"),
         Line(axes=1, x=curve, y="even_curve"),
         Points(axes=1, x="best", y="top", role="accent", shape="square", size=6.0, label="the best V0"),
         Points(axes=1, x="at", y="value", role="ink", size=5.0, label="your V0")],
        title="Explorer: a bound of odd order",
        alt="""Left, exp(v) and its Taylor polynomial of order K. Of odd order it lies below exp(v) everywhere
        and touches it at zero; of even order it lies above on the left and below on the right. A row of points shows
        where W minus V0 falls under q: for a wide q they spread far to the left. Right, what the series gives for
        log Z against V0, with the exact log Z as a level line. For odd orders the curve is a hill that stays below
        the line, highest where the last term vanishes; for even orders it rises through the line and on.""",
        readout=["q of width {width}, order {order:d}, V0 = {reference:.3f}: {value:.4f} nats, gap {gap:+.4f}"
                 " || q of width {width}, order {order:d}, V0 = {reference:.3f}: the sum is negative, and bounds "
                 "nothing; lower V0",
                 "at the best V0 = {best:.4f}: {top:.4f} nats, gap {top_gap:+.4f}"
                 " || the best V0 = {far:.2f} lies to the left of the picture; there: {top:.4f} nats, gap {top_gap:+.4f}"
                 " || an even order is no bound, and has no best V0: it rises with V0 for ever"])


def _three_digits(number: float) -> float:
    return float(f"{number:.3g}")


def _centred(width: float) -> Gaussian:
    one = torch.ones(1, dtype=torch.float64)
    return Gaussian(0 * one, scale_tril=width * one.unsqueeze(-1))
