"""What a method returns, effective sample sizes, and the league."""

import math
from html.parser import HTMLParser
from types import ModuleType, SimpleNamespace

import pytest
import torch
from hypothesis import given, strategies as st

from tightbound import Approximation, Estimate, League, Problem, effective_sample_size, laplace, league
from tightbound.approximation import Row, log_mean_exp
from tightbound.distributions import Gaussian
from tightbound.problems import coin, heavy_tail


def gaussian(mean, scale, log_volume=0.0, name="normal"):
    """exp(log_volume) N(z; mean, scale^2) in one dimension."""
    def log_joint(z):
        return log_volume - 0.5 * ((z[..., 0] - mean) / scale) ** 2 - math.log(scale * math.sqrt(2 * math.pi))

    return Problem(log_joint, 1, name=name, log_evidence=log_volume)


def answer(mean=0.0, scale=1.0, log_evidence=0.0, **options):
    q = Gaussian(torch.tensor([mean], dtype=torch.float64), torch.tensor([[scale**2]], dtype=torch.float64))
    estimate = Estimate(log_evidence, options.pop("kind", "lower bound"), options.pop("standard_error", None))
    return Approximation(
        "test", q, estimate, torch.zeros(1), options.pop("evaluations", 1234), options.pop("seconds", 0.5)
    )


# Approximation


def test_the_gap_is_exact_minus_estimate():
    assert answer(log_evidence=-1.5).gap(gaussian(0, 1, log_volume=2.0)) == 3.5
    assert answer(log_evidence=3.0).gap(gaussian(0, 1, log_volume=2.0)) == -1.0


def test_there_is_no_gap_to_the_unknown():
    unknown = Problem(lambda z: -(z**2).sum(-1), 1, name="dark")
    with pytest.raises(ValueError, match="log evidence of 'dark' is unknown.*quadrature"):
        answer().gap(unknown)


def test_log_weights_of_the_posterior_are_all_the_log_evidence():
    log_weights = answer(3.0, 0.2).log_weights(gaussian(3.0, 0.2, log_volume=-7.0), 100)
    torch.testing.assert_close(log_weights, torch.full((100,), -7.0, dtype=torch.float64))


@pytest.mark.parametrize("seed", range(10))
def test_log_weights_estimate_the_bound_and_the_evidence(seed):
    """q = N(0, 1.5^2) for the posterior N(0.5, 1): KL(q || p) = 1.5^2/2 - 1/2 + 0.5^2/2 - log 1.5."""
    problem, num_samples = gaussian(0.5, 1.0, log_volume=2.0), 40_000
    log_weights = answer(0.0, 1.5).log_weights(problem, num_samples, seed=seed)
    kl = 0.5 * 1.5**2 - 0.5 + 0.5 * 0.5**2 - math.log(1.5)
    assert abs(float(log_weights.mean()) - (2.0 - kl)) < 4 * float(log_weights.std()) / math.sqrt(num_samples)
    weights = log_weights.exp()
    error = float(weights.std() / weights.mean()) / math.sqrt(num_samples)
    assert error < 0.01 and abs(float(log_mean_exp(log_weights)) - 2.0) < 4 * error


def test_log_weights_are_of_their_seed_and_cost_evaluations():
    problem = gaussian(0, 1)
    first = answer(scale=2.0).log_weights(problem, 50, seed=3)
    assert first.shape == (50,) and problem.evaluations == 50
    assert torch.equal(first, answer(scale=2.0).log_weights(problem, 50, seed=3))
    assert not torch.equal(first, answer(scale=2.0).log_weights(problem, 50, seed=4))
    stream = torch.Generator().manual_seed(3)
    assert torch.equal(first, answer(scale=2.0).log_weights(problem, 50, seed=stream))
    assert not torch.equal(first, answer(scale=2.0).log_weights(problem, 50, seed=stream))


@given(st.integers(max_value=0))
def test_no_samples_are_refused(num_samples):
    with pytest.raises(ValueError, match="num_samples must be at least 1"):
        answer().log_weights(gaussian(0, 1), num_samples)


def test_estimates_print_what_they_are():
    assert str(Estimate(-1.0, "lower bound", 0.01)) == "-1.0000 ± 0.0100 nats (lower bound)"
    assert float(Estimate(torch.tensor(2.5), "approximation")) == 2.5


# Effective sample size


@pytest.mark.parametrize("log_weights, expected", [
    ([0.0] * 8, 8.0), ([-1000.0] * 8, 8.0), ([1000.0, -math.inf, -math.inf], 1.0), ([5.0], 1.0),
    ([0.0, 0.0, -math.inf, -math.inf], 2.0), ([math.log(1), math.log(2), math.log(3)], 36 / 14)], ids=str)
def test_known_effective_sample_sizes(log_weights, expected):
    assert float(effective_sample_size(torch.tensor(log_weights, dtype=torch.float64))) == pytest.approx(
        expected, rel=1e-12
    )


