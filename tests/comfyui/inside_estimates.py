"""Checks for inside.py: guidance of the estimates, by the nodes, through the host's own samplers."""

from __future__ import annotations

from functools import partial

import comfy.sd
import torch
from comfy_extras.nodes_advanced_samplers import SamplerLCMUpscale
from inside_sampling import plan, random_latent, sample, text, tiled, upscale
from inside_tools import BASE, DEMO, HEIGHT, WIDTH, apart, check, dino, flux, node, picture, refusal, same
from inside_vae import flux_state

from dinotile import nodes
from dinotile.files.pixels import resize
from dinotile.hosts.comfy import vae as vae_path
from dinotile.hosts.comfy.folders import model_path
from dinotile.hosts.comfy.host import ComfyHost

SMALL = 32, 40  # px of the sources of most checks, to be made twice as large


def demo_vae():
    """The shipped one: what is random encodes to no latents of its own."""
    return load_vae(model_path(f"{DEMO}.safetensors", "vae"))


def load_vae(path):
    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(path))


def anchored(model, image, vae, strength=1.0, **more):
    return node(nodes.SourceAnchor, model, image, vae, strength, 1.0, 0.05, 1, **more)


def guided(model, image, vae, strength=1.0, encoder=None, **more):
    return node(nodes.DinoGuidance, model, encoder or dino(), image, vae, strength, 1.0, 0.05, 1, **more)


def encoded(vae, image):
    large = resize(image.movedim(-1, 1), height=2 * image.shape[1], width=2 * image.shape[2])
    return vae.encode(large.movedim(1, -1))


def off_by(vae, latent, image):
    """Mean squared difference of what a latent shows from the source, at the source's size."""
    shown = resize(vae.decode(latent).movedim(-1, 1), height=image.shape[1], width=image.shape[2])
    return float((shown - image.movedim(-1, 1)).square().mean())


