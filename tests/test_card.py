"""On a GPU: everything that the package does with tensors of one. Where there is none, on a pretended one (`card.py`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
WITHOUT = pytest.mark.skipif(torch.cuda.is_available(), reason="here is a real card")


def run(*command) -> str:
    """In a process of its own, for a card once pretended stays."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=HERE, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_every_piece_works_with_its_tensors_on_a_card():
    found = json.loads(run("on_a_card.py").splitlines()[-1])
    assert len(found) > 100 and {name: why for name, why in found.items() if why} == {}


REFUSED = {"sum of both": "x + y", "numpy": "x.numpy()", "a foreign stream": "torch.rand(2, device='cuda', generator=torch.Generator())",
           "an index from the card": "y[x.argsort()]", "both in one": "torch.stack([x, y])", "a layer": "torch.nn.Linear(3, 3)(x)",
           "a buffer forgotten": "torch.distributions.Normal(torch.zeros(3), 1.0).log_prob(x)"}
ALLOWED = {"a number": "x + torch.tensor(2.0)", "an index": "x[torch.tensor([0, 1])]", "fetched": "x.cpu().numpy() is not None and x",
           "a layer moved": "torch.nn.Linear(3, 3).to('cuda')(x)", "a copy": "torch.empty(3, device='cuda').copy_(y)",
           "a gradient": "torch.autograd.grad((w := x.clone().requires_grad_()).square().sum(), w)[0] * x", "cast": "x.double()"}


@WITHOUT
def test_the_pretended_card_refuses_what_a_card_refuses():
    code = f"""
import card, json
card.insert()
import torch
x, y, found = torch.rand(3, device="cuda"), torch.rand(3), {{}}
for name, code in {[*REFUSED.items(), *ALLOWED.items()]!r}:
    try:
        found[name] = str(eval(code).device)
    except (RuntimeError, TypeError) as refusal:
        found[name] = type(refusal).__name__
print(json.dumps(found))"""
    found = json.loads(run("-c", code))
    assert all(found[name] in ("RuntimeError", "TypeError") for name in REFUSED), found
    assert all(found[name] == "cuda:0" for name in ALLOWED), found
