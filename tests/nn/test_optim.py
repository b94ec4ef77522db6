"""The optimiser: clipping, its state from the start, loading in place; and the target's average."""

from __future__ import annotations

import math
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from tests.fake_cuda import GPU, Strict, fake_cuda
from worldrl.nn.conv import ImageDecoder, ImageEncoder, SameDecoder, SameEncoder
from worldrl.nn.optim import CosineDecay, Optimizer, constant, polyak


def test_clipping_scales_the_gradient_to_the_norm_and_reports_the_norm_before() -> None:
    """Adam's first moment after one step is a tenth of the gradient that it was given."""
    for clip, expected in ((0.0, [3.0, 4.0]), (100.0, [3.0, 4.0]), (1.0, [0.6, 0.8])):
        param = nn.Parameter(torch.zeros(2))
        optimizer = Optimizer([param], lr=0.1, clip=clip)
        norm = optimizer.step((param * torch.tensor([3.0, 4.0])).sum())
        assert float(norm) == pytest.approx(5.0)
        torch.testing.assert_close(10 * optimizer.moments["exp_avg"][0], torch.tensor(expected), rtol=1e-4, atol=0)


def test_it_is_adam() -> None:
    ours, theirs = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer, adam = Optimizer([ours], lr=0.01, eps=1e-5), torch.optim.Adam([theirs], lr=0.01, eps=1e-5)
    for _ in range(5):
        optimizer.step(ours.pow(3).sum())
        adam.zero_grad()
        theirs.pow(3).sum().backward()
        adam.step()
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("clip", [0.0, 0.1])
@pytest.mark.parametrize("net", [ImageEncoder, SameEncoder, partial(ImageDecoder, 6), partial(SameDecoder, 6)])
def test_it_is_adam_for_convolutions_whose_gradients_come_in_another_layout(net: Any, clip: float) -> None:
    torch.manual_seed(0)
    ours = net(depth=8)
    theirs = deepcopy(ours)
    shape = {ImageEncoder: (3, 12, 32, 32), SameEncoder: (3, 3, 64, 64)}.get(type(ours), (3, 6))
    x = torch.randn(shape).contiguous(memory_format=torch.channels_last if len(shape) == 4 else torch.contiguous_format)
    optimizer, adam = Optimizer(ours.parameters(), 0.01, clip), torch.optim.Adam(theirs.parameters(), 0.01, fused=False)
    for _ in range(3):
        optimizer.step((ours(x) - 1.0).square().mean())
        adam.zero_grad()
        (theirs(x) - 1.0).square().mean().backward()
        if clip:
            nn.utils.clip_grad_norm_(theirs.parameters(), clip)
        adam.step()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_only_its_own_parameters_get_a_gradient() -> None:
    mine, other = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    Optimizer([mine], lr=0.1).step((mine * other).sum())
    assert other.grad is None
    assert mine != 1.0


def test_polyak_is_the_weighted_average() -> None:
    target, online = nn.Linear(2, 2), nn.Linear(2, 2)
    expected = 0.9 * target.weight.detach() + 0.1 * online.weight.detach()
    polyak(target, online, 0.1)
    torch.testing.assert_close(target.weight.detach(), expected)


def test_the_traced_step_is_the_fused_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    for traced in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda traced=traced: traced)
        param = torch.nn.Parameter(torch.ones(3))
        optimizer = Optimizer([param], lr=0.01, clip=0.5, eps=0.1)
        for _ in range(3):
            optimizer.step(param.pow(3).sum())
        ends.append(param)
    torch.testing.assert_close(*ends)


def test_the_fused_steps_on_scaled_gradients_are_plain_ones_and_infinite_gradients_are_left_out() -> None:
    plain, scaled = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    one, other = Optimizer([plain], lr=0.01, clip=0.5), Optimizer([scaled], lr=0.01, clip=0.5)
    other.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for _ in range(3):
        norms = [optimizer.step(param.pow(3).sum()) for optimizer, param in ((one, plain), (other, scaled))]
        torch.testing.assert_close(*norms)
    torch.testing.assert_close(scaled, plain)
    before = {name: [x.clone() for x in moment] for name, moment in other.moments.items()}
    other.step((scaled * float("inf")).sum())
    torch.testing.assert_close(scaled, plain)
    torch.testing.assert_close(other.moments, before)
    assert other.scaler.get_scale() == 2.0**9
    assert scaled.grad is None
    norms = [float(other.step((scaled * float("inf")).sum())) for _ in range(10)]
    assert norms == [0.0] * 9 + [math.inf]  # the scale is a half then, so this is no longer a scale that was too large


