"""The solver obeys every law that its tags let apply, but for one."""

from bilevelrl_lighthouse import GaussSeidel

from bilevelrl import testing

KNOWN = {"relabelling_states_permutes_the_answer": "the states are swept in the order of their numbers"}


@testing.parametrize_with_checks([GaussSeidel], expected_failed_checks=KNOWN, examples=20)
def test_laws(check):
    check()
