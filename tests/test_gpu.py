"""What needs a GPU: `pytest tests/test_gpu.py tests/test_card.py` on a machine that has one; skipped elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import numpy as np
import pytest
import torch
from gallery import chapters_explorers

from tightbound import training, vae
from tightbound.device import VARIABLE

ROOT, DEVICE = Path(__file__).resolve().parents[1], "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

# In a process of its own, for explorers keep what they have computed.
FRAME = """
import importlib, sys
import numpy as np
module, name = sys.argv[1].split(".")
explorer = getattr(importlib.import_module(f"tightbound.explore.{module}"), name)()
frame = {key: np.asarray(value) for key, value in explorer.frame().items() if key not in explorer.controls}
np.savez(sys.argv[2], **frame)
"""


def on(device: str) -> dict[str, str]:
    return {**os.environ, VARIABLE: device, "TIGHTBOUND_STATIC": "1", "TIGHTBOUND_PROGRESS": "off"}


@pytest.mark.parametrize("path", sorted((ROOT / "chapters").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_chapter_runs_on_a_gpu(path):
    """On a kernel that sees a card no cell raises, and its own assertions hold; what is small stays on the processor."""
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute(env=on(DEVICE))


@pytest.mark.parametrize("name", chapters_explorers())
def test_an_explorer_answers_on_a_gpu(name, tmp_path):
    """With arrays of the same names and shapes, and finite where those of the CPU are."""
    found = {}
    for device in ("cpu", DEVICE):
        kept = tmp_path / f"{device}.npz"
        subprocess.run([sys.executable, "-c", FRAME, name, kept], env=on(device), check=True)
        with np.load(kept) as arrays:
            found[device] = {key: arrays[key] for key in arrays.files}
    assert found["cpu"].keys() == found[DEVICE].keys()
    for key, there in found[DEVICE].items():
        here = found["cpu"][key]
        assert there.shape == here.shape, key
        if here.dtype.kind == "f":
            assert np.isfinite(there).mean() == pytest.approx(np.isfinite(here).mean(), abs=0.05), key


@pytest.mark.parametrize("how", [{}, {"precision": "bfloat16"}, {"compiled": True}], ids=["plain", "bfloat16", "compiled"])
def test_training_on_a_gpu_arrives_where_the_cpu_does(how):
    """After as many epochs the bounds of one batch agree to 0.3 nats; on one device five seeds spread by 0.07."""
    x = (torch.rand(2_000, 1, generator=torch.Generator().manual_seed(0)) < 0.5).float() * torch.ones(16)
    ends = {}
    for device, options in (("cpu", {}), (DEVICE, how)):
        model = vae.make(16, 2, hidden=(32,)).to(device)
        training.fit(model, x.to(device), vae.elbo, num_epochs=20, progress=False, **options)
        with torch.no_grad():
            ends[device] = float(vae.elbo(model, x[:500].to(device), 20).mean())
    assert ends[DEVICE] == pytest.approx(ends["cpu"], abs=0.3) and ends["cpu"] > -3
