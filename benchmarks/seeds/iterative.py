"""What the chapter "Iterative amortised inference" claims, over ten seeds: trains all its inference models, and stores what they scored.

    python benchmarks/seeds/iterative.py                 # every part, some minutes on one core
    python benchmarks/seeds/iterative.py tricks scene    # these parts; the others stay as they were

The result is src/tightbound/iterative/results.json: for each part its seconds and, by method, a list of ten numbers for every score.
The part "rule" trains the ready-made inference model that the explorer shows, src/tightbound/iterative/two_latents_rule.pt.
"""

from __future__ import annotations

import functools
import math
import sys
from pathlib import Path

import torch
from ten_seeds import SEEDS, store

from tightbound import divergences, flows, importance, iterative as it, laplace, mean_field, problems, svi, vae, vae_practice as vp
from tightbound.problems import bayesian
from tightbound.training import fit

HERE = Path(it.__file__).parent
PATH = HERE / "results.json"


@functools.lru_cache
def digits():
    """The two-latent model, frozen; its images to learn from; a hundred held out, and the best bound of each."""
    model = vae.evaluate.frozen(vae.two_latents())
    learn, test = (vae.binary_digits(split)[0] for split in ("train", "test"))
    return model, learn, test[:100], it.gaps(model, test[:100])


def missing(machine, x, best, num_steps, seed) -> dict[str, float]:
    """The mean amortisation gap after so many steps, in nats, bounds by quadrature in single precision."""
    nodes = it.hermite(machine.dim, 8, dtype=torch.float32)
    with torch.no_grad():
        lams, _, _ = machine.path(x, max(num_steps), generator=torch.Generator().manual_seed(seed))
        return {str(t): float((best - it.elbo(machine.model, x, lams[t], nodes)).mean()) for t in num_steps}


def learned(model, learn, seed, *, start="prior", num_epochs=5, rate=1e-2, **options):
    machine = it.Inference(model, it.Learned(model.dim, seed=seed, **options), start=start, num_steps=5, num_samples=4)
    fit(machine, learn, it.unrolled, num_epochs=num_epochs, batch_size=64, learning_rate=rate, seed=seed)
    return machine


def tricks():
    """One trick after the other put in, or taken out: the gap that is left after 5 steps, as trained, and after 20."""
    model, learn, test, truth = digits()
    variants = {"gated, normalised": {}, "no gate": {"gated": False}, "no normalisation": {"normalised": False},
                "log-scaled inputs": {"log_scaled": True}, "recurrent": {"recurrent": True}, "truncated": {"detached": True},
                "told the step": {"told_step": True}, "errors": {"inputs": "errors", "num_pixels": 64},
                "errors and gradient": {"inputs": "both", "num_pixels": 64}}
    for seed in SEEDS:
        for name, options in variants.items():
            yield name, missing(learned(model, learn, seed, **options), test, truth.best, (5, 20), seed)


def methods():
    """One interface, six methods, five steps each (but the first): the gap that is left on held-out digits."""
    model, learn, test, truth = digits()
    for seed in SEEDS:
        whole = vae.two_latents()
        whole.decoder.requires_grad_(False)
        semi = it.Inference(whole, it.Ascent(0.01, momentum=0.5, through=True), start="encoder", num_samples=4)
        fit(semi, learn, functools.partial(it.unrolled, every=False), num_epochs=5, batch_size=64, learning_rate=1e-3, seed=seed)
        made = {"encoder + ascent": it.Inference(model, it.Ascent(0.01, momentum=0.5), start="encoder", num_samples=4),
                "encoder + Adam": it.Inference(model, it.Adam(0.1), start="encoder", num_samples=4),
                "Adam from the prior": it.Inference(model, it.Adam(0.3), num_samples=4),
                "semi-amortised": semi,
                "encoder + learned": learned(model, learn, seed, start="encoder", rate=3e-3),
                "learned from the prior": learned(model, learn, seed, inputs="both", num_pixels=64)}
        for name, machine in made.items():
            yield name, missing(machine, test, truth.best, (0, 1, 2, 3, 5, 10, 20, 40), seed)


