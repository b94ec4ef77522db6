"""The RSSM against its oracle, the published parameter counts, and its own promises."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import BOTH_SPEC, PIXEL_SPEC, STATE_SPEC
from tests.oracles import rssm as oracle
from tests.oracles.plain import WIDE
from tests.oracles.side_by_side import acted, compare_dreams, compare_models, random_masks, random_rows
from tests.test_agent import build
from worldrl.beliefs.rssm import RSSM, Posterior
from worldrl.beliefs.slac import SLAC
from worldrl.types import Batch, Decodes, EnvSpec, Imagines, ObsSpec, Surprises, box

SMALL = RSSM.Config(stoch=4, deter=8, hidden=8, depth=2, reward_units=8, vector_units=8)


@pytest.mark.parametrize(("reward_units", "count"), [(300, 5_203_520), (400, 5_296_820)])
def test_parameter_counts_of_the_published_models(reward_units: int, count: int) -> None:
    spec = EnvSpec("walker_walk", {"pixels": ObsSpec((64, 64, 3), "uint8")}, box(6))
    model = RSSM(RSSM.Config(reward_units=reward_units), spec)
    assert sum(p.numel() for p in model.parameters()) == count


def test_free_nats_clip_the_average_or_each_element(make_batch) -> None:
    model = RSSM(SMALL, STATE_SPEC)
    kl = torch.tensor([[1.0, 4.0], [0.0, 9.0]])
    assert model._free_nats(kl) == 3.5
    each = RSSM(RSSM.Config(**{**SMALL.__dict__, "free_nats_per_element": True}), STATE_SPEC)
    assert each._free_nats(kl) == (3 + 4 + 3 + 9) / 4


def test_beliefs_are_detached_and_losses_are_the_only_graph(make_batch) -> None:
    model = RSSM(SMALL, BOTH_SPEC)
    belief, losses, metrics = model.observe(make_batch(BOTH_SPEC), 2)
    assert set(losses) == {"pixels", "state", "reward", "kl"}
    assert not any(x.requires_grad for x in (*belief, *metrics.values()))
    assert all(x.requires_grad for x in losses.values())
    assert belief.feat.shape == (4, 6, model.feat_dim)
    assert belief.particles.shape == (2, 4, 6, model.feat_dim)
    assert belief.context.shape == (4, 6, model.context_dim)
    assert belief.entropy.shape == (4, 6)


def test_an_episode_border_resets_the_state(make_batch) -> None:
    """Rows before a first row do not matter to it."""
    model = RSSM(SMALL, STATE_SPEC)
    batch = make_batch(STATE_SPEC, b=1, border=3)
    torch.manual_seed(1)
    before = model.observe(batch, 0)[0].feat
    batch.obs["state"][:, :3] += 1.0
    torch.manual_seed(1)
    after = model.observe(batch, 0)[0].feat
    torch.testing.assert_close(before[:, 3:], after[:, 3:])
    assert not torch.allclose(before[:, 2], after[:, 2])


def test_acting_step_by_step_is_filtering(make_batch) -> None:
    model = RSSM(SMALL, BOTH_SPEC)
    batch = make_batch(BOTH_SPEC, border=2)
    state = model.initial(4)
    feats = []
    for t in range(6):
        row = {key: value[:, t] for key, value in batch.obs.items()}
        torch.manual_seed(100 + t)
        state, belief = model.step(state, row, batch.action[:, t], batch.is_first[:, t])
        feats.append(belief.feat)
    targets = model._targets(batch.obs)
    embed = model._encode(targets).unflatten(0, (4, 6))
    noise = []
    for t in range(6):
        torch.manual_seed(100 + t)
        noise.append(torch.randn(4, 1, SMALL.stoch)[:, 0])
    real = torch.randn
    try:
        torch.randn = lambda *a, **k: torch.stack(noise)  # type: ignore[assignment]
        post = model._filter(embed, batch)
    finally:
        torch.randn = real  # type: ignore[assignment]
    torch.testing.assert_close(torch.stack(feats, 1), post.feat().detach())


def test_deterministic_acting_takes_the_posterior_mean(make_batch) -> None:
    model = RSSM(SMALL, STATE_SPEC)
    obs, action = {"state": torch.randn(3, 5)}, torch.zeros(3, 2)
    runs = [model.step(model.initial(3), obs, action, torch.ones(3), deterministic=True)[1].feat for _ in range(2)]
    assert torch.equal(*runs)
    many = [model.step(model.initial(3), obs, action, torch.ones(3))[1].feat for _ in range(4000)]
    torch.testing.assert_close(torch.stack(many).mean(0), runs[0], atol=0.1, rtol=0.1)


def test_history_particles_are_paths_and_last_step_particles_share_the_path(make_batch) -> None:
    batch = make_batch(STATE_SPEC, b=8, t=12)
    spread = {}
    for kind in ("history", "last_step"):
        torch.manual_seed(0)
        model = RSSM(RSSM.Config(**{**SMALL.__dict__, "particles": kind}), STATE_SPEC)
        particles = model.observe(batch, 64)[0].particles
        deter = particles[..., SMALL.stoch :]
        spread[kind] = deter.std(0).mean((0, 2))  # (T,)
    assert spread["last_step"].max() < 1e-6
    assert spread["history"][0] < 1e-6  # the first state starts from zero on every path
    assert spread["history"][1:].min() > 1e-3


def test_particles_follow_the_law_of_feat(make_batch) -> None:
    """Over many windows with the same rows, feat and particles have the same mean and spread."""
    batch = make_batch(STATE_SPEC, b=1, t=5)
    wide = Batch({"state": batch.obs["state"].expand(4000, -1, -1)}, *(x.expand(4000, *x.shape[1:]) for x in batch[1:]))
    model = RSSM(SMALL, STATE_SPEC)
    belief = model.observe(wide, 1)[0]
    torch.testing.assert_close(belief.feat.mean(0), belief.particles[0].mean(0), atol=0.08, rtol=0.0)
    torch.testing.assert_close(belief.feat.std(0), belief.particles[0].std(0), atol=0.08, rtol=0.0)


def test_drawing_particles_does_not_change_feat(make_batch) -> None:
    model, batch = RSSM(SMALL, STATE_SPEC), make_batch(STATE_SPEC)
    feats = []
    for k in (0, 8):
        torch.manual_seed(2)
        feats.append(model.observe(batch, k)[0].feat)
    assert torch.equal(*feats)


def test_continue_predictor_is_there_where_tasks_terminate(make_batch) -> None:
    ends = STATE_SPEC._replace(terminates=True)
    model = RSSM(SMALL, ends)
    batch = make_batch(ends)
    batch.is_terminal[0, 2] = 1.0
    losses = model.observe(batch, 0)[1]
    logit = model.continue_head(model.observe(batch, 0)[0].feat)
    assert "continue" in losses
    assert logit.shape == (4, 6)
    assert "continue" not in RSSM(SMALL, STATE_SPEC).observe(batch, 0)[1]


def test_decode_gives_observations() -> None:
    model = RSSM(SMALL, BOTH_SPEC)
    obs = model.decode(torch.randn(2, 3, model.feat_dim))
    assert obs["pixels"].shape == (2, 3, 64, 64, 3)
    assert obs["pixels"].dtype == torch.uint8
    assert obs["state"].shape == (2, 3, 5)
    assert isinstance(model, Decodes)


def test_imagination_follows_the_law_of_filtering(make_batch) -> None:
    """A step dreamt from a filtered state has the prior that filtering compares its posterior with."""
    model = RSSM(SMALL, STATE_SPEC)
    batch = make_batch(STATE_SPEC, b=1)
    belief = model.observe(batch, 0)[0]
    many = belief.feat[0, 2].expand(20_000, -1)
    dream = model.imagine(many, lambda feat: batch.action[0, 3].expand(len(feat), -1), 1).feat[1]
    torch.testing.assert_close(dream[0, SMALL.stoch :], belief.feat[0, 3, SMALL.stoch :])
    mean, std = model._gaussian(model.prior_head(belief.feat[0, 3, SMALL.stoch :]))
    torch.testing.assert_close(dream[:, : SMALL.stoch].mean(0), mean, atol=0.03, rtol=0.0)
    torch.testing.assert_close(dream[:, : SMALL.stoch].std(0), std, atol=0.03, rtol=0.0)


def test_under_bf16_a_posterior_that_is_the_prior_has_no_divergence() -> None:
    """The prior of the KL is that of the filter, which is float32."""
    model, deter = RSSM(SMALL, STATE_SPEC), torch.randn(3, 5, SMALL.deter)
    mean, std = model._gaussian(model.prior_head(deter))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model._kl(Posterior(mean, std, mean, deter)), torch.zeros(3, 5))


def test_bf16_keeps_states_and_losses_in_float32_and_close(make_batch) -> None:
    model, batch = RSSM(SMALL, BOTH_SPEC), make_batch(BOTH_SPEC)
    torch.manual_seed(3)
    belief, losses, _ = model.observe(batch, 2)
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16):
        half_belief, half_losses, _ = model.observe(batch, 2)
    assert all(x.dtype == torch.float32 for x in (*half_belief, *half_losses.values()))
    torch.testing.assert_close(half_belief.feat, belief.feat, atol=0.05, rtol=0.05)
    for name, loss in losses.items():
        torch.testing.assert_close(half_losses[name], loss, rtol=0.02, atol=0.02)
    assert not torch.equal(half_losses["pixels"], losses["pixels"])


def test_burn_in_rows_warm_the_state_up_and_are_not_shown(make_batch) -> None:
    batch = make_batch(STATE_SPEC, border=4)
    shown = []
    for burn_in in (0, 2):
        torch.manual_seed(0)
        model = RSSM(RSSM.Config(**{**SMALL.__dict__, "burn_in": burn_in}), STATE_SPEC)
        torch.manual_seed(1)
        belief, losses, _ = model.observe(batch, 3)
        shown.append((belief, losses))
    assert model.lost_rows == 2
    assert shown[1][0].feat.shape[1] == batch.drop_rows(2).reward.shape[1] == 4
    for whole, tail in zip(shown[0][0], shown[1][0], strict=True):
        assert torch.equal(whole[:, :, 2:] if whole.dim() == 4 else whole[:, 2:], tail)
    assert all(torch.equal(shown[0][1][key], shown[1][1][key]) for key in shown[0][1])


def test_surprise_is_the_divergence_of_every_row(make_batch) -> None:
    model, batch = RSSM(SMALL, BOTH_SPEC), make_batch(BOTH_SPEC, border=3)
    torch.manual_seed(4)
    metrics = model.observe(batch, 0)[2]
    torch.manual_seed(4)
    kl = model.surprise(batch)
    assert kl.shape == (4, 6)
    torch.testing.assert_close(kl.mean(), metrics["belief/kl"])
    assert isinstance(model, Surprises)


def test_scales_and_background_do_what_they_say(make_batch) -> None:
    batch = make_batch(PIXEL_SPEC)
    losses = []
    for kl, reward in ((1.0, 1.0), (0.25, 10.0)):
        torch.manual_seed(0)
        scales = {"kl_scale": kl, "reward_scale": reward}
        model = RSSM(RSSM.Config(**{**SMALL.__dict__, **scales, "background": True}), PIXEL_SPEC)
        torch.manual_seed(1)
        losses.append(model.observe(batch, 0)[1])
    torch.testing.assert_close(losses[1]["kl"], 0.25 * losses[0]["kl"])
    torch.testing.assert_close(losses[1]["reward"], 10.0 * losses[0]["reward"])
    assert torch.equal(losses[1]["pixels"], losses[0]["pixels"])
    decoder, feat = model.decoders["pixels"], torch.randn(2, model.feat_dim)
    before = decoder(feat)
    with torch.no_grad():
        decoder.background += 1.0
    torch.testing.assert_close(decoder(feat), before + 1.0)


def test_xavier_leaves_the_gru_alone() -> None:
    models = []
    for init in ("default", "xavier"):
        torch.manual_seed(0)
        models.append(RSSM(RSSM.Config(**{**SMALL.__dict__, "init": init}), PIXEL_SPEC))
    default, xavier = models
    assert torch.equal(default.gru.weight_ih, xavier.gru.weight_ih)
    assert not torch.equal(default.post_in.weight, xavier.post_in.weight)
    assert xavier.encoders["pixels"].convs[0].bias.abs().sum() == 0


def test_paths_while_acting_are_independent() -> None:
    agent = build("rssm", "smac", STATE_SPEC)
    obs, first = {"state": torch.ones(2000, 5)}, torch.ones(2000)
    belief = agent.model.step(agent.initial(2000, particles=1), obs, torch.zeros(2000, 2), first)[1]
    ours, theirs = (x[:, :4] - x[:, :4].mean(0) for x in (belief.feat, belief.particles[0]))
    correlation = (ours * theirs).mean(0) / (ours.std(0) * theirs.std(0))
    assert correlation.abs().max() < 0.1


@pytest.mark.parametrize("belief", ["rssm", "slac"])
def test_of_several_paths_the_first_acts_as_if_alone_and_the_others_go_on_drawing(belief: str, make_batch) -> None:
    """With ``deterministic``; the context is that of the first path too."""
    model = RSSM(SMALL, STATE_SPEC) if belief == "rssm" else SLAC(SLAC.Config(**SLAC.tiny), STATE_SPEC)
    batch = make_batch(STATE_SPEC)
    rows = [({"state": batch.obs["state"][:, t]}, batch.action[:, t], batch.is_first[:, t]) for t in range(4)]
    state = model.initial(4, particles=3)
    for row in rows[:3]:
        state, _ = model.step(state, *row)
    first = {key: x[:, :1] if key in ("stoch", "deter", "z2") else x for key, x in state.items()}
    many, again = (model.step(state, *rows[3], deterministic=True)[1] for _ in range(2))
    alone = model.step(first, *rows[3], deterministic=True)[1]
    for name in ("feat", "context", "entropy"):
        torch.testing.assert_close(getattr(many, name), getattr(alone, name))
    assert (many.particles != again.particles).any(-1).all()


@pytest.mark.parametrize(
    "settings", [{}, {"free_nats": 0.0, "kl_scale": 0.3, "reward_scale": 10.0, "particles": "last_step"}], ids=str
)
def test_filter_bound_and_step_are_the_oracles(settings: dict) -> None:
    """Eq. 22 from images and vectors: every row of the belief, every term, and Adam's step."""
    spec = BOTH_SPEC._replace(terminates=True)
    compare_models(RSSM(RSSM.Config(**{**SMALL.__dict__, **settings}), spec), oracle.RSSM, spec, particles=3)


