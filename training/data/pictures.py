"""Training pictures by number: the same picture in any process and after any interruption."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO

import torch
from torch import Tensor

from ...dino.feature_map import FeatureMap
from ...files.containers import opened
from ...files.fingerprints import fingerprint
from ...files.pictures import from_image, upright
from ...files.pixels import resize
from ...files.progress import Progress, counted
from .crops import Box, centred_crop, random_crop
from .sample import Sample, Skipped, Unusable, unusable
from .settings import DataSettings
from .side_files import TEXT_ARRAYS, TEXT_INFO, TEXT_MASK, FeatureInfo, TextInfo, feature_files, read_npy, unpack
from .sources import Entry, find_entries


def open_data(
    settings: DataSettings,
    *,
    needs_features: tuple[str, str] | None,
    encoder: str = "",
    progress: Progress | None = None,
) -> Data:
    """The data that ``settings`` names, with at least one usable sample.

    needs_features: spec and how (``encoded_how``) that precomputed features must come from; encoder: the fingerprint of its
    weights, empty to accept any. Raises ValueError where there is nothing to train on.
    """
    data = Data(settings, needs_features=needs_features, encoder=encoder)
    if not any(data.usable(index) for index in counted(range(len(data)), "look", progress)):
        raise ValueError(
            f"none of the {len(data)} samples in {settings.path} can be used: {data.skipped}; check the data"
        )
    return data


class Data:
    """Random access to samples; what cannot be used is None and counted by reason.

    Where precomputed features are named, every sample must have them; else pictures are cropped and flipped at random.
    """

    def __init__(self, settings: DataSettings, *, needs_features: tuple[str, str] | None, encoder: str) -> None:
        self.entries = find_entries(settings.path)
        self.names = [entry.name for entry in self.entries]
        sides = (settings.picture,) if isinstance(settings.picture, int) else settings.picture
        self.height, self.width = sides[0], sides[-1]  # of the samples' pixels
        self.least = settings.tile or min(sides)  # px of a picture's side
        # DINO's features of a mirrored picture are not the mirrored features.
        self.flip = settings.flip and not settings.features
        self.feature_files = feature_files(settings.features) if settings.features else ()
        self.needs_features, self.encoder = needs_features, encoder
        self._unusable: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def skipped(self) -> Skipped:
        """What has been found unusable so far."""
        return Skipped(self._unusable.values())

    def usable(self, index: int) -> bool:
        """Whether a sample has its members and a large enough picture, as far as can be told without decoding it."""
        with self._counting(index):
            with unusable("unreadable picture"), opened(BytesIO(self._picture(self.entries[index]))) as image:
                size = image.height, image.width
            self._check_size(*size)
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
        missing = [name for name in self.feature_files if name not in entry.members]
        if missing:
            raise Unusable(f"without {', '.join(missing)}")
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
        if self.feature_files:
            box, features = centred_crop(self._features(entry, fingerprint(content)), rows, columns, **size)
        else:
            box = random_crop(rows, columns, **size, draws=draws)
        mirrored = self.flip and draws[3] < 0.5
        source = None
        if "source.png" in entry.members:
            source = resize(decode(entry.members["source.png"].read())[None], height=rows, width=columns)[0]
            source = self._crop(source, box, mirrored=mirrored)
        _check_text(entry)
        context = _array(entry, "t5.npy", axes=2)
        return Sample(
            name=entry.name,
            pixels=self._crop(pixels, box, mirrored=mirrored),
            source=source,
            features=features,
            context=context,
            pooled=_array(entry, "clip.npy", axes=1),
            mask=_mask(entry, context),
        )

    def _crop(self, pixels: Tensor, box: Box, *, mirrored: bool) -> Tensor:
        top, left, height, width = box
        part = pixels[None, :, top : top + height, left : left + width]
        out = resize(part, height=self.height, width=self.width)[0]  # [3, height, width]
        return out.flip(2) if mirrored else out

    def _features(self, entry: Entry, picture: str) -> FeatureMap:
        with unusable("with damaged features"):
            patches, cls, text = (entry.members[name].read() for name in self.feature_files)
            info = FeatureInfo.model_validate_json(text)
            features = unpack(info, patches=patches, cls=cls)
        self._check_encoder(entry.name, info)
        if info.picture != picture:
            raise Unusable("with features of another picture")
        return features

    def _check_encoder(self, name: str, info: FeatureInfo) -> None:
        got, needed = (info.spec, info.how), self.needs_features or (info.spec, info.how)
        weights = self.encoder or info.encoder
        if (got, info.encoder) != (needed, weights):
            raise ValueError(
                f"{name} has features of {got[0]} layers {got[1]} (weights {info.encoder}), needed are those of "
                f"{needed[0]} layers {needed[1]} (weights {weights}): run `dinotile features` with that encoder"
            )


def decode(content: bytes) -> Tensor:
    """A picture file upright, on white where it is transparent: [3, H, W] in 0..1; ``Unusable`` where it is damaged."""
    with unusable("unreadable picture"):
        return from_image(upright(BytesIO(content))).on_white[0]


def _array(entry: Entry, name: str, *, axes: int) -> Tensor | None:
    if name not in entry.members:
        return None
    with unusable(f"with a damaged {name}"):
        return read_npy(entry.members[name].read(), axes=axes)


def _mask(entry: Entry, context: Tensor | None) -> Tensor | None:
    """True for the text tokens that count, of which there is one at least."""
    if context is None or not _masked(entry):
        return None
    if TEXT_MASK not in entry.members:
        raise Unusable(f"without {TEXT_MASK}")
    mask = _array(entry, TEXT_MASK, axes=1)
    if mask is None or len(mask) != len(context) or not bool(mask.any()):
        raise Unusable(f"with a {TEXT_MASK} that does not fit its t5.npy")
    return mask != 0


def _masked(entry: Entry) -> bool:
    """Whether a mask belongs to the text: one that `dinotile features` made earlier may not."""
    if TEXT_INFO not in entry.members:
        return TEXT_MASK in entry.members
    with unusable(f"with a damaged {TEXT_INFO}"):
        return TextInfo.model_validate_json(entry.members[TEXT_INFO].read()).masked


def _check_text(entry: Entry) -> None:
    """Raise ``Unusable`` where `dinotile features` has not finished the sample's text or made it of another caption."""
    if TEXT_INFO not in entry.members:
        return
    missing = [name for name in TEXT_ARRAYS if name not in entry.members]
    if missing:
        raise Unusable(f"without {', '.join(missing)}")
    if "txt" in entry.members:
        with unusable(f"with a damaged {TEXT_INFO}"):
            info = TextInfo.model_validate_json(entry.members[TEXT_INFO].read())
        if info.caption != fingerprint(entry.members["txt"].read()):
            raise Unusable("with text of another caption")
