"""A row is a name, what it changes in the settings of all, who looks, and at what."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from . import judges

DEMO, PHOTOS, TEXTURES = "demo DINO", "photo net", "texture net"  # who looks


@dataclass(frozen=True)
class Row:
    """changes: of ``UpscaleSettings``. encoder: whose features guide estimates, or empty. elsewhere: whether they are those of
    another picture. adapter: whether the demo's adapter acts, with the demo's DINO. times: how often each estimate is moved.
    fidelity: of back-projection at the end."""

    name: str
    changes: Mapping[str, float] = field(default_factory=dict)
    encoder: str = ""
    elsewhere: bool = False
    adapter: bool = False
    times: int = 1
    fidelity: float = 0.0

    @property
    def biased(self) -> set[str]:
        """Judges that had a say in the picture, and so have none on it."""
        looked = {self.encoder} if self.changes.get("guide", 0) > 0 else set()
        looked |= {DEMO} if self.adapter else set()
        return {judge for encoder, judge in ((DEMO, judges.DINO), (PHOTOS, judges.PHOTO)) if encoder in looked}

    @property
    def drawn(self) -> Hashable:
        """What decides the picture before back-projection."""
        return tuple(sorted(self.changes.items())), self.encoder, self.elsewhere, self.adapter, self.times


LR, BOTH = {"anchor": 1.0}, {"anchor": 1.0, "guide": 1.0}
OFF = Row("off")
STRENGTH_0 = Row("strength 0", {"anchor": 0.0, "guide": 0.0}, DEMO)
ANCHOR = Row("anchor", LR)
DINO = Row("DINO", {"guide": 1.0}, DEMO)
ANCHOR_DINO = Row("anchor + DINO", BOTH, DEMO)
ANCHOR_PHOTOS = Row("anchor + photo net", BOTH, PHOTOS)
OTHER_PICTURE = Row("anchor + DINO of another picture", BOTH, DEMO, elsewhere=True)
ROWS = (
    OFF,
    STRENGTH_0,
    Row("back-projection at the end", fidelity=1.0),
    ANCHOR,
    Row("anchor twice a sigma", LR, times=2),
    DINO,
    ANCHOR_DINO,
    OTHER_PICTURE,
    Row("anchor + DINO, strength 2", {**BOTH, "guide": 2.0}, DEMO),
    ANCHOR_PHOTOS,
    Row("adapter", adapter=True),
    Row("adapter + anchor + DINO", BOTH, DEMO, adapter=True),
)
KNOWING = Row("anchor + textures", BOTH, TEXTURES)
SCENE_ROWS = (
    OFF,
    ANCHOR,
    Row("textures", {"guide": 1.0}, TEXTURES),
    KNOWING,
    Row("anchor + textures of another picture", BOTH, TEXTURES, elsewhere=True),
    ANCHOR_DINO,
)
