"""The published pruning methods, written once against the backend contract of `prunekit.core`."""

if __name__ != "prunekit.algorithms":  # a second copy would have classes of its own, and isinstance would fail
    raise ImportError(
        f"this package must be imported as prunekit.algorithms, got {__name__}; "
        "take the repository root off sys.path and install it with `pip install -e .`"
    )