def test_a_state_of_torchs_adam_is_taken_over() -> None:
    ours, theirs = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    adam = torch.optim.Adam([theirs], lr=0.01)
    theirs.pow(3).sum().backward()
    adam.step()
    optimizer = Optimizer([ours], lr=0.01)
    optimizer.load_state_dict({"adam": adam.state_dict(), "scaler": None})
    torch.testing.assert_close(optimizer.state_dict()["adam"]["state"], adam.state_dict()["state"])


# --- a rate that decays ----------------------------------------------------------------------------------------------


def test_a_rate_decays_as_torchs_cosine_schedule_and_stays_at_zero() -> None:
    ours, theirs = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer, adam = Optimizer([ours], 0.1, decay=CosineDecay(6)), torch.optim.Adam([theirs], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, T_max=6)
    for _ in range(6):
        optimizer.step(ours.pow(3).sum())
        adam.zero_grad()
        theirs.pow(3).sum().backward()
        adam.step()
        schedule.step()
        torch.testing.assert_close(ours, theirs)
    end = ours.detach().clone()
    for _ in range(3):
        optimizer.step(ours.pow(3).sum())
    assert torch.equal(ours, end)


def test_a_rate_that_decays_is_one_half_and_zero_at_the_start_in_the_middle_and_at_the_end() -> None:
    decay = CosineDecay(1_000_000)
    found = [float(decay(torch.tensor(float(done)))) for done in (0, 500_000, 1_000_000, 2_000_000)]
    assert found == pytest.approx([1.0, 0.5, 0.0, 0.0], abs=1e-6)


def test_a_resumed_optimiser_has_the_rate_that_it_would_have_had() -> None:
    ends = []
    for stop in (None, 3):
        param = nn.Parameter(torch.ones(3))
        optimizer = Optimizer([param], 0.1, decay=CosineDecay(8))
        for n in range(7):
            if n == stop:
                saved, optimizer = optimizer.state_dict(), Optimizer([param], 0.1, decay=CosineDecay(8))
                optimizer.load_state_dict(saved)
            optimizer.step(param.pow(3).sum())
        ends.append(param)
    assert torch.equal(*ends)


@pytest.mark.parametrize("steps", [3, 6])  # before the end, and beyond it
def test_the_traced_step_decays_too(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    ends = []
    for traced in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda traced=traced: traced)
        param = nn.Parameter(torch.tensor([1.0, 1.0, 0.0]))  # the last one, like a dead unit's, never has a gradient
        optimizer = Optimizer([param], 0.1, decay=CosineDecay(4))
        for _ in range(steps):
            optimizer.step(param.pow(3).sum())
        ends.append(param)
    torch.testing.assert_close(*ends)


def test_a_step_that_is_left_out_does_not_count_for_the_decay() -> None:
    param = nn.Parameter(torch.ones(3))
    optimizer = Optimizer([param], 0.1, decay=CosineDecay(4))
    optimizer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimizer.step(param.pow(3).sum())
    before = float(optimizer.rate())
    optimizer.step((param * float("inf")).sum())
    assert 0.0 < float(optimizer.rate()) == before < 0.1


def test_a_rate_that_decays_never_leaves_the_gpu() -> None:
    with fake_cuda():
        param = nn.Parameter(torch.ones(3, device=GPU))
        optimizer = Optimizer([param], 0.1, decay=CosineDecay(4))
        with Strict():
            optimizer.step(param.pow(3).sum())
            assert optimizer.rate().device == GPU


def test_a_gradient_that_two_parameters_share_is_clipped_once() -> None:
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    optimizer, taken = Optimizer([a, b], 1.0, clip=1.0), []
    optimizer.apply = lambda grads, *_: taken.extend(grads)  # type: ignore[method-assign]
    optimizer.step(((a + b) * torch.tensor([30.0, 40.0])).sum())
    for grad in taken:
        torch.testing.assert_close(grad, torch.tensor([0.6, 0.8]) / math.sqrt(2))


def test_parameters_are_constant_for_a_while_even_if_it_ends_in_an_error() -> None:
    net = nn.Linear(2, 1)
    net.bias.requires_grad_(False)
    with pytest.raises(RuntimeError, match="does not require grad"), constant(net):
        net(torch.ones(1, 2)).sum().backward()
    assert [param.requires_grad for param in (net.weight, net.bias)] == [True, False]
