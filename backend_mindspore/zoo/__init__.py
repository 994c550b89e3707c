"""Networks by name, built once as plain cells."""

from prunekit.backend_mindspore.zoo._registry import ModelEntry, build_model, default_input, list_models

__all__ = ["ModelEntry", "build_model", "default_input", "list_models"]
