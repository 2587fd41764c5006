import pytest
import torch
import torch.nn.functional as F
from typer.testing import CliRunner

from dinotile import demo
from dinotile.cli.app import app
from dinotile.dino.encode import EncodeSettings
from dinotile.flux_patch.adapter_config import AdapterConfig
from dinotile.flux_patch.checkpoint import described, load_adapter, save_adapter
from dinotile.flux_patch.geometry import FluxGeometry
from dinotile.flux_patch.rows import WHOLE, DinoRow
from dinotile.flux_patch.schedule import Strength
from dinotile.hosts.diffusers.host import DiffusersHost
from dinotile.hosts.diffusers.redux import load_teacher
from dinotile.hosts.host import Text
from dinotile.training.data.pictures import decode
from dinotile.training.redux.fit import FitSettings, fit_redux, split
from dinotile.training.redux.store import TokenStore
from dinotile.training.redux.tokens import context_inputs, context_targets, passing_adapter

from ...limits import largest_file
from ...near import assert_near
from ...tiny import picture, redux_model, siglip_model, tiny_flux, tiny_vae

CONTEXT = 32  # of tiny_flux
SETTINGS = FitSettings(layers="3", side=56, grid=4, held_out=0.2)


def fitted(folder, place, *, encoder, teacher, geometry, **changes):
    settings = FitSettings(**{**vars(SETTINGS), **changes})
    return fit_redux(folder, encoder=encoder, teacher=teacher, geometry=geometry, settings=settings, folder=place)


def held_out_cosine(adapter, folder, *, encoder, teacher, which):
    """Of the file's own adapter, computed without any of the fitting code but the targets'."""
    found = []
    for path in which:
        pixels = decode(path.read_bytes())[None]
        tokens = adapter.project(encoder.encode(pixels, settings=EncodeSettings(side=56, layers="3")))
        predicted = adapter.context_tokens(tokens.sequence(0, WHOLE, adapter.config.grid)[None])[0]
        targets = context_targets(teacher.tokens(pixels), grid=adapter.config.context_grid)
        found.append(F.cosine_similarity(predicted, targets, dim=1).mean())
    return float(torch.stack(found).mean())


@pytest.mark.parametrize("mlp", [False, True])
def test_the_saved_adapter_reaches_the_reported_cosine(folder, tmp_path, encoder, teacher, geometry, mlp):
    models = {"encoder": encoder, "teacher": teacher, "geometry": geometry}
    adapter, report = fitted(folder, tmp_path, **models, mlp=mlp, epochs=6)
    assert list(tmp_path.iterdir()) == []
    save_adapter(adapter, tmp_path / "adapter.safetensors", trained=True)
    loaded = load_adapter(tmp_path / "adapter.safetensors")
    pictures = sorted(folder.iterdir())
    held = [pictures[index] for index in split(40, share=0.2, seed=0)[2]]
    kept = report.mlp if report.epochs else report.ridge
    cosine = held_out_cosine(loaded.module, folder, encoder=encoder, teacher=teacher, which=held)
    assert cosine == pytest.approx(kept.fitted, abs=1e-4)
    assert (report.pictures, report.held_out) == (40, 8)
    assert loaded.trained and loaded.has("context") and loaded.config.provenance["pictures"] == 40
    assert (report.mlp is not None) == mlp
    assert bool(loaded.config.context_hidden) == bool(report.epochs)
    inputs = []
    for index in sorted(set(range(40)) - set(split(40, share=0.2, seed=0)[2])):
        features = encoder.encode(decode(pictures[index].read_bytes())[None], settings=EncodeSettings(56, "3"))
        inputs.append(context_inputs(loaded.module, features))
    mean = torch.stack(inputs).mean(0)
    assert torch.allclose(loaded.module.null_cls, mean[0], atol=1e-5)
    assert torch.allclose(loaded.module.null_patch, mean[1:].mean(0), atol=1e-5)


def test_own_features_predict_better_than_none_and_than_another_pictures(folder, tmp_path, encoder, teacher, geometry):
    _, report = fitted(folder, tmp_path, encoder=encoder, teacher=teacher, geometry=geometry)
    found = report.ridge
    assert found.fitted > found.mean + 0.01 and found.fitted > found.permuted + 0.01
    assert found.fitted_about_mean > found.permuted_about_mean + 0.2


