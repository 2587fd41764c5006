"""The patch encoder: DINOv2's architecture at width 128, trained by self-distillation (DINO, iBOT) without labels.

A student sees a degraded window of a picture with some patches masked; a teacher, its moving average, sees a clean
window that is shifted by some patches and by a part of a patch. The student must name, for every patch that both see,
the teacher's soft choice among PROTOTYPES, averaged over 3 x 3 patches: what kind of place this is, not where in the
patch an edge lies. The choices are balanced over the batch (Sinkhorn-Knopp), so that they cannot all become the same.
The CLS token must be closer to the teacher's CLS of the same picture than to those of the other pictures.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, interpolate, log_softmax, normalize

from . import DINO
from .muon import optimizers
from .pictures import Pictures, held_out, soft_copy
from .schedule import Average, Clock, descend, log, write

PATCH, SHIFT, WINDOW = 14, 3, 10  # windows of WINDOW patches, shifted by up to SHIFT patches
PROTOTYPES = 256
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Student(nn.Module):
    """The encoder and its two training heads; only the encoder is exported."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = new_encoder()
        self.patch_head, self.cls_head = _head(), _head()
        self.prototypes = nn.Parameter(torch.randn(PROTOTYPES, 64))

    def forward(self, pixels: Tensor, *, masked: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns cosines with the prototypes [B, N, PROTOTYPES] and the unit CLS embedding [B, 64]."""
        tokens = self.encoder(normalise(pixels), bool_masked_pos=masked).last_hidden_state  # [B, 1 + N, 128]
        patches = normalize(self.patch_head(tokens[:, 1:]).float(), dim=-1)
        return patches @ normalize(self.prototypes, dim=-1).T, normalize(self.cls_head(tokens[:, 0]).float(), dim=-1)


def train(*, minutes: float, seed: int, count: int = 16) -> None:
    """Trains for `minutes` and writes DINO every two minutes and at the end."""
    torch.manual_seed(seed)
    pictures = Pictures(seed=seed)
    student = Student().train()
    teacher = Average(student, decay=0.996)
    tools = optimizers(student, keep=("encoder.embeddings", "prototypes"))
    clock = Clock(minutes)
    side = PATCH * (WINDOW + SHIFT + 1)
    for _ in clock.steps(tools):
        pixels = pictures.crops(count, height=side, width=side, zoom=(0.7, 2.2))
        starts = torch.randint(0, SHIFT + 1, (2, 2)).tolist()
        loss = _loss(student, teacher.module, pixels, starts)
        descend(student, loss, tools)
        teacher.update(student, step=clock.step)
        if clock.should_save():
            export(teacher.module.encoder, steps=clock.step, seed=seed, loss=loss.item())
    export(teacher.module.encoder, steps=clock.step, seed=seed, loss=loss.item())


def new_encoder() -> nn.Module:
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(hidden_size=128, num_hidden_layers=4, num_attention_heads=2, image_size=224, patch_size=PATCH)
    return Dinov2Model(config)


def load_encoder(path: Path) -> nn.Module:
    """The encoder of a file written by `export`, in float32."""
    encoder = new_encoder().eval()
    encoder.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    return encoder


def normalise(pixels: Tensor) -> Tensor:
    """[B, 3, H, W] in 0..1 -> ImageNet statistics, as every DINO expects."""
    return (pixels - pixels.new_tensor(MEAN).view(3, 1, 1)) / pixels.new_tensor(STD).view(3, 1, 1)


def export(encoder: nn.Module, *, steps: int, seed: int, loss: float) -> None:
    write(DINO, dict(encoder.state_dict()), steps=steps, seed=seed)
    log.info("dino: %d steps, loss %.3f, %s", steps, loss, report(encoder))


@torch.no_grad()
def report(encoder: nn.Module) -> str:
    """On the held-out cat: mean cosine of neighbours, of distant patches, and of each patch with its soft copy's."""
    true = interpolate(held_out(), (PATCH * 16, PATCH * 24), mode="bicubic", antialias=True).clamp(0, 1)
    clean, soft = (_patches(encoder, pixels, rows=16) for pixels in (true, soft_copy(true)))
    near = (clean[:, 1:] * clean[:, :-1]).sum(-1).mean()
    far = (clean[:, 12:] * clean[:, :-12]).sum(-1).mean()
    same = (clean * soft).sum(-1).mean()
    return f"cosine of neighbours {near:.2f}, of patches 12 apart {far:.2f}, of sharp with soft {same:.2f}"


def _patches(encoder: nn.Module, pixels: Tensor, *, rows: int) -> Tensor:
    """Unit features [rows, columns, 128], centred on the picture's mean."""
    tokens = encoder(normalise(pixels)).last_hidden_state[0, 1:]
    return normalize(tokens - tokens.mean(0), dim=-1).unflatten(0, (rows, -1))


def _head() -> nn.Module:
    return nn.Sequential(nn.Linear(128, 256), nn.GELU(), nn.Linear(256, 64))


def _loss(student: Student, teacher: Student, pixels: Tensor, starts: list[list[int]]) -> Tensor:
    """`starts` = top and left of the student's and of the teacher's window, in patches."""
    seen = _window(pixels, starts[0], offset=0)
    clean = _window(pixels, starts[1], offset=torch.randint(PATCH // 2, ()).item())
    masked = torch.rand(len(pixels), WINDOW * WINDOW) < torch.rand(len(pixels), 1) * 0.5
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            wanted, wanted_cls = teacher(clean)
        found, found_cls = student(_degrade(seen), masked=masked)
    found, wanted = (grid.unflatten(1, (WINDOW, WINDOW)) for grid in (found, wanted))
    wanted = avg_pool2d(wanted.movedim(-1, 1), 3, stride=1, padding=1, count_include_pad=False).movedim(1, -1)
    found = _shared(found, own=starts[0], other=starts[1]).flatten(0, 2)  # [P, PROTOTYPES]
    wanted = _balance(_shared(wanted, own=starts[1], other=starts[0]).flatten(0, 2) / 0.06)
    patches = -(wanted * log_softmax(found / 0.1, dim=-1)).sum(-1).mean()
    return patches + 0.5 * cross_entropy(found_cls @ wanted_cls.T / 0.1, torch.arange(len(pixels)))


def _window(pixels: Tensor, start: list[int], *, offset: int) -> Tensor:
    top, left = (PATCH * patches + offset for patches in start)
    return pixels[:, :, top : top + PATCH * WINDOW, left : left + PATCH * WINDOW]


def _shared(grid: Tensor, *, own: list[int], other: list[int]) -> Tensor:
    """The part of one window's grid [B, h, w, D] that the other window also covers."""
    top, left = (max(0, theirs - mine) for mine, theirs in zip(own, other, strict=True))
    height, width = (WINDOW - abs(theirs - mine) for mine, theirs in zip(own, other, strict=True))
    return grid[:, top : top + height, left : left + width]


def _degrade(pixels: Tensor) -> Tensor:
    """What an upscaler's input looks like: softer, noisier, other colours; differently for every picture."""
    views = []
    for picture in pixels.split(1):
        factor = 1 + 3 * torch.rand(()).item() ** 2
        small = interpolate(picture, scale_factor=1 / factor, mode="bilinear", antialias=True)
        soft = interpolate(small, picture.shape[-2:], mode="bicubic")
        colour = (1 + 0.15 * torch.randn(1, 3, 1, 1)) * soft + 0.08 * torch.randn(1, 3, 1, 1)
        gray = colour.mean(1, keepdim=True).lerp(colour, torch.rand(()).item() * 1.4)
        views.append(gray + 0.06 * torch.rand(()) * torch.randn_like(picture))
    return torch.cat(views).clamp(0, 1)


def _balance(logits: Tensor) -> Tensor:
    """Sinkhorn-Knopp: soft choices [P, PROTOTYPES] whose rows sum to 1 and whose columns are used equally."""
    shares = (logits - logits.max()).exp()
    for _ in range(3):
        shares = shares / shares.sum(0, keepdim=True).clamp(min=1e-12)
        shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-12)
    return shares
