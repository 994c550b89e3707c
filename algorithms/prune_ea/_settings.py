"""What a configuration may say about PruneEA."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from prunekit.core._names import nearest
from prunekit.core.errors import ConfigError
from prunekit.core.importance import criteria
from prunekit.core.settings import Section

__all__ = ["OBJECTIVES", "PruneEASettings"]

OBJECTIVES = ("accuracy", "macs", "params", "memory", "bandwidth", "latency")
"""What a search can optimise; accuracy is maximised, the others are minimised."""

_ALSO = {
    "acc": "accuracy", "flops": "macs", "mac": "macs", "parameter": "params", "parameters": "params",
    "param": "params", "activation_memory": "memory",
}  # fmt: skip

Probability = Annotated[float, Field(ge=0, le=1)]


def _objective(name: Any) -> Any:
    """The name of an objective, however the user writes it."""
    if not isinstance(name, str):
        return name  # pydantic says what is wrong with it
    plain = "_".join(name.lower().replace("-", " ").split())
    plain = _ALSO.get(plain, plain)
    if plain not in OBJECTIVES:
        raise ConfigError(f"an objective must be a known name, got {name!r}; {nearest(plain, (*OBJECTIVES, *_ALSO))}")
    return plain


class PruneEASettings(Section):
    """Keys of the method ``prune_ea``.

    Attributes:
        length: Number of bits of an encoding, as a check; None takes what the network has.
        num_generation: Generations that are bred, after the random one.
        num_individual: Individuals that a generation breeds, and that survive it.
        random_models: Random models of the first generation.
        objectives: Two or more of ``accuracy``, ``macs`` (also written FLOPs: as Vega counts, they are
            multiply-accumulates), ``params`` (also written parameters), ``memory`` (bytes of all activations),
            ``bandwidth`` (bytes read and written) and ``latency`` (measured, best with nothing else at work).
        crossover: Probability that two parents swap what lies between two points.
        mutation: Probability that a random segment of a child is flipped; a child that nothing else has changed
            always is.
        evaluation: ``recalibrate`` scores a model once its batch norm statistics are taken anew, ``train`` after a
            short training.
        bn_batches: Training batches for batch norm statistics; 0 leaves them.
        epochs: Length of the short training, which else follows the run's ``finetune``.
        importance: Criterion that says which channel stays where a segment has only zeros.
        macs: Share of the multiply-accumulates to **keep** by the model that the run goes on with: the most accurate
            of the front within it.
        train_front: How many models of the front are fully trained by the run's ``finetune``: ``all``, or a number of
            them, from the smallest to the largest and with the one that the run goes on with.
        from_scratch: Whether they start from new random weights instead of the pruned ones.
    """

    length: Annotated[int, Field(ge=1)] | None = None
    num_generation: Annotated[int, Field(ge=0)] = 31
    num_individual: Annotated[int, Field(ge=2)] = 32
    random_models: Annotated[int, Field(ge=2)] = 64
    objectives: list[Annotated[str, BeforeValidator(_objective)]] = ["accuracy", "macs"]
    crossover: Probability = 0.9
    mutation: Probability = 0.2
    evaluation: Literal["recalibrate", "train"] = "recalibrate"
    bn_batches: Annotated[int, Field(ge=0)] = 100
    epochs: Annotated[float, Field(gt=0)] = 1
    importance: str = "l1"
    macs: Annotated[float, Field(gt=0, le=1)] = 0.5
    train_front: Literal["all"] | Annotated[int, Field(ge=0)] = "all"
    from_scratch: bool = False

    @property
    def evaluations(self) -> int:
        """How many models the search scores."""
        return self.random_models + self.num_generation * self.num_individual

    @model_validator(mode="after")
    def _consistent(self) -> PruneEASettings:
        names = self.objectives
        if len(set(names)) < len(names):
            raise ConfigError(f"objectives must differ, got {names}; FLOPs are counted as MACs here, name one of them")
        if len(names) < 2:
            raise ConfigError(f"objectives must be two or more, got {names}; use objectives=[accuracy, macs]")
        if self.num_individual < len(names):
            raise ConfigError(
                f"num_individual must be at least the number of objectives ({len(names)}), got {self.num_individual}; "
                "use 32"
            )
        if self.importance not in criteria():
            hint = nearest(self.importance, criteria())
            raise ConfigError(f"importance must be a known criterion, got {self.importance!r}; {hint}")
        return self
