"""What a network is, what must be cut together, what it costs and what was decided; no framework in here."""

if __name__ != "prunekit.core":  # a second copy would have classes of its own, and isinstance would fail
    raise ImportError(
        f"this package must be imported as prunekit.core, got {__name__}; "
        "take the repository root off sys.path and install it with `pip install -e .`"
    )
