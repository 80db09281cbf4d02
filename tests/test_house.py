"""The house rules that tools can check: lint, format, spelling, types, layers, notebooks without outputs."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from keymyna_lib.base import paths

TOOLS = Path(sys.executable).parent
CHECKS = {
    "lint": ["ruff", "check", "--no-cache", "."],
    "format": ["ruff", "format", "--no-cache", "--check", "."],
    "spelling": ["codespell"],
    "types": ["mypy"],
    "layers": ["lint-imports", "--no-cache"],
}


@pytest.mark.parametrize("name", CHECKS)
def test_check(name):
    tool, *arguments = CHECKS[name]
    found = subprocess.run([TOOLS / tool, *arguments], cwd=paths.ROOT, capture_output=True, text=True)
    assert found.returncode == 0, f"{tool} {' '.join(arguments)}\n{found.stdout}{found.stderr}"


@pytest.mark.parametrize("path", sorted(paths.NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook_sources_have_no_outputs(path):
    code = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)


def test_every_package_says_what_lives_there():
    for file in paths.LIBRARY.rglob("__init__.py"):
        assert file.read_text().startswith('"""'), f"{file}: a docstring says what lives here and what it may import."


def test_modules_import_each_other_by_full_names():
    """`hashing.code_hash_of` reads "from keymyna_lib.x import y" only: nothing relative, no "import keymyna_lib.x"."""
    for file in paths.LIBRARY.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"{file}:{node.lineno}"
            if isinstance(node, ast.Import):
                assert not any(alias.name.split(".")[0] == paths.LIBRARY.name for alias in node.names), (
                    f"{file}:{node.lineno}"
                )


def test_packages_hold_no_code():
    """Nor does `code_hash_of` read it there: a docstring, and the version; or the names of its own modules."""
    for file in paths.LIBRARY.rglob("__init__.py"):
        package = ".".join(file.parent.relative_to(paths.ROOT).parts)
        _, *rest = ast.parse(file.read_text()).body
        passed_on = [
            node for node in rest if isinstance(node, ast.ImportFrom) and node.module.startswith(f"{package}.")
        ]
        others = [ast.unparse(node).split(" = ")[0] for node in rest if node not in passed_on]
        assert others in ([], ["__version__"]) or (passed_on and others == ["__all__"]), file
