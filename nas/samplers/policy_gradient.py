"""Recurrent policy network that samples one choice after another, trained by proximal policy optimisation.

Sources: Cubuk et al., "Intriguing Properties of Adversarial Examples", arXiv:1711.02846 (adversarial accuracy as reward);
Zoph et al., "Learning Transferable Architectures for Scalable Image Recognition", CVPR 2018, arXiv:1707.07012 (the
policy network); Schulman et al., "Proximal Policy Optimization Algorithms", 2017, arXiv:1707.06347 (the clipped ratio).
"""

from __future__ import annotations

import contextlib
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from torch import nn

from nas.pareto import constrained_rank
from nas.samplers.base import FinishedTrial, Sampler
from search_spaces import Choice

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from nas.samplers.base import History
    from search_spaces import Value

# Architectures drawn for one proposal. The first new one is proposed.
DRAWS = 16
# Maximum number of earlier trials with which a batch is ranked. More would only cost time.
REWARD_WINDOW = 512
# The first BATCHES batches have the configured size. Later sizes are SHARE times the number of earlier trials, if
# that is more.
BATCHES, SHARE = 32, 1 / 12
# Maximum number of trials in one gradient step. The steps on a larger batch alternate between its parts.
MINIBATCH = 64
# Maximum number of cached policies.
CACHED_POLICIES = 4


