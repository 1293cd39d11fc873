"""How fast does a VAE train? Our loop beside Pyro's and NumPyro's, on the same network, data and core.

    python benchmarks/vae.py [--threads 1] [--rounds 5]

The network of Pyro's and NumPyro's own examples, a little deeper: 784-400-200-20-200-400-784, tanh, batches of 128, Adam at
1e-3, on MNIST's 60,000 training images in black and white (threshold 1/2), from the same weights. A round is one pass through
the data; the contenders, each in a process of its own, take turns, so that whatever else the machine does meets all of them. A
first pass, in which code is compiled, is told apart. The bound at the end is that of the 10,000 test images, by one code for
all: their weights are put into our model.

All have the same number of threads, and are pinned to as many cores. The goals are judged by the processor's time, which other
people's work on the machine disturbs least.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
parser = argparse.ArgumentParser(description="Training a VAE: tightbound, Pyro and NumPyro.")
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--only", nargs="*", help="contenders to run; all if left out")
parser.add_argument("--contender", help=argparse.SUPPRESS)
options = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = str(options.threads)  # before torch and XLA look
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # no pool of compilers, which would be other processes' time
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=" + ("true" if options.threads > 1 else "false")
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-options.threads:])

import torch  # noqa: E402

from tightbound import training, vae  # noqa: E402
from tightbound.data import mnist  # noqa: E402

IMAGES, BATCH, RATE, HIDDEN, DIM = 60_000, 128, 1e-3, (400, 200), 20
GOALS = {"readable / Pyro": 1.4, "fast / NumPyro": 1.0}


def elbo(model, x, *, generator):
    """The bound with its divergence in closed form, as Pyro's TraceMeanField and the examples have it."""
    reconstruction, rate = vae.split(model, x, generator=generator)
    return reconstruction - rate


class Ours:
    """`training.fit`; before every pass through the data but the first, it asks whose turn it is."""

    def __init__(self, x: torch.Tensor, **how):
        self.model, self.x, self.how = vae.make(784, DIM, hidden=HIDDEN), x, how

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
        network = self.network = vae.make(784, DIM, hidden=HIDDEN)
        encoder, decoder = network.encoder, network.decoder

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
        for rows in torch.randperm(len(self.x)).split(BATCH):
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

        def network(layers):
            """The same network, with the weights that the others start with."""
            def copied(layer):
                W, b = jnp.asarray(layer.weight.detach().T.numpy()), jnp.asarray(layer.bias.detach().numpy())
                return stax.Dense(len(b), W_init=lambda *_: W, b_init=lambda *_: b)
            return stax.serial(*(copied(layer) if isinstance(layer, torch.nn.Linear) else stax.Tanh for layer in layers))

        start = vae.make(784, DIM, hidden=HIDDEN)
        encoder, decoder = network([*start.encoder.network, start.encoder.head]), network(start.decoder)

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

        self.jax, self.x = jax, jnp.asarray(x.numpy())
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

        model, values = vae.make(784, DIM, hidden=HIDDEN), self.svi.get_params(self.state)
        ours = {"encoder$params": [*model.encoder.network, model.encoder.head], "decoder$params": list(model.decoder)}
        with torch.no_grad():
            for name, layers in ours.items():
                theirs = [layer for layer in values[name] if len(layer)]
                for layer, (W, b) in zip([layer for layer in layers if isinstance(layer, torch.nn.Linear)], theirs):
                    layer.weight.copy_(torch.tensor(np.array(W)).T)
                    layer.bias.copy_(torch.tensor(np.array(b)))
        return model


CONTENDERS = {
    "readable loop": Ours,
    "bfloat16": lambda x: Ours(x, precision="bfloat16"),
    "compiled": lambda x: Ours(x, compiled=True),
    "compiled, bfloat16": lambda x: Ours(x, compiled=True, precision="bfloat16"),
    "Pyro": Pyro,
    "NumPyro, scan": NumPyro,
}


def contend(name: str) -> None:
    """A contender in a process of its own: a line on stdin is its turn, one on stdout its wall and processor time."""
    turns, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")  # ours alone: compilers are children, and have a voice
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    x, held_out = ((mnist(split).images > 0.5).float() for split in ("train", "test"))
    contender, clock = CONTENDERS[name](x), []

    def turn() -> None:
        if clock:
            print(json.dumps([time.perf_counter() - clock[0], time.process_time() - clock[1]]), file=answers, flush=True)
        turns.readline()
        clock[:] = time.perf_counter(), time.process_time()

    contender.run(turn)
    turn()
    with torch.no_grad():
        bound = torch.cat([elbo(contender.trained(), part, generator=torch.Generator().manual_seed(0))
                           for part in held_out.split(1000)])
    print(json.dumps([float(bound.mean()), float(bound.std() / len(bound) ** 0.5)]), file=answers, flush=True)


def main() -> None:
    names = options.only or list(CONTENDERS)
    command = [sys.executable, __file__, "--threads", str(options.threads), "--rounds", str(options.rounds), "--contender"]
    workers = {name: subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                      start_new_session=True)
               for name in names}

    def turn(name: str) -> list[float]:
        print(file=workers[name].stdin, flush=True)
        return json.loads(workers[name].stdout.readline())

    first = {name: turn(name) for name in names}
    times = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            times[name].append(turn(name))
    rows = {}
    print(f"{options.threads} thread(s), {options.rounds} rounds of {IMAGES:,} images. Images a second (median, best) and a second "
          "of processor time;\nseconds of the first pass, with what is compiled; the bound on the test images in nats.")
    for name in names:
        wall, processor = zip(*times[name])
        bound, error = turn(name)
        rows[name] = {"median": IMAGES / statistics.median(wall), "best": IMAGES / min(wall),
                      "processor": IMAGES / statistics.median(processor), "first": first[name][0], "bound": bound,
                      "standard_error": error}
        print(f"{name:20s} {rows[name]['median']:8,.0f} {rows[name]['best']:8,.0f} {rows[name]['processor']:8,.0f}"
              f" {first[name][0]:6.0f} s   {bound:.2f} ± {error:.2f}", flush=True)
    for worker in workers.values():
        worker.communicate()
    if options.only is None:
        ratios = {"readable / Pyro": rows["readable loop"]["processor"] / rows["Pyro"]["processor"]}
        fast = max(("bfloat16", "compiled", "compiled, bfloat16"), key=lambda name: rows[name]["processor"])
        ratios["fast / NumPyro"] = rows[fast]["processor"] / rows["NumPyro, scan"]["processor"]
        for name, goal in GOALS.items():
            print(f"Goal for {name}: at least {goal}. Seen: {ratios[name]:.2f}. {'Reached.' if ratios[name] >= goal else 'MISSED.'}")
        behind = rows["NumPyro, scan"]["bound"] - rows[fast]["bound"]
        print(f"The bound of the fast path ({fast}) is {-behind:+.2f} nats beside NumPyro's: "
              f"{'no worse.' if behind < 0.5 else 'WORSE.'}")
        target = ROOT / "_build" / "benchmarks" / "vae.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_suffix(".new")
        fresh.write_text(json.dumps({"goals": GOALS, "ratios": ratios, "threads": options.threads, "rows": rows,
                                     "load": os.getloadavg()}, indent=1))
        fresh.replace(target)


if __name__ == "__main__":
    contend(options.contender) if options.contender else main()
