"""Flows against zuko, normflows, nflows and FlowJAX.

    python benchmarks/flows.py                        # the race
    python benchmarks/flows.py --seeds                # planar layers against couplings over ten seeds

Two dimensions, batches of 4,096 in single precision, eight affine couplings with networks of two hidden layers of 64 (the same in
every library). What counts is steps a second of log_prob, of sampling with its log density, and of training (a gradient of the
average log density, and a step of Adam). Planar flows of 16 layers: a step on the reverse KL to a normal. After as many steps of
training, the average log density of the batch is every library's answer. Planar layers start too differently for that: there it is
the number of weights that are trained.
"""

from __future__ import annotations

import statistics
import warnings

import race

options = race.arguments(__doc__, rounds=5)
options.add_argument("--seeds", action="store_true", help="ten seeds of planar layers and couplings, in place of the race")
options = options.parse_args()
race.alone(options.threads)

BATCH, LAYERS, WIDTH, PLANAR, STEPS = 4096, 8, 64, 16, 2 if options.trial else 24
TASKS = {"log_prob": "log density of a batch", "sample": "a batch of samples, with log densities",
         "train": "a training step of couplings", "planar": "a training step of planar layers"}

SAME = "Most of such a step is matrix products, which all libraries leave to the same code."


def adam(parameters, loss):
    """A training step: gradient of the loss, Adam."""
    import torch

    optimizer = torch.optim.Adam(list(parameters), lr=1e-3)

    def step():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        return value

    return step


def count(module) -> int:
    return sum(weight.numel() for weight in module.parameters())


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
            "train": lambda: step(x), "planar": lambda: planar_step(torch.randn(BATCH, 2, generator=stream)),
            "weights": count(planar)}


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
            "train": adam(flow.parameters(), lambda: flow.forward_kld(x)), "planar": adam(planar.parameters(), reverse),
            "weights": count(planar)}


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
            return value.block_until_ready()

        return step

    def reverse(flow, key):
        z, log_q = flow.sample_and_log_prob(key, (BATCH,))
        return (log_q + 0.5 * (z**2).sum(-1)).mean()

    params, static = partition(flow)
    score = jax.jit(lambda params, batch: unwrap(eqx.combine(params, static)).log_prob(batch))
    draw = jax.jit(lambda params, key: unwrap(eqx.combine(params, static)).sample_and_log_prob(key, (BATCH,)))
    keys = iter(jr.split(jr.key(2), 1_000_000))
    return {"log_prob": lambda: score(params, data).block_until_ready(), "sample": lambda: draw(params, next(keys))[1].block_until_ready(),
            "train": trainer(flow, lambda flow, key: -flow.log_prob(data).mean()), "planar": trainer(planar, reverse),
            "weights": sum(leaf.size for leaf in jax.tree.leaves(partition(planar)[0]))}


def lap(tasks: dict, task: str):
    """A turn of `STEPS` actions, the first of a single one; the answer is minus the last loss, or the number of weights."""
    def run(k: int):
        for _ in range(STEPS if k else 1):
            found = tasks[task]()
        return {"train": lambda: -float(found), "planar": lambda: tasks["weights"]}.get(task, lambda: None)()
    return run


def main() -> None:
    import torch

    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    x = torch.randn(BATCH, 2, generator=torch.Generator().manual_seed(0))
    with race.running(race.Race(
            "flows", "Flows", "How fast are eight affine couplings, and sixteen planar layers, in two dimensions?",
            "couplings with networks of the same size, batches of 4,096 points, and Adam. After as many steps the average log density of "
            "the batch agrees to a fiftieth of a nat, though libraries parametrise the scale of a coupling, and start, in ways of their "
            "own. Planar layers start too differently for that; all train 80 weights, and FlowJAX the four of its base too.",
            threads=options.threads, trial=options.trial, packages=("zuko", "normflows", "nflows", "flowjax", "jax"))) as here:
        made = {"ours": ours(x, compile=False), "ours, compiled": ours(x, compile=True)}
        made |= {name: make(x) for name, make in {"zuko": zuko, "normflows": normflows, "nflows": nflows, "FlowJAX": flowjax}.items()
                 if here.has(name.lower())}
        for task, heat in TASKS.items():
            contenders = {name: lap(tasks, task) for name, tasks in made.items() if task in tasks}
            here.heat(heat, contenders, rounds=options.rounds, unit="a second", amount=STEPS,
                      within={"train": 1.0 if options.trial else 0.02, "planar": 4.0}.get(task),
                      answer_unit="weights" if task == "planar" else "nats")
            peers = [name for name in ("zuko", "normflows", "nflows") if name in contenders]
            here.ratio(heat, "ours", here.best(heat, *peers) if peers else "zuko",
                       goal={"train": 1.25, "planar": 2.0}.get(task), reason=SAME if task == "train" else "",
                       name=f"{heat}: ours beside the best of {', '.join(peers)}")
            here.ratio(heat, "ours, compiled", "FlowJAX", goal=1.0 if task == "train" else None)


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


if __name__ == "__main__":
    seeds() if options.seeds else main()
