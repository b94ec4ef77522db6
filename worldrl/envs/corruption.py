"""Noise on observations, like that of cameras and a robot's sensors, and the rule that makes it reproducible.

The noise of a row is a function only of (episode seed, step index, observation key): it does not depend on the number
of environments, on the process, or on whether earlier rows were rendered. A stuck sensor also needs the clean values of
earlier rows; state vectors are available even if images are not rendered.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol

import numpy as np

from worldrl.data.jpeg import opencv
from worldrl.errors import UserError, unknown
from worldrl.fields import OneOf, Range, ranges

if TYPE_CHECKING:
    from worldrl.envs.spaces import Array, Groups, Observation

STREAM, EPISODE_STREAM = 0xC0221, 0xC0222  # keep these draws apart from every other use of an episode's seed
APPLY = ("both", "train", "eval")
IMAGE = "pixels"  # the name of an image in `groups`
MASK = "seen"  # the last sensor group of a state vector, where env.mask adds it: shares of the others, and of the image
IMAGES, VECTORS = "images", "state vectors"


Deviation = Annotated[float, Range(0, 1e6, what="a standard deviation")]
PixelDeviation = Annotated[float, Range(0, 64, what="a standard deviation in pixels")]
ValueShare = Annotated[float, Range(0, 1, what="a share of the values")]
RowShare = Annotated[float, Range(0, 1, what="a share of the rows")]
PixelShare = Annotated[float, Range(0, 1, what="a share of the pixels")]
ImageShare = Annotated[float, Range(0, 1, what="a share of the image")]
QualityShare = Annotated[float, Range(0, 1, what="a lost share of quality")]


@dataclass(frozen=True)
class CorruptionConfig:
    """Noise on observations, seeded per episode: one level for each kind, 0 is off, larger is worse."""

    gaussian: Deviation = 0.0  # standard deviation per value, where a pixel lies in [0, 1], or in units of the state
    missing: ValueShare = 0.0  # share of values that are zero, per channel value
    flicker: RowShare = 0.0  # share of rows whose whole frame (or vector) is zero
    missing_pixels: PixelShare = 0.0  # share of pixels that are black in all channels
    occlusion: ImageShare = 0.0  # share of the image behind a black square that is fixed for the episode
    blur: PixelDeviation = 0.0  # standard deviation in pixels
    jpeg: QualityShare = 0.0  # lost share of quality: 0.9 is JPEG quality 10
    bursts: RowShare = 0.0  # share of rows in which a sensor group (or the frame) is zero, burst_length rows at a time
    group_dropout: RowShare = 0.0  # share of rows in which a sensor group is zero
    stuck: RowShare = 0.0  # share of rows in which a sensor group repeats its previous reading
    burst_length: Annotated[int, Range(1, 1_000_000)] = 10  # rows
    groups: tuple[str, ...] = ()  # the sensors it applies to, by name, "pixels" for the image; empty: all
    apply: Annotated[str, OneOf("both", "train", "eval")] = "both"


# The levels of each kind of corruption.
LEVELS = {name: levels for name, levels in ranges(CorruptionConfig).items() if name != "burst_length"}


class Moment(NamedTuple):
    """The row of one observation key: the source of its noise, and which entries belong together."""

    seed: int  # of the episode
    step: int  # 0 on the reset row
    key: str
    rng: np.random.Generator  # of this row; the active kinds draw from it one after another
    labels: Array  # the sensor group of each entry, (D,) int; an image is one group, (1, 1, 1)
    burst_length: int
    held: dict[str, Array]  # values of stuck sensors in the previous row, by key; empty on the reset row
    dark: Array  # bool, in the observation's shape: which entries are not readings of this row

    def lose(self, entries: Array) -> None:
        """Record that these ``entries``, a mask that broadcasts against the observation, are not readings."""
        self.dark[...] |= entries

    def zero(self, x: Array, entries: Array) -> Array:
        """``x`` with zeros in place of these ``entries``, which are lost."""
        self.lose(entries)
        return np.where(entries, np.zeros((), x.dtype), x)

    def lost(self, probability: float) -> Array:
        """The entries of the groups that are hit, with one draw per group; broadcasts against the observation."""
        return (self.rng.random(self.groups) < probability)[self.labels]

    @property
    def groups(self) -> int:
        return int(self.labels.max()) + 1


# --- kinds ------------------------------------------------------------------------------------------------------------
# Each takes an image (H, W, 3) uint8 or a vector (D,) float32, its level, and the moment.


def occlude(x: Array, share: float, moment: Moment) -> Array:
    """A black square over ``share`` of the image, to whole pixels, at one random place for the whole episode."""
    height, width = (round(size * share**0.5) for size in x.shape[:2])
    rng = np.random.Generator(episode_bits(moment, "occlusion"))
    top, left = rng.integers(0, x.shape[0] - height + 1), rng.integers(0, x.shape[1] - width + 1)
    hidden = np.zeros((*x.shape[:2], 1), bool)
    hidden[top : top + height, left : left + width] = True
    return moment.zero(x, hidden)


def blur(x: Array, sigma: float, moment: Moment) -> Array:
    """Gaussian blur with a standard deviation of ``sigma`` pixels."""
    return opencv().GaussianBlur(x, (0, 0), sigma).reshape(x.shape)  # OpenCV drops an axis of one channel


def compress(x: Array, lost: float, moment: Moment) -> Array:
    """Encode and decode as JPEG of quality ``100 (1 - lost)``."""
    cv2 = opencv()
    quality = [cv2.IMWRITE_JPEG_QUALITY, round(100 * (1 - lost))]
    _, data = cv2.imencode(".jpg", np.ascontiguousarray(x[..., ::-1]), quality)  # OpenCV wants BGR
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR if x.shape[-1] > 1 else cv2.IMREAD_GRAYSCALE).reshape(x.shape)
    return np.ascontiguousarray(decoded[..., ::-1])


def hold(x: Array, probability: float, moment: Moment) -> Array:
    """Stuck: with the given probability a group repeats its values of the previous row."""
    stuck = moment.lost(probability)
    if moment.key in moment.held:
        moment.lose(stuck)
        x = np.where(stuck, moment.held[moment.key], x)
    moment.held[moment.key] = x
    return x


def darken(x: Array, share: float, moment: Moment) -> Array:
    """Bursts: each group is zero for ``burst_length`` rows in sequence, and for ``share`` of all rows on average.

    A group is dark while any of the last n draws, one per row, was below p, which leaves (1 - p)^n of the rows.
    """
    n, bits = moment.burst_length, episode_bits(moment, "bursts")
    begins = 1 - (1 - share) ** (1 / n)
    bits.advance(moment.step * moment.groups)
    dark = (np.random.Generator(bits).random((n, moment.groups)) < begins).any(0)
    return moment.zero(x, dark[moment.labels])


def drop_groups(x: Array, probability: float, moment: Moment) -> Array:
    """Group drop-out: each group is zero with the given probability, independently on each row."""
    return moment.zero(x, moment.lost(probability))


def drop_frame(x: Array, probability: float, moment: Moment) -> Array:
    """Flicker: the whole array is zero with the given probability, one draw per row."""
    return moment.zero(x, np.asarray(moment.rng.random() < probability))


def drop_values(x: Array, probability: float, moment: Moment) -> Array:
    """Missing: each value (for images each channel value) is zero with the given probability, independently."""
    return moment.zero(x, moment.rng.random(x.shape, np.float32) < np.float32(probability))


def drop_pixels(x: Array, probability: float, moment: Moment) -> Array:
    """Missing pixels: as ``drop_values``, but all channels of a pixel together."""
    return moment.zero(x, moment.rng.random((*x.shape[:2], 1), np.float32) < np.float32(probability))


def add_gaussian(x: Array, sigma: float, moment: Moment) -> Array:
    """Add N(0, sigma^2) to each value.

    Vectors are not clipped. For images 255 counts as 1; they are clipped and rounded (truncation would darken them).
    """
    noise = np.float32(sigma) * moment.rng.standard_normal(x.shape, np.float32)
    if x.dtype != np.uint8:
        return x + noise
    noisy = x.astype(np.float32) / np.float32(255) + noise
    return np.rint(np.clip(noisy, 0, 1) * 255).astype(np.uint8)


class Kind(NamedTuple):
    """A kind of corruption: its function, and the observations it fits. ``LEVELS`` has its range."""

    spoil: Callable[[Array, float, Moment], Array]
    fits: tuple[str, ...]


# In the order in which they occur: before the lens, in the sensor, in transmission. The SMAC paper's code has the order
# flicker, missing, Gaussian.
KINDS: dict[str, Kind] = {
    "occlusion": Kind(occlude, (IMAGES,)),
    "blur": Kind(blur, (IMAGES,)),
    "stuck": Kind(hold, (VECTORS,)),
    "bursts": Kind(darken, (IMAGES, VECTORS)),
    "group_dropout": Kind(drop_groups, (VECTORS,)),
    "flicker": Kind(drop_frame, (IMAGES, VECTORS)),
    "missing": Kind(drop_values, (IMAGES, VECTORS)),
    "missing_pixels": Kind(drop_pixels, (IMAGES,)),
    "gaussian": Kind(add_gaussian, (IMAGES, VECTORS)),
    "jpeg": Kind(compress, (IMAGES,)),
}


def active_levels(config: CorruptionConfig) -> dict[str, float]:
    """The kinds that are switched on, in their order, with their levels."""
    return {kind: level for kind in KINDS if (level := getattr(config, kind)) > 0}


def check_level(key: str, corruption: str, level: float) -> None:
    """Refuse a level outside the range of its kind of corruption; ``key`` is its name in the message."""
    LEVELS[corruption].check(key, level)


def check_corruption(config: CorruptionConfig) -> None:
    """Raise UserError for a level outside its range (``LEVELS``), no burst length, or an unknown ``apply``."""
    for name, allowed in ranges(CorruptionConfig).items():
        allowed.check(f"corruption.{name}", getattr(config, name))
    if config.apply not in APPLY:
        raise unknown("corruption.apply", config.apply, APPLY)


def is_active(config: CorruptionConfig, training: bool) -> bool:
    """Whether there is noise in training (or evaluation) environments."""
    return config.apply in ("both", "train" if training else "eval") and bool(active_levels(config))


def noise_generator(seed: int, step: int, key: str) -> np.random.Generator:
    """The generator of one row's noise; ``step`` is 0 on the reset row."""
    return np.random.default_rng([seed, STREAM, step, zlib.crc32(key.encode())])


