"""Training inside a real ComfyUI: inside_training.py measures, this file says what the numbers must be."""

import pytest

from .conftest import numbers_of, one_sentence


@pytest.fixture
def numbers(trained):
    return numbers_of(trained)


def test_training_lowers_the_loss(numbers, report):
    found = numbers("trained")
    assert found["weights were made in inference mode"]  # so that the run shows what the host needs
    report(f"120 steps in ComfyUI: loss on fixed rows {found['loss untrained']:.3f} to {found['loss trained']:.3f}")
    assert found["loss trained"] < 0.9 * found["loss untrained"]
    assert found["loss of another start"] > found["loss trained"]


def test_the_adapter_is_saved_as_it_is_given_out_and_works_in_the_graph(numbers):
    found = numbers("trained")
    assert found["files"] == 1
    assert found["trained"] and found["steps"] == 120
    assert found["output is the file"]
    assert found["sample with it differs by"] > 0.01


def test_the_loss_curve_is_a_picture(numbers):
    found = numbers("trained")
    assert found["curve"] == [1, 480, 960, 3]
    assert found["curve is no blank"] > 0.05


def test_progress_goes_to_the_host(numbers):
    found = numbers("trained")
    assert found["last progress"] == [120, 120]
    assert found["previews"] >= 30


def test_training_leaves_the_hosts_models_and_switches_as_they_were(numbers):
    found = numbers("trained")
    assert found["flux is as before"] and found["sample is as before"]
    assert found["patches left"] == []
    assert found["in_training"] is False


def test_a_training_goes_on_from_an_adapter_with_its_configuration(numbers):
    found = numbers("continued")
    assert found["configuration"] == [24, 3, ["vector"]]
    assert found["without a rate the weights stay"] and found["start stays"]
    assert found["with one they move"] > 1e-4
    assert found["sites"] == ["double.0", "double.1", "single.0", "single.2"]
    assert found["sites of a new one"] == ["single.0", "single.1", "single.2"]
    assert found["values of a new one"] > 0


def test_the_same_settings_give_the_same_adapter(numbers):
    found = numbers("repeated")
    assert found["same settings"] < 1e-5
    assert found["another seed"] > 1e-3


def test_an_adapter_learns_with_guidance_and_says_so(numbers):
    found = numbers("repeated")
    assert found["with guidance"] > 1e-3 and found["same guidance"] < 1e-5
    assert found["guidance told"] == 2.0


def test_a_loader_runs_again_when_any_file_of_its_model_is_replaced_and_only_then(numbers):
    assert numbers("replaced") == {"kept": True, "changed": [False, True, True]}


def test_features_are_remembered_though_the_encoder_is_made_anew(numbers):
    found = numbers("remembered")
    assert found["computed"] == [1, 0, 1] and found["same"] and found["other"] > 0.1


def test_crops_scales_and_the_contexts_grid_belong_to_an_adapter(numbers):
    found = numbers("encodings")
    assert found["fits"] == [1, 1, 1] and len(found["refused"]) == 6
    for sentence in found["refused"].values():
        one_sentence(sentence, ("the features come from dinov2-demo layers 3", "the adapter was made for dinov2-demo"))
    assert found["configuration"] == [["3 crops 2 apart", 256, 3]] * 2
    assert found["picture"] == [1, 64, 80, 3]


def test_t5_and_a_grid_of_14_make_the_context_of_709_tokens(numbers):
    """512 of T5, CLS, and 14 x 14 patches."""
    assert numbers("encodings")["context"] == [709]


@pytest.mark.parametrize(("sampler", "evaluations"), [("euler", 3), ("heun", 5)])
def test_the_one_node_tells_of_dino_of_the_vae_and_of_every_tile(numbers, sampler, evaluations):
    found = numbers("progress")
    values, totals = zip(*found[sampler], strict=True)
    assert set(totals) == {600} and list(values) == sorted(values) and values[-1] == 600
    assert values[:3] == (0, 100, 100) and 200 in values  # DINO, then the VAE by its layers; the steps are 200 to 500
    sampled = [value for value in values[values.index(200) + 1 :] if value <= 500]
    assert len(sampled) >= evaluations * found["tiles"] and len(set(sampled)) > 3 * found["tiles"] - 3
    assert {300, 400, 500} <= set(sampled)


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn"])
def test_a_flux_of_low_precision_trains_a_float32_adapter(numbers, dtype):
    found = numbers("low_precision")[dtype]
    assert (found["stored in"], found["computed in"]) == (f"torch.{dtype}", "torch.bfloat16")
    assert found["finite"] and found["values"] > 0
    assert found["adapter"] == ["torch.float32"]


