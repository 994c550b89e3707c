"""Networks by name, built once as plain modules."""

from prunekit.backend_torch.zoo._registry import ModelEntry, build_model, default_example, default_input, list_models

__all__ = ["ModelEntry", "build_model", "default_example", "default_input", "list_models"]
