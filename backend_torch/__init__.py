"""prunekit for PyTorch: trace, cut, mask, train, measure, save and export."""

if __name__ != "prunekit.backend_torch":  # a second copy would have classes of its own, and isinstance would fail
    raise ImportError(
        f"this package must be imported as prunekit.backend_torch, got {__name__}; "
        "take the repository root off sys.path and install it with `pip install -e .`"
    )
