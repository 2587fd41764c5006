"""Checks for inside.py: several pictures in Sequential Tiled Upscale, each with what is said of it."""

from __future__ import annotations

import comfy.controlnet
import torch
from inside_controlnets import control_model
from inside_sampling import text, upscale, used
from inside_sequential import HEIGHT, WIDTH, sequential, tiny_vae
from inside_tools import apart, check, picture, refusal

from dinotile.flux_patch.redux import ReduxTokens
from dinotile.flux_patch.schedule import Strength
from dinotile.hosts.comfy.shown import show


@check
def masks_of_two_pictures():
    """Denoise masks and masks of texts."""
    one, other = (sequential(positive=text(seed), guided=False) for seed in (0, 3))
    still = torch.stack([torch.zeros(HEIGHT, WIDTH), torch.ones(HEIGHT, WIDTH)])
    masked = sequential(guided=False, pictures=2, denoise_mask=still)
    shares = torch.tensor([1.0, 0.0])[:, None, None].expand(2, HEIGHT, WIDTH)
    each_its = [*text(0, mask=shares), *text(3, mask=1 - shares)]
    first, second = sequential(positive=each_its, guided=False, pictures=2, keep="masked")
    three = picture(batch=3, height=HEIGHT, width=WIDTH)
    return {
        "masked": [apart(each, one[0]) for each in masked],
        "each its text": [apart(first, one[0]), apart(second, other[0])],
        "two masks of three": [
            refusal(lambda: sequential(guided=False, pictures=3, denoise_mask=still)),
            refusal(lambda: upscale(vae=tiny_vae(), image=three, denoise_mask=still)),
        ],
    }


@check
def told_of_two_pictures():
    """A text, a hint, a reference and Redux for either of two pictures: each is as it is alone with its own."""
    control = comfy.controlnet.ControlNet(
        control_model(latent_input=False), load_device=torch.device("cpu"), extra_conds=["y", "guidance"]
    )
    rows, columns = torch.arange(HEIGHT)[:, None] / HEIGHT, torch.arange(WIDTH)[None, :] / WIDTH
    hints = torch.stack([rows + 0 * columns, columns + 0 * rows])[:, None].expand(2, 3, HEIGHT, WIDTH)
    generator = torch.Generator().manual_seed(5)
    references = torch.randn(2, 16, HEIGHT // 8, WIDTH // 8, generator=generator)
    tokens = torch.randn(2, 3, 3, used().context, generator=generator)

    def told(which: slice) -> list:
        texts = [text(seed)[0] for seed in (0, 3)[which]]
        context, pooled = (torch.cat(each) for each in zip(*((c, d["pooled_output"]) for c, d in texts), strict=True))
        said = {"control": control.copy().set_cond_hint(hints[which], 1.0), "reference_latents": [references[which]]}
        made = [[context, {"guidance": 3.5, "pooled_output": pooled, **said}]]
        return show(made, ReduxTokens(tokens[which], 2, Strength()))

    both = sequential(positive=told(slice(2)), guided=False, pictures=2)
    alone = [sequential(positive=told(which), guided=False)[0] for which in (slice(1), slice(1, 2))]
    three = show(text(0), ReduxTokens(tokens[[0, 1, 0]], 2, Strength()))
    return {
        "apart": [apart(*pair) for pair in zip(both, alone, strict=True)],
        "differ": apart(*alone),
        "three for two": refusal(lambda: sequential(positive=three, guided=False, pictures=2)),
    }