def test_the_same_data_and_seed_give_the_same_adapter(folder, tmp_path, encoder, teacher, geometry):
    models = {"encoder": encoder, "teacher": teacher, "geometry": geometry}
    one, other, third = (fitted(folder, tmp_path, **models, mlp=True, epochs=2, seed=seed)[0] for seed in (0, 0, 1))
    assert_near(dict(other.state_dict()), dict(one.state_dict()))
    assert not torch.allclose(one.context.bias, third.context.bias, rtol=1e-4, atol=1e-4)


def test_the_passing_adapter_hands_on_dinos_tokens(encoder, geometry):
    sizes = {"dino_width": 64, "width": 64, "grid": 4, "context_grid": 4}
    config = AdapterConfig(dino="tiny-v2", layers="3", geometry=geometry, mechanisms=("context",), **sizes)
    features = encoder.encode(picture(56, 56), settings=EncodeSettings(side=56, layers="3"))
    found = context_inputs(passing_adapter(config), features)
    patches = features.patches[0].flatten(0, 1)
    wanted = F.layer_norm(patches / patches.std(0, correction=0), (64,))
    assert torch.allclose(found[1:], wanted, atol=1e-3)
    assert torch.allclose(found[0], F.layer_norm(features.cls[0], (64,)), atol=1e-4)


def test_the_adapter_speaks_to_flux_and_the_pictures_features_matter(folder, tmp_path, encoder, teacher, geometry):
    adapter, _ = fitted(folder, tmp_path, encoder=encoder, teacher=teacher, geometry=geometry)
    flux = DiffusersHost(tiny_flux(), tiny_vae(), adapter=described(adapter, trained=True))
    torch.manual_seed(0)
    text = Text(torch.randn(1, 3, CONTEXT), torch.randn(1, 16))
    latents = torch.randn(1, 16, 4, 4)
    settings = EncodeSettings(side=56, layers="3")
    tokens = [adapter.project(encoder.encode(picture(56, 56, seed=seed), settings=settings)) for seed in (0, 1)]
    with torch.no_grad():
        plain, one, other = (
            flux.velocity(latents, torch.tensor([0.5]), text=text, rows=[row])
            for row in (DinoRow(), *(DinoRow(tokens=t, settings=Strength(1.0)) for t in tokens))
        )
    assert (one - plain).abs().max() > 1e-3 and (one - other).abs().max() > 1e-4


def test_a_flux_of_another_width_is_refused_before_anything_is_encoded(folder, tmp_path, encoder, teacher):
    geometry = FluxGeometry(hidden=128, heads=1, double_blocks=1, single_blocks=1, context=24, vector=16)
    before = encoder.computed
    with pytest.raises(ValueError, match="Redux gives tokens 32 wide, this FLUX takes text tokens 24 wide"):
        fitted(folder, tmp_path, encoder=encoder, teacher=teacher, geometry=geometry, seed=5)
    assert encoder.computed == before


def test_too_few_pictures_are_refused_and_bad_ones_counted(folder, tmp_path, encoder, teacher, geometry):
    models = {"encoder": encoder, "teacher": teacher, "geometry": geometry}
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(folder.iterdir())[:4]:
        (few / path.name).write_bytes(path.read_bytes())
    (few / "bad.png").write_bytes(b"no picture")
    (few / "gone.png").symlink_to(few / "nowhere.png")
    with pytest.raises(ValueError, match=r"4 pictures can be used \(2 were skipped\), needed are 5"):
        fitted(few, tmp_path, **models)
    assert [path.name for path in tmp_path.iterdir()] == ["few"]
    (few / "5.png").write_bytes(next(folder.iterdir()).read_bytes())
    _, report = fitted(few, tmp_path, **models)
    assert (report.pictures, report.held_out) == (5, 2)
    assert report.skipped == {"unreadable picture": 1, "unreadable file": 1}


@pytest.mark.parametrize(
    "changes", [{"held_out": 0.0}, {"held_out": 0.6}, {"grid": 0}, {"epochs": 0}, {"seed": 2**64}, {"seed": -1}]
)
def test_settings_out_of_range_are_refused(changes):
    with pytest.raises(ValueError, match="must be"):
        FitSettings(**changes)


