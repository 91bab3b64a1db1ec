"""Description of a kit: what a stranger may have written, as plain, bounded values.

No torch is imported here: a kit is refused, and the classes of a request found, at once.
"""

import importlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic_core
from pydantic import AfterValidator, ConfigDict, Field, with_config
from typing_extensions import TypedDict

from geniu_lightning.data.images import ImageSpec
from geniu_lightning.errors import KitError, SettingError
from geniu_lightning.kit.archive_info import ArchiveInfo, ArchiveSettings
from geniu_lightning.settings.checked import NonNegative, Positive, PositiveInt, checked, shown
from geniu_lightning.version import __version__

if TYPE_CHECKING:
    from torch import nn

FORMAT = 1
OURS = "geniu_lightning.models."
LONGEST = 1000  # characters of a text
DEEPEST = 20  # nested mappings and lists
LARGEST = 1_000_000  # epochs, images of a batch, units of a layer
MOST = 10**12  # images of a class


def _plain(value: Any, depth: int = 0) -> Any:
    """Return a value of JSON; refuse references of configurations and what disturbs a terminal."""
    if depth > DEEPEST:
        raise ValueError("nested less deeply")
    match value:
        case str() if len(value) > LONGEST or not value.isprintable() or "${" in value:
            raise ValueError(f"printable on one line, up to {LONGEST} characters, without ${{")
        case float() if not abs(value) < float("inf"):
            raise ValueError("finite")
        case dict():
            for inner in (*value, *value.values()):
                _plain(inner, depth + 1)
        case list() | tuple():
            for inner in value:
                _plain(inner, depth + 1)
    return value


def _name(text: str) -> str:
    if not text:
        raise ValueError("a name")
    return str(_plain(text))


Text = Annotated[str, AfterValidator(_plain)]
Name = Annotated[str, AfterValidator(_name)]
Settings = Annotated[dict[str, Any], AfterValidator(_plain)]  # any JSON values
Bounded = Annotated[int, Field(ge=1, le=LARGEST)]
Part = Annotated[str, Field(pattern="^(train|test)$")]  # of a data set
Index = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=0, le=MOST)]


@checked
@dataclass(frozen=True)
class NetworkSpec:
    """The dotted path of a network's class, and its keyword arguments, plain values."""

    target: Text
    arguments: Settings = field(default_factory=dict)

    @property
    def ours(self) -> bool:
        """Whether the class is one of this package's models, so that building it is safe."""
        return self.target.startswith(OURS)

    def build(self, allow_custom: bool = True) -> "nn.Module":
        """Return a new network with fresh weights.

        `allow_custom` builds classes from outside our models, too, which runs their code.

        Raises:
            KitError: If the class is not allowed or cannot be built.
        """
        from torch import nn

        if not allow_custom and not self.ours:
            raise KitError(
                f"the network {self.target} is not one of ours, and loading it would run its code;"
                " pass allow_custom=true if you trust it"
            )
        module_name, _, name = self.target.rpartition(".")
        try:
            network = getattr(importlib.import_module(module_name), name)
        except (ImportError, AttributeError, ValueError, TypeError) as error:
            raise KitError(f"the network {self.target} cannot be imported: {error}") from error
        if not (isinstance(network, type) and issubclass(network, nn.Module)):
            raise KitError(f"{self.target} is no torch.nn.Module class")
        try:
            built: nn.Module = network(**self.arguments)
        except (TypeError, ValueError, RuntimeError, SettingError) as error:
            raise KitError(f"{self.target} cannot be built: {error}") from error
        return built

    def build_classifier(self, allow_custom: bool = True) -> "nn.Module":
        """Return a new classifier with the interface that `refuse_no_classifier` checks."""
        from geniu_lightning.kit.networks import refuse_no_classifier

        classifier = self.build(allow_custom)
        refuse_no_classifier(classifier, self.target)
        return classifier


@checked
@dataclass(frozen=True)
class DistributionInfo:
    """Description of a kit's distributions.

    Args:
        decoder: Class and arguments of the decoder of latent codes.
        classes: That have a mixture, by index.
    """

    decoder: NetworkSpec
    classes: Annotated[tuple[Index, ...], Field(min_length=1)]

    def without(self, classes: tuple[int, ...]) -> "DistributionInfo":
        """Return the description after the mixtures of some classes are left out."""
        left = (k for k in self.classes if k not in classes)
        return DistributionInfo(self.decoder, tuple(left))


class Data(TypedDict, total=False):
    """Which images a kit was trained on."""

    name: Name
    root: Text | None
    source: Settings
    pad: Annotated[int, Field(ge=0, le=LARGEST)]
    flip: bool
    validation: Annotated[float, Field(ge=0, lt=1)]
    resize: Literal["squash", "crop", "pad"]
    background: Annotated[float, Field(ge=0, le=1)]


class Training(TypedDict, total=False):
    """How a kit was trained, as far as unlearning follows it."""

    epochs: Bounded
    batch_size: Bounded
    batches: PositiveInt
    optimizer: Settings
    schedule: Literal["onecycle", "cosine", "none"]
    max_gradient_norm: Positive | None
    min_generator_steps: Annotated[int, Field(ge=0, le=LARGEST)]
    prompt_batch: Annotated[int, Field(ge=2, le=LARGEST)]
    reconstruction_weight: NonNegative
    divergence_weight: NonNegative


class Recorded(TypedDict, total=False):
    """What training records in a kit."""

    data: Data
    imbalance: Settings
    model: Settings
    training: Training
    callback: Training
    precision: Text
    initial_sha256: Text
    weights_sha256: Text


