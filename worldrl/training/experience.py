"""Where rows come from: environments that the agent acts in, existing rows, or both.

An experience owns its rows, their sampling and the time of the run: every clock (evaluation, log, schedule, end) reads
``now``, which counts environment frames in a ``Stream`` and updates in a ``DataSet``. A run that learns from data and
then acts has two phases, each with its own time. One tick of the loop is::

    experience.send()             # a Stream acts; a DataSet has nothing to do
    while experience.due():       # workers step meanwhile
        update(*experience.sample(...))
    experience.receive()

The state between ``send`` and ``receive`` includes the action under way and the updates still owed: a run that is saved
there, because of a signal or a dead worker, sends the same action again and makes only the remaining updates.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import torch

from worldrl.acting.episodes import VIDEO_SIZE
from worldrl.agent import Agent
from worldrl.config import Config
from worldrl.data.memory import GIB, available_bytes
from worldrl.data.replay import Replay, Windows, choose_replay_device, nbytes, upload
from worldrl.envs import describe_backend, gl_string, make_envs
from worldrl.envs.make import describe, make_env
from worldrl.errors import UserError
from worldrl.runs.data import Rewards, Rows, load_rows
from worldrl.training.clocks import Linear, Ratio
from worldrl.types import Batch, EnvSpec, Extra, Needs

if TYPE_CHECKING:
    from worldrl.envs.spaces import TaskEnv


OF_DATA = 0x44415441  # a part of the seed of draws from data: where there are two replays, they differ


class Experience(Protocol):
    """What a run learns from. ``attach`` is called first, then ``begin`` or, in a resumed run, ``restore``."""

    config: Config
    spec: EnvSpec
    replay: Replay  # the rows of this run

    @property
    def phase(self) -> str:
        """``"data"`` or ``"acting"``."""
        ...

    @property
    def unit(self) -> str:
        """The unit of ``now`` and ``length``: ``"frames"`` or ``"updates"``."""
        ...

    @property
    def length(self) -> int:
        """The phase ends when ``now`` reaches it."""
        ...

    @property
    def now(self) -> int: ...

    @property
    def position(self) -> int:
        """The progress of the run, over all its phases."""
        ...

    def advance(self) -> bool:
        """Begin the next phase, if there is one."""
        ...

    @property
    def saved_replay(self) -> Replay | None:
        """The rows that exist only in this run and are saved with it; None if there are none."""
        ...

    def counters(self) -> tuple[int, int]:
        """Environment frames and agent steps so far, for every record of the log."""
        ...

    def __len__(self) -> int:
        """The number of rows that can be drawn."""
        ...

    def attach(self, agent: Agent) -> None:
        """Take the agent that acts here and learns from these rows, and allocate memory for them."""
        ...

    def begin(self) -> None:
        """Start a new run."""
        ...

    def notes(self) -> list[str]:
        """Lines to print when training begins or resumes."""
        ...

    def ready(self) -> bool:
        """Whether there is enough to learn from."""
        ...

    def send(self) -> None:
        """Start a tick."""
        ...

    def due(self) -> bool:
        """Whether one more update is due in this tick; if so, it counts as made."""
        ...

    def receive(self) -> list[dict[str, float]]:
        """End the tick; returns the records to log, one for every episode that ended."""
        ...

    def news(self) -> list[str]:
        """Lines to print after a tick."""
        ...

    def sample(self, batch: int, length: int, needs: Needs) -> tuple[Batch, Extra]:
        """Draw a slice of ``batch`` windows of ``length`` rows, and what a head needs in addition to it."""
        ...

    def drawn(self, back: int) -> dict[str, Windows]:
        """The windows of the slice of ``back`` updates ago (1: the last), by where they lie: "replay", "data".

        Windows that are overwritten are left out.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Everything that the next ticks depend on, except the rows and the agent."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None: ...

    def renderer(self) -> str:
        """The renderer of the images that the agent sees, which determines their last bits."""
        ...

    def close(self) -> None: ...


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
        _check_rows(f"replay.capacity={capacity}", capacity // n * n, f" at env.num_envs={n}", agent)
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
        return _drawn("replay", self.replay, back)

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

    def renderer(self) -> str:
        return gl_string() if "pixels" in self.spec.obs else "none"

    def close(self) -> None:
        self.envs.close()


class DataSet:
    """Existing rows: one stream of episodes, read-only, and never saved into a run folder.

    Time is updates: a tick is one. Pretraining takes no time, as in a ``Stream``.

    Args:
        config: Seed, windows and device of the rows, and the length of the phase.
        rows: What is learned from.
        spec: The agent's spec; by default that of the data.

    Raises:
        UserError: More rows than memory.
    """

    phase, unit = "data", "updates"

    def __init__(self, config: Config, rows: Rows, spec: EnvSpec | None = None) -> None:
        known = replace(config.data, checksum=rows.checksum, reference=rows.reference)
        self.config = replace(config, data=known)
        self.spec, self.length = spec or rows.spec, config.updates
        self.now = 0
        self.owed: int | None = None  # updates of the tick in progress, None between two ticks
        self.rewards, self.episodes, self.told_of = rows.rewards, rows.episodes, rows.notes
        self._columns = rows.columns

    @property
    def position(self) -> int:
        return self.now

    def advance(self) -> bool:
        return False

    @property
    def saved_replay(self) -> Replay | None:
        return None

    def counters(self) -> tuple[int, int]:
        return 0, 0

    def __len__(self) -> int:
        return len(self.replay)

    def attach(self, agent: Agent) -> None:
        """Take the agent, whose normaliser takes the data's mean and deviation; a saved one is loaded after that."""
        rows, length = len(self._columns["reward"]), self.config.replay.length
        if rows < length:
            raise UserError(f"replay.length={length}", f"{rows} rows of data", "a window that fits into them")
        _check_rows("the data", rows, "", agent)
        self.agent = agent
        if agent.normalizer is not None:
            agent.normalizer.fit(self._columns)
        place = choose_replay_device(self.spec, rows, agent.device, self.config.replay.device)
        _check_room(self.config, self.spec, rows, place)
        self.replay = Replay(self.spec, rows, device=place, seed=[self.config.seed, OF_DATA])
        self.replay.extend({name: column[:, None] for name, column in self._columns.items()})
        self._columns = {}

    def begin(self) -> None:
        pass

    def notes(self) -> list[str]:
        n = self.length
        for_long = f"{n:,} updates" if n else "no updates before acting"
        held = f"data: {len(self):,} rows of {self.episodes:,} episodes from {self.config.data.name}; {for_long}"
        return [held, *self.told_of]

    def ready(self) -> bool:
        return True

    def send(self) -> None:
        if self.owed is None:
            self.owed = 1

    def due(self) -> bool:
        due, self.owed = bool(self.owed), 0
        return due

    def receive(self) -> list[dict[str, float]]:
        self.now, self.owed = self.now + 1, None
        return []

    def news(self) -> list[str]:
        return []

    def sample(self, batch: int, length: int, needs: Needs) -> tuple[Batch, Extra]:
        """As ``Stream.sample``; no rows are new, so a head's newest rows are drawn from all of them."""
        agent, needs = self.agent, needs._replace(recent_actions=len(self))
        slice_ = self.replay.sample(batch, length, agent.device)
        return slice_, self.replay.sample_extra(needs, length, agent.model.lost_rows, agent.device)

    def drawn(self, back: int) -> dict[str, Windows]:
        return _drawn("data", self.replay, back)

    def state(self) -> dict[str, Any]:
        return {"now": self.now, "owed": self.owed, "draws": self.replay.draws}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.now, self.owed = state["now"], state["owed"]
        self.replay.draws = state["draws"]

    def renderer(self) -> str:
        return "none"

    def close(self) -> None:
        pass


class Mixed(Stream):
    """Data first, for ``config.updates``, and then a stream that the agent acts in; its batches have windows of both.

    Args:
        config: As for a ``Stream``, which supplies the episodes and the newest rows. ``data.share`` of the windows and
            transitions comes from the data.
        rows: The data, by default those that the settings name.
    """

    while_acting = " while acting"

    def __init__(self, config: Config, rows: Rows | None = None) -> None:
        super().__init__(config)
        try:
            rows = rows or load_rows(config.data, self.spec)
        except UserError:
            self.close()
            raise
        self.data = DataSet(config, rows, self.spec)
        self.config, self.rewards = self.data.config, rows.rewards
        self.has_acted = not config.updates  # or is about to

    @property
    def phase(self) -> str:
        return super().phase if self.has_acted else self.data.phase

    @property
    def unit(self) -> str:
        return super().unit if self.has_acted else self.data.unit

    @property
    def length(self) -> int:
        return super().length if self.has_acted else self.data.length

    @property
    def now(self) -> int:
        return super().now if self.has_acted else self.data.now

    @property
    def position(self) -> int:
        return self.data.now + self.frames

    def advance(self) -> bool:
        """From the data to the environment."""
        begins = not self.has_acted
        self.has_acted = True
        return begins

    def __len__(self) -> int:
        return super().__len__() + len(self.data)

    def attach(self, agent: Agent) -> None:
        self.data.attach(agent)
        super().attach(agent)

    def notes(self) -> list[str]:
        return [*self.data.notes(), *super().notes()]

    def ready(self) -> bool:
        return super().ready() if self.has_acted else self.data.ready()

    def send(self) -> None:
        super().send() if self.has_acted else self.data.send()

    def _choose_action(self) -> np.ndarray:
        """The agent acts from the first frame on, if it has learned."""
        return self._act() if self.data.now else super()._choose_action()

    def due(self) -> bool:
        return super().due() if self.has_acted else self.data.due()

    def receive(self) -> list[dict[str, float]]:
        return super().receive() if self.has_acted else self.data.receive()

    def sample(self, batch: int, length: int, needs: Needs) -> tuple[Batch, Extra]:
        if not self.has_acted:
            return self.data.sample(batch, length, needs)
        share = self.config.data.share
        n, td = round(share * batch), round(share * needs.td_batch)
        wanted = [needs._replace(td_batch=td, recent_batch=0), needs._replace(td_batch=needs.td_batch - td)]
        old, old_extra = self.data.sample(n, length, wanted[0])
        new, extra = super().sample(batch - n, length, wanted[1])
        found = [part.pop("td") for part in (old_extra, extra) if "td" in part]
        if found and len(found) == sum(part.td_batch > 0 for part in wanted):  # neither has too few rows yet
            extra["td"] = _in_turns(*found)
        return _in_turns(old, new), extra

    def drawn(self, back: int) -> dict[str, Windows]:
        return {**super().drawn(back), **self.data.drawn(back)}

    def state(self) -> dict[str, Any]:
        return {**super().state(), "data": self.data.state(), "has_acted": self.has_acted}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.data.restore(state["data"])
        self.has_acted = state["has_acted"]
        if self.has_acted and self.data.now != self.config.updates:
            expected = f"{self.data.now}, which the run had before it acted"
            raise UserError("updates", str(self.config.updates), expected)
        super().restore(state)


def make_experience(config: Config) -> Experience:
    """The experience of these settings: acting, data, or data and then acting."""
    if not config.data.name:
        return Stream(config)
    if config.frames:
        return Mixed(config)
    spec = _described(config) if config.task else None
    returns = config.env.target_return is not None
    return DataSet(config, load_rows(config.data, spec, returns), spec)


def _described(config: Config) -> EnvSpec:
    """The spec of an environment that is only for evaluation; refuses a video that cannot be rendered."""
    with contextlib.closing(make_env(config.env, config.task, training=False)) as env:
        if config.eval.video and config.eval.every:
            env.reset(seed=0)
            cast("TaskEnv", env.unwrapped).video_frame(*VIDEO_SIZE)
        return describe(env, config.env)


def _drawn(name: str, replay: Replay, back: int) -> dict[str, Windows]:
    """The windows of a replay that are not overwritten, if there are any."""
    found = replay.kept(replay.recent[-back]) if 0 < back <= len(replay.recent) else None
    return {} if found is None or not len(found.starts) else {name: found}


def _in_turns(*parts: Batch) -> Batch:
    """The windows of all parts, evenly spread: a model may learn only from the first windows of a batch."""
    if len(parts) == 1:
        return parts[0]
    places = np.concatenate([(np.arange(n) + 0.5) / n for n in (len(part.reward) for part in parts) if n])
    order = upload(torch.from_numpy(np.argsort(places, kind="stable")), parts[0].reward.device)
    obs = {key: torch.cat([part.obs[key] for part in parts])[order] for key in parts[0].obs}
    return Batch(obs, *(torch.cat(columns)[order] for columns in zip(*(part[1:] for part in parts), strict=True)))


def _check_room(config: Config, spec: EnvSpec, rows: int, place: torch.device) -> None:
    """Refuse data that do not fit into the memory of their device."""
    needed, free = nbytes(spec, rows), available_bytes(place)
    if free is None or needed <= free:
        return
    found = f"{rows:,} rows, which need {needed / GIB:.2f} GiB in addition to the file's contents"
    expected = f"at most the {free / GIB:.2f} GiB that are available on {place}"
    fewer = f"data.top={0.9 * config.data.top * free / needed:.2g} keeps only its best episodes"
    fix = "set replay.device=cpu" if place.type == "cuda" else f"write a smaller data set; {fewer}"
    raise UserError(f"data={config.data.name}", found, expected, fix)


def _check_rows(place: str, rows: int, setting: str, agent: Agent) -> None:
    """Refuse fewer rows than the head draws transitions in addition to its slice: it would wait forever."""
    drawn = agent.head.needs.td_batch
    if 0 < rows <= drawn:  # a replay itself refuses to have none
        expected = f"more than {drawn}: the head draws that many transitions in addition to its slice"
        raise UserError(place, f"{rows} rows{setting}", expected)
