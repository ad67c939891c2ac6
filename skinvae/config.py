"""All settings in one schema, composed from their owners', and where their values come from.

TOML file < environment (SKINVAE_SECTION__KEY) < --set section.key=value; an unknown key is an error.
"""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from skinvae.errors import ConfigError, InputError
from skinvae.images.decode import DecodeSettings
from skinvae.logs import LogFormat
from skinvae.model.precision import Precision
from skinvae.model.scorer import DrawSettings, ScoringSettings
from skinvae.model.vae import ModelSettings
from skinvae.storage.filesystem import Location, StorageSettings
from skinvae.training.settings import TrainSettings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Device = Literal["auto", "cpu", "cuda"]
ScoreName = Literal["vae", "vae_reconst", "vae_kl", "iwae", "iwae_reconst", "iwae_kl"]
"""One of SCORES in records.py."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ScoreSettings(DrawSettings):
    """Scoring a whole archive: what a score depends on (ScoringSettings), and how the job runs."""

    precision: Precision | Literal["auto"] = Field(
        "auto",
        description="floating-point format of the decoder: bfloat16, tf32 (GPUs only), float32 or float64; auto = that "
        "of the table's rows, else what the machines are fastest at",
    )
    slice_size: int = Field(
        0, ge=0, description="archive members per unit of work, commit and resume; 0 = what takes some seconds"
    )
    max_rejects: float = Field(0.01, ge=0, le=1, description="share of rejected images above which the exit code is 3")
    num_actors: int = Field(0, ge=0, description="scoring processes; 0 = one per GPU, or as the CPUs allow")
    batch_size: int = Field(0, ge=0, description="images encoded at once; 0 = what the device is fast at")
    decode_batch_size: int = Field(0, ge=0, description="draws decoded at once; 0 = what the device is fast at")
    max_seconds: float = Field(
        600.0,
        gt=0,
        allow_inf_nan=False,
        description="for a batch; a process that takes longer is ended, an image that does alone is a timeout",
    )
    commit_seconds: float = Field(
        5.0, gt=0, allow_inf_nan=False, description="how often finished slices are committed to the table"
    )
    retention_hours: float = Field(
        168.0,
        ge=0,
        description="how long slice files stay for old snapshots once large files hold their rows",
    )

    maps: bool = Field(
        default=False, description="store error maps of the images with the highest scores in TABLE/_maps"
    )
    maps_percent: float = Field(
        1.0, gt=0, le=100, description="of the images of the command's archives: those with the highest vae_reconst"
    )
    maps_size: int = Field(32, ge=1, description="cells a side of an error map, a power of two")

    @field_validator("maps_size")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value & (value - 1):
            raise ValueError(f"must be a power of two, got {value}")
        return value

    def scoring(self, precision: Precision) -> ScoringSettings:
        """Only what a score depends on, in this precision."""
        draws = {name: getattr(self, name) for name in DrawSettings.model_fields}
        return ScoringSettings(**draws, precision=precision)

    @property
    def calibration(self) -> ScoringSettings:
        """Of the held-out normals: in float32 where that is left open, so that a model is the same on all machines."""
        return self.scoring(self.asked_precision or "float32")

    @property
    def asked_precision(self) -> Precision | None:
        """None leaves it to the table, or the machines."""
        return None if self.precision == "auto" else self.precision


class ArchiveSettings(_Section):
    """How archives are taken, beside what they say of themselves."""

    images_column: str | None = Field(
        None, description="column of Parquet archives that holds the images; default: found"
    )


class PrepareSettings(_Section):
    """Decoding archives once, to keep their pixels."""

    slice_size: int = Field(1024, ge=1, description="archive members per unit of work, commit and resume")
    commit_seconds: float = Field(
        5.0, gt=0, allow_inf_nan=False, description="how often finished slices are committed to the prepared archive"
    )
    retention_hours: float = Field(
        168.0,
        ge=0,
        description="how long slice files stay for old snapshots once large files hold their rows",
    )


class EvaluateSettings(_Section):
    """Evaluation."""

    seed: int = Field(0, ge=0, description="of the bootstrap and of the paper protocol's draws")
    num_resamples: int = Field(1000, ge=100, description="bootstrap resamples per interval")
    false_positive_rate: float = Field(
        0.05, gt=0, lt=1, description="images with a p-value of at most this are flagged: so many normals should be"
    )
    false_discovery_rate: float = Field(
        0.1, gt=0, lt=1, description="of Benjamini and Hochberg's procedure: share of normals among the images it calls"
    )
    compared_score: ScoreName = Field("vae_reconst", description="score that all others are compared with")
    strata_score: ScoreName = Field("vae_reconst", description="score whose AUROC is given by age, sex and the like")
    max_rows_in_memory: int = Field(
        2_000_000,
        ge=0,
        description="tables with more rows are sorted and joined on local disk: the same numbers, analytic intervals",
    )
    memory_mb: int = Field(
        1024, ge=128, description="memory for sorting and joining such tables; TMPDIR takes what exceeds it"
    )


class RaySettings(_Section):
    """The Ray cluster. RAY_ADDRESS, which `ray job submit` sets, names one to join; else a local one is started."""

    address: str | None = Field(None, description="cluster to join; default: RAY_ADDRESS, else start a local Ray")
    device: Device = Field("auto", description="where models run; auto = GPUs if the cluster has any")
    min_cpus: int = Field(0, ge=0, description="CPUs that a growing cluster is asked and waited for; 0 = what is there")
    min_gpus: int = Field(0, ge=0, description="GPUs that a growing cluster is asked and waited for; 0 = what is there")
    wait_seconds: float = Field(900.0, ge=0, allow_inf_nan=False, description="for min_cpus and min_gpus, at most")
    task_memory_gib: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="memory that Ray sets aside for each decoding task; 0 = 1 GiB, or half of a small node's",
    )


class LogSettings(_Section):
    """What a command says on stderr while it works."""

    format: LogFormat = Field("text", description="of stderr: text for people, json for machines, one object a line")


class Config(BaseSettings):
    """Every setting of every verb."""

    model_config = SettingsConfigDict(
        env_prefix="SKINVAE_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    model: ModelSettings = ModelSettings()
    archives: ArchiveSettings = ArchiveSettings()
    images: DecodeSettings = DecodeSettings()
    train: TrainSettings = TrainSettings()
    score: ScoreSettings = ScoreSettings()
    prepare: PrepareSettings = PrepareSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    storage: StorageSettings = StorageSettings()
    ray: RaySettings = RaySettings()
    log: LogSettings = LogSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """--set, then the environment, then the file; `load_config` hands over the file's values as `file_values`."""
        assert isinstance(init_settings, InitSettingsSource)
        file_values = init_settings.init_kwargs.pop("file_values", {})
        return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=file_values)


