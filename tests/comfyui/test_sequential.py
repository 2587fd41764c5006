"""Promises about tiles one after the other, kept inside a real ComfyUI (inside_sequential.py)."""

from .conftest import one_sentence


def test_kept_tiles_are_not_sampled_again_and_one_is_redone_alone(numbers):
    found = numbers("one_after_the_other")
    assert found["shape"] == [1, 96, 144, 3] and found["finite"] and found["tiles"] == 8
    assert found["keeping is equal"] and found["second run is equal"]
    assert (found["calls of the second run"], found["calls to redo one"]) == (0, 1)
    assert found["redone differs by"] > 0.01 and found["redone differs beside it by"] == 0
    assert found["asked again"] == [True, False, False]  # to redo is another try each time that it is queued
    assert found["by links"] == [True, True, True]
    for said in found["redo of none"]:
        assert said.endswith("redo takes all other tiles from those that are kept, and none are: give keep a name")
    one_sentence(found["redo of two"], ("redo means tiles of one picture, and 2 came", "leave redo empty"))
    one_sentence(found["a path is no name"], ("keep", "plain name"))


def test_coarse_colours_are_the_sources_where_that_is_asked_for(numbers):
    usual, matched = numbers("one_after_the_other")["coarse colours are off by"]
    assert matched < 0.7 * usual and usual > 0.05  # the tiny VAE draws much that is black or white


def test_the_anchor_holds_tiles_to_the_source_and_each_strength_and_decoder_has_its_own(numbers):
    found = numbers("one_after_the_other")
    free, held, other, again = found["off the source by"]
    assert held < 0.5 * free and other > 2 * held  # a random decoder shows nothing of the source
    assert again == held and found["calls with an anchor"] == [[0, 8], [1, 8], [1, 8], [1, 0]]


def test_seed_and_dino_change_the_result(numbers):
    found = numbers("one_after_the_other")
    assert min(found["another seed differs by"], found["without DINO differs by"]) > 0.01


def test_noise_that_a_sampler_adds_in_every_step_is_not_the_same_in_all_tiles(numbers):
    found = numbers("noise_of_each_step")
    assert found["calls"] == 4 and min(found["before"], found["added"]) > 0.1


def test_noise_by_place_is_that_of_tiles_one_after_the_other_at_the_same_seed(numbers):
    found = numbers("noise_by_place")
    assert found["by place"] == 0 and found["usual"] > 0.1
    assert found["asked of one node"] == found["canvas and usual"] == 0 and found["canvas is what it draws unasked"]


def test_every_tile_is_told_its_own_part_of_masks_areas_and_hints(numbers):
    found = numbers("places_of_conditioning")
    assert found["an area of all is as none"] == 0
    assert max(found["the first text, far left"], found["the second text, far right"]) < 0.01 < found["masks act"]
    assert found["hints"] == [[top, left] for top in (0, 32) for left in (0, 32, 48, 80)]
    assert found["a ControlNet acts"] > 0.01
    one_sentence(found["refused"], ("concat_latent_image", "DINO Tiled Upscale"))
    one_sentence(found["anchored"], ("Source Anchor", "set anchor here"))


def test_several_pictures_have_masks_of_their_own(numbers):
    found = numbers("masks_of_two_pictures")
    assert found["masked"][0] > 0.01 and found["masked"][1] == 0
    assert max(found["each its text"]) < 1e-5
    for said in found["two masks of three"]:
        one_sentence(said, ("there are 2 denoise masks and 3 pictures", "give one mask for all"))


def test_several_pictures_have_texts_hints_references_and_redux_of_their_own(numbers):
    found = numbers("told_of_two_pictures")
    assert found["apart"] == [0, 0] and found["differ"] > 0.1
    one_sentence(found["three for two"], ("Redux shows 3 pictures", "the latent holds 2"))


def test_the_host_shows_a_picture_that_fills_in_where_previews_are_wanted(numbers):
    found = numbers("filling")
    assert found["unasked"] == 0 and found["shapes"]
    first, *_, last = found["off"]
    assert first > 0.1 and last < 1 / 255 and found["off"] == sorted(found["off"], reverse=True)


def test_tiles_are_kept_for_a_model_with_its_patches_whatever_was_in_use_before(numbers):
    found = numbers("names_of_models")
    one_sentence(found.pop("unread"), ("Unread", "not told from another", "leave keep empty"))
    assert found == dict.fromkeys(("names", "the same", "made again", "in another process"), True)


def test_tiles_of_a_model_with_a_lora_beside_its_layers_are_its_own(numbers):
    found = numbers("kept_beside")
    assert found["again"] == 0 and found["calls again"] == 0 and found["other"] > 0.001 and found["other as fresh"]