@pytest.mark.parametrize("terminates", [False, True])
def test_imagination_is_the_oracles(terminates: bool) -> None:
    """Entry 0 is the start, action t leads from entry t to t + 1, reward and discount t are those of entry t."""
    model = RSSM(SMALL, STATE_SPEC._replace(terminates=terminates))
    assert isinstance(model, Imagines)
    compare_dreams(model, oracle.RSSM)


@pytest.mark.parametrize("spec", [STATE_SPEC, BOTH_SPEC], ids=["state", "both"])
def test_acting_on_what_is_left_of_the_rows_is_the_oracles(spec: EnvSpec) -> None:
    """The decoder's guess where entries are lost, the prior where the whole row is."""
    model, batch = RSSM(SMALL, spec), random_rows(spec, 1)
    masks = random_masks(batch, 2)
    belief, drawn = acted(model, batch, masks, paths=3)
    plain = oracle.RSSM(model.state_dict(), model.config)
    with torch.no_grad():
        want = plain.filter_partly(batch, masks, torch.stack(drawn, 1).to(WIDE)).movedim(2, 0)
    found = torch.cat([belief.feat[None], belief.particles])
    torch.testing.assert_close(found.to(WIDE), want, rtol=1e-3, atol=1e-4)


def test_nothing_lost_changes_nothing(make_batch) -> None:
    model, batch = RSSM(SMALL, BOTH_SPEC), make_batch(BOTH_SPEC, border=2)
    beliefs = []
    for masks in ({}, {key: torch.ones_like(x, dtype=torch.bool) for key, x in batch.obs.items()}):
        torch.manual_seed(3)
        beliefs.append(acted(model, batch, masks, paths=2)[0])
    for plain, told in zip(*beliefs, strict=True):
        torch.testing.assert_close(plain, told, rtol=0.0, atol=2e-6)  # equal up to rounding
