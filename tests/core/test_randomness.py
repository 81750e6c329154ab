"""Random streams are functions of their key: replayable alone, and different for different keys."""

import pickle

import numpy as np
import pytest
from hypothesis import given, strategies as st

import bilevelrl as bl

keys = st.tuples(st.integers(0, 2**63), st.text(max_size=10), st.integers(0, 10**6), st.integers(0, 1000))


def draws(rng):
    """Draws of several kinds: integers of two sizes, floats, normals."""
    return [
        *rng.integers(0, 2**63, size=4).tolist(),
        *rng.integers(0, 2**31, size=3, dtype=np.int32).tolist(),
        *rng.random(4).tolist(),
        *rng.normal(size=4).tolist(),
    ]


@given(keys)
def test_the_same_key_gives_the_same_stream(key):
    """Bit for bit, whatever was drawn from other streams in between."""
    first = draws(bl.randomness.stream(*key))
    bl.randomness.stream(0, "somebody else").random(1000)
    assert draws(bl.randomness.stream(*key)) == first


@given(keys, keys)
def test_different_keys_give_different_streams(one, other):
    """Seven draws of 63 and 31 bits coincide by chance once in 2^345."""
    same = draws(bl.randomness.stream(*one))[:7] == draws(bl.randomness.stream(*other))[:7]
    assert same is (one == other)


@pytest.mark.parametrize("place", range(4), ids=["seed", "role", "iteration", "substream"])
@given(key=keys)
def test_every_part_of_the_key_counts(place, key):
    changed = list(key)
    changed[place] = key[place] + ("'" if place == 1 else 1)
    assert draws(bl.randomness.stream(*key)) != draws(bl.randomness.stream(*changed))


def test_seed_and_role_cannot_be_mistaken_for_each_other():
    """Seed 1 with role "1:a" is not seed 11 with role ":a", nor any other way to split the same characters."""
    assert draws(bl.randomness.stream(1, "1:a")) != draws(bl.randomness.stream(11, ":a"))
    assert draws(bl.randomness.stream(1, "1")) != draws(bl.randomness.stream(11, ""))


@given(keys)
def test_neighbouring_streams_do_not_overlap(key):
    """The next iteration is no continuation of this one: none of its first numbers occurs early here."""
    seed, role, iteration, substream = key
    here = set(bl.randomness.stream(*key).integers(0, 2**63, size=2000).tolist())
    following = bl.randomness.stream(seed, role, iteration + 1, substream).integers(0, 2**63, size=2000).tolist()
    assert here.isdisjoint(following)


@given(keys)
def test_spawned_children_are_reproducible_and_different_from_one_another(key):
    """Libraries spawn; what they spawn must not come from the operating system's entropy."""
    children = [draws(child) for child in bl.randomness.stream(*key).spawn(3)]
    again = [draws(child) for child in bl.randomness.stream(*key).spawn(3)]
    assert children == again
    assert len({tuple(child) for child in [*children, draws(bl.randomness.stream(*key))]}) == 4


def test_spawning_twice_gives_new_children():
    rng = bl.randomness.stream(0, "lower")
    assert draws(rng.spawn(1)[0]) != draws(rng.spawn(1)[0])


def test_streams_of_successive_iterations_are_not_correlated():
    """Means and lag-one products of uniform draws over 4,000 iterations, each within five standard errors."""
    uniforms = np.array([bl.randomness.stream(7, "lower", iteration).random() for iteration in range(4000)]) - 0.5
    deviation = 5 / np.sqrt(12 * 4000)
    assert abs(uniforms.mean()) < deviation
    assert abs((uniforms[1:] * uniforms[:-1]).mean()) < 5 / (12 * np.sqrt(3999))


def test_a_stream_survives_pickling():
    """A worker in another process continues where the stream was."""
    rng = bl.randomness.stream(3, "estimator", 5, 2)
    rng.random(5)
    sent = pickle.loads(pickle.dumps(rng))
    assert draws(sent) == draws(rng)


def test_the_numbers_of_a_stream_are_part_of_the_format():
    """Saved runs are replayed by later versions: a change here breaks every one of them."""
    assert bl.randomness.stream(0, "start").integers(0, 1000, size=5).tolist() == [120, 555, 218, 477, 767]


def test_a_negative_seed_is_refused():
    with pytest.raises(bl.InputError, match="seed is -1; expected an integer of at least 0"):
        bl.randomness.stream(-1, "start")


def test_component_that_declares_no_randomness_is_spared_its_stream() -> None:
    """A component that draws gets the stream of its role and iteration."""

    class Drawing:
        tags = bl.Tags("unbiased", deterministic=False)

    class Silent:
        tags = bl.Tags("exact")

    streams = bl.randomness.Streams(3)
    assert streams.of(Drawing(), "lower", 5).random() == bl.randomness.stream(3, "lower", 5).random()
    assert streams.of(Silent(), "lower", 5) is streams.of(Silent(), "estimator", 9)
