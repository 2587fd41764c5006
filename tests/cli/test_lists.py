"""Pictures named in a list: a manifest of an earlier job, or lines that a person wrote."""

import json
import os
import shutil
from pathlib import Path

import pytest

from dinotile.cli.lists import find_listed
from dinotile.files.pictures import Picture, save_picture
from dinotile.hosts.diffusers.texts import Texts
from dinotile.upscaling.recipe import recipe_of

from ..tiny import picture, tiny_flux, tiny_vae
from ..tiny_text import save_text_pipeline

PACK = Path(__file__).parents[2]


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "in").mkdir()
    for number, name in enumerate("abc"):
        save_picture(Picture(picture(20 + number, 24)), tmp_path / "in" / f"{name}.png")
    return tmp_path / "in"


def wrote(path, *lines):
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def test_what_failed_of_a_manifest_is_done_by_another_command_and_by_nobody_twice(dinotile, models, pictures, tmp_path):
    whole = (pictures / "b.png").read_bytes()
    (pictures / "b.png").write_bytes(whole[:100])
    manifest = tmp_path / "jobs.jsonl"
    assert dinotile("upscale", pictures, "-o", f"{tmp_path}/out/", *models, "--manifest", manifest)[0] == 1
    (pictures / "b.png").write_bytes(whole)
    code, out, err = dinotile("upscale", manifest, "--only", "failed", "-o", f"{tmp_path}/more/", *models)
    assert code == 0 and os.listdir(tmp_path / "more") == ["b.png"], err
    code, out, _ = dinotile("upscale", manifest, "--only", "running", "-o", f"{tmp_path}/none/", *models)
    assert code == 0 and out == f"no picture of {manifest} is running: nothing to do\n"
    assert not (tmp_path / "none").exists()
    with manifest.open("a") as file:
        file.write('{"dinotile": "0.1.0", "sta')  # a kill
    same = ("upscale", manifest, "-o", f"{tmp_path}/out/", *models, "--manifest", manifest)
    code, out, err = dinotile(*same)  # its own list
    assert code == 0 and "2 of 3 pictures are done already, 1 failed before" in out, err
    assert sorted(os.listdir(tmp_path / "out")) == ["a.png", "b.png", "c.png"] and "3 of 3" in dinotile(*same)[1]


def test_lines_have_names_seeds_and_denoise_of_their_own_and_others_have_the_commands(
    dinotile, models, pictures, tmp_path
):
    own = {"source": "a.png", "output": "first.webp", "seed": 7, "denoise": 0.6}
    listed = wrote(pictures / "list.jsonl", own, "\n", {"source": str(pictures / "b.png")})
    arguments = ("upscale", listed, pictures / "c.png", *models, "--seed", 3, "-o", f"{tmp_path}/out/")
    code, _, err = dinotile(*arguments, "--manifest", tmp_path / "jobs.jsonl")
    assert code == 0 and sorted(os.listdir(tmp_path / "out")) == ["b.png", "c.png", "first.webp"], err
    settings = {name: recipe_of(tmp_path / "out" / name)["settings"] for name in ("first.webp", "b.png")}
    found = {name: (said["seed"], said["denoise"]) for name, said in settings.items()}
    assert found == {"first.webp": (7, 0.6), "b.png": (3, 0.3)}
    wrote(listed, {**own, "seed": 8}, {"source": "b.png"})
    said = dinotile(*arguments, "--manifest", tmp_path / "jobs.jsonl")[1]
    assert "2 of 3 pictures are done already, 1 changed since" in said


