import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dinotile.cli import app as cli
from dinotile.dino.encode import EncodeSettings
from dinotile.training.adapter.config import AdapterSettings, TrainConfig, config_from, keys_page, load_config
from dinotile.training.adapter.sheet import settings_of
from dinotile.training.adapter.start import config_of

from ...dino.tiny import tiny_encoder
from ..tiny import tiny_host

ROOT = Path(__file__).parents[3]


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
        ({"optimisation": {"steps": 0}}, "optimisation.steps is 0, needed is a whole number of at least 1"),
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
        ({"conditions": {"weak": 2}}, "conditions.weak is 2, needed is a number from 0 to 1"),
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
        ({"model": {"guidance": 150}}, "model.guidance is 150, needed is a number from 0 to 100"),
        (
            {"data": {"picture": 8192, "tile": 4112}, "output": {"sample_every": 1}},
            "output.sample_every draws pictures in tiles of the training's size, at most 4096 px, and that is 4112 px",
        ),
        (
            {"data": {"picture": [64, 4112], "tile": 0}, "output": {"sample_every": 1}},
            "and that is 4112 px: set data.tile",
        ),
        ({"output": {"keep": 0}}, "output.keep is 0"),
        (
            {"output": {"judge": "vgg.safetensors"}},
            "output.judge looks at the sample pictures, and output.sample_every is 0",
        ),
        ({"model": {"dtype": "bfloat16"}}, "set the precision to bf16"),
        ({"model": {"weights": "fp8", "gradient_checkpointing": True}}, "fp8 needs model.dtype bfloat16 or float16"),
        (
            {"model": {"weights": "fp8", "dtype": "bfloat16"}, "optimisation": {"precision": "bf16"}},
            "and model.gradient_checkpointing, without which",
        ),
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
    wanted = AdapterSettings(mechanisms=mechanisms, grid=3, context_grid=4)
    with caplog.at_level("INFO", logger="dinotile"):
        made = config_of(wanted, tiny_encoder("tiny-v2").spec, tiny_host().geometry, encode=EncodeSettings(layers="3"))
    assert made.context_grid == 3
    assert ("context_grid is lowered to 3" in caplog.text) == told


def tower(line, *, first):
    """Lines of which each holds the one before nine times."""
    return "\n".join([first, *(line.format(i, i + 1, f"*n{i}, " * 9) for i in range(30))])


ODDITIES = {
    "an impossible date": ("data: {path: 2026-13-01}", "'2026-13-01' cannot be read as timestamp"),
    "a date": ("data: {path: 2026-11-01}", "data.path is datetime.date(2026, 11, 1), needed is text"),
    "a list in itself": ("data: {path: &a [*a]}", "data.path is [[[...]]]"),
    "a mapping in itself": ("&a {data: *a}", "unknown data.data"),
    "a merge with itself": ("data: &a {<<: *a}", "merge"),
    "a tower of lists": (tower("p{0}: &n{1} [{2}]", first="p: &n0 [x]"), "p29"),
    "a tower of merges": (tower("m{0}: &n{1} {{<<: [{2}]}}", first="m: &n0 {x: 1}"), "merge"),
    "a tower as a value": (
        "degradation: {scale: &a [x, x], blur: &b [*a, *a], noise: &c [*b, *b], jpeg: [*c, *c]}",
        "scale is ['x', 'x']",
    ),
    "a long integer": (f"optimisation: {{steps: {'9' * 5000}}}", "cannot be read as int"),
    "a long binary integer": (f"optimisation: {{steps: 0b{'1' * 100_000}}}", "cannot be read as int"),
    "a long integer of base 60": (f"optimisation: {{steps: 1{':59' * 40_000}}}", "cannot be read as int"),
    "an integer too large for a number": (f"optimisation: {{clip: {'9' * 400}}}", "optimisation.clip is 999"),
    "a seed too large": (f"optimisation: {{seed: {2**64}}}", "needed is a whole number from 0 to below 2^64"),
    "a python object": ("data: {path: !!python/object/apply:os.getcwd []}", "python/object"),
    "a tag of nobody": ("data: !secret {path: a}", "!secret"),
    "a tag that does not fit": ("optimisation: {steps: !!int ''}", "'' cannot be read as int"),
    "a set": ("adapter: {mechanisms: !!set {vector}}", "adapter.mechanisms is {'vector'}"),
    "many brackets": ("data: " + "[" * 20_000, "lists in lists"),
    "many dashes": ("- " * 20_000, "recursion"),
    "two documents": ("--- {}\n--- {}", "single document"),
    "keys that are no text": ("1: a\n~: b", "unknown 1, None"),
    "a character beyond all": ('data: {path: "\\UFFFFFFFF"}', "is not readable as YAML"),
    "a character after the last": ('data: {path: "\\U00110000"}', "is not readable as YAML"),
    "half a character": ('data: {path: "a\\ud800"}', r"data.path is 'a\ud800', needed is text"),
    "half a character in a list": ('data: {path: ["\\ud800"]}', "data.path is"),
    "half a character as a key": ('data: {"\\ud800": 1}', r"data is {'\ud800': 1}, needed are keys"),
    "an end of text in a path": ('output: {folder: "a\\0b"}', r"output.folder is 'a\x00b', needed is text"),
    "a number of base 60": (f"model: {{guidance: {'59:' * 600}1.5}}", "cannot be read as float"),
    "a long key": (f"data: {{{'a' * 900}: 1}}", "unknown data.aaa"),
    "a key that is a long number": (f"data: {{{'9' * 900}: 1}}", "unknown data.999"),
    "a thousand unknown keys": (f"data: {{{', '.join(f'a{i}: 1' for i in range(1000))}}}", "a30 and 969 more"),
    "a long list": (f"data: {{path: [{'a,' * 60_000}]}}", "more than 10,000 values; name many files by a pattern"),
    "a large file": ("#" * 2**21, "so it is no configuration: check the path"),
}


