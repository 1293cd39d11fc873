"""Stochastic variational inference of a logistic regression, 31 weights, 569 patients: ours beside Pyro, NumPyro and blackjax.

    python benchmarks/svi.py [--long]

All in double precision.

1. How many steps a second, once compiled?
2. How many seed-steps a second do 64 runs side by side make?
3. How long from the call to the answer? A normal with full covariance, 16 draws a step, Adam (ours also by natural gradients).
   Everything counts: every turn compiles anew, which is also shown apart. Each takes the fewest steps, with the best of three step
   sizes, that bring it within half a nat of the best bound of the family, all judged by the same 20,000 fresh draws.

`--long` gives, in place of the race, topics of Reuters' news, batch beside stochastic, from the folder that TIGHTBOUND_DATA names.
"""

from __future__ import annotations

import os
from pathlib import Path

import race

options = race.arguments(__doc__, rounds=3)
options.add_argument("--long", action="store_true", help="topics of Reuters' news, in place of the race")
options = options.parse_args()
race.alone(options.threads, JAX_ENABLE_X64="1")

import numpy as np  # noqa: E402
import torch  # noqa: E402

from tightbound import problems, svi  # noqa: E402
from tightbound.data import breast_cancer  # noqa: E402
from tightbound.distributions import Gaussian  # noqa: E402

torch.set_num_threads(options.threads)
PROBLEM = problems.logistic_regression(None)
X, Y, _ = breast_cancer(None)
D, DRAWS, CLOSE = 31, 16, 0.5
SCAN = "NumPyro's scan"
FEWEST = svi.steps.STEPS * svi.rounds.LOOKS
SIZES, LENGTHS = (0.05, 0.02, 0.01), (1000, 2000, 4000, 8000, 16000)


def judged(mean, scale_tril) -> tuple[float, float]:
    """The bound of N(mean, L L') and its error, the same for all: on 20,000 draws of our own."""
    q = Gaussian(torch.as_tensor(np.array(mean)).double(), scale_tril=torch.as_tensor(np.array(scale_tril)).double())
    with torch.no_grad():
        z, log_q = q.rsample_and_log_prob((20_000,), generator=torch.Generator().manual_seed(7))
        bound = PROBLEM.log_joint(z) - log_q
    return float(bound.mean()), float(bound.std()) / len(bound) ** 0.5


# Each contender: (steps, step size, seed) -> mean and Cholesky factor of q, from a cold start

def ours(search="adam", compiled=False):
    def run(steps, size, seed):
        svi.steps.graph_of.cache_clear()
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


# Steps a second -----------------------------------------------------------------------------------------------

def our_engine(kind, draws, replicates=1, compiled=False):
    stream = torch.Generator().manual_seed(0)
    member = svi.rounds.members(PROBLEM, kind, replicates, stream)
    engine = svi.steps.compiled_steps(PROBLEM, member, draws, stream) if compiled else svi.steps.plain_steps(PROBLEM, member, draws, None, "adam", stream)
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