def episode_bits(moment: Moment, kind: str) -> np.random.PCG64:
    """Random bits that one kind of noise on one key shares over the rows of an episode."""
    return np.random.PCG64([moment.seed, EPISODE_STREAM, zlib.crc32(f"{kind} {moment.key}".encode())])


# --- observations -----------------------------------------------------------------------------------------------------


class Described(Protocol):
    """What is known of an observation key in advance: an ``ObsSpec``, or a Gymnasium box."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...


class _Sensor(NamedTuple):
    """One observation key and its noise."""

    kinds: dict[str, float]
    labels: Array  # as in Moment
    chosen: Array  # bool, which entries have noise; in the shape of labels


class Noise:
    """The corruption of one stream of observations: ``begin`` an episode, then call it once for each of its rows.

    Args:
        config: levels; the caller handles ``apply``.
        obs: shape and type of each observation key; uint8 is an image. Other keys are unchanged.
        groups: ``groups[key][name] = (start, stop)``, the sensors inside a state vector.

    Attributes:
        seen: masks of the last row by key, in the observation's shape: False where an entry is lost (zero, or stuck).

    Raises:
        UserError: a level outside its range, a sensor group that does not exist, or a kind that fits no observation.
    """

    def __init__(
        self, config: CorruptionConfig, obs: Mapping[str, Described], groups: Mapping[str, Groups] | None = None
    ) -> None:
        check_corruption(config)
        self._burst_length = config.burst_length
        named = groups or {}
        self._masks = {key: inside[MASK][0] for key, inside in named.items() if MASK in inside}
        self._groups = {key: {k: v for k, v in inside.items() if k != MASK} for key, inside in named.items()}
        _check_groups(config.groups, obs, self._groups)
        sensor = partial(_sensor, config)
        self._sensors = {k: sensor(box, self._groups.get(k, {}), self._masks.get(k)) for k, box in obs.items()}
        for kind in active_levels(config):
            if not any(kind in sensor.kinds for sensor in self._sensors.values()):
                raise _unfit(kind, config.groups or tuple(obs))

    def begin(self, seed: int) -> None:
        """The next row is the first one of the episode with this seed."""
        self._seed, self._step = seed, 0
        self._held: dict[str, Array] = {}
        self.seen: dict[str, Array] = {}

    def __call__(self, obs: Observation, images: bool = True) -> Observation:
        """The corrupted row; without ``images`` those are unchanged, and later rows are not affected."""
        self.seen = {key: np.ones(x.shape, bool) for key, x in obs.items()}
        shown = {k: x if x.dtype == np.uint8 and not images else self._spoil(k, x) for k, x in obs.items()}
        for key, begin in self._masks.items():
            shown[key] = np.concatenate([shown[key][:begin], self._shares(key)])
        self._lose_the_rest()
        self._step += 1
        return shown

    def _lose_the_rest(self) -> None:
        """In a row without any reading, what no sensor measures is lost too: masks, and keys without a spec."""
        begins = {key: self._masks.get(key) if key in self._sensors else 0 for key in self.seen}
        if not any(seen[: begins[key]].any() for key, seen in self.seen.items()):
            for seen in self.seen.values():
                seen[...] = False

    def _shares(self, key: str) -> Array:
        """The values of ``MASK``: the share of each group of this vector, and of the image, that is a reading."""
        parts = [self.seen[key][start:stop] for start, stop in self._groups[key].values()]
        parts += [self.seen[IMAGE]] if IMAGE in self.seen else []
        return np.array([part.mean() for part in parts], np.float32)

    def _spoil(self, key: str, x: Array) -> Array:
        if key not in self._sensors or not self._sensors[key].kinds:
            return x
        kinds, labels, chosen = self._sensors[key]
        x = x[: self._masks.get(key)]
        rng = noise_generator(self._seed, self._step, key)
        dark = np.zeros(x.shape, bool)
        moment = Moment(self._seed, self._step, key, rng, labels, self._burst_length, self._held, dark)
        shown = x
        for kind, level in kinds.items():
            shown = KINDS[kind].spoil(shown, level, moment)
        self.seen[key][: len(x)] = ~(dark & chosen)
        return shown if chosen.all() else np.where(chosen, shown, x)


def _sensor(config: CorruptionConfig, box: Described, groups: Groups, size: int | None) -> _Sensor:
    """The noise of one key; of a vector only the first ``size`` entries count, or all."""
    image = _is_image(box)
    labels = np.zeros((1, 1, 1) if image else box.shape, np.intp)[:size]
    chosen = np.full(labels.shape, not config.groups or (image and IMAGE in config.groups))
    for number, (name, (start, stop)) in enumerate(groups.items()):
        labels[start:stop] = number
        chosen[start:stop] |= name in config.groups
    family = IMAGES if image else VECTORS
    active = active_levels(config) if chosen.any() else {}  # nowhere in a vector that only holds a mask
    return _Sensor({kind: level for kind, level in active.items() if family in KINDS[kind].fits}, labels, chosen)


def _is_image(box: Described) -> bool:
    return str(box.dtype) == "uint8"


def _check_groups(asked: tuple[str, ...], obs: Mapping[str, Described], groups: Mapping[str, Groups]) -> None:
    names = [name for inside in groups.values() for name in inside]
    names += [IMAGE] if any(map(_is_image, obs.values())) else []
    for name in asked:
        if name not in names:
            raise unknown("sensor group", name, names)


def _unfit(kind: str, found: tuple[str, ...]) -> UserError:
    others = [name for name in KINDS if KINDS[name].fits != KINDS[kind].fits]
    fits = " and ".join(KINDS[kind].fits)
    return UserError(f"corruption {kind}", ", ".join(found), fits, f"kinds that fit: {', '.join(others)}")
