"""int8 and int4 weights: in memory, in products, on disk."""

from prunelab.quantised.quantising import quantise

__all__ = ["quantise"]
