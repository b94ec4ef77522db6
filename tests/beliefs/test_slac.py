"""The latent model of SLAC against its oracle, the published parameter counts, and its own promises."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.conftest import BOTH_SPEC, PIXEL_SPEC, STATE_SPEC
from tests.oracles import slac as oracle
from tests.oracles.plain import WIDE
from tests.oracles.side_by_side import acted, compare_dreams, compare_models, random_masks, random_rows
from worldrl.beliefs.slac import SLAC, Path, contexts
from worldrl.nn.optim import Optimizer
from worldrl.types import Batch, Decodes, EnvSpec, Imagines, ObsSpec, box

SMALL = SLAC.Config(z1=3, z2=6, units=8, depth=2, vector_units=5, history=3, model_batch=0)


@pytest.fixture
def no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every draw is its mean."""
    monkeypatch.setattr(torch, "randn", lambda *shape, **options: torch.zeros(*shape))


def test_parameter_counts_of_the_published_model() -> None:
    spec = EnvSpec("walker_walk", {"pixels": ObsSpec((64, 64, 3), "uint8")}, box(6))
    model = SLAC(SLAC.Config(), spec)
    parts = {"model": model, "compressor": model.encoders["pixels"], "decoder": model.decoders["pixels"]}
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    assert counts == {"model": 4_215_365, "compressor": 1_438_784, "decoder": 1_569_603}
    assert (model.feat_dim, model.context_dim, model.lost_rows) == (288, 8 * 256 + 7 * 6, 7)


# --- the evidence lower bound -----------------------------------------------------------------------------------------


def test_the_first_windows_are_learnt_from_and_all_are_filtered(make_batch) -> None:
    model, batch = SLAC(replace(SMALL, model_batch=2), STATE_SPEC), make_batch(STATE_SPEC, b=5)
    torch.manual_seed(1)
    belief, losses, _ = model.observe(batch, 0)
    torch.manual_seed(1)
    alone, alone_losses, _ = model.observe(batch.windows(slice(2)), 0)
    assert belief.feat.shape == (5, 4, model.feat_dim)
    assert all(torch.equal(losses[name], alone_losses[name]) for name in losses)
    for whole, part in zip(belief, alone, strict=True):
        torch.testing.assert_close(whole[..., :2, :, :] if whole.dim() == 4 else whole[:2], part)


def test_reward_across_an_episode_border_is_not_predicted(make_batch) -> None:
    model, batch = SLAC(SMALL, STATE_SPEC), make_batch(STATE_SPEC, b=1, border=3)
    found = []
    for reward in (0.0, 9.0):
        batch.reward[0, 3] = reward
        torch.manual_seed(1)
        found.append(model.observe(batch, 0)[1]["reward"])
    assert torch.equal(*found)


def test_continue_predictor_is_there_where_tasks_terminate(make_batch) -> None:
    ends = STATE_SPEC._replace(terminates=True)
    batch = make_batch(ends)
    batch.is_terminal[0, 5] = 1.0
    losses = SLAC(SMALL, ends).observe(batch, 0)[1]
    assert set(losses) == {"state", "reward", "kl", "continue"}
    assert "continue" not in SLAC(SMALL, STATE_SPEC).observe(batch, 0)[1]


def test_elbo_falls_on_a_toy() -> None:
    """A point on a circle that the action turns: predictable, so both error and KL can fall."""
    generator = torch.Generator().manual_seed(0)

    def batch() -> Batch:
        action = 2 * torch.rand(16, 6, 1, generator=generator) - 1
        angle = 6.28 * torch.rand(16, 1, generator=generator) + action[..., 0].cumsum(1)
        zeros = torch.zeros(16, 6)
        return Batch({"state": torch.stack([angle.sin(), angle.cos()], -1)}, action, angle.cos(), zeros, zeros)

    spec = EnvSpec("circle", {"state": ObsSpec((2,), "float32")}, box(1))
    model = SLAC(replace(SMALL, units=32, vector_units=32, z2=16), spec)
    optimizer = Optimizer(model.parameters(), 3e-3)
    history = []
    for _ in range(200):
        losses = model.observe(batch(), 0)[1]
        optimizer.step(sum(losses.values()))
        history.append(float(sum(losses.values()).detach()))
    first, last = sum(history[:5]) / 5, sum(history[-20:]) / 20
    assert last < 0.5 * first


