"""log p(x) of images under a VAE by importance sampling, 5,000 samples an image: ours beside Pyro, NumPyro and JAX by hand.

    python benchmarks/iwae.py

The network is 784-400-200-20-200-400-784, tanh, in single precision, trained for one pass through 10,000 of MNIST's images in black
and white. All have its weights and the same test images, and draw from its encoder.
"""

from __future__ import annotations

import math

import race

options = race.arguments(__doc__, rounds=3).parse_args()
race.alone(options.threads)

import numpy as np  # noqa: E402
import torch  # noqa: E402

from tightbound import training, vae  # noqa: E402
from tightbound.data import mnist  # noqa: E402

torch.set_num_threads(options.threads)
IMAGES, SAMPLES, DIM = (3, 500, 20) if options.trial else (24, 5_000, 20)


def network() -> tuple[vae.VAE, torch.Tensor]:
    torch.manual_seed(0)
    model = vae.make(784, DIM, hidden=(400, 200))
    learn = (mnist("train").images[: 1_000 if options.trial else 10_000] > 0.5).float()
    training.fit(model, learn, vae.elbo, num_epochs=1, batch_size=100, seed=0)
    return vae.frozen(model), (mnist("test").images[:IMAGES] > 0.5).float()


MODEL, X = network()


def told(log_weights) -> tuple[float, float]:
    """The mean of log p(x) over the images, and its error, from log weights (images, samples)."""
    log_weights = torch.tensor(np.asarray(log_weights), dtype=torch.float64)
    first, second = log_weights.logsumexp(-1), (2 * log_weights).logsumexp(-1)
    variance = torch.exp(second - 2 * first) - 1 / SAMPLES
    return float((first - math.log(SAMPLES)).mean()), float(variance.sum().sqrt()) / len(X)


def by_us(seed):
    found = vae.importance_sampled(MODEL, X, SAMPLES, seed=seed)
    return float(found.log_evidence.mean()), float(found.standard_error.square().sum().sqrt()) / len(X)


def by_pyro():
    """Weights of all samples at once, an image at a time, for they are summed over a plate of images."""
    import pyro
    import pyro.distributions as dist
    from pyro.infer.importance import vectorized_importance_weights

    pyro.enable_validation(False)

    def model(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(DIM), 1.0).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=MODEL.decoder(z)).to_event(1), obs=x)

    def guide(x):
        mean, log_scale = MODEL.encoder.head(MODEL.encoder.network(x)).chunk(2, -1)
        pyro.sample("z", dist.Normal(mean, log_scale.exp()).to_event(1))

    def run(seed):
        pyro.set_rng_seed(seed)
        with torch.no_grad():
            weights = [vectorized_importance_weights(model, guide, x, num_samples=SAMPLES, max_plate_nesting=0)[0] for x in X]
        return told(torch.stack(weights))

    return run


def layers(*networks) -> list:
    """Weights and biases for JAX."""
    import jax.numpy as jnp

    return [(jnp.asarray(layer.weight.detach().numpy().T), jnp.asarray(layer.bias.detach().numpy()))
            for layer in networks if isinstance(layer, torch.nn.Linear)]


def mlp(weights, h):
    import jax.numpy as jnp

    for W, b in weights[:-1]:
        h = jnp.tanh(h @ W + b)
    return h @ weights[-1][0] + weights[-1][1]


def by_jax():
    """An image at a time, as a compiled map."""
    import jax
    import jax.numpy as jnp

    encoder, decoder, x = layers(*MODEL.encoder.network, MODEL.encoder.head), layers(*MODEL.decoder), jnp.asarray(X.numpy())

    def one(key, x):
        mean, log_scale = jnp.split(mlp(encoder, x), 2)
        eps = jax.random.normal(key, (SAMPLES, DIM))
        z = mean + jnp.exp(log_scale) * eps
        logits = mlp(decoder, z)
        log_likelihood = logits @ x - jax.nn.softplus(logits).sum(-1)
        return log_likelihood - 0.5 * (z**2).sum(-1) + 0.5 * (eps**2).sum(-1) + log_scale.sum()

    images = jax.jit(lambda keys: jax.lax.map(lambda pair: one(*pair), (keys, x)))
    return lambda seed: told(images(jax.random.split(jax.random.key(seed), len(X))))


def by_numpyro():
    """Its own importance-weighted bound: Rényi's with alpha = 0, an image at a time. It tells no error: that of ours stands in."""
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer import RenyiELBO

    encoder, decoder, images = layers(*MODEL.encoder.network, MODEL.encoder.head), layers(*MODEL.decoder), jnp.asarray(X.numpy())

    def model(x):
        z = numpyro.sample("z", dist.Normal(jnp.zeros(DIM), 1.0).to_event(1))
        numpyro.sample("x", dist.Bernoulli(logits=mlp(decoder, z)).to_event(1), obs=x)

    def guide(x):
        mean, log_scale = jnp.split(mlp(encoder, x), 2)
        numpyro.sample("z", dist.Normal(mean, jnp.exp(log_scale)).to_event(1))

    bound = RenyiELBO(alpha=0, num_particles=SAMPLES)
    run = jax.jit(lambda keys: jax.lax.map(lambda pair: -bound.loss(pair[0], {}, model, guide, pair[1]), (keys, images)))
    error = by_us(0)[1]
    return lambda seed: (float(run(jax.random.split(jax.random.key(seed), len(X))).mean()), error)


def main() -> None:
    with race.running(race.Race(
            "iwae", "log p(x) of images", f"How long does log p(x) of an image take by importance sampling with {SAMPLES:,} samples?",
            "the same weights, images, proposals and number of samples, in single precision; the means of log p(x) agree within their "
            "Monte Carlo errors. Ours gives the effective sample size and k-hat of every image as well.",
            threads=options.threads, trial=options.trial, packages=("pyro-ppl", "numpyro", "jax"))) as here:
        contenders = {"tightbound": by_us}
        contenders |= {"Pyro": by_pyro()} if here.has("pyro") else {}
        contenders |= {"NumPyro": by_numpyro()} if here.has("numpyro") else {}
        contenders |= {"JAX by hand": by_jax()} if here.has("jax") else {}
        heat = f"{SAMPLES:,} samples an image"
        here.heat(heat, contenders, rounds=options.rounds, unit="images a second", amount=len(X), within=0.0)
        for peer in ("Pyro", "NumPyro"):
            here.ratio(heat, "tightbound", peer, goal=1.0)
        here.ratio(heat, "tightbound", "JAX by hand")


main()
