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


WHOLE, HALF = {"anchor": 1.0}, {"anchor": 0.5}  # DINO has nothing to do beside the whole
LED = {**HALF, "guide": 1.0}
OFF = Row("off")
STRENGTH_0 = Row("strength 0", {"anchor": 0.0, "guide": 0.0}, DEMO)
ANCHOR = Row("anchor", WHOLE)
HALF_ANCHOR = Row("half anchor", HALF)
DINO = Row("DINO", {"guide": 1.0}, DEMO)
ANCHOR_DINO = Row("half anchor + DINO", LED, DEMO)
ANCHOR_PHOTOS = Row("half anchor + photo net", LED, PHOTOS)
OTHER_PICTURE = Row("half anchor + DINO of another picture", LED, DEMO, elsewhere=True)
ROWS = (
    OFF,
    STRENGTH_0,
    Row("back-projection at the end", fidelity=1.0),
    ANCHOR,
    Row("anchor, back-projection at the end", WHOLE, fidelity=1.0),
    Row("anchor twice a sigma", WHOLE, times=2),
    HALF_ANCHOR,
    DINO,
    ANCHOR_DINO,
    OTHER_PICTURE,
    Row("half anchor + DINO, strength 2", {**LED, "guide": 2.0}, DEMO),
    ANCHOR_PHOTOS,
    Row("adapter", adapter=True),
    Row("adapter + anchor", WHOLE, adapter=True),
    Row("adapter + half anchor + DINO", LED, DEMO, adapter=True),
)
KNOWING = Row("half anchor + textures", LED, TEXTURES)
SCENE_ROWS = (
    OFF,
    ANCHOR,
    HALF_ANCHOR,
    Row("textures", {"guide": 1.0}, TEXTURES),
    KNOWING,
    Row("half anchor + textures of another picture", LED, TEXTURES, elsewhere=True),
    ANCHOR_DINO,
)