# --- contexts ---------------------------------------------------------------------------------------------------------


def test_contexts_repeat_the_first_frame_of_the_episode() -> None:
    """Features and actions that say their own row; the episode begins in row 3 of the first window."""
    t = torch.arange(1.0, 7.0)
    first = torch.zeros(2, 6)
    first[0, 3] = 1.0
    found = contexts(t.expand(2, 6)[..., None], 10 * t.expand(2, 6)[..., None], first, 3)
    assert found[1].tolist() == [[1, 2, 3, 20, 30], [2, 3, 4, 30, 40], [3, 4, 5, 40, 50], [4, 5, 6, 50, 60]]
    assert found[0].tolist() == [[1, 2, 3, 20, 30], [4, 4, 4, 0, 0], [4, 4, 5, 0, 50], [4, 5, 6, 50, 60]]


@pytest.mark.parametrize("spec", [PIXEL_SPEC, BOTH_SPEC], ids=["pixels", "both"])
@pytest.mark.parametrize("first", [0.0, 1.0])
def test_training_and_acting_know_the_same(make_batch, no_noise, spec: EnvSpec, first: float) -> None:
    """The same rows give the same context and the same filtered state, across episode borders too.

    The first row is the start of an episode, or else of what was seen: the prefill may end anywhere.
    """
    model = SLAC(SMALL, spec)
    batch = make_batch(spec, b=3, t=9, border=4)
    batch.is_first[:, 0] = first
    batch.is_first[1, 6:8] = 1.0
    with torch.no_grad():
        trained, _, _ = model.observe(batch, 2)
    state = model.initial(3, particles=2)
    for t in range(9):
        row = {key: value[:, t] for key, value in batch.obs.items()}
        state, acting = model.step(state, row, batch.action[:, t], batch.is_first[:, t])
        if t >= model.lost_rows:
            for ours, theirs in zip(acting, trained, strict=True):
                i = t - model.lost_rows
                torch.testing.assert_close(ours, theirs[:, :, i] if theirs.dim() == 4 else theirs[:, i])


def test_a_reset_leaves_nothing_of_the_episode_before(make_batch) -> None:
    model, batch = SLAC(SMALL, STATE_SPEC), make_batch(STATE_SPEC, b=1, border=3)
    found = []
    for shift in (0.0, 1.0):
        batch.obs["state"][:, :3] += shift
        batch.action[:, :4] += shift
        torch.manual_seed(1)
        found.append(model.observe(batch, 4)[0])
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(*(x[:, :, 1:] if x.dim() == 4 else x[:, 1:] for x in (ours, theirs)))
    assert not torch.equal(found[0].feat[:, 0], found[1].feat[:, 0])


def test_acting_deterministically_repeats_itself(make_batch) -> None:
    model, batch = SLAC(SMALL, STATE_SPEC), make_batch(STATE_SPEC)
    feats = {True: [], False: []}
    for deterministic, found in feats.items():
        for _ in range(2):
            state = model.initial(4, particles=1)
            for t in range(3):
                row = {"state": batch.obs["state"][:, t]}
                state, belief = model.step(state, row, batch.action[:, t], batch.is_first[:, t], deterministic)
            found.append(belief.feat)
    assert torch.equal(*feats[True])
    assert not torch.equal(*feats[False])


# --- particles, decoding, imagining -----------------------------------------------------------------------------------


