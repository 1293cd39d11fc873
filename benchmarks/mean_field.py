"""Coordinate ascent of a mixture and of a topic model, beside scikit-learn's, from the same start.

    python benchmarks/mean_field.py [--threads 1]

Mixture: n = 100,000, d = 8, K = 16. A turn is a fit of one iteration and one of 21; twenty over the difference of their times are
the iterations a second. Topics: 2,000 documents of 1,000 words, K = 20; seconds for the same number of iterations, and the bound
a word that each ends with, computed by one function for both. Both sides have the same cores: the BLAS of each takes `--threads`
threads, and LatentDirichletAllocation as many processes.
"""

from __future__ import annotations

import warnings

import race

options = race.arguments(__doc__, rounds=3).parse_args()
race.alone(options.threads)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from sklearn.decomposition import LatentDirichletAllocation  # noqa: E402
from sklearn.mixture import BayesianGaussianMixture  # noqa: E402

from tightbound import mean_field  # noqa: E402

STEPS, SMALL = (3, 20) if options.trial else (20, 1)
CLOCK = "processor" if options.threads == 1 else "wall"  # scikit-learn's processes live on, so that their work is not told


class Started(BayesianGaussianMixture):
    """scikit-learn's mixture, from given responsibilities."""

    responsibilities = None

    def _initialize_parameters(self, X, random_state, xp=None):
        self._initialize(X, self.responsibilities)


def mixture(n: int = 100_000 // SMALL, d: int = 8, K: int = 16) -> dict:
    rng = np.random.default_rng(0)
    centres = rng.normal(scale=2.0, size=(K, d))
    X = centres[rng.integers(K, size=n)] + rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) * 0.4
    rough = ((X[:, None, :4] - centres[None, :, :4] - 0.5) ** 2).sum(-1).argmin(1)  # by four of eight columns
    start = np.eye(K)[rough]
    x, labels = torch.tensor(X), torch.tensor(start)
    prior = mean_field.MixturePrior.from_data(x, K)

    def ours(iterations):
        return mean_field.fit_mixture(x, K, prior=prior, start=labels, num_iterations=iterations, tolerance=-np.inf).means.numpy()

    def theirs(iterations):
        model = Started(n_components=K, covariance_type="full", max_iter=iterations, tol=0.0, reg_covar=0.0,
                        weight_concentration_prior_type="dirichlet_distribution",
                        weight_concentration_prior=prior.concentration,
                        mean_precision_prior=prior.mean_precision, mean_prior=prior.mean.numpy(),
                        degrees_of_freedom_prior=prior.degrees, covariance_prior=prior.inverse_scale.numpy())
        model.responsibilities = start
        return model.fit(X).means_

    found = {}

    def lap(run):
        """The seconds of `STEPS` iterations, and how far the means are from ours in the end."""
        def turn(_):
            begin = race.CLOCKS[CLOCK]()
            run(1)
            middle = race.CLOCKS[CLOCK]()
            found[run] = run(STEPS + 1)
            end = race.CLOCKS[CLOCK]()
            return (end - middle) - (middle - begin), np.abs(found[run] - found[ours]).max()
        return turn

    return {"tightbound": lap(ours), "scikit-learn": lap(theirs)}


def topics(documents: int = 2_000 // SMALL, length: int = 1_000, K: int = 20, V: int = 1_000) -> dict:
    rng = np.random.default_rng(0)
    shares, words = rng.dirichlet(np.full(K, 0.1), documents), rng.dirichlet(np.full(V, 0.05), K)
    C = np.stack([rng.multinomial(length, p) for p in shares @ words]).astype(float)
    counts, start = torch.tensor(C), 1 + C[:K]

    def ours():
        return mean_field.fit_topics(counts, K, start=torch.tensor(start), num_iterations=STEPS, tolerance=-np.inf).words

    class Begun(LatentDirichletAllocation):
        """scikit-learn's topics, from the same parameters."""

        def _init_latent_vars(self, n_features, dtype=np.float64):
            super()._init_latent_vars(n_features, dtype)
            self.components_ = start.copy()
            log = torch.digamma(torch.tensor(start)) - torch.digamma(torch.tensor(start).sum(1, keepdim=True))
            self.exp_dirichlet_component_ = np.exp(log.numpy())

    def theirs():
        model = Begun(n_components=K, max_iter=STEPS, learning_method="batch", doc_topic_prior=0.1, topic_word_prior=0.05,
                      evaluate_every=-1, random_state=0, n_jobs=options.threads)
        return torch.tensor(model.fit(C).components_)

    def lap(run):
        def turn(_):
            begin = race.CLOCKS[CLOCK]()
            found = run()
            seconds = race.CLOCKS[CLOCK]() - begin
            return seconds, mean_field.topic_bound(counts, found) / C.sum()
        return turn

    return {"tightbound": lap(ours), "scikit-learn": lap(theirs)}


def main() -> None:
    warnings.simplefilter("ignore")  # neither is let run until it converges
    with race.running(race.Race(
            "mean_field", "Coordinate ascent", "How fast is mean field, for a mixture of Gaussians and for topics of documents?",
            "the same model, prior, start and number of iterations. The means of the mixtures "
            "agree to 1e-9; the bounds of the topic models, computed by one function for both, to a thousandth of a nat a word.",
            clock=CLOCK, threads=options.threads, trial=options.trial, packages=("numpy", "scikit-learn"))) as here:
        heat = "mixture of 16, 100,000 points"
        here.heat(heat, mixture(), rounds=options.rounds, unit="iterations a second", amount=STEPS, within=1e-9,
                  answer_unit="from ours", laps=True)
        here.ratio(heat, "tightbound", "scikit-learn", goal=8.0)
        heat = "20 topics, 2,000 documents"
        here.heat(heat, topics(), rounds=options.rounds, within=1e-3, answer_unit="nats a word", laps=True, warm_up=False)
        here.ratio(heat, "tightbound", "scikit-learn", goal=1.5)


main()
