"""Budgets and alignment profiles: what they mean and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunekit.core.budget import PROFILES, Budget, alignment, least_width, profiles, unit_step
from prunekit.core.coupling.groups import ChannelGroup, Member
from prunekit.core.errors import BudgetError, ConfigError


def group(size: int, each: int = 1) -> ChannelGroup:
    indices = np.arange(size * each).reshape(size, each)
    return ChannelGroup("g", size, (Member("g.weight", 0, indices, "out", "conv", size * each),))


@pytest.mark.parametrize("value", [0, -0.5, 1.7, 50.0, float("nan"), float("inf"), "half", True, None])
@pytest.mark.parametrize("metric", ["macs", "flops", "params", "ratio"])
def test_refuses_what_is_neither_share_nor_figure(metric: str, value: object) -> None:
    with pytest.raises(BudgetError, match=f"{metric}|exactly one"):
        Budget.of(**{metric: value})  # type: ignore[arg-type]


def test_message_is_rule_value_remedy() -> None:
    with pytest.raises(BudgetError) as caught:
        Budget.of(macs=1.7)
    assert str(caught.value) == (
        "macs must lie in (0, 1] or be a whole number above 1, got macs=1.7; use macs=0.5 to keep half"
    )
    with pytest.raises(BudgetError, match=r"ratio must lie in \(0, 1\], got ratio=8"):
        Budget.of(ratio=8)


def test_exactly_one() -> None:
    with pytest.raises(BudgetError, match="exactly one of macs, flops, params, latency, ratio must be given, got none"):
        Budget.of()
    with pytest.raises(BudgetError, match="got macs=0.5, params=0.5"):
        Budget.of(macs=0.5, params=0.5)
    with pytest.raises(BudgetError, match="did you mean 'macs'"):
        Budget("mac", 0.5)
    with pytest.raises(BudgetError, match="tolerance must lie in"):
        Budget.of(macs=0.5, tolerance=1.5)


def test_targets() -> None:
    assert Budget.of(macs=0.5).target(1000) == 500
    assert Budget.of(macs=300).target(1000) == 300
    assert Budget.of(flops=2e9).target(4e9) == 2e9
    assert Budget.of(params=np.int64(300)).target(1000) == 300
    assert Budget.of(macs=1).target(1000) == 1000
    assert Budget.of(latency=0.5).target(0.2) == 0.1
    assert Budget.of(latency=2.5).target(0.2) == 0.0025


@given(st.floats(0.01, 1), st.floats(0, 0.2), st.floats(0, 2e6))
def test_tolerance_is_a_share_of_the_whole(share: float, tolerance: float, figure: float) -> None:
    budget = Budget.of(params=share, tolerance=tolerance)
    assert budget.limit(1e6) == pytest.approx((share + tolerance) * 1e6)
    assert budget.accepts(figure, 1e6) == (abs(figure - share * 1e6) <= tolerance * 1e6)
    assert budget.accepts(figure, 1e6) <= (figure <= budget.limit(1e6) * (1 + 1e-12))


def test_unreachable_says_the_least() -> None:
    text = str(Budget.of(macs=0.1).unreachable(1000, 250))
    assert "got macs=0.1 (100 of 1,000); the least that can be reached is 250 (macs=0.25)" in text
    assert "5 ms" in str(Budget.of(latency=2.5).unreachable(0.01, 0.005))


def test_profiles() -> None:
    expected = {"cuda-fp16": 8, "cuda-tf32": 4, "ascend-fp16": 16, "ascend-int8": 32, "quadruple": 4}
    assert {name: alignment(name) for name in PROFILES} == expected
    assert list(profiles()) == list(PROFILES)
    assert alignment("ascend-fp16x2") == 32
    assert alignment("ascend-int8x8") == 256
    assert alignment(None) == 1
    assert alignment(12) == 12


@pytest.mark.parametrize("align", ["cuda-fp8", "cuda-fp16x2", "ascend-fp16x0", "ascend-fp16x", 0, -8, True, 8.0])
def test_refuses_unknown_profiles(align: object) -> None:
    with pytest.raises(ConfigError, match="align must be"):
        alignment(align)  # type: ignore[arg-type]


@given(st.integers(1, 64), st.integers(1, 12), st.integers(1, 32))
def test_steps_and_least_widths(size: int, each: int, align: int) -> None:
    unit = group(size, each)
    step = unit_step(unit, align)
    assert step * each % align == 0
    assert all(k * each % align for k in range(1, step))
    for min_channels in (1, 3, 100):
        least = least_width(unit, step, min_channels)
        assert least == size or (least % step == 0 and min_channels <= least < min_channels + step)


def test_least_width_refuses_zero() -> None:
    with pytest.raises(ConfigError, match="min_channels must be a number from 1, got 0"):
        least_width(group(8), 1, 0)
