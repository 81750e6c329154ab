"""Certificates of random problems compared with the true errors: how often a bound is broken, and how loose it is.

Problems, solutions and estimates are `random_draw(seed)` of tests/certified.py for seeds 0, 1, 2, …. The true gradient
is computed in extended precision by tests/precise_answers.py. Prints a table, and draws a picture if a directory is
given.

    PYTHONPATH=tests python docs/examples/certificates.py 10000 --out docs/pictures
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import bilevelrl as bl

CORRECTIONS = {10: "up to 10 corrections (the default)", 0: "no corrections: residuals alone"}
RANGES = {"any, not zero": (0.0, np.inf), "at least 1e-9": (1e-9, np.inf), "less": (0.0, 1e-9)}


def judged(draws: int) -> bl.Array:
    """(draws, 3) the true error, and the bound of each kind."""
    from certified import random_draw

    rows = []
    for seed in range(draws):
        error, certificates = random_draw(seed).judged(*CORRECTIONS)
        rows.append([error, *(certificate.bound for certificate in certificates)])
    return np.array(rows)


def main(iterations: int = 300, out: Path | None = None) -> dict[str, float]:
    """Evaluate so many draws and print the table; draw if a directory is given."""
    table = judged(iterations)
    known = np.isfinite(table[:, 0])
    print(f"{iterations:,} draws; in {(~known).sum()} the gradient itself is not finite")
    answers = {}
    for column, label in enumerate(CORRECTIONS.values(), start=1):
        errors, bounds = table[:, 0], table[:, column]
        broken = int((~(errors <= bounds)).sum())
        answers[label] = float(broken)
        print(f"{label}: {broken} broken; no bound in {int((known & np.isinf(bounds)).sum())} more")
        for name, (low, high) in RANGES.items():
            chosen = known & (errors > 0) & (errors >= low) & (errors < high)
            quantiles = np.quantile(bounds[chosen] / errors[chosen], (0.25, 0.5, 0.75, 0.95), method="lower")
            cells = "".join(f"{each:>11.3g}" for each in quantiles)
            print(f"    true error {name:<15}{chosen.sum():>7,} draws; bound/error, quartiles and 95 %:{cells}")
    if out is not None:
        draw(table[known & (table[:, 0] > 0)], out / "certificates.png")
    return answers


def draw(table: bl.Array, path: Path) -> None:
    """One dot for each draw: its true error and its bound, with the lines of 1 and 100 times the error."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 4.4), layout="constrained")
    ends = np.array([1e-18, 1e4])
    for axes, (column, label) in zip(figure.subplots(1, 2), enumerate(CORRECTIONS.values(), start=1), strict=True):
        errors, bounds = np.clip(table[:, 0], *ends), np.clip(table[:, column], ends[0], 1e8)
        axes.loglog(errors, bounds, ".", color="#0072B2", ms=3.0, mew=0.0, alpha=0.35)
        axes.loglog(ends, ends, color="#000000", lw=1.0, label="the true error")
        axes.loglog(ends, 100 * ends, "--", color="#E69F00", lw=1.2, label="100 times that")
        axes.set_xlim(ends)
        axes.set_ylim(1e-18, 1e8)
        axes.set_title(label, fontsize=10)
        axes.set_xlabel("true error ‖gradient − ∇φ(x)‖₂")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, lw=0.6)
    figure.axes[0].set_ylabel("the certificate's bound")
    figure.axes[0].legend(frameon=False, fontsize=9, loc="upper left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("iterations", type=int, nargs="?", default=1000)
    parser.add_argument("--out", type=Path)
    main(**vars(parser.parse_args()))
