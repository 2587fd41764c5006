"""What stands beside UltimateSDUpscale: plans, prompts, and what the probe counts. Whole runs need that pack and a ComfyUI."""

import sys
import time

import pytest
import torch
from torch import nn

from benchmarks.tiling import beside, probe

JOB = beside.Job(333, 517, 512, 64, 4)


def test_their_rectangles_cover_the_output_and_ours_the_canvas():
    theirs, ours = (beside.KINDS[kind].plan(JOB) for kind in ("theirs", "ours"))
    assert (theirs.tops, theirs.heights, theirs.widths) == ((0, 512), (512, 154), (512, 512, 10))
    assert theirs.work == 1 and (ours.height, ours.width) == (672, 1040)
    assert beside.KINDS["moving"].plan(JOB).work < 1.05 < ours.work


def test_all_kinds_are_asked_for_the_same_and_measured_between_the_same_nodes():
    works = {kind: work.prompt(JOB, 0.3) for kind, work in beside.KINDS.items()}
    for kind in ("theirs", "ours", "DINO", "moving"):
        inputs = works[kind]["work"]["inputs"]
        assert (inputs["steps"], inputs["denoise"], inputs["seed"], inputs["cfg"]) == (4, 0.3, 1, 1.0)
        assert inputs["image"] == ["begin", 0] and inputs["model"] == ["begin", 1] and inputs["vae"] == ["begin", 2]
    sent = beside.graph(works["ours"], image="1.png", run=7, save=True)
    assert sent["end"]["inputs"]["image"] == ["work", 0] and sent["begin"]["inputs"]["run"] == 7 and "save" in sent


def test_the_probe_counts_calls_and_the_models_own_time_once():
    class Outer(nn.Sequential):
        def forward(self, x):
            return super().forward(x).sin()

    meter, model = probe.Meter(), Outer(nn.Conv2d(4, 4, 3), nn.Sequential(nn.Conv2d(4, 4, 3)))
    for _ in range(2):
        meter.watch(model, "flux", cell=8)  # the second time it is watched already
    meter.start()
    model(torch.rand(3, 4, 64, 32))
    torch.rand(300, 300, 30).sin().sum()  # no part of a model
    told = meter.told()
    assert (told["calls"], told["rows"], told["sampled_px"]) == (1, 3, 3 * 512 * 256)
    assert 0 < told["flux_cpu_s"] < told["cpu_s"] and told["outside_cpu_s"] > 0 == told["other_models_cpu_s"]


def test_what_is_done_between_the_layers_of_a_half_of_a_vae_is_the_vaes():
    def work():
        begun = time.process_time()
        while time.process_time() < begun + 0.02:
            pass

    meter, vae = probe.Meter(), nn.ModuleDict({half: nn.Sequential(nn.ReLU(), nn.ReLU()) for half in ("in", "out")})
    meter.watch(vae, "others")
    meter.start()
    for half in ("in", "out"):
        for layer in vae[half]:
            layer(torch.zeros(1))
            work()  # a strip to the next layer; behind the last one, another's
    told = meter.told()
    assert 0.04 <= told["other_models_cpu_s"] < 0.06 and told["outside_cpu_s"] >= 0.04


def test_a_folder_without_the_pack_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["beside", "--comfyui", str(tmp_path), "--usdu", str(tmp_path)])
    with pytest.raises(SystemExit, match="there is no main.py in .*: name the folder that holds it"):
        beside.main()
