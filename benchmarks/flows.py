"""Flows against zuko, normflows, nflows and FlowJAX, in one run, rounds taken in turns.

    pip install -r benchmarks/requirements.txt        # the peers, which the book itself does not need
    python benchmarks/flows.py                        # the race
    python benchmarks/flows.py --seeds                # planar layers against couplings over ten seeds

The race: two dimensions, batches of 4,096 in single precision, eight affine couplings with networks of two hidden layers of 64 (the
same in every library). What counts is steps a second of log_prob, of sampling with its log density, and of training (a gradient of the
average log density, and a step of Adam). Planar flows of 16 layers: a step on the reverse KL to a normal. Compilation is counted apart:
seconds until the first step is done.

Goals: training at least 1.25 times the best of zuko, normflows and nflows; planar flows at least 2 times normflows; the compiled path
ahead of FlowJAX.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GOALS = {"training against the best peer": 1.25, "planar against normflows": 2.0, "compiled against FlowJAX": 1.0}
BATCH, LAYERS, WIDTH, PLANAR = 4096, 8, 64, 16


def adam(parameters, loss):
    """A training step: gradient of the loss, Adam."""
    import torch

    optimizer = torch.optim.Adam(list(parameters), lr=1e-3)

    def step():
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def still(action):
    import torch

    def run():
        with torch.no_grad():
            action()

    return run


def normal_energy(z):
    return 0.5 * z.square().sum(-1)


def ours(x, *, compile: bool) -> dict:
    import torch

    from tightbound import flows

    flow = flows.Flow(flows.Coupling(2, LAYERS, hidden=(WIDTH, WIDTH))).float()
    planar = flows.Flow(flows.Planar(2, PLANAR)).float()
    stream = torch.Generator().manual_seed(0)

    def train(parameters, loss, *inputs):
        return flows.training_step(list(parameters), loss, learning_rate=1e-3, compile=compile)

    def reverse(eps):
        z, log_q = planar(validate_args=False).push(eps)
        return (log_q + normal_energy(z)).mean()

    step = train(flow.parameters(), lambda x: -flow(validate_args=False).log_prob(x).mean())
    planar_step = train(planar.parameters(), reverse)
    score = flows.compiled(lambda x: flow(validate_args=False).log_prob(x)) if compile else flow(validate_args=False).log_prob
    push = flows.compiled(lambda e: flow(validate_args=False).push(e)) if compile else flow(validate_args=False).push
    return {"log_prob": still(lambda: score(x)), "sample": still(lambda: push(torch.randn(BATCH, 2, generator=stream))),
            "train": lambda: step(x), "planar": lambda: planar_step(torch.randn(BATCH, 2, generator=stream))}


def zuko(x) -> dict:
    import zuko

    flow = zuko.flows.RealNVP(2, transforms=LAYERS, hidden_features=(WIDTH, WIDTH)) if hasattr(zuko.flows, "RealNVP") else (
        zuko.flows.NICE(2, transforms=LAYERS, hidden_features=(WIDTH, WIDTH)))
    return {"log_prob": still(lambda: flow().log_prob(x)), "sample": still(lambda: flow().rsample_and_log_prob((BATCH,))),
            "train": adam(flow.parameters(), lambda: -flow().log_prob(x).mean())}


def normflows(x) -> dict:
    import normflows as nf

    layers = []
    for _ in range(LAYERS):
        layers += [nf.flows.AffineCouplingBlock(nf.nets.MLP([1, WIDTH, WIDTH, 2])), nf.flows.Permute(2, mode="swap")]
    flow = nf.NormalizingFlow(nf.distributions.DiagGaussian(2, trainable=False), layers)
    planar = nf.NormalizingFlow(nf.distributions.DiagGaussian(2, trainable=False),
                                [nf.flows.Planar((2,), act="tanh") for _ in range(PLANAR)])

    def reverse():
        z, log_q = planar.q0(BATCH)
        for layer in planar.flows:
            z, ladj = layer(z)
            log_q = log_q - ladj
        return (log_q + normal_energy(z)).mean()

    return {"log_prob": still(lambda: flow.log_prob(x)), "sample": still(lambda: flow.sample(BATCH)),
            "train": adam(flow.parameters(), lambda: flow.forward_kld(x)), "planar": adam(planar.parameters(), reverse)}


def nflows(x) -> dict:
    import nflows.distributions
    import nflows.flows
    import nflows.transforms
    from torch import nn

    class Net(nn.Sequential):
        def __init__(self, inputs, outputs):
            super().__init__(nn.Linear(inputs, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, outputs))

        def forward(self, inputs, context=None):
            return super().forward(inputs)

    couplings = [nflows.transforms.AffineCouplingTransform([k % 2, 1 - k % 2], Net) for k in range(LAYERS)]
    flow = nflows.flows.Flow(nflows.transforms.CompositeTransform(couplings), nflows.distributions.StandardNormal([2]))
    return {"log_prob": still(lambda: flow.log_prob(x)), "sample": still(lambda: flow.sample_and_log_prob(BATCH)),
            "train": adam(flow.parameters(), lambda: -flow.log_prob(x).mean())}


def flowjax(x) -> dict:
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import jax.random as jr
    import optax
    from flowjax.bijections import Affine
    from flowjax.distributions import Normal
    from flowjax.flows import coupling_flow, planar_flow
    from paramax import NonTrainable, unwrap

    data = jnp.asarray(x.numpy())
    flow = coupling_flow(jr.key(0), base_dist=Normal(jnp.zeros(2)), transformer=Affine(), flow_layers=LAYERS, nn_width=WIDTH,
                         nn_depth=2, invert=True)
    planar = planar_flow(jr.key(0), base_dist=Normal(jnp.zeros(2)), flow_layers=PLANAR, invert=False)
    optimizer = optax.adam(1e-3)

    def partition(tree):
        return eqx.partition(tree, eqx.is_inexact_array, is_leaf=lambda leaf: isinstance(leaf, NonTrainable))

    def trainer(tree, loss):
        params, static = partition(tree)
        state = {"params": params, "opt": optimizer.init(params), "key": jr.key(1)}

        @jax.jit
        def update(params, opt, key):
            value, gradient = jax.value_and_grad(lambda params: loss(unwrap(eqx.combine(params, static)), key))(params)
            updates, opt = optimizer.update(gradient, opt, params)
            return eqx.apply_updates(params, updates), opt, value

        def step():
            state["key"], key = jr.split(state["key"])
            state["params"], state["opt"], value = update(state["params"], state["opt"], key)
            value.block_until_ready()

        return step

    def reverse(flow, key):
        z, log_q = flow.sample_and_log_prob(key, (BATCH,))
        return (log_q + 0.5 * (z**2).sum(-1)).mean()

    params, static = partition(flow)
    score = jax.jit(lambda params, batch: unwrap(eqx.combine(params, static)).log_prob(batch))
    draw = jax.jit(lambda params, key: unwrap(eqx.combine(params, static)).sample_and_log_prob(key, (BATCH,)))
    keys = iter(jr.split(jr.key(2), 1_000_000))
    return {"log_prob": lambda: score(params, data).block_until_ready(), "sample": lambda: draw(params, next(keys))[1].block_until_ready(),
            "train": trainer(flow, lambda flow, key: -flow.log_prob(data).mean()), "planar": trainer(planar, reverse)}


def race(rounds: int, seconds: float, threads: int) -> list[dict]:
    import torch

    torch.set_num_threads(threads)
    x = torch.randn(BATCH, 2, generator=torch.Generator().manual_seed(0))
    contestants = {"ours": lambda: ours(x, compile=False), "ours, compiled": lambda: ours(x, compile=True),
                   "zuko": lambda: zuko(x), "normflows": lambda: normflows(x), "nflows": lambda: nflows(x), "FlowJAX": lambda: flowjax(x)}
    made, first, rates = {}, {}, {}
    for name, make in contestants.items():
        began = time.perf_counter()
        made[name] = make()
        for task, action in made[name].items():
            began = time.perf_counter()
            action()
            first[name, task] = time.perf_counter() - began
            action()
    for _ in range(rounds):
        for name, tasks in made.items():
            for task, action in tasks.items():
                began, steps = time.perf_counter(), 0
                while time.perf_counter() - began < seconds:
                    action()
                    steps += 1
                rates.setdefault((name, task), []).append(steps / (time.perf_counter() - began))
    return [{"library": name, "task": task, "per_second": statistics.median(found), "best": max(found), "first_seconds": first[name, task]}
            for (name, task), found in rates.items()]


def seeds() -> dict:
    """KL of eight-dimensional parabolas after 500 steps, over ten seeds."""
    import math

    from tightbound import Problem, flows

    def log_joint(z):
        a, b = z[..., 0::2], z[..., 1::2]
        return -0.5 * (a**2 + ((b - a**2 + 1) / 0.5) ** 2).sum(-1) - 4 * math.log(math.pi)

    problem = Problem(log_joint, 8, name="4 parabolas", log_evidence=0.0)
    found = {"32 planar": [], "4 couplings": []}
    for seed in range(10):
        found["32 planar"].append(flows.approximate(problem, "planar", num_layers=32, learning_rate=0.02, num_steps=500, batch_size=128,
                                                    seed=seed).gap(problem))
        found["4 couplings"].append(flows.approximate(problem, "affine", num_layers=4, hidden=(32,), num_steps=500, batch_size=128,
                                                      seed=seed).gap(problem))
    for name, gaps in found.items():
        print(f"{name}: KL {statistics.mean(gaps):.3f} ± {statistics.stdev(gaps) / 10**0.5:.3f} nats, from {min(gaps):.3f} to {max(gaps):.3f}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each task in each round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", action="store_true", help="ten seeds of planar layers and couplings, in place of the race")
    options = parser.parse_args()
    if options.seeds:
        seeds()
        return
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1" if options.threads == 1 else "")
    warnings.simplefilter("ignore")
    rows = race(options.rounds, options.seconds, options.threads)
    rate = {(row["library"], row["task"]): row["per_second"] for row in rows}
    print(f"steps a second, medians of {options.rounds} rounds, {options.threads} thread(s); in brackets seconds to the first")
    for row in rows:
        print(f"{row['library']:15s} {row['task']:9s} {row['per_second']:8.1f}  ({row['first_seconds']:.1f})")
    reached = {"training against the best peer": rate["ours", "train"] / max(rate[peer, "train"] for peer in ("zuko", "normflows", "nflows")),
               "planar against normflows": rate["ours", "planar"] / rate["normflows", "planar"],
               "compiled against FlowJAX": rate["ours, compiled", "train"] / rate["FlowJAX", "train"]}
    for name, value in reached.items():
        print(f"{name}: {value:.2f}, goal {GOALS[name]}. {'Reached.' if value >= GOALS[name] else 'MISSED.'}")
    target = ROOT / "_build" / "benchmarks" / "flows.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_suffix(".new")
    fresh.write_text(json.dumps({"goals": GOALS, "reached": reached, "threads": options.threads, "rows": rows, "load": os.getloadavg()}, indent=1))
    fresh.replace(target)


if __name__ == "__main__":
    main()