# plain dictionaries for those who read them
if TYPE_CHECKING:
    Settled = dict[str, Any]
else:
    Settled = Annotated[Recorded, AfterValidator(_plain)]
for _part in (Data, Training, Recorded):  # further entries have no effect
    with_config(ConfigDict(extra="allow", strict=True))(_part)


@checked
@dataclass(frozen=True)
class KitInfo:
    """Description of a kit.

    Args:
        classifier: Class and arguments of the classifier.
        generator: Those of the generator; `None` without one.
        class_names: In the order of their indices.
        spec: Form and normalisation of the images.
        class_counts: Training images of each class that the classifier saw, for priors.
        data_fingerprint: SHA-256 over the whole data set's pixels and labels; empty if they came
            from a user's own loader.
        seed: Training seed.
        settings: The resolved configuration of training, to find the data and to retrain.
        forgotten: Classes that were unlearned, by index; a kit holds no prompts of them.
        prior_taken: τ of `z − τ log π`: the share of the class prior that unlearning has removed
            from the logits.
        library: Version of this package that wrote the file.
        revision: Its git revision, where it ran from a checkout.
        class_fingerprints: SHA-256 over the pixels of each class, by split and name; empty if it
            was not recorded.
        archive: Of the archive; `None` without one.
        distribution: Of the distributions; `None` without them.
    """

    classifier: NetworkSpec
    generator: NetworkSpec | None
    class_names: Annotated[tuple[Name, ...], Field(min_length=1)]
    spec: ImageSpec
    class_counts: tuple[Count, ...]
    data_fingerprint: Text
    seed: int
    settings: Settled = field(default_factory=dict)
    forgotten: tuple[Index, ...] = ()
    prior_taken: NonNegative = 0.0
    library: Text = __version__
    revision: Text | None = None
    format: int = FORMAT
    class_fingerprints: dict[Part, dict[Name, Text]] = field(default_factory=dict)
    archive: ArchiveInfo | None = None
    distribution: DistributionInfo | None = None

    def __post_init__(self) -> None:
        classes = len(self.class_names)
        archived = self.archive.counts if self.archive else (0,) * classes
        gone, known = {*self.forgotten}, {*range(classes)}
        drawn = {*self.distribution.classes} if self.distribution else set()
        for key, wrong, problem in (
            ("class_names", len({*self.class_names}) < classes, "must differ from each other"),
            ("class_counts", len(self.class_counts) != classes, "must be one number a class"),
            ("forgotten", any(k >= classes for k in self.forgotten), "must be classes"),
            ("forgotten", len(gone) == classes, "must leave a class"),
            ("archive.counts", len(archived) != classes, "must be one number a class"),
            (
                "archive.counts",
                any(n and k in gone for k, n in enumerate(archived)),
                "must be 0 of forgotten classes",
            ),
            ("distribution.classes", not drawn <= known - gone, "must be classes that remain"),
        ):
            if wrong:
                raise SettingError(problem, key=key)

    @property
    def remaining(self) -> tuple[int, ...]:
        """Classes that were not unlearned, by index: the order of the prompts."""
        forgotten = {*self.forgotten}
        return tuple(k for k in range(len(self.class_names)) if k not in forgotten)

    @property
    def contents(self) -> tuple[str, ...]:
        """Names of what a kit holds beside its classifier, as `kit=` of `train.py` has them."""
        held = {
            "prompts": self.generator,
            "distribution": self.distribution,
            "archive": self.archive,
        }
        return tuple(name for name, description in held.items() if description is not None)

    def of_weights(self, **changes: Any) -> "KitInfo":
        """Return the description of a classifier alone, with further changes."""
        return replace(self, generator=None, archive=None, distribution=None, **changes)

    @classmethod
    def from_json(cls, text: str) -> "KitInfo":
        """Read what `to_json` wrote, or anyone."""
        try:
            raw = pydantic_core.from_json(text)
            if not isinstance(raw, dict):
                raise ValueError("it is no mapping")
            if (version := raw.get("format")) != FORMAT:
                raise KitError(
                    f"the kit has format version {shown(version)}; this version reads {FORMAT}"
                )
            for name in ("class_names", "class_counts", "forgotten"):
                if not isinstance(raw[name], list):
                    raise SettingError(f"must be a list, got {shown(raw[name])}", key=name)
                raw[name] = tuple(raw[name])
            for name in ("classifier", "generator"):
                raw[name] = raw[name] and NetworkSpec(**raw[name])
            spec = raw["spec"]
            raw["spec"] = ImageSpec(**spec | {k: tuple(spec[k]) for k in ("mean", "std")})
            if (archive := raw.get("archive")) is not None:
                parts = ArchiveSettings(**archive["settings"]), tuple(archive["counts"])
                raw["archive"] = ArchiveInfo(*parts)
            if (drawn := raw.get("distribution")) is not None:
                decoder = NetworkSpec(**drawn["decoder"])
                raw["distribution"] = DistributionInfo(decoder, tuple(drawn["classes"]))
            return cls(**raw)
        except KeyError as error:
            raise KitError(f"the kit's description cannot be read: it has no {error}") from error
        except (ValueError, TypeError, SettingError) as error:
            reason = str(error)[:LONGEST]  # it may quote what is in there
            raise KitError(f"the kit's description cannot be read: {reason}") from error

    def to_json(self) -> str:
        """Return the description as JSON with sorted keys."""
        return json.dumps(asdict(self), sort_keys=True)
