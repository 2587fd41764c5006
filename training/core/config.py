"""Settings that check themselves, read from a YAML file; what is wrong is told in one sentence."""

from __future__ import annotations

import re
import reprlib
from collections import Counter
from difflib import get_close_matches
from functools import reduce
from itertools import accumulate
from operator import getitem
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from ...files.errors import BROKEN, printable, reason
from ...files.paths import expanded_text

LONGEST_FILE, LONGEST_VALUE, DEEPEST = 2**17, 2000, 20  # bytes; characters; brackets
MOST_VALUES = 10_000  # that PyYAML reads in half a second
LONGEST_LIST = 300  # characters, of the unknown keys in a sentence
ODD = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # no part of a name or a path
WORDS = {"integer": "a whole number", "number": "a number", "string": "text", "boolean": "true or false"}


def _from_text(value: Any) -> Any:
    """YAML takes 1e-4 for text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _ordered(value: tuple[Any, Any]) -> tuple[Any, Any]:
    if value[0] > value[1]:
        raise ValueError("low is above high")
    return value


Item = TypeVar("Item")
FROM_TEXT = BeforeValidator(_from_text)
Number = Annotated[float, Field(ge=0), FROM_TEXT]
Share = Annotated[float, Field(ge=0, le=1), FROM_TEXT]
Decay = Annotated[float, Field(ge=0, lt=1, json_schema_extra={"allowed": "a number from 0 to below 1"}), FROM_TEXT]
Range = Annotated[tuple[Item, Item], AfterValidator(_ordered)]
Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=1, le=2**16)]
Folder = Annotated[  # that is written
    str, Field(json_schema_extra={"allowed": "text, with ~ for your own home"}), AfterValidator(expanded_text)
]
Seed = Annotated[int, Field(ge=0, lt=2**64, json_schema_extra={"allowed": "a whole number from 0 to below 2^64"})]


class Settings(BaseModel):
    """A section: frozen; unknown keys, other types, numbers out of range, NaN and infinity are refused."""

    # Namespaces: pydantic before 2.10 keeps names such as model_path to itself.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())

    @field_validator("*", mode="before")
    @classmethod
    def _lists_are_tuples_of_plain_text(cls, value: Any) -> Any:
        value = tuple(value) if isinstance(value, list) else value
        texts = value if isinstance(value, tuple) else (value,)
        if any(isinstance(text, str) and ODD.search(text) for text in texts):
            raise ValueError("control characters")
        return value


Config = TypeVar("Config", bound=Settings)


class OptimisationSettings(Settings):
    """How the adapter learns."""

    steps: Positive = Field(default=10_000, description="Steps of the optimiser.")
    batch: Count = Field(default=1, description="Rows per process and micro-step.")
    accumulation: Count = Field(default=1, description="Micro-steps whose gradients make one step.")
    learning_rate: Share = Field(default=1e-4, description="Peak; it falls to a tenth. Usual: 1e-5 to 1e-3.")
    warmup: Natural = Field(default=200, description="Steps in which the learning rate rises. Usual: 0 to 1000.")
    weight_decay: Share = Field(default=0.01, description="Of AdamW, on matrices and kernels. Usual: 0 to 0.1.")
    ema: Decay = Field(default=0.999, description="Decay of the averaged weights, 0 for none. Usual: 0.99 to 0.9999.")
    clip: Number = Field(default=1.0, description="Largest norm of the gradient, 0 for no limit. Usual: 1.")
    seed: Seed = Field(default=0, description="Of everything random.")
    sigma: Range[Share] = Field(default=(0.0, 1.0), description="Noise levels; match denoise. Usual: [0, 0.6].")
    sigma_sampling: Literal["uniform", "logit_normal"] = Field(default="uniform", description="How levels are drawn.")
    precision: Literal["no", "bf16", "fp16"] = Field(default="no", description="Of computing; match `model.dtype`.")


class OutputSettings(Settings):
    """What is written, where and how often. `..._every` are steps."""

    folder: Folder = Field(default="", description="Where checkpoints, logs and the adapter go; needed.")
    log_every: Positive = Field(default=10, description="From one line of the log to the next.")
    save_every: Positive = Field(default=500, description="From one checkpoint to the next.")
    keep: Positive = Field(default=2, description="Checkpoints that stay.")
    sample_every: Natural = Field(
        default=0,
        description="From one sample picture to the next, 0 for never; `folder` lies outside `data.path` then.",
    )
    validate_every: Natural = Field(default=0, description="From one validation to the next, 0 for never.")
    validation_pictures: int = Field(default=4, ge=2, description="Held out, if the data has four times as many.")
    judge: str = Field(
        default="",
        description="Network that tells how far sample pictures are from the truth, in LPIPS' form: a .safetensors file or a "
        "folder of a VGG, or of a DINO that is not `model.dino`; empty: none.",
    )
    tensorboard: bool = Field(default=True, description="Whether the log is also written for TensorBoard.")
    wandb: str = Field(default="", description="Project at Weights & Biases for the log too; empty: none.")


def read_yaml(path: str | Path, kind: type[Config]) -> Config:
    """The settings ``kind`` from a YAML file; ValueError in one sentence for what is no file, no YAML or no ``kind``."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no configuration file {path}: check the path")
    if path.stat().st_size > LONGEST_FILE:
        raise ValueError(f"{path} is larger than {LONGEST_FILE:,} bytes, so it is no configuration: check the path")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (*BROKEN, yaml.YAMLError, MemoryError, OSError) as error:  # PyYAML leaks what its own parts raise
        raise ValueError(f"{path} is not readable as YAML ({reason(error)}): correct it") from error
    try:
        return from_mapping(values or {}, kind)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


