"""Importance sampling of eight schools in the plane, a million samples: ours beside NumPy by hand, JAX and Pyro.

    python benchmarks/importance.py [--long]

All run on one core, in double precision, from the same Gaussian proposal (Laplace's), and each gives log p(x) and the
effective sample size; ours gives k-hat, posterior means and draws as well. Then k-hat of a million weights beside ArviZ's.
`--long` adds 10^8 samples, and the memory they take.
"""

import math
import os
import resource
import sys
import time

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before any library counts the cores
os.environ.update(OMP_NUM_THREADS="1", JAX_ENABLE_X64="1", JAX_PLATFORMS="cpu")

import jax
import jax.numpy as jnp
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from arviz_stats.base import array_stats
from jax.scipy import stats
from jax.scipy.special import logsumexp
from pyro.infer.importance import vectorized_importance_weights

from tightbound import importance, laplace, problems

SAMPLES, BATCH, ROUNDS = 10**6, 2**15, 5
Y, SIGMA = np.array(problems.EIGHT_SCHOOLS_Y), np.array(problems.EIGHT_SCHOOLS_SIGMA)
torch.set_num_threads(1)
problem = problems.eight_schools()
q = laplace.approximate(problem).q
MEAN, L = q.loc.numpy(), q.scale_tril.numpy()
LOG_DET, LOG_2PI = np.log(np.diag(L)).sum(), math.log(2 * math.pi)


def log_joint(np, mu, t):
    """log p(y, mu, log tau), for NumPy and for JAX: the model written down twice less."""
    variance = SIGMA**2 + np.exp(2 * t)[..., None]
    fit = -0.5 * ((Y - mu[..., None]) ** 2 / variance + np.log(variance) + LOG_2PI).sum(-1)
    prior = -0.5 * (mu**2 / 25 + math.log(25) + LOG_2PI) + math.log(2 / (5 * math.pi)) - np.log1p(np.exp(2 * t) / 25) + t
    return fit + prior


def log_weights(np, eps):
    z = MEAN + eps @ L.T
    return log_joint(np, z[..., 0], z[..., 1]) + 0.5 * (eps**2).sum(-1) + LOG_DET + LOG_2PI


def by_hand(seed):
    """The loop that one would write in NumPy: a batch at a time, rescaling the sums when a larger weight comes."""
    stream, top, first, second = np.random.default_rng(seed), -np.inf, 0.0, 0.0
    for begin in range(0, SAMPLES, BATCH):
        value = log_weights(np, stream.standard_normal((min(BATCH, SAMPLES - begin), 2)))
        new = max(top, value.max())
        weight, scale = np.exp(value - new), math.exp(top - new)
        first, second, top = first * scale + weight.sum(), second * scale**2 + (weight**2).sum(), new
    return top + math.log(first / SAMPLES), first**2 / second


def scalar_log_joint(z):
    """The model as one writes it in JAX, for one z; `vmap` does the rest."""
    mu, tau = z[0], jnp.exp(z[1])
    fit = stats.norm.logpdf(Y, mu, jnp.sqrt(SIGMA**2 + tau**2)).sum()
    return fit + stats.norm.logpdf(mu, 0, 5) + stats.cauchy.logpdf(tau, 0, 5) + math.log(2) + z[1]


@jax.jit
def _jax(key):
    z = MEAN + jax.random.normal(key, (SAMPLES, 2)) @ L.T
    value = jax.vmap(scalar_log_joint)(z) - stats.multivariate_normal.logpdf(z, MEAN, L @ L.T)
    return logsumexp(value) - math.log(SAMPLES), jnp.exp(2 * logsumexp(value) - logsumexp(2 * value))


@jax.jit
def _jax_by_hand(key):
    def step(sums, key):
        top, first, second = sums
        value = log_weights(jnp, jax.random.normal(key, (BATCH, 2)))
        new = jnp.maximum(top, value.max())
        weight, scale = jnp.exp(value - new), jnp.exp(top - new)
        return (new, first * scale + weight.sum(), second * scale**2 + (weight**2).sum()), None

    keys = jax.random.split(key, math.ceil(SAMPLES / BATCH))
    (top, first, second), _ = jax.lax.scan(step, (-jnp.inf, 0.0, 0.0), keys)
    return top + jnp.log(first / (len(keys) * BATCH)), first**2 / second


