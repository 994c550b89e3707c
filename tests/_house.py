"""What the house tests read: the files of the project and what each of them imports."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

_GENERATED = {"build", "dist", "data", "outputs"}


def top_packages() -> list[str]:
    """Names of the packages at the top of the repository."""
    return sorted(init.parent.name for init in ROOT.glob("*/__init__.py"))


def package_files() -> list[Path]:
    """Every Python file that is shipped."""
    return sorted(file for top in top_packages() for file in (ROOT / top).rglob("*.py"))


def code_files() -> list[Path]:
    """Every Python file of the project."""
    return [file for file in project_files() if file.suffix == ".py"]


def project_files() -> list[Path]:
    """Every file of the project: tracked or about to be; without git, all but what is generated."""
    git = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(git, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0:
        files = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        files = [file for file in ROOT.rglob("*") if not _is_generated(file.relative_to(ROOT))]
    return sorted(file for file in files if file.is_file() and not file.is_symlink())


def _is_generated(path: Path) -> bool:
    folders = path.parts[:-1]
    if folders and folders[0] in _GENERATED:
        return True
    # .ci is the only hidden folder that is written by hand
    return any((p.startswith(".") and p != ".ci") or p == "__pycache__" or p.endswith(".egg-info") for p in folders)


def build_wheel(folder: Path) -> Path:
    """The wheel of the project as it stands, made in a folder."""
    source = folder / "source"
    # a copy, because setuptools leaves a build folder that would ship deleted modules next time
    for file in project_files():
        if file.relative_to(ROOT).parts[0] in {*top_packages(), "pyproject.toml", "README.md", "LICENSE"}:
            copy = source / file.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", "wheel", "."]
    built = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = (source / "wheel").glob("*.whl")
    return wheel


def module_name(file: Path) -> str:
    """``core/coupling/groups.py`` → ``prunekit.core.coupling.groups``."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(("prunekit", *parts)).removesuffix(".__init__")


def imports(source: str, module: str = "prunekit.x", is_package: bool = False) -> Iterator[str]:
    """Absolute names of all that ``source`` imports, also inside functions and behind TYPE_CHECKING."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [base])])
            if base == "prunekit":
                yield from (f"prunekit.{alias.name}" for alias in node.names)
            else:
                yield base


def forbidden_import(file: str, name: str) -> bool:
    """Whether the arrows of the house forbid a file (path in the repository) to import ``name``."""
    room = file.split("/")[0]
    target = name.split(".")
    if target[0] != "prunekit":
        framework = target[0] in {"torch", "torchvision", "timm", "mindspore", "mindcv"}
        return framework and not room.startswith("backend_") or _is_other_framework(room, target[0])
    if len(target) < 2:
        return True
    allowed = {room, "core"}
    if room == "core":
        allowed = {"core"}
    elif room == "cli":
        allowed = {"cli", "configs", "core"}
    elif room.startswith("backend_") and file in {f"{room}/__init__.py", f"{room}/uni_pruner.py"}:
        allowed.add("algorithms")
    return target[1] not in allowed


def _is_other_framework(room: str, library: str) -> bool:
    others = {"backend_torch": {"mindspore", "mindcv"}, "backend_mindspore": {"torch", "torchvision", "timm"}}
    return library in others.get(room, set())


def unsafe_loads(source: str) -> list[str]:
    """What in ``source`` could run code from a file: unpickling, full YAML, unrestricted ``torch.load``."""
    found = []
    tree = ast.parse(source)
    loaders = _safe_loaders(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in _UNPICKLERS:
            found.append(f"line {node.lineno}: from {node.module} import …")
        elif isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "pickle.Unpickler" for base in node.bases):
            # an unpickler that chooses its classes itself is how the python format of CIFAR-10 is read
            if not any(isinstance(part, ast.FunctionDef) and part.name == "find_class" for part in node.body):
                found.append(f"line {node.lineno}: an unpickler without find_class")
        elif isinstance(node, ast.Call):
            found += [f"line {node.lineno}: {ast.unparse(node.func)}"] if _is_unsafe(node, loaders) else []
    return found


_UNPICKLERS = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def _safe_loaders(tree: ast.Module) -> set[str]:
    """YAML loaders that build plain data only: PyYAML's own and what the file derives from them alone."""
    safe = {"yaml.SafeLoader", "yaml.CSafeLoader"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.bases and {ast.unparse(base) for base in node.bases} <= safe:
            safe.add(node.name)
    return safe


def _is_unsafe(call: ast.Call, loaders: set[str]) -> bool:
    name = ast.unparse(call.func)
    options = {word.arg: ast.unparse(word.value) for word in call.keywords}
    library, _, function = name.rpartition(".")
    if library in _UNPICKLERS:
        return function in {"load", "loads", "open", "Unpickler"}
    if library == "yaml" and function in {"load", "load_all"}:
        return options.get("Loader") not in loaders
    if library == "yaml":
        return function in {"full_load", "full_load_all", "unsafe_load", "unsafe_load_all"}
    if library in {"np", "numpy"} and function == "load":
        return options.get("allow_pickle", "False") != "False"
    return name == "torch.load" and options.get("weights_only") != "True"


def python(code: str, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a fresh interpreter, outside of the repository."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
