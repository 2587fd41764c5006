import pytest
import torch

from dinotile.tiling.moving import moved
from dinotile.tiling.plan import plan_tiles
from dinotile.upscaling.joint import flow_sigmas, sample

PLAN = plan_tiles(40, 56, tile=16, overlap=4, grid=2)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("strength", [0.05, 0.3, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("steps", [1, 4, 20])
def test_every_step_is_an_evaluation_at_any_strength(steps, strength):
    sigmas = flow_sigmas(steps, denoise=strength)
    assert len(sigmas) == steps + 1 and sigmas[-1] == 0
    assert all(a > b for a, b in zip(sigmas, sigmas[1:], strict=False))
    assert strength <= sigmas[0] <= min(1, strength * (steps + 1) / steps)


@pytest.mark.parametrize("strength", [1e-320, 1e-300, 1e-30])
@pytest.mark.parametrize("tokens", [None, 4096])
def test_a_tiny_strength_changes_nothing_and_stays_finite(strength, tokens):
    sigmas = flow_sigmas(2, denoise=strength, tokens=tokens)
    latents, noise = random(1, 16, PLAN.height, PLAN.width), random(1, 16, PLAN.height, PLAN.width, seed=1)
    result = sample(lambda x, sigma, rows: torch.sin(3 * x), latents, noise=noise, sigmas=sigmas, plan=PLAN)
    assert len(sigmas) == 3 and torch.allclose(result, latents, atol=1e-4)


def test_strength_zero_evaluates_nothing():
    assert flow_sigmas(4, denoise=0) == [0.0]


@pytest.mark.parametrize("tokens", [256, 1024, 4096])
def test_the_shifted_schedule_is_that_of_diffusers(tokens):
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    levels = [step / 66 for step in range(20, 0, -1)]
    scheduler.set_timesteps(sigmas=levels, mu=calculate_shift(tokens))
    assert flow_sigmas(20, denoise=0.3, tokens=tokens) == pytest.approx(scheduler.sigmas.tolist(), abs=1e-6)


def test_an_untiled_step_is_diffusers_own_euler_step():
    from diffusers import FlowMatchEulerDiscreteScheduler

    latents, noise, sigmas = random(1, 16, 8, 8), random(1, 16, 8, 8, seed=1), [0.5, 0.2, 0.0]
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    scheduler.set_timesteps(sigmas=sigmas[:-1])
    x = scheduler.scale_noise(latents, scheduler.timesteps[:1], noise)
    for time in scheduler.timesteps:
        x = scheduler.step(torch.sin(3 * x), time, x).prev_sample
    plan = plan_tiles(8, 8, tile=8, overlap=2, grid=2)
    result = sample(lambda x, sigma, rows: torch.sin(3 * x), latents, noise=noise, sigmas=sigmas, plan=plan)
    assert torch.allclose(result, x, atol=1e-5)


def test_each_tile_writes_its_own_place_of_its_own_picture():
    """A model that knows the clean picture of every row arrives at it, from any noise."""
    target, noise = random(2, 4, PLAN.height, PLAN.width), random(2, 4, PLAN.height, PLAN.width, seed=1)

    def velocity(x, sigma, rows):
        clean = [target[r.image, :, r.box.top : r.box.bottom, r.box.left : r.box.right] for r in rows]
        return (x - torch.stack(clean)) / sigma

    result = sample(velocity, torch.zeros_like(target), noise=noise, sigmas=[0.8, 0.4, 0.0], plan=PLAN, tile_batch=3)
    assert (result - target).abs().max() < 1e-5


def test_tiles_that_move_write_their_own_places_too():
    target, noise = random(2, 4, PLAN.height, PLAN.width), random(2, 4, PLAN.height, PLAN.width, seed=1)
    boxes = []

    def velocity(x, sigma, rows):
        boxes.append({r.box for r in rows})
        assert {tile.shape[-2:] for tile in x} == {(rows[0].box.height, rows[0].box.width)}
        clean = [target[r.image, :, r.box.top : r.box.bottom, r.box.left : r.box.right] for r in rows]
        return (x - torch.stack(clean)) / sigma

    def move(step):
        return moved(PLAN, step=step, seed=4)

    options = {"noise": noise, "sigmas": [0.8, 0.4, 0.0], "plan": PLAN}
    result = sample(velocity, torch.zeros_like(target), move=move, **options)
    assert (result - target).abs().max() < 1e-5
    assert set().union(*boxes) == {*move(0).boxes, *move(1).boxes} > {*move(0).boxes}


@pytest.mark.parametrize("tile_batch", [1, 3, 100])
def test_the_tile_batch_does_not_change_the_result(tile_batch):
    latents, noise = random(2, 4, PLAN.height, PLAN.width), random(2, 4, PLAN.height, PLAN.width, seed=1)

    def velocity(x, sigma, rows):
        return torch.tanh(x.mean((2, 3), keepdim=True) * 5 + x) * sigma

    for move in (None, lambda step: moved(PLAN, step=step, seed=4)):
        options = {"noise": noise, "sigmas": [0.6, 0.3, 0.0], "plan": PLAN, "move": move}
        expected = sample(velocity, latents, tile_batch=8, **options)
        assert (sample(velocity, latents, tile_batch=tile_batch, **options) - expected).abs().max() < 1e-5


def test_progress_counts_every_tile():
    calls, seen = [], []
    latents = random(1, 4, PLAN.height, PLAN.width)
    sample(
        lambda x, sigma, rows: calls.append(len(rows)) or x,
        latents,
        noise=latents,
        sigmas=[0.6, 0.3, 0.0],
        plan=PLAN,
        tile_batch=4,
        progress=lambda *step: seen.append(step),
    )
    assert calls == [4] * 6 and PLAN.count == 12
    assert [step[:3] for step in seen] == [("sample", done, 24) for done in (4, 8, 12, 16, 20, 24)]
    assert [step[3] for step in seen[1:4:2]] == ["step 1 of 2, tile 8 of 12", "step 2 of 2, tile 4 of 12"]


def test_a_plan_of_another_canvas_is_refused():
    latents = random(1, 4, 8, 8)
    with pytest.raises(ValueError, match="plan covers 56 x 40 cells, the latents have 8 x 8"):
        sample(lambda x, sigma, rows: x, latents, noise=latents, sigmas=[0.5, 0.0], plan=PLAN)