def by_jax(seed):
    return tuple(float(x) for x in _jax(jax.random.key(seed)))


def by_jax_by_hand(seed):
    return tuple(float(x) for x in _jax_by_hand(jax.random.key(seed)))


def by_pyro(seed):
    def model():
        z = pyro.sample("z", dist.MultivariateNormal(torch.zeros(2).double(), 100 * torch.eye(2).double()))  # replaced below
        mu, t = z[..., 0], z[..., 1]
        pyro.factor("prior", problem_prior(mu, t) - dist.MultivariateNormal(
            torch.zeros(2).double(), 100 * torch.eye(2).double()).log_prob(z))
        scale = torch.sqrt(torch.tensor(SIGMA) ** 2 + torch.exp(2 * t).unsqueeze(-1))
        pyro.sample("y", dist.Normal(mu.unsqueeze(-1), scale).to_event(1), obs=torch.tensor(Y))

    def guide():
        pyro.sample("z", dist.MultivariateNormal(q.loc, scale_tril=q.scale_tril))

    def problem_prior(mu, t):
        return dist.Normal(0.0, 5.0).log_prob(mu) + math.log(2 / (5 * math.pi)) - torch.log1p(torch.exp(2 * t) / 25) + t

    pyro.set_rng_seed(seed)
    with torch.no_grad():
        weights, _, _ = vectorized_importance_weights(model, guide, num_samples=SAMPLES, max_plate_nesting=0)
    return float(weights.logsumexp(0)) - math.log(SAMPLES), float(torch.exp(2 * weights.logsumexp(0) - (2 * weights).logsumexp(0)))


def by_us(seed):
    found = importance.approximate(problem, proposal=q, num_samples=SAMPLES, seed=seed)
    return float(found.log_evidence), found.diagnostics["ess"]


def race(runs, rounds=ROUNDS):
    """Median seconds of each, their turns interleaved so that a noisy machine is noisy for all."""
    seconds = {name: [] for name in runs}
    found = {name: run(0) for name, run in runs.items()}  # warm up, and compile
    for seed in range(1, rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            found[name] = run(seed)
            seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(times)) for name, times in seconds.items()}, found


print(f"{SAMPLES:,} samples of eight schools in the plane, one core, double precision; exact {float(problem.log_evidence):.4f} nats")
seconds, found = race({"tightbound": by_us, "NumPy by hand": by_hand, "JAX (vmap, jit)": by_jax,
                       "JAX by hand": by_jax_by_hand, "Pyro, vectorised": by_pyro})
for name in seconds:
    print(f"  {name:17s} {seconds[name]:6.3f} s = {seconds[name] / seconds['tightbound']:5.2f} of ours;  "
          f"log evidence {found[name][0]:.4f}, ESS {found[name][1]:,.0f}")
print(f"  ours against NumPy by hand: {seconds['tightbound'] / seconds['NumPy by hand']:.2f} (goal: within 1.5)")

weights = laplace.approximate(problem).log_weights(problem, SAMPLES)
seconds, found = race({"tightbound": lambda seed: float(importance.pareto_k_hat(weights)),
                       "ArviZ": lambda seed: float(array_stats.psislw(-weights.numpy())[1])})
seconds_smooth, _ = race({"tightbound": lambda seed: importance.pareto_smooth(weights)})
print(f"k-hat of {SAMPLES:,} weights: ours {found['tightbound']:.12f} in {1000 * seconds['tightbound']:.1f} ms (smoothing too: "
      f"{1000 * seconds_smooth['tightbound']:.1f} ms), ArviZ {found['ArviZ']:.12f} in {1000 * seconds['ArviZ']:.1f} ms: "
      f"{seconds['ArviZ'] / seconds['tightbound']:.1f} times ours (smoothing too: {seconds['ArviZ'] / seconds_smooth['tightbound']:.1f})")

if "--long" in sys.argv:
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    big = importance.approximate(problem, num_samples=10**8)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"10^8 samples: {time.perf_counter() - start:.0f} s, peak memory {after / 1024:.0f} MB ({(after - before) / 1024:+.0f} MB), "
          f"log evidence {big.log_evidence}, gap {big.gap(problem):+.5f}, k-hat {big.diagnostics['k_hat']:.2f}")