def test_a_manifest_keeps_what_a_picture_has_of_its_own(dinotile, models, pictures, tmp_path):
    whole = (pictures / "a.png").read_bytes()
    (pictures / "a.png").write_bytes(whole[:100])
    own, manifest = {"seed": 7, "denoise": 0.6}, tmp_path / "jobs.jsonl"
    listed = wrote(pictures / "list.jsonl", {**A, **own}, {"source": "b.png", "seed": 9}, {"source": "c.png"})
    assert dinotile("upscale", listed, "-o", f"{tmp_path}/out/", *models, "--manifest", manifest)[0] == 1
    (pictures / "a.png").write_bytes(whole)
    arguments = ("-o", f"{tmp_path}/out/", *models, "--manifest", manifest)
    code, out, err = dinotile("upscale", manifest, "--only", "failed", *arguments)
    settings = recipe_of(tmp_path / "out" / "a.png")["settings"]
    assert code == 0 and {name: settings[name] for name in own} == own, err
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert {(Path(line["source"]).name, line.get("own", {}).get("seed")) for line in lines} == {
        ("a.png", 7), ("b.png", 9), ("c.png", None)
    }  # fmt: skip
    before = manifest.read_bytes()
    code, out, _ = dinotile("upscale", manifest, *arguments)
    assert code == 0 and "3 of 3 pictures are done already" in out and manifest.read_bytes() == before
    assert [each.own for each in find_listed([str(manifest)], own=())] == [{}, {}, {}]  # of a command that has none
    for wrong, said in (
        ({"seed": -1}, "seed -1"),
        ({"sede": 1}, "has sede, which"),
        ({"source": "b"}, "has source, w"),
    ):
        wrote(manifest, {**lines[-1], "own": wrong})
        code, _, err = dinotile("upscale", manifest, "-o", f"{tmp_path}/more/", *models)
        assert (code, err.count("\n")) == (2, 1) and f"{manifest}" in err and said in err


def test_a_prompt_of_its_own_draws_another_picture_and_is_in_the_recipe(dinotile, pictures, tmp_path):
    folder = save_text_pipeline(tmp_path)
    tiny_flux().save_pretrained(folder / "transformer")
    tiny_vae().save_pretrained(folder / "vae")
    model = ["--variant", "schnell", "--model-path", folder, "--no-dino", "--tile", 64, "--overlap", 16, "--steps", 2]
    one = wrote(pictures / "one.jsonl", {"source": "a.png", "prompt": "a fox"}, {"source": "b.png"})
    assert dinotile("upscale", one, *model, "-o", f"{tmp_path}/out/")[0] == 0
    for name, more in (("a", ("--prompt", "a fox")), ("b", ())):
        assert dinotile("upscale", pictures / f"{name}.png", *model, *more, "-o", tmp_path / f"{name}.png")[0] == 0
        assert (tmp_path / f"{name}.png").read_bytes() == (tmp_path / "out" / f"{name}.png").read_bytes()
    assert recipe_of(tmp_path / "out" / "a.png")["options"]["prompt"] == "a fox"
    assert dinotile("upscale", pictures / "a.png", *model, "-o", tmp_path / "c.png")[0] == 0
    drawn = [recipe_of(tmp_path / f"{name}.png")["weights"]["text"] for name in "abc"]
    assert drawn[1] == drawn[2] != drawn[0]


def test_more_prompts_than_lie_in_memory_draw_the_same_pictures(dinotile, pictures, tmp_path, monkeypatch):
    folder = save_text_pipeline(tmp_path)
    tiny_flux().save_pretrained(folder / "transformer")
    tiny_vae().save_pretrained(folder / "vae")
    model = ["--variant", "schnell", "--model-path", folder, "--no-dino", "--tile", 64, "--overlap", 16, "--steps", 1]
    said = {"c": "a fox", "a": "a cat", "b": "a fox", "d": "a dog"}
    for name in "cd":
        shutil.copy(pictures / "a.png", pictures / f"{name}.png")
    given = wrote(
        pictures / "one.jsonl", *({"source": f"{name}.png", "prompt": prompt} for name, prompt in said.items())
    )
    for place in ("whole", "parts"):
        assert dinotile("upscale", given, *model, "-o", f"{tmp_path}/{place}/")[0] == 0
        monkeypatch.setitem(Texts.__init__.__kwdefaults__, "room", 1)
    drawn = [{name: (tmp_path / place / f"{name}.png").read_bytes() for name in said} for place in ("whole", "parts")]
    assert drawn[0] == drawn[1] and len({*drawn[0].values()}) == 4


A = {"source": "a.png"}


