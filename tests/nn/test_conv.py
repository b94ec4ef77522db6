"""The fast forms against plain convolutions with the same parameters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange

from worldrl.nn.conv import ImageDecoder, ImageEncoder, SameDecoder, SameEncoder, to_blocks, to_images, to_pixels


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


def test_same_encoder_is_tensorflows_on_images_turned_by_180_degrees() -> None:
    """SAME pads an even input below and right of it: by 1 for kernel 3, by 1 and 2 for kernel 5, stride 2."""
    encoder, images = SameEncoder(depth=3), torch.rand(2, 3, 64, 64)
    x = images.flip(2, 3)
    for conv in encoder.convs[:-1]:
        before, after = (1, 2) if conv.kernel_size == (5, 5) else (0, 1)
        padded = F.pad(x, (before, after, before, after))
        x = F.leaky_relu(F.conv2d(padded, conv.weight.flip(2, 3), conv.bias, stride=2), 0.2)
    x = F.leaky_relu(F.conv2d(x, encoder.convs[-1].weight.flip(2, 3), encoder.convs[-1].bias), 0.2)
    torch.testing.assert_close(encoder(images), x.flatten(1))


def test_same_decoder_is_tensorflows_on_images_turned_by_180_degrees() -> None:
    """TensorFlow's transposed SAME crops what the convolution pads: the same rows on the other side."""
    decoder, feat = SameDecoder(7, depth=3), torch.randn(2, 7)
    x = feat[:, :, None, None]
    for conv in decoder.convs:
        weight, kernel = conv.weight.flip(2, 3), conv.kernel_size[0]
        if kernel == 4:
            y = F.conv_transpose2d(x, weight, conv.bias)
        else:
            y = F.conv_transpose2d(x, weight, conv.bias, stride=2)
            start = 1 if kernel == 5 else 0
            y = y[..., start : start + 2 * x.shape[-2], start : start + 2 * x.shape[-1]]
        x = F.leaky_relu(y, 0.2)
    assert x.shape == (2, 3, 64, 64)
    image = rearrange(decoder(feat), "n (p q c) h w -> n c (h p) (w q)", p=2, q=2)
    torch.testing.assert_close(image, x.flip(2, 3))


def test_same_gradients_are_those_of_the_plain_layers() -> None:
    decoder, feat = SameDecoder(7, depth=3), torch.randn(2, 7)
    encoder, images = SameEncoder(depth=3), torch.rand(2, 3, 64, 64)
    x, y = feat[:, :, None, None], images
    for conv in decoder.convs:
        x = F.leaky_relu(conv(x), 0.2)
    for conv in encoder.convs:
        y = F.leaky_relu(conv(y), 0.2)
    for net, inputs, plain in ((decoder, feat, x), (encoder, images, y)):
        fast = torch.autograd.grad(net(inputs).square().sum(), list(net.parameters()))
        torch.testing.assert_close(
            fast, torch.autograd.grad(plain.square().sum(), list(net.parameters())), rtol=1e-4, atol=1e-4
        )


def test_images_are_the_pixels_in_unit_range() -> None:
    pixels = torch.randint(0, 256, (2, 3, 64, 64, 3), dtype=torch.uint8)
    images = to_images(pixels)
    assert images.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(images.permute(0, 2, 3, 1), pixels.flatten(0, 1) / 255)
