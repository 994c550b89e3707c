"""MindSpore's primitives in the words of ``core.graph``."""

from __future__ import annotations

from prunekit.backend_mindspore import _ops_layers, _ops_shapes
from prunekit.backend_mindspore._op_names import POINTWISE, UNIFORM
from prunekit.backend_mindspore._op_table import MAKERS, Call, Seen, every, tensors
from prunekit.core.custom_ops import custom_op

__all__ = ["describe"]

_FAMILIES = (_ops_layers, _ops_shapes)  # they fill the table when they are imported


def describe(call: Call) -> Seen:
    """What a call is; an unknown one is opaque."""
    # ops.Custom is one primitive for all; its function tells them apart
    maker, taught = MAKERS.get(call.op), custom_op(call.attrs.get("func_name", call.op))
    if taught is not None:
        given = tuple(tensors(call.args))
        attrs = taught.attributes([value.shape for value in given])
        seen = Seen(taught.kind, given, taught.names(len(given)), attrs, len(call.outputs))
    elif maker is not None:
        seen = maker(call)
    elif not tensors(call.args):
        seen = Seen("create", (), (), {"uniform": call.op in UNIFORM}, len(call.outputs))
    else:
        seen = every(call, "opaque")
    seen.attrs.setdefault("numbers", _numbers(call))
    return seen


def _numbers(call: Call) -> tuple[str, ...]:
    return tuple(repr(v) for v in call.args if isinstance(v, float)) if call.op in POINTWISE else ()
