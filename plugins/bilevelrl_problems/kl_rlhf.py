"""Fine-tuning a small language model on preferences, with a KL penalty towards the original model.

The follower writes sequences of tokens and maximises a learnt reward minus τ times the KL divergence to a reference
policy μ; the leader fits the reward to a labeller's preferences. The follower's policy has the closed form
`π* ∝ μ exp(Q*/τ)`, which for a single token (or γ = 0) is `μ exp(r/τ)` normalised.
"""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import numpy as np
import scipy.sparse

import bilevelrl as bl
from bilevelrl_problems.soft_optimum import soft_optimal_policy
from bilevelrl_problems.statistics import correlation


@attrs.frozen
class KLRLHF:
    """KL-regularised reinforcement learning from human feedback, on a model of bigrams.

    A sequence begins with a prompt, one of V tokens with equal probability, and `length` tokens follow. `instance`
    selects the random reference model μ(next|last) and the hidden reward of each pair (last, next), which is standard
    Gaussian. The follower maximises

        E[Σ_h γ^h (x_(last,next) − τ log π(next|last, h)/μ(next|last))]

    and the leader minimises the Bradley–Terry loss of x, one parameter for each pair, on the answers of a labeller,
    which compares two sequences by the sum of the hidden reward. With `preferences="online"` the follower writes the
    sequences, so the data depend on x; this needs an algorithm that samples, such as sobirl or stoc-sobirl. With
    `preferences="offline"` the reference model has written a fixed set beforehand; every algorithm can be used, and
    the implicit part of the gradient is zero.

    Source: Ouyang et al., "Training language models to follow instructions with human feedback", NeurIPS 2022; the
    closed form as in Rafailov et al., "Direct preference optimization", NeurIPS 2023, section 4. As a bilevel problem:
    Yang, Gao and Yuan, AISTATS 2025 (arXiv 2405.19697).

    Args:
        vocabulary: V ≥ 2, tokens.
        length: H ≥ 1, tokens after the prompt.
        preferences: "online" or "offline".
        pairs: size of the fixed set, ≥ 1; offline only.
        noisy: whether the labeller errs as in the Bradley–Terry model, or answers with the probability itself.
        steepness: how decided the labeller is, > 0, in 1/reward.
        sharpness: standard deviation of the reference model's logits, ≥ 0; 0 for the uniform model.
        discount: γ of the follower, in [0, 1).
        temperature: τ > 0, the weight of the KL divergence, in units of the reward.
        instance: selects the random model, hidden reward and fixed set, an integer of at least 0.
    """

    name: ClassVar[str] = "kl-rlhf"
    algorithm: ClassVar[str] = "m-sobirl"

    vocabulary: int = attrs.field(default=5, validator=bl.validation.is_integer(at_least=2))
    length: int = attrs.field(default=6, validator=bl.validation.is_integer(at_least=1))
    preferences: str = attrs.field(default="online", validator=bl.validation.is_choice("online", "offline"))
    pairs: int = attrs.field(default=2000, validator=bl.validation.is_integer(at_least=1))
    noisy: bool = attrs.field(default=True, validator=bl.validation.is_flag())
    steepness: float = attrs.field(default=1.0, validator=bl.validation.is_real(above=0.0))
    sharpness: float = attrs.field(default=1.0, validator=bl.validation.is_real(at_least=0.0))
    discount: float = attrs.field(default=0.99, validator=bl.validation.is_real(at_least=0.0, below=1.0))
    temperature: float = attrs.field(default=1.0, validator=bl.validation.is_real(above=0.0))
    instance: int = attrs.field(default=0, validator=bl.validation.is_integer(at_least=0))

    def build(self) -> bl.BilevelProblem:
        """The problem; states are (position, last token), row-major, and the end."""
        # The kernel has as many entries, with indices, as the features.
        bl.validation.check_fits(f"the features of {self.name!r}", (self.length, self.vocabulary, self.vocabulary, 3))
        if self.preferences == "offline":
            bl.validation.check_fits(f"the pairs of {self.name!r}", (self.pairs, 2, self.length, 3))
        rng = bl.randomness.stream(self.instance, self.name)
        logits = self.sharpness * rng.standard_normal((self.vocabulary, self.vocabulary))
        hidden = rng.standard_normal((self.vocabulary, self.vocabulary))
        reward = bl.parametric.LinearReward(np.zeros((self._states, self.vocabulary)), self._features())
        initial = np.zeros(self._states)
        initial[: self.vocabulary] = 1.0 / self.vocabulary
        reference = self._reference(logits)
        lower = bl.ParametricMDP(self._kernel(), reward, self.discount, self.temperature, initial, reference)
        ideal = lower.model(hidden.reshape(-1))
        best = soft_optimal_policy(ideal)

        def measures(x: bl.Array, solution: Any) -> dict[str, float]:
            return self._measures(ideal, best, hidden, x, solution.policy)

        def picture(axes: Any, x: bl.Array, solution: Any) -> None:
            self._draw(axes, reference, best, hidden, x, solution.policy)

        return bl.BilevelProblem(
            lower=lower, objective=self._objective(reward, ideal, reference), measures=measures, picture=picture
        )

    @property
    def _states(self) -> int:
        return self.length * self.vocabulary + 1

    def _kernel(self) -> Any:
        """P (S·V, S), sparse: token a at position h leads to (h + 1, a), the last token to the end."""
        positions, _, tokens = np.indices((self.length, self.vocabulary, self.vocabulary))
        following = np.where(positions + 1 < self.length, (positions + 1) * self.vocabulary + tokens, self._states - 1)
        successors = np.append(following.reshape(-1), np.full(self.vocabulary, self._states - 1))
        rows = np.arange(successors.size)
        return scipy.sparse.csr_array(
            (np.ones(successors.size), (rows, successors)), shape=(successors.size, self._states)
        )

    def _features(self) -> Any:
        """(S·V, V²), sparse: indicators of the pair (last, next); none at the end."""
        written = self.length * self.vocabulary**2
        columns = np.tile(np.arange(self.vocabulary**2), self.length)
        return scipy.sparse.csr_array(
            (np.ones(written), (np.arange(written), columns)),
            shape=(self._states * self.vocabulary, self.vocabulary**2),
        )

    def _reference(self, logits: bl.Array) -> bl.Array:
        """μ (S, V), the same at every position; uniform at the end."""
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        model = weights / weights.sum(axis=1, keepdims=True)
        return np.vstack([*[model] * self.length, np.full((1, self.vocabulary), 1.0 / self.vocabulary)])

    def _objective(self, reward: bl.parametric.LinearReward, ideal: bl.SoftMDP, reference: bl.Array) -> Any:
        labeller = bl.objectives.RewardLabeller(ideal.rewards, noisy=self.noisy, steepness=self.steepness)
        if self.preferences == "online":
            return bl.objectives.PreferenceObjective(reward, labeller, self.length)
        rng = bl.randomness.stream(self.instance, f"{self.name} pairs")
        paths = bl.sampling.TabularSimulator(ideal).rollout(reference, 2 * self.pairs, self.length, rng)
        first, second = paths.part(slice(0, None, 2)), paths.part(slice(1, None, 2))
        return bl.objectives.PreferenceDatasetObjective(
            reward, bl.objectives.PreferenceDataset(first, second, labeller(first, second, rng))
        )

    def _measures(
        self, ideal: bl.SoftMDP, best: bl.Array, hidden: bl.Array, x: bl.Array, policy: bl.Array
    ) -> dict[str, float]:
        earned, regularised, possible = (
            float(ideal.initial @ bl.mdp.policy_values(ideal, judged, regularized=flag))
            for judged, flag in ((policy, False), (policy, True), (best, True))
        )
        visits = bl.mdp.discounted_occupancy(ideal, best)[:-1].sum(axis=1)
        apart = 0.5 * np.abs(policy - best)[:-1].sum(axis=1)
        return {
            "follower's hidden return": earned,
            "KL to the reference, nats": (earned - regularised) / self.temperature,
            "regularised value lost": possible - regularised,
            "distance to the ideal policy": float(visits @ apart / visits.sum()),
            "reward correlation": correlation(x, hidden.reshape(-1)),
        }

    def _draw(
        self, axes: Any, reference: bl.Array, best: bl.Array, hidden: bl.Array, x: bl.Array, policy: bl.Array
    ) -> None:
        """Rewards above, policies for the first token below; rows: last token, columns: next."""
        size = self.vocabulary
        rewards = [("hidden reward", hidden - hidden.mean()), ("learnt reward", x.reshape(size, size) - x.mean())]
        policies = [("reference model", reference[:size]), ("follower", policy[:size]), ("ideal", best[:size])]
        scale = max(float(np.abs(table).max()) for _, table in rewards)
        axes.axis("off")
        axes.set_title("rewards minus their means, and policies; rows: last token", loc="left", fontsize=10)
        names = [chr(ord("a") + token % 26) for token in range(size)]
        for bottom, tables, style in (
            (0.54, rewards, {"cmap": "RdBu", "vmin": -scale, "vmax": scale}),
            (0.06, policies, {"cmap": "Purples", "vmin": 0.0, "vmax": 1.0}),
        ):
            for column, (label, table) in enumerate(tables):
                inset = axes.inset_axes((0.02 + 0.32 * column, bottom, 0.27, 0.36))
                image = inset.imshow(table, **style)
                inset.set_xticks(range(size), names, fontsize=8)
                inset.set_yticks(range(size), names, fontsize=8)
                inset.tick_params(length=0)
                inset.spines[:].set_visible(False)
                inset.set_title(label, fontsize=9)
            bar = axes.inset_axes((0.02 + 0.32 * len(tables) - 0.02, bottom, 0.02, 0.36))
            axes.figure.colorbar(image, cax=bar)
