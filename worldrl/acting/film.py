"""A video of what an agent observed, row by row: the clean observation next to the one that it saw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from worldrl.acting.video import Frames, Picture, save_video
from worldrl.envs.images import resize
from worldrl.envs.spaces import Observation

PANEL = 64  # rows and columns of one observation


class Film:
    """The rows of one episode, clean and as they were seen, and a caption for each."""

    def __init__(self, title: str = "") -> None:
        self.title = title
        self.clean: list[Observation] = []
        self.seen: list[Observation] = []
        self.captions: list[str] = []

    def add(self, clean: Observation, seen: Observation, caption: str) -> None:
        self.clean.append(clean)
        self.seen.append(seen)
        self.captions.append(caption)

    def save(self, path: Path) -> None:
        """Write the video, 1000 environment frames in about ten seconds."""
        fps = max(10, min(60, len(self.clean) // 10))
        save_video(path, self.pictures(), fps, [f"{self.title}  {caption}" for caption in self.captions])

    def pictures(self) -> Iterator[Picture]:
        """(64 x keys, 130, 3) each: clean on the left, seen on the right, one observation key below the other."""
        columns = [_panels(*self._column(key)) for key in self.clean[0]]
        line = np.full((PANEL, 2, 3), 255, np.uint8)
        for t in range(len(self.clean)):
            yield np.concatenate([np.concatenate([clean[t], line, seen[t]], 1) for clean, seen in columns])

    def _column(self, key: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """One observation key over time, clean and seen, T each."""
        return [row[key] for row in self.clean], [row[key] for row in self.seen]


def _panels(clean: list[np.ndarray], seen: list[np.ndarray]) -> tuple[Sequence[Picture], Sequence[Picture]]:
    """Pictures (64, 64, 3) of images and screens, or of vectors and grids, in the range of the clean ones."""
    if clean[0].dtype == np.uint8:
        return [_picture(x) for x in clean], [_picture(x) for x in seen]
    values, others = (np.stack(column).reshape(len(column), -1) for column in (clean, seen))
    low, high = values.min(0), values.max(0)
    return list(traces(values, low, high)), list(traces(others, low, high))


def _picture(image: np.ndarray) -> Picture:
    """An image (64, 64, 3), unchanged, or a screen (H, W, 1), smaller and in grey."""
    return image if image.shape[-1] == 3 else np.repeat(resize(image, PANEL, PANEL).reshape(PANEL, PANEL, 1), 3, -1)


def traces(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> Frames:
    """Vectors (T, D) as grey images (T, 64, 64, 3) of the last 64 rows, one line per entry, the latest row right.

    Black is ``low`` (D,) and white is ``high`` (D,), the entry's range.
    """
    unit = (values - low) / np.maximum(high - low, 1e-6)
    grey = np.concatenate([np.zeros((PANEL - 1, values.shape[1])), 255 * unit.clip(0, 1)]).astype(np.uint8)
    lines = np.arange(PANEL) * values.shape[1] // PANEL
    windows = sliding_window_view(grey, PANEL, axis=0)  # (T, D, 64)
    return windows[:, lines, :, None].repeat(3, -1)
