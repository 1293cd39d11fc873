"""How fast is coordinate ascent? A mixture and a topic model, beside scikit-learn's, from the same start.

    python benchmarks/mean_field.py [--threads 1]

Mixture: n = 100,000, d = 8, K = 16; iterations a second (the time of 21 iterations less that of one, over
20), and how far the means are apart in the end. Topics: 2,000 documents of 1,000 words, K = 20; seconds for
the same number of iterations, and the bound a word that each ends with, computed by one function for both.
Both sides have the same cores: the BLAS of each takes `--threads` threads, and LatentDirichletAllocation as
many processes. Rounds alternate, and medians are given.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[1]
THREADS = next((a.split("=")[-1] if "=" in a else sys.argv[i + 1] for i,
                a in enumerate(sys.argv) if a.startswith("--threads")), "1")
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = THREADS  # before NumPy and torch look

import numpy as np  # noqa: E402
import torch  # noqa: E402
from sklearn.decomposition import LatentDirichletAllocation  # noqa: E402
from sklearn.mixture import BayesianGaussianMixture  # noqa: E402

from tightbound import mean_field  # noqa: E402

GOALS = {"mixture": 8.0, "topics": 1.5}  # times faster than scikit-learn, at least


class Started(BayesianGaussianMixture):
    """scikit-learn's mixture, from given responsibilities."""

    responsibilities = None

    def _initialize_parameters(self, X, random_state, xp=None):
        self._initialize(X, self.responsibilities)


def clock(run) -> tuple[float, object]:
    begin = time.perf_counter()
    result = run()
    return time.perf_counter() - begin, result


def mixture(rounds: int, n: int = 100_000, d: int = 8, K: int = 16, steps: int = 20) -> dict:
    rng = np.random.default_rng(0)
    centres = rng.normal(scale=2.0, size=(K, d))
    X = centres[rng.integers(K, size=n)] + rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) * 0.4
    rough = ((X[:, None, :4] - centres[None, :, :4] - 0.5) ** 2).sum(-1).argmin(1)  # by four of eight columns
    start = np.eye(K)[rough]
    x, labels = torch.tensor(X), torch.tensor(start)
    prior = mean_field.MixturePrior.from_data(x, K)

    def ours(iterations):
        return mean_field.fit_mixture(x, K, prior=prior, start=labels, num_iterations=iterations,
                                      tolerance=-np.inf)

    def theirs(iterations):
        model = Started(n_components=K, covariance_type="full", max_iter=iterations, tol=0.0, reg_covar=0.0,
                        weight_concentration_prior_type="dirichlet_distribution",
                        weight_concentration_prior=prior.concentration,
                        mean_precision_prior=prior.mean_precision, mean_prior=prior.mean.numpy(),
                        degrees_of_freedom_prior=prior.degrees, covariance_prior=prior.inverse_scale.numpy())
        model.responsibilities = start
        return model.fit(X)

    seconds, last = {ours: [], theirs: []}, {}
    ours(1), theirs(1)  # once, to warm up
    for _ in range(rounds):
        for run in seconds:
            one, _ = clock(lambda: run(1))
            many, found = clock(lambda: run(steps + 1))
            seconds[run].append((many - one) / steps)
            last[run] = found
    apart = float((last[ours].means - torch.tensor(last[theirs].means_)).abs().max())
    mine, other = (statistics.median(seconds[run]) for run in (ours, theirs))
    return {"what": "mixture", "ours_per_second": 1 / mine, "sklearn_per_second": 1 / other,
            "times_faster": other / mine,
            "means_apart": apart, "iterations": steps + 1,
            "reached": bool(other / mine >= GOALS["mixture"] and apart < 1e-9)}


def topics(rounds: int, documents: int = 2_000, length: int = 1_000, K: int = 20, V: int = 1_000,
           steps: int = 20) -> dict:
    rng = np.random.default_rng(0)
    shares, words = rng.dirichlet(np.full(K, 0.1), documents), rng.dirichlet(np.full(V, 0.05), K)
    C = np.stack([rng.multinomial(length, p) for p in shares @ words]).astype(float)
    counts, start = torch.tensor(C), 1 + C[:K]

    def ours():
        return mean_field.fit_topics(counts, K, start=torch.tensor(start), num_iterations=steps,
                                     tolerance=-np.inf).words

    class Begun(LatentDirichletAllocation):
        """scikit-learn's topics, from the same parameters."""

        def _init_latent_vars(self, n_features, dtype=np.float64):
            super()._init_latent_vars(n_features, dtype)
            self.components_ = start.copy()
            log = torch.digamma(torch.tensor(start)) - torch.digamma(torch.tensor(start).sum(1, keepdim=True))
            self.exp_dirichlet_component_ = np.exp(log.numpy())

    def theirs():
        model = Begun(n_components=K, max_iter=steps, learning_method="batch", doc_topic_prior=0.1,
                      topic_word_prior=0.05,
                      evaluate_every=-1, random_state=0, n_jobs=int(THREADS))
        return torch.tensor(model.fit(C).components_)

    seconds, last = {ours: [], theirs: []}, {}
    for _ in range(rounds):
        for run in seconds:
            spent, found = clock(run)
            seconds[run].append(spent)
            last[run] = found
    bounds = {run: mean_field.topic_bound(counts, last[run]) / C.sum() for run in last}
    mine, other = (statistics.median(seconds[run]) for run in (ours, theirs))
    return {"what": "topics", "ours_seconds": mine, "sklearn_seconds": other, "times_faster": other / mine,
            "iterations": steps,
            "ours_nats_a_word": bounds[ours], "sklearn_nats_a_word": bounds[theirs],
            "reached": bool(other / mine >= GOALS["topics"] and bounds[ours] > bounds[theirs] - 1e-3)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Mean field beside scikit-learn.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")  # neither is let run until it converges
    rows = [mixture(options.rounds), topics(options.rounds)]
    one, two = rows
    print(f"{options.threads} thread(s) each, medians of {options.rounds} rounds")
    print(f"mixture: {one['ours_per_second']:.1f} iterations a second, scikit-learn {one['sklearn_per_second']:.1f}: "
          f"{one['times_faster']:.1f} times faster; means {one['means_apart']:.1e} apart after {one['iterations']} iterations")
    print(f"topics:  {two['ours_seconds']:.1f} s for {two['iterations']} iterations, scikit-learn {two['sklearn_seconds']:.1f} s: "
          f"{two['times_faster']:.1f} times faster; {two['ours_nats_a_word']:.4f} and {two['sklearn_nats_a_word']:.4f} nats a word")
    for row in rows:
        print(f"Goal for the {row['what']}: at least {GOALS[row['what']]} times faster. {'Reached.' if row['reached'] else 'MISSED.'}")
    target = ROOT / "_build" / "benchmarks" / "mean_field.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_suffix(".new")
    fresh.write_text(json.dumps({"goals": GOALS, "threads": options.threads, "rows": rows,
                                 "load": os.getloadavg()}, indent=1))
    fresh.replace(target)


if __name__ == "__main__":
    main()
