"""Clean beside seen."""

from __future__ import annotations

import numpy as np

from worldrl.acting.film import Film, traces


def test_a_film_shows_clean_beside_seen() -> None:
    film = Film()
    for t in range(3):
        clean = {"pixels": np.full((64, 64, 3), 50 + t, np.uint8), "state": np.array([t, -t, 0], np.float32)}
        film.add(clean, {"pixels": clean["pixels"] // 2, "state": 0 * clean["state"]}, "")
    frames = np.stack(list(film.pictures()))
    assert frames.shape == (3, 128, 130, 3)
    assert (frames[2, :64, :64] == 52).all()
    assert (frames[2, :64, 66:] == 26).all()
    assert list(frames[2, 64 + 5, 60:64, 0]) == [0, 0, 127, 255]  # entry 0 rises from the past on the left to now
    assert list(frames[2, 64 + 40, 60:64, 0]) == [0, 255, 127, 0]
    assert (frames[2, 64:86, 66:] == 0).all()  # entry 0 reads its lowest value all the time


def test_a_film_of_screens_and_grids() -> None:
    film = Film()
    for t in range(3):
        grid = np.full((10, 10, 4), t, np.float32)
        film.add(
            {"screen": np.full((84, 84, 1), 90 * t, np.uint8), "grid": grid},
            {"screen": np.zeros((84, 84, 1), np.uint8), "grid": 0 * grid},
            "",
        )
    frames = np.stack(list(film.pictures()))
    assert frames.shape == (3, 128, 130, 3)
    assert (frames[2, :64, :64] == 180).all()
    assert (frames[2, :64, 66:] == 0).all()
    assert list(frames[2, 64, 61:64, 0]) == [0, 127, 255]


def test_traces_clip_what_is_out_of_range() -> None:
    values = np.array([[0.0], [5.0], [-5.0]], np.float32)
    assert list(traces(values, np.zeros(1), np.ones(1))[2, 0, -3:, 0]) == [0, 255, 0]
