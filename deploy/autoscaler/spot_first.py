"""Which node type Ray's autoscaler starts: spot ones first, their on-demand twins where EC2 has no spot nodes left.

Ray 2.60 has no such fall-back on AWS. Autoscaler v2 notes only nodes that were allocated and never came up
(`CloudResourceMonitor.notify`), not EC2's refusal of a request, and goes on asking for the same type. v1 remembers the
refusal for half an hour (`NodeProviderAvailabilityTracker`) and hands it to the function that ranks node types, but its
own ignores it. This one does not; cluster.yaml puts it in place by RAY_AUTOSCALER_UTILIZATION_SCORER.
"""

from __future__ import annotations

from typing import Any

from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer


def rank(
    node_resources: dict[str, Any],
    demands: list[dict[str, Any]],
    node_type: str,
    *,
    node_availability_summary: Any,
) -> tuple[Any, ...] | None:
    """What one more node of this type is worth, larger is better; None if it serves none of the demands."""
    usual = _default_utilization_scorer(
        node_resources, demands, node_type, node_availability_summary=node_availability_summary
    )
    if usual is None:
        return None
    record = node_availability_summary.node_availabilities.get(node_type)
    is_available = record is None or record.is_available
    # Ray's first criterion stays the first: no GPU node for work that needs none.
    no_gpu_wasted, *fit = usual
    return (no_gpu_wasted, is_available, *fit, node_type.endswith("-spot"))
