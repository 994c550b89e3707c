"""Every script in examples/ runs as its first lines say, on little data."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from _house import ROOT, python

EXAMPLES = ROOT / "examples"
SMALL = {
    "finetune_torchrun": ["--epochs", "0.5", "--limit", "128"],
    "finetune_onnx": ["--epochs", "0.5", "--limit", "160", "--data", "digits"],
    "uni_pruning_torch": ["--epochs", "2", "--limit", "160"],
    "uni_pruning_lightning": ["--epochs", "2", "--limit", "160"],
    "uni_pruning_mindspore": ["--epochs", "1", "--limit", "160"],
    "eagle_eye": ["--candidates", "4", "--epochs", "0.5", "--limit", "200"],
    "pareto_search": ["--generations", "1", "--individuals", "4", "--limit", "160"],
}
NEEDS = {
    "mindspore": "mindspore",
    "mindir": "mindspore",
    "across": "mindspore",
    "onnx": "onnxruntime",
    "lightning": "lightning",
}

# some builds of torchvision lack their compiled ops, without which Lightning cannot be imported
_RUN = """
import runpy, sys
if "lightning" in sys.argv[1]:
    from prunekit.backend_torch._torchvision import import_torchvision
    import_torchvision()
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_every_example_is_tried() -> None:
    assert set(SMALL) <= {file.stem for file in EXAMPLES.glob("*.py")}


@pytest.mark.parametrize("name", sorted(file.stem for file in EXAMPLES.glob("*.py")))
def test_an_example_runs_as_it_stands(name: str, tmp_path: Path) -> None:
    for part, library in NEEDS.items():
        if part in name and not find_spec(library):
            pytest.skip(f"{library} is not installed")
    command = [sys.executable, "-c", _RUN, str(EXAMPLES / f"{name}.py"), *SMALL.get(name, [])]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip(), "an example must say what it did"


def test_a_backend_of_another_package_is_found(tmp_path: Path) -> None:
    package = tmp_path / "package"
    shutil.copytree(EXAMPLES / "third_party_backend", package)
    install = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(tmp_path / "site"), "."]
    subprocess.run([sys.executable, "-m", "pip", *install], cwd=package, check=True, timeout=120)
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from prunekit.core.registry import get_backend, list_backends
backend = get_backend("torch-bfloat16")
model = backend.build_model("lenet5", seed=0).eval()
print(list_backends(), backend.latency(model, backend.example((1, 1, 28, 28)), runs=3, warmup=1).runs)
"""
    done = python(code, tmp_path, str(tmp_path / "site"))
    assert "torch-bfloat16" in done.stdout and done.stdout.strip().endswith("3"), done.stderr


def test_the_notebook_runs_cell_by_cell(tmp_path: Path) -> None:
    cells = json.loads((EXAMPLES / "first_steps.ipynb").read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    done = python(code.replace("epochs=4", "epochs=0.3").replace("epochs=2", "epochs=0.3"), tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "after fine-tuning" in done.stdout
    assert all(not cell.get("outputs") for cell in cells), "clear the outputs before you save the notebook"