def test_particles_follow_the_law_of_feat_and_do_not_change_it(make_batch) -> None:
    batch = make_batch(STATE_SPEC, b=1, t=5, border=3)
    wide = Batch({"state": batch.obs["state"].expand(4000, -1, -1)}, *(x.expand(4000, *x.shape[1:]) for x in batch[1:]))
    model = SLAC(SMALL, STATE_SPEC)
    torch.manual_seed(2)
    belief = model.observe(wide, 1)[0]
    torch.testing.assert_close(belief.feat.mean(0), belief.particles[0].mean(0), atol=0.09, rtol=0.0)
    torch.testing.assert_close(belief.feat.std(0), belief.particles[0].std(0), atol=0.09, rtol=0.0)
    centred = [x - x.mean(0) for x in (belief.feat, belief.particles[0])]
    covariance = (centred[0] * centred[1]).mean(0)
    assert covariance.abs().max() < 0.09  # independent paths
    torch.manual_seed(2)
    assert torch.equal(model.observe(wide, 0)[0].feat, belief.feat)


def test_beliefs_are_detached_and_losses_are_the_only_graph(make_batch) -> None:
    model = SLAC(replace(SMALL, model_batch=3), BOTH_SPEC)
    belief, losses, metrics = model.observe(make_batch(BOTH_SPEC), 2)
    assert set(losses) == {"pixels", "state", "reward", "kl"}
    assert not any(x.requires_grad for x in (*belief, *metrics.values()))
    assert all(x.requires_grad for x in losses.values())
    assert belief.particles.shape == (2, 4, 4, model.feat_dim)
    assert belief.context.shape == (4, 4, model.context_dim)
    assert belief.entropy.shape == (4, 4)


def test_surprise_is_the_divergence_of_every_row(make_batch) -> None:
    model, batch = SLAC(SMALL, STATE_SPEC), make_batch(STATE_SPEC, border=3)
    torch.manual_seed(4)
    metrics = model.observe(batch, 0)[2]
    torch.manual_seed(4)
    torch.testing.assert_close(model.surprise(batch).mean(), metrics["belief/kl"])


def test_reward_scale_weighs_the_reward_alone(make_batch) -> None:
    batch, losses = make_batch(STATE_SPEC), []
    for scale in (1.0, 10.0):
        torch.manual_seed(0)
        model = SLAC(replace(SMALL, reward_scale=scale), STATE_SPEC)
        losses.append(model.observe(batch, 0)[1])
    torch.testing.assert_close(losses[1]["reward"], 10.0 * losses[0]["reward"])
    assert torch.equal(losses[1]["kl"], losses[0]["kl"])
    assert torch.equal(losses[1]["state"], losses[0]["state"])


@pytest.mark.parametrize("init_std", [SMALL.init_std, 0.1])
def test_init_std_is_that_of_latents_whose_networks_give_zero_and_not_of_rewards(init_std: float) -> None:
    model = SLAC(replace(SMALL, init_std=init_std), STATE_SPEC)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    z1, z2, action = torch.randn(1, SMALL.z1), torch.randn(1, SMALL.z2), torch.randn(1, STATE_SPEC.action_dim)
    embed = torch.randn(1, model.embed_dim)
    latents = (
        model.z1_prior(z2, action),
        model.z1_first(embed),
        model.z1_posterior(embed, z2, action),
        model.z2_first(z1),
        model.z2_later(z1, z2, action),
    )
    for latent in latents:
        torch.testing.assert_close(latent.std, torch.full_like(latent.std, init_std + 1e-5))
    reward = model.reward_head(z1, z2, action, z1, z2)
    torch.testing.assert_close(reward.std, torch.full_like(reward.std, 0.69314718 + 1e-5))


def test_background_is_added_to_every_image() -> None:
    model = SLAC(replace(SMALL, background=True), PIXEL_SPEC)
    decoder, feat = model.decoders["pixels"], torch.randn(2, model.feat_dim)
    assert (decoder.background == 0.5).all()  # targets are in [0, 1]
    before = decoder(feat)
    with torch.no_grad():
        decoder.background += 1.0
    torch.testing.assert_close(decoder(feat), before + 1.0)
    assert SLAC(SMALL, PIXEL_SPEC).decoders["pixels"].background is None


def test_decode_gives_observations() -> None:
    model = SLAC(SMALL, BOTH_SPEC)
    obs = model.decode(torch.randn(2, 3, model.feat_dim))
    assert (obs["pixels"].shape, obs["pixels"].dtype) == ((2, 3, 64, 64, 3), torch.uint8)
    assert obs["state"].shape == (2, 3, 5)
    assert isinstance(model, Decodes)
    assert isinstance(model, Imagines)


