"""The `prunekit` command."""

if __name__ != "prunekit.cli":  # a second copy would have classes of its own, and isinstance would fail
    raise ImportError(
        f"this package must be imported as prunekit.cli, got {__name__}; "
        "take the repository root off sys.path and install it with `pip install -e .`"
    )
