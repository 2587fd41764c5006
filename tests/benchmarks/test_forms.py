"""The world's shapes in many forms: what is held out, and that an object keeps its form."""

import numpy as np
import pytest

pytest.importorskip("scipy")

from benchmarks.semantics import forms, selftaught  # noqa: E402
from dinotile.demo.train import world  # noqa: E402

Y, X = np.mgrid[-1.2:1.2:61j, -1.2:1.2:61j]


@pytest.mark.parametrize("shape", range(len(world.SHAPES)))
def test_a_shape_is_the_worlds_at_0_and_another_in_other_forms(shape):
    plain = world.SHAPES[shape](Y, X)
    assert np.allclose(forms.FORMS[shape](Y, X, 0.0), plain, atol=1e-12)
    covered = [(forms.FORMS[shape](Y, X, form) < 0) for form in (-1.1, -0.4, 0.4, 1.1)]
    shares = [(each != (plain < 0)).mean() / (plain < 0).mean() for each in covered]
    assert shares[0] > shares[1] > 0.05 and shares[3] > shares[2] > 0.05


def test_held_out_forms_are_none_that_are_learned_from():
    drawn = {spread: [] for spread in forms.SPREADS}
    for spread in forms.SPREADS:
        for seed in range(60):
            scene = forms.scene(np.random.default_rng(seed), spread=spread)
            drawn[spread] += [forms.form_of(thing, spread) for thing in scene.things]
            assert scene.things == world.scene(np.random.default_rng(seed)).things
    learned, inside, outside = (np.abs(drawn[spread]) for spread in ("trained", "inside", "outside"))
    assert ((learned <= 0.3) | ((learned >= 0.45) & (learned <= 0.75))).all() and learned.min() < 0.1
    assert ((inside > 0.3) & (inside < 0.45)).all() and (outside > 0.8).all()
    assert all({-1, 1} == set(np.sign(drawn[spread])) for spread in forms.SPREADS)


def test_the_encoder_that_learns_by_itself_is_shown_the_forms_that_are_drawn():
    scene = forms.scene(np.random.default_rng(5), spread="outside")
    planes = selftaught.drawn(scene, range(len(scene.things))).numpy()
    source = scene.source()
    assert np.abs(planes[:3] - source.transpose(2, 0, 1)).mean() < 0.005
    assert (
        np.abs(planes[:3] - world.Scene(scene.things, scene.light, scene.ground).source().transpose(2, 0, 1)).mean()
        > 0.01
    )


def test_an_object_that_is_seen_again_keeps_its_form():
    rng = np.random.default_rng(1)
    first = selftaught.numbered([forms.scene(rng, spread="outside") for _ in range(3)])
    again = selftaught.again(first, rng, lambda rng: forms.scene(rng, spread="outside"))
    form = {
        number: (thing.shape, forms.form_of(thing, "outside"))
        for scene, numbers in first
        for thing, number in zip(scene.things, numbers, strict=True)
    }
    for scene, numbers in again:
        for thing, number in zip(scene.things, numbers, strict=True):
            assert (thing.shape, forms.form_of(thing, scene.spread)) == form[number]
