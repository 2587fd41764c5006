"""What the name of an experiment means: ``fast-32-sb-128-kl3-an5k``. Every setting of a FlatDINO and of its loss is in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ...dino.compress.config import FEWEST_LEVELS, SIZES, FlatConfig

FORM = "variant-tokens-sizes-features[-options], such as fast-32-sb-128, or with levels fast-32-bb-8555"
NUMBER = r"(\d+(?:\.\d+)?)"
OPTIONS = {  # what each looks like, and what it says in one line
    "hl": (r"hl", "half of the blocks"),
    "nokl": (r"nokl", "no noise and no KL divergence: a deterministic autoencoder"),
    "kl": (
        r"(\d*)kl(\d{1,2})",
        "klN or MklN: weight of the KL divergence, 10^-N or, with a point after M's first digit, M x 10^-N: 25kl7 is 2.5e-7",
    ),
    "an": (r"an(\d{1,6})k", "anNk: that weight rises over N thousand steps"),
    "fb": (rf"fb{NUMBER}", "fbX: free bits, nats of each number that the divergence does not count"),
    "klvar": (r"klvar(\d{1,2})", "klvarN: weight 10^-N of the variance of the divergence over tokens"),
    "er": (r"er(\d{1,4})", "erN: N registers of the encoder that are thrown away"),
    "dr": (r"dr(\d{1,4})", "drN: N registers of the decoder that are thrown away"),
    "tanh": (r"tanh", "latents from -1 to 1"),
    "il": (r"il(\d{1,4})", "ilN: block N of DINO is restored too"),
    "iw": (rf"iw{NUMBER}", "iwX: weight of that, 05 is 0.5"),
    "nd": (r"nd", "nested dropout: a picture can be restored from the first few tokens"),
}
CONTINUOUS, QUANTISED = ("nokl", "kl", "an", "fb", "klvar", "tanh"), ("nd",)
KL_TIMES_NUMBERS = 1e-6 * 512  # the usual weight of the divergence, times the numbers that a picture becomes


@dataclass(frozen=True)
class Variant:
    """epochs: how often each picture is seen. falling: share of the run, its end, in which the learning rate falls."""

    epochs: int
    falling: float


VARIANTS = {"fast": Variant(50, 0.10), "med": Variant(100, 0.15), "long": Variant(150, 0.15), "ext": Variant(300, 0.25)}


@dataclass(frozen=True)
class Experiment:
    """A name that was read. kl: weight of the divergence, in nats summed over a picture's numbers. annealing: steps in which it
    rises from 0. free_bits: nats. kl_variance: a weight. inner: a block of DINO, from 1; 0 for none. Else see ``FlatConfig``."""

    name: str
    variant: str
    tokens: int
    encoder: str
    decoder: str
    features: int
    levels: tuple[int, ...] = ()
    half: bool = False
    deterministic: bool = False
    kl: float = 0.0
    annealing: int = 0
    free_bits: float = 0.0
    kl_variance: float = 0.0
    encoder_registers: int = 0
    decoder_registers: int = 0
    tanh: bool = False
    nested: bool = False
    inner: int = 0
    inner_weight: float = 1.0

    @property
    def schedule(self) -> Variant:
        return VARIANTS[self.variant]

    def config(self, *, dino: str, width: int, how: str, grid: tuple[int, int], inner: str = "") -> FlatConfig:
        """The model's, for patches of ``grid`` of an encoder. Raises ValueError for sizes that no FlatDINO has."""
        same = ("tokens", "features", "encoder", "decoder", "half", "levels", "tanh", "deterministic", "nested")
        told = {name: getattr(self, name) for name in (*same, "encoder_registers", "decoder_registers")}
        return FlatConfig(dino=dino, width=width, how=how, grid=grid, inner=inner, **told)

    def lines(self) -> list[str]:
        """What each part of the name means, and what the model then is."""
        variant, numbers = self.schedule, self.tokens * self.features
        parts = self.name.split("-")
        said = [
            (parts[0], f"{variant.epochs} epochs, the learning rate falls in the last {variant.falling:.0%}"),
            (parts[1], "tokens that a picture becomes"),
            *(
                (size, f"{whose}: {_size(size, half=self.half)}")
                for whose, size in zip(("encoder", "decoder"), parts[2], strict=True)
            ),
            (parts[3], self._numbers(numbers)),
        ]
        for part in parts[4:]:
            said.append((part, OPTIONS[_option(part)][1]))
        if self.kl:
            said.append(("KL", f"weight {self.kl:.4g}" + (f" after {self.annealing} steps" if self.annealing else "")))
        if self.inner:
            said.append(("inner", f"block {self.inner}, weight {self.inner_weight:g}"))
        wide = max(len(part) for part, _ in said)
        return [self.name, *(f"  {part:<{wide}}  {meaning}" for part, meaning in said)]

    def _numbers(self, numbers: int) -> str:
        if not self.levels:
            return f"numbers of a token: {numbers} of a picture, {2 * numbers} bytes in half precision"
        config = self.config(dino="", width=1, how="", grid=(1, 1))
        levels = ", ".join(map(str, self.levels))
        return f"levels {levels} of a token's numbers: {config.bits:.0f} bits of a picture"