@final
@dataclass(frozen=True, kw_only=True)
class PolicyGradient(Sampler):
    """Draws architectures from a policy that is trained on batches of trials.

    The reward is a rank: the share of trials that are worse minus the share of trials that are better. It is computed over
    the batch and the trials before it. Trials are compared by their violation of the constraints, then by the objective, or
    with several objectives by front and crowding distance. Failed trials rank last. A rank has the same scale in every study
    and needs no weights between objectives and constraints.

    Attributes:
        batch: Number of trials in a batch. In long searches, later batches are larger.
        steps: Gradient steps per batch.
        learning_rate: Learning rate of Adam.
        entropy: Weight of the entropy bonus, which prevents early convergence.
        clip: Clipping range of the probability ratio in PPO.
        memory: Weight of the previous value in the baseline, a moving average of the mean rewards of the batches.
        hidden: Width of the recurrent network.

    Raises:
        ValueError: a value is out of range.
    """

    batch: int = 8
    steps: int = 4
    learning_rate: float = 0.02
    entropy: float = 0.05
    clip: float = 0.2
    memory: float = 0.5
    hidden: int = 32

    def __post_init__(self) -> None:
        for name in ("batch", "steps", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive, got {getattr(self, name):g}")
        if not 0 <= self.entropy < math.inf:
            raise ValueError(f"entropy must not be negative, got {self.entropy:g}")
        if not 0 <= self.memory < 1:
            raise ValueError(f"memory must be from 0 to below 1, got {self.memory:g}")

    def propose(self, history: History, seed: int) -> dict[str, Value]:
        """Returns the first new architecture of several draws from the policy, or the last draw if none is new."""
        with _isolated_torch():
            policy = _trained_policy(self, history)
            drawn = policy.network.draw(DRAWS, torch.Generator("cpu").manual_seed(seed))
        for places in drawn.tolist():
            choices = zip(history.space.choices.items(), places, strict=True)
            architecture = {name: choice.values[place] for (name, choice), place in choices}
            if history.is_new(architecture):
                break
        return architecture


@final
class PolicyNetwork(nn.Module):
    """Distribution over architectures. B architectures are a tensor (B, T) with the index of the value of each of T choices.

    The untrained distribution is uniform.
    """

    def __init__(self, sizes: Sequence[int], hidden: int) -> None:
        super().__init__()
        # One embedding per value of each choice, and one for the start token.
        starts = np.cumsum([1, *sizes])
        self.first_values = torch.tensor(starts[:-1], device="cpu")
        self.embedding = nn.Embedding(int(starts[-1]), hidden, device="cpu", dtype=torch.float32)
        self.lstm = nn.LSTM(hidden, hidden, batch_first=True, device="cpu", dtype=torch.float32)
        self.output = nn.Parameter(torch.zeros(len(sizes), max(sizes), hidden, device="cpu", dtype=torch.float32))
        absent = torch.arange(max(sizes), device="cpu") >= torch.tensor(sizes, device="cpu")[:, None]
        # -1e9 instead of minus infinity: otherwise the entropy would contain 0 * infinity, which is NaN.
        self.mask = torch.zeros(absent.shape, device="cpu", dtype=torch.float32).masked_fill(absent, -1e9)

    def forward(self, places: Tensor) -> Tensor:
        """Returns log probabilities (B, T, V) of the values of each choice, at most V, given the earlier choices."""
        tokens = torch.cat([torch.zeros_like(places[:, :1]), (places + self.first_values)[:, :-1]], dim=1)
        states, _ = self.lstm(self.embedding(tokens))
        return (torch.einsum("bth,tvh->btv", states, self.output) + self.mask).log_softmax(-1)

    @torch.no_grad()
    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Returns sampled architectures, (count, T)."""
        token, memory = torch.zeros(count, 1, dtype=torch.int64, device="cpu"), None
        places = []
        for first_value, output, mask in zip(self.first_values, self.output, self.mask, strict=True):
            state, memory = self.lstm(self.embedding(token), memory)
            place = torch.multinomial((state[:, 0] @ output.T + mask).softmax(-1), 1, generator=generator)
            places.append(place)
            token = place + first_value
        return torch.cat(places, dim=1)


@final
class Policy:
    """A policy network with the state of its training."""

    def __init__(self, settings: PolicyGradient, choices: Mapping[str, Choice], seed: int) -> None:
        self.settings = settings
        self.places = {
            name: {(type(value), value): place for place, value in enumerate(choice.values)}
            for name, choice in choices.items()
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = PolicyNetwork([len(choice.values) for choice in choices.values()], settings.hidden)
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=settings.learning_rate)
        self.baseline = 0.0

    def learn(self, batch: Sequence[FinishedTrial], before: Sequence[FinishedTrial]) -> None:
        """Trains on one batch of B trials. Probability ratios are relative to the policy before the batch."""
        rewards = rank_rewards([*before, *batch])[len(before) :]
        advantages = torch.tensor(rewards - self.baseline, dtype=torch.float32, device="cpu")[:, None]
        places = torch.tensor(
            [
                [
                    of[type(value), value]
                    for of, value in ((of, trial.architecture[name]) for name, of in self.places.items())
                ]
                for trial in batch
            ],
            device="cpu",
        )
        with torch.no_grad():
            old = self._log_probs_of(self.network(places), places)
        turns, clip = math.ceil(len(batch) / MINIBATCH), self.settings.clip
        for step in range(self.settings.steps):
            rows = slice(step % turns, None, turns)
            probabilities = self.network(places[rows])
            ratios = (self._log_probs_of(probabilities, places[rows]) - old[rows]).exp()
            gains = advantages[rows]
            surrogate = torch.minimum(ratios * gains, ratios.clamp(1 - clip, 1 + clip) * gains).mean()
            entropy = -(probabilities.exp() * probabilities).sum(-1).mean()
            self.optimiser.zero_grad()
            (-surrogate - self.settings.entropy * entropy).backward()
            self.optimiser.step()
        self.baseline += (1 - self.settings.memory) * (float(rewards.mean()) - self.baseline)

    @staticmethod
    def _log_probs_of(probabilities: Tensor, places: Tensor) -> Tensor:
        return probabilities.gather(-1, places[..., None])[..., 0]


# Settings, choices, training trials, and the trained policy.
CacheEntry = tuple[PolicyGradient, Mapping[str, Choice], tuple[FinishedTrial, ...], Policy]


def _trained_policy(settings: PolicyGradient, history: History) -> Policy:
    """Returns the policy trained on all complete batches. Continues from the cached policy with the most batches."""
    cache: list[CacheEntry] = history.cache.setdefault(PolicyGradient, [])
    batches, choices = list(batch_slices(len(history.finished), settings.batch)), history.space.choices
    trials = history.finished[: batches[-1].stop] if batches else ()
    fitting = [
        entry for entry in cache if entry[:2] == (settings, choices) and entry[2] == trials[: len(entry[2])] and entry[2]
    ]
    if fitting:
        entry = max(fitting, key=lambda entry: len(entry[2]))
        # Remove it during the training: an interrupt would leave a partly trained policy in the cache.
        cache[:] = [other for other in cache if other is not entry]
        known, policy = entry[2:]
    else:
        seed = zlib.crc32("".join(trial.key for trial in trials[: settings.batch]).encode())
        known, policy = (), Policy(settings, choices, seed)
    for batch in batches:
        if batch.start >= len(known):
            policy.learn(trials[batch], trials[max(0, batch.start - REWARD_WINDOW) : batch.start])
    if trials:
        cache[:] = [*cache[1 - CACHED_POLICIES :], (settings, choices, trials, policy)]
    return policy


def batch_slices(trials: int, size: int) -> Iterator[slice]:
    """Yields the complete batches of a number of trials. More trials add batches and do not change the earlier ones."""
    start, alike = 0, BATCHES * size
    while start + size <= trials:
        yield slice(start, start + size)
        start += size
        if start >= alike:
            size = max(size, int(SHARE * start))


def rank_rewards(trials: Sequence[FinishedTrial]) -> np.ndarray:
    """Returns the rewards (N,): the share of other trials that are worse minus the share that are better, in [-1, 1]."""
    points = [trial.values or (math.inf,) for trial in trials]
    most = max(map(len, points))
    # Trials without values get infinite objectives. If they have no constraints either, their violation is infinite.
    points = [point if len(point) == most else (math.inf,) * most for point in points]
    unknown = [trial.values is None and not trial.constraints for trial in trials]
    places = constrained_rank(
        points, [math.inf if none else trial.violation for none, trial in zip(unknown, trials, strict=True)]
    )
    ordered = np.sort(places)
    better, worse = np.searchsorted(ordered, places), len(places) - np.searchsorted(ordered, places, side="right")
    return (worse - better) / max(1, len(places) - 1)


@contextlib.contextmanager
def _isolated_torch() -> Iterator[None]:
    """Enables gradients and uses one thread inside the block. More threads are slower here and may round differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.set_num_threads(threads)