@pytest.mark.parametrize(
    "lines,said",
    [
        ([A, "{\n"], "line 2 of {} is not JSON"),
        (["[" * 9999], "line 1 of {} is not JSON"),
        ([A, "[]\n"], "line 2 of {} names no source: write"),
        ([{"output": "a.png"}], "line 1 of {} names no source: write"),
        (
            [{**A, "sede": 1}],
            "line 1 of {} has sede, which no list takes here: give source, output, seed, denoise, prompt",
        ),
        (["\n", {**A, "seed": 1.5}], "line 2 of {} has seed 1.5, needed is a whole number"),
        ([{**A, "seed": True}], "line 1 of {} has seed true, needed is a whole number"),
        ([{**A, "seed": -1}], "line 1 of {}: seed -1"),
        ([{**A, "denoise": 2}], "line 1 of {}: denoise 2"),
        ([{**A, "prompt": 1}], "line 1 of {} has prompt 1, needed is text"),
        ([{**A, "prompt": "a cat"}], "prompt"),  # these models have no text encoders
        (['{"source": "\\ud800"}'], 'line 1 of {} has source "\\ud800", which no path and no prompt can be'),
        (
            ['{"source": "a.png", "prompt": "\\ud800"}'],
            'has prompt "\\ud800", which no path and no prompt can be: mend it',
        ),
        ([{**A, "source": "a\0.png"}], "which no path and no prompt can be: mend it"),
        ([{**A, "output": "x/a.png"}], "line 1 of {} has output x/a.png, needed is a name without a folder"),
        ([A, {**A, "seed": 1}], "line 2 of {} names {}/a.png once more, as line 1 of {} did: name each picture once"),
        ([{**A, "output": "b.png"}, {"source": "b.png"}], "several inputs would be written to"),
        (["\n"], "list {} names no picture: write"),
        (["\n", '{"dinotile": "0.1.0"}\n'], "line 2 of {} names no source"),
        (['{"dinotile": "0.1.0"}\n'], "line 1 of {} is none of a manifest"),
        (['{"dinotile": "0.1.0", "status'], "manifest {} names no picture, as its only line was cut short"),
    ],
)
def test_a_wrong_line_is_one_sentence_with_its_number(dinotile, models, pictures, tmp_path, lines, said):
    listed = wrote(pictures / "list.jsonl", *lines)
    code, out, err = dinotile("upscale", listed, *models, "-o", f"{tmp_path}/out/")
    expected = said.replace("{}/", f"{pictures}/").replace("{}", str(listed))
    assert (code, out, err.count("\n")) == (2, "", 1) and expected in err and not (tmp_path / "out").exists()


def test_only_chooses_from_manifests_and_a_list_is_never_replaced(dinotile, models, pictures, tmp_path):
    listed, cut = wrote(pictures / "list.jsonl", A), wrote(pictures / "cut.txt.jsonl", '{"dinotile": "0.1.0", "status')
    for words, said in (
        ([listed, "--only", "failed"], "is a list without statuses: leave it out"),
        ([pictures, "--only", "failed"], "is none: give .jsonl files"),
        ([tmp_path / "gone.jsonl", "--only", "failed"], "gone.jsonl is not there: give one that is"),
        ([tmp_path / "*.jsonl", "--only", "failed"], f"no file matches {tmp_path}/*.jsonl: give one that is there"),
        ([tmp_path / "*.jsonl"], f"no file matches {tmp_path}/*.jsonl: give files"),
        ([cut, "--only", "failed"], f"manifest {cut} names no picture, as its only line was cut short"),
        ([listed, "--only", "broken"], "is no status of a manifest: give done, failed or running"),
        ([tmp_path / "gone.jsonl"], "gone.jsonl"),
        ([listed, "--report", listed, "--overwrite"], "list.jsonl is the input itself"),
    ):
        code, _, err = dinotile("upscale", *words, *models, "-o", f"{tmp_path}/out/")
        assert code == 2 and said in err and json.loads(listed.read_text()) == A
    workflow = PACK / "workflows" / "api" / "demo.json"
    code, _, err = dinotile("run", workflow, "--server", "127.0.0.1:1", "--image", listed, "-o", tmp_path / "o.png")
    assert code == 2 and "http://127.0.0.1:1 cannot be reached" in err
    for line, output in (({**A, "output": "first.png"}, f"{tmp_path}/second/"), (A, f"{tmp_path}/second/")):
        one = wrote(pictures / "one.jsonl", line)
        code, _, err = dinotile("run", workflow, "--server", "127.0.0.1:1", "--image", one, "-o", output)
        assert code == 2 and "no server answers" in err  # and not that the folder is no file
    code, _, err = dinotile("run", workflow, "--image", listed, "-o", listed, "--overwrite")
    assert code == 2 and json.loads(listed.read_text()) == A
    with pytest.raises(ValueError, match="has seed, which no list takes here: give source, output"):
        find_listed([str(wrote(listed, {**A, "seed": 1}))], own=())


