import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from dinotile.dino.feature_map import FeatureMap
from dinotile.training.data.crops import random_crop
from dinotile.training.data.pictures import open_data
from dinotile.training.data.settings import DataSettings

from ..pictures import colours, encoded, feature_members, npy, ramps, write_tar

NEEDED = ("dinov2-base", "8")


def draw(data, index, seed=0):
    return data.get(index, generator=torch.Generator().manual_seed(seed))


def opened(path, *, picture=(32, 32), tile=32, needs=None, encoder="", **settings):
    return open_data(
        DataSettings(path=str(path), picture=picture, tile=tile, **settings), needs_features=needs, encoder=encoder
    )


def where_features(rows=6, columns=9):
    """Features that say which patch they belong to, of a picture twice as many tens of px: [1, rows, columns, 2]."""
    at = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), dim=-1).float()
    return FeatureMap(at[None], torch.tensor([[7.0, 8.0]]), *NEEDED, (rows * 10, columns * 10))


def put(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_folder_is_read_with_its_subfolders_in_the_order_of_names(tmp_path):
    subfolders = [f"{letter}/x.png" for letter in "vqzkomwr"]
    for number, name in enumerate(["b.png", "a/c.JPG", "a/a.webp", "d.tif", "e.jpeg", *subfolders]):
        kind = {"png": "PNG", "webp": "WEBP", "tif": "TIFF"}.get(name.rpartition(".")[2], "JPEG")
        put(tmp_path, name, encoded(colours(40, 40, seed=number), kind))
    put(tmp_path, "notes.txt", b"no picture")
    put(tmp_path, "b.source.png", encoded(colours(40, 40)))
    data = opened(tmp_path)
    assert data.names == ["b.png", "d.tif", "e.jpeg", "a/a.webp", "a/c.JPG", *sorted(subfolders)]
    assert all(draw(data, index).pixels.shape == (3, 32, 32) for index in range(len(data)))


def test_a_sample_depends_on_its_number_and_generator_only(tmp_path):
    for number in range(3):
        put(tmp_path, f"{number}.png", encoded(colours(80, 100, seed=number)))
    one, other = opened(tmp_path), opened(tmp_path)
    draw(one, 0, seed=5)
    assert torch.equal(draw(one, 2, seed=1).pixels, draw(other, 2, seed=1).pixels)
    assert not torch.equal(draw(one, 2, seed=1).pixels, draw(one, 2, seed=2).pixels)
    assert not torch.equal(draw(one, 2, seed=1).pixels, draw(one, 1, seed=1).pixels)


def test_a_skipped_sample_draws_as_many_numbers_as_a_good_one(tmp_path):
    put(tmp_path, "a.png", encoded(colours(40, 40)))
    put(tmp_path, "b.png", b"no picture")
    data, after = opened(tmp_path), []
    for index in (0, 1, 1):
        generator = torch.Generator().manual_seed(0)
        data.get(index, generator=generator)
        after.append(torch.rand(1, generator=generator))
    assert after[0] == after[1] == after[2]


def test_a_crop_keeps_proportions_and_stays_inside():
    for seed in range(200):
        draws = torch.rand(3, generator=torch.Generator().manual_seed(seed)).tolist()
        top, left, height, width = random_crop(90, 200, height=32, width=48, draws=draws)
        assert 0 <= top <= 90 - height and 0 <= left <= 200 - width
        assert height >= 32 and width >= 48 and abs(width - 1.5 * height) <= 1.5
    assert random_crop(90, 200, height=32, width=48, draws=[0.999] * 3)[2] > 85
    assert random_crop(20, 24, height=32, width=48, draws=[0.5] * 3) == (2, 0, 16, 24)


def test_flips_come_half_of_the_time_and_only_where_asked(tmp_path):
    put(tmp_path, "a.png", encoded(ramps(48, 48)))
    data, still = opened(tmp_path), opened(tmp_path, flip=False)
    mirrored = [bool(s.pixels[1, 0, 0] > s.pixels[1, 0, -1]) for s in (draw(data, 0, seed=n) for n in range(60))]
    assert 15 < sum(mirrored) < 45
    assert all(s.pixels[1, 0, 0] < s.pixels[1, 0, -1] for s in (draw(still, 0, seed=n) for n in range(20)))


def test_the_datas_own_source_is_cut_and_mirrored_like_the_truth(tmp_path):
    put(tmp_path, "a.png", encoded(ramps(96, 128)))
    put(tmp_path, "a.source.png", encoded(ramps(96, 128).resize((32, 24), Image.BILINEAR)))
    data = opened(tmp_path)
    for seed in range(6):
        sample = draw(data, 0, seed=seed)
        assert sample.source.shape == sample.pixels.shape
        assert (sample.source - sample.pixels).abs().max() < 0.04
    other = draw(data, 0, seed=3).pixels, draw(data, 0, seed=4).pixels
    assert (other[0] - other[1]).abs().max() > 0.1


def test_pictures_are_upright_and_transparency_is_white(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise
    buffer = io.BytesIO()
    ramps(40, 60).save(buffer, format="PNG", exif=exif)
    put(tmp_path, "turned.png", buffer.getvalue())
    clear = ramps(40, 40).convert("RGBA")
    clear.putalpha(0)
    put(tmp_path, "clear.png", encoded(clear))
    data = opened(tmp_path, flip=False)
    assert (draw(data, data.names.index("clear.png")).pixels > 0.999).all()
    turned = draw(data, data.names.index("turned.png")).pixels
    assert turned[1, -1, 0] > turned[1, 0, 0] and turned[0, 0, 0] > turned[0, 0, -1]


def test_text_tensors_come_along(tmp_path):
    put(tmp_path, "a.png", encoded(colours(40, 40)))
    context, pooled = np.random.rand(5, 16).astype(np.float32), np.random.rand(8).astype(np.float16)
    put(tmp_path, "a.t5.npy", npy(context))
    put(tmp_path, "a.clip.npy", npy(pooled))
    sample = draw(opened(tmp_path), 0)
    assert torch.equal(sample.context, torch.from_numpy(context))
    assert torch.equal(sample.pooled, torch.from_numpy(pooled).float())
    assert (sample.source, sample.features) == (None, None)


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_bad_pictures_are_counted_once_and_none_is_returned(tmp_path):
    put(tmp_path, "good.png", encoded(colours(40, 40)))
    put(tmp_path, "noise.png", b"no picture at all")
    put(tmp_path, "cut.jpg", encoded(colours(400, 400), "JPEG")[:-3000])
    put(tmp_path, "tiny.png", encoded(colours(40, 31)))
    put(tmp_path, "pickle.png", encoded(colours(40, 40)))
    put(tmp_path, "pickle.t5.npy", npy(np.array([Trap(tmp_path / "sprung")], dtype=object)))
    data = opened(tmp_path)
    for _ in range(2):
        found = {name: draw(data, index) for index, name in enumerate(data.names)}
    assert [name for name, sample in found.items() if sample] == ["good.png"]
    assert data.skipped == {"unreadable picture": 2, "with a side below 32 px": 1, "with a damaged t5.npy": 1}
    assert not (tmp_path / "sprung").exists()


def test_without_a_tile_pictures_must_fill_the_samples_side(tmp_path):
    put(tmp_path, "a.png", encoded(colours(48, 48)))
    put(tmp_path, "b.png", encoded(colours(31, 48)))
    data = opened(tmp_path, tile=0)
    assert [draw(data, index) is not None for index in range(2)] == [True, False]


def test_nothing_to_train_on_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no samples in .*png, jpg"):
        opened(tmp_path)
    with pytest.raises(ValueError, match="no data at .*nowhere"):
        opened(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no data is named"):
        opened("")
    with pytest.raises(ValueError, match="neither a folder nor a .tar"):
        opened(put(tmp_path, "a.tar.gz", b"x"))
    for number in range(2):
        put(tmp_path, f"{number}.png", encoded(colours(8, 8)))
    put(tmp_path, "bad.png", b"no")
    with pytest.raises(ValueError, match="none of the 3 samples .* 2 with a side below 32 px, 1 unreadable picture"):
        opened(tmp_path)


def test_precomputed_features_belong_to_the_part_that_is_shown(tmp_path):
    picture = encoded(ramps(60, 90))
    put(tmp_path, "a.png", picture)
    for ending, content in feature_members(where_features(), picture).items():
        put(tmp_path, f"a.{ending}", content)
    data = opened(tmp_path, features="dinov2", needs=NEEDED, encoder="weights")
    sample = draw(data, 0)
    patches = sample.features.patches  # 6 of 9 columns: the picture is cut to a square
    assert patches.shape == (1, 6, 6, 2)
    assert patches[0, 0, 0].tolist() == [0, 1] and patches[0, -1, -1].tolist() == [5, 6]
    assert sample.features.cls.tolist() == [[7, 8]]
    assert (sample.features.spec, sample.features.layers, sample.features.image_size) == (*NEEDED, (60, 60))
    assert sample.pixels[1, 0, 0] == pytest.approx(10 / 89, abs=0.02)  # the box starts at the second patch
    assert sample.pixels[1, 0, -1] == pytest.approx(69 / 89, abs=0.02)
    assert torch.equal(sample.pixels, draw(data, 0, seed=9).pixels)


def test_samples_without_their_own_features_are_skipped_not_zeroed(tmp_path):
    for name in ("good", "none", "half", "stale", "broken", "unlike"):
        picture = encoded(colours(40, 40, seed=len(name)))
        put(tmp_path, f"{name}.png", picture)
        files = feature_members(where_features(4, 4), picture)
        if name == "half":
            del files["dinov2_cls.npy"]
        if name == "stale":
            files = feature_members(where_features(4, 4), b"the picture of last week")
        if name == "broken":
            files["dinov2_patches.npy"] = files["dinov2_patches.npy"][:50]
        if name == "unlike":
            files["dinov2_cls.npy"] = npy(np.zeros(3, np.float32))
        for ending, content in files.items() if name != "none" else ():
            put(tmp_path, f"{name}.{ending}", content)
    data = opened(tmp_path, features="dinov2", needs=NEEDED)
    found = [name for index, name in enumerate(data.names) if draw(data, index)]
    assert found == ["good.png"]
    assert data.skipped == {
        "without dinov2_patches.npy, dinov2_cls.npy, dinov2.json": 1,
        "without dinov2_cls.npy": 1,
        "with features of another picture": 1,
        "with damaged features": 2,
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"spec": "dinov2-large"}, r"dinov2-large layers 8 .*needed are those of dinov2-base layers 8"),
        ({"layers": "12"}, r"dinov2-base layers 12 .*needed are those of dinov2-base layers 8"),
        ({"encoder": "tuned"}, r"weights tuned.*weights weights"),
    ],
)
def test_features_of_another_encoder_are_refused_with_both_named(tmp_path, changes, said):
    picture = encoded(colours(40, 40))
    put(tmp_path, "a.png", picture)
    for ending, content in feature_members(where_features(4, 4), picture, **changes).items():
        put(tmp_path, f"a.{ending}", content)
    with pytest.raises(ValueError, match=said):
        opened(tmp_path, features="dinov2", needs=NEEDED, encoder="weights")