def rates(here: race.Race) -> None:
    few = 20 if options.trial else 1
    for kind in ("diagonal", "full"):
        for draws in (1, DRAWS):
            heat = f"{kind} normal, {draws} draw{'s' * (draws > 1)} a step"
            contenders = {"ours": race.repeated(our_engine(kind, draws), 40 // few)}
            done = {"ours": svi.steps.STEPS * (40 // few)}
            if draws == DRAWS:
                contenders["ours, compiled"] = race.repeated(our_engine(kind, draws, compiled=True), 100 // few)
                done["ours, compiled"] = svi.steps.STEPS * (100 // few)
            if here.has("pyro"):
                contenders["Pyro"], done["Pyro"] = race.repeated(pyro_engine(kind, draws), 100 // few), 100 // few
            if here.has("numpyro"):
                contenders[SCAN], done[SCAN] = race.repeated(numpyro_engine(kind, draws), 1), 1000
            if here.has("blackjax") and draws == DRAWS:
                contenders["blackjax's scan"], done["blackjax's scan"] = race.repeated(blackjax_engine(kind), 1), 1000
            here.heat(heat, contenders, rounds=options.rounds + 2, unit="steps a second", amount=done)
            here.ratio(heat, "ours", "Pyro", goal=3.0)
            if draws == DRAWS:
                here.ratio(heat, "ours, compiled", SCAN, goal=1.0)
                here.ratio(heat, "ours, compiled", "blackjax's scan")
            else:
                here.ratio(heat, "ours", SCAN, reason="This is the plain loop, in which each step is a call from Python; a scan makes none.")
    for kind in ("diagonal", "full"):
        heat = f"{kind} normal, 1 draw a step, runs side by side"
        sizes = {"1 run": 1, "64 runs": 64}
        here.heat(heat, {name: race.repeated(our_engine(kind, 1, n), 20 // few) for name, n in sizes.items()},
                  rounds=options.rounds + 2, unit="seed-steps a second", amount={name: svi.steps.STEPS * n * (20 // few) for name, n in sizes.items()})
        here.ratio(heat, "64 runs", "1 run", goal=20.0)


# From the call to the answer ----------------------------------------------------------------------------------

def shortest(run, best, lengths=LENGTHS, sizes=SIZES):
    """The fewest steps, with the step size, that come within CLOSE nats of the best."""
    if options.trial:
        return FEWEST, 0.05
    return next(((steps, size) for steps in lengths for size in sizes if judged(*run(steps, size, 0))[0] > best - CLOSE), None)


def answers(here: race.Race) -> None:
    heat, best = "from the call to the answer", judged(*ours("natural")(FEWEST if options.trial else 8000, 0.2, 0))[0]
    adam = shortest(ours(), best)
    contenders = {"ours, natural gradients": (ours("natural"), shortest(ours("natural"), best, (200, 400, 800), (0.2, 0.1))),
                  "ours, Adam": (ours(), adam), "ours, Adam, compiled": (ours(compiled=True), adam)}
    if here.has("numpyro"):
        contenders["NumPyro"] = (by_numpyro, shortest(by_numpyro, best))
    if here.has("blackjax"):
        contenders["blackjax"] = (by_blackjax, shortest(by_blackjax, best))
    if here.has("pyro"):  # the same algorithm as NumPyro's; its own search would take an hour
        contenders["Pyro"] = (by_pyro, contenders.get("NumPyro", (None, (8000, 0.02)))[1])
    for name, (_, work) in contenders.items():
        if work is None:
            print(f"  {name} does not get there in {LENGTHS[-1]:,} steps, and is left out")
    contenders = {name: found for name, found in contenders.items() if found[1] is not None}
    steps = {name: f"{work[0]:,} steps of {work[1]}" for name, (_, work) in contenders.items()}

    def lap(name):
        run, work = contenders[name]

        def turn(seed: int):
            """Cold each time; the first is of the fewest steps that ours takes, to tell what compilation and all else besides take."""
            start = race.worked()
            found = run(work[0] if seed else FEWEST, work[1], seed)
            return race.worked() - start, judged(*found)
        return turn

    here.heat(heat, {name: lap(name) for name in contenders}, rounds=options.rounds, laps=True, notes=steps,
              within=1e4 if options.trial else 2 * CLOSE)
    for peer in ("NumPyro", "blackjax", "Pyro"):
        here.ratio(heat, here.best(heat, *(name for name in contenders if name.startswith("ours"))), peer)


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
        ends, start = [], race.worked()
        for seed in range(10):
            stream = torch.Generator().manual_seed(seed)
            shuffled = counts[torch.randperm(len(counts), generator=stream)]
            half = torch.binomial(shuffled[345:], torch.full_like(shuffled[345:], 0.5), generator=stream)
            found = svi.fit_topics(shuffled[:345], 20, held_out=(half, shuffled[345:] - half), num_seen=4 * 345, num_looks=40, seed=stream, **options)
            ends.append([float(found.held_out[found.seen <= passes * 345][-1]) for passes in (1, 2, 4)])
        ends = torch.tensor(ends)
        words = ", ".join(f"{m:.3f} ± {e:.3f}" for m, e in zip(ends.mean(0), ends.std(0) / 10**0.5))
        print(f"  {name:28s} after 1, 2, 4 passes: {words}; {(race.worked() - start) / 10:.1f} s a fit")


def main() -> None:
    with race.running(race.Race(
            "svi", "Stochastic variational inference", "How fast are steps, and how soon is the answer there?",
            "the same model, family, number of draws and precision. A step is a step of Adam. An answer is a bound within half a "
            f"nat of the best of the family, all judged by the same 20,000 draws; every turn compiles anew, and the first is of {FEWEST} "
            "steps, to tell what all else takes.",
            threads=options.threads, trial=options.trial, packages=("pyro-ppl", "numpyro", "jax", "blackjax"))) as here:
        rates(here)
        answers(here)


if __name__ == "__main__":
    reuters() if options.long else main()