def test_a_pattern_of_lists_is_all_of_them_and_a_name_that_is_said_twice_is_refused(
    dinotile, models, pictures, tmp_path
):
    wrote(pictures / "one.jsonl", {**A, "output": "first.png"})
    wrote(pictures / "two.jsonl", {"source": "b.png"})
    lists = pictures / "*.jsonl"
    found = find_listed([str(lists)])
    assert [(each.source.name, each.name) for each in found] == [("a.png", "first.png"), ("b.png", "")]
    code, _, err = dinotile("upscale", pictures / "one.jsonl", *models, "-o", tmp_path / "x.png")
    said = (
        f"has output first.png, and --output {tmp_path}/x.png is a file: give a folder, ending with a slash, or leave"
    )
    assert (code, err.count("\n")) == (2, 1) and said in err and not (tmp_path / "x.png").exists()
    code, _, err = dinotile("run", tmp_path / "w.json", "--image", pictures / "one.jsonl", "-o", tmp_path / "x.png")
    assert code == 2 and said in err
    code, _, err = dinotile(
        "upscale", lists, *models, "-o", f"{tmp_path}/out/", "--report", pictures / "one.jsonl", "--overwrite"
    )
    assert code == 2 and "one.jsonl is the input itself" in err
    assert json.loads((pictures / "one.jsonl").read_text())["source"] == "a.png"


def test_a_pattern_leaves_out_the_manifest_and_the_report_that_the_command_writes_among_its_lists(
    dinotile, models, pictures, tmp_path
):
    wrote(pictures / "one.jsonl", {**A, "output": "first.png"})
    wrote(pictures / "two.jsonl", {"source": "b.png"})
    files = pictures / "jobs.jsonl", pictures / "report.jsonl"
    arguments = ("-o", f"{tmp_path}/out/", *models, "--manifest", files[0], "--report", files[1])
    for done in (0, 2):
        code, out, err = dinotile("upscale", pictures / "*.jsonl", *arguments)
        assert code == 0 and f"{done} of 2 pictures are done already" in out, err
        assert all(path.is_file() for path in files)
    code, out, err = dinotile("upscale", f"{pictures}/[jr]*.jsonl", *arguments)  # nothing else
    assert code == 2 and f"matches nothing but what the command itself writes, {files[0]}: name that file\n" in err
    code, out, err = dinotile("upscale", files[0], *arguments)  # by its name it is an input
    assert code == 0 and "2 of 2 pictures are done already" in out, err


def test_only_chooses_from_those_of_a_pattern_that_have_statuses(pictures):
    wrote(pictures / "cut.jsonl", '{"dinotile": "0.1.0", "status')
    wrote(pictures / "list.jsonl", A)
    for given, said in (("cut.jsonl", "was cut short"), ("list.jsonl", "without statuses"), ("*.jsonl", "cut short")):
        with pytest.raises(ValueError, match=said):
            find_listed([str(pictures / given)], only="failed")
    line = {"dinotile": "0.1.0", "status": "failed", "output": "out/b.png", "source": str(pictures / "b.png")}
    wrote(pictures / "jobs.jsonl", line)
    assert [each.source.name for each in find_listed([str(pictures / "*.jsonl")], only="failed")] == ["b.png"]
    assert find_listed([str(pictures / "*.jsonl")], only="done") == []
    with pytest.raises(ValueError, match="was cut short"):
        find_listed([str(pictures / "*.jsonl")])  # all are meant


def test_a_prompt_that_is_no_text_is_refused_and_a_name_that_a_terminal_cannot_show_is_told(
    dinotile, dinotile_process, models, pictures, tmp_path, monkeypatch
):
    code, _, err = dinotile(
        "upscale", pictures / "a.png", *models, "-o", tmp_path / "x.png", "--prompt", "K\udce4tzchen"
    )
    assert (code, err.count("\n")) == (2, 1)
    assert "prompt K\\udce4tzchen has bytes of another encoding, which no model reads" in err
    (pictures / "a.png").rename(pictures / "\u732b.png")
    listed = wrote(pictures / "one.jsonl", {"source": "\u732b.png", "output": "\u51fa.png"})
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    said, err = dinotile_process("upscale", listed, *models, "-o", f"{tmp_path}/out/").communicate(timeout=600)
    assert "\\u51fa.png  " in said and "Traceback" not in err and (tmp_path / "out" / "\u51fa.png").is_file()
