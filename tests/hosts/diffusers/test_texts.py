"""Encoded prompts of a long job, in a bounded memory."""

import gc
import random
import weakref
from itertools import pairwise

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
    assert load.loads == 1 and load.asked == ["a f", "", *PROMPTS[1:7]] and said.nbytes == BYTES
    assert texts.of("a f", TURNS) is said and texts.of("", TURNS) is away
    load.most = 0
    encoder = load_text_encoder(pipeline, device="cpu", dtype=torch.float32)
    for prompt in PROMPTS:
        text, wanted = texts.of(prompt, TURNS), encoder.encode(prompt, tokens=TOKENS)
        assert torch.equal(text.context, wanted.context) and torch.equal(text.pooled, wanted.pooled)
        del text
    assert load.asked[8:] == [*PROMPTS[7:], *PROMPTS[1:6]]  # each once, and with the last the first of the second half
    assert (load.loads, load.most) == (4, 8)  # with those two that stay
    found, wanted = texts.of("a g", TURNS), encoder.encode("a g", tokens=TOKENS)
    assert torch.equal(found.context, wanted.context) and load.loads == 4  # the second one in the list
    with pytest.raises(ValueError, match="prompt z z is none of those that the models were loaded with: name it in"):
        texts.of("z z", TURNS)


def told(prompt, size=1):
    return Text(torch.full((1, size, 1), float(prompt)), torch.zeros(1, 0))


def test_a_prompt_that_comes_again_and_again_is_encoded_once():
    """500 pictures, of which every fifth has the same prompt, in room for 250."""
    asked, prompts = [], ["0" if place % 5 == 0 else str(place) for place in range(500)]

    def load():
        asked.append([])
        return lambda prompt: asked[-1].append(prompt) or told(prompt)

    texts = Texts(prompts, load, room=250 * told("0").nbytes)
    texts.begin()
    for prompt in prompts:
        assert texts.of(prompt, TURNS).context.item() == float(prompt)
    assert [len(each) for each in asked] == [250, 151] and len({*sum(asked, [])}) == 401


@pytest.fixture
def swept():
    """All that there is already is passed over when what encoders leave is looked for, many times over."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("seed", range(6))
def test_any_order_gets_the_right_texts_in_the_room_and_the_order_of_the_list_the_fewest_loads(seed, swept):
    dice = random.Random(seed)
    prompts = [str(dice.choice((dice.randrange(5), dice.randrange(100)))) for _ in range(200)]
    sizes = {prompt: dice.choice((1, 1, 2, 7)) if seed % 2 else 1 for prompt in prompts}
    loads, room = [], 12 * told("0").nbytes

    def load():
        loads.append(place)
        return lambda prompt: told(prompt, sizes[prompt])

    for order in (prompts, [each for each in prompts if dice.random() < 0.5], dice.sample(prompts, 200)):
        texts, place = Texts(prompts, load, room=room), 0
        loads.clear()
        for place, prompt in enumerate(order):  # noqa: B007 (load notes it)
            assert texts.of(prompt, TURNS).context.flatten().tolist() == [float(prompt)] * sizes[prompt]
            assert sum(text.nbytes for text in texts.known.values()) < room + told(prompt, 7).nbytes
        if order is prompts and seed % 2 == 0:  # of one size: each load is good for the next 12 that differ
            for start, end in pairwise([*loads, 200]):
                assert end == 200 or len({*prompts[start:end]}) == 12 and len({*prompts[start : end + 1]}) == 13


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


def test_what_the_encoders_leave_behind_is_given_back_before_the_others_return():
    turns, left, found = Turns(torch.device("cpu", 0), "none"), [], []

    class Noted(torch.nn.Linear):
        def to(self, place):
            found.append((str(place), left[-1]() is None if left else None))
            return super().to(place)

    turns.add(Noted(1, 1))

    def load():
        encoder = torch.nn.Linear(1, 1)
        object.__setattr__(encoder, "own", encoder)  # a circle, as the hooks of libraries make them
        left.append(weakref.ref(encoder))
        if turns.offload == "none":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return lambda prompt: told(encoder.in_features)

    gc.disable()  # so that nobody else does it
    try:
        Texts(["a"], load).of("a", turns)
        assert found == [("cpu:0", None), ("cpu", False), ("cpu:0", True)] and left[-1]() is None
    finally:
        gc.enable()
