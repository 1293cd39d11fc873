"""What the package does with tensors on a GPU, piece by piece: on a card where there is one, else on a pretended one.

    python tests/on_a_card.py            # prints, as JSON, what became of each piece: nothing, or where it failed
"""

from __future__ import annotations

import json
import sys
import traceback
from functools import partial

import card
import torch

if not torch.cuda.is_available():
    card.insert()

from tightbound import (Problem, divergences, em, exact, flows, gradients, importance, iterative as it, laplace, league, mean_field,  # noqa: E402
                        perturbation, problems, questions, svi, training, vae, vae_practice as vp)

GPU = torch.device("cuda")
PROBLEMS = {"eight schools": lambda: problems.eight_schools(device=GPU),
            "eight schools in ten": lambda: problems.eight_schools("non-centred", device=GPU),
            "logistic regression": lambda: problems.logistic_regression(device=GPU),
            "linear regression": lambda: problems.linear_regression(device=GPU)}
METHODS = {"laplace": laplace.approximate, "importance": partial(importance.approximate, num_samples=2_000),
           "resampled": lambda p: importance.resample(*drawn(p), 50),
           "questions": partial(questions.approximate, num_points=15),
           "mean_field": partial(mean_field.approximate, num_points=101), "em": em.approximate,
           "perturbation": perturbation.approximate, "divergences": partial(divergences.approximate, num_starts=1),
           "svi": partial(svi.approximate, num_steps=200), "svi diagonal": partial(svi.approximate, num_steps=200, family="diagonal"),
           "svi low rank": partial(svi.approximate, num_steps=200, family="low rank"),
           "gradients": partial(gradients.approximate, num_steps=40),
           **{f"flow {kind}": partial(flows.approximate, flow=kind, num_steps=20, batch_size=32, num_samples=500)
              for kind in ("affine", "planar", "iaf", "maf")}}
GRIDS = {"questions", "mean_field"}  # for few latents


def drawn(problem):
    q = laplace.approximate(problem).q
    z, log_q = q.rsample_and_log_prob((200,), generator=torch.Generator(GPU).manual_seed(0))
    return z, problem.log_joint(z) - log_q


def black(n: int = 40, d: int = 16) -> torch.Tensor:
    return (torch.rand(n, d, generator=torch.Generator().manual_seed(0)) < 0.3).float().to(GPU)


def made(**options):
    return vae.make(16, 2, hidden=(8,), **options).to(GPU)


def trained(model, objective=vae.elbo, **options):
    bounds = training.fit(model, black(), objective, num_epochs=2, batch_size=16, **options)
    assert bounds.device.type == "cuda" and bool(torch.isfinite(bounds).all())


def inferred(**options):
    model = made()
    found = it.Inference(model, **options).to(GPU)
    trained(found, it.unrolled)


