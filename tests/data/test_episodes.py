"""Rows from steps, against a plain loop; and what is done with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from worldrl.data.episodes import (
    Episode,
    Recorded,
    Steps,
    best,
    check_finite,
    extent,
    from_unit,
    lay_out,
    one_hot,
    rows_of_episodes,
    rows_of_steps,
    to_unit,
)
from worldrl.errors import UserError
from worldrl.types import box

LENGTHS = (3, 1, 4, 2, 5)
TERMINAL = (True, False, True, False, False)  # the others are cut by a time limit, the last by the file's end


def made(lengths: tuple[int, ...] = LENGTHS, terminal: tuple[bool, ...] = TERMINAL) -> list[Episode]:
    """Episodes in which every number is another one."""
    rng, episodes = np.random.default_rng(0), []
    for n, ended in zip(lengths, terminal, strict=True):
        obs = rng.standard_normal((n + 1, 2)).astype(np.float32)
        episodes.append(Episode({"state": obs}, rng.uniform(-1, 1, (n, 1)).astype(np.float32), rng.random(n), ended))
    return episodes


def flat(episodes: list[Episode], with_next: bool) -> Steps:
    """As a flat file has them; the file's end is no time-out."""
    obs = np.concatenate([e.obs["state"][:-1] for e in episodes])
    following = np.concatenate([e.obs["state"][1:] for e in episodes])
    ends = np.concatenate([np.arange(len(e.reward)) == len(e.reward) - 1 for e in episodes])
    terminal = ends & np.repeat([e.terminal for e in episodes], [len(e.reward) for e in episodes])
    timeout = ends & ~terminal
    timeout[-1] = False
    action, reward = (np.concatenate([getattr(e, name) for e in episodes]) for name in ("action", "reward"))
    return Steps({"state": obs}, action, reward, terminal, timeout, {"state": following} if with_next else None)


def by_hand(episodes: list[Episode], with_next: bool) -> list[dict[str, Any]]:
    """Row by row, as the contract says."""
    rows = []
    for e in episodes:
        n = len(e.reward)
        steps = n if with_next or e.terminal else n - 1  # what the last one leads to is unknown
        for t in range(steps + 1):
            seen = e.obs["state"][t] if with_next or t < n else e.obs["state"][n - 1]
            action, reward = (e.action[t - 1], e.reward[t - 1]) if t else (np.zeros(1), 0.0)
            rows.append(
                {
                    "state": seen,
                    "action": action,
                    "reward": reward,
                    "is_first": t == 0,
                    "is_terminal": e.terminal and t == n,
                }
            )
    return rows


@pytest.mark.parametrize("with_next", [True, False])
def test_rows_of_a_flat_file_are_those_of_a_plain_loop(with_next: bool) -> None:
    columns, expected = rows_of_steps(flat(made(), with_next)), by_hand(made(), with_next)
    assert len(columns["reward"]) == len(expected)
    for name, values in columns.items():
        np.testing.assert_allclose(values, np.array([row[name] for row in expected], np.float32), err_msg=name)
        assert values.dtype == np.float32


def test_episodes_end_where_the_next_observation_is_another_one() -> None:
    """A file without time-outs, but with next observations, has the same episodes."""
    steps = flat(made(), True)
    silent = steps._replace(timeout=np.zeros_like(steps.timeout))
    for name, values in rows_of_steps(silent).items():
        np.testing.assert_array_equal(values, rows_of_steps(steps)[name])


def test_precision_makes_no_borders() -> None:
    steps = flat(made(), True)
    assert steps.next_obs is not None
    wide = steps._replace(obs={"state": steps.obs["state"].astype(np.float64) + 1e-12})
    assert len(extent(rows_of_steps(wide)).start) == len(LENGTHS)


def test_episodes_with_all_their_observations() -> None:
    columns, expected = rows_of_episodes(made()), by_hand(made(), True)
    for name, values in columns.items():
        np.testing.assert_allclose(values, np.array([row[name] for row in expected], np.float32), err_msg=name)


def test_rows_become_the_same_episodes_and_steps_again() -> None:
    data = Recorded(rows_of_episodes(made()), box(1))
    for found, expected in zip(data.episodes(), made(), strict=True):
        np.testing.assert_array_equal(found.obs["state"], expected.obs["state"])
        np.testing.assert_allclose(found.reward, expected.reward, rtol=1e-6)
        assert found.terminal == expected.terminal
    again = rows_of_steps(data.steps())
    for name, values in data.columns.items():
        np.testing.assert_array_equal(again[name], values)