def load_config(file: str | None = None, assignments: Iterable[str] = ()) -> Config:
    """The settings from a TOML file (path or URI), the environment and `section.key=value` assignments.

    Raises ConfigError with the setting, its value and what is wrong with it.
    """
    file_values = parse_toml(read_config_file(file), origin=file) if file else {}
    return build_config(file_values, assignments)


def build_config(file_values: dict[str, Any], assignments: Iterable[str] = ()) -> Config:
    """The settings from the contents of a TOML file, the environment and assignments. Raises ConfigError."""
    overrides: dict[str, Any] = {}
    for assignment in assignments:
        _assign(overrides, assignment)
    for section in (*file_values, *overrides, *_environment_sections()):
        if section not in Config.model_fields:
            raise ConfigError(_unknown(section))
    from_sources: Callable[..., Config] = Config  # `file_values` is for settings_customise_sources, no field
    try:
        return from_sources(**overrides, file_values=file_values)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from error
    except SettingsError as error:
        raise ConfigError(f"environment: {error}; write SKINVAE_SECTION__KEY=value") from error


def read_config_file(file: str) -> str:
    """The text of a config file at a path or URI. Raises ConfigError if there is none."""
    try:
        return Location.parse(file).read_bytes().decode()
    except InputError as error:
        raise ConfigError(f"--config: {error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--config: '{file}' is no text file in UTF-8") from error


def parse_toml(text: str, *, origin: str | None) -> dict[str, Any]:
    """Raises ConfigError with the place of a syntax error."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"'{origin}' is no valid TOML: {error}") from error


def setting_names(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """Every setting as section.key."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from setting_names(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def render_toml(config: Config) -> str:
    """All settings as a TOML file that `--config` reads back, each with what it means; unset ones are left out."""
    lines = []
    for section, settings in config:
        lines.append(f"[{section}]")
        for name, field in type(settings).model_fields.items():
            value = getattr(settings, name)
            lines.append(f"# {field.description}" if value is not None else f"# {name}: {field.description}")
            # JSON's numbers, strings and booleans are TOML's.
            lines += [f"{name} = {json.dumps(value)}"] if value is not None else []
        lines.append("")
    return "\n".join(lines)


def _assign(overrides: dict[str, Any], assignment: str) -> None:
    key, equals, text = assignment.partition("=")
    section, dot, name = key.strip().partition(".")
    if not (equals and dot and name):
        raise ConfigError(f"--set {assignment}: write section.key=value, for example score.num_samples=15")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    overrides.setdefault(section, {})[name] = value


def _explain(error: ValidationError) -> str:
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return _unknown(key)
    given = problem["input"]
    # Credentials in a URI are refused, and not printed either.
    shown = "(not shown)" if isinstance(given, str) and "@" in urlsplit(given).netloc else repr(given)
    return f"setting {key} = {shown}: {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _unknown(key: str) -> str:
    names = [*setting_names(), *Config.model_fields]
    nearest = difflib.get_close_matches(key, names, n=1, cutoff=0.0)
    return f"unknown setting '{key}': the nearest is '{nearest[0]}'; `--print-config` shows all"


def _environment_sections() -> Iterator[str]:
    """SECTION of every SKINVAE_SECTION__KEY; pydantic-settings passes over those that it does not know."""
    for name in os.environ:
        if name.upper().startswith("SKINVAE_") and "__" in name:
            yield name[len("SKINVAE_") :].partition("__")[0].lower()
