"""What the chapter "When VAEs fail, and what helps" claims, over ten seeds: trains all its models, and stores what they scored.

    python benchmarks/seeds/vae_practice.py               # every part, about ten minutes on one core
    python benchmarks/seeds/vae_practice.py names beta    # these parts; the others stay as they were

The result is src/tightbound/vae_practice/results.json:
for each part its seconds and, by model, a list of ten numbers for every score.
"""

from __future__ import annotations

import math
import sys
import time

import torch
from ten_seeds import SEEDS, store

from tightbound import vae, vae_practice as vp
from tightbound.data import digits
from tightbound.training import fit

PATH = vp.RESULTS


def scores(model, x, estimate=vp.defended_log_evidence) -> dict[str, float]:
    """Nats a row: log p(x) by importance sampling with 200 draws, the bound, and what the rate is made of."""
    stream = torch.Generator().manual_seed(0)
    with torch.no_grad():
        reconstruction, rate = vae.split(model, x, 5, generator=stream)
        bound = float((reconstruction - rate).mean())
        if not model.dim:
            return {"log_evidence": bound, "bound": bound}
    found = vp.surgery(model, x)
    return {"log_evidence": float(estimate(model, x, 200).mean()), "bound": bound, "rate": float(rate.mean()),
            "information": found.information, "mismatch": found.mismatch, "active": int(vae.active_units(model, x).sum())}


def from_the_encoder(model, x, num_samples):
    with torch.no_grad():
        return vae.iwae_bound(model, x, num_samples, generator=torch.Generator().manual_seed(1))


def text(corpus, num_epochs: int):
    num_steps = num_epochs * math.ceil(len(corpus.train) / 128)
    for seed in SEEDS:
        for name, objective in vp.remedies(num_steps).items():
            model = vp.SentenceVAE(len(corpus.vocabulary), 0 if name == "language model" else 2, seed=seed)
            fit(model, corpus.train, objective, num_epochs=num_epochs, learning_rate=1e-2, seed=seed)
            yield name, scores(model, corpus.test)


def names():
    yield from text(vp.character_names(), 20)


def novel():
    yield from text(vp.novel(), 12)


def beta():
    """Networks with Gaussian pixels of variance 0.01 at several prices: rate and squared error on images held out."""
    learn, test = digits("train").images, digits("test").images
    for seed in SEEDS:
        for price in (1, 2, 4, 8, 16, 32):
            model = vp.dense_vae(16, likelihood=vp.FixedNoise(0.01), seed=seed)
            fit(model, learn, vp.Objective(beta=price), num_epochs=100, learning_rate=3e-3, seed=seed)
            with torch.no_grad():
                z, _ = model.posterior(test).rsample_and_log_prob((20,), generator=torch.Generator().manual_seed(0))
                distortion = (model.decode(z).mean - test).square().sum(-1).mean()
            yield str(price), {"rate": float(vp.unit_rates(model, test).sum()), "distortion": float(distortion),
                               "active": int(vae.active_units(model, learn).sum())}


def dimension():
    """How many of eight units carry more than a tenth of a nat, on data of known dimension."""
    for seed in SEEDS:
        for dim, circle in ((1, False), (2, False), (3, False), (4, False), (5, False), (1, True)):
            x = vp.curved(dim, circle=circle, seed=seed)
            model = vp.dense_vae(8, size=20, width=64, likelihood=vp.FixedNoise(0.1), seed=seed)
            fit(model, x, vp.Objective(), num_epochs=80, learning_rate=5e-3, seed=seed)
            variances, _ = vp.principal_variances(x)
            yield "circle" if circle else str(dim), {
                "units": int((vp.unit_rates(model, x) > 0.1).sum()), "active": int(vae.active_units(model, x).sum()),
                "linear": int((vp.water_filling(variances, 0.1).rates > 0.1).sum())}


def architecture():
    """Dense against convolutional on the binary digits, three seconds of one core each."""
    learn, test = ((x > 0.5).float() for x in (digits("train").images, digits("test").images))
    for seed in SEEDS:
        for name, make in (("dense", vp.dense_vae), ("convolutional", vp.convolutional_vae)):
            model, epochs, start = make(8, seed=seed), 0, time.process_time()
            while time.process_time() - start < 3:
                fit(model, learn, vp.Objective(), num_epochs=2, learning_rate=2e-3, seed=1000 * seed + epochs)
                epochs += 2
            yield name, {"epochs": epochs, "parameters": sum(p.numel() for p in model.parameters()),
                         **scores(model, test, from_the_encoder)}


def modes():
    """A GAN and a VAE on two modes: the share of their samples near each, and the VAE's exact log-likelihood."""
    for seed in SEEDS:
        x, test = vp.two_modes(seed=seed), vp.two_modes(seed=1000 + seed)
        draws = {"gan": vp.fit_gan(x, seed=seed).sample(10_000, seed=seed)}
        model = vp.dense_vae(1, size=1, width=32, likelihood=vp.OwnNoise(), seed=seed)
        fit(model, x, vp.Objective(), num_epochs=100, learning_rate=5e-3, seed=seed)
        with torch.no_grad():
            stream = torch.Generator().manual_seed(seed)
            z = torch.randn(10_000, 1, generator=stream)
            q = model.decode(z)
            draws["vae"] = q.mean + q.stddev * torch.randn(10_000, 1, generator=stream)
        divergence = vp.two_modes_log_prob(test).mean() - vp.grid_log_evidence(model, test, half=8).mean()
        for name, sample in draws.items():
            near = {side: float((sample - centre).abs().lt(2).float().mean()) for side, centre in (("left", -4), ("right", 4))}
            yield name, near | ({"divergence": float(divergence)} if name == "vae" else {})


def league():
    """The digits with two latents, where log p(x) is exact, under several objectives."""
    learn, test = (vae.binary_digits(split)[0] for split in ("train", "test"))
    for seed in SEEDS:
        for name, objective in vp.two_latent_objectives().items():
            model = vp.dense_vae(2, width=64, seed=seed)
            fit(model, learn, objective, num_epochs=60, learning_rate=5e-3, seed=seed)
            with torch.no_grad():
                reconstruction, rate = vae.split(model, test, 100, generator=torch.Generator().manual_seed(0))
            yield name, {"log_evidence": float(vae.exact(model, test, tolerance=1e-2).mean()),
                         "bound": float((reconstruction - rate).mean()), "rate": float(rate.mean())}


if __name__ == "__main__":
    store(PATH, (names, novel, beta, dimension, architecture, modes, league),
          "benchmarks/seeds/vae_practice.py", sys.argv[1:])
