"""The name of an experiment, as the source document writes it, and what is wrong with others."""

import subprocess
import sys

import pytest

from dinotile.training.flatdino.name import OPTIONS, parse


def test_the_names_of_the_source_document_mean_what_it_says():
    plain = parse("fast-32-sb-128")
    assert (plain.variant, plain.tokens, plain.encoder, plain.decoder, plain.features) == ("fast", 32, "s", "b", 128)
    assert plain.kl == pytest.approx(1.25e-7) and not plain.levels and plain.inner_weight == 1
    assert (plain.schedule.epochs, plain.schedule.falling) == (50, 0.10)
    assert [parse(f"{variant}-32-sb-128").schedule.epochs for variant in ("med", "long", "ext")] == [100, 150, 300]
    annealed = parse("med-32-sb-256-kl3-an5k")
    assert (annealed.kl, annealed.annealing) == (pytest.approx(1e-3), 5000)
    assert parse("long-32-sb-128-fb0.1").free_bits == 0.1
    assert parse("fast-32-sb-128-25kl7").kl == pytest.approx(2.5e-7)
    assert parse("fast-32-sb-128-klvar3").kl_variance == pytest.approx(1e-3)
    both = parse("fast-32-sb-128-er4-dr8-il4-iw05-hl-tanh")
    assert (both.encoder_registers, both.decoder_registers, both.inner, both.inner_weight) == (4, 8, 4, 0.5)
    assert both.half and both.tanh
    none = parse("fast-32-sb-128-nokl")
    assert none.deterministic and none.kl == 0


def test_four_digits_are_levels():
    quantised = parse("fast-32-bb-8555")
    assert (quantised.levels, quantised.features, quantised.kl, quantised.nested) == ((8, 5, 5, 5), 4, 0, False)
    assert parse("fast-32-bb-8555-nd").nested and parse("fast-32-bb-768").features == 768


@pytest.mark.parametrize(
    "text, value", [("iw05", 0.5), ("iw0.5", 0.5), ("iw2", 2.0), ("iw0025", 0.025), ("iw10", 10.0), ("iw1.5", 1.5)]
)
def test_weights_with_a_leading_zero_are_decimals(text, value):
    assert parse(f"fast-32-sb-128-il4-{text}").inner_weight == value


def test_the_model_is_the_one_that_the_name_says():
    config = parse("fast-32-sb-128-er4-dr8-tanh-hl").config(dino="dinov2-base", width=768, how="12", grid=(16, 16))
    assert (config.tokens, config.features, config.encoder, config.decoder) == (32, 128, "s", "b")
    assert (config.encoder_registers, config.decoder_registers, config.tanh, config.half) == (4, 8, True, True)
    assert config.floats == 4096 and config.bits == 65536
    quantised = parse("fast-32-bb-8555-nd").config(dino="dinov2-base", width=768, how="12", grid=(16, 16))
    assert quantised.nested and round(quantised.bits) == 319


@pytest.mark.parametrize(
    "name, part, said",
    [
        ("quick-32-sb-128", "quick", "must be a variant, one of fast, med, long, ext"),
        ("fast-sb-128", None, "has 3 parts, at least 4 are needed"),
        ("fast-0-sb-128", "0", "must be a number of tokens"),
        ("fast-x-sb-128", "x", "must be a number of tokens"),
        ("fast-32-sx-128", "sx", "must be the sizes of encoder and decoder, two of p, n, t, s, b, l"),
        ("fast-32-s-128", "s", "must be the sizes of encoder and decoder"),
        ("fast-32-sb-wide", "wide", "must be a number of features"),
        ("fast-32-bb-8521", "8521", "four or more levels from 3 to 9"),
        ("fast-32-sb-128-kl", "kl", "must be an option, one of hl, nokl, kl, an, fb, klvar, er, dr, tanh, il, iw, nd"),
        ("fast-32-sb-128-", "", "must be an option"),
        ("fast-32-sb-128-an5", "an5", "must be an option"),
        ("fast-32-sb-128-kl3-kl4", None, "has kl twice (kl3, kl4): leave one out"),
        ("fast-32-sb-128-nokl-an5k", None, "has nokl and an5k: leave one of them out"),
        ("fast-32-sb-128-iw05", None, "has iw05 without a layer to weigh: add ilN"),
        ("fast-32-sb-128-nd", None, "has nd with continuous latents, no levels such as 8555: leave it out"),
        ("fast-32-bb-8555-kl3", None, "has kl3 with levels, which have no distribution: leave it out"),
        ("fast-32-bb-8555-tanh", None, "has tanh with levels"),
        ("fast-32-sb-128-0kl3", "0kl3", "must be above 0; without a divergence write nokl"),
        ("fast-32-sb-128-er0", "er0", "must be at least 1, or left out"),
        ("fast-32-sb-128-er99", None, "cannot be: encoder_registers is 99"),
        ("fast-9999-sb-128", None, "cannot be: tokens is 9999"),
        ("", "", "must be a variant"),
    ],
)
def test_a_wrong_name_is_one_sentence_with_the_part_that_is_wrong(name, part, said):
    with pytest.raises(ValueError) as told:
        parse(name)
    sentence = str(told.value)
    assert said in sentence and "\n" not in sentence and repr(name) in sentence
    assert part is None or sentence.startswith(f"{part!r} in the name ")


def test_every_option_changes_what_is_trained():
    samples = {
        "kl": "kl3",
        "an": "an5k",
        "fb": "fb0.1",
        "klvar": "klvar3",
        "er": "er4",
        "dr": "dr4",
        "il": "il4",
        "iw": "il4-iw05",
    }
    for option in OPTIONS:
        base = "fast-32-bb-8555" if option == "nd" else "fast-32-sb-128"
        with_it, without = parse(f"{base}-{samples.get(option, option)}"), parse(base)
        ignored = {"name"} | ({"inner"} if option == "iw" else set())
        differs = {key for key in vars(with_it) if getattr(with_it, key) != getattr(without, key)} - ignored
        assert differs, option


def test_a_name_is_explained_without_loading_torch(dinotile):
    code, out, _ = dinotile("flatdino", "train", "--explain", "fast-32-sb-128-25kl7-an5k-er4-hl")
    assert code == 0
    for said in (
        "50 epochs",
        "384 wide, 6 blocks",
        "768 wide, 6 blocks",
        "4096 of a picture",
        "2.5e-07 after 5000 steps",
        "er4",
    ):
        assert said in out
    assert "319 bits of a picture" in dinotile("flatdino", "train", "--explain", "fast-32-bb-8555-nd")[1]
    code, _, err = dinotile("flatdino", "train", "--explain", "fast-32-sb-128-zz")
    assert code == 2 and err.startswith("dinotile: 'zz' in the name") and err.count("\n") == 1
    loaded = "import sys, dinotile.cli.app, dinotile.training.flatdino.name; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