@pytest.fixture
def command(folder, models, tmp_path):
    """Arguments of the commands on eight pictures, and further ones of ``fit-redux``."""
    tiny_flux().save_pretrained(tmp_path / "flux")
    (tmp_path / "pictures").mkdir()
    for path in sorted(folder.iterdir())[:8]:
        (tmp_path / "pictures" / path.name).write_bytes(path.read_bytes())
    common = [str(tmp_path / "pictures"), "--dino", str(demo.DINO), "--side", "56", "--device", "cpu"]
    return common, ["--siglip", str(models), "--redux", str(models), "--model-path", str(tmp_path / "flux")]


def test_the_command_writes_an_adapter_and_its_report(command, tmp_path):
    common, options = command
    out = tmp_path / "adapter.safetensors"
    options += ["--grid", "3", "--mlp", "--epochs", "1", "-o", str(out)]
    result = CliRunner().invoke(app, ["fit-redux", *common, *options])
    assert result.exit_code == 0, result.output
    assert "8 pictures, 2 of them held out" in result.output and "licence" in result.output
    adapter = load_adapter(out)
    assert (adapter.config.dino, adapter.config.context_grid) == ("dinov2-demo", 3)
    assert f"{adapter.config.provenance['ridge']['fitted']:.3f}" in result.output
    result = CliRunner().invoke(app, ["features", *common])
    assert result.output.splitlines()[-1] == "dinov2: 8 computed, 0 kept, 0 skipped"


def test_a_disk_that_is_full_when_the_adapter_is_written_is_one_sentence(command, tmp_path, dinotile):
    common, options = command
    out = tmp_path / "adapter.safetensors"
    out.write_text("before")
    before = sorted(tmp_path.iterdir())
    with largest_file(30_000):  # enough for the tokens
        code, _, err = dinotile("fit-redux", *common, *options, "--grid", "1", "-o", out, "--overwrite")
    sentence = f"dinotile: output {out} cannot be written (File too large): make room or choose another place"
    assert code == 2 and err.splitlines()[-1] == sentence and "Traceback" not in err
    assert sorted(tmp_path.iterdir()) == before and out.read_text() == "before"


def test_the_command_replaces_no_input_and_a_file_that_is_there_on_purpose_only(command, tmp_path, dinotile):
    common, options = command
    mine = tmp_path / "mine.safetensors"
    mine.write_text("of somebody else")
    inside = tmp_path / "flux" / "diffusion_pytorch_model.safetensors"
    for out, words, *more in (
        (mine, "mine.safetensors exists already: choose another name, or replace it with --overwrite"),
        (demo.DINO, "is the input itself", "--overwrite"),
        (inside, "is a part of an input", "--overwrite"),
    ):
        before = out.read_bytes()
        code, _, err = dinotile("fit-redux", *common, *options, "-o", out, *more)
        assert code == 2 and words in err and err.count("\n") == 1 and out.read_bytes() == before


def test_tokens_of_a_run_that_was_killed_are_removed_and_those_of_another_run_are_not(tmp_path):
    dead = tmp_path / ".fit-redux-dead"
    dead.mkdir()
    (dead / "0").write_bytes(b"x")
    with TokenStore(tmp_path, ((1, 2),)) as store:
        assert not dead.exists()
        with TokenStore(tmp_path, ((1, 2),)):
            store.add(torch.ones(1, 2))
        assert store.read(0)[0].tolist() == [[1, 1]]
    assert list(tmp_path.iterdir()) == []


def test_a_redux_that_gives_no_numbers_gives_no_adapter(folder, tmp_path, encoder, geometry):
    torch.manual_seed(0)
    siglip_model().save_pretrained(tmp_path / "image_encoder")
    redux = redux_model()
    next(redux.parameters()).view(-1)[0] = float("nan")
    redux.save_pretrained(tmp_path / "image_embedder")
    broken = load_teacher(tmp_path, tmp_path)
    (tmp_path / "place").mkdir()
    with pytest.raises(ValueError, match="SigLIP and Redux gave tokens that are NaN or infinite"):
        fitted(folder, tmp_path / "place", encoder=encoder, teacher=broken, geometry=geometry)
    assert not list((tmp_path / "place").iterdir())
