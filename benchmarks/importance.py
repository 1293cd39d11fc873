"""Importance sampling of eight schools in the plane, a million samples and 10^8: ours beside NumPy by hand, JAX and Pyro.

    python benchmarks/importance.py

All draw from the same Gaussian proposal (Laplace's), in double precision, and each gives log p(x) and the effective sample
size; ours gives k-hat, posterior means and draws as well. Then k-hat of a million weights beside ArviZ's; then 10^8 samples,
and the memory they take.
"""

from __future__ import annotations

import math
import resource

import race

options = race.arguments(__doc__, rounds=5).parse_args()
race.alone(options.threads, JAX_ENABLE_X64="1")

import numpy as np  # noqa: E402
import torch  # noqa: E402

from tightbound import importance, laplace, problems  # noqa: E402

SAMPLES, MANY, BATCH = *((2**15, 2**17) if options.trial else (10**6, 10**8)), 2**15
Y, SIGMA = np.array(problems.EIGHT_SCHOOLS_Y), np.array(problems.EIGHT_SCHOOLS_SIGMA)
torch.set_num_threads(options.threads)
problem = problems.eight_schools()
q = laplace.approximate(problem).q
MEAN, L = q.loc.numpy(), q.scale_tril.numpy()
LOG_DET, LOG_2PI = np.log(np.diag(L)).sum(), math.log(2 * math.pi)


def told(log_evidence, ess, samples=SAMPLES) -> tuple[float, float]:
    """A contender's answer: log p(x) and its error."""
    return float(log_evidence), math.sqrt(1 / float(ess) - 1 / samples)


def by_us(seed, samples=SAMPLES):
    found = importance.approximate(problem, proposal=q, num_samples=samples, seed=seed)
    return told(found.log_evidence, found.diagnostics["ess"], samples)


def log_joint(np, mu, t):
    """log p(y, mu, log tau), for NumPy and for JAX: the model written down twice less."""
    variance = SIGMA**2 + np.exp(2 * t)[..., None]
    fit = -0.5 * ((Y - mu[..., None]) ** 2 / variance + np.log(variance) + LOG_2PI).sum(-1)
    prior = -0.5 * (mu**2 / 25 + math.log(25) + LOG_2PI) + math.log(2 / (5 * math.pi)) - np.log1p(np.exp(2 * t) / 25) + t
    return fit + prior


def log_weights(np, eps):
    z = MEAN + eps @ L.T
    return log_joint(np, z[..., 0], z[..., 1]) + 0.5 * (eps**2).sum(-1) + LOG_DET + LOG_2PI


def by_numpy(seed, samples=SAMPLES):
    """The loop that one would write in NumPy: a batch at a time, rescaling the sums when a larger weight comes."""
    stream, top, first, second = np.random.default_rng(seed), -np.inf, 0.0, 0.0
    for begin in range(0, samples, BATCH):
        value = log_weights(np, stream.standard_normal((min(BATCH, samples - begin), 2)))
        new = max(top, value.max())
        weight, scale = np.exp(value - new), math.exp(top - new)
        first, second, top = first * scale + weight.sum(), second * scale**2 + (weight**2).sum(), new
    return told(top + math.log(first / samples), first**2 / second, samples)


def by_jax() -> dict:
    """The model as one writes it in JAX, for one z, with `vmap`; and the loop over batches, as a scan."""
    import jax
    import jax.numpy as jnp
    from jax.scipy import stats
    from jax.scipy.special import logsumexp

    def scalar_log_joint(z):
        mu, tau = z[0], jnp.exp(z[1])
        fit = stats.norm.logpdf(Y, mu, jnp.sqrt(SIGMA**2 + tau**2)).sum()
        return fit + stats.norm.logpdf(mu, 0, 5) + stats.cauchy.logpdf(tau, 0, 5) + math.log(2) + z[1]

    @jax.jit
    def mapped(key):
        z = MEAN + jax.random.normal(key, (SAMPLES, 2)) @ L.T
        value = jax.vmap(scalar_log_joint)(z) - stats.multivariate_normal.logpdf(z, MEAN, L @ L.T)
        return logsumexp(value) - math.log(SAMPLES), jnp.exp(2 * logsumexp(value) - logsumexp(2 * value))

    @jax.jit
    def scanned(key):
        def step(sums, key):
            top, first, second = sums
            value = log_weights(jnp, jax.random.normal(key, (BATCH, 2)))
            new = jnp.maximum(top, value.max())
            weight, scale = jnp.exp(value - new), jnp.exp(top - new)
            return (new, first * scale + weight.sum(), second * scale**2 + (weight**2).sum()), None

        keys = jax.random.split(key, math.ceil(SAMPLES / BATCH))
        (top, first, second), _ = jax.lax.scan(step, (-jnp.inf, 0.0, 0.0), keys)
        return top + jnp.log(first / (len(keys) * BATCH)), first**2 / second

    return {"JAX, vmap": lambda seed: told(*mapped(jax.random.key(seed))),
            "JAX by hand": lambda seed: told(*scanned(jax.random.key(seed)))}


