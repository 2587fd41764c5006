import os

import pytest

from dinotile.cli.outputs import check_free, check_inputs_stay, plan_outputs


def test_outputs_are_named_after_their_inputs_in_a_folder(tmp_path):
    inputs = [tmp_path / "a.jpg", tmp_path / "b.png"]
    assert plan_outputs(inputs, f"{tmp_path}/out/") == [tmp_path / "out" / "a.png", tmp_path / "out" / "b.png"]
    assert plan_outputs(inputs, str(tmp_path / "out")) == plan_outputs(inputs, f"{tmp_path}/out/")
    assert plan_outputs(inputs[:1], str(tmp_path)) == [tmp_path / "a.png"]
    assert plan_outputs(inputs[:1], str(tmp_path / "x.webp")) == [tmp_path / "x.webp"]
    with pytest.raises(ValueError, match="one file for 2 inputs"):
        plan_outputs(inputs, str(tmp_path / "x.png"))
    with pytest.raises(ValueError, match="several inputs would be written to"):
        plan_outputs([tmp_path / "a.jpg", tmp_path / "b" / "a.png"], str(tmp_path / "out"))
    inputs[1].touch()
    with pytest.raises(ValueError, match="is the input itself"):
        plan_outputs(inputs[1:], str(tmp_path))


def test_no_output_may_replace_any_of_the_inputs_by_whatever_name(tmp_path):
    (tmp_path / "out").mkdir()
    inputs = [tmp_path / "a.png", tmp_path / "out" / "b.png"]
    for path in inputs:
        path.touch()
    (tmp_path / "out" / "a.png").symlink_to(inputs[0])
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with pytest.raises(ValueError, match="out/a.png is the input itself"):
        plan_outputs(inputs[:1], f"{tmp_path}/out/")
    with pytest.raises(ValueError, match="link/b.png is the input itself"):
        plan_outputs(inputs[1:], f"{tmp_path}/link/")
    os.link(inputs[0], tmp_path / "hard.png")
    with pytest.raises(ValueError, match="hard.png is the input itself"):
        check_inputs_stay([tmp_path / "hard.png"], inputs)


def test_the_output_of_one_input_may_not_be_another_input(tmp_path):
    (tmp_path / "out").mkdir()
    inputs = [tmp_path / "a.jpg", tmp_path / "out" / "a.png"]
    for path in inputs:
        path.touch()
    with pytest.raises(ValueError, match="is the input itself"):
        check_inputs_stay([tmp_path / "out" / "a.png"], [*inputs, None, "", "owner/name"])


def test_a_file_in_a_folder_that_is_an_input_stays_and_new_ones_may_come(tmp_path):
    (tmp_path / "model" / "vae").mkdir(parents=True)
    (tmp_path / "model" / "vae" / "config.json").touch()
    with pytest.raises(ValueError, match="config.json is a part of an input"):
        check_inputs_stay([tmp_path / "model" / "vae" / "config.json"], [str(tmp_path / "model")])
    check_inputs_stay([tmp_path / "model" / "report.json"], [str(tmp_path / "model")])


def test_what_exists_is_only_replaced_on_purpose(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    check_free([tmp_path / "c"], overwrite=False)
    check_free([tmp_path / "a"], overwrite=True)
    for names, words in ((("c", "a"), "output .*a exists already"), (("a", "b"), "a and 1 more exists already")):
        with pytest.raises(ValueError, match=f"{words}: choose another name, or replace it with --overwrite"):
            check_free([tmp_path / name for name in names], overwrite=False)
    with pytest.raises(ValueError, match="dangling exists already"):
        check_free([tmp_path / "dangling"], overwrite=False)
