"""The states that a trained agent visits, and its latents there."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from worldrl.acting.episodes import AgentActs, own_randomness, play
from worldrl.agent import Agent
from worldrl.envs import make_envs
from worldrl.envs.make import EnvConfig
from worldrl.errors import UserError, wrong
from worldrl.evaluation.evaluate import load_agent
from worldrl.policies.action_prior import MarginalPolicy
from worldrl.policies.latent import LatentGaussian
from worldrl.policies.tanh_gaussian import TanhGaussian
from worldrl.studies.entropy import Pool, belief_pool, latent_pool
from worldrl.types import Belief, Head

EVERY = 5  # agent steps from one state to the next
DRAWN, FILTERED = 100_000, 2_000  # latents of a state: draws are cheap, paths of a belief are filtered from the start


def steps(
    agent: Agent, env: EnvConfig, task: str, particles: int = 0, seed: int = 1000
) -> Generator[tuple[Belief, np.ndarray, bool], None, None]:
    """Belief, action (1, A) and whether it ends the episode, an endless sequence of steps with exploration."""
    act = AgentActs(agent, 1, explore=True, particles=particles)
    with closing(make_envs(env, task, seed, num_envs=1, training=False)) as envs:
        for tick in play(envs, act):
            if not tick.rows["is_first"][0]:  # otherwise the environment has been reset instead
                yield act.belief, tick.rows["action"], bool(tick.ended)


def beliefs(
    agent: Agent, env: EnvConfig, task: str, states: int, particles: int = 0, seed: int = 1000
) -> Iterator[Belief]:
    """The beliefs at every fifth step of an episode with exploration, at most ``states`` of them."""
    with closing(steps(agent, env, task, particles, seed)) as played:
        for step, (belief, _, last) in enumerate(played):
            if step % EVERY == 0:
                yield belief
            if last or step + 1 == states * EVERY:
                return


def run_actions(run_dir: Path, n: int, seed: int = 1000) -> tuple[MarginalPolicy, Tensor]:
    """The marginal policy of a run's agent, and ``n`` consecutive actions (n, A) of its exploration.

    Raises:
        UserError: the run cannot be loaded, or its head has learned no marginal policy.
    """
    agent, config = load_agent(run_dir)
    marginal = _part(agent.head, "marginal")
    if not isinstance(marginal, MarginalPolicy):
        raise UserError(str(run_dir), f"head {type(agent.head).__name__}", "one with a marginal: head=miracle")
    with own_randomness(seed), closing(steps(agent, config.env, config.task, seed=seed)) as played:
        taken = [action for _, action, _ in islice(played, n)]
    return marginal, torch.from_numpy(np.concatenate(taken)).to(agent.device)


def run_latents(run_dir: Path, states: int, seed: int = 1000) -> tuple[LatentGaussian, Tensor]:
    """The latent-variable policy of a run's agent, and its inputs (states, F) in the states of an episode.

    Raises:
        UserError: the run cannot be loaded, or its policy has no latent.
    """
    agent, config = load_agent(run_dir)
    head: Any = agent.head
    policy = _part(head, "policy")
    if not isinstance(policy, LatentGaussian):
        raise UserError(str(run_dir), f"policy {type(policy).__name__}", "policy=latent")
    with own_randomness(seed), torch.no_grad():
        visited = list(beliefs(agent, config.env, config.task, states, 0, seed))
        return policy, torch.cat([head.actor_input(belief) for belief in visited])


def run_pools(run_dir: Path, states: int, size: int | None = None, seed: int = 1000) -> list[Pool]:
    """Pools of ``size`` latents for the states of an episode of this run's agent.

    The latents are the policy's own if it has any (by default 100,000 draws); otherwise they are filtered paths of the
    belief, as in SMAC (by default 2,000).

    Raises:
        UserError: the run cannot be loaded, a pool is too small, or the agent has no latents: its policy is neither a
            latent-variable one nor a tanh-Gaussian that acts on the state of a belief with particles.
    """
    agent, config = load_agent(run_dir)
    head: Any = agent.head
    policy: Any = _part(head, "policy")
    own = isinstance(policy, LatentGaussian)
    size = size or (DRAWN if own else FILTERED)
    if size < 2:
        raise wrong("--pool", size, "2 or more: the truth is also taken without one of the latents")
    refusal = UserError(
        str(run_dir),
        f"head {type(head).__name__} with policy {type(policy).__name__}, actor_input={head.needs.actor_input}, "
        f"on belief {type(agent.model).__name__}",
        "policy=latent, or a tanh-Gaussian with actor_input=feat on a belief with particles, such as rssm",
    )
    if not own and not (isinstance(policy, TanhGaussian) and head.needs.actor_input == "feat"):
        raise refusal
    with own_randomness(seed), torch.no_grad():
        visited = list(beliefs(agent, config.env, config.task, states, 0 if own else size, seed))
        if own:
            return [latent_pool(policy, head.actor_input(belief)[0], size) for belief in visited]
        if not len(visited[0].particles):
            raise refusal
        return [belief_pool(policy, belief.particles[:, 0]) for belief in visited]


def _part(head: Head, name: str) -> nn.Module | None:
    """A network that some heads have."""
    return dict(head.named_children()).get(name)
