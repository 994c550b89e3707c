"""The built wheel in a fresh environment that has one framework only, used from an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from importlib.util import find_spec
from pathlib import Path

import pytest
from _house import ROOT, build_wheel

MODELS = {
    "torch": "from torch import nn\n\n\ndef build():\n"
    "    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))\n",
    "mindspore": "from mindspore import nn\n\n\ndef build():\n"
    "    return nn.SequentialCell(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))\n",
}
OTHER = {"torch": "mindspore", "mindspore": "torch"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


class Machine:
    """An environment with the wheel and one framework, and an empty folder to work in."""

    def __init__(self, place: Path, framework: str, wheel: Path) -> None:
        venv.create(place / "venv")
        self.bin, self.work = place / "venv" / "bin", place / "work"
        self.work.mkdir()
        (self.site,) = (place / "venv" / "lib").glob("python*/site-packages")
        # libraries are those of this environment; what makes prunekit itself importable in it is not taken over
        others = [p for p in sys.path if Path(p).name in ("site-packages", "dist-packages")]
        hidden = (
            "import importlib.machinery as m; m.PathFinder.find_spec = classmethod(lambda cls, name, *rest, "
            f"find=m.PathFinder.find_spec: None if name == {OTHER[framework]!r} else find(name, *rest))"
        )
        (self.site / "libraries.pth").write_text("\n".join([hidden, *others]) + "\n")
        self.before = self.files()
        self.pip("install", "--no-deps", "--no-index", str(wheel))
        self.environment = {
            "HOME": str(place), "PATH": f"{self.bin}:/usr/bin:/bin", "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1",
            "ONEDNN_MAX_CPU_ISA": "AVX2",
        }  # fmt: skip

    def files(self) -> set[str]:
        found = (p for folder in (self.site, self.bin) for p in folder.rglob("*"))
        return {str(p) for p in found if p.is_file()}

    def pip(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "--quiet", *arguments]
        subprocess.run(command, check=True, env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}, timeout=120)

    def __call__(self, *command: str) -> subprocess.CompletedProcess[str]:
        started = [str(self.bin / command[0]), *command[1:]]
        return subprocess.run(started, cwd=self.work, env=self.environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["torch", "mindspore"])
def test_the_wheel_with_one_framework_from_an_empty_folder(tmp_path: Path, framework: str, wheel: Path) -> None:
    if not find_spec(framework):
        pytest.skip(f"{framework} is not installed")
    user = Machine(tmp_path, framework, wheel)
    assert {Path(f).relative_to(user.site).parts[0] for f in user.files() - user.before if str(user.site) in f} == {
        "prunekit",
        next(p.name for p in user.site.glob("prunekit-*.dist-info")),
    }
    assert user("prunekit", "--help").stderr == ""

    example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    code = example.group(1)
    if framework == "mindspore":
        code = code.replace("backend_torch", "backend_mindspore").replace("import torch\n", "")
        code = code.replace("\nmodel, example", "\nfrom mindspore import ops\nmodel, example")
        code = code.replace("torch.randn(", "ops.randn(")
    (user.work / "readme.py").write_text(code)
    options = ["-W", "error"] if framework == "torch" else []
    done = user("python", *options, "readme.py")
    assert done.returncode == 0 and "12 groups can be cut" in done.stdout, done.stderr
    assert framework != "torch" or done.stderr == ""

    (user.work / "mymodel.py").write_text(MODELS[framework])
    # the names of our own packages, and of libraries, may be those of somebody's folders and files
    (user.work / "core").mkdir()
    (user.work / "configs").mkdir()
    for name in ("numpy.py", "yaml.py", "core/__init__.py"):
        (user.work / name).write_text("raise SystemExit('imported from the working folder')\n")
    done = user("prunekit", "inspect", "mymodel:build", "--input", "1,3,16,16")
    assert done.returncode == 0 and done.stdout.startswith("mymodel:build, input 1x3x16x16"), done.stderr
    done = user("prunekit", "init", "mine.yml", "--method", "prune", "--model", "mymodel:build", "--input", "3,32,32")
    assert (done.returncode, done.stdout) == (0, "mine.yml\n"), done.stderr
    assert f"backend: {framework}" in (user.work / "mine.yml").read_text()
    done = user("prunekit", "inspect", "resnet20", "--backend", OTHER[framework])
    assert done.returncode == 2 and f"`pip install 'prunekit[{OTHER[framework]}]'`" in done.stderr
    assert f"--backend {framework}" in done.stderr and len(done.stderr.splitlines()) == 1

    small = ["data.limit=96", "data.batch_size=32", "training.epochs=0.5", "finetune.epochs=0.5", "latency.runs=2"]
    changes = [part for change in [*small, "latency.warmup=0", f"backend={framework}"] for part in ("--set", change)]
    done = user("prunekit", "run", "prune_lenet5_distill", "--out", "run", *changes)
    assert done.returncode == 0 and "the same for every image" in done.stderr, done.stderr

    user.pip("uninstall", "--yes", "prunekit")
    assert user.files() == user.before
