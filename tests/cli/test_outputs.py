import pytest

from dinotile.cli.outputs import plan_outputs


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
