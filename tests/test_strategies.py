"""Files of strategies, the published ones read from such a file, and the correlation of scores with accuracies."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from prunekit.algorithms.eagle_eye.eagle_eye import _encoding
from prunekit.backend_torch.backend import TorchBackend
from prunekit.core.analysis import analyse
from prunekit.core.candidates import Candidate
from prunekit.core.correlation import correlate
from prunekit.core.cost import Cost
from prunekit.core.errors import InputError, OutputError, PlanError
from prunekit.core.strategies import StrategyFile, best_first, find_strategy, read_strategies, strategy_line

GOLDEN = Path(__file__).parent / "golden"


def candidate(index: int, score: float, *rates: float, **figures: float) -> Candidate:
    return Candidate(index, rates or (0.1, 0.25), score, {"ratio": 0.5, **figures})


def test_what_is_added_is_on_disk_at_once_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "search_results" / "pruning_strategies.txt"
    kept = StrategyFile(path)
    assert not path.parent.exists()
    added = [candidate(0, 0.1, 1 / 3, 0.7), candidate(1, 0.9, 0.2, math.nextafter(1, 0), part=0.25)]
    for number, one in enumerate(added, start=1):
        kept.add(one)
        assert len(path.read_text().splitlines()) == number
    assert read_strategies(path) == added


def test_a_search_that_is_continued_leaves_its_lines_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "s.txt"
    added = [candidate(number, 0.1 * number) for number in range(4)]
    kept = StrategyFile(path)
    for one in added[:3]:
        kept.add(one)
    before = path.stat()
    again = StrategyFile(path)
    for one in added[:3]:
        again.add(one)
    assert path.stat().st_mtime_ns == before.st_mtime_ns and path.stat().st_ino == before.st_ino
    again.add(added[3])
    assert read_strategies(path) == added
    another = StrategyFile(path)
    for one in (added[0], candidate(1, 0.9)):
        another.add(one)
    assert read_strategies(path) == [added[0], candidate(1, 0.9)]  # what is of another search goes


def test_a_torn_last_line_is_passed_over_and_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "s.txt"
    kept = StrategyFile(path)
    kept.add(candidate(0, 0.1))
    kept.add(candidate(1, 0.2))
    whole = path.read_text()
    for length in range(len(whole.splitlines()[0]) + 2, len(whole)):
        path.write_text(whole[:length])
        found = read_strategies(path)
        torn = length < len(whole) - 1  # the last one lacks its end alone
        assert [c.index for c in found] == ([0] if torn else [0, 1])
        assert ("torn" in caplog.text) is torn
        caplog.clear()
        again = StrategyFile(path)
        for one in (candidate(0, 0.1), candidate(1, 0.2), candidate(7, 0.3)):
            again.add(one)
        caplog.clear()
        assert [c.index for c in read_strategies(path)] == [0, 1, 7]


def test_plain_lists_of_rates_are_strategies_without_a_score(tmp_path: Path) -> None:
    path = tmp_path / "s.txt"
    path.write_text("[0.1, 0.2]\n\n[0.3, 0]\n")
    found = read_strategies(path)
    assert [(c.index, c.vector) for c in found] == [(0, (0.1, 0.2)), (1, (0.3, 0.0))]
    assert all(math.isnan(c.score) for c in found)
    assert [c.index for c in best_first([*found, candidate(5, 0.0)])] == [5, 0, 1]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "at least one, got none"),
        ("hello\n", "must be JSON"),
        ("3\n", "a list of rates"),
        ("[]\n", "must lie in [0, 1), got none"),
        ("[0.1, 1.0]\n", "must lie in [0, 1), got 1.0"),
        ("[-0.1]\n", "got -0.1"),
        ("[NaN]\n", "got NaN"),
        ('["a"]\n', "got 'a'"),
        ("[0.1]\n[0.1, 0.2]\n", "one number of rates, got 1 and then 2"),
        ('{"index": -1, "score": 0.1, "rates": [0.1]}\n', "index of a strategy"),
        ('{"index": 0, "score": "a", "rates": [0.1]}\n', "score of a strategy"),
        ('{"index": 0, "score": 1}\n', "'rates'"),
    ],
)
def test_another_file_is_refused(text: str, part: str, tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text(text)
    with pytest.raises(InputError) as caught:
        read_strategies(tmp_path / "s.txt")
    assert part in str(caught.value)


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="readable text file"):
        read_strategies(tmp_path / "none.txt")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="readable text file"):
        read_strategies(tmp_path / "binary")
    with pytest.raises(OutputError, match="writable"):
        StrategyFile(tmp_path / "binary" / "s.txt").add(candidate(0, 0.5))


def test_only_whole_scores_compete() -> None:
    partial = [candidate(0, 0.9, part=0.1), candidate(1, 0.8, part=0.1), candidate(2, 0.7, part=0.1)]
    middle = [candidate(0, 0.5, part=0.4), candidate(1, 0.6, part=0.4)]
    assert [c.index for c in best_first([*partial, candidate(1, 0.4), candidate(2, 0.6)])] == [2, 1]
    assert [c.index for c in best_first([*partial, *middle])] == [1, 0]
    assert [c.index for c in best_first([candidate(3, 0.5), candidate(1, 0.5), candidate(2, 0.7)])] == [2, 1, 3]
    assert find_strategy([*partial, *middle], 0) == middle[0]
    with pytest.raises(InputError, match="got 9; the file has 0 to 2"):
        find_strategy(partial, 9)
    assert strategy_line(candidate(84, 0.143)) == "strategy index:84, score:0.143"
    assert strategy_line(partial[0]) == "strategy index:0, score:0.900, part:0.100"


@pytest.mark.parametrize("model", ["mobilenetv1", "resnet50"])
def test_published_strategies_in_a_file_have_their_published_cost(model: str, tmp_path: Path) -> None:
    data = json.loads((GOLDEN / f"eagleeye_{model}_50flops.json").read_text())
    path = tmp_path / "pruning_strategies.txt"
    path.write_text(json.dumps(data["rates"]) + "\n")
    backend = TorchBackend()
    coupling = analyse(backend, backend.build_model(model, seed=0), torch.zeros(1, 3, 224, 224), probe=False).coupling
    (strategy,) = read_strategies(path)
    encoding = _encoding(coupling, model)
    figures = Cost(coupling, "eagleeye").of(encoding.decode(strategy.vector).widths(coupling), ("flops", "params"))
    assert figures["flops"].tolist() == [data["macs"]]
    assert figures["params"].tolist() == [data["weight_params"]]
    with pytest.raises(PlanError, match=f"has {encoding.length} entries for this model, got 3"):
        encoding.decode([0.1, 0.2, 0.3])


def test_correlation_agrees_with_scipy_and_covers_the_truth(rng: np.random.Generator) -> None:
    x = rng.normal(size=40)
    y = 0.8 * x + 0.6 * rng.normal(size=40)
    found = correlate(x.tolist(), y.tolist())
    assert found.kendall == pytest.approx(stats.kendalltau(x, y).statistic)
    assert found.pearson == pytest.approx(np.corrcoef(x, y)[0, 1])
    low, high = found.kendall_interval
    assert low < found.kendall < high and low > 0
    assert found.pearson_interval[0] < 0.8 < found.pearson_interval[1]
    assert correlate(x.tolist(), y.tolist()) == found
    assert correlate(x.tolist(), (-x).tolist()).kendall == pytest.approx(-1)
    assert json.loads(json.dumps(found.to_dict()))["points"] == 40


def test_what_cannot_be_correlated() -> None:
    flat = correlate([0.5] * 5, [1.0, 2, 3, 4, 5])
    assert (flat.kendall, flat.pearson, flat.kendall_interval) == (0.0, 0.0, (-1.0, 1.0))
    tied = correlate([0.5, 0.5, 0.5, 0.6], [1.0, 2, 3, 4])
    assert all(math.isfinite(v) for v in (*tied.kendall_interval, *tied.pearson_interval))
    for scores, accuracies in (
        ([1.0, 2, 3], [1.0, 2, 3]),
        ([1.0, 2, 3, 4], [1.0, 2, 3]),
        ([1.0, 2, 3, math.nan], [1.0] * 4),
    ):
        with pytest.raises(InputError, match="at least 4 pairs"):
            correlate(scores, accuracies)
