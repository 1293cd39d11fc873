"""Which device is taken, and where randomness comes from."""

import pytest
import torch
from hypothesis import given, strategies as st

from tightbound import Problem, iterative, training, vae
from tightbound.device import VARIABLE, choose, generator, meet

CUDA, MPS = torch.cuda.is_available(), torch.backends.mps.is_available()


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


def gaussian(**options):
    return Problem(lambda z: -0.5 * (z**2).sum(-1), 2, **options)


def test_the_best_device_there_is():
    best = "cuda" if CUDA else "mps" if MPS else "cpu"
    assert choose().type == choose("best").type == best
    assert choose(dtype=torch.float64).type == ("cuda" if CUDA else "cpu")


def test_the_variable_counts_more_than_the_best_and_less_than_the_argument(monkeypatch):
    monkeypatch.setenv(VARIABLE, "cpu")
    assert choose().type == "cpu"
    monkeypatch.setenv(VARIABLE, "abacus")
    assert choose("cpu") == torch.device("cpu") and choose(torch.device("cpu")).type == "cpu"
    with pytest.raises(ValueError, match="unknown device 'abacus': use 'cpu', 'cuda'"):
        choose()
    monkeypatch.setenv(VARIABLE, "")
    assert choose() == choose("best")


@given(st.text(st.characters(codec="ascii"), max_size=8).filter(
    lambda name: name.split(":")[0] not in ("cpu", "cuda", "mps", "best")))
def test_an_unknown_name_is_named(name):
    with pytest.raises(ValueError, match="use 'cpu', 'cuda', 'cuda:1' or 'mps'"):
        choose(name)


@pytest.mark.parametrize("name", ["meta", "xpu", "cuda:-1", "cuda:x", "CPU"])
def test_a_device_of_another_kind_is_named(name):
    with pytest.raises(ValueError, match="use 'cpu', 'cuda', 'cuda:1' or 'mps'"):
        choose(name)


@pytest.mark.parametrize("name", [f"cuda:{torch.cuda.device_count()}"] + ([] if CUDA else ["cuda"]))
def test_a_cuda_device_that_is_not_there_comes_with_a_remedy(name, monkeypatch):
    message = rf"'{name}' was asked for, but torch sees {torch.cuda.device_count()} CUDA.*set {VARIABLE}=cpu"
    with pytest.raises(RuntimeError, match=message):
        choose(name)
    with pytest.raises(RuntimeError, match=message):
        gaussian(device=name)
    monkeypatch.setenv(VARIABLE, name)
    with pytest.raises(RuntimeError, match=message):
        choose()


@pytest.mark.skipif(MPS, reason="this machine has an Apple GPU")
def test_an_apple_gpu_that_is_not_there_comes_with_a_remedy():
    with pytest.raises(RuntimeError, match=rf"no Apple GPU that torch can use: set {VARIABLE}=cpu"):
        choose("mps")


def test_an_apple_gpu_has_no_double_precision(monkeypatch):
    # What torch answers on a machine that has one; the refusal itself needs none.
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(RuntimeError, match="'mps' has no double precision.*set TIGHTBOUND_DEVICE=cpu"):
        choose("mps", dtype=torch.float64)
    assert choose("mps").type == "mps"
    if not CUDA:
        assert choose().type == "mps" and choose(dtype=torch.float64).type == "cpu"
    with pytest.raises(RuntimeError, match="no double precision"):
        gaussian(device="mps")
    assert gaussian(dtype=torch.float32, device="mps").device.type == "mps"


def test_a_problem_is_small_and_stays_on_the_cpu(monkeypatch):
    monkeypatch.setenv(VARIABLE, "abacus")
    assert gaussian().device.type == "cpu" and gaussian().points(3).device.type == "cpu"


@pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
def test_a_problem_goes_to_the_gpu_when_asked():
    assert gaussian(device="cuda").points(3).device.type == "cuda"
    torch.testing.assert_close(gaussian(device="cuda").points(3, seed=5).cpu(), gaussian(device="cpu").points(3, seed=5))


# Two devices: "meta" has tensors without numbers, on every machine


def network():
    return vae.VAE(vae.DiagonalEncoder(vae.mlp(4, 3), 3, 1), torch.nn.Linear(1, 4), vae.Bernoulli(), 1)


@pytest.mark.parametrize("use", [
    lambda model, x: vae.elbo(model, x),
    lambda model, x: vae.split(model, x),
    lambda model, x: vae.importance_sampled(model, x),
    lambda model, x: vae.exact(model, x),
    lambda model, x: training.fit(model, x, vae.elbo, num_epochs=1),
    lambda model, x: iterative.Inference(model, iterative.Learned(1)).path(x)], ids=[
        "elbo", "split", "importance sampled", "exact", "fit", "iterative"])
def test_data_and_model_on_two_devices_are_named_with_a_remedy(use):
    x = torch.rand(2, 4).round()
    use(network(), x)
    with pytest.raises(ValueError, match=r"on cpu, but the model on meta: move one of them .*\.to\('meta'\) or \.to\('cpu'\)"):
        use(network().to("meta"), x)


def test_a_problem_names_a_point_from_another_device():
    with pytest.raises(ValueError, match=r"z is on meta, but the problem .* on cpu: move one of them"):
        gaussian().log_joint(torch.zeros(3, 2, device="meta"))


@pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
def test_the_first_gpu_is_the_gpu():
    meet(torch.zeros(1, device="cuda:0"), torch.device("cuda"))
    with pytest.raises(ValueError, match="on cpu, but the model on cuda:0"):
        vae.elbo(network().to("cuda"), torch.rand(2, 4).round())


# Randomness


@given(st.integers(0, 2**63 - 1))
def test_a_seed_makes_a_stream_and_leaves_the_global_one_alone(seed):
    state = torch.get_rng_state()
    first, second = torch.rand(4, generator=generator(seed)), torch.rand(4, generator=generator(seed))
    assert torch.equal(first, second) and torch.equal(state, torch.get_rng_state())


def test_a_generator_passes_through():
    stream = torch.Generator().manual_seed(1)
    assert generator(stream) is stream


@pytest.mark.parametrize("seed", [None, True, 1.0, "7", torch.tensor(3)], ids=repr)
def test_what_is_no_seed_is_named(seed):
    with pytest.raises(TypeError, match="a seed is an integer or a torch.Generator"):
        generator(seed)
