"""The semantics table's rows differ in what they say they differ in, and in nothing else."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("scipy")

from benchmarks.figures import interval  # noqa: E402
from benchmarks.semantics import classifier, controlnet, faint, pooled, runs, table, train  # noqa: E402
from benchmarks.semantics.captions import Captioned  # noqa: E402
from benchmarks.semantics.guides import Dropped, Elsewhere  # noqa: E402
from benchmarks.semantics.measure import outline  # noqa: E402
from benchmarks.semantics.reference import new_reference  # noqa: E402
from benchmarks.semantics.rows import DEFAULT, SETTINGS  # noqa: E402
from benchmarks.semantics.rows import ROWS as ALL  # noqa: E402
from dinotile import demo  # noqa: E402
from dinotile.demo.train import world  # noqa: E402
from dinotile.dino.load import load_dino  # noqa: E402
from dinotile.flux_patch.checkpoint import load_adapter  # noqa: E402
from dinotile.flux_patch.memo import RunMemo  # noqa: E402
from dinotile.hosts.diffusers.load import load_transformer, load_vae  # noqa: E402
from dinotile.upscaling.joint import TileRow  # noqa: E402
from dinotile.upscaling.upscaler import Upscaler  # noqa: E402

from ..near import assert_near  # noqa: E402

ROWS = {row.name: row for row in ALL}
DINO = "DINO: cross_attention, the shipped adapter"
SETTINGS = replace(SETTINGS, steps=1, dino_strength=1.0)


DRAWN = {}


@pytest.fixture(scope="module")
def source():
    """Four tiles of a scene, where the table has sixteen."""
    return runs.as_pixels(world.scene(np.random.default_rng(runs.HELD_OUT)).source())[..., :56, :56]


def drawn(name, source, shown=None, **changes):
    upscaler = runs.build(ROWS[name])
    guide = runs.guide_of(ROWS[name], upscaler, shown)
    return upscaler.upscale(source, replace(SETTINGS, **changes), make_guide=guide)[0]


def once(name, source):
    """What several tests compare with."""
    if name not in DRAWN:
        DRAWN[name] = drawn(name, source)
    return DRAWN[name]


def apart(left, right):
    return float((left - right).abs().max())


def test_an_untrained_adapter_and_strength_0_are_no_dino(source):
    plain = once("no DINO", source)
    assert_near(drawn("untrained adapter", source), plain)
    assert_near(drawn(DINO, source, dino_strength=0.0), plain)
    assert apart(once(DINO, source), plain) > 1e-3


def test_looking_elsewhere_changes_the_picture_unless_elsewhere_is_here(source):
    own = once(DINO, source)
    assert_near(drawn("features of another picture", source, source), own)
    assert apart(drawn("features of another picture", source, source.flip(3)), own) > 1e-3


def test_features_of_every_tile_alone_differ_from_cropped_ones_and_from_both(source):
    names = (DINO, "features extracted per tile, not cropped", "both: tokens averaged")
    pictures = [once(name, source) for name in names]
    assert all(apart(left, right) > 1e-4 for left, right in zip(pictures, pictures[1:] + pictures[:1], strict=True))


def test_dropped_features_are_the_learned_null_whatever_dino_sees(source):
    name = "features dropped: the learned null"
    upscaler = runs.build(ROWS[name])
    whole = upscaler.guide(strength=1.0)
    here, elsewhere = (
        upscaler.upscale(source, SETTINGS, make_guide=Dropped(one))[0]
        for one in (whole, Elsewhere(whole, source.flip(3)))
    )
    assert torch.equal(here, elsewhere)
    assert_near(drawn(name, source), here)
    assert apart(once(DINO, source), here) > 1e-3
    assert apart(once("no DINO", source), here) > 1e-3


def test_untiled_rows_keep_the_tokens_density():
    tiled, whole = (runs.build(ROWS[name]).host.adapter.config.grid for name in (DINO, "DINO, untiled"))
    assert whole == 3 * tiled


def test_an_oracle_tells_every_tile_of_itself_and_a_caption_tells_all_of_the_picture():
    scene = world.scene(np.random.default_rng(runs.HELD_OUT))
    host, all_of_it = runs.build(ROWS["no DINO"]).host, sorted({thing.texture for thing in scene.things})
    rows = [TileRow(0, box) for box in runs.PLAN.latent.boxes]
    whole, own = (Captioned(host, scene, SETTINGS, whole=whole).told(rows, RunMemo()) for whole in (True, False))
    assert (whole.context == torch.from_numpy(world.caption(all_of_it))).all() and len(own.context) == len(rows)
    named = []
    for row, words in zip(rows, own.context, strict=True):
        cells = scene.labels()[4::8, 4::8][row.box.top : row.box.bottom, row.box.left : row.box.right]
        assert torch.equal(words, torch.from_numpy(world.caption(world.present(cells))))
        named.append(tuple(world.present(cells)))
    assert len(set(named)) > 2 and set().union(*named) <= set(all_of_it)


def test_the_controlnet_is_shown_the_source_and_keeps_its_outlines(source):
    scene = world.scene(np.random.default_rng(runs.HELD_OUT))
    pixels = {name: drawn(name, runs.as_pixels(scene.source()), steps=4) for name in ("no DINO", "ControlNet, no DINO")}
    kept = {name: outline(each, scene) for name, each in pixels.items()}
    assert kept["ControlNet, no DINO"] > 0.85 > kept["no DINO"] + 0.2
    assert apart(drawn("ControlNet, DINO", source), drawn("ControlNet, no DINO", source)) > 1e-3


def test_a_fresh_clone_runs_the_rows_of_shipped_models_and_says_what_others_need(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(table, "WORK", tmp_path)
    rows = table.chosen(None)
    assert 20 < len(rows) < len(ALL) and all(row.shipped for row in rows)
    told = capsys.readouterr().err
    assert "plain, vector: run `python -m benchmarks.semantics.train --part adapters --variants vector`" in told
    assert [row.name for row in table.chosen(["no DINO"])] == ["no DINO"]
    with pytest.raises(SystemExit, match="plain, vector: run `.* --part adapters --variants vector`"):
        table.chosen(["plain, vector"])


def test_every_variant_that_is_trained_has_a_row():
    rows = {row.adapter.partition("-seed-")[0] for row in (*ALL, *faint.ROWS)}
    assert set(train.VARIANTS) == rows - {"", "demo", "untrained"}


def test_what_learned_alone_says_which_part_makes_it(tmp_path):
    for name, part in (
        ("learned on all levels, ControlNet, no DINO", "levels"),
        ("learned on all levels, ControlNet, DINO", "levels"),
        ("reference latents, DINO", "reference"),
        ("ControlNet from the source, no DINO", "from-source"),
        ("encoder without labels that saw many forms, ControlNet, DINO", "forms"),
    ):
        assert ROWS[name].missing(tmp_path) == part and part in train.PARTS and not ROWS[name].shipped


def test_a_reference_is_seen_beside_the_tile_and_dino_acts_on_the_tile_alone(source):
    """Shown to a FLUX that never learned to look at it, so that it changes the picture anyhow."""
    flux = load_transformer(demo.FLUX)
    dino = load_dino(demo.DINO)
    adapter = load_adapter(demo.ADAPTER)
    upscaler = Upscaler(flux, load_vae(demo.VAE), controlnet=new_reference(flux), dino=dino, adapter=adapter)
    kept = []
    flux.transformer_blocks[0].attn.to_out[0].register_forward_hook(
        lambda module, args, out: kept.append(args[0].clone())
    )

    def upscaled(controlnet, strength):
        kept.clear()
        changes = {"controlnet_strength": controlnet, "dino_strength": strength}
        return upscaler.upscale(source, replace(SETTINGS, **changes))[0], kept[0]

    (shown, acted), (off, idle), (blind, alone) = (upscaled(*each) for each in ((1.0, 1.0), (1.0, 0.0), (0.0, 1.0)))
    assert_near(blind, once(DINO, source))
    assert apart(shown, blind) > 1e-3 and apart(shown, off) > 1e-3
    others = acted.shape[1] - alone.shape[1]
    assert others == alone.shape[1], "a reference is as large as the tile"
    assert torch.equal(acted[:, :others], idle[:, :others]) and apart(acted[:, others:], idle[:, others:]) > 1e-3


def test_a_row_that_begins_at_the_source_is_the_noisy_source_there_and_the_picture_at_the_end():
    clean, shown, noise = torch.randn(3, 2, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    starts = torch.tensor([0.4, 1.0])
    found = controlnet.begun(noise, starts, clean=clean, shown=shown)
    share = starts.view(-1, 1, 1, 1)
    mixed = (1 - share) * clean + share * found
    assert torch.allclose(mixed[0], 0.6 * shown[0] + 0.4 * noise[0], atol=1e-6) and torch.equal(found[1], noise[1])


def test_a_second_training_has_a_row_and_names_of_its_own(tmp_path):
    row = ROWS["second training, encoder without labels, ControlNet, DINO"]
    assert row.missing(tmp_path) == "adapters --variants selftaught --seed 1" and not row.shipped
    first, second = (train.recipe("selftaught", steps=1, seed=seed) for seed in (0, 1))
    assert first.output.folder != second.output.folder == str(runs.WORK / "runs" / row.adapter)


def test_rows_join_a_file_of_the_same_pictures_only(tmp_path):
    told, rows = {"pictures": 3, "settings": {"tile": (128, 128)}}, {"one": {table.EACH: [0.5, 0.25, 0.0]}}
    file = tmp_path / "rows.json"
    file.write_text(json.dumps({"about": {**told, "date": "today"}, "rows": rows}))
    assert table.earlier(file, told)["rows"] == rows
    assert table.earlier(file, {**told, "settings": {"tile": (128, 128), "of a later version": 1}})["rows"] == rows
    with pytest.raises(SystemExit, match="is of other pictures"):
        table.earlier(file, {**told, "pictures": 4})


def test_rows_of_different_runs_are_compared_picture_by_picture():
    rows = {"ControlNet, DINO": {table.EACH: [0.9, 0.7, 0.5]}, "ControlNet, no DINO": {table.EACH: [0.6, 0.4, 0.2]}}
    assert table.differences(rows) == {"ControlNet, DINO - ControlNet, no DINO": [0.3, 0.0]}


def test_the_training_folder_holds_what_was_asked_for_and_nothing_older(tmp_path):
    for count in (3, 2):
        train.write_pictures(tmp_path / "pictures", count=count, seed=0)
    assert len(list((tmp_path / "pictures").iterdir())) == 4 * 2


def test_training_does_not_mirror_what_a_mirror_would_rename():
    things = (replace(thing, shape=4, texture=4) for thing in world.scene(np.random.default_rng(runs.HELD_OUT)).things)
    grass = replace(world.scene(np.random.default_rng(runs.HELD_OUT)), things=tuple(things))
    inside = classifier.cell_labels(grass)[1] == world.TEXTURES.index("grass")
    mirrored = classifier.load()(runs.as_pixels(grass.true()).flip(3))[0].argmax(0).flip(1)[inside]
    assert (mirrored == world.TEXTURES.index("rain")).float().mean() > 0.8
    assert not train.recipe(DEFAULT, steps=1, seed=0).data.flip


def test_the_table_takes_adapters_of_these_models_only_and_training_removes_others(tmp_path, monkeypatch):
    """In the folder of a training whose default adapter is the shipped one, or another."""
    monkeypatch.setattr(table, "WORK", tmp_path)
    train.begin_work(tmp_path)
    note, default = tmp_path / "models.json", tmp_path / "adapters" / f"{DEFAULT}.safetensors"
    default.write_bytes(demo.ADAPTER.read_bytes())
    table.check_adapters()
    train.begin_work(tmp_path)
    assert default.exists()
    default.write_bytes(b"other")
    with pytest.raises(SystemExit, match="another training than the demo"):
        table.check_adapters()
    note.write_text(json.dumps(json.loads(note.read_text()) | {"flux": "000000000000"}))
    with pytest.raises(SystemExit, match="of another flux: run"):
        table.check_adapters()
    train.begin_work(tmp_path)
    table.check_adapters()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["adapters", "models.json"]


def test_two_runs_pooled_are_one_run_of_all_their_pictures():
    right = torch.rand(10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    files = [
        {
            "about": {"seeds": 2, "settings": {}, "models": {}, "first": first, "pictures": len(values)},
            "rows": {"one": {"row": {}, "accuracy": [*interval(values)], "follows": [None, None]}},
        }
        for first, values in ((0, right[:4]), (4, right[4:]))
    ]
    found = pooled.together(*files)["rows"]["one"]
    assert list(found) == ["accuracy"] and found["accuracy"] == pytest.approx(interval(right), abs=1e-5)
    files[1]["about"]["first"] = 3
    with pytest.raises(SystemExit, match="share pictures"):
        pooled.together(*files)