def members(stem, seed):
    picture = encoded(ramps(40, 40) if seed == 0 else colours(40, 40, seed=seed), "JPEG")
    return {f"{stem}.jpg": picture, f"{stem}.txt": b"words", f"{stem}.source.png": encoded(colours(40, 40, seed=seed))}


def test_a_tar_gives_the_same_samples_as_a_folder(tmp_path):
    folder = tmp_path / "folder"
    picture = encoded(colours(60, 90, seed=1))
    files = {"a.png": picture, **{f"a.{k}": v for k, v in feature_members(where_features(), picture).items()}}
    files |= {"a.t5.npy": npy(np.ones((2, 4), np.float32))}
    for name, content in files.items():
        put(folder, name, content)
    tar = write_tar(tmp_path / "one.tar", files)
    for features in ("", "dinov2"):
        one, other = draw(opened(folder, features=features), 0), draw(opened(tar, features=features), 0)
        assert torch.equal(one.pixels, other.pixels) and torch.equal(one.context, other.context)
        assert other.name == "one/a"
        assert not features or torch.equal(one.features.patches, other.features.patches)


def test_several_tars_are_one_list_in_order(tmp_path):
    for shard in range(3):
        write_tar(tmp_path / f"s-{shard}.tar", {**members("x/a", 2 * shard), **members("x/b", 2 * shard + 1)})
    wanted = [f"s-{shard}/x/{name}" for shard in range(3) for name in "ab"]
    for path in (tmp_path / "s-*.tar", tmp_path / "s-{0..2}.tar"):
        assert opened(path).names == wanted
    listed = DataSettings(path=(str(tmp_path / "s-2.tar"), str(tmp_path / "s-0.tar")), picture=32, tile=32)
    data = open_data(listed, needs_features=None)
    assert data.names == wanted[4:] + wanted[:2]
    assert draw(data, 3).source is not None


def test_tar_samples_with_missing_members_are_counted(tmp_path):
    tar = write_tar(tmp_path / "s.tar", {**members("a", 0), "b.txt": b"words alone", "c.jpg": encoded(colours(40, 40))})
    data = opened(tar)
    assert [draw(data, index) is not None for index in range(3)] == [True, False, True]
    assert data.skipped == {"without a picture": 1}
    with pytest.raises(ValueError, match="2 without dinov2_patches.npy, .*1 without a picture"):
        opened(tar, features="dinov2")


def test_damaged_tars_are_refused(tmp_path):
    tar = write_tar(tmp_path / "s.tar", members("a", 0))
    content = tar.read_bytes()
    for name, part in (("cut.tar", content[:900]), ("text.tar", b"no tar at all" * 100)):
        with pytest.raises(ValueError, match=f"{name} is not a whole tar"):
            opened(put(tmp_path, name, part))
    with tarfile.open(tmp_path / "twice.tar", "w") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("a.jpg"))
    with pytest.raises(ValueError, match="twice.tar names a member twice"):
        opened(tmp_path / "twice.tar")