def parse(name: str) -> Experiment:
    """Read a name; ValueError that tells which part of it is wrong, and what it may be."""
    variant, *rest = name.split("-")
    if variant not in VARIANTS:
        raise _wrong(name, variant, f"a variant, one of {', '.join(VARIANTS)}")
    if len(rest) < 3:
        raise ValueError(f"the name {name!r} has {len(rest) + 1} parts, at least 4 are needed: {FORM}")
    tokens, sizes, features, *options = rest
    if not re.fullmatch(r"[1-9]\d{0,3}", tokens):
        raise _wrong(name, tokens, "a number of tokens, usually 32")
    if not re.fullmatch(f"[{''.join(SIZES)}]{{2}}", sizes):
        raise _wrong(name, sizes, f"the sizes of encoder and decoder, two of {', '.join(SIZES)}, such as sb")
    levels = _levels(name, features)
    told = _told(name, options, quantised=bool(levels))
    numbers = len(levels) or int(features)
    if not levels and not told.get("deterministic"):
        told.setdefault("kl", KL_TIMES_NUMBERS / (int(tokens) * numbers))
    shape: dict[str, Any] = {
        "tokens": int(tokens),
        "encoder": sizes[0],
        "decoder": sizes[1],
        "features": numbers,
        "levels": levels,
    }
    experiment = Experiment(name, variant, **shape, **told)
    try:
        experiment.config(dino="", width=1, how="", grid=(1, 1))
    except ValueError as error:
        raise ValueError(f"the name {name!r} cannot be: {error}") from None
    return experiment


def _levels(name: str, features: str) -> tuple[int, ...]:
    """Four digits and more are levels, up to three a number of features."""
    if re.fullmatch(r"[1-9]\d{0,2}", features):
        return ()
    if re.fullmatch(rf"[{FEWEST_LEVELS}-9]{{4,}}", features):
        return tuple(map(int, features))
    levels = f"four or more levels from {FEWEST_LEVELS} to 9, such as 8555"
    raise _wrong(name, features, f"a number of features from 1 to 999, usually 16 to 128, or {levels}")


def _told(name: str, options: list[str], *, quantised: bool) -> dict[str, Any]:
    found: dict[str, re.Match[str]] = {}
    for option in options:
        key = _option(option)
        if not key:
            raise _wrong(name, option, f"an option, one of {', '.join(OPTIONS)} with their numbers")
        if key in found:
            raise ValueError(f"the name {name!r} has {key} twice ({found[key][0]}, {option}): leave one out")
        if key in (CONTINUOUS if quantised else QUANTISED):
            kind = "levels, which have no distribution" if quantised else "continuous latents, no levels such as 8555"
            raise ValueError(f"the name {name!r} has {option} with {kind}: leave it out")
        match = re.fullmatch(OPTIONS[key][0], option)
        assert match is not None
        found[key] = match
    for without in ("kl", "an", "fb", "klvar"):
        if "nokl" in found and without in found:
            raise ValueError(f"the name {name!r} has nokl and {found[without][0]}: leave one of them out")
    if "iw" in found and "il" not in found:
        raise ValueError(f"the name {name!r} has {found['iw'][0]} without a layer to weigh: add ilN, such as il4")
    return {field: value for key, match in found.items() for field, value in _meant(name, key, match).items()}


def _meant(name: str, key: str, match: re.Match[str]) -> dict[str, Any]:
    """The fields of ``Experiment`` that an option sets."""
    flags = {"hl": "half", "nokl": "deterministic", "tanh": "tanh", "nd": "nested"}
    counts = {"er": "encoder_registers", "dr": "decoder_registers", "il": "inner"}
    decimals = {"fb": "free_bits", "iw": "inner_weight"}
    if key in flags:
        return {flags[key]: True}
    if key in counts:
        if int(match[1]) < 1:
            raise _wrong(name, match[0], "at least 1, or left out")
        return {counts[key]: int(match[1])}
    if key in decimals:
        value = decimal(match[1])
        if value <= 0:
            raise _wrong(name, match[0], "above 0, or left out")
        return {decimals[key]: value}
    if key == "an":
        return {"annealing": 1000 * int(match[1])}
    if key == "klvar":
        return {"kl_variance": 10.0 ** -int(match[1])}
    mantissa = int(match[1] or 1) / 10 ** max(0, len(match[1]) - 1)
    if mantissa <= 0:
        raise _wrong(name, match[0], "above 0; without a divergence write nokl")
    return {"kl": mantissa * 10.0 ** -int(match[2])}


def decimal(text: str) -> float:
    """A number as names write it: 05 is 0.5, and so are 0.5 and 0.50."""
    return float(text if "." in text or not text.startswith("0") else f"0.{text[1:] or 0}")


def _option(text: str) -> str:
    """The option that a part of a name is, empty for none."""
    return next((key for key, (pattern, _) in OPTIONS.items() if re.fullmatch(pattern, text)), "")


def _size(key: str, *, half: bool) -> str:
    size = SIZES[key]
    return f"{size.width} wide, {size.depth // 2 if half else size.depth} blocks, {size.heads} heads"


def _wrong(name: str, part: str, wanted: str) -> ValueError:
    return ValueError(f"{part!r} in the name {name!r} must be {wanted}: {FORM}; see --explain")
