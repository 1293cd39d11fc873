"""Laplace's method on Bayesian logistic regression, 31 weights, 569 patients: ours beside laplace-torch, JAX and NumPy by hand.

    python benchmarks/laplace_logistic.py

In double precision. First the expansion alone: from the mode to the log evidence and its Gaussian. Then all of it: the search for
the mode, from zero, and the expansion. laplace-torch takes a network that is trained already; its user would train it with torch's
L-BFGS, and so does the race.
"""

from __future__ import annotations

import math
import warnings

import race

options = race.arguments(__doc__, rounds=7).parse_args()
race.alone(options.threads, JAX_ENABLE_X64="1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from scipy import linalg, optimize  # noqa: E402

from tightbound import laplace, problems  # noqa: E402
from tightbound.data import breast_cancer  # noqa: E402

torch.set_num_threads(options.threads)
torch.set_default_dtype(torch.float64)
SCALE, TIMES = 2.5, 2 if options.trial else 20
X, Y, _ = breast_cancer(None)
D = X.shape[1]
PROBLEM = problems.logistic_regression(None, prior_scale=SCALE)
BEHIND = ("What is written by hand for one model has its derivatives on paper, or compiled; ours asks torch's autograd for any model's, "
          "and looks at the Hessian's eigenvalues before it trusts them.")
ORIGIN = torch.zeros(D)
MODE = laplace.approximate(PROBLEM, starts=ORIGIN).diagnostics["expansion"].at
SIGNED = (X * (2 * Y - 1).unsqueeze(-1)).numpy()


def evidence(height: float, hessian: np.ndarray) -> float:
    """log p(x, mode) + d/2 log 2 pi - 1/2 log det H; the Cholesky factor is what the Gaussian is made of."""
    return height + 0.5 * D * math.log(2 * math.pi) - np.log(np.diag(linalg.cholesky(hessian))).sum()


# Each contender: (expansion from the mode, all from zero)

def ours():
    return (lambda: laplace.approximate(PROBLEM, at=MODE).log_evidence, lambda: laplace.approximate(PROBLEM, starts=ORIGIN).log_evidence)


def numpy_by_hand():
    """Formulas worked out on paper."""
    def energy(w):
        margin = SIGNED @ w
        p = 1 / (1 + np.exp(margin))
        value = np.logaddexp(0, -margin).sum() + 0.5 * (w @ w) / SCALE**2 + D * math.log(SCALE * math.sqrt(2 * math.pi))
        return value, -SIGNED.T @ p + w / SCALE**2

    def expand(w):
        p = 1 / (1 + np.exp(SIGNED @ w))
        hessian = (SIGNED * (p * (1 - p))[:, None]).T @ SIGNED + np.eye(D) / SCALE**2
        return evidence(-energy(w)[0], hessian)

    def search():
        return expand(optimize.minimize(energy, np.zeros(D), jac=True, method="L-BFGS-B", options={"gtol": 1e-8, "ftol": 1e-15}).x)

    at = MODE.numpy()
    return lambda: expand(at), search


def jax_by_hand():
    """Derivatives by JAX, all of it compiled but the search, which is SciPy's."""
    import jax
    import jax.numpy as jnp

    signed = jnp.asarray(SIGNED)

    def energy(w):
        return -jax.nn.log_sigmoid(signed @ w).sum() - jax.scipy.stats.norm.logpdf(w, 0, SCALE).sum()

    both, hessian = jax.jit(jax.value_and_grad(energy)), jax.jit(jax.hessian(energy))

    @jax.jit
    def expand(w):
        half_log_det = jnp.log(jnp.diag(jnp.linalg.cholesky(jax.hessian(energy)(w)))).sum()
        return -energy(w) + 0.5 * D * math.log(2 * math.pi) - half_log_det

    def search():
        found = optimize.minimize(lambda w: tuple(map(np.asarray, both(w))), np.zeros(D), jac=True,
                                  hess=lambda w: np.asarray(hessian(w)), method="trust-exact", options={"gtol": 1e-9})
        return expand(found.x)

    at = MODE.numpy()
    return lambda: expand(at), search


def laplace_torch(curvature: str):
    """Two classes as softmax, the first one's logit being 0: the same likelihood. Its Hessian is the Gauss-Newton matrix."""
    import laplace as peer
    from laplace import curvature as curvatures
    from torch.utils.data import DataLoader, TensorDataset

    class Logistic(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(D, 1, bias=False)

        def forward(self, x):
            logit = self.linear(x)
            return torch.cat([torch.zeros_like(logit), logit], -1)

    data = DataLoader(TensorDataset(X, Y.long()), batch_size=len(X))
    network = Logistic()
    backend = getattr(curvatures, curvature)

    def expand():
        found = peer.Laplace(network, "classification", subset_of_weights="all", hessian_structure="full", prior_precision=SCALE**-2,
                             backend=backend)
        found.fit(data)
        return found.log_marginal_likelihood()

    def at_mode():
        with torch.no_grad():
            network.linear.weight.copy_(MODE)
        return expand()

    def search():
        torch.nn.init.zeros_(network.linear.weight)
        optimizer = torch.optim.LBFGS(network.parameters(), max_iter=500, tolerance_grad=1e-8, tolerance_change=1e-14,
                                      line_search_fn="strong_wolfe")

        def loss():
            optimizer.zero_grad()
            value = torch.nn.functional.cross_entropy(network(X), Y.long(), reduction="sum")
            value = value + 0.5 * network.linear.weight.square().sum() / SCALE**2
            value.backward()
            return value

        optimizer.step(loss)
        return expand()

    return at_mode, search


def repeated(run):
    """The answer of the last of `TIMES` runs; one in the first turn."""
    def turn(k: int) -> float:
        for _ in range(TIMES if k else 1):
            found = run()
        return float(found)
    return turn


def main() -> None:
    warnings.simplefilter("ignore")
    with race.running(race.Race(
            "laplace_logistic", "Laplace's method", "How long does Laplace's approximation of a logistic regression take, with its log evidence?",
            "the same model, prior and full curvature (for this model the Gauss-Newton matrix is the Hessian); every log evidence "
            "agrees to a millionth of a nat. Ours also checks that the end of the search is a mode, and that it is no ridge.",
            threads=options.threads, trial=options.trial, packages=("laplace-torch", "jax", "scipy", "numpy"))) as here:
        made = {"tightbound": ours(), "NumPy by hand": numpy_by_hand()}
        made |= {"JAX by hand": jax_by_hand()} if here.has("jax") else {}
        if here.has("laplace"):
            made |= {"laplace-torch, curvlinops": laplace_torch("CurvlinopsGGN"), "laplace-torch, asdl": laplace_torch("AsdlGGN")}
        for part, heat in enumerate(("from the mode to the log evidence", "from nothing to the log evidence")):
            here.heat(heat, {name: repeated(runs[part]) for name, runs in made.items()}, rounds=options.rounds, unit="ms",
                      amount=TIMES, within=1e-6)
            for peer in list(made)[1:3]:
                here.ratio(heat, "tightbound", peer, reason=BEHIND if peer == "NumPy by hand" and part else "")
            names = [name for name in made if name.startswith("laplace-torch")] or ["laplace-torch"]
            here.ratio(heat, "tightbound", here.best(heat, *names), goal=1.0, name=f"{heat}: tightbound beside laplace-torch")


main()
