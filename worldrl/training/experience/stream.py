"""Rows of environments that the agent acts in."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from worldrl.acting.episodes import VIDEO_SIZE
from worldrl.agent import Agent
from worldrl.config import Config
from worldrl.data.replay import Replay, Windows, choose_replay_device
from worldrl.envs import describe_backend, gl_string, make_envs
from worldrl.runs.data import Rewards
from worldrl.training.clocks import Linear, Ratio
from worldrl.training.experience.base import check_rows, drawn_windows
from worldrl.types import Batch, Extra, Needs


class Stream:
    """Environments that the agent acts in; the rows are in a ring, one unbroken stream per environment."""

    rewards = Rewards()  # the transformation of the rewards to learn from
    while_acting = ""  # where a note has to tell acting from learning from data

    def __init__(self, config: Config) -> None:
        self.config = config
        self.envs = make_envs(config.env, config.task, config.seed)
        self.spec = self.envs.spec
        self.frames = self.agent_steps = self.cut = 0
        self.total, self.steps = np.zeros(self.envs.num_envs), np.zeros(self.envs.num_envs, np.int64)
        self.schedule = Ratio(config.schedule.updates_per_1000_frames, per=1000, start=config.schedule.prefill)
        self.owed = 0  # updates of the tick in progress
        epsilon = config.schedule.epsilon
        self.epsilon = Linear(epsilon.start, epsilon.end, epsilon.frames)
        self.action: np.ndarray | None = None  # (N, A) under way: sent, and its rows not yet received
        self.random = np.random.default_rng([config.seed, 0x414354])  # the prefill's random actions
        self.told = False  # whether a cut episode has been reported

    @property
    def phase(self) -> str:
        return "acting"

    @property
    def unit(self) -> str:
        return "frames"

    @property
    def length(self) -> int:
        return self.config.frames

    @property
    def now(self) -> int:
        return self.frames

    @property
    def position(self) -> int:
        return self.frames

    def advance(self) -> bool:
        return False

    @property
    def saved_replay(self) -> Replay | None:
        return self.replay

    def counters(self) -> tuple[int, int]:
        return self.frames, self.agent_steps

    def __len__(self) -> int:
        return len(self.replay)

    def attach(self, agent: Agent) -> None:
        capacity, n = self.config.replay.capacity, self.envs.num_envs
        check_rows(f"replay.capacity={capacity}", capacity // n * n, f" at env.num_envs={n}", agent)
        self.agent = agent
        place = choose_replay_device(self.spec, capacity, agent.device, self.config.replay.device)
        self.replay = Replay(self.spec, capacity, n, device=place, seed=self.config.seed)
        self.acting = agent.initial(n)

    def begin(self) -> None:
        """The first rows of every environment; refuses an evaluation video that could not be drawn."""
        if self.config.eval.video and self.config.eval.every:
            self.envs.reset()
            self.envs.render(*VIDEO_SIZE)
        self.rows = self.envs.reset()
        self._store(self.rows)

    def _store(self, rows: Mapping[str, np.ndarray]) -> None:
        self.replay.add({**rows, "reward": self.rewards(rows["reward"], rows["is_first"])})

    def notes(self) -> list[str]:
        prefill, said = self.config.schedule.prefill, []
        if "pixels" in self.spec.obs:
            said.append(describe_backend())
        if not len(self.replay):
            said.append(f"the replay is empty: learning waits for {self._rows_to_learn():,} rows")
        if prefill >= self.config.frames:
            said.append(
                f"nothing will be learned{self.while_acting}: schedule.prefill={prefill} is not below "
                f"frames={self.config.frames}"
            )
        return said

    def ready(self) -> bool:
        filled = self.frames >= self.config.schedule.prefill and len(self.replay) >= self._rows_to_learn()
        return filled and self.replay.ready(self.config.replay.length)

    def _rows_to_learn(self) -> int:
        """The least number of rows of a prefill; a run that resumes with an empty replay waits for as many."""
        c = self.config
        return min(c.schedule.prefill // c.env.action_repeat, self.replay.ticks * c.env.num_envs)

    def send(self) -> None:
        """Act: at random during the prefill, then with exploration. An action under way is sent again."""
        if self.action is None:
            self.action = self._choose_action()
            self.owed = self.schedule(self.frames)
        self.envs.send(self.action)

    def _choose_action(self) -> np.ndarray:
        if self.frames < self.config.schedule.prefill:
            return self.spec.actions.random(self.random, len(self.rows["action"]))
        return self._act()

    def _act(self) -> np.ndarray:
        epsilon = self.epsilon(self.frames)
        self.acting, action, _ = self.agent.act(self.acting, self.rows, explore=True, epsilon=epsilon)
        return action

    def due(self) -> bool:
        """By the schedule; updates that are due before there is enough to learn from are dropped."""
        if not (self.owed and self.ready()):
            return False
        self.owed -= 1
        return True

    def receive(self) -> list[dict[str, float]]:
        """Store the rows of the tick and count them; the only place where frames, steps and episodes are counted."""
        rows = self.rows = self.envs.receive()
        self.action, self.envs.patient = None, False
        self._store(rows)
        self.frames += int(rows["frames"].sum())
        self.agent_steps += int((1 - rows["is_first"]).sum())
        self.total += rows["reward"]
        self.steps += rows["frames"]
        ended = np.flatnonzero(rows["is_last"] + rows["is_cut"]).tolist()
        return [self._end_episode(i, bool(rows["is_cut"][i])) for i in ended]

    def _end_episode(self, i: int, is_cut: bool) -> dict[str, float]:
        """The records to log; for a cut episode, only how many there have been."""
        ended = {"episode/return": float(self.total[i]), "episode/length": int(self.steps[i])}
        self.total[i], self.steps[i] = 0.0, 0
        self.cut += is_cut
        return {"episode/cut": self.cut} if is_cut else ended

    def news(self) -> list[str]:
        """The first episode that was cut; the log counts the others."""
        if self.told or not self.envs.cuts:
            return []
        self.told = True
        return [f"{self.envs.cuts[0]}; its episode is cut there (see episode/cut)"]

    def sample(self, batch: int, length: int, needs: Needs) -> tuple[Batch, Extra]:
        agent = self.agent
        slice_ = self.replay.sample(batch, length, agent.device)
        return slice_, self.replay.sample_extra(needs, length, agent.model.lost_rows, agent.device)

    def drawn(self, back: int) -> dict[str, Windows]:
        return drawn_windows("replay", self.replay, back)

    def state(self) -> dict[str, Any]:
        return {
            "frames": self.frames,
            "agent_steps": self.agent_steps,
            "cut": self.cut,
            "episodes": (self.total, self.steps),
            "schedule": self.schedule.state_dict(),
            "owed": self.owed,
            "random": self.random.bit_generator.state,
            "acting": self.acting,
            "action": self.action,
            "rows": dict(self.rows),
            "envs": self.envs.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.frames, self.agent_steps, self.cut = state["frames"], state["agent_steps"], state["cut"]
        self.total, self.steps = state["episodes"]
        self.schedule.load_state_dict(state["schedule"])
        self.owed, self.action = state["owed"], state["action"]
        self.random.bit_generator.state = state["random"]
        self.acting = {key: value.to(self.agent.device) for key, value in state["acting"].items()}
        self.rows = state["rows"]
        replayed = self.envs.restore(state["envs"])
        different = [key for key in replayed if key != "is_cut" and not np.array_equal(replayed[key], self.rows[key])]
        if different:
            print(f"the environment did not replay exactly: {', '.join(different)} differ", file=sys.stderr)
        for i in np.flatnonzero(replayed["is_last"] > self.rows["is_last"]):
            self._end_episode(int(i), is_cut=True)

    def renderer(self) -> str:
        return gl_string() if "pixels" in self.spec.obs else "none"

    def close(self) -> None:
        self.envs.close()
