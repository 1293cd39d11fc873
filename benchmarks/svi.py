"""Stochastic variational inference of a logistic regression, 31 weights, 569 patients: ours beside Pyro, NumPyro and blackjax.

    python benchmarks/svi.py [--long]

All run on one core, in double precision. Seconds are those that the core worked, compilers that were started included, so that
others on the machine do not count.

1. How long from the call to the answer? A normal with full covariance, 16 draws a step, Adam (ours also by natural gradients).
   Everything counts: compilation too, which is also shown apart. Each takes the fewest steps, with the best of three step sizes,
   that bring it within half a nat of the best bound of the family, all judged by the same 20,000 fresh draws.
2. How many steps a second, once compiled?
3. How many seed-steps a second do 64 runs side by side make?

`--long` adds topics of Reuters' news, batch beside stochastic, from the folder that TIGHTBOUND_DATA names. Peers' names and
versions stand in benchmarks/requirements.txt; whoever is not installed is left out.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # before any library counts the cores
os.environ.update(OMP_NUM_THREADS="1", JAX_ENABLE_X64="1", JAX_PLATFORMS="cpu", TORCHINDUCTOR_CACHE_DIR=tempfile.mkdtemp(),
                  TORCHINDUCTOR_COMPILE_THREADS="1")

import numpy as np  # noqa: E402
import torch  # noqa: E402

from tightbound import families, problems, svi  # noqa: E402
from tightbound.data import breast_cancer  # noqa: E402
from tightbound.distributions import Gaussian  # noqa: E402

torch.set_num_threads(1)
HERE = {name: importlib.util.find_spec(name) is not None for name in ("pyro", "numpyro", "blackjax")}
PROBLEM = problems.logistic_regression(None)
X, Y, _ = breast_cancer(None)
D, DRAWS, CLOSE, ROUNDS = 31, 16, 0.5, 3
SCAN = "NumPyro's scan"
SIZES, LENGTHS = (0.05, 0.02, 0.01), (1000, 2000, 4000, 8000, 16000)


def clock() -> float:
    """Seconds that this process and its children have worked."""
    return time.process_time() + sum(os.times()[2:4])


def judged(mean, scale_tril) -> float:
    """The bound of N(mean, L L'), the same for all: on 20,000 draws of our own."""
    q = Gaussian(torch.as_tensor(np.array(mean)).double(), scale_tril=torch.as_tensor(np.array(scale_tril)).double())
    with torch.no_grad():
        z, log_q = q.rsample_and_log_prob((20_000,), generator=torch.Generator().manual_seed(7))
        return float((PROBLEM.log_joint(z) - log_q).mean())


# Each contender: (steps, step size, seed) -> mean and Cholesky factor of q, from a cold start

def ours(search="adam", compiled=False):
    def run(steps, size, seed):
        svi._graph.cache_clear()
        torch.compiler.reset()
        found = svi.approximate(PROBLEM, num_samples=DRAWS, num_steps=steps, step_size=size, search=search, compiled=compiled,
                                seed=seed, num_fresh=1000, tolerance=1e-9)
        return found.q.mean, found.q.scale_tril
    return run


def jax_model():
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    x, y = jnp.asarray(X.numpy()), jnp.asarray(Y.numpy())

    def model():
        w = numpyro.sample("w", dist.Normal(jnp.zeros(D), 2.5).to_event(1))
        numpyro.sample("y", dist.Bernoulli(logits=x @ w).to_event(1), obs=y)

    return model


def by_numpyro(steps, size, seed):
    import jax
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoMultivariateNormal
    from numpyro.optim import Adam

    jax.clear_caches()
    model = jax_model()
    found = SVI(model, AutoMultivariateNormal(model), Adam(size), Trace_ELBO(DRAWS, vectorize_particles=True)).run(
        jax.random.key(seed), steps, progress_bar=False)
    return found.params["auto_loc"], np.asarray(found.params["auto_scale_tril"])


def blackjax_steps(size, kind):
    """A blackjax algorithm and its scan over keys."""
    import blackjax
    import jax
    import jax.numpy as jnp
    import optax

    signed = jnp.asarray((X * (2 * Y - 1).unsqueeze(-1)).numpy())

    def log_density(w):
        return jax.nn.log_sigmoid(signed @ w).sum() - 0.5 * jnp.sum((w / 2.5) ** 2)

    make = blackjax.fullrank_vi if kind == "full" else blackjax.meanfield_vi
    algorithm = make(log_density, optax.adam(size), DRAWS)

    @jax.jit
    def scan(state, keys):
        return jax.lax.scan(lambda state, key: algorithm.step(key, state), state, keys)

    return algorithm, scan


def by_blackjax(steps, size, seed):
    import jax
    import jax.numpy as jnp

    jax.clear_caches()
    algorithm, scan = blackjax_steps(size, "full")
    state, _ = scan(algorithm.init(jnp.zeros(D)), jax.random.split(jax.random.key(seed), steps))
    L = np.zeros((D, D))
    values = np.asarray(state.chol_params)
    L[np.diag_indices(D)] = np.exp(values[:D])
    L[np.tril_indices(D, -1)] = values[D:]
    return state.mu, L


def pyro_svi(size, kind, draws):
    import pyro
    import pyro.distributions as dist
    from pyro.infer import SVI, Trace_ELBO
    from pyro.infer.autoguide import AutoDiagonalNormal, AutoMultivariateNormal

    def model():
        w = pyro.sample("w", dist.Normal(torch.zeros(D).double(), 2.5).to_event(1))
        logits = (w @ X.T) if w.ndim == 1 else (w.reshape(-1, D) @ X.T).reshape(*w.shape[:-1], len(X))
        pyro.sample("y", dist.Bernoulli(logits=logits).to_event(1), obs=Y)

    guide = (AutoMultivariateNormal if kind == "full" else AutoDiagonalNormal)(model)
    return SVI(model, guide, pyro.optim.Adam({"lr": size}), Trace_ELBO(draws, vectorize_particles=draws > 1, max_plate_nesting=0)), guide


def by_pyro(steps, size, seed):
    import pyro

    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    engine, guide = pyro_svi(size, "full", DRAWS)
    for _ in range(steps):
        engine.step()
    return guide.loc.detach(), (guide.scale[..., None] * guide.scale_tril).detach()


# 1. From the call to the answer -------------------------------------------------------------------------------

def shortest(run, best, lengths=LENGTHS, sizes=SIZES):
    """The fewest steps, with the step size, that come within CLOSE nats of the best."""
    return next(((steps, size) for steps in lengths for size in sizes if judged(*run(steps, size, 0)) > best - CLOSE), None)


def answers():
    best = judged(*ours("natural")(8000, 0.2, 0))
    print(f"1. From the call to an answer within {CLOSE} nats of the best full normal's bound, {best:.2f}: seconds")
    plain = shortest(ours("natural"), best, (200, 400, 800), (0.2, 0.1))
    contenders = {"ours, natural": (ours("natural"), plain), "ours, Adam": (ours(), shortest(ours(), best)),
                  "ours, Adam, compiled": (ours(compiled=True), None)}
    contenders["ours, Adam, compiled"] = (ours(compiled=True), contenders["ours, Adam"][1])
    if HERE["numpyro"]:
        contenders["NumPyro"] = (by_numpyro, shortest(by_numpyro, best))
    if HERE["blackjax"]:
        contenders["blackjax"] = (by_blackjax, shortest(by_blackjax, best))
    if HERE["pyro"]:  # the same algorithm as NumPyro's; its own search would take an hour
        contenders["Pyro"] = (by_pyro, contenders["NumPyro"][1] if HERE["numpyro"] else (8000, 0.02))
    for name, (run, work) in contenders.items():
        if work is None:
            print(f"  {name:22s} does not get there in {LENGTHS[-1]:,} steps")
            continue
        seconds, bounds, short = [], [], []
        for seed in range(1 if name == "Pyro" else ROUNDS):
            start = clock()
            found = run(*work, seed)
            seconds.append(clock() - start)
            bounds.append(judged(*found))
            start = clock()
            run(200, work[1], seed)
            short.append(clock() - start)
        rate = (statistics.median(seconds) - statistics.median(short)) / max(work[0] - 200, 1)
        fixed = statistics.median(short) - 200 * rate if work[0] > 200 else statistics.median(short)
        print(f"  {name:22s} {statistics.median(seconds):7.2f} s, of them {max(fixed, 0):5.2f} before the first step and for compilation; "
              f"{work[0]:6,} steps of {work[1]}; bound {statistics.median(bounds):.2f}")


# 2. and 3. Steps a second -------------------------------------------------------------------------------------

def per_second(step, count, block):
    """The best of several blocks."""
    step()
    rates = []
    for _ in range(5):
        start = clock()
        for _ in range(block):
            step()
        rates.append(count * block / (clock() - start))
    return max(rates)


def our_engine(kind, draws, replicates=1, compiled=False):
    stream = torch.Generator().manual_seed(0)
    member = svi._members(PROBLEM, kind, replicates, stream)
    engine = svi._compiled(PROBLEM, member, draws, stream) if compiled else svi._plain(PROBLEM, member, draws, None, "adam", stream)
    return lambda: engine(0.02)


def numpyro_engine(kind, draws, steps=1000):
    import jax
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoDiagonalNormal, AutoMultivariateNormal
    from numpyro.optim import Adam

    model = jax_model()
    guide = (AutoMultivariateNormal if kind == "full" else AutoDiagonalNormal)(model)
    engine = SVI(model, guide, Adam(0.02), Trace_ELBO(draws, vectorize_particles=True))
    state = engine.init(jax.random.key(0))
    scan = jax.jit(lambda state: jax.lax.scan(lambda s, _: engine.update(s), state, None, length=steps))
    return lambda: jax.block_until_ready(scan(state))


def blackjax_engine(kind, steps=1000):
    import jax
    import jax.numpy as jnp

    algorithm, scan = blackjax_steps(0.02, kind)
    state, keys = algorithm.init(jnp.zeros(D)), jax.random.split(jax.random.key(0), steps)
    return lambda: jax.block_until_ready(scan(state, keys))


def pyro_engine(kind, draws):
    import pyro

    pyro.clear_param_store()
    return pyro_svi(0.02, kind, draws)[0].step


def rates():
    print("2. Steps a second, compiled beforehand where there is something to compile")
    for kind in ("diagonal", "full"):
        for draws in (1, DRAWS):
            row = {"ours": per_second(our_engine(kind, draws), svi.STEPS, 20)}
            if HERE["pyro"]:
                row["Pyro"] = per_second(pyro_engine(kind, draws), 1, 60)
            if draws == DRAWS:
                row["ours, compiled"] = per_second(our_engine(kind, draws, compiled=True), svi.STEPS, 100)
            if HERE["numpyro"]:
                row[SCAN] = per_second(numpyro_engine(kind, draws), 1000, 1)
            if HERE["blackjax"] and draws == DRAWS:
                row["blackjax's scan"] = per_second(blackjax_engine(kind), 1000, 1)
            words = ", ".join(f"{name} {rate:,.0f}" for name, rate in row.items())
            print(f"  {kind}, {draws} draws: {words}")
            if HERE["pyro"]:
                print(f"    the loop against Pyro: {row['ours'] / row['Pyro']:.1f} times (goal: 3)")
            if "ours, compiled" in row and HERE["numpyro"]:
                print(f"    compiled against NumPyro's scan: {row['ours, compiled'] / row[SCAN]:.1f} times (goal: 1)")
    print("3. Seed-steps a second, one draw each")
    for kind in ("diagonal", "full"):
        one, many = (per_second(our_engine(kind, 1, replicates), svi.STEPS * replicates, 10) for replicates in (1, 64))
        print(f"  {kind}: one run {one:,.0f}, 64 side by side {many:,.0f}: {many / one:.0f} times (goal: 20)")


# Topics of news ---------------------------------------------------------------------------------------------

def reuters():
    folder = Path(os.environ.get("TIGHTBOUND_DATA", "")) / "text_reuters"
    if not (folder / "reuters.ldac").exists():
        return print("Reuters: set TIGHTBOUND_DATA to a folder that holds text_reuters/reuters.ldac")
    vocabulary = (folder / "reuters.tokens").read_text().split("\n")
    lines = (folder / "reuters.ldac").read_text().strip().split("\n")
    counts = torch.zeros(len(lines), len([word for word in vocabulary if word]), dtype=torch.float64)
    for d, line in enumerate(lines):
        for pair in line.split()[1:]:
            word, times = pair.split(":")
            counts[d, int(word)] = float(times)
    print(f"4. Reuters: {len(lines)} news items, {counts.shape[1]:,} words, 20 topics; nats a hidden word, mean ± s.e. of ten splits and starts")
    for name, options in {"batch": {"batch_size": 345, "forgetting": 0.0}, "16 a step, kappa 0.7, tau 64": {"batch_size": 16, "delay": 64.0},
                          "16 a step, kappa 0.7, tau 1": {"batch_size": 16}, "64 a step, kappa 0.7, tau 16": {"batch_size": 64, "delay": 16.0}}.items():
        ends, start = [], clock()
        for seed in range(10):
            stream = torch.Generator().manual_seed(seed)
            shuffled = counts[torch.randperm(len(counts), generator=stream)]
            half = torch.binomial(shuffled[345:], torch.full_like(shuffled[345:], 0.5), generator=stream)
            found = svi.fit_topics(shuffled[:345], 20, held_out=(half, shuffled[345:] - half), num_seen=4 * 345, num_looks=40, seed=stream, **options)
            ends.append([float(found.held_out[found.seen <= passes * 345][-1]) for passes in (1, 2, 4)])
        ends = torch.tensor(ends)
        words = ", ".join(f"{m:.3f} ± {e:.3f}" for m, e in zip(ends.mean(0), ends.std(0) / 10**0.5))
        print(f"  {name:28s} after 1, 2, 4 passes: {words}; {(clock() - start) / 10:.1f} s a fit")


if __name__ == "__main__":
    rates()
    answers()
    if "--long" in sys.argv:
        reuters()