@given(st.lists(st.floats(-700, 700), min_size=1, max_size=40), st.floats(-1e3, 1e3))
def test_an_effective_sample_size_lies_between_one_and_all_and_knows_no_scale(log_weights, shift):
    log_weights = torch.tensor(log_weights, dtype=torch.float64)
    size = float(effective_sample_size(log_weights))
    assert 1 - 1e-9 <= size <= len(log_weights) + 1e-9
    assert float(effective_sample_size(log_weights + shift)) == pytest.approx(size, rel=1e-8)


def test_effective_sample_sizes_come_in_batches():
    log_weights = torch.randn(4, 3, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = effective_sample_size(log_weights)
    assert found.shape == (4, 3)
    assert float(found[2, 1]) == pytest.approx(float(effective_sample_size(log_weights[2, 1])), rel=1e-12)


@pytest.mark.parametrize(
    "log_weights", [[0.0, math.nan], [math.nan, math.nan], [-math.inf, -math.inf], [math.inf, 0.0]], ids=str
)
def test_useless_weights_are_named(log_weights):
    with pytest.raises(ValueError, match="does q cover the support"):
        effective_sample_size(torch.tensor([[0.0, 0.0], log_weights]))


def test_log_mean_exp_neither_overflows_nor_underflows():
    assert float(log_mean_exp(torch.tensor([1e4, 1e4]))) == 1e4
    assert float(log_mean_exp(torch.tensor([-1e4, -1e4 + math.log(3)]).double())) == pytest.approx(
        -1e4 + math.log(2)
    )


# The league


class Refusal(RuntimeError):
    pass


def refuse(problem):
    raise Refusal("cannot")


def bound(problem):
    return answer(log_evidence=-7.5, standard_error=0.0123)


def test_the_league_as_text():
    table = league([coin(), gaussian(0, 1)], {"bound": bound, "shy": refuse})
    lines = str(table).splitlines()
    assert lines[0].split() == "problem method log evidence kind gap ± s.e. evaluations seconds".split()
    assert lines[1].split() == "coin (logit) bound -7.5000 lower bound +0.4306 0.0123 1,234 0.5".split()
    assert lines[2].split() == ["coin", "(logit)", "shy", "–", "refused", "–", "–", "–", "–"]
    assert lines[3].split()[:4] == ["normal", "bound", "-7.5000", "lower"] and "+7.5000" in lines[3]
    assert lines[5:] == ["shy refused coin (logit): Refusal: cannot", "shy refused normal: Refusal: cannot"]
    assert repr(table) == str(table)
    starts = [line.index("bound") for line in (lines[1], lines[3])]
    assert starts[0] == starts[1] == lines[0].index("method")


def test_the_league_runs_modules_and_functions_and_knows_their_names():
    table = league(heavy_tail(), [laplace, bound])
    assert [row.method for row in table.rows] == ["Laplace", "test"]
    row = table.rows[0]
    assert row.gap == pytest.approx(-float(row.log_evidence), abs=1e-12)
    assert row.evaluations > 0 and row.seconds > 0
    module = ModuleType("mine")
    module.approximate = bound
    assert league(coin(), [module]).rows[0].log_evidence.value == -7.5


def test_the_league_does_without_an_exact_answer():
    unknown = Problem(lambda z: -(z**2).sum(-1), 1, name="dark")
    table = league(unknown, [bound])
    assert table.rows[0].gap is None and "unknown" in str(table)


def test_a_refusal_without_a_name_is_called_after_its_module():
    assert league(coin(), [refuse]).rows[0].method == __name__.rsplit(".", 1)[-1]


@pytest.mark.parametrize("method", [3, None, "laplace", SimpleNamespace()], ids=repr)
def test_what_is_no_method_is_named(method):
    with pytest.raises(TypeError, match="a method is a module with `approximate\\(problem\\)` or a function"):
        league(coin(), [method])


def test_bad_arguments_are_errors_in_a_league_too():
    with pytest.raises(ValueError, match="starts must be points"):
        league(coin(), [lambda problem: laplace.approximate(problem, starts=torch.zeros(2, 5))])


class Cells(HTMLParser):
    """The tags of a page, and the texts of its table's cells, row by row."""

    def __init__(self):
        super().__init__()
        self.tags, self.rows, self.inside = [], [], False

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        self.inside = tag in ("td", "th")
        if self.inside:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, text):
        if self.inside:
            self.rows[-1][-1] += text


def test_the_league_as_html_says_what_the_text_says_and_escapes_it():
    wicked = '<script>alert("1")</script> & <b>'
    table = league(gaussian(0, 1, name=wicked), {wicked: bound, "shy": refuse})
    page = Cells()
    page.feed(table._repr_html_())
    assert page.rows == [list(Row.HEAD), *(list(row.cells()) for row in table.rows)]
    assert page.rows[1][:2] == [wicked, wicked]
    assert "script" not in page.tags and "b" not in page.tags and page.tags.count("caption") == 1


def test_an_empty_league_has_a_head():
    assert str(League(())).split()[0] == "problem"
    assert league([], [laplace]).rows == ()
