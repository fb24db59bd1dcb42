"""The house rules that a machine can check."""

import ast
import importlib.util
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(p for folder in ("medrag_lightning", "callbacks", "scripts") for p in (ROOT / folder).rglob("*.py"))
MAX_FILE_LINES, MAX_FUNCTION_LINES = 300, 41


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_and_functions_are_short(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_FILE_LINES
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)]
    assert not [f.name for f in functions if f.end_lineno - f.lineno + 1 > MAX_FUNCTION_LINES]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_public_names_say_what_they_give(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "the module has no docstring"
    kinds = (ast.FunctionDef, ast.ClassDef)
    owners = [tree, *(n for n in tree.body if isinstance(n, ast.ClassDef) and not n.name.startswith("_"))]
    public = [n for owner in owners for n in owner.body if isinstance(n, kinds) and not n.name.startswith("_")]
    assert not [n.name for n in public if not ast.get_docstring(n)]


def test_no_torchvision_that_does_not_fit():
    """A CUDA-linked torchvision beside a CPU torch breaks the import of lightning, peft and transformers."""
    import torch

    assert torch.cuda.is_available() or importlib.util.find_spec("torchvision") is None


def test_nothing_pickled_and_no_remote_code_by_default():
    source = "\n".join(path.read_text(encoding="utf-8") for path in FILES)
    assert not re.search(r"\bpickle\.loads?\(|allow_pickle=True|weights_only=False|trust_remote_code: bool = True", source)


def test_only_text_is_tracked():
    try:
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout: nothing is tracked")
    heavy = ["npz", "npy", "jpg", "jpeg", "png", "dcm", "safetensors", "ckpt", "pt", "bin", "faiss", "parquet", "arrow"]
    assert not [name for name in listed if name.rsplit(".", 1)[-1] in heavy]


def test_readme_names_what_is_there():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in ("bash scripts/quickstart.sh", "bash scripts/test.sh"):
        assert command in readme
        assert (ROOT / command.split()[1]).exists()
    for name in re.findall(r"-c ((?:stages|data|readers)/[a-z0-9_]+)", readme):
        assert (ROOT / "configs" / f"{name}.yaml").exists(), name
    for link in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert (ROOT / link).exists(), link
