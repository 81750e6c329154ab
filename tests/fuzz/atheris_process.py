"""One target under atheris, in a process of its own: `python -m fuzz.atheris_process TARGET [libFuzzer's options]`."""

from __future__ import annotations

import random
import sys

import atheris

INSTRUMENTED = ["bilevelrl", "bilevelrl_problems", "tomllib", "zipfile"]

with atheris.instrument_imports(include=INSTRUMENTED):
    from fuzz.engine import warm_up
    from fuzz.limits import MOST_MEMORY, alarms, judge, limited_memory
    from fuzz.targets import TARGETS


def main() -> None:
    """Fuzz until libFuzzer's options say that it is enough, or an input fails; never returns."""
    target = TARGETS[sys.argv[1]]
    seeds = list(target.seeds())
    rng = random.Random(target.name)

    def test_one_input(data: bytes) -> None:
        verdict = judge(target.run, data, target.seconds)
        if verdict.failure is not None:
            raise RuntimeError(verdict.place) from verdict.failure

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        rng.seed(seed)
        if rng.random() < 0.3:
            changed: bytes = atheris.Mutate(data, most)
            return changed
        return target.mutate(rng, [data, *seeds] if rng.random() < 0.5 else [data])[:most]

    atheris.Setup([sys.argv[0], *sys.argv[2:]], test_one_input, custom_mutator=mutate)
    with alarms():
        warm_up(target)
        with limited_memory(2 * MOST_MEMORY):  # libFuzzer's own share included
            atheris.Fuzz()


if __name__ == "__main__":
    main()