def test_an_interrupt_saves_what_was_trained_and_the_next_run_works(numbers):
    assert numbers("interrupted") == {
        "said": "InterruptProcessingException",
        "files": 1,
        "steps": 3,
        "trained": True,
        "said before the first step": "InterruptProcessingException",
        "files before the first step": 0,
        "in_training": False,
        "flag is left": False,
        "next run": 40,
        "goes on": 1,
    }


def test_a_cancelled_training_goes_on_where_it_stopped_and_equals_an_uncancelled_one(numbers):
    found = numbers("resumed")
    assert found["said"] == "InterruptProcessingException" and found["kept"] == ["step-000005"]
    assert found["told"] == [6, 7, 8, 9] and found["steps"] == [5, 9]
    assert found["apart"] < 1e-6


def test_another_input_does_not_go_on_from_a_cancelled_training(numbers):
    begin = numbers("resumed")["others begin at"]
    assert len(begin) == 5 and set(begin.values()) == {1}


def test_a_finished_training_leaves_no_folder_and_a_cancelled_one_its_own(numbers):
    found = numbers("resumed")
    assert found["folders after a whole run"] == 0 and found["folders beside"] == 6 and not found["left"]


REFUSED = {
    "no folder": ("folder is empty",),
    "missing folder": ("nowhere", "no folder"),
    "missing folder in input": ("input", "nowhere"),
    "empty folder": ("no samples", "empty"),
    "unreadable": ("unreadable picture",),
    "tiny": ("below 32 px",),
    "picture off the grid": ("picture", "40", "multiples of 16"),
    "name outside": ("../outside", "models/model_patches"),
    "absolute name": ("models/model_patches",),
    "name below a file": ("occupied/x", "another name"),
    "no name": ("models/model_patches",),
    "adapter of another DINO": ("dinov2-small", "dinov2-demo"),
    "adapter of another FLUX": ("width 128", "width 256"),
    "layers": ('layers "9"', "blocks 1 to 4"),
    "VAE of another FLUX": ("the VAE has latents of 16 channels per 8 px", "the model of 128 channels per 16 px"),
    "FLUX.1 Fill": ("384 channels per token", "Fill, Canny and Depth models need further inputs"),
    "NaN": ("not finite at step 1", "nothing was learned", "choose a VAE and a FLUX that work"),
    "adapter with NaN": ("the adapter has weights", "NaN or infinite", "double_0", "choose another adapter"),
    "adapter that overflows": ("not finite at step 1", "choose a VAE, a FLUX and an adapter that work"),
    "compiled": ("the model is compiled", "connect it as it is before"),
    "tiled": ("the model is tiled", "connect it as it is before"),
    "tile above picture": ("tile 64", "picture 32"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_one_sentence_that_names_it(numbers, case):
    one_sentence(numbers("refusals")["said"][case], REFUSED[case])


@pytest.mark.parametrize(
    ("where", "told"), [("said outside", "is neither in"), ("said of unknown", "there is no folder")]
)
def test_folders_beyond_the_allowed_ones_get_one_sentence_whether_they_exist_or_not(numbers, where, told):
    said = numbers("refusals")[where]
    for name, sentence in said.items():
        one_sentence(sentence, (told,))
        assert sentence.replace(repr(name[:100]), "it") == next(iter(said.values())).replace(
            repr(next(iter(said))), "it"
        )


def test_what_is_refused_leaves_no_file_and_the_next_run_works(numbers):
    assert numbers("refusals")["files"] == []
    assert numbers("refusals")["afterwards"]
