"""The command line, on small data: every ready configuration runs, and mistakes cost one line and nothing else."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from _house import ROOT, python
from typer.testing import CliRunner

from prunekit.cli.config import list_configs, load_config
from prunekit.cli.job import prepare
from prunekit.cli.main import app
from prunekit.core.errors import DataError
from prunekit.core.method import SearchMethod
from prunekit.core.registry import get_algorithm, list_algorithms
from prunekit.core.store import read_plan

BACKENDS = [
    "torch",
    pytest.param("mindspore", marks=pytest.mark.skipif(not find_spec("mindspore"), reason="no mindspore")),
]
# for tests of what the frameworks share: on MindSpore they are long
MOSTLY_TORCH = ["torch", pytest.param("mindspore", marks=[*BACKENDS[1].marks, pytest.mark.slow])]
FORMATS = {"torch": ["torchscript", "onnx"], "mindspore": ["mindir"]}
FILES = {"torchscript": "model.ts", "onnx": "model.onnx", "mindir": "model.mindir"}

SMALL = [
    "data.name=digits",
    "data.limit=160",
    "data.batch_size=32",
    "training.epochs=1",
    "finetune.epochs=1",
    "recover.epochs=0",
    "recalibrate=2",
    "latency={batch: 2, runs: 2, warmup: 0}",
]

# what else is made smaller, by the beginning of a ready configuration's name
SHRUNK = {
    "eagle_eye": ["method.candidates=4", "method.bn_batches=2"],
    "eagle_eye_resnet20_cifar10": ["method.correlation=4", "method.correlation_epochs=0.5"],
    # ResNet-50 on five tiny batches does not learn by ImageNet's rates
    "channel_pruning_resnet50": ["training.lr=0.001", "finetune.lr=0.001"],
    "eagle_eye_resnet50": ["training.lr=0.001", "finetune.lr=0.001"],
    "prune_ea": [
        *("method.random_models=4", "method.num_individual=4", "method.num_generation=1"),
        *("method.bn_batches=2", "method.train_front=1"),
    ],
    "meta_pruning": [
        *("method.training.epochs=1", "method.training.lr=0.02", "method.hidden=2", "method.population=4"),
        *("method.generations=2", "method.mutations=2", "method.crossovers=1", "method.top_k=2", "method.bn_batches=2"),
    ],
    "meta_pruning_resnet50": ["method.flops_range=[0.3, 0.5]", "training.lr=0.001", "finetune.lr=0.001"],
    "channel_pruning": ["method.cp_nb_batches=2", "method.cp_nb_rlouts=3", "method.cp_nb_rlouts_min=1"],
}


def call(*arguments: object, code: int = 0) -> str:
    """Run a command in this process; its output and errors together."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def changes(*extra: str) -> list[str]:
    return [part for change in [*SMALL, *extra] for part in ("--set", change)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNEKIT_CACHE", str(tmp_path_factory.getbasetemp() / "prunekit-cache"))


@pytest.fixture(scope="module", params=BACKENDS)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the quickstart."""
    out = tmp_path_factory.mktemp("runs") / "quick start"
    os.environ["PRUNEKIT_CACHE"] = str(tmp_path_factory.getbasetemp() / "prunekit-cache")
    call("run", ROOT / "configs" / "quickstart.yml", "--backend", request.param, "--out", out, *changes("data.size=8"))
    return out


def backend_of(run: Path) -> str:
    return str(yaml.safe_load((run / "config.yml").read_text())["backend"])


def test_the_quickstart_leaves_everything(finished: Path) -> None:
    names = {p.name for p in finished.iterdir()}
    assert {
        "plan.json", "weights.safetensors", "original", "log.jsonl", "config.yml", "inspection.json",
        "results.json", "report.html", "unipruning", *(FILES[f] for f in FORMATS[backend_of(finished)]),
    } <= names  # fmt: skip
    assert not [p for p in finished.parent.iterdir() if p != finished]
    results = json.loads((finished / "results.json").read_text())
    before, after = results["before"], results["after"]
    assert after["params"] <= 0.5 * before["params"]
    assert after["macs"] < before["macs"]
    assert after["bytes"] < 0.6 * before["bytes"]
    assert results["failures"] == {}
    assert results["reload"]["same"] is True
    assert results["reload"]["top1"] == pytest.approx(after["top1"])
    assert all(group["after"] % 4 == 0 for group in results["groups"])
    events = [json.loads(line)["event"] for line in (finished / "log.jsonl").read_text().splitlines()]
    assert events[0] == "start" and events[-1] == "done" and events.count("epoch") >= 1


def test_the_widths_are_those_of_the_plan_and_of_the_mask(finished: Path) -> None:
    plan, results = read_plan(finished), json.loads((finished / "results.json").read_text())
    assert {g["name"]: g["after"] for g in results["groups"]} == {n: len(k) for n, k in plan.kept.items()}
    assert plan.achieved["params"] == [results["before"]["params"], results["after"]["params"]]
    assert plan.model == "resnet20"
    [*_, last] = sorted((finished / "unipruning").glob("*_mask.json"))
    mask = json.loads(last.read_text())
    gone = {n: plan.sizes[n] - len(k) for n, k in plan.kept.items()}
    assert {n: len(mask[n]) for n in gone} == gone


def test_a_finished_run_is_evaluated_exported_and_reported_again(finished: Path, tmp_path: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    found = json.loads(call("evaluate", finished, "--json"))
    assert found == {key: results["reload"][key] for key in found}
    assert f"{found['right']:,} of {found['images']:,} right" in call("evaluate", finished)
    name, runtime = {"torch": ("pt2", "torch.export.load"), "mindspore": ("mindir", "mindspore.nn.GraphCell")}[
        backend_of(finished)
    ]
    target = tmp_path / f"small.{name}"
    assert f"{runtime} gives the same outputs" in call("export", finished, "--format", name, "--output", target)
    assert target.stat().st_size > 1000
    assert "format must be a known one, got 'onx'; did you mean 'onnx'?" in flat(
        call("export", finished, "--format", "onx", code=2)
    )
    page = (finished / "report.html").read_bytes()
    (finished / "report.html").unlink()
    assert "report.html" in call("report", finished)
    assert (finished / "report.html").read_bytes() == page


def test_the_exported_onnx_file_gives_the_answers_of_the_run(finished: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if "onnx" not in FORMATS[backend_of(finished)]:
        pytest.skip("not exported to ONNX")
    from prunekit.cli.job import open_run

    job, small = open_run(finished)
    inputs = np.concatenate([np.asarray(x) for x, _ in job.loaders.test])
    session = onnxruntime.InferenceSession(str(finished / "model.onnx"), providers=["CPUExecutionProvider"])
    theirs = session.run(None, {session.get_inputs()[0].name: inputs})[0]
    np.testing.assert_allclose(theirs, job.backend.predict(small, inputs), rtol=1e-3, atol=1e-4)


def test_a_changed_run_folder_is_noticed(finished: Path, tmp_path: Path) -> None:
    for name, spoil, part in [
        ("weights.safetensors", lambda data: data[:-100], "weights.safetensors must be the file"),
        ("plan.json", lambda data: data.replace(b'"size": 16', b'"size": 17', 1), "must not be edited"),
        ("config.yml", lambda data: data.replace(b"resnet20", b"resnet32"), "fingerprint"),
        ("config.yml", lambda data: data + b"\nmetod: 1\n", "did you mean 'method'?"),
    ]:
        copy = tmp_path / "copy"
        shutil.copytree(finished, copy)
        (copy / name).write_bytes(spoil((copy / name).read_bytes()))
        said = flat(call("evaluate", copy, code=2))
        assert said.startswith("error: ") and part in said
        shutil.rmtree(copy)


@pytest.mark.parametrize("finished", MOSTLY_TORCH, indirect=True)
def test_a_second_run_needs_permission_and_uses_the_cache(finished: Path, tmp_path: Path) -> None:
    config = finished / "config.yml"
    assert "add --overwrite" in flat(call("run", config, "--out", finished, code=2))
    out = tmp_path / "second"
    said = call("run", config, "--out", out)
    assert "cached weights of" in said
    first, second = (json.loads((folder / "results.json").read_text()) for folder in (finished, out))
    assert first["before"]["top1"] == second["before"]["top1"]
    assert first["groups"] == second["groups"]
    assert first["reload"]["answers"] == second["reload"]["answers"]
    call("run", config, "--out", out, "--overwrite", "--set", "export.formats=[]", "--set", "method={name: none}")
    third = json.loads((out / "results.json").read_text())
    assert third["after"]["params"] == third["before"]["params"]
    assert not [p for p in out.iterdir() if p.stem == "model"]
    assert [p.name for p in tmp_path.iterdir()] == ["second"]


@pytest.mark.parametrize("finished", MOSTLY_TORCH, indirect=True)
def test_damaged_cached_weights_are_trained_again(finished: Path, tmp_path: Path) -> None:
    place = tmp_path / "cache"
    shutil.copytree(os.environ["PRUNEKIT_CACHE"], place)
    for weights in place.rglob("weights.safetensors"):
        weights.write_bytes(weights.read_bytes()[:100])
    os.environ["PRUNEKIT_CACHE"] = str(place)
    said = call(
        "run", finished / "config.yml", "--out", tmp_path / "out", "--set", "export.formats=[]",
        "--set", "finetune.epochs=0",
    )  # fmt: skip
    assert "are damaged" in said and "training resnet20" in said
    # those of the other framework stay as they are
    assert sum(w.stat().st_size > 1000 for w in place.rglob("weights.safetensors")) == 1


@pytest.mark.parametrize("finished", MOSTLY_TORCH, indirect=True)
def test_weights_of_a_folder_start_a_run(finished: Path, tmp_path: Path) -> None:
    arguments = ["run", finished / "config.yml", "--out", tmp_path / "out", "--set", "export.formats=[]"]
    call(*arguments, "--set", f"weights='{finished / 'original'}'", "--set", "finetune.epochs=0")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["before"]["top1"] == json.loads((finished / "results.json").read_text())["before"]["top1"]
    said = flat(call(*arguments, "--overwrite", "--set", f"weights='{finished}'", code=2))
    assert "weights must be those of an unpruned network" in said


def test_an_export_that_fails_costs_only_itself(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "onnx" not in FORMATS[backend_of(finished)]:
        pytest.skip("not exported to ONNX")
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    out = tmp_path / "out"
    said = flat(call("run", finished / "config.yml", "--out", out, "--set", "finetune.epochs=0", code=2))
    assert f"prunekit export {out} --format onnx" in said
    results = json.loads((out / "results.json").read_text())
    assert list(results["failures"]) == ["onnx"]
    assert (out / "model.ts").exists() and not (out / "model.onnx").exists()
    assert "failed: " in (out / "report.html").read_text()


def ready_configurations() -> list[Any]:
    """Each with each backend. Large networks, and what other quick tests run as well, are slow."""
    cases, elsewhere = [], ("cifar10", "resnet20_list", "resnet20_auto")
    for name in list_configs():
        for backend in ("torch", "mindspore"):
            once = backend == "torch" and not name.endswith(elsewhere)
            long = "imagenet" in name or not (once or (backend, name) == ("mindspore", "prune_lenet5_distill"))
            marks = [pytest.mark.slow] if long else []
            if backend == "mindspore":
                marks.append(pytest.mark.skipif(not find_spec("mindspore"), reason="no mindspore"))
            cases += [pytest.param(name, backend, marks=marks)] if name != "quickstart" else []
    return cases


@pytest.mark.parametrize(("name", "backend"), ready_configurations())
def test_a_ready_configuration_runs(name: str, backend: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extra = [change for start, more in SHRUNK.items() if name.startswith(start) for change in more]
    call("run", name, "--backend", backend, "--out", out, *changes(f"export.formats=[{FORMATS[backend][0]}]", *extra))
    results = json.loads((out / "results.json").read_text())
    assert results["after"]["params"] < results["before"]["params"]
    assert results["reload"]["same"] is True
    keys = results["method"]
    for metric in ("macs", "params"):
        if metric in keys:
            assert results["after"][metric] <= keys[metric] * results["before"][metric]
    if "flops_target" in keys:
        kept = results["after"]["macs"] / results["before"]["macs"]
        assert abs(kept - keys["flops_target"]) <= keys.get("tolerance", 0.005) + 0.002
    if "target_sparsity" in keys:
        assert results["after"]["params"] <= (1 - keys["target_sparsity"]) * results["before"]["params"] * 1.02
    if keys.get("prune_option") == "auto":
        assert 0.99 <= results["search"]["achieved"] / keys["cp_preserve_ratio"] <= 1
        assert (out / "search_results" / "rollouts.jsonl").exists()


@pytest.mark.parametrize("name", [n for n in list_configs() if "imagenet" not in n])
def test_a_ready_configuration_has_batches_enough_on_digits(name: str) -> None:
    job = prepare(load_config(name, ["data.name=digits", "export.formats=[]"]))
    method = job.config.method
    kind = get_algorithm(method.name) if method.name in list_algorithms() else None
    if isinstance(kind, type) and issubclass(kind, SearchMethod):
        searched = kind(method.keys)
        if "cifar10" not in name and not name.endswith("_list"):  # those name a data set that has more
            searched.check_data(job.loaders)
        with pytest.raises(DataError, match=r"batches, got 1; use"):
            searched.check_data(dataclasses.replace(job.loaders, calibration=[None]))


def flat(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ("method.frequncy=1", "did you mean 'frequency'?"),
        ("model.name=resnet21", "did you mean 'resnet20'?"),
        ("data.name=digts", "did you mean 'digits'?"),
        ("data.batch_size=100000", "smaller batch_size"),
        ("export.formats=[onx]", "did you mean 'onnx'?"),
        ("backend=tourch", "did you mean 'torch'?"),
        ("method={name: uni_pruning, target_sparsity: 0.99}", "the least that can be reached"),
        ("method={name: prune, params: 0.0001}", "the least that can be reached"),
        ("method={name: prune, macs: 0.5, ignore: ['*']}", "must have channels that may be cut"),
        ("model.options={depth: 3}", "depth"),
        ("weights=/nowhere", "/nowhere"),
    ],
)
def test_a_mistake_costs_one_message_and_leaves_nothing(change: str, part: str, tmp_path: Path) -> None:
    said = flat(call("run", "quickstart", "--out", tmp_path / "outputs" / "out", *changes(change), code=2))
    assert part in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("x")
    for out, part in [("mine", "with other files in it"), ("file", "which is none"), ("file/below", "must be")]:
        said = flat(call("run", "quickstart", "--out", tmp_path / out, "--overwrite", *changes(), code=2))
        assert part in said
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "mine"]


def test_debug_shows_where_an_error_comes_from() -> None:
    result = CliRunner().invoke(app, ["--debug", "run", "nowhere.yml"])
    assert type(result.exception).__name__ == "ConfigError"


def test_the_installed_command_works_outside_of_the_repository(tmp_path: Path) -> None:
    code = "import sys; sys.argv = ['prunekit', *sys.argv[1:]]; from prunekit.cli.main import main; main()"
    assert python(code, tmp_path, "--version").stdout.strip()[0].isdigit()
    done = python(code, tmp_path, "run", "quikstart")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "did you mean 'quickstart'?" in " ".join(done.stderr.split())
    assert len(done.stderr.splitlines()) <= 2
