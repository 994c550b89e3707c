"""Readers and what nobody would write: the targets of ``tests/fuzz.py`` on documents that Hypothesis makes."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import yaml
from _fuzz import ODD, TARGETS, mutated, valid
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FOUND: list[tuple[str, bytes]] = [
    # what once let another error than prunekit's pass
    ("plan", b'{"a": ' + b"9" * 5000 + b"}"),
    ("mask", b'{"a": [' + b"9" * 5000 + b"]}"),
    ("encoding", b'{"index": 0, "score": ' + b"9" * 400 + b', "rates": [0.1]}\n'),
    ("encoding", b"[" + b"9" * 5000 + b"]\n[0.1]\n"),
    ("encoding", b"[1" + b"0" * 400 + b"]"),
    ("encoding", b"[1,\x1c1]"),
    ("encoding", b"1" * 5000),
    ("encoding", b"[0, [1]]"),
    ("encoding", b'{"a": 0}'),
    ("config", b"model: {name: lenet5}\nmethod: {name: none}\ntraining: {lr: 1" + b"0" * 400 + b"}"),
    ("config", b"model: {name: lenet5, options: {x: 0x" + b"f" * 5000 + b"}}\nmethod: {name: none}"),
    ("config", b"model: {name: lenet5, options: {x: 2001-01-01}}\nmethod: {name: none}"),
    ("config", b"model: {name: lenet5, options: {x: !!binary aGk=}}\nmethod: {name: none}"),
    ("config", b"model: {name: lenet5, options: {x: .nan}}\nmethod: {name: none}"),
    ("config", b'model: {name: "\\ud800"}\nmethod: {name: none}'),
    ("config", b"model: {name: lenet5, options: {x: '1e3'}}\nmethod: {name: none}"),  # was a number once written
    ("config", b"!!int ''"),
    ("config", b"!!bool x"),
    ("config", b"!!map [1]"),
]
"""Findings, by target."""

values = st.recursive(
    st.one_of(st.sampled_from(ODD), st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=8), inner, max_size=5)),
    max_leaves=20,
)
keys = st.sampled_from(
    ["format", "version", "groups", "kept", "size", "inputs", "model", "name", "options", "method", "training", "rates"]
)


@pytest.mark.parametrize(("target", "data"), FOUND)
def test_what_was_found_once(target: str, data: bytes) -> None:
    TARGETS[target](data)


@pytest.mark.parametrize("target", TARGETS)
def test_documents_to_begin_with_are_taken(target: str) -> None:
    for document in valid(target):
        TARGETS[target](document)


def changed(target: str, seed: int) -> None:
    """A valid document with changes, as a file."""
    chance = random.Random(seed)
    TARGETS[target](mutated(chance.choice(valid(target)), chance))


def made(target: str, data: Any, as_yaml: bool) -> None:
    """Plain data, as a file."""
    text = json.dumps(data) if not as_yaml else yaml.safe_dump(data)
    TARGETS[target](text.encode(errors="surrogatepass"))


data = st.one_of(values, st.dictionaries(st.one_of(keys, st.text(max_size=5)), values, max_size=6))
quick = settings(max_examples=40, suppress_health_check=list(HealthCheck))
long = settings(max_examples=20_000, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("target", TARGETS)
@quick
@given(seed=st.integers(0, 2**32))
def test_changed_documents(target: str, seed: int) -> None:
    changed(target, seed)


@pytest.mark.parametrize("target", TARGETS)
@quick
@given(data=data, as_yaml=st.booleans())
def test_other_data(target: str, data: Any, as_yaml: bool) -> None:
    made(target, data, as_yaml)


@pytest.mark.parametrize("target", TARGETS)
@quick
@given(text=st.binary(max_size=200))
def test_any_bytes(target: str, text: bytes) -> None:
    TARGETS[target](text)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@long
@given(seed=st.integers(0, 2**32))
def test_many_changed_documents(target: str, seed: int) -> None:
    changed(target, seed)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@long
@given(data=data, as_yaml=st.booleans())
def test_much_other_data(target: str, data: Any, as_yaml: bool) -> None:
    made(target, data, as_yaml)
