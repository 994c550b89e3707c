"""What a network costs, as polynomials of its group widths."""

from prunekit.core.cost.conventions import Convention, conventions
from prunekit.core.cost.cost import METRICS, Cost, LayerCost

__all__ = ["METRICS", "Convention", "Cost", "LayerCost", "conventions"]