def normals(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(GPU)


def flow_posterior():
    model = made()
    bijection = flows.Planar(2, 3, context_dim=8)
    model.encoder = flows.FlowEncoder(model.encoder.network, 8, bijection).to(GPU)
    trained(model)
    vae.importance_sampled(model, black(), 30)


def belief_net():
    from tightbound.gradients import BeliefNet
    net = BeliefNet(16, 4).to(GPU)
    gradients.climb(lambda: net.objective(black().double()), net.parameters(), gradients.leave_one_out, num_samples=3, num_steps=3, step_size=0.01,
                    seed=torch.Generator(GPU).manual_seed(0))


def topics():
    counts = torch.randint(0, 4, (30, 12), generator=torch.Generator().manual_seed(0)).double().to(GPU)
    mean_field.fit_topics(counts, 3), svi.fit_topics(counts, 3)


def mixtures():
    x = torch.randn(60, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(GPU)
    em.fit_mixture(x, 2), mean_field.fit_mixture(x, 2)


PIECES = {f"{method} on {problem}": (lambda make=make, run=run: run(make()))
          for problem, make in PROBLEMS.items() for method, run in METHODS.items()
          if not (method in GRIDS and problem not in ("eight schools", "logistic regression"))} | {
    **{f"{name} in a box": lambda run=run: run(Problem(lambda z: -(z - 0.4).square().sum(-1), 2, box=((0.0, 1.0), (0.0, 1.0)), device=GPU))
       for name, run in {"starts": lambda p: p.points(5, seed=torch.Generator(GPU).manual_seed(0)), "flow": METHODS["flow affine"],
                         "laplace": laplace.approximate}.items()},
    "annealed importance": lambda: importance.anneal(PROBLEMS["logistic regression"](), num_samples=50, num_temperatures=5),
    "own proposal": lambda: importance.approximate(PROBLEMS["eight schools"](), num_samples=500,
                                                   proposal=laplace.approximate(PROBLEMS["eight schools"]()).q),
    "Gibbs": lambda: importance.gibbs(problems.gaussian_mixture(device=GPU), num_sweeps=20, num_chains=2),
    **{f"divergence {alpha}": lambda alpha=alpha: divergences.approximate(PROBLEMS["eight schools"](), divergence=alpha, num_starts=1,
                                                                         max_iterations=20) for alpha in ("forward KL", 0.5)},
    "EP": lambda: (lambda X: divergences.expectation_propagation(X, (X[:, 0] > 0).double()))(normals(30, 2)),
    "a mixture of normals": lambda: divergences.approximate(PROBLEMS["eight schools"](), family="mixture", num_starts=1, max_iterations=20),
    "svi: natural gradients": lambda: svi.approximate(PROBLEMS["eight schools"](), search="natural", num_steps=200),
    "svi: replicates": lambda: svi.approximate(PROBLEMS["eight schools"](), replicates=3, num_steps=200),
    "svi: minibatches": lambda: svi.approximate(PROBLEMS["logistic regression"](), batch_size=20, num_steps=200),
    "evidence by quadrature": lambda: exact.quadrature(PROBLEMS["eight schools"]()),
    "softmax regression": lambda: laplace.SoftmaxRegression(normals(30, 3), torch.arange(30, device=GPU) % 3, 3).expansion(),
    "factors": lambda: (lambda x: (em.factor_m_step(x, *em.factor_e_step(x, normals(4, 2), 0.5)), em.linear_autoencoder(x, 2, num_steps=3)))(
        normals(30, 4) - normals(30, 4).mean(0)),
    **{f"likelihood {word}": lambda word=word: trained(made(likelihood=word)) for word in ("gaussian", vae.Categorical(2), "discretised logistic")},
    **{f"posterior {word}": lambda word=word: trained(made(posterior=word)) for word in ("full", "low rank", "piecewise")},
    "flow posterior": flow_posterior, "belief net": belief_net,
    "defended evidence": lambda: vp.defended_log_evidence(made(), black()),
    "sentences": lambda: (lambda x, model: training.fit(model, x, vp.Objective(), num_epochs=1))(
        it.sequences(40)[0].to(GPU), vp.SentenceVAE(20, 2, width=8, embedding=4).to(GPU)),
    "mean of posteriors": lambda: it.posterior_mean(it.sentence_vae()[0].to(GPU), it.sequences(20)[0].to(GPU)),
    "GAN": lambda: vp.fit_gan(vp.two_modes(50).to(GPU), num_steps=3),
    "schools, amortised": lambda: training.fit(it.Inference(it.Schools().to(GPU), it.Learned(2), num_steps=2).to(GPU),
                                               it.Schools().simulate(40).to(GPU), it.unrolled, num_epochs=1),
    **{f"{name} flow": lambda name=name: flows.make(name, 2, num_layers=2).to(GPU)().sample((5,)) for name in flows.KINDS},
    "league": lambda: str(league([PROBLEMS["eight schools"]()], [laplace, importance])),
    "enumeration": lambda: problems.gaussian_mixture(device=GPU).log_evidence,
    "topics": topics, "mixtures": mixtures,
    "VAE": lambda: trained(made()), "IWAE": lambda: trained(made(), lambda m, x, *, generator: vae.iwae_bound(m, x, 3, generator=generator)),
    "two layers": lambda: trained(vae.make(16, (4, 2), hidden=((8,), (6,))).to(GPU)),
    "drawn black and white": lambda: trained(made(), prepare=training.binarise),
    "early stopping": lambda: trained(made(), stop=training.EarlyStopping(black(), prepare=training.binarise)),
    "evidence": lambda: vae.importance_sampled(made(), black(), 30).log_evidence,
    "annealed evidence": lambda: vae.annealed(made(), black(), 25, num_temperatures=5).log_evidence,
    "exact evidence": lambda: vae.exact(made(), black()), "active units": lambda: vae.active_units(made(), black()),
    "gaps": lambda: it.gaps(made(), black(), num_steps=4, num_samples=20, num_temperatures=4),
    "practice: objective": lambda: trained(made(), vp.Objective(warm_up=3)),
    "practice: surgery": lambda: vp.surgery(made(), black()),
    "practice: evidence on a grid": lambda: vp.grid_log_evidence(made(), black()),
    "inference from the prior": lambda: inferred(rule=it.Learned(2), num_steps=2),
    "inference that sees errors": lambda: inferred(rule=it.Learned(2, num_pixels=16, inputs="both"), num_steps=2),
    "inference by ascent": lambda: inferred(rule=it.Ascent(0.1, through=True), start="encoder", num_steps=2),
    "inference by Adam": lambda: it.optimise(made(), black(), torch.zeros(40, 2, 2, device=GPU), num_steps=3),
    "aggressive": lambda: (lambda made, slow: training.fit(made, it.sequences(40)[0].to(GPU), vp.Objective(), num_epochs=1, optimizer=it.aggressive(
        slow, inner=2, until=4)))(*[part.to(GPU) if hasattr(part, "to") else part for part in it.sentence_vae(seed=0)]),
    "density": lambda: flows.fit_density(black().double() + 0.1 * torch.randn(40, 16, dtype=torch.float64, device=GPU), "maf", num_layers=2,
                                         hidden=(8,), num_steps=5)}


def main(names: list[str]) -> dict[str, str]:
    found = {}
    for name in names or PIECES:
        try:
            PIECES[name]()
            found[name] = ""
        except Exception as problem:
            places = [f"{frame.filename.split('/src/')[-1]}:{frame.lineno}: {frame.line}" for frame in
                      traceback.extract_tb(problem.__traceback__) if "tightbound" in frame.filename or "tests/" in frame.filename]
            found[name] = "\n".join([*places[-9:], f"{type(problem).__name__}: {problem}"])
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
