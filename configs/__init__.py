"""Ready configurations, one YAML file per method and model."""

if __name__ != "prunekit.configs":  # a second copy would have classes of its own, and isinstance would fail
    raise ImportError(
        f"this package must be imported as prunekit.configs, got {__name__}; "
        "take the repository root off sys.path and install it with `pip install -e .`"
    )
