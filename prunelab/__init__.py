"""prunelab: track how every weight evolves, prune by many methods, measure what that costs and buys."""


def load(path, **options):
    """The model in folder `path`, a plain Hugging Face folder or a packed variant; see `prunelab.checkpoint.load`."""
    # Imported here because most stages never build a model, and importing one costs seconds.
    from prunelab import checkpoint

    return checkpoint.load(path, **options)
