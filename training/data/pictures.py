"""Training pictures by number: the same picture in any process and after any interruption."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO

import torch
from torch import Tensor

from ...dino.compress.checkpoint import load_flat
from ...dino.compress.features import CompressedFeatures, from_stored, restore
from ...dino.encode import EncodeSettings
from ...dino.feature_map import FeatureMap
from ...dino.specs import SPECS
from ...files.containers import opened
from ...files.errors import printable
from ...files.fingerprints import fingerprint
from ...files.paths import expanded
from ...files.pictures import from_image, upright
from ...files.pixels import resize
from ...files.progress import Progress, counted
from .crops import Box, centred_crop, random_crop
from .sample import Sample, Skipped, Unusable, unusable
from .settings import DataSettings
from .side_files import FeatureInfo
from .sources import Entry, find_entries
from .stored import feature_names, stored_features, stored_text


def open_data(
    settings: DataSettings,
    *,
    needs_features: tuple[str, str] | None,
    encoder: str = "",
    family: str = "",
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Data:
    """The data that ``settings`` names, with at least one usable sample.

    needs_features: spec and how (``encoded_how``) that precomputed features must come from; encoder: the fingerprint of its
    weights, empty to accept any. family: of models, whose text is read where there are several. device: where compressed
    features are restored. Raises ValueError where there is nothing to train on.
    """
    data = Data(settings, needs_features=needs_features, encoder=encoder, family=family, device=device)
    if not any(data.usable(index) for index in counted(range(len(data)), "look", progress)):
        raise ValueError(
            f"none of the {len(data)} samples in {settings.path} can be used: {data.skipped}; check the data"
        )
    return data


class Data:
    """Random access to samples; what cannot be used is None and counted by reason.

    Where precomputed features are named, every sample must have them; else pictures are cropped and flipped at random.
    """

    def __init__(
        self,
        settings: DataSettings,
        *,
        needs_features: tuple[str, str] | None,
        encoder: str,
        family: str = "",
        device: torch.device | str = "cpu",
    ) -> None:
        self.entries = find_entries(settings.path)
        self.names = [entry.name for entry in self.entries]
        self.height, self.width = settings.size  # of the samples' pixels
        self.least = settings.tile or min(settings.size)  # px of a picture's side
        # DINO's features of a mirrored picture are not the mirrored features.
        self.flip = settings.flip and not settings.features
        self.family, self.models = settings.features, family
        self.plain = made_by(settings.encoder, needed=needs_features) if settings.encoder else None
        self.needs_features, self.encoder, self.device = needs_features, encoder, device
        self.flat = load_flat(expanded(settings.flat), device=device) if settings.flat else None
        self._unusable: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def skipped(self) -> Skipped:
        """What has been found unusable so far."""
        return Skipped(self._unusable.values())

    def usable(self, index: int) -> bool:
        """Whether a sample has its members and a large enough picture, as far as can be told without decoding that."""
        entry = self.entries[index]
        with self._counting(index):
            content = self._picture(entry)
            with unusable("unreadable picture"), opened(BytesIO(content)) as image:
                size = image.height, image.width
            self._check_size(*size)
            if self.family:
                self._stored(entry, fingerprint(content))
            stored_text(entry, self.models)
        return index not in self._unusable

    def get(self, index: int, *, generator: torch.Generator) -> Sample | None:
        """Sample ``index``, cropped as ``generator`` decides (it draws four numbers in any case); None where unusable.

        Raises ValueError where the sample has features of another encoder than the run's.
        """
        draws = torch.rand(4, generator=generator).tolist()
        if index not in self._unusable:
            with self._counting(index):
                return self._sample(self.entries[index], draws)
        return None

    @contextmanager
    def _counting(self, index: int) -> Iterator[None]:
        try:
            yield
        except Unusable as reason:
            self._unusable[index] = str(reason)

    def _picture(self, entry: Entry) -> bytes:
        picture = entry.picture()
        if self.family:
            feature_names(entry, self.family, plain=self.plain is not None)
        return picture.read()

    def _check_size(self, height: int, width: int) -> None:
        if min(height, width) < self.least:
            raise Unusable(f"with a side below {self.least} px")

    def _sample(self, entry: Entry, draws: Sequence[float]) -> Sample:
        content = self._picture(entry)
        pixels = decode(content)  # [3, rows, columns]
        rows, columns = pixels.shape[1:]
        self._check_size(rows, columns)
        size = {"height": self.height, "width": self.width}
        features = None
        if self.family:
            whole = self._features(entry, fingerprint(content), size=(rows, columns))
            box, features = centred_crop(whole, rows, columns, **size)
        else:
            box = random_crop(rows, columns, **size, draws=draws)
        mirrored = self.flip and draws[3] < 0.5
        source = None
        if "source.png" in entry.members:
            source = resize(decode(entry.members["source.png"].read())[None], height=rows, width=columns)[0]
            source = self._crop(source, box, mirrored=mirrored)
        context, pooled, mask = stored_text(entry, self.models)
        return Sample(
            name=entry.name,
            pixels=self._crop(pixels, box, mirrored=mirrored),
            source=source,
            features=features,
            context=context,
            pooled=pooled,
            mask=mask,
        )

    def _crop(self, pixels: Tensor, box: Box, *, mirrored: bool) -> Tensor:
        top, left, height, width = box
        part = pixels[None, :, top : top + height, left : left + width]
        out = resize(part, height=self.height, width=self.width)[0]  # [3, height, width]
        return out.flip(2) if mirrored else out

    def _features(self, entry: Entry, picture: str, *, size: tuple[int, int]) -> FeatureMap:
        patches, cls, info = self._stored(entry, picture)
        if info is None:
            assert self.plain is not None
            return FeatureMap(patches[None], cls[None], *self.plain, size)
        about = info.spec, info.layers, info.image_size
        if not info.flat:
            return FeatureMap(patches[None], cls[None], *about, info.crops, info.scales)
        assert self.flat is not None
        with unusable("with damaged features"):
            latents = from_stored(self.flat, patches)[None]
        compressed = CompressedFeatures(latents, cls[None], *about, info.flat, info.crops, info.scales)
        return restore(self.flat, compressed, device=self.device)

    def _stored(self, entry: Entry, picture: str) -> tuple[Tensor, Tensor, FeatureInfo | None]:
        """``stored_features`` that fit the run and the picture; raises ``Unusable`` and ValueError."""
        patches, cls, info = stored_features(entry, self.family, plain=self.plain is not None)
        if info is None:
            assert self.plain is not None
            spec, _ = self.plain
            if len(cls) != SPECS[spec].width:
                raise ValueError(
                    f"{entry.name} has features {len(cls)} wide, those of {spec} are {SPECS[spec].width} wide: name in "
                    "data.encoder what made them"
                )
        else:
            self._check_encoder(entry.name, info)
            if info.picture != picture:
                raise Unusable("with features of another picture")
        self._check_flat(entry.name, "" if info is None else info.flat)
        return patches, cls, info

    def _check_flat(self, name: str, flat: str) -> None:
        """ValueError where what compressed a sample's features, empty for nothing, is not the FlatDINO of the run."""
        mine = "" if self.flat is None else self.flat.fingerprint
        if flat == mine:
            return
        got, do = f"features that FlatDINO {printable(flat)} compressed", "name its file in data.flat"
        if not flat:
            got, do = "features that are not compressed", "run `dinotile features --compress`, or leave data.flat out"
        raise ValueError(f"{printable(name)} has {got}, data.flat is {mine or 'empty'}: {do}")

    def _check_encoder(self, name: str, info: FeatureInfo) -> None:
        got, needed = (info.spec, info.how), self.needs_features or (info.spec, info.how)
        weights = self.encoder or info.encoder
        if (got, info.encoder) != (needed, weights):
            raise ValueError(
                f"{printable(name)} has features of {printable(info.spec)} layers {printable(info.how)} (weights "
                f"{printable(info.encoder)}), needed are those of "
                f"{needed[0]} layers {needed[1]} (weights {weights}): run `dinotile features` with that encoder"
            )


def made_by(text: str, *, needed: tuple[str, str] | None) -> tuple[str, str]:
    """Spec and canonical layers of "SPEC LAYERS"; ValueError where that is no encoder, or not what is needed (spec, how)."""
    spec, _, layers = text.partition(" ")
    if spec not in SPECS:
        raise ValueError(
            f"data.encoder is {text!r}, needed is one of {', '.join(SPECS)} and its layers: dinov3-large last"
        )
    made = spec, EncodeSettings(layers=layers).canonical(SPECS[spec])
    if needed not in (made, None):
        raise ValueError(
            f"data.encoder says that {spec} layers {made[1]} made the features, the run needs those of {needed[0]} layers "
            f"{needed[1]}: set model.dino and model.layers to what made them"
        )
    return made


def decode(content: bytes) -> Tensor:
    """A picture file upright, on white where it is transparent: [3, H, W] in 0..1; ``Unusable`` where it is damaged."""
    with unusable("unreadable picture"):
        return from_image(upright(BytesIO(content))).on_white[0]
