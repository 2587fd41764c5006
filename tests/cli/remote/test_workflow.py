import json

import pytest

from dinotile.cli.remote.answers import choices, ended
from dinotile.cli.remote.workflow import (
    classes_with_paths,
    failure,
    image_node,
    label,
    parse_setting,
    prepared,
    read_workflow,
    refusal,
    repaired,
)

from .stand_in import http

WORKFLOW = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "x.png"}, "_meta": {"title": "Photo"}},
    "2": {
        "class_type": "ImageScale",
        "inputs": {"image": ["1", 0], "upscale_method": "lanczos", "width": 640, "height": 480, "crop": "disabled"},
    },
    "7:3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
}
# What ComfyUI 0.33.0 answered.
REFUSED = {
    "error": {
        "type": "prompt_outputs_failed_validation",
        "message": "Prompt outputs failed validation",
        "details": "",
        "extra_info": {},
    },
    "node_errors": {
        "1": {
            "errors": [
                {
                    "type": "custom_validation_failed",
                    "message": "Custom validation failed for node",
                    "details": "image - Invalid image file: missing.png",
                    "extra_info": {"input_name": "image"},
                }
            ],
            "dependent_outputs": ["3"],
            "class_type": "LoadImage",
        },
        "2": {
            "errors": [
                {
                    "type": "required_input_missing",
                    "message": "Required input is missing",
                    "details": "width",
                    "extra_info": {"input_name": "width"},
                }
            ],
            "dependent_outputs": ["3"],
            "class_type": "ImageScale",
        },
    },
}
UNKNOWN_NODE = {
    "error": {
        "type": "missing_node_type",
        "message": "Node 'NoSuchNode' not found. The custom node may not be installed.",
        "details": "Node ID '#1'",
        "extra_info": {"node_id": "1", "class_type": "NoSuchNode", "node_title": "NoSuchNode"},
    },
    "node_errors": {},
}
FAILED = {
    "prompt_id": "8fce521d-54fe-419f-a915-665f84a97ef4",
    "node_id": "1",
    "node_type": "LoadImage",
    "executed": [],
    "exception_message": "cannot identify image file 'broken.png'\n",
    "exception_type": "PIL.UnidentifiedImageError",
}


def test_the_only_loader_takes_the_picture_and_the_original_stays():
    changed = prepared(WORKFLOW, image="new.png", settings=["2.width=100"])
    assert changed["1"]["inputs"]["image"] == "new.png" and changed["2"]["inputs"]["width"] == 100
    assert WORKFLOW["1"]["inputs"]["image"] == "x.png" and WORKFLOW["2"]["inputs"]["width"] == 640


def loaders(*titles):
    return {
        str(i): {"class_type": "LoadImage", "inputs": {"image": ""}, "_meta": {"title": t}}
        for i, t in enumerate(titles)
    }


def test_of_several_loaders_the_one_titled_input_takes_the_picture():
    assert image_node(loaders("Mask", "Input")) == "1"
    with pytest.raises(ValueError, match=r"2 LoadImage nodes \(0, 1\): title one of them"):
        image_node(loaders("a", "b"))
    with pytest.raises(ValueError, match="no LoadImage node"):
        image_node({"2": WORKFLOW["2"]})
    changed = prepared(loaders("a", "b"), image="new.png", settings=["b.image=@"])
    assert [node["inputs"]["image"] for node in changed.values()] == ["", "new.png"]