def test_under_bf16_a_posterior_that_is_the_prior_has_no_divergence(make_batch) -> None:
    model, batch = SLAC(SMALL, STATE_SPEC), make_batch(STATE_SPEC)
    b, t = batch.reward.shape
    z2 = torch.randn(b, t, SMALL.z2)
    prior = model.z1_prior(z2[:, :-1], batch.action[:, 1:])
    mean, std = (torch.nn.functional.pad(x, (0, 0, 1, 0), value=v) for x, v in zip(prior, (0.0, 1.0), strict=True))
    with torch.autocast("cpu", torch.bfloat16):
        kl = model._kl(batch, Path(mean, std, z2, mean, z2), torch.arange(t) > 0)
    assert torch.equal(kl, torch.zeros(b, t))


def test_bf16_keeps_states_and_losses_in_float32_and_close(make_batch) -> None:
    model, batch = SLAC(SMALL, BOTH_SPEC), make_batch(BOTH_SPEC)
    torch.manual_seed(3)
    belief, losses, _ = model.observe(batch, 2)
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16):
        half_belief, half_losses, _ = model.observe(batch, 2)
    assert all(x.dtype == torch.float32 for x in (*half_belief, *half_losses.values()))
    torch.testing.assert_close(half_belief.feat, belief.feat, atol=0.05, rtol=0.05)
    for name, loss in losses.items():
        torch.testing.assert_close(half_losses[name], loss, rtol=0.02, atol=0.02)


def test_under_bf16_rewards_are_not_rounded_to_it() -> None:
    model = SLAC(SMALL, BOTH_SPEC)
    inputs = [torch.randn(50, n) for n in (model.feat_dim, model.action_dim, model.feat_dim)]
    with torch.autocast("cpu", torch.bfloat16):
        rewards = model.reward_head(*inputs).mean
    assert (rewards != rewards.bfloat16().float()).any()


@pytest.mark.parametrize(
    "settings", [{}, {"decoder_std": 0.7, "reward_scale": 5.0, "model_batch": 2, "init_std": 0.1}], ids=str
)
def test_filter_bound_and_step_are_the_oracles(settings: dict) -> None:
    """From images and vectors: every row of the belief, every term, and Adam's step."""
    spec = BOTH_SPEC._replace(terminates=True)
    compare_models(SLAC(replace(SMALL, **settings), spec), oracle.SLAC, spec, particles=2)


@pytest.mark.parametrize("terminates", [False, True])
def test_imagination_is_the_oracles(terminates: bool) -> None:
    """The reward into the start is not known, and zero."""
    compare_dreams(SLAC(SMALL, STATE_SPEC._replace(terminates=terminates)), oracle.SLAC)


@pytest.mark.parametrize("spec", [STATE_SPEC, BOTH_SPEC], ids=["state", "both"])
def test_acting_on_what_is_left_of_the_rows_is_the_oracles(spec: EnvSpec) -> None:
    """The decoder's guess where entries are lost, the prior of z1 where all of it is; guesses are in the context."""
    model, batch = SLAC(SMALL, spec), random_rows(spec, 1)
    masks = random_masks(batch, 2)
    belief, drawn = acted(model, batch, masks, paths=3)
    plain = oracle.SLAC(model.state_dict(), model.config)
    for n in range(len(batch.reward)):
        rows, seen = oracle.window(batch, n), {key: mask[n] for key, mask in masks.items()}
        with torch.no_grad():
            feat, embed = plain.filter_partly(rows, seen, torch.stack(drawn, 1)[n].to(WIDE))
        found = torch.cat([belief.feat[None], belief.particles])[:, n].transpose(0, 1)
        torch.testing.assert_close(found.to(WIDE), feat, rtol=1e-3, atol=1e-4)
        context = belief.context[n, model.lost_rows :].to(WIDE)
        torch.testing.assert_close(context, plain.context(embed, rows), rtol=1e-3, atol=1e-4)