def by_pyro(seed):
    import pyro
    import pyro.distributions as dist
    from pyro.infer.importance import vectorized_importance_weights

    flat = dist.MultivariateNormal(torch.zeros(2).double(), 100 * torch.eye(2).double())  # replaced below

    def model():
        z = pyro.sample("z", flat)
        mu, t = z[..., 0], z[..., 1]
        prior = dist.Normal(0.0, 5.0).log_prob(mu) + math.log(2 / (5 * math.pi)) - torch.log1p(torch.exp(2 * t) / 25) + t
        pyro.factor("prior", prior - flat.log_prob(z))
        scale = torch.sqrt(torch.tensor(SIGMA) ** 2 + torch.exp(2 * t).unsqueeze(-1))
        pyro.sample("y", dist.Normal(mu.unsqueeze(-1), scale).to_event(1), obs=torch.tensor(Y))

    def guide():
        pyro.sample("z", dist.MultivariateNormal(q.loc, scale_tril=q.scale_tril))

    pyro.set_rng_seed(seed)
    with torch.no_grad():
        weights, _, _ = vectorized_importance_weights(model, guide, num_samples=SAMPLES, max_plate_nesting=0)
    first, second = weights.logsumexp(0), (2 * weights).logsumexp(0)
    return told(first - math.log(SAMPLES), torch.exp(2 * first - second))


def main() -> None:
    with race.running(race.Race(
            "importance", "Importance sampling",
            f"How long do {SAMPLES:,} and {MANY:,} samples of the eight schools take, for log p(x) and the effective sample size?",
            "the same proposal, number of samples and precision; every log p(x) agrees within its Monte Carlo error. Ours gives the "
            "tail index k-hat, posterior means and draws as well.",
            threads=options.threads, trial=options.trial, packages=("numpy", "jax", "pyro-ppl", "arviz-stats"))) as here:
        contenders = {"tightbound": by_us, "NumPy by hand": by_numpy}
        contenders |= by_jax() if here.has("jax") else {}
        contenders |= {"Pyro, vectorised": by_pyro} if here.has("pyro") else {}
        heat = "log p(x)"
        here.heat(heat, contenders, rounds=options.rounds, within=0.0)
        here.ratio(heat, "tightbound", "NumPy by hand", goal=round(1 / 1.5, 2))
        for peer in list(contenders)[2:]:
            here.ratio(heat, "tightbound", peer, reason="The compiled loop keeps two sums and nothing else; ours also keeps the largest "
                       "weights, for k-hat, and draws." if peer == "JAX by hand" else "")

        weights = laplace.approximate(problem).log_weights(problem, SAMPLES)

        def smooth(_) -> None:
            importance.pareto_smooth(weights)

        contenders = {"tightbound": lambda seed: importance.pareto_k_hat(weights),
                      "tightbound, smoothing too": smooth}
        if here.has("arviz_stats"):
            from arviz_stats.base import array_stats
            contenders["ArviZ, smoothing too"] = lambda seed: array_stats.psislw(-weights.numpy())[1]
        heat = "k-hat of the weights"
        here.heat(heat, contenders, rounds=options.rounds, unit="ms", within=1e-9, answer_unit="")
        here.ratio(heat, "tightbound, smoothing too", "ArviZ, smoothing too")

        heat, before = f"{MANY:,} samples", peak()
        here.heat(heat, {"tightbound": lambda seed: by_us(seed, MANY)}, rounds=1, warm_up=False)
        here.score(f"{heat}: memory beyond what {SAMPLES:,} took", peak() - before, "MB", noise=0.5, less_is_better=True)
        here.heat(heat, {"NumPy by hand": lambda seed: by_numpy(seed, MANY)}, rounds=1, warm_up=False, within=0.0)
        here.ratio(heat, "tightbound", "NumPy by hand")


def peak() -> float:
    """The most memory that this process has held so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


main()