@pytest.mark.parametrize(
    "setting,expected",
    [
        ("2.width=100", ("2", "width", 100)),
        ("2.width=1.5", ("2", "width", 1.5)),
        ("2.upscale_method=7", ("2", "upscale_method", "7")),
        ("Photo.image=a=b.png", ("1", "image", "a=b.png")),
        ("7:3.filename_prefix=", ("7:3", "filename_prefix", "")),
        ('2.image=["1", 1]', ("2", "image", ["1", 1])),
        ("Upscale v1.5 (x.2).image=a.png", ("8", "image", "a.png")),
        ("8.mode.width=3", ("8", "mode.width", 3)),
        ("Upscale v1.5 (x.2).mode.width=3.5", ("8", "mode.width", 3.5)),
        ("2.width=1e2", ("2", "width", 100.0)),
    ],
)
def test_settings_keep_the_type_of_the_input(setting, expected):
    dotted = {"class_type": "X", "inputs": {"image": "", "mode.width": 1}, "_meta": {"title": "Upscale v1.5 (x.2)"}}
    assert parse_setting(WORKFLOW | {"8": dotted}, setting) == expected


@pytest.mark.parametrize(
    "setting,words",
    [
        ("2.width", "not of the form NODE.INPUT=VALUE"),
        ("width=3", "not of the form NODE.INPUT=VALUE"),
        ("9.width=3", r"0 nodes are called 9, one is needed; there are 1 \(Photo\), 2 \(ImageScale\)"),
        ("2.depth=3", "ImageScale has no input depth, only image, upscale_method"),
        ("2.width=wide", r"width is a number \(640 in the workflow\)"),
        ("2.width=true", "width is a number"),
        ("2.width=NaN", "width is a number"),
        ("2.width=-1e999", "width is a number"),
        pytest.param(f"2.width={'[' * 100_000}", "width is a number", id="deep"),
        ("2..width=3", "ImageScale has no input .width"),
    ],
)
def test_wrong_settings_say_what_there_is(setting, words):
    with pytest.raises(ValueError, match=words):
        parse_setting(WORKFLOW, setting)


@pytest.mark.parametrize(
    "content,words",
    [
        ({"nodes": [], "links": [], "version": 0.4}, "a graph of the browser: export it as API"),
        ({}, "no API workflow"),
        ([1], "no API workflow"),
        ({"1": {"inputs": {}}}, "no API workflow"),
        ("{", "not JSON"),
        pytest.param("[" * 100_000, "is not JSON .nested too deeply", id="deep"),
        ('{"1": NaN}', "NaN is no number of JSON"),
        ('{"1": [-1e400]}', "-1e400 is no number of JSON"),
        ({"prompt": {"1": {"inputs": {}}}}, "no API workflow"),
        ({"1": {"class_type": ["X"], "inputs": {}}}, "no API workflow"),
    ],
)
def test_files_that_are_no_api_workflow_are_refused(tmp_path, content, words):
    path = tmp_path / "a.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=words):
        read_workflow(path)
    with pytest.raises(ValueError, match="cannot be read"):
        read_workflow(tmp_path / "missing.json")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_workflows_are_read_as_other_programs_write_them(tmp_path, encoding, wrapped):
    titled = WORKFLOW | {"8": WORKFLOW["2"] | {"_meta": {"title": "Gr\xf6\xdfe"}}}
    content = {"prompt": titled, "client_id": "x"} if wrapped else titled
    (tmp_path / "a.json").write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
    assert read_workflow(tmp_path / "a.json") == titled


def test_a_missing_node_is_named_by_its_class():
    error = UNKNOWN_NODE["error"] | {"message": "Node 'My title' not found. The custom node may not be installed."}
    assert refusal({"error": error, "node_errors": {}}, WORKFLOW).endswith(
        "Node 'My title' not found. The custom node may not be installed. (class NoSuchNode, Node ID '#1')"
    )


