"""The fast forms against plain convolutions with the same parameters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange

from worldrl.nn.conv import ImageDecoder, ImageEncoder, to_blocks, to_pixels


def test_blocks_and_pixels_are_inverse() -> None:
    pixels = torch.randint(0, 256, (2, 3, 64, 64, 3), dtype=torch.uint8)
    assert torch.equal(to_pixels(to_blocks(pixels), (2, 3)), pixels)


def test_encoder_is_four_plain_convolutions() -> None:
    pixels = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    encoder = ImageEncoder(depth=4)
    x = pixels.permute(0, 3, 1, 2).float() / 255 - 0.5
    for conv in encoder.convs:
        x = F.relu(conv(x))
    torch.testing.assert_close(encoder(to_blocks(pixels)), x.flatten(1))


def test_decoder_is_four_plain_transposed_convolutions() -> None:
    decoder = ImageDecoder(7, depth=4)
    feat = torch.randn(3, 7)
    x = decoder.dense(feat)[:, :, None, None]
    for i, conv in enumerate(decoder.convs):
        x = conv(x) if i == 3 else F.relu(conv(x))
    assert x.shape == (3, 3, 64, 64)
    image = rearrange(decoder(feat), "n (p q c) h w -> n c (h p) (w q)", p=2, q=2)
    torch.testing.assert_close(image, x)


def test_gradients_are_those_of_the_plain_layers() -> None:
    decoder = ImageDecoder(7, depth=4)
    feat = torch.randn(3, 7)
    fast = torch.autograd.grad(decoder(feat).square().sum(), list(decoder.parameters()))
    x = decoder.dense(feat)[:, :, None, None]
    for i, conv in enumerate(decoder.convs):
        x = conv(x) if i == 3 else F.relu(conv(x))
    plain = torch.autograd.grad(x.square().sum(), list(decoder.parameters()))
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)