class _Loader(yaml.SafeLoader):
    """Refuses keys that come twice, deep nesting, and merges (``<<``), by which a few lines can make gigabytes."""

    values = 0  # so far

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.values += 1
        if self.values > MOST_VALUES:
            problem = f"more than {MOST_VALUES:,} values; name many files by a pattern"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=self.get_mark())
        return super().compose_node(parent, index)

    def fetch_flow_collection_start(self, token: Any) -> None:
        if self.flow_level > DEEPEST:
            raise yaml.MarkedYAMLError(problem="lists in lists without end", problem_mark=self.get_mark())
        super().fetch_flow_collection_start(token)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if twice := [key for key, count in keys.items() if count > 1]:
            problem = f"it has {', '.join(twice)} more than once; put what belongs together under one key"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """PyYAML leaks whatever int(), datetime and its own tables raise, for example for the date 2026-13-01."""
        try:
            if isinstance(node, yaml.ScalarNode) and len(node.value) > LONGEST_VALUE:
                raise ValueError("too long")
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            problem = f"{shown(node.value)} cannot be read as {node.tag.rpartition(':')[2]}: {error}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from error


def from_mapping(values: dict[str, Any], kind: type[Config]) -> Config:
    """The settings ``kind``, sections of keys, from nested mappings; what they leave out keeps its default.

    Raises ValueError that names every unknown key or the first wrong value.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ValueError(" ".join(_sentence(error, values, kind).split())) from None


def wrong(name: str, value: Any, needed: str) -> str:
    """The sentence about a wrong value."""
    return f"{name} is {shown(value)}, needed is {needed}: correct it"


def shown(value: Any) -> str:
    """``repr`` that stays short, whatever the value is."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 100
    short.maxlevel, short.maxlist = 2, 8
    return short.repr(list(value) if isinstance(value, tuple) else value)


def allowed(schema: dict[str, Any]) -> str:
    """What the JSON schema of a value allows, in words; a schema may bring its own as ``allowed``."""
    if "allowed" in schema:
        return schema["allowed"]
    if "anyOf" in schema:
        return " or ".join(allowed(part) for part in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(repr(choice) for choice in schema["enum"])
    if "prefixItems" in schema:
        item = schema["prefixItems"][0]
        return f"[low, high] with {item['minimum']:g} <= low <= high <= {item['maximum']:g}"
    if "items" in schema:
        return f"a list of {allowed(schema['items'])}"
    low, high = schema.get("minimum"), schema.get("maximum")
    text = WORDS[schema["type"]] + (f" of at least {low:g}" if high is None and low is not None else "")
    text += f" from {low:g} to {high:g}" if high is not None else ""
    return text + (f", a multiple of {schema['multipleOf']}" if "multipleOf" in schema else "")


def _sentence(error: ValidationError, values: Any, kind: type[Settings]) -> str:
    errors = error.errors(include_url=False)
    unknown = [_meant(kind, *each["loc"]) for each in errors if each["type"] in ("extra_forbidden", "invalid_key")]
    if unknown:
        told = sum(length <= LONGEST_LIST for length in accumulate(len(name) + 2 for name in unknown))
        more = f" and {len(unknown) - told} more" if told < len(unknown) else ""
        return f"unknown {', '.join(unknown[:told])}{more}: correct or remove {'it' if len(unknown) == 1 else 'them'}"
    place = errors[0]["loc"][:2]  # a section and its key, or less where the whole is wrong
    name, value = ".".join(map(str, place)), reduce(getitem, place, values)
    if len(place) == 2:
        section: Any = kind.model_fields[str(place[0])].annotation
        return wrong(name, value, allowed(section.model_json_schema()["properties"][place[1]]))
    if errors[0]["type"] == "value_error":  # of a validator that compares keys
        return str(errors[0].get("ctx", {})["error"])
    return f"{name or 'the file'} is {shown(value)}, needed are keys with values: indent them"


def _meant(kind: Any, key: int | str, *inner: int | str) -> str:
    if inner:
        return f"{key}.{_meant(kind.model_fields[key].annotation, *inner)}"
    close = get_close_matches(str(key), kind.model_fields, n=1)
    name = printable(str(key), most=50)
    return f"{name} (did you mean {close[0]}?)" if close else name
