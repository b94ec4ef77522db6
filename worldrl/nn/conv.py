"""The image encoders and decoders of Dreamer and SLAC for 64 x 64 RGB, in their fastest forms.

The parameters are those of plain ``Conv2d`` and ``ConvTranspose2d`` layers, so counts, initialisation and checkpoints
are the usual ones; only ``forward`` reshapes. Three identities are used:

- a stride-2 convolution is a stride-1 convolution with half the kernel on 2 x 2 pixel blocks ("space to depth");
- a stride-2 transposed convolution is a stride-1 convolution that writes 2 x 2 blocks, read backwards;
- a convolution to a 1 x 1 output, or a transposed one from a 1 x 1 input, is a matrix product.

Images remain blocks (``to_blocks``) from the replay to the loss, so there is never a pixel shuffle. ``SameEncoder`` is
the exception: its first kernel is odd, and padding it costs more than blocks save.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldrl.errors import UserError
from worldrl.nn.functional import leaky_relu
from worldrl.nn.products import layer, linear
from worldrl.types import EnvSpec

IMAGE = (64, 64, 3)
BLOCK_CHANNELS = 12  # 2 x 2 pixels x RGB


def check_images(spec: EnvSpec) -> None:
    """Raise UserError for bytes that are not an image of this size, such as a greyscale screen of 84 x 84."""
    for key, obs in spec.obs.items():
        if obs.dtype == "uint8" and obs.shape != IMAGE:
            found = f"'{key}' of shape {obs.shape} and uint8"
            raise UserError(
                "the belief's observations", found, f"images {IMAGE}", "use env.obs=pixels, or belief=stack"
            )


def to_blocks(pixels: Tensor) -> Tensor:
    """(..., 64, 64, 3) uint8 -> (N, 12, 32, 32) float32 in [-0.5, 0.5], channels-last in memory."""
    blocks = rearrange(pixels.reshape(-1, *pixels.shape[-3:]), "n (h p) (w q) c -> n h w (p q c)", p=2, q=2)
    return blocks.float().mul_(1.0 / 255.0).sub_(0.5).permute(0, 3, 1, 2)


def to_pixels(blocks: Tensor, lead: torch.Size | tuple[int, ...]) -> Tensor:
    """(N, 12, 32, 32) in [-0.5, 0.5] -> (*lead, 64, 64, 3) uint8, rounded and clipped."""
    image = rearrange(blocks.float(), "n (p q c) h w -> n (h p) (w q) c", p=2, q=2)
    return ((image + 0.5) * 255.0).round().clamp(0, 255).to(torch.uint8).reshape(*lead, *image.shape[1:])


def to_images(pixels: Tensor) -> Tensor:
    """(..., 64, 64, 3) uint8 -> (N, 3, 64, 64) float32 in [0, 1], channels-last in memory."""
    return pixels.reshape(-1, *pixels.shape[-3:]).permute(0, 3, 1, 2).float().mul_(1.0 / 255.0)


class ImageEncoder(nn.Module):
    """Four 4 x 4 stride-2 convolutions with ReLU, 64-31-14-6-2; (N, 12, 32, 32) blocks -> (N, 32 depth)."""

    def __init__(self, depth: int = 32) -> None:
        super().__init__()
        channels = [3, depth, 2 * depth, 4 * depth, 8 * depth]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 4, 2) for a, b in pairwise(channels))
        self.outputs = 32 * depth

    def forward(self, blocks: Tensor) -> Tensor:
        (weight, bias), *rest = _parameters(self.convs)
        x = F.relu_(F.conv2d(blocks, block_kernel(weight), bias))
        for weight, bias in rest:
            x = F.relu_(F.conv2d(x, _channels_last(weight), bias, stride=2))
        return x.flatten(1)


class ImageDecoder(nn.Module):
    """Linear, then transposed convolutions 5, 5, 6, 6 with stride 2, 1-5-13-30-64, ReLU between.

    (N, F) -> (N, 12, 32, 32) blocks of the mean image.

    ``background`` adds a learned constant image, so a small decoder need not draw what never changes.
    """

    def __init__(self, inputs: int, depth: int = 32, background: bool = False) -> None:
        super().__init__()
        self.background = nn.Parameter(torch.zeros(BLOCK_CHANNELS, 32, 32)) if background else None
        self.dense = nn.Linear(inputs, 32 * depth)
        channels = [32 * depth, 4 * depth, 2 * depth, depth, 3]
        kernels = [5, 5, 6, 6]
        self.convs = nn.ModuleList(
            nn.ConvTranspose2d(a, b, k, 2) for a, b, k in zip(channels, channels[1:], kernels, strict=False)
        )

    def forward(self, feat: Tensor) -> Tensor:
        first, *middle, last = _parameters(self.convs)
        x = F.relu(transposed_from_point(layer(self.dense, feat), *first))
        for weight, bias in middle:
            x = F.relu_(F.conv_transpose2d(x, _channels_last(weight), bias, stride=2))
        blocks = transposed_to_blocks(x, *last)
        return blocks if self.background is None else blocks + self.background


class SameEncoder(nn.Module):
    """SLAC's: kernels 5, 3, 3, 3 with stride 2, each halving the image, 64-32-16-8-4, then 4 x 4 to a point.

    (N, 3, 64, 64) images -> (N, 8 depth). Leaky ReLU of slope 0.2 after every layer. TensorFlow's SAME pads bottom and
    right, PyTorch's padding takes effect at top and left: the same network on images rotated by 180 degrees.
    """

    def __init__(self, depth: int = 32) -> None:
        super().__init__()
        channels = [3, depth, 2 * depth, 4 * depth, 8 * depth]
        kernels = [5, 3, 3, 3]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, k, 2, k // 2) for (a, b), k in zip(pairwise(channels), kernels, strict=True)
        )
        self.convs.append(nn.Conv2d(8 * depth, 8 * depth, 4))
        self.outputs = 8 * depth

    def forward(self, images: Tensor) -> Tensor:
        *halving, last = _parameters(self.convs)
        x = images
        for weight, bias in halving:
            x = leaky_relu(F.conv2d(x, _channels_last(weight), bias, stride=2, padding=weight.shape[-1] // 2))
        return leaky_relu(to_point(x, *last))


class SameDecoder(nn.Module):
    """SLAC's decoder: 4 x 4 from a point, then kernels 3, 3, 3, 5 with stride 2, 1-4-8-16-32-64.

    (N, F) -> (N, 12, 32, 32) blocks of the mean image. Leaky ReLU after every layer, including the last.
    ``background`` adds a learned constant image, as in ``ImageDecoder``; both start from mid-grey.
    """

    def __init__(self, inputs: int, depth: int = 32, background: bool = False) -> None:
        super().__init__()
        self.background = nn.Parameter(torch.full((BLOCK_CHANNELS, 32, 32), 0.5)) if background else None
        self.convs = nn.ModuleList([nn.ConvTranspose2d(inputs, 8 * depth, 4)])
        channels = [8 * depth, 4 * depth, 2 * depth, depth, 3]
        kernels = [3, 3, 3, 5]
        self.convs.extend(
            nn.ConvTranspose2d(a, b, k, 2, k // 2, 1) for (a, b), k in zip(pairwise(channels), kernels, strict=True)
        )

    def forward(self, feat: Tensor) -> Tensor:
        first, *middle, (weight, bias) = _parameters(self.convs)
        x = leaky_relu(transposed_from_point(feat, *first))
        for w, b in middle:
            x = leaky_relu(F.conv_transpose2d(x, _channels_last(w), b, stride=2, padding=1, output_padding=1))
        blocks = leaky_relu(transposed_to_blocks(x, F.pad(weight, (0, 1, 0, 1)), bias, padding=1))
        return blocks if self.background is None else blocks + self.background


def block_kernel(weight: Tensor) -> Tensor:
    """(O, C, 4, 4) of a stride-2 convolution -> (O, 4 C, 2, 2) of the same map on 2 x 2 blocks."""
    return rearrange(weight, "o c (i p) (j q) -> o (p q c) i j", p=2, q=2)


def to_point(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A convolution whose kernel covers its input: (N, C, k, k) and (O, C, k, k) -> (N, O)."""
    matrix = rearrange(weight, "o c i j -> o (i j c)")
    return linear(rearrange(x, "n c i j -> n (i j c)"), matrix, bias)


