"""Captions through FLUX.2's language model, a tiny real one, as the trainer reads them."""

import numpy as np
import pytest
import torch

from dinotile.hosts.diffusers.text import load_text_encoder
from dinotile.training.data.availability import availability
from dinotile.training.data.features import precompute
from dinotile.training.data.pictures import open_data
from dinotile.training.data.settings import DataSettings
from dinotile.training.data.text_recipe import TextRecipe

from ...tiny_text import save_klein_text, save_text_pipeline
from ..pictures import colours, encoded, npy

KLEIN = 2560  # width of the language model of klein 4B, of which a token holds three layers


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    pipeline = save_klein_text(tmp_path_factory.mktemp("klein"), width=KLEIN)
    return TextRecipe(load_text_encoder(pipeline, device="cpu", dtype=torch.float32), tokens=7)


@pytest.fixture
def folder(tmp_path):
    for name, caption in (("a", "a red fox"), ("b", "a blue fox")):
        (tmp_path / f"{name}.png").write_bytes(encoded(colours(40, 40)))
        (tmp_path / f"{name}.txt").write_text(caption)
    return tmp_path


def computed(path, recipe):
    (report,) = precompute(path, [recipe])
    return report.computed, report.kept


def sample(folder, index=0, family="flux2"):
    data = open_data(DataSettings(path=str(folder), picture=32, tile=32), needs_features=None, family=family)
    return data.get(index, generator=torch.Generator().manual_seed(0))


def test_the_text_beside_a_picture_is_its_captions_of_the_language_model(folder, recipe):
    assert computed(folder, recipe) == (2, 0) and computed(folder, recipe) == (0, 2)
    assert sorted(path.name for path in folder.glob("a.*.*")) == ["a.flux2.json", "a.flux2.npy"]
    for index, caption in enumerate(("a red fox", "a blue fox")):
        found, wanted = sample(folder, index), recipe.encoder.encode(caption, tokens=7)
        assert found.context.shape == (7, 3 * KLEIN) and found.pooled.shape == (0,) and found.mask is None
        assert torch.equal(found.context, wanted.context[0].half().float())
    (text,) = (report for report in availability(folder).reports if report.name == "text")
    assert (text.kept, text.skipped.total()) == (2, 0)
    (folder / "a.txt").write_text("a green frog")
    assert computed(folder, recipe) == (1, 1)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """FLUX.1's recipe."""
    pipeline = save_text_pipeline(tmp_path_factory.mktemp("first"), t5_width=4096, clip_width=768)
    return TextRecipe(load_text_encoder(pipeline, device="cpu", dtype=torch.float32), tokens=5)


def test_texts_of_two_families_lie_side_by_side_and_each_model_reads_its_own(folder, recipe, first):
    assert computed(folder, first) == computed(folder, recipe) == (2, 0)
    assert computed(folder, first) == computed(folder, recipe) == (0, 2)
    assert sample(folder, family="flux1").context.shape == (5, 4096)
    assert sample(folder, family="flux2").context.shape == (7, 3 * KLEIN)
    assert sample(folder, family="krea2").context is not None  # to be refused by its width, not left out


def test_text_of_one_family_that_the_data_brought_outlives_that_of_another(folder, recipe, first):
    own, vector = npy(np.ones((3, 4096), np.float16)), npy(np.ones(768, np.float16))
    for ending, content in (("t5.npy", own), ("clip.npy", vector)):
        (folder / f"a.{ending}").write_bytes(content)
    assert computed(folder, recipe) == (2, 0) and computed(folder, first) == (1, 1)
    assert (folder / "a.t5.npy").read_bytes() == own and sample(folder, family="flux1").context.shape == (3, 4096)


def test_arrays_of_another_maker_are_read_and_stay(folder, recipe):
    own = npy(np.ones((3, 3 * KLEIN), np.float16))
    (folder / "a.flux2.npy").write_bytes(own)
    assert sample(folder).context.shape == (3, 3 * KLEIN) and sample(folder, 1).context is None
    assert computed(folder, recipe) == (1, 1) and (folder / "a.flux2.npy").read_bytes() == own


def test_unfinished_text_is_not_trained_on(folder, recipe):
    computed(folder, recipe)
    (folder / "a.flux2.npy").unlink()
    assert sample(folder) is None and sample(folder, 1) is not None


def test_what_is_not_flux_2s_is_refused(recipe, tmp_path):
    narrow = load_text_encoder(save_klein_text(tmp_path), device="cpu", dtype=torch.float32)
    with pytest.raises(
        ValueError, match="gives tokens 48 wide, FLUX.2's models take 7680, 12288, 15360: give a FLUX.2"
    ):
        TextRecipe(narrow)
    with pytest.raises(ValueError, match="padding of FLUX.1's T5, and this is FLUX.2"):
        TextRecipe(recipe.encoder, masked=True)
    assert TextRecipe(recipe.encoder).tokens == 512