@check
def estimates():
    vae, out = demo_vae(), {}
    runs = {
        "euler": {"steps": 3},
        "heun": {"steps": 3, "sampler": "heun", "cfg": 2.0},
        "euler_ancestral": {"steps": 3, "sampler": "euler_ancestral"},
    }
    image = picture(3, height=HEIGHT // 4, width=WIDTH // 4)
    latent, of = encoded(vae, image), plan(height=HEIGHT // 2, width=WIDTH // 2)
    for name, options in runs.items():
        plain = sample(flux(), text(0), text(1), latent=latent, **options)
        results = {
            "anchor": anchored(flux(), image, vae),
            "half": anchored(flux(), image, vae, 0.5),
            "both": guided(anchored(flux(), image, vae, 0.5), image, vae),
        }
        if name == "euler":
            results |= {
                "the other way round": anchored(guided(flux(), image, vae), image, vae, 0.5),
                "tiled": anchored(tiled(flux(), of), image, vae),
            }
        found = {key: sample(model, text(0), text(1), latent=latent, **options) for key, model in results.items()}
        out[name] = {"off": off_by(vae, plain, image)} | {key: off_by(vae, one, image) for key, one in found.items()}
        out[name]["DINO acts"] = not same(found["both"], found["half"])
        out[name]["order matters"] = not same(found["both"], found.get("the other way round", found["both"]))
    return out


@check
def estimates_on_a_padded_canvas():
    """How far *DINO Tiled Upscale* of a model with *Source Anchor* is from its own anchor, and from none."""
    image, vae = picture(0, height=27, width=59), demo_vae()

    def upscaled(model, **more):
        given = image, model, vae, text(0), text(1), 2.0, 0.5, 1, "euler", "simple", 1.0, 64, 16, 1.0, 0
        return node(nodes.Upscale, *given, **more)

    own, none = upscaled(flux(), anchor=1.0), upscaled(flux())
    by_node = upscaled(anchored(flux(), image, vae))
    return {"differs from the own anchor by": apart(by_node, own), "from none by": apart(by_node, none)}


@check
def estimates_off():
    """What must leave the model as it is."""
    vae, image = demo_vae(), picture(3, height=SMALL[0], width=SMALL[1])
    latent = encoded(vae, image)
    plain = sample(flux(), text(0), latent=latent)
    nowhere = torch.zeros(1, *SMALL)
    return {
        "strength 0": anchored(flux(), image, vae, 0.0) is flux() and guided(flux(), image, vae, 0.0) is flux(),
        "mask 0": same(sample(anchored(flux(), image, vae, mask=nowhere), text(0), latent=latent), plain),
        "unguided afterwards": same(sample(flux(), text(0), latent=latent), plain),
    }


@check
def estimates_of_many():
    """Two pictures, each with its own source; and one source for two latents."""
    vae = demo_vae()
    images = torch.cat([picture(seed, height=SMALL[0], width=SMALL[1]) for seed in (3, 4)])
    latent = torch.cat([encoded(vae, image[None]) for image in images])
    both = sample(anchored(flux(), images, vae), text(0), latent=latent)
    alone = sample(anchored(flux(), images[1:], vae), text(0), latent=latent[1:], noise=noise_of(2)[1:])
    other = sample(anchored(flux(), images.flip(0), vae), text(0), latent=latent)
    return {
        "apart from alone": float((both[1:] - alone).square().mean().sqrt()),
        "apart by the other's source": float((both[1:] - other[1:]).square().mean().sqrt()),
        "shape": list(both.shape),
        "two for one latent": refusal(lambda: sample(anchored(flux(), images, vae), text(0), latent=latent[:1])),
        "nothing left": [
            refusal(lambda: guided(anchored(flux(), images, vae), images, vae)),
            refusal(lambda: anchored(guided(flux(), images, vae), images, vae)),
            guided(anchored(flux(), images, vae, mask=torch.zeros(1, 4, 6)), images, vae) is None,
        ],
        "sampler that enlarges": refusal(
            lambda: sample(
                anchored(flux(), images[:1], vae),
                text(0),
                latent=latent[:1],
                sampler=SamplerLCMUpscale.execute(2.0, 1, "bilinear")[0],
            )  # fmt: skip
        ),
        "mask of another shape": [
            refusal(partial(act, flux(), images, vae, mask=torch.zeros(1, 64, 64))) for act in (anchored, guided)
        ],
        "of another shape": refusal(lambda: sample(anchored(flux(), images[:1, :20], vae), text(0), latent=latent[:1])),
    }


@check
def estimates_by_moved_weights():
    """DINO's weights are where the host moved them in inference mode, and then moved them back outside of it."""
    vae, image, encoder = (
        demo_vae(),
        picture(3, height=SMALL[0], width=SMALL[1]),
        node(nodes.LoadDino, "dino.safetensors"),
    )
    latent, out = encoded(vae, image), []
    wanted = sample(guided(flux(), image, vae), text(0), latent=latent)
    for inside in (True, False):
        with torch.inference_mode(inside):
            encoder.model.double().float()
        out.append(same(sample(guided(flux(), image, vae, encoder=encoder), text(0), latent=latent), wanted))
    return {"as ever": out}


def noise_of(batch):
    return random_latent(2, batch, SMALL[0] // 4, SMALL[1] // 4)


@check
def estimates_by_the_vae():
    """FLUX.1's own VAE as the decoder, and what is refused."""
    vae = comfy.sd.VAE(sd={name: tensor for name, tensor in flux_state().items() if "quant" not in name})
    image = picture(3, height=SMALL[0], width=SMALL[1])
    latent = encoded(vae, image)
    return {
        "acts": not same(
            sample(anchored(flux(), image, vae), text(0), latent=latent), sample(flux(), text(0), latent=latent)
        ),
        "refused": refusal(lambda: anchored(flux(), picture(), wrong_vae())),
        "twice": refusal(lambda: anchored(anchored(flux(), picture(), demo_vae()), picture(), demo_vae())),
    }


@check
def estimates_of_a_broken_vae():
    """The encoder, which a decoder does not need, gives what is not finite."""
    vae, image = demo_vae(), picture(3, height=SMALL[0], width=SMALL[1])
    latent = encoded(vae, image)
    for weight in vae.first_stage_model.taesd_encoder.parameters():
        weight.data = weight.data * torch.nan
    return {"refused": refusal(lambda: sample(anchored(flux(), image, vae), text(0), latent=latent))}


@check
def estimates_by_a_small_vae():
    """Both halves of it, and through the node: the own one encodes to no latents of its own."""
    small, own = demo_vae(), load_vae(str(BASE / "models" / "vae" / "vae.safetensors"))
    host, inner = ComfyHost(flux(), own, decoder=small), flux().model
    image = picture(3, height=HEIGHT, width=WIDTH)
    pixels = image.movedim(-1, 1)
    latents = inner.process_latent_in(vae_path.encode(small, pixels))
    by_small, by_own = (upscale(vae=own, image=image[:, ::4, ::4], anchor=1.0, decoder=vae) for vae in (small, None))
    return {
        "read": same(host.read(pixels), latents.float()) and not same(host.read(pixels), host.encode(pixels)),
        "shown": float((host.show(latents).clamp(0, 1) - pixels).abs().mean()),
        "by the own": float((host.decode(latents) - pixels).abs().mean()),
        "node": apart(by_small, by_own),
    }


def wrong_vae():
    vae = demo_vae()
    vae.latent_channels = 4
    return vae