def test_slashes_become_those_of_the_servers_list():
    def loading(name):
        loader = {"class_type": "Loader", "inputs": {"model": name, "other": name, "link": ["1", 0]}}
        return WORKFLOW | {"8": loader}

    lists = choices(
        {"Loader": {"input": {"required": {"model": [["flux/a b.gguf", "x", "y\\z.pt", "y/z.pt"]]}}}}, "Loader"
    )
    for given, sent in [("flux\\a b.gguf", "flux/a b.gguf"), ("y\\z.pt", "y\\z.pt"), ("no\\x", "no\\x"), ("x", "x")]:
        changed = repaired(loading(given), {"Loader": lists})
        assert changed["8"]["inputs"] == {"model": sent, "other": given, "link": ["1", 0]}
        assert {node: changed[node] for node in WORKFLOW} == WORKFLOW
    windows = choices(
        {"Loader": {"input": {"optional": {"model": ["COMBO", {"options": ["flux\\a.gguf"]}]}}}}, "Loader"
    )
    assert repaired(loading("flux/a.gguf"), {"Loader": windows})["8"]["inputs"]["model"] == "flux\\a.gguf"
    assert classes_with_paths(loading("flux\\a b.gguf")) == classes_with_paths(loading("flux/a.gguf")) == ["Loader"]
    assert classes_with_paths(loading("a/b\nc.pt")) == classes_with_paths(loading("prefix/name")) == []


def test_a_models_name_is_repaired_before_it_is_sent(dinotile, sent, stand_in):
    arguments, _ = sent
    loader = {"class_type": "My Loader/2", "inputs": {"model": "flux\\a.safetensors"}}
    arguments[1].write_text(json.dumps(WORKFLOW | {"8": loader}))
    stand_in.lists = {"My Loader/2": {"input": {"required": {"model": [["flux/a.safetensors"], {}]}}}}
    code, _, err = dinotile(*arguments, "--server", stand_in.url)
    assert code == 0 and stand_in.workflow["8"]["inputs"]["model"] == "flux/a.safetensors", err
    assert [request.path for request in stand_in.asked("object_info")] == ["/object_info/My%20Loader%2F2"]
    stand_in.faults["object_info"] = [lambda *_: http("404 Not Found")]
    code, _, err = dinotile(*arguments, "--server", stand_in.url, "--overwrite")
    assert code == 0 and stand_in.workflow["8"]["inputs"]["model"] == "flux\\a.safetensors", err


def test_a_refusal_names_every_node_and_input():
    assert refusal(REFUSED, WORKFLOW) == (
        "the server refused the workflow: "
        "node 1 (Photo), input image: Invalid image file: missing.png; "
        "node 2 (ImageScale), input width: Required input is missing"
    )
    first = REFUSED["node_errors"]["1"]
    again = first["errors"][0] | {"details": "upload - Invalid image file: missing.png"}
    again |= {"extra_info": {"input_name": "upload"}}
    twice = REFUSED | {"node_errors": {"1": first | {"errors": [*first["errors"], again]}}}
    assert refusal(twice, WORKFLOW).count("Invalid image file") == 1
    assert refusal(UNKNOWN_NODE, WORKFLOW) == (
        "the server refused the workflow: "
        "Node 'NoSuchNode' not found. The custom node may not be installed. (Node ID '#1')"
    )


def test_a_failure_names_the_node_on_one_line():
    assert failure(FAILED, WORKFLOW) == "node 1 (Photo) failed on the server: cannot identify image file 'broken.png'"


def files_of(**entry):
    return [output.filename for output in ended({"a": entry}, "a", {}).outputs]


def test_saved_pictures_come_before_previews():
    preview = {"filename": "p.png", "subfolder": "", "type": "temp"}
    saved = {"filename": "s.png", "subfolder": "", "type": "output"}
    assert files_of(outputs={"1": {"images": [preview]}, "2": {"images": [saved]}}) == ["s.png"]
    assert files_of(outputs={"1": {"images": [preview]}}) == ["p.png"]
    assert files_of(outputs={"1": {"text": ["a"]}}) == []


@pytest.mark.parametrize("meta", [None, [], {"title": 3}, {"title": None}, {"title": ""}])
def test_a_node_without_a_readable_title_goes_by_its_type(meta):
    odd = {"1": {"class_type": "LoadImage", "inputs": {"image": ""}, "_meta": meta}}
    assert label(odd, "1") == "LoadImage" and image_node(odd | {"2": odd["1"] | {"_meta": {"title": "input"}}}) == "2"