def scene():
    """Two equal objects: a direct encoder, and learned steps from a random start; the best q is found from where the objects stand."""
    for seed in SEEDS:
        model = it.scene_vae(seed=seed)
        learn, (test, places) = it.simulate(model, 1000, seed=2 * seed)[0], it.simulate(model, 60, seed=2 * seed + 1)
        fit(model, learn, vae.elbo, num_epochs=30, batch_size=64, learning_rate=3e-3, seed=seed)
        frozen, nodes = vae.evaluate.frozen(model), it.hermite(2, 6, dtype=torch.float32)
        machine = it.Inference(frozen, it.Learned(2, seed=seed), num_steps=8, num_samples=2)
        fit(machine, learn, functools.partial(it.unrolled, scatter=1.0), num_epochs=15, batch_size=64, learning_rate=5e-3, seed=seed)
        stream = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            start = torch.stack([torch.randn(60, 2, generator=stream), torch.zeros(60, 2)], 1)
            made = {"direct": it.numbers(frozen.posterior(test)), "learned": machine.path(test, 8, start=start, generator=stream)[0][-1]}
            there = torch.stack([places, torch.full((60, 2), -2.0)], 1)
            best = it.optimise(frozen, test, there, num_steps=60, nodes=nodes)
            bounds = {name: it.elbo(frozen, test, lam, nodes) for name, lam in {"best": best, **made}.items()}
        for name in made:
            each = torch.stack(list(bounds.values())).amax(0) - bounds[name]
            yield name, {"mean": float(each.mean()), "median": float(each.median()), "worst": float(each.max()),
                         "missed": int((each > 5).sum())}


def lagging():
    """Sequences with one number behind them: plain training, and aggressive training first; the plane of posterior means."""
    x, _ = it.sequences(2400)
    learn, test = x[:2000], x[2000:]
    for seed in SEEDS:
        for name in ("plain", "aggressive"):
            model, slow = it.sentence_vae(seed=seed)
            optimiser = it.aggressive(slow, inner=5, until=20 * 16) if name == "aggressive" else None
            epochs = 14 if name == "plain" else 30       # 20 epochs in which it moves every fifth time, then 10: as many steps
            fit(model, learn, vp.Objective(), num_epochs=epochs, learning_rate=5e-3, seed=seed, optimizer=optimiser)
            with torch.no_grad():
                first, rate = vae.split(model, test, 10, generator=torch.Generator().manual_seed(0))
                guessed = model.posterior(test).mean[:, 0]
            yield name, {"log_evidence": float(vp.grid_log_evidence(model, test, num_points=61).mean()), "bound": float((first - rate).mean()),
                         "rate": float(rate.mean()), "true": float(it.posterior_mean(model, test, num_points=41).std()),
                         "guessed": float(guessed.std())}


def trained_schools(seed: int):
    """A direct encoder of data sets of eight schools, and five learned steps after it; both saw two thousand data sets made up."""
    model = it.Schools()
    learn = model.simulate(2000, seed=1000 + seed)
    direct = it.Inference(model, start=it.schools_encoder(seed=seed), num_steps=0)
    fit(direct, learn, functools.partial(it.unrolled, num_samples=4), num_epochs=30, batch_size=64, learning_rate=3e-3, seed=seed)
    learned_steps = it.Inference(model, it.Learned(2, seed=seed), start=vae.evaluate.frozen(direct.start), num_steps=5, num_samples=10)
    fit(learned_steps, learn, it.unrolled, num_epochs=8, batch_size=64, learning_rate=3e-3, seed=seed)
    return model, direct, learned_steps


@functools.lru_cache
def data_sets():
    model = it.Schools()
    y = model.simulate(200, seed=1)
    return y, model.log_evidence(y)


