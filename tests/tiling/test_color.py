import pytest
import torch

from dinotile.files.pixels import resize
from dinotile.tiling.color import back_project


def pair():
    generator = torch.Generator().manual_seed(0)
    source = resize(torch.rand(1, 3, 12, 17, generator=generator), height=48, width=68)
    result = resize(source, height=96, width=136) * 0.8 + 0.05 * torch.rand(1, 3, 96, 136, generator=generator)
    return result.clamp(0, 1), source


def distance(result, source):
    return (resize(result, height=48, width=68) - source).abs().mean()


def test_fidelity_one_brings_the_shrunk_result_back_to_the_source():
    result, source = pair()
    assert distance(back_project(result, source, fidelity=1.0), source) < 0.1 * distance(result, source)


@pytest.mark.parametrize("fidelity", [0.1, 0.5, 0.9])
def test_fidelity_between_brings_back_that_share(fidelity):
    source = resize(0.4 + 0.2 * pair()[1], height=48, width=68)  # so far from 0 and 1 that nothing is clamped
    result = 0.9 * resize(source, height=96, width=136)
    found, whole = (back_project(result, source, fidelity=share) - result for share in (fidelity, 1.0))
    assert whole.abs().max() > 0.03
    assert torch.allclose(found, fidelity * whole, atol=1e-6)


def test_fidelity_zero_changes_nothing():
    result, source = pair()
    assert back_project(result, source, fidelity=0.0) is result


def test_detail_beyond_the_source_stays():
    _, source = pair()
    smooth = resize(source, height=96, width=136)
    fine = torch.zeros_like(smooth)
    fine[..., ::2, ::2] = fine[..., 1::2, 1::2] = 0.05
    fine[..., 1::2, ::2] = fine[..., ::2, 1::2] = -0.05
    detailed = smooth * 0.5 + 0.25 + fine
    kept = back_project(detailed, source * 0.5 + 0.25, fidelity=1.0)
    assert (kept - detailed)[..., 8:-8, 8:-8].abs().mean() < 0.01


def test_a_wrong_fidelity_says_what_is_allowed():
    with pytest.raises(ValueError, match="fidelity 1.5 must be between 0"):
        back_project(*pair(), fidelity=1.5)
