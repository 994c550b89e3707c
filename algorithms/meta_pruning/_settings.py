"""What a configuration may say about MetaPruning."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, model_validator

from prunekit.core.errors import BudgetError, ConfigError
from prunekit.core.recipe import Recipe
from prunekit.core.settings import Section

__all__ = ["MetaPruningSettings"]

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Id = Annotated[int, Field(ge=0, le=30)]

_LEAST_STUDY = 4
_TRAINING = {"epochs": 64, "lr": 0.25, "schedule": "linear", "weight_decay": 4e-5, "label_smoothing": 0.1}


class MetaPruningSettings(Section):
    """Keys of the method ``meta_pruning``; the defaults are the published ones, for MobileNetV1.

    Attributes:
        flops_range: What a network may cost, ``[low, high]``: shares of the unpruned network's cost, or numbers.
        convention: How that is counted: ``macs``, or ``metapruning``, the FLOPs of MetaPruning's own tool (as it
            counts ResNets for models whose name begins with ``resnet``, else as it counts MobileNets).
        hidden: Width of the hidden layers of the PruningNet.
        training: Recipe of the PruningNet's training. Keys that are left out are the published ones: 64 epochs at a
            rate that falls from 0.25 along a line, weight decay 4e-5, label smoothing 0.1; the seed is the run's.
        population: Networks of a generation.
        generations: How many generations, the first, random one among them; ``iterations`` is the same key.
        keep: How many of the best are remembered.
        top_k: How many of these are parents.
        mutations: Mutants of a generation.
        mutation: Chance of each id of a mutant to be drawn anew.
        crossovers: Networks of a generation whose ids are from two parents.
        bn_batches: Training batches over which batch norm statistics are taken before a network is scored.
        top: How many of the best vectors are shown.
        pruning_net: Folder of a trained PruningNet, as `prunekit train` leaves it; without one it is trained.
        vector: Ids that are known already: nothing is trained or searched, the network is cut by them.
        correlation: Number of candidates that are also trained from scratch, to see how well the PruningNet foretells
            accuracy; 0 for none, else at least 4.
        correlation_epochs: Epochs of these trainings, which else follow the run's ``finetune``; None takes its epochs.
    """

    flops_range: Annotated[list[float], Field(min_length=2, max_length=2)] = [0.45, 0.5]
    convention: Literal["macs", "metapruning"] = "macs"
    hidden: Count = 32
    training: dict[str, Any] = {}
    population: Count = 50
    generations: Count = Field(20, validation_alias=AliasChoices("generations", "iterations"))
    keep: Count = 50
    top_k: Count = 10
    mutations: Annotated[int, Field(ge=0)] = 25
    mutation: Share = 0.1
    crossovers: Annotated[int, Field(ge=0)] = 25
    bn_batches: Count = 100
    top: Count = 5
    pruning_net: str | None = None
    vector: list[Id] | None = None
    correlation: Annotated[int, Field(ge=0)] = 0
    correlation_epochs: Annotated[float, Field(gt=0)] | None = None

    def recipe(self, seed: int = 0) -> Recipe:
        """How the PruningNet is trained.

        Args:
            seed: Of the order of the data, where the section names none.
        """
        return Recipe.from_mapping({**_TRAINING, "seed": seed, **self.training})

    @model_validator(mode="after")
    def _consistent(self) -> MetaPruningSettings:
        _check_range(*self.flops_range)
        recipe = self.recipe()
        if recipe.distill_weight > 0:
            raise ConfigError(
                f"a PruningNet is trained without a teacher, got training.distill_weight={recipe.distill_weight:g}; "
                "set it for finetune, which trains the network that is found"
            )
        if self.top_k > self.keep:
            raise ConfigError(f"top_k must be at most keep={self.keep}, got {self.top_k}; raise keep")
        if self.mutations + self.crossovers > self.population:
            raise ConfigError(
                f"mutations and crossovers must fit into a population of {self.population}, got {self.mutations} and "
                f"{self.crossovers}; raise population to {self.mutations + self.crossovers}"
            )
        most = self.population * self.generations
        if self.correlation and not _LEAST_STUDY <= self.correlation <= most:
            raise ConfigError(
                f"correlation must be 0 or lie from {_LEAST_STUDY} to the number of candidates ({most}), "
                f"got {self.correlation}; use correlation=0 for no study"
            )
        return self


def _check_range(low: float, high: float) -> None:
    if not 0 <= low <= high or high == 0:
        raise BudgetError(
            f"flops_range must be [low, high], rising from 0 or more, got [{low:g}, {high:g}]; use [0.45, 0.5] for "
            "nearly half"
        )
    if 0 < low <= 1 < high:
        raise BudgetError(
            f"flops_range must be two shares up to 1 or two numbers above it, got [{low:g}, {high:g}]; write both alike"
        )
