"""Training a VAE: our loop beside Pyro's and NumPyro's, on the same network, data and core.

    python benchmarks/vae.py [--threads 1] [--rounds 5]
    python benchmarks/vae.py --device cuda               # the race vae_cuda: all of it on a GPU, by the wall's clock

The network of Pyro's and NumPyro's own examples, a little deeper: 784-400-200-20-200-400-784, tanh, batches of 128, Adam at
1e-3, on MNIST's 60,000 training images in black and white (threshold 1/2), from the same weights. A turn is one pass through
the data; the contenders, each in a process of its own, take turns. The bound at the end is that of the 10,000 test images, by one
code for all: their weights are put into our model. And how near this comes to what the processor, or the card, could do, by its
own best matrix product and its own best copy.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

import race

options = race.arguments(__doc__, rounds=5)
options.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where all of it runs (cpu)")
options.add_argument("--contender", help=argparse.SUPPRESS)
options = options.parse_args()
race.alone(options.threads, JAX_PLATFORMS=options.device, XLA_PYTHON_CLIENT_PREALLOCATE="false")  # a card is shared

import torch  # noqa: E402

from tightbound import training, vae  # noqa: E402
from tightbound.data import mnist  # noqa: E402

IMAGES, BATCH, RATE, HIDDEN, DIM = 2_560 if options.trial else 60_000, 128, 1e-3, (400, 200), 20
CUDA = options.device == "cuda"


def network() -> vae.VAE:
    """The one that all start with."""
    return vae.make(784, DIM, hidden=HIDDEN).to(options.device)


def clock() -> float:
    """Seconds of the processor; on a GPU of the wall, once all is done that was asked for."""
    if CUDA:
        torch.cuda.synchronize()
    return race.CLOCKS["wall" if CUDA else "processor"]()


def elbo(model, x, *, generator):
    """The bound with its divergence in closed form, as Pyro's TraceMeanField and the examples have it."""
    reconstruction, rate = vae.split(model, x, generator=generator)
    return reconstruction - rate


class Ours:
    """`training.fit`; before every pass through the data but the first, it asks whose turn it is."""

    def __init__(self, x: torch.Tensor, **how):
        self.model, self.x, self.how = network(), x, how

    def run(self, turn) -> None:
        training.fit(self.model, self.x, elbo, num_epochs=options.rounds + 1, batch_size=BATCH, seed=0,
                     learning_rate=lambda epoch: turn() or RATE, **self.how)

    def trained(self) -> vae.VAE:
        return self.model


class Epochs:
    """The peers: a pass through the data at a time."""

    def run(self, turn) -> None:
        for _ in range(options.rounds + 1):
            turn()
            self.epoch()


class Pyro(Epochs):
    """As in Pyro's tutorial on the VAE: SVI with a trace ELBO."""

    def __init__(self, x: torch.Tensor):
        import pyro
        import pyro.distributions as dist
        from pyro.infer import SVI, Trace_ELBO
        from pyro.optim import Adam

        pyro.clear_param_store()
        pyro.enable_validation(False)
        self.network = network()
        encoder, decoder = self.network.encoder, self.network.decoder

        def model(x):
            pyro.module("decoder", decoder)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), DIM), x.new_ones(len(x), DIM)).to_event(1))
                pyro.sample("x", dist.Bernoulli(logits=decoder(z), validate_args=False).to_event(1), obs=x)

        def guide(x):
            pyro.module("encoder", encoder)
            with pyro.plate("data", len(x)):
                mean, log_scale = encoder.head(encoder.network(x)).chunk(2, -1)
                pyro.sample("z", dist.Normal(mean, log_scale.exp()).to_event(1))

        self.x, self.svi = x, SVI(model, guide, Adam({"lr": RATE}), Trace_ELBO())

    def epoch(self) -> None:
        for rows in torch.randperm(len(self.x), device=self.x.device).split(BATCH):
            self.svi.step(self.x[rows])

    def trained(self) -> vae.VAE:
        return self.network


