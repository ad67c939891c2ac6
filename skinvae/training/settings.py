"""The section [train]."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from skinvae.metrics.p_values import Tail
from skinvae.model.objective import ObjectiveSettings

TrainPrecision = Literal["float32", "tf32", "bfloat16", "float64"]


class TrainSettings(ObjectiveSettings):
    """Training; the defaults are the paper's."""

    num_epochs: int = Field(40, ge=0, description="passes over the training images; 0 writes an untrained bundle")
    batch_size: int = Field(32, ge=1, description="images per step, of all workers together")
    learning_rate: float = Field(1e-4, gt=0, allow_inf_nan=False, description="of Adam, with betas 0.9 and 0.999")
    clip_grad_norm: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="largest norm of the gradient, longer ones are shortened; 0 = off"
    )
    precision: TrainPrecision = Field(
        "float32",
        description="of the network's products: float32, tf32 (GPUs), bfloat16, whose loss is in float32, or float64",
    )
    compile: bool = Field(default=False, description="torch.compile the network: slower to start, faster on GPUs")
    validation_fraction: float = Field(
        0.05, gt=0, lt=1, description="share of the normals held out to choose the epoch"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="of the split, the weights, the order and the noise")
    num_workers: int = Field(0, ge=0, description="data-parallel workers; 0 = one per GPU, or one on the CPU")
    min_workers: int = Field(
        0, ge=0, description="go on with as few where nodes are lost, which then take larger shares; 0 = wait for all"
    )
    max_failures: int = Field(3, ge=0, description="how often a lost worker restarts training from its last epoch")
    tail: Tail | Literal["auto"] = Field(
        "auto",
        description="what p-values come from: gamma, fitted to the held-out normals; empirical, ranks among them; "
        "auto = gamma unless a test refuses it",
    )
    data_licence: str | None = Field(None, description="licence of the training images, for the model card")
    tensorboard: bool = Field(default=True, description="write TensorBoard logs beside the model")
    mlflow: str | None = Field(None, description="tracking URI of an MLflow server to log to; needs skinvae[mlflow]")

    @field_validator("mlflow")
    @classmethod
    def _holds_no_secret(cls, value: str | None) -> str | None:
        if value is not None and "@" in urlsplit(value).netloc:
            raise ValueError(
                "must hold no credentials: MLflow takes them from MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
        return value

    @model_validator(mode="after")
    def _min_is_no_more_than_max(self) -> TrainSettings:
        if self.num_workers and self.min_workers > self.num_workers:
            raise ValueError(f"min_workers = {self.min_workers} is more than num_workers = {self.num_workers}")
        return self


WITHOUT_INFLUENCE = frozenset({"num_workers", "min_workers", "max_failures", "data_licence", "tensorboard", "mlflow"})
"""Settings that change nothing of what is learned, but for last digits."""
