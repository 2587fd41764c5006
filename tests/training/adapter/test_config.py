import pytest

from dinotile.hosts.diffusers.host import adapter_config
from dinotile.training.adapter.config import AdapterSettings, TrainConfig, config_from, load_config

from ..tiny import tiny_host


def load(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return load_config(path)


def test_a_file_changes_what_it_names_and_nothing_else(tmp_path):
    config = load(
        tmp_path,
        """
        data: {path: pictures, picture: [512, 768], tile: 0}
        adapter: {mechanisms: [context, vector], double_sites: [0, 2], single_sites: 3}
        optimisation: {learning_rate: 1e-4, clip: 1}
        output:
        """,
    )
    assert config.data.picture == (512, 768) and config.data.tile == 0
    assert config.adapter.mechanisms == ("context", "vector")
    assert config.adapter.double_sites == (0, 2) and config.adapter.single_sites == 3
    assert config.optimisation.learning_rate == 1e-4  # for YAML this is text
    assert config.optimisation.clip == 1.0 and config.optimisation.steps == 10_000
    assert config.output == TrainConfig().output


def test_every_unknown_key_is_named_with_what_was_meant(tmp_path):
    with pytest.raises(ValueError) as told:
        load(tmp_path, "data: {pth: x, tile: 64}\noptimisation: {learning_rat: 1}\nfoo: 1")
    message = str(told.value)
    assert "config.yaml" in message and "\n" not in message
    for part in ("data.pth (did you mean path?)", "optimisation.learning_rat (did you mean learning_rate?)", "foo"):
        assert part in message


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"optimisation": {"steps": "many"}}, "optimisation.steps is 'many', needed is a whole number"),
        ({"optimisation": {"steps": 1.5}}, "optimisation.steps is 1.5"),
        ({"optimisation": {"steps": 0}}, "optimisation.steps is 0, needed is 1 or more"),
        ({"optimisation": {"learning_rate": "fast"}}, "optimisation.learning_rate is 'fast', needed is a number"),
        ({"optimisation": {"learning_rate": float("nan")}}, "optimisation.learning_rate is nan"),
        (
            {"optimisation": {"learning_rate": 1e39}},
            "optimisation.learning_rate is 1e+39, needed is a number from 0 to 1",
        ),
        ({"optimisation": {"sigma": [0.6, 0.2]}}, "optimisation.sigma"),
        ({"optimisation": {"precision": "bf32"}}, "'no' or 'bf16' or 'fp16'"),
        ({"conditions": {"none": 0.5}}, "sum to 1"),
        ({"conditions": {"dino_guidance": 0.5}}, "conditions.dino_guidance is 0.5, needed is a number of at least 1"),
        (
            {"conditions": {"dino_guidance": 2, "text": 0, "both": 0.85}},
            "conditions.dino_guidance compares both with text, and conditions.text is 0: raise it",
        ),
        ({"conditions": {"weak": 2}}, "conditions.weak is 2.0"),
        ({"data": {"picture": 500}}, "multiples of 16"),
        ({"data": {"tile": 40}}, "data.tile is 40"),
        ({"data": {"picture": [256, 512], "tile": 384}}, "at most the picture's smaller side, 256"),
        ({"data": {"flip": "yes"}}, "data.flip is 'yes', needed is true or false"),
        ({"degradation": {"jpeg": [0, 50]}}, "degradation.jpeg"),
        ({"adapter": {"mechanisms": ["magic"]}}, "adapter.mechanisms"),
        ({"adapter": {"single_sites": -1}}, "adapter.single_sites is -1, needed is a list of block numbers"),
        ({"conditions": {"feature_noise": float("inf")}}, "conditions.feature_noise is inf"),
        ({"conditions": {"from_source": 2}}, "conditions.from_source is 2"),
        ({"conditions": {"start": [0, 1]}}, "conditions.start is"),
        ({"conditions": {"start": [0.6, 0.2]}}, "conditions.start is"),
        ({"conditions": {"from_source": 0.5}, "data": {"features": "dinov2"}}, "set one of them"),
        ({"model": {"guidance": float("nan")}}, "model.guidance is nan"),
        ({"output": {"keep": 0}}, "output.keep is 0"),
        ({"model": {"dtype": "bfloat16"}}, "set the precision to bf16"),
        ({"model": "demo"}, "model is 'demo', needed are keys"),
    ],
)
def test_a_wrong_value_is_told_in_one_sentence(values, told):
    with pytest.raises(ValueError) as error:
        config_from(values)
    assert told in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["data: [", "- 1\n- 2", "\x00"])
def test_what_is_no_configuration_is_told_with_the_file(tmp_path, text):
    with pytest.raises(ValueError, match="config.yaml"):
        load(tmp_path, text)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(ValueError, match="no configuration file .*none.yaml"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "text, told",
    [
        ("data: {path: a}\noptimisation: {steps: 2}\ndata: {tile: 64}", "has data more than once"),
        ("data: {tile: 64, path: a, tile: 32}", "has tile more than once"),
    ],
)
def test_a_key_that_comes_twice_is_told(tmp_path, text, told):
    with pytest.raises(ValueError, match=told):
        load(tmp_path, text)


@pytest.mark.parametrize(("mechanisms", "told"), [(("context",), True), (("cross_attention",), False)])
def test_a_pooled_grid_that_cannot_be_is_lowered_aloud(caplog, mechanisms, told):
    host = tiny_host()
    wanted = AdapterSettings(mechanisms=mechanisms, grid=3, context_grid=4)
    with caplog.at_level("INFO", logger="dinotile"):
        made = adapter_config(wanted, dino=host.dino, layers="3", geometry=host.geometry)
    assert made.context_grid == 3
    assert ("context_grid is lowered to 3" in caplog.text) == told