def schools():
    """An encoder from eight effects to their posterior: the gap of each data set, before and after steps."""
    y, known = data_sets()
    nodes = it.hermite(2, 12, dtype=torch.float32)
    for seed in SEEDS:
        model, direct, learned_steps = trained_schools(seed)
        with torch.no_grad():
            start = direct.first(y)
            best = it.elbo(model, y, it.optimise(model, y, start, num_steps=100, nodes=nodes), nodes)
            lams = {"encoder": start, "5 learned steps": learned_steps.path(y, generator=torch.Generator().manual_seed(seed))[0][-1]}
            for steps in (5, 40):
                ascent = it.Inference(model, it.Adam(0.1), num_samples=10)
                lams[f"{steps} Adam steps"] = ascent.path(y, steps, start=start, generator=torch.Generator().manual_seed(seed))[0][-1]
        for name, lam in lams.items():
            bound = it.elbo(model, y, lam, nodes)
            gap = best - bound
            yield name, {"amortisation": float(gap.mean()), "worst": float(gap.max()), "approximation": float((known - best).mean())}


def league():
    """Rubin's eight schools by the methods of the first half of the book: gap, Pareto's k of q, and evaluations."""
    problem = problems.eight_schools()
    y = torch.tensor([bayesian.EIGHT_SCHOOLS_Y])
    for seed in SEEDS:
        model, direct, learned_steps = trained_schools(seed)
        own, longer = model.problem(y[0]), it.Inference(model, it.Adam(0.1), start=direct.start, num_steps=40, num_samples=10)
        runs = {"Laplace": (problem, functools.partial(laplace.approximate, seed=seed)),
                "importance sampling": (problem, functools.partial(importance.approximate, num_samples=5000, seed=seed)),
                "mean field, free form": (problem, functools.partial(mean_field.approximate, seed=seed)),
                "diagonal, reverse KL": (problem, functools.partial(divergences.approximate, family="diagonal", num_starts=1, seed=seed)),
                "full, reverse KL": (problem, functools.partial(divergences.approximate, num_starts=1, seed=seed)),
                "full, alpha 1/2": (problem, functools.partial(divergences.approximate, num_starts=1, divergence=0.5, seed=seed)),
                "SVI, full": (problem, functools.partial(svi.approximate, search="natural", num_steps=1200, seed=seed)),
                "8 planar layers": (problem, functools.partial(flows.approximate, flow="planar", num_layers=8, num_steps=400, batch_size=128,
                                                               num_samples=5000, learning_rate=0.02, seed=seed)),
                "encoder": (own, direct.approximate(y[0], num_samples=5000, seed=seed)),
                "encoder + 5 learned steps": (own, learned_steps.approximate(y[0], num_samples=5000, seed=seed)),
                "encoder + 40 Adam steps": (own, longer.approximate(y[0], num_samples=5000, seed=seed))}
        for name, (about, run) in runs.items():
            found = run(about)
            weights = found.log_weights(about, 5000, seed=100 + seed) if name != "importance sampling" else None
            k = found.diagnostics.get("k_hat", math.nan) if weights is None else importance.pareto_k_hat(weights)
            yield name, {"gap": found.gap(about), "k_hat": float(k), "evaluations": float(found.evaluations)}


def rule():
    """The ready-made inference model for the explorer: lambda and the gradient in, from starts that are scattered widely."""
    model, learn, test, truth = digits()
    machine = it.Inference(model, it.Learned(2), num_steps=8, num_samples=10)
    fit(machine, learn, functools.partial(it.unrolled, scatter=2.0), num_epochs=60, batch_size=64,
        learning_rate=lambda epoch: 5e-3 if epoch < 45 else 1e-3, seed=0)
    torch.save(machine.rule.state_dict(), HERE / "two_latents_rule.pt")
    yield "from the prior", missing(machine, test, truth.best, (0, 1, 2, 4, 8, 16), 0)


if __name__ == "__main__":
    store(PATH, (rule, tricks, methods, scene, lagging, schools, league),
          "benchmarks/seeds/iterative.py", sys.argv[1:])
