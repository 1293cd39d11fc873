"""What the commands of this folder share: they run the parts of a chapter's claims over ten seeds, and store the scores as JSON."""

from __future__ import annotations

import json
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

SEEDS = range(10)


def store(path: Path, parts: Sequence[Callable[[], Iterable[tuple[str, dict[str, float]]]]], command: str, chosen: list[str]) -> None:
    """Runs the chosen parts, or all of them, and puts into the file what each yields: (name, {score: value}), once a seed.

    Raises:
        SystemExit: for a part that there is not.
    """
    torch.set_num_threads(1)
    known = {part.__name__: part for part in parts}
    if not set(chosen) <= set(known):
        raise SystemExit(f"no part {min(set(chosen) - set(known))!r}: choose from {', '.join(known)}")
    for name in chosen or known:
        start, scores = time.process_time(), defaultdict(lambda: defaultdict(list))
        for row, values in known[name]():
            for score, value in values.items():
                scores[row][score].append(round(value, 4))
        stored = json.loads(path.read_text()) if path.exists() else {}
        stored[name] = {"seconds": round(time.process_time() - start), "scores": scores}
        stored.update(command=f"python {command}", torch=torch.__version__, machine=platform.machine())
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(stored, indent=1).replace(",\n     ", ", ") + "\n")
        fresh.replace(path)
        print(name, stored[name]["seconds"], "s of one core", flush=True)