class NumPyro(Epochs):
    """As in NumPyro's example of the VAE: SVI, an epoch compiled as one scan over its batches."""

    def __init__(self, x: torch.Tensor):
        import jax
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist
        from jax import lax, random
        from jax.example_libraries import stax
        from numpyro.infer import SVI, Trace_ELBO

        def same(layers):
            """The same layers, with the weights that the others start with."""
            def copied(layer):
                W, b = (jnp.asarray(values.detach().cpu().numpy()) for values in (layer.weight.T, layer.bias))
                return stax.Dense(len(b), W_init=lambda *_: W, b_init=lambda *_: b)
            return stax.serial(*(copied(layer) if isinstance(layer, torch.nn.Linear) else stax.Tanh for layer in layers))

        start = network()
        encoder, decoder = same([*start.encoder.network, start.encoder.head]), same(start.decoder)

        def model(batch):
            decode = numpyro.module("decoder", decoder, (len(batch), DIM))
            with numpyro.plate("data", len(batch)):
                z = numpyro.sample("z", dist.Normal(0, 1).expand([DIM]).to_event(1))
                numpyro.sample("x", dist.Bernoulli(logits=decode(z)).to_event(1), obs=batch)

        def guide(batch):
            encode = numpyro.module("encoder", encoder, (len(batch), 784))
            mean, log_scale = jnp.split(encode(batch), 2, -1)
            with numpyro.plate("data", len(batch)):
                numpyro.sample("z", dist.Normal(mean, jnp.exp(log_scale)).to_event(1))

        self.jax, self.x = jax, jnp.asarray(x.cpu().numpy())
        self.svi = SVI(model, guide, numpyro.optim.Adam(RATE), Trace_ELBO())
        self.key, start = random.split(random.PRNGKey(0))
        self.state = self.svi.init(start, self.x[:BATCH])

        @jax.jit
        def epoch(state, key):
            order = random.permutation(key, len(self.x))[: len(self.x) // BATCH * BATCH].reshape(-1, BATCH)
            return lax.scan(lambda state, rows: self.svi.update(state, self.x[rows]), state, order)

        self._epoch = epoch

    def epoch(self) -> None:
        self.key, key = self.jax.random.split(self.key)
        self.state, losses = self._epoch(self.state, key)
        losses.block_until_ready()

    def trained(self) -> vae.VAE:
        import numpy as np

        model, values = network(), self.svi.get_params(self.state)
        ours = {"encoder$params": [*model.encoder.network, model.encoder.head], "decoder$params": list(model.decoder)}
        with torch.no_grad():
            for name, layers in ours.items():
                theirs = [layer for layer in values[name] if len(layer)]
                for layer, (W, b) in zip([layer for layer in layers if isinstance(layer, torch.nn.Linear)], theirs):
                    layer.weight.copy_(torch.tensor(np.array(W)).T)
                    layer.bias.copy_(torch.tensor(np.array(b)))
        return model


def limit(precision: str) -> float:
    """Images a second that no loop passes here whose products are in this precision: a step's products, at the rate of a large
    product, or its bytes, at the rate of a large copy, whichever take longer. Parameters are in single precision."""
    from torch.utils.flop_counter import FlopCounterMode

    def fastest(action, times: int = 1) -> float:
        laps = [clock()]
        for _ in range(10):
            for _ in range(times):
                action()
            laps.append(clock())
        return min(after - before for before, after in zip(laps, laps[1:])) / times

    size, many = (8192, 10) if CUDA else (1024, 1)
    a, b = torch.randn(2, size, size, device=options.device, dtype=torch.bfloat16 if precision == "bfloat16" else torch.float32)
    source, target = torch.randn(2, 2**28 if CUDA else 2**25, device=options.device)
    operations, bytes_ = 2 * size**3 / fastest(lambda: a @ b, many), 2 * source.nbytes / fastest(lambda: target.copy_(source), many)
    model, x = network(), torch.rand(BATCH, 784, device=options.device).round()
    with FlopCounterMode(display=False) as counter:
        elbo(model, x, generator=None).mean().backward()
    # Weights are read forwards and backwards, gradients written and read, and Adam reads and writes weights and two averages.
    moved = 10 * sum(p.nbytes for p in model.parameters()) + x.nbytes
    return BATCH / max(counter.get_total_flops() / operations, moved / bytes_)


CONTENDERS = {
    "readable loop": Ours,
    "bfloat16": lambda x: Ours(x, precision="bfloat16"),
    "compiled": lambda x: Ours(x, compiled=True),
    "compiled, bfloat16": lambda x: Ours(x, compiled=True, precision="bfloat16"),
    "Pyro": Pyro,
    "NumPyro, scan": NumPyro,
}


PEERS = {"Pyro": "pyro", "NumPyro, scan": "numpyro"}


def contend(name: str) -> None:
    """A contender in a process of its own: a line on stdin is its turn, one on stdout the seconds it worked; a last one the bound."""
    turns, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")  # ours alone: compilers are children, and have a voice
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    x, held_out = ((mnist(split).images > 0.5).float().to(options.device) for split in ("train", "test"))
    contender, began = CONTENDERS[name](x[:IMAGES]), []

    def turn() -> None:
        if began:
            print(clock() - began[0], file=answers, flush=True)
        turns.readline() or sys.exit()  # nobody asks any more
        began[:] = [clock()]

    contender.run(turn)
    turn()
    with torch.no_grad():
        stream = torch.Generator(options.device).manual_seed(0)
        bound = torch.cat([elbo(contender.trained(), part, generator=stream) for part in held_out.split(1000)])
    print(float(bound.mean()), file=answers, flush=True)


def jax_sees_a_gpu() -> bool:
    """Asked of a process of its own, for JAX takes hold of a card's memory."""
    return subprocess.run([sys.executable, "-c", "import jax; jax.devices('gpu')"], capture_output=True).returncode == 0


def main() -> None:
    if CUDA and not torch.cuda.is_available():
        sys.exit("This machine has no CUDA device that torch can use: leave --device out.")
    command = [sys.executable, __file__, "--threads", str(options.threads), "--rounds", str(options.rounds),
               "--device", options.device, *["--trial"] * options.trial, "--contender"]
    card = torch.cuda.get_device_name() if CUDA else ""
    with race.running(race.Race(
            "vae_cuda" if CUDA else "vae", f"Training a VAE on a GPU: {card}" if CUDA else "Training a VAE", f"How many images a second does a VAE learn from, in passes through {IMAGES:,} images?",
            "the same network, starting weights, data, batches and optimiser, and as many passes; afterwards the bounds of the same 10,000 "
            "test images, by one code for all, agree to 0.75 nats, for dropping digits (bfloat16) and shuffling otherwise change little.",
            clock="wall" if CUDA else "processor", threads=options.threads, trial=options.trial, packages=("pyro-ppl", "numpyro", "jax"))) as here:
        names = [name for name in CONTENDERS if name not in PEERS or here.has(PEERS[name])]
        if CUDA and "NumPyro, scan" in names and not jax_sees_a_gpu():
            names.remove("NumPyro, scan")
            print("  NumPyro is left out: its JAX is built for processors only")
        workers = {name: subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                          start_new_session=True) for name in names}

        def lap(worker):
            def say() -> float:
                print(file=worker.stdin, flush=True)
                return float(worker.stdout.readline() or sys.exit("A contender ended before its time: what it said stands above."))

            def turn(k: int):
                return say(), say() if k == options.rounds else None
            return turn

        try:
            heat = "learning"
            here.heat(heat, {name: lap(worker) for name, worker in workers.items()}, rounds=options.rounds,
                      unit="images a second", amount=IMAGES, laps=True, within=50 if options.trial else 0.75)
        finally:
            for worker in workers.values():
                worker.stdin.close()
                worker.terminate()
                worker.wait()
        here.ratio(heat, "readable loop", "Pyro", goal=1.4)
        fast = here.best(heat, *(name for name in names if name not in PEERS and name != "readable loop"))
        here.ratio(heat, fast, "NumPyro, scan", goal=1.0, name=f"{heat}: the fast path beside NumPyro, scan")
        for name in names:
            if name not in PEERS:
                here.ratio(heat, name, "NumPyro, scan")
        for precision, loop in (("single precision", "readable loop"), ("bfloat16", fast)):
            most = limit(precision)
            here.add(race.Row("the limit, by products and copies", precision, "images a second", [most]))
            here.score(f"{heat}: {loop} as a share of the limit in {precision}", here.row(heat, loop).median / most, "of it",
                       noise=0.15)


if __name__ == "__main__":
    contend(options.contender) if options.contender else main()
