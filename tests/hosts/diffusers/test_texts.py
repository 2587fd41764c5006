"""Encoded prompts of a long job, in a bounded memory."""

import gc
import weakref

import pytest
import torch

from dinotile.hosts.diffusers.offload import Turns
from dinotile.hosts.diffusers.text import load_text_encoder
from dinotile.hosts.diffusers.texts import Texts, load_encode
from dinotile.hosts.host import Text

from ...tiny import tiny_vae
from ...tiny_text import save_text_pipeline

PROMPTS = [f"{first} {second}" for first in "abcde" for second in "fghi"]  # 20
TOKENS = 12
BYTES = 4 * (TOKENS * 32 + 16)  # of one
TURNS = Turns(torch.device("cpu"), "none")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return save_text_pipeline(tmp_path_factory.mktemp("pipeline"))


class Load:
    """Loads the encoders, and counts that, what they encode, and the texts that live."""

    def __init__(self, pipeline):
        self.pipeline, self.loads, self.asked, self.living, self.most = pipeline, 0, [], weakref.WeakSet(), 0

    def __call__(self):
        self.loads += 1
        encode = load_encode(self.pipeline, tokens=TOKENS, masked=False, device="cpu", dtype=torch.float32)

        def counted(prompt):
            text = encode(prompt)
            self.asked.append(prompt)
            self.living.add(text)
            self.most = max(self.most, len(self.living))
            return text

        return counted


def test_as_many_lie_in_memory_as_were_allowed_and_all_are_those_of_one_encoder(pipeline):
    gc.collect()
    load = Load(pipeline)
    texts = Texts([*PROMPTS, *PROMPTS], load, room=6 * BYTES)
    said, away = texts.begin("a f", "")
    assert load.loads == 1 and load.asked == ["a f", "", *PROMPTS[:6]] and said.nbytes == BYTES
    del said, away
    load.most = 0
    encoder = load_text_encoder(pipeline, device="cpu", dtype=torch.float32)
    for prompt in PROMPTS:
        text, wanted = texts.of(prompt, TURNS), encoder.encode(prompt, tokens=TOKENS)
        assert torch.equal(text.context, wanted.context) and torch.equal(text.pooled, wanted.pooled)
        del text
    assert load.asked[8:] == PROMPTS[6:]  # each once
    assert (load.loads, load.most) == (4, 6)
    assert torch.equal(
        texts.of("a f", TURNS).context, encoder.encode("a f", tokens=TOKENS).context
    )  # from the front again
    assert load.loads == 5
    with pytest.raises(ValueError, match="prompt z z is none of those that the models were loaded with: name it in"):
        texts.of("z z", TURNS)


def test_encoders_that_find_no_room_have_the_device_for_themselves(monkeypatch):
    turns = Turns(torch.device("cpu", 0), "none")  # under another name, so that there is a place to go to
    vae, places, found = turns.add(tiny_vae()), [], []

    def move(place):
        places.append(str(place))  # here, as to torch's parameters both are one
        return torch.nn.Module.to(vae, place)

    monkeypatch.setattr(vae, "to", move)

    def encode(prompt):
        found.append((turns.offload, places[-1:]))
        if turns.offload == "none":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return Text(torch.zeros(1, 2, 3), torch.zeros(1, 4))

    texts = Texts(["a", "b"], lambda: encode, room=1)
    texts.of("b", turns)
    assert found == [("none", []), ("model", ["cpu"])]
    assert turns.offload == "none" and places[-1] == "cpu:0"  # back again


def test_a_model_that_takes_turns_leaves_the_device_to_the_encoders():
    turns, there = Turns(torch.device("cpu", 0), "model"), []
    vae = turns.add(tiny_vae())
    turns.use(vae)

    def encode(prompt):
        there.append(turns.there)
        return Text(torch.zeros(1, 2, 3), torch.zeros(1, 4))

    Texts(["a"], lambda: encode).of("a", turns)
    assert there == [()] and turns.offload == "model"