def transposed_from_point(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A transposed convolution of a 1 x 1 input: (N, C) and (C, O, k, k) -> (N, O, k, k), channels-last."""
    matrix = rearrange(weight, "c o i j -> c (i j o)")
    k = weight.shape[-1]
    y = linear(x, matrix.T, bias.repeat(k * k))
    return rearrange(y, "n (i j o) -> n o i j", i=k, j=k)


def transposed_to_blocks(x: Tensor, weight: Tensor, bias: Tensor, padding: int = 2) -> Tensor:
    """A 6 x 6 stride-2 transposed convolution, left as 2 x 2 blocks.

    (N, C, h, w) -> (N, 4 O, h + 2 padding - 2, ...): ``padding=2`` keeps the whole output, less padding crops it.
    """
    kernel = rearrange(weight.flip(2, 3), "c o (i p) (j q) -> p q o c i j", p=2, q=2).flip(0, 1)
    kernel = rearrange(kernel, "p q o c i j -> (p q o) c i j")
    return F.conv2d(x, _channels_last(kernel), bias.repeat(4), padding=padding)


def _parameters(convs: nn.ModuleList) -> list[tuple[Tensor, Tensor]]:
    return [(conv.get_parameter("weight"), conv.get_parameter("bias")) for conv in convs]


def _channels_last(weight: Tensor) -> Tensor:
    return weight.contiguous(memory_format=torch.channels_last)
