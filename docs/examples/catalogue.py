"""One run on each problem of the catalogue that has a page in docs/explanation/problems, with its picture.

    python docs/examples/catalogue.py 500 --out docs/pictures

prints what each run changed, and draws the pictures if a directory is given.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import bilevelrl as bl

# Problem: algorithm and its options.
RUNS = {
    "inverse-rl": ("m-sobirl", {"step_size": 1.0}),
    "stackelberg-game": ("m-sobirl", {"step_size": 1.0}),
    "contract-design": ("m-sobirl", {"step_size": 0.1}),
    "kl-rlhf": ("sobirl", {"step_size": 0.2, "groups": 128, "truncation": 10}),
}
COLOURS = 256


def table(run: bl.Run) -> str:
    """The problem's own figures and the objective, at the start and at the end."""
    rows = run.comparison()[: -len(("gradient norm", "direct", "implicit", "stationarity"))]
    lines = [f"{label:40}{before:>12.4f}{after:>12.4f}" for label, before, after in rows]
    return "\n".join([f"{run.algorithm.name} on {run.problem.name}, {len(run.history) - 1} iterations", *lines])


def draw(run: bl.Run, path: Path) -> None:
    """The run's picture with fewer colours, which saves two thirds of the bytes without a visible difference."""
    from PIL import Image

    run.plot(path)
    with Image.open(path) as picture:
        fewer = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    fewer.save(path, optimize=True)


def main(iterations: int = 500, out: Path | None = None) -> dict[str, bl.Run]:
    """Run, print, and draw if a directory is given."""
    runs = {}
    for name, (algorithm, options) in RUNS.items():
        runs[name] = bl.algorithm(algorithm, **options).run(bl.problem(name), iterations=iterations)
        print(table(runs[name]), end="\n\n")
        if out is not None:
            draw(runs[name], out / f"{name}.png")
    return runs


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("iterations", type=int, nargs="?", default=500)
    parser.add_argument("--out", type=Path)
    main(**vars(parser.parse_args()))
