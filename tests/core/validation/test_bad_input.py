"""Every bad input gets one sentence — field, value, what was expected — from Python and from the command line.

The table below is the catalogue: what goes wrong, how, and the words a user must see.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest
import scipy.sparse

import bilevelrl as bl
from bilevelrl.cli import main

S, A = 3, 2


def kernel() -> bl.Array:
    return np.full((S, A, S), 1.0 / S)


def mdp(**changes: Any) -> bl.SoftMDP:
    fields = {"transitions": kernel(), "rewards": np.zeros((S, A)), "discount": 0.9, "temperature": 1.0}
    return bl.SoftMDP(**(fields | changes))


def problem(**changes: Any) -> bl.BilevelProblem:
    lower = bl.ParametricMDP(kernel(), bl.parametric.TabularReward(np.zeros((S, A))), 0.9, 1.0)
    fields = {"lower": lower, "objective": bl.objectives.QuadraticObjective(), "name": "small"}
    return bl.BilevelProblem(**(fields | changes))


def changed(array: bl.Array, index: Any, value: float) -> bl.Array:
    array = array.copy()
    array[index] = value
    return array


def run(**changes: Any) -> bl.Run:
    return bl.algorithm("m-sobirl").run(problem(), **({"iterations": 1} | changes))


def broken_kernel() -> bl.Array:
    rows = kernel()
    rows[1, 0] *= 0.97
    rows[2, 1] *= 0.5  # the worst
    return rows


def paths(kind: type = int) -> bl.sampling.Trajectories:
    """One trajectory of three steps."""
    return bl.sampling.Trajectories(np.zeros((1, 4), kind), np.zeros((1, 3), int), np.zeros((1, 3)))


class OnlySampling:
    dimension = 2
    occupancy_forms = (bl.occupancy.DenseOccupancy,)

    def simulator(self, x: bl.Array) -> None:
        """Never called."""

    def pullback(self, x: bl.Array, occupancy: bl.occupancy.Occupancy) -> bl.Array:
        return x


IN_PYTHON: dict[str, tuple[Callable[[], Any], str]] = {
    "row sum": (lambda: mdp(transitions=broken_kernel()), r"sum of transitions\[2, 1, :\] is 0\.5; expected 1 within"),
    "row sum, sparse": (
        lambda: mdp(transitions=scipy.sparse.csr_array(broken_kernel().reshape(-1, S))),
        r"sum of transitions\[2, 1, :\] is 0\.5; expected 1 within",
    ),
    "negative probability": (
        lambda: mdp(transitions=changed(kernel(), (1, 1, 2), -0.25)),
        r"transitions\[1, 1, 2\] is -0\.25; expected a probability",
    ),
    "negative probability, sparse": (
        lambda: mdp(transitions=scipy.sparse.csr_array(changed(kernel(), (1, 1, 2), -0.25).reshape(-1, S))),
        r"transitions\[1, 1, 2\] is -0\.25; expected a probability",
    ),
    "NaN probability": (
        lambda: mdp(transitions=changed(kernel(), (0, 1, 2), np.nan)),
        r"transitions\[0, 1, 2\] is nan; expected a finite number",
    ),
    "NaN reward": (
        lambda: mdp(rewards=changed(np.zeros((S, A)), (2, 0), np.nan)),
        r"rewards\[2, 0\] is nan; expected a finite number",
    ),
    "infinite reward": (
        lambda: mdp(rewards=changed(np.zeros((S, A)), (2, 1), np.inf)),
        r"rewards\[2, 1\] is inf; expected a finite number",
    ),
    "discount one": (lambda: mdp(discount=1.0), r"discount is 1\.0; expected a finite number at least 0 and below 1"),
    "discount negative": (lambda: mdp(discount=-0.1), r"discount is -0\.1; expected .* at least 0 and below 1"),
    "discount a word": (lambda: mdp(discount="0.9"), r"discount is '0\.9'; expected a finite number"),
    "temperature zero": (lambda: mdp(temperature=0), r"temperature is 0; expected a finite number above 0"),
    "temperature negative": (lambda: mdp(temperature=-1.0), r"temperature is -1\.0; expected .* above 0"),
    "rewards' shape": (
        lambda: mdp(rewards=np.zeros((A, S))),
        r"the shape of rewards is \(2, 3\); expected \(3, 2\)",
    ),
    "rewards ragged": (lambda: mdp(rewards=[[0.0, 1.0], [0.0]]), r"rewards is a ragged list; expected an array"),
    "rewards complex": (
        lambda: mdp(rewards=np.zeros((S, A), complex) + 1j),
        r"rewards\[0, 0\] is 1j; expected a real number",
    ),
    "kernel not square": (
        lambda: mdp(transitions=np.full((S, A, 2), 0.5)),
        r"the shape of transitions is \(3, 2, 2\); expected \(S, A, S\)",
    ),
    "no states": (lambda: mdp(transitions=np.zeros((0, 2, 0))), r"the shape of transitions is \(0, 2, 0\); expected"),
    "initial sum": (lambda: mdp(initial=[0.5, 0.5, 0.5]), r"the sum of initial is 1\.5; expected 1 within"),
    "initial negative": (lambda: mdp(initial=[1.5, -0.5, 0.0]), r"initial\[1\] is -0\.5; expected a probability"),
    "initial's shape": (lambda: mdp(initial=[1.0]), r"the shape of initial is \(1,\); expected \(3,\)"),
    "reference zero": (
        lambda: mdp(reference=changed(np.full((S, A), 0.5), (1, 0), 0.0)),
        r"reference\[1, 0\] is 0\.0; expected a positive number",
    ),
    "x too short": (lambda: run(x=np.zeros(5)), r"the shape of x is \(5,\); expected \(6,\)"),
    "x NaN": (lambda: run(x=changed(np.zeros(6), 4, np.nan)), r"x\[4\] is nan; expected a finite number"),
    "x for the model": (lambda: problem().lower.model(np.zeros(2)), r"the shape of x is \(2,\); expected \(6,\)"),
    "x infinite for the gradient": (
        lambda: bl.value_and_gradient(problem(), np.full(6, np.inf)),
        r"x\[0\] is inf; expected a finite number",
    ),
    "a tolerance of the exact gradient that is none": (
        lambda: bl.value_and_gradient(problem(), np.zeros(6), tolerance=0.0),
        r"^tolerance is 0\.0; expected a finite number above 0$",
    ),
    "no problem for the exact gradient": (
        lambda: bl.value_and_gradient("small", np.zeros(6)),
        r"^problem is a str; expected a BilevelProblem, such as bilevelrl\.problem\(name\)$",
    ),
    "no model for the exact gradient": (
        lambda: bl.value_and_gradient(bl.problem("gymnasium-preferences"), np.zeros(6)),
        r"^the exact gradient needs a transition model \(SupportsModel\); problem 'gymnasium-preferences' offers a S",
    ),
    "no objective of the policy for the exact gradient": (
        lambda: bl.value_and_gradient(bl.problem("gridworld-preferences"), np.zeros(6)),
        r"^the exact gradient needs an objective of the policy \(PolicyObjective\); problem 'gridworld-preferences'",
    ),
    "x words": (lambda: run(x=["a"] * 6), r"x\[0\] is 'a'; expected a real number"),
    "start's length": (lambda: problem(start=np.zeros(4)), r"start of problem 'small' is \(4,\); expected \(6,\)"),
    "feasible set's length": (
        lambda: problem(feasible_set=bl.Box(np.zeros(4), np.ones(4))),
        r"feasible_set of problem 'small' is a Box of another dimension; expected a set in R\^6",
    ),
    "box upside down": (lambda: bl.Box(1.0, -1.0), r"Box\.lower is 1\.0; expected at most Box\.upper = -1\.0"),
    "box upside down in one place": (
        lambda: bl.Box(np.zeros(900), changed(np.ones(900), 7, -1.0)),
        r"Box\.lower\[7\] is 0\.0; expected at most Box\.upper\[7\] = -1\.0",
    ),
    "box with bounds of two lengths": (
        lambda: bl.Box(np.zeros(2), np.ones(3)),
        r"the shapes of Box\.lower and Box\.upper is \(2,\) and \(3,\); expected a number or \(n,\) each",
    ),
    "a term that is no objective": (
        lambda: bl.objectives.WeightedSum([(1.0, bl.objectives.QuadraticObjective()), (0.5, kernel())]),
        r"the objective of WeightedSum\.terms\[1\] is a ndarray; expected a PolicyObjective",
    ),
    "a list of words": (
        lambda: mdp(rewards=[[0.0, 1.0], [0.0, "one"], [0.0, 1.0]]),
        r"rewards\[1, 1\] is 'one'; expected a real number",
    ),
    "ball without radius": (lambda: bl.problems.Ball(0.0), r"radius is 0\.0; expected a finite number above 0"),
    "objective that is none": (
        lambda: problem(objective=3),
        r"objective of problem 'small' is an int; expected Policy",
    ),
    "iterations": (lambda: run(iterations=-1), r"iterations is -1; expected an integer of at least 0"),
    "iterations a flag": (lambda: run(iterations=True), r"iterations is True; expected an integer"),
    "seed": (lambda: run(seed=-3), r"seed is -3; expected an integer of at least 0"),
    "iterations a NumPy float": (lambda: run(iterations=np.float64(3.0)), r"iterations is 3\.0; expected an integer"),
    "seed of a single step": (
        lambda: bl.algorithm("m-sobirl").start(problem(), seed="7"),
        r"seed is '7'; expected an integer of at least 0",
    ),
    "tolerance a word": (lambda: run(tolerance="1e-8"), r"tolerance is '1e-8'; expected a finite number of at least 0"),
    "a number beyond the floats": (
        lambda: mdp(temperature=10**400),
        r"temperature is 1000+…; expected a finite number above 0",
    ),
    "a name for a problem": (
        lambda: bl.algorithm("m-sobirl").run("frozenlake-shaping", iterations=1),
        r"problem is a str; expected a BilevelProblem, such as bilevelrl\.problem\(name\)",
    ),
    "tolerance": (lambda: run(tolerance=np.nan), r"tolerance is nan; expected a finite number of at least 0"),
    "unknown solver": (
        lambda: bl.lower_level_solver("soft-value-iterations"),
        r"lower-level solver is 'soft-value-iterations'; expected a known name; did you mean 'soft-value-iteration'",
    ),
    "unknown estimator": (
        lambda: bl.hypergradient_estimator("implict"),
        r"estimator is 'implict'; expected a known name; did you mean 'implicit'",
    ),
    "unknown problem": (lambda: bl.problem("frozenlake"), r"problem is 'frozenlake'; .* mean 'frozenlake-shaping'"),
    "unknown algorithm": (lambda: bl.algorithm("msobirl"), r"algorithm is 'msobirl'; .* mean .*'m-sobirl'"),
    "unknown name, nothing close": (lambda: bl.upper_level_optimizer("zzz"), r"is 'zzz'; expected one of 'adam', "),
    "unknown name, another case": (lambda: bl.algorithm("M-SoBiRL"), r"is 'M-SoBiRL'; .* did you mean 'm-sobirl'"),
    "a number for a name": (lambda: bl.algorithm(3), r"the name of algorithm is 3; expected a string"),
    "options too large for any memory": (
        lambda: bl.problem("synthetic-quadratic", dimension=10**12),
        r"the form of 'synthetic-quadratic' is an array of shape \(1000000000000, 1000000000000\), more than 1023 EiB; "
        r"expected one that fits into the .* of memory here",
    ),
    "a dense kernel beyond memory": (  # a view of one number, until it is copied
        lambda: bl.SoftMDP(np.broadcast_to(np.float32(1e-6), (10**6, 4, 10**6)), np.zeros((10**6, 4)), 0.9, 1.0),
        r"transitions is an array of shape \(1000000, 4, 1000000\), 29\.1 TiB; expected one that fits into the .* of "
        r"memory here, or a scipy\.sparse array \(S·A, S\), which stores what is not zero",
    ),
    "unknown option": (
        lambda: bl.algorithm("m-sobirl", step_sise=0.1),
        r"an option of 'm-sobirl' is 'step_sise'; expected a known name; did you mean 'step_size'",
    ),
    "option's range": (
        lambda: bl.algorithm("m-sobirl", step_size=-1.0),
        r"option 'step_size' of 'm-sobirl' is -1\.0; expected a finite number above 0",
    ),
    "option's type": (
        lambda: bl.algorithm("m-sobirl", sweeps=2.5),
        r"option 'sweeps' of 'm-sobirl' is 2\.5; expected an integer",
    ),
    "component's need": (
        lambda: bl.algorithm("m-sobirl").run(problem(lower=OnlySampling(), name="cartpole"), iterations=1),
        r"lower-level solver 'soft-value-iteration' needs a transition model \(SupportsModel\); problem 'cartpole' "
        r"offers only SupportsSampling\. Lower-level solvers that would work: ",
    ),
    "class for an instance": (
        lambda: bl.Algorithm(type(bl.lower_level_solver("soft-policy-iteration")), None, None),
        r"lower is the class SoftPolicyIteration; expected an instance, such as SoftPolicyIteration\(\)",
    ),
    "environment without a table": (
        lambda: bl.problem("gymnasium-shaping", environment="CartPole-v1"),
        r"the transition table of CartPole-v1 is missing; expected an environment with a table env\.unwrapped\.P",
    ),
    "environment that does not exist": (
        lambda: bl.problem("gymnasium-shaping", environment="FrozenLak-v1"),
        r"environment is 'FrozenLak-v1'; expected one that Gymnasium can make",
    ),
    "environment that would import a module": (
        lambda: bl.problem("gymnasium-shaping", environment="os:Env-v0"),
        r"environment is 'os:Env-v0'; expected the id of a registered environment, without ':'",
    ),
    "continuous spaces": (
        lambda: bl.problem("gymnasium-preferences", environment="CartPole-v1"),
        r"the follower's observation_space is Box\(.*; expected Discrete.*function approximation",
    ),
    "preference outside": (
        lambda: bl.objectives.PreferenceDataset(
            *([bl.sampling.Trajectories(*np.zeros((3, 2, 4), int)[:, :, :4])] * 2), [0.5, 1.5]
        ),
        r"preferences\[1\] is 1\.5; expected a number in \[0, 1\]",
    ),
    "pairs of unequal length": (
        lambda: bl.objectives.PreferenceDataset(
            bl.sampling.Trajectories(np.zeros((2, 5), int), np.zeros((2, 4), int), np.zeros((2, 4))),
            bl.sampling.Trajectories(np.zeros((2, 4), int), np.zeros((2, 3), int), np.zeros((2, 3))),
            [0.5, 0.5],
        ),
        r"PreferenceDataset\.second is \(2, 3\); expected \(2, 4\) as of first: pairs of equal length",
    ),
    "pairs that are no trajectories": (
        lambda: bl.objectives.PreferenceDataset([[0, 1]], paths(), [0.5]),
        r"PreferenceDataset\.first is a list; expected Trajectories",
    ),
    "states that are fractions": (
        lambda: bl.objectives.PreferenceDatasetObjective(
            bl.parametric.TabularReward(np.zeros((S, A))), bl.objectives.PreferenceDataset(paths(float), paths(), [0.5])
        ).value_and_gradients(np.zeros(S * A), np.zeros((S, A))),
        r"the observations of a PreferenceDataset is an array of float64 .*; expected integers",
    ),
    "preferences without a reward to learn": (
        lambda: bl.objectives.PreferenceObjective(np.zeros((S, A)), bl.objectives.ReturnLabeller(), 3),
        r"PreferenceObjective\.rewards is a ndarray; expected a parametric reward",
    ),
    "a labeller that cannot be asked": (
        lambda: bl.objectives.PreferenceObjective(bl.parametric.TabularReward(np.zeros((S, A))), "me", 3),
        r"PreferenceObjective\.labeller is a str; expected a Labeller, a function of",
    ),
    "a trajectory without its partner": (
        lambda: bl.objectives.PreferenceObjective(
            bl.parametric.TabularReward(np.zeros((S, A))), bl.objectives.ReturnLabeller(), 3
        ).loss_and_gradient(np.zeros(S * A), paths(), bl.randomness.stream(0, "labels")),
        r"the trajectories of a pair is unequal in number or length; expected pairs of equal length",
    ),
    "a labeller without what the environment paid": (
        lambda: bl.objectives.ReturnLabeller()(paths(), paths(), bl.randomness.stream(0, "labels")),
        r"trajectories\.environment_rewards is None; expected a simulator that reports them",
    ),
    "a budget of nothing that is counted": (
        lambda: bl.comparison.Budget(3, 1),
        r"the unit of the budget is 3; expected a string",
    ),
    "a number for a word": (
        lambda: type(bl.hypergradient_estimator("itd"))(start=3),
        r"start is 3; expected one of 'solution', 'zero'",
    ),
    "terms that are no pairs": (
        lambda: bl.objectives.WeightedSum(3),
        r"WeightedSum\.terms is 3; expected pairs \(weight, objective",
    ),
    "a weight that is none": (
        lambda: bl.objectives.WeightedSum([(np.nan, bl.objectives.QuadraticObjective())]),
        r"the weight of WeightedSum\.terms\[0\] is nan; expected a finite number",
    ),
    "a slice of nothing": (
        lambda: bl.parametric.Slice(np.zeros(3), 0, 6),
        r"Slice\.part is a ndarray; expected a parametric part",
    ),
    "x for the pullback": (
        lambda: problem().lower.pullback(np.zeros(2), bl.occupancy.DenseOccupancy(np.zeros((S, A)))),
        r"the shape of x is \(2,\); expected \(6,\)",
    ),
    "horizon": (
        lambda: bl.objectives.CallableTrajectoryObjective(lambda x, d, rng: (x, x), horizon=0),
        r"horizon is 0; expected an integer of at least 1",
    ),
    "parts of different dimensions": (
        lambda: bl.ParametricMDP(
            bl.parametric.SoftmaxTransitions(kernel()), bl.parametric.TabularReward(np.zeros((S, A))), 0.9, 1.0
        ),
        r"the dimension of the parts is transitions has 18, rewards has 6; expected one n; use Slice",
    ),
    "a directory that is none": (lambda: run(out=5), r"^out is 5; expected a path: a string or a pathlib\.Path$"),
    "a directory of seeds that is none": (
        lambda: bl.algorithm("m-sobirl").run_seeds(problem(), seeds=2, iterations=1, out=b"runs"),
        r"^out is b'runs'; expected a path",
    ),
    "a directory to save to that is none": (lambda: run().save(3), r"^directory is 3; expected a path"),
    "a directory to load from that is none": (lambda: bl.load_run(None), r"^directory is None; expected a path"),
    "a directory to go on with that is none": (lambda: bl.resume_run(3), r"^directory is 3; expected a path"),
    "a directory of seeds to go on with that is none": (
        lambda: bl.resume_seeds([]),
        r"^directory is \[\]; expected a path",
    ),
    "a directory for an algorithm that is none": (
        lambda: bl.algorithm("m-sobirl").resume(problem(), 3),
        r"^directory is 3; expected a path",
    ),
    "a history's file that is none": (lambda: run().history.to_csv(3), r"^path is 3; expected a path"),
    "a history to read that is none": (lambda: bl.storage.History.read(3), r"^path is 3; expected a path"),
    "a picture's file that is none": (lambda: run().plot(3), r"^path is 3; expected a path"),
    "an estimate that is none": (
        lambda: bl.certificates.certify(problem(), np.zeros(6), None, None),
        r"^hyper is None; expected a HyperGradient$",
    ),
    "a problem that is none": (
        lambda: bl.certificates.certify("small", np.zeros(6), None, run().last.hyper),
        r"^problem is a str; expected a BilevelProblem$",
    ),
    "a function that is none": (
        lambda: bl.execution.parallel_map(None, None, [1]),
        r"^function is None; expected a function of what is shared and a task$",
    ),
    "tasks that are none": (
        lambda: bl.execution.parallel_map(max, None, 3),
        r"^tasks is an int; expected a list of tasks, or another iterable$",
    ),
    "policy target's shape": (
        lambda: bl.value_and_gradient(
            problem(objective=bl.objectives.QuadraticObjective(policy_target=np.zeros((2, 2)))), np.zeros(6)
        ),
        r"the shape of QuadraticObjective\.policy_target is \(2, 2\); expected \(3, 2\)",
    ),
    "true MDP of another size": (
        lambda: bl.value_and_gradient(
            problem(
                objective=bl.objectives.ReturnObjective(bl.SoftMDP(np.ones((1, 1, 1)), np.zeros((1, 1)), 0.5, 1.0))
            ),
            np.zeros(6),
        ),
        r"the policy judged by ReturnObjective is \(3, 2\); expected \(1, 1\)",
    ),
}


@pytest.mark.parametrize("what", IN_PYTHON)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:gymnasium")
def test_python_gets_one_sentence(what: str) -> None:
    """A `ValueError` whose one line names the field, the value and what was expected."""
    make, sentence = IN_PYTHON[what]
    with pytest.raises(ValueError, match=sentence) as caught:
        make()
    assert isinstance(caught.value, bl.InputError)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@attrs.frozen
class Faulty:
    """A problem whose `fault` option chooses a mistake that only `build` can see."""

    name: ClassVar[str] = "faulty"

    fault: str = "row sum"

    def build(self) -> bl.BilevelProblem:
        """Never gets far."""
        IN_PYTHON[self.fault][0]()
        return problem()


@pytest.fixture
def faulty_problem() -> None:
    """A registry with one more problem, whose construction fails as asked."""

    class Offer:
        @bl.hookimpl
        def bilevelrl_problems(self) -> list[type]:
            return [Faulty]

    bl.plugins.registry.cache_clear()
    bl.register(Offer(), name="faulty-plugin")
    yield
    bl.plugins.registry.cache_clear()


ON_THE_COMMAND_LINE = {
    "unknown problem": (["run", "frozenlake"], "did you mean 'frozenlake-shaping'"),
    "unknown algorithm": (["run", "synthetic-quadratic", "-a", "m-sobirrl"], "did you mean 'm-sobirl'"),
    "unknown solver": (["run", "synthetic-quadratic", "--lower", "soft-value"], "lower-level solver is 'soft-value'"),
    "unknown option": (["run", "synthetic-quadratic", "--set", "lower.sweps=3"], "did you mean 'sweeps'"),
    "unknown part": (["run", "synthetic-quadratic", "--set", "lover.sweeps=3"], "did you mean 'lower'"),
    "option without value": (["run", "synthetic-quadratic", "--set", "sweeps"], "expected KEY=VALUE"),
    "option's type": (["run", "synthetic-quadratic", "--set", "sweeps=many"], "is 'many'; expected an integer"),
    "option's range": (["run", "synthetic-quadratic", "--set", "problem.discount=1.0"], "is 1.0; expected"),
    "option's range, nan": (["run", "synthetic-quadratic", "--set", "problem.discount=nan"], "is nan; expected"),
    "iterations": (["run", "synthetic-quadratic", "--iterations", "-5"], "iterations is -5; expected"),
    "iterations a word": (["run", "synthetic-quadratic", "--iterations", "ten"], "'ten' is not a valid integer"),
    "seed": (["run", "synthetic-quadratic", "--seed", "-1"], "seed is -1; expected an integer of at least 0"),
    "setting as an option": (["run", "synthetic-quadratic", "--set", "iterations=5"], "the option --iterations"),
    "no table": (["run", "gymnasium-shaping", "--set", "problem.environment=CartPole-v1"], "transition table"),
    "component's need": (
        ["run", "gymnasium-preferences", "-a", "m-sobirl"],
        "needs a transition model (SupportsModel); problem 'gymnasium-preferences' offers only SupportsSampling",
    ),
    "objective's need": (
        ["run", "gridworld-preferences", "-a", "m-sobirl"],
        "estimator 'warm-start-adjoint' needs an objective of the policy (PolicyObjective)",
    ),
    "missing file": (["run", "nowhere.toml"], "nowhere.toml is unreadable"),
    "unknown list": (["list", "solver"], "did you mean 'solvers'"),
    "unknown name to show": (["show", "implict"], "did you mean 'implicit'"),
    **{
        f"built with {fault}": (["run", "faulty", "--set", f'problem.fault="{fault}"'], "; expected ")
        for fault in ("row sum", "negative probability", "NaN reward", "infinite reward", "discount one")
    },
    **{
        f"built with {fault}": (["run", "faulty", "--set", f'problem.fault="{fault}"'], "; expected ")
        for fault in ("temperature zero", "rewards' shape", "reference zero", "start's length", "x for the model")
    },
}


@pytest.mark.parametrize("what", ON_THE_COMMAND_LINE)
@pytest.mark.usefixtures("faulty_problem")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:gymnasium")
def test_command_line_gets_one_line_and_exit_status_2(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, words = ON_THE_COMMAND_LINE[what]
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert words in output.err
    assert "Traceback" not in output.err
    last = output.err.strip().splitlines()[-1]
    assert last.startswith("Error: ")


FILES = {
    "unknown key": ("iteratons = 5\n", "did you mean 'iterations'"),
    "unknown table": ("[probelm]\nname = 'x'\n", "did you mean 'problem'"),
    "unknown option": ("[problem]\nname = 'synthetic-quadratic'\nstate = 3\n", "did you mean 'states'"),
    "wrong type of a setting": (
        "iterations = 'many'\n[problem]\nname = 'synthetic-quadratic'\n",
        "iterations is 'many'",
    ),
    "flag for a number": (
        "seed = true\n[problem]\nname = 'synthetic-quadratic'\n",
        "seed is True; expected an integer",
    ),
    "wrong type of an option": (
        "[problem]\nname = 'synthetic-quadratic'\nstates = 2.5\n",
        "is 2.5; expected an integer",
    ),
    "list for a number": ("[problem]\nname = 'synthetic-quadratic'\nstates = [3]\n", "is [3]; expected an integer"),
    "value for a table": ("problem = 'synthetic-quadratic'\n", "[problem] is 'synthetic-quadratic'; expected a table"),
    "name that is no string": ("[problem]\nname = 3\n", "problem.name is 3; expected a string"),
    "no problem": ("[algorithm]\nname = 'm-sobirl'\n", "problem.name is missing"),
    "no algorithm": ("[problem]\nname = 'synthetic-quadratic'\n", "lower.name is missing"),
    "not TOML": ("[problem\n", "not TOML"),
}


@pytest.mark.parametrize("what", FILES)
def test_experiment_file_gets_one_line_and_exit_status_2(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, words = FILES[what]
    file = tmp_path / "experiment.toml"
    file.write_text(content)
    with pytest.raises(SystemExit) as caught:
        main(["run", str(file)])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("Error: ")
    assert len(error.splitlines()) == 1


def test_experiment_file_in_another_encoding_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "experiment.toml"
    file.write_bytes(b"\xff\xfe\x00bad")
    with pytest.raises(SystemExit):
        main(["run", str(file)])
    assert "not text in UTF-8" in capsys.readouterr().err


def test_directory_that_cannot_be_made_is_told_before_anything_is_computed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").write_text("a file, not a directory")
    with pytest.raises(SystemExit) as caught:
        main(["run", "synthetic-quadratic", "--iterations", "1000000000", "--out", str(tmp_path / "taken")])
    assert caught.value.code == 2
    assert re.search(r"the directory '.*taken' is not writable \(File exists.*\)", capsys.readouterr().err)


@pytest.mark.parametrize(
    "make",
    [
        lambda: mdp(rewards=np.zeros((S, A), dtype=np.float32)),
        lambda: mdp(rewards=np.zeros((S, A), dtype=np.int64)),
        lambda: mdp(rewards=[[0, 1], [2, 3], [4, 5]]),
        lambda: mdp(transitions=np.asfortranarray(kernel())),
        lambda: mdp(discount=np.float64(0.5), temperature=np.int64(2)),
        lambda: mdp(transitions=scipy.sparse.coo_matrix(kernel().reshape(-1, S))),
    ],
)
def test_harmless_input_is_taken(make: Callable[[], bl.SoftMDP]) -> None:
    """Other number types, layouts and sparse formats are converted, not rejected."""
    model = make()
    assert model.rewards.dtype == np.float64
    assert np.isfinite(bl.mdp.soft_bellman(model, np.zeros(S))).all()


def small() -> bl.SoftMDP:
    return bl.SoftMDP(np.full((4, 2, 4), 0.25), np.zeros((4, 2)), 0.9, 1.0)


def large_table() -> bl.SoftMDP:
    """Large enough for compiled loops, which read what they are told to."""
    return bl.SoftMDP(np.full((600, 2, 600), 1 / 600), np.zeros((600, 2)), 0.9, 1.0)


def large_sparse() -> bl.SoftMDP:
    rows, states = np.arange(60_000), 30_000
    matrix = scipy.sparse.csr_array((np.ones(rows.size), rows // 2, np.arange(rows.size + 1)), (rows.size, states))
    return bl.SoftMDP(matrix, np.zeros((states, 2)), 0.9, 1.0)


@pytest.mark.parametrize("make", [small, large_table, large_sparse])
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_vector_of_another_length_is_told_and_never_read_beyond_its_end(
    make: Callable[[], bl.SoftMDP], factor: float
) -> None:
    mdp = make()
    states, actions = mdp.rewards.shape
    values, policy = np.zeros(int(states * factor)), np.full((int(states * factor), actions), 1 / actions)
    system = bl.mdp.Linearization(mdp.transitions, mdp.discount, np.full((states, actions), 1 / actions))
    calls: dict[str, Callable[[], Any]] = {
        "values": lambda: (
            bl.mdp.soft_bellman(mdp, values),
            bl.mdp.soft_backup(mdp, values),
            bl.mdp.linearized_backup(mdp, values),
            system.apply(values),
        ),
        "weights": lambda: system.apply_transpose(values),
        "right_hand_side": lambda: system.solve(values),
        "initial": lambda: bl.mdp.discounted_occupancy(mdp, system.policy, values),
        "policy": lambda: bl.mdp.policy_values(mdp, policy),
        "cotangent": lambda: bl.mdp.adjoint_right_hand_side(mdp, policy),
    }
    for field, call in calls.items():
        with pytest.raises(bl.InputError, match=f"^the shape of {field} is "):
            call()
    with pytest.raises(bl.InputError, match=r"^the shape of policy is "):
        _ = bl.mdp.Linearization(mdp.transitions, mdp.discount, policy).chain
    for call in (bl.mdp.soft_bellman, bl.mdp.soft_backup, bl.mdp.linearized_backup):
        with pytest.raises(bl.InputError, match=r"^the shape of values is "):
            call(mdp, values)
