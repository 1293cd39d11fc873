"""The training loop: it repeats itself, goes on where it stopped, and says what went wrong."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
import warnings

import pytest
import torch
from torch import nn

from tightbound import training, vae
from tightbound.training import EarlyStopping, TrainingError, fit


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(num: int = 70, seed: int = 0) -> torch.Tensor:
    return (torch.rand(num, 9, generator=stream(seed)) < 0.4).float()


def model(seed: int = 0) -> vae.VAE:
    return vae.make(9, 2, hidden=(7,), seed=seed)


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def bare(model, data, objective, num_epochs, batch_size, learning_rate, seed) -> torch.Tensor:
    """What `fit` is to be, without anything around it."""
    noise, history = stream(seed), []
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    for _ in range(num_epochs):
        for rows in torch.randperm(len(data), generator=noise).split(batch_size):
            loss = -objective(model, data[rows], generator=noise).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history.append(-loss.detach())
    return torch.stack(history)


# What is computed --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("objective", [vae.elbo, lambda m, x, generator: vae.iwae_bound(m, x, 3, generator=generator)],
                         ids=["elbo", "iwae"])
def test_fit_is_the_bare_loop(objective):
    one, other = model(), model()
    history = fit(one, images(), objective, num_epochs=3, batch_size=16, learning_rate=0.01, seed=4)
    expected = bare(other, images(), objective, 3, 16, 0.01, 4)
    assert history.shape == (15,) and not history.requires_grad
    torch.testing.assert_close(history, expected, rtol=1e-6, atol=1e-6)
    for a, b in zip(one.parameters(), other.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_bound_rises_for_every_seed():
    for seed in range(4):
        start = model(seed)
        history = fit(start, images(seed=seed), vae.elbo, num_epochs=30, batch_size=16, learning_rate=0.02, seed=seed)
        assert history[-10:].mean() > history[:5].mean() + 0.3


def test_equal_seeds_equal_numbers_and_the_global_stream_is_left_alone():
    runs = []
    for seed in (0, 0, 1):
        torch.manual_seed(9)
        trained = model()
        fit(trained, images(), vae.elbo, num_epochs=2, seed=seed)
        runs.append(trained)
        assert torch.equal(torch.rand(2), torch.rand(2, generator=stream(9)))
    assert same(runs[0], runs[1]) and not same(runs[0], runs[2])


def test_a_batch_of_one_and_a_constant_image():
    for data in (images(1), torch.zeros(3, 9), torch.ones(1, 9)):
        history = fit(model(), data, vae.elbo, num_epochs=20, batch_size=1, learning_rate=0.05)
        assert torch.isfinite(history).all() and len(history) == 20 * len(data)


def test_objectives_may_ask_for_the_step():
    steps = []

    def objective(model, x, *, generator, step):
        steps.append(step)
        reconstruction, rate = vae.split(model, x, generator=generator)
        return reconstruction - min(1.0, step / 5) * rate

    fit(model(), images(), objective, num_epochs=2, batch_size=32)
    assert steps == list(range(6))


def test_data_are_prepared_anew_in_every_epoch():
    grey, seen = torch.full((20, 9), 0.5), []

    def objective(model, x, *, generator):
        seen.append(x)
        return vae.elbo(model, x, generator=generator)

    fit(model(), grey, objective, num_epochs=2, batch_size=20, prepare=training.binarise)
    assert set(torch.stack(seen).unique().tolist()) == {0.0, 1.0} and not torch.equal(seen[0], seen[1])
    with pytest.raises(ValueError, match="grey"):
        fit(model(), grey, vae.elbo, num_epochs=1)


def test_the_learning_rate_may_fall():
    rates = []

    class Watched(torch.optim.SGD):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            super().step(closure)

    fit(model(), images(), vae.elbo, num_epochs=3, batch_size=70, learning_rate=lambda epoch: 0.1 * 0.5**epoch, optimizer=Watched)
    assert rates == [0.1, 0.05, 0.025]


def test_bfloat16_trains_to_about_the_same_bound():
    data = vae.binary_digits()[0]
    ends = {}
    for precision in ("single", "bfloat16"):
        trained = vae.make(64, 4, hidden=(32,))
        fit(trained, data, vae.elbo, num_epochs=15, batch_size=100, learning_rate=3e-3, precision=precision)
        assert all(p.dtype == torch.float32 for p in trained.parameters())
        with torch.no_grad():
            ends[precision] = float(vae.elbo(trained, data, 10, generator=stream()).mean())
    assert ends["bfloat16"] == pytest.approx(ends["single"], abs=0.3) and ends["single"] > -24
    with pytest.raises(ValueError, match="unknown precision"):
        fit(model(), images(), vae.elbo, precision="half")


def test_bfloat16_does_not_reach_the_sums():
    """Networks answer in bfloat16; the terms of a log density are added up in single precision."""
    trained, x = vae.make(64, 4, hidden=(32,)), vae.binary_digits()[0][:20]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        value = vae.elbo(trained, x, generator=stream())
        assert trained.decoder(torch.zeros(1, 4)).dtype == torch.bfloat16 and value.dtype == torch.float32
        assert trained.posterior(x).mean.dtype == torch.float32
    with torch.no_grad():
        exact = vae.elbo(trained, x, generator=stream())
    assert 0 < (value - exact).abs().max() < 0.3


def test_compiled_is_the_same_training_and_leaves_the_global_stream_alone():
    """The fast path: the numbers of the readable loop, the last batch of another size (70 = 4 x 16 + 6) included."""
    fast, slow = model(), model()
    torch.manual_seed(9)
    with warnings.catch_warnings(record=True) as told:  # if it could not be compiled, this test would test nothing
        history = fit(fast, images(), vae.elbo, num_epochs=3, batch_size=16, learning_rate=0.01, compiled=True)
    assert not [warning for warning in told if "compiled" in str(warning.message)]
    assert torch.equal(torch.rand(2), torch.rand(2, generator=stream(9)))
    expected = fit(slow, images(), vae.elbo, num_epochs=3, batch_size=16, learning_rate=0.01)
    torch.testing.assert_close(history, expected, rtol=1e-4, atol=1e-4)
    for a, b in zip(fast.parameters(), slow.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_what_cannot_be_compiled_is_trained_without():
    def untraceable(model, x, *, generator):
        return vae.elbo(model, x, generator=generator) * (1 if float(x.sum()) > -1 else 2)

    one, other = model(), model()
    with pytest.warns(RuntimeWarning, match="could not be compiled .*goes on without"):
        history = fit(one, images(), untraceable, num_epochs=2, batch_size=16, compiled=True)
    expected = fit(other, images(), vae.elbo, num_epochs=2, batch_size=16)
    torch.testing.assert_close(history, expected)
    with pytest.raises(ValueError, match="grey"):
        fit(model(), 0.5 * images(), vae.elbo, batch_size=16, compiled=True)
    with pytest.raises(ValueError, match="asks for the step"):
        fit(model(), images(), lambda model, x, generator, step: vae.elbo(model, x), compiled=True)


def test_bad_arguments_are_refused():
    for wrong, message in (({"batch_size": 0}, "batch_size"), ({"num_epochs": -1}, "num_epochs")):
        with pytest.raises(ValueError, match=message):
            fit(model(), images(), vae.elbo, **wrong)
    with pytest.raises(ValueError, match="at least one row"):
        fit(model(), images(0), vae.elbo)
    with pytest.raises(ValueError, match="held-out data, got none"):
        EarlyStopping(images(0))
    assert fit(model(), images(), vae.elbo, num_epochs=0).shape == (0,)


# Early stopping ----------------------------------------------------------------------------------------------------

def test_early_stopping_ends_and_keeps_the_best():
    """Thirty images and many weights: held-out images lose long before the end."""
    wide, stop = vae.make(64, 8, hidden=(200,)), EarlyStopping(vae.binary_digits("test")[0], patience=4)
    history = fit(wide, vae.binary_digits()[0][:30], vae.elbo, num_epochs=400, batch_size=10, learning_rate=3e-3, stop=stop)
    epochs = len(stop.history)
    assert len(history) == 3 * epochs and epochs < 400
    assert stop.history.index(stop.best) == epochs - 5 and stop.history[-1] < stop.best
    again = EarlyStopping(vae.binary_digits("test")[0])
    again(wide, vae.elbo)
    assert again.history[0] == pytest.approx(stop.best)


def test_early_stopping_judges_by_another_objective_if_asked():
    def backwards(model, x, *, generator):
        return -vae.elbo(model, x, generator=generator)

    stop = EarlyStopping(images(40, seed=1), patience=2, objective=backwards)
    start = model()
    fit(start, images(), vae.elbo, num_epochs=50, learning_rate=0.01, stop=stop)
    assert len(stop.history) == 3  # it only fell


# Going on ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("until", [1, 2], ids=["after one epoch", "after two"])
def test_a_training_continued_is_the_training_in_one_go(tmp_path, until):
    whole, parts, path = model(), model(), tmp_path / "run.pt"
    stop, stops = EarlyStopping(images(20, 5)), [EarlyStopping(images(20, 5)) for _ in range(2)]
    expected = fit(whole, images(), vae.elbo, num_epochs=4, batch_size=16, stop=stop)
    fit(parts, images(), vae.elbo, num_epochs=until, batch_size=16, checkpoint=path, stop=stops[0])
    fresh = model(seed=7)                                                         # its weights come from the checkpoint
    history = fit(fresh, images(), vae.elbo, num_epochs=4, batch_size=16, checkpoint=path, stop=stops[1])
    assert torch.equal(history, expected) and same(fresh, whole)
    assert stops[1].history == stop.history
    again = fit(model(seed=8), images(), vae.elbo, num_epochs=4, batch_size=16, checkpoint=path)
    assert torch.equal(again, expected)                                           # nothing is left to do
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]


def test_a_training_broken_off_between_epochs_goes_on_bit_by_bit(tmp_path):
    class Broken(Exception):
        pass

    def breaking(at):
        steps = iter(range(10**9))

        def objective(model, x, *, generator):
            if next(steps) == at:
                raise Broken
            return vae.elbo(model, x, generator=generator)
        return objective

    whole = model()
    expected = fit(whole, images(), vae.elbo, num_epochs=3, batch_size=16)
    for at in (1, 5, 8, 14):
        path = tmp_path / f"{at}.pt"
        with pytest.raises(Broken):
            fit(model(), images(), breaking(at), num_epochs=3, batch_size=16, checkpoint=path, save_every=0)
        fresh = model(seed=3)
        history = fit(fresh, images(), vae.elbo, num_epochs=3, batch_size=16, checkpoint=path)
        assert torch.equal(history, expected) and same(fresh, whole)


def script(text: str, *options, **values) -> list[str]:
    start = f"import sys, torch; sys.path.insert(0, {os.path.dirname(__file__)!r})\n"
    return [sys.executable, *options, "-c", start + textwrap.dedent(text).format(**values)]


def test_a_killed_process_goes_on_bit_by_bit(tmp_path):
    path, whole, rest = tmp_path / "run.pt", model(), model(seed=1)
    process = subprocess.Popen(script("""
        from test_training import images, model
        from tightbound import training, vae
        training.fit(model(), images(2000), vae.elbo, num_epochs=1000, batch_size=16, checkpoint={path!r}, save_every=0.02)
    """, path=str(path)))
    times = set()
    while len(times) < 5:                                                         # until it has written a few, then at once
        assert process.poll() is None
        with contextlib.suppress(FileNotFoundError):
            times.add(path.stat().st_mtime_ns)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(torch.load(path, weights_only=True)["losses"])
    epochs = done // 125 + 2
    expected = fit(whole, images(2000), vae.elbo, num_epochs=epochs, batch_size=16)
    history = fit(rest, images(2000), vae.elbo, num_epochs=epochs, batch_size=16, checkpoint=path)
    assert done > 3 and torch.equal(history, expected) and same(rest, whole)


def test_a_full_disk_loses_nothing_and_is_told(tmp_path, monkeypatch):
    path, expected, trained = tmp_path / "run.pt", model(), model()
    fit(expected, images(), vae.elbo, num_epochs=4)
    fit(trained, images(), vae.elbo, num_epochs=2, checkpoint=path)
    before, real = path.read_bytes(), open

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, content):
            self.file.write(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("builtins.open", lambda name, mode="r", **kw: Full(real(name, mode)) if str(name).endswith(".new")
                        else real(name, mode, **kw))
    fresh = model()
    with pytest.warns(RuntimeWarning, match="No space left.*the one from before stands, and training goes on"):
        fit(fresh, images(), vae.elbo, num_epochs=4, checkpoint=path)
    assert same(fresh, expected) and path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]
    with pytest.warns(RuntimeWarning, match="there is none"):
        fit(model(), images(), vae.elbo, num_epochs=1, checkpoint=tmp_path / "none.pt")


def test_a_limit_on_files_is_met_like_a_full_disk(tmp_path):
    """A real one: the operating system refuses to let the file grow."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.warns(RuntimeWarning, match="could not be written .*training goes on"):
            history = fit(model(), images(), vae.elbo, num_epochs=2, batch_size=10, checkpoint=tmp_path / "run.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(history) == 14 and not list(tmp_path.iterdir())


def test_checkpoints_of_other_trainings_are_refused(tmp_path):
    path = tmp_path / "run.pt"
    fit(model(), images(), vae.elbo, num_epochs=1, checkpoint=path)
    content = path.read_bytes()
    wider = vae.make(9, 3, hidden=(7,))
    before = {name: value.clone() for name, value in wider.state_dict().items()}
    with pytest.raises(ValueError, match=r"belongs to another model: .*is \(2,\) there, and \(3,\) here.*another path"):
        fit(wider, images(), vae.elbo, num_epochs=2, checkpoint=path)
    assert all(torch.equal(value, before[name]) for name, value in wider.state_dict().items())
    for options in ({"batch_size": 64}, {"seed": 1}):
        with pytest.raises(ValueError, match="belongs to another training"):
            fit(model(), images(), vae.elbo, num_epochs=2, checkpoint=path, **options)
    with pytest.raises(ValueError, match="belongs to another training"):
        fit(model(), images(71), vae.elbo, num_epochs=2, checkpoint=path)
    for damaged in (content[: len(content) // 2], b"", b"no checkpoint"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged one: remove it"):
            fit(model(), images(), vae.elbo, num_epochs=2, checkpoint=path)


def test_checkpoints_hold_no_code(tmp_path):
    path = tmp_path / "run.pt"
    fit(model(), images(), vae.elbo, num_epochs=1, checkpoint=path, stop=EarlyStopping(images(9, 1)))
    assert set(torch.load(path, weights_only=True)) >= {"model", "optimizer", "streams", "losses"}


# What goes wrong ---------------------------------------------------------------------------------------------------

def test_a_loss_that_is_no_number_names_its_batch():
    def objective(model, x, *, generator):
        return vae.elbo(model, x, generator=generator) / (x[:, 0] != 7)

    data = images()
    data[33, 0] = data[50, 0] = 7.0
    grey = vae.make(9, 2, hidden=(7,), likelihood="gaussian")
    with pytest.raises(TrainingError, match=r"objective is -inf at step \d+ \(epoch 0\), on rows") as caught:
        fit(grey, data, objective, batch_size=10)
    assert {33, 50} & set(caught.value.rows.tolist()) and len(caught.value.rows) == 10
    assert all(torch.isfinite(p).all() for p in grey.parameters())               # the step was not taken


def test_what_is_not_finite_is_named():
    data = images()
    data[12, 3] = math.nan
    gaussian = vae.make(9, 2, likelihood="gaussian")

    def unchecked(model, x, *, generator):
        z, log_q = model.posterior(x).rsample_and_log_prob((1,), generator=generator)
        return (model.log_joint(x, z) - log_q).mean(0)

    with pytest.raises(TrainingError, match=r"data are not finite in rows \[12\]"):
        fit(gaussian, data, unchecked)
    with pytest.raises(ValueError, match="pixel 3 of image .* is nan"):
        fit(gaussian, data, vae.elbo)
    exploding = model()
    exploding.encoder.head.bias.data[2:] = 100.0                                 # exp(100) is beyond single precision
    with pytest.raises(TrainingError, match="encoder's stddev is not finite for rows .*lower the learning rate"):
        fit(exploding, images(), vae.elbo)
    broken = model()
    broken.decoder[0].weight.data[0, 0] = math.nan
    with pytest.raises(TrainingError, match="parameters decoder.0.weight are not finite"):
        fit(broken, images(), vae.elbo)


def test_a_learning_rate_that_is_too_large_is_found_out():
    with pytest.raises(TrainingError):
        fit(vae.make(9, 2, likelihood="gaussian"), images(), vae.elbo, num_epochs=200, learning_rate=1e4)


# The bar, and several processes ------------------------------------------------------------------------------------

def test_the_bar_goes_to_stderr_with_the_objective(capsys, monkeypatch):
    ticks = iter(range(10**6))
    monkeypatch.setattr(time, "monotonic", lambda: next(ticks))                   # a second a call
    fit(model(), images(), vae.elbo, num_epochs=3, batch_size=10, progress=True)
    seen = capsys.readouterr()
    assert seen.out == "" and "21/21" in seen.err and "objective -" in seen.err and "nats" in seen.err
    fit(model(), images(), vae.elbo, num_epochs=1)
    assert capsys.readouterr() == ("", "")                                        # no terminal watches


def plain(model, x, *, generator):
    """A bound without noise, so that its value does not hang on who draws: at the mean of q."""
    q = model.posterior(x)
    return model.log_joint(x, q.mean) + q.entropy()


def poisoned(model, x, *, generator):
    return plain(model, x, generator=generator) + x[:, 0] / x[:, 0] * 0           # NaN where the first pixel is white


TWO = """
import os, sys, torch
sys.path.insert(0, {tests!r})
from test_training import images, model, plain, poisoned
from tightbound import training
rank, options = int(os.environ["RANK"]), dict(batch_size=15, seed=2, learning_rate=0.01)
first, second, third = model(), model(seed=rank), model()   # that of rank 0 counts
training.fit(first, images(), plain, num_epochs=2, checkpoint={folder!r} + "/run.pt", **options)
history = training.fit(second, images(), plain, num_epochs=3, checkpoint={folder!r} + "/run.pt", **options)
try:
    training.fit(third, images(), poisoned, **options)
except training.TrainingError as error:
    torch.save([history, second.state_dict(), str(error)], {folder!r} + f"/result{{rank}}")
"""


def test_two_processes_do_the_steps_of_one(tmp_path):
    """The joint batch's loss and weights, the last batch (10 rows of 70) and the odd ones (15 = 8 + 7) included; they go on
    from a checkpoint, and stop together at a loss that is no number."""
    alone = model()
    expected = fit(alone, images(), plain, num_epochs=3, batch_size=15, seed=2, learning_rate=0.01)
    file = tmp_path / "two.py"
    file.write_text(TWO.format(tests=os.path.dirname(__file__), folder=str(tmp_path)))
    found = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2",
                            "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", str(file)],
                           env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
                           capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    for rank in range(2):
        history, state, error = torch.load(tmp_path / f"result{rank}")
        torch.testing.assert_close(history, expected, rtol=1e-5, atol=1e-5)
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-5)
        assert "objective is nan at step 0" in error


def test_no_warning_is_raised():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(model(), images(), vae.elbo, num_epochs=2, precision="bfloat16")