@pytest.mark.parametrize(("text", "told"), ODDITIES.values(), ids=ODDITIES)
def test_an_odd_file_is_told_in_one_sentence_within_a_second(tmp_path, text, told):
    begin = time.process_time()
    with pytest.raises(ValueError) as error:
        load(tmp_path, text)
    assert time.process_time() - begin < 1
    assert "config.yaml" in str(error.value) and told in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize(
    "values",
    [
        {"optimisation": {"steps": 5.0}},
        {"optimisation": {"steps": "5"}},
        {"optimisation": {"steps": True}},
        {"optimisation": {"clip": True}},
        {"data": {"flip": 1}},
        {"data": {"picture": True}},
        {"data": {"picture": []}},
        {"model": {"layers": 2}},
        {"degradation": {"blur": [1]}},
        {"degradation": {"blur": {1, 2}}},
    ],
)
def test_nothing_stands_for_another_type(values):
    with pytest.raises(ValueError, match=f"{next(iter(values))}.* needed is"):
        config_from(values)


@pytest.mark.parametrize("data", [{"picture": 4096, "tile": 0}, {"picture": 8192, "tile": 4096}])
def test_what_a_configuration_allows_can_be_drawn_on_a_sheet(data):
    config = config_from({"data": data, "output": {"sample_every": 1}, "model": {"guidance": 100}})
    assert settings_of(config, token=16).tile == 4096
    assert config_from({"data": {"picture": 8192, "tile": 0}}).data.tile == 0, "where nothing is drawn"


def test_numbers_as_text_and_whole_numbers_stand_for_numbers():
    config = config_from({"optimisation": {"clip": "1e-4", "sigma": ["1e-1", 1]}})
    assert config.optimisation.clip == 1e-4 and config.optimisation.sigma == (0.1, 1.0)


def test_the_page_tells_all_keys_with_their_defaults():
    page = keys_page()
    for name, section in TrainConfig():
        rows = page.split(f"## {name}\n")[1].split("\n## ")[0].split("\n| `")[1:]
        assert [row.partition("`")[0] for row in rows] == list(section.model_dump())
    assert "| `ema` | a number from 0 to below 1 | `0.999` |" in page
    assert "| `start` | [low, high] with 0.05 <= low <= high <= 1 | `[0.2, 0.6]` |" in page
    assert "| `dtype` | 'float32' or 'bfloat16' or 'float16' | `\"float32\"` |" in page


def test_the_page_in_docs_is_what_the_command_prints():
    printed = CliRunner().invoke(cli.app, ["train", "--keys"])
    assert printed.exit_code == 0
    assert printed.stdout == (ROOT / "docs" / "training-config.md").read_text(encoding="utf-8"), "write it anew"


@pytest.mark.parametrize(("section", "key"), [("output", "folder"), ("data", "encoded")])
def test_a_folder_that_is_written_may_lie_in_the_own_home(section, key):
    config = config_from({section: {key: "~/runs"}})
    assert getattr(getattr(config, section), key) == str(Path.home() / "runs")
    with pytest.raises(ValueError, match="'~no-such-user/runs', needed is text, with ~ for your own home"):
        config_from({section: {key: "~no-such-user/runs"}})
