"""One notebook, executed by this Python alone: no Jupyter, no kernel, a process of its own.

For machines that have torch and little else, see `bundle`. The code cells run in order in one namespace, with the given
parameters set after the cell that declares them. What they print, show and draw is kept as a notebook would keep it, so
that the executed copy is like one of papermill's.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import linecache
import os
import subprocess
import sys
import time
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from keymyna_lib.base import files, paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.run.live import LiveBars
from keymyna_lib.run.parameters import TAG
from keymyna_lib.run.project import Project

_AUDIO = "(an audio player)"
_FORMATS = {"text/html": "_repr_html_", "text/markdown": "_repr_markdown_"}


def execute(
    project: Project,
    profile: str,
    notebook: str,
    values: dict[str, Any],
    environment: Mapping[str, str],
    bars: LiveBars,
) -> None:
    """As `execute.execute`, in a new process without Jupyter; the executed copy is stored as it is, not tidied.

    Raises
    ------
    KeyMynaError
        When a cell fails or the process dies; names the cell, and the partly executed copy, which stays.
    """
    partial = project.partial(profile, notebook)
    files.discard(partial)
    job = {"source": str(project.source(notebook)), "to": str(partial), "values": values, "name": notebook}
    command = [sys.executable, "-m", "keymyna_lib.run.plain"]
    pipe, own = subprocess.PIPE, {**os.environ, **environment}
    with subprocess.Popen(command, cwd=project.root, env=own, stdin=pipe, stderr=pipe) as process:
        try:
            process.stdin.write(json.dumps(job).encode())
            process.stdin.close()
            for piece in iter(lambda: os.read(process.stderr.fileno(), 1 << 16), b""):
                bars.write(piece.decode(errors="replace"))
        except KeyboardInterrupt:
            process.wait()  # it was interrupted as well
            raise
    node = files.read_json(partial) if partial.exists() else {"cells": []}
    if process.returncode:
        ended = [output for cell in node["cells"] for output in cell.get("outputs", ()) if "ename" in output]
        how = f"{ended[-1]['ename']}: {ended[-1]['evalue']}" if ended else f"its process ended ({process.returncode})."
        raise KeyMynaError(f"{notebook} failed: {how}\nThe partly executed copy: {project.show(partial)}")
    node["metadata"]["papermill"] |= {
        "input_path": project.show(project.source(notebook)),
        "output_path": project.named(project.executed(profile, notebook)),
    }
    files.write_json(project.executed(profile, notebook), node)
    partial.unlink()


class _Stream(io.TextIOBase):
    """A standard stream of the running cell: kept, and passed on where it is to be seen at once."""

    def __init__(self, name: str, keep: Callable[[dict[str, Any]], None], shown: TextIO | None) -> None:
        self._name, self._keep, self._shown = name, keep, shown

    def write(self, text: str) -> int:
        self._keep({"output_type": "stream", "name": self._name, "text": text})
        if self._shown:
            self._shown.write(text)
            self._shown.flush()
        return len(text)


class Notebook:
    """A notebook that is being executed.

    Parameters
    ----------
    node : its JSON; outputs are put into its cells as they come.
    values : parameters that differ from the notebook's defaults.
    """

    def __init__(self, node: dict[str, Any], values: dict[str, Any]) -> None:
        self.node, self._values = node, values
        self._outputs: list[dict[str, Any]] = []  # of the running cell
        self._module = types.ModuleType("__main__")

    def run(self) -> None:
        """Execute all code cells; what a cell raises is among its outputs, and raised."""
        began = time.monotonic()
        self.node["metadata"]["papermill"] = {"parameters": self._values}
        self.node["cells"] = list(self._with_values())
        count = 0
        with self._in_place():
            for cell in self.node["cells"]:
                cell["source"] = "".join(cell["source"])
                if cell["cell_type"] == "code":
                    count += 1
                    self._run_cell(cell, count)
        self.node["metadata"]["papermill"]["duration"] = time.monotonic() - began

    def _with_values(self) -> Iterator[dict[str, Any]]:
        for cell in self.node["cells"]:
            yield cell
            if TAG in cell["metadata"].get("tags", []) and self._values:
                yield {
                    "cell_type": "code",
                    "id": "injected-parameters",
                    "metadata": {"tags": ["injected-parameters"]},
                    "source": "\n".join(["# Parameters", *(f"{name} = {v!r}" for name, v in self._values.items())]),
                }

    def _run_cell(self, cell: dict[str, Any], count: int) -> None:
        began, source = time.monotonic(), cell["source"]
        cell["outputs"] = self._outputs = []
        cell["execution_count"] = count
        name = f"<cell {count}>"
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)  # for tracebacks
        try:
            body = ast.parse(source, name)
            last = body.body.pop() if body.body and isinstance(body.body[-1], ast.Expr) else None
            exec(compile(body, name, "exec"), vars(self._module))
            if last is not None:
                value = eval(compile(ast.Expression(last.value), name, "eval"), vars(self._module))
                if value is not None and not source.rstrip().endswith(";"):
                    self._outputs.append(
                        {
                            "output_type": "execute_result",
                            "execution_count": count,
                            "metadata": {},
                            "data": _data(value),
                        }
                    )
            self._show_figures()
        except BaseException as error:
            self._outputs.append(
                {
                    "output_type": "error",
                    "ename": type(error).__name__,
                    "evalue": str(error),
                    "traceback": traceback.format_exc().splitlines(),
                }
            )
            raise
        finally:
            cell["metadata"]["papermill"] = {"duration": time.monotonic() - began}

    def _display(self, *objects: Any, **_: Any) -> None:
        for each in objects:
            self._outputs.append({"output_type": "display_data", "metadata": {}, "data": _data(each)})

    def _show_figures(self) -> None:
        """Show the open figures and close them, as notebooks do after every cell."""
        import matplotlib.pyplot as plt

        for number in plt.get_fignums():
            self._display(plt.figure(number))
        plt.close("all")

    @contextlib.contextmanager
    def _in_place(self) -> Iterator[None]:
        """Stand in for what cells expect of IPython, and take their output."""
        import matplotlib.pyplot as plt

        plt.switch_backend("agg")  # now: doing so may replace `show`
        plt.show = lambda *_, **__: self._show_figures()
        shown = types.ModuleType("IPython.display")
        vars(shown).update(display=self._display, Markdown=_Markdown, Audio=_Audio)
        sys.modules["IPython.display"] = shown  # the package itself is then not looked for

        def keep(output: dict[str, Any]) -> None:
            self._outputs.append(output)

        with (
            contextlib.redirect_stdout(_Stream("stdout", keep, None)),
            contextlib.redirect_stderr(_Stream("stderr", keep, sys.stderr)),
        ):
            yield


class _Markdown(str):
    def _repr_markdown_(self) -> str:
        return str(self)


class _Audio:
    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __repr__(self) -> str:
        return _AUDIO


def _data(value: Any) -> dict[str, str]:
    """A value as the outputs of a notebook hold it, by format."""
    from matplotlib.figure import Figure

    if isinstance(value, Figure):
        image = io.BytesIO()
        value.savefig(image, format="png", bbox_inches="tight")
        return {"text/plain": repr(value), "image/png": base64.b64encode(image.getvalue()).decode()}
    found = {"text/plain": repr(value)}
    for kind, method in _FORMATS.items():
        made = getattr(value, method, None)
        if made is not None and not isinstance(value, type) and (text := made()) is not None:
            found[kind] = text
    return found


def main() -> None:
    """Execute the notebook that standard input describes, and store it whether it succeeds or fails."""
    job = json.load(sys.stdin)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(paths.CACHE / "compiled" / "inductor"))  # for all processes
    notebook = Notebook(files.read_json(Path(job["source"])), job["values"])
    failed = False
    try:
        notebook.run()
    except Exception:
        failed = True
    finally:
        files.write_json(Path(job["to"]), notebook.node)
    sys.exit(failed)


if __name__ == "__main__":
    main()