def test_a_terminal_step_is_no_time_out() -> None:
    steps = Recorded(rows_of_episodes(made((2, 2), (True, False))), box(1)).steps()
    assert steps.terminal.tolist() == [False, True, False, False]
    assert steps.timeout.tolist() == [False, False, False, True]


def test_images_stay_bytes() -> None:
    pixels = np.zeros((3, 64, 64, 3), np.uint8)
    columns = rows_of_episodes([Episode({"pixels": pixels}, np.zeros((2, 1)), np.zeros(2), False)])
    assert columns["pixels"].dtype == np.uint8
    assert Recorded(columns, box(1)).obs["pixels"].shape == (64, 64, 3)


def test_extent_and_the_best() -> None:
    columns = rows_of_episodes(made())
    found = extent(columns)
    assert found.steps.tolist() == list(LENGTHS)
    assert found.terminal.tolist() == list(TERMINAL)
    np.testing.assert_allclose(found.returns, [e.reward.sum() for e in made()], rtol=1e-6)
    kept = extent(best(columns, 0.4))
    assert sorted(kept.returns) == sorted(found.returns)[-2:]
    assert len(extent(best(columns, 0.01)).steps) == 1
    assert len(extent(best(columns, 0.55)).steps) == 3  # 2.75 of five, rounded
    assert best(columns, 1.0) is columns
    lone = rows_of_episodes([*made(), Episode({"state": np.zeros((1, 2))}, np.zeros((0, 1)), np.zeros(0), False)])
    assert extent(best({**lone, "reward": -lone["reward"]}, 0.2)).steps.tolist() == [1]  # not the one without a step


def test_actions_in_unit_and_back() -> None:
    columns = rows_of_episodes(made())
    low, high = np.array([-3.0]), np.array([1.0])
    own = from_unit(columns, low, high)
    led = columns["is_first"] == 0
    assert own["action"][led].min() < -1.5
    assert not own["action"][~led].any()
    data = Recorded(own, box(1))
    back = to_unit("data", data, low, high)
    assert back.unit
    np.testing.assert_allclose(back.columns["action"], columns["action"], atol=1e-6)
    own["action"][np.flatnonzero(led)[4]] = 1.5  # three steps, one step, and the first of the third episode
    with pytest.raises(UserError) as refused:
        to_unit("data", data, low, high)
    assert refused.value.found == "1.5 in row 0 of action, episode 2, entry 0"


def test_choices() -> None:
    assert one_hot("data", np.array([2, 0]), 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    with pytest.raises(UserError) as refused:
        one_hot("data", np.array([0, 3]), 3)
    assert (refused.value.found, refused.value.expected) == ("3", "0 to 2")
    with pytest.raises(UserError) as refused:
        one_hot("data", np.array([0.0, 1.5]), 3)
    assert refused.value.found == "float64 for a choice"


def test_a_number_that_is_not_finite_is_named() -> None:
    columns = rows_of_episodes(made())
    columns["state"][7, 1] = np.nan
    with pytest.raises(UserError) as refused:
        check_finite("data", Recorded(columns, box(1)))
    assert refused.value.found == "nan in row 1 of state, episode 2, entry 1"


@pytest.mark.parametrize("with_next", [True, False])
def test_a_flat_file_is_told_by_its_own_rows(with_next: bool) -> None:
    """Every number of the rows is looked up where it is said to be."""
    steps = flat(made(), with_next)
    layout = lay_out(steps)
    columns = rows_of_steps(steps, layout)
    data = Recorded(columns, box(1), file_rows=layout.file_rows)
    file = {"observations": steps.obs["state"], "actions": steps.action, "rewards": steps.reward}
    file["next_observations"] = steps.next_obs["state"] if steps.next_obs else steps.obs["state"]
    for name in ("state", "action", "reward"):
        for row in np.flatnonzero(columns["is_first"] == 0) if name != "state" else range(len(columns["reward"])):
            words = data.place(name, int(row)).split()
            np.testing.assert_allclose(columns[name][row], file[words[3]][int(words[1])], rtol=1e-6)
