"""One notebook: executed by papermill, watched live, tidied, and moved into place only when it has finished."""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from traitlets import Float

from keymyna_lib.base import files, interrupts, paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.report.navigation import rebased
from keymyna_lib.run.captions import describe
from keymyna_lib.run.live import Lines, LiveBars
from keymyna_lib.run.parameters import local_paths
from keymyna_lib.run.project import Project

AUDIO_NOTE = "(an audio player; removed from the stored copy, run the notebook to listen)"


class ThisInterpreter(AsyncKernelManager):
    """Starts a kernel with the Python that runs the runner, whatever kernel specifications are installed."""

    shutdown_wait_time = Float(2.0)  # s until a busy kernel is killed
    folder: ClassVar[Path]  # where it runs; the runner's own folder, which its threads share, stays as it is
    environment: ClassVar[Mapping[str, str]]  # variables that it has beside the runner's own
    groups: ClassVar[set[int]]  # process groups that were started

    @property
    def kernel_spec(self) -> KernelSpec:
        """The specification that it is started by."""
        return KernelSpec(
            argv=[
                sys.executable,
                "-m",
                "ipykernel_launcher",
                "-f",
                "{connection_file}",
                "--log-level=CRITICAL",
            ],  # it would log a traceback of its own on Ctrl-C
            display_name="Python 3",
            language="python",
            # tqdm asks for widgets when a package that we call imports it; the bars here are text.
            env={"PYTHONPATH": str(paths.ROOT), "PYTHONWARNINGS": "ignore:IProgress not found"},
        )

    async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]  # it awaits, as its parent's does
        """Start the kernel, which leads a process group of its own."""
        await super().start_kernel(cwd=str(self.folder), env={**os.environ, **self.environment}, **options)
        assert isinstance(self.provisioner, LocalProvisioner)
        self.groups.add(self.provisioner.pgid)
        interrupts.groups.add(self.provisioner.pgid)


def execute(
    project: Project,
    profile: str,
    notebook: str,
    values: dict[str, Any],
    environment: Mapping[str, str],
    bars: LiveBars,
) -> None:
    """Execute a notebook and store its tidied copy with the results; several can be executed at once, in threads.

    Parameters
    ----------
    values : parameters that differ from the notebook's defaults.
    environment : variables that its kernel has beside those of this process.
    bars : where its standard error is shown.

    Raises
    ------
    KeyMynaError
        When a cell fails or the kernel dies; names the cell and the partly executed copy, which stays.
    """
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    partial = project.partial(profile, notebook)
    partial.parent.mkdir(parents=True, exist_ok=True)
    groups: set[int] = set()
    own = {"folder": project.root, "environment": environment, "groups": groups}
    failure = None
    try:
        papermill.execute_notebook(
            project.source(notebook),
            partial,
            values,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            stderr_file=bars,
            kernel_manager_class=type("OfOneNotebook", (ThisInterpreter,), own),
        )
    except PapermillExecutionError as error:
        failure = f"in cell [{error.exec_count}] `{_first_line(error.source)}`:\n  {_cause(error)}"
    except DeadKernelError:
        failure = f"in cell `{_first_line(_last_started(partial))}`:\n  the kernel died (out of memory?)."
    finally:
        interrupts.groups.difference_update(groups)
    if failure:
        raise KeyMynaError(f"{notebook} failed {failure}\nThe partly executed copy: {project.show(partial)}")
    node = tidy(
        nbformat.read(partial, as_version=4),
        project,
        profile,
        notebook,
        {path: f"<{name}>" for name, path in local_paths(values, project.root).items()},
    )
    with files.atomic_path(project.executed(profile, notebook)) as temporary:
        nbformat.write(node, temporary)
    partial.unlink()


def _first_line(source: str) -> str:
    return next((line.strip() for line in source.splitlines() if line.strip()), "")[:100]


def _cause(error: PapermillExecutionError) -> str:
    """The error of a cell in a few lines; ours speak for themselves."""
    message = "\n  ".join(error.evalue.strip().splitlines()[:8])[:1500]
    if error.ename == KeyMynaError.__name__:
        return message
    hint = " The disk is full: free some space and run again." if f"[Errno {errno.ENOSPC}]" in message else ""
    return f"{error.ename}: {message}{hint}"


def _last_started(partial: Path) -> str:
    """Source of the last cell that had begun, from papermill's marks in the partial copy."""
    cells = [
        cell
        for cell in nbformat.read(partial, as_version=4).cells
        if cell.cell_type == "code" and cell.metadata.get("papermill", {}).get("start_time")
    ]
    return cells[-1].source if cells else ""


def tidy(
    node: nbformat.NotebookNode, project: Project, profile: str, notebook: str, brought: dict[Path, str]
) -> nbformat.NotebookNode:
    """Make an executed notebook fit to be committed; changes it in place and returns it.

    A progress bar becomes a line that says what was done in which time, and an audio player a note; paths of this
    machine and times of day are removed, while the durations of cells stay.

    Parameters
    ----------
    brought : how to show each path that the user gave, "<parameter>".
    """
    node.metadata["papermill"] = {
        "input_path": project.show(project.source(notebook)),
        "output_path": project.named(project.executed(profile, notebook)),
        "duration": round(node.metadata.papermill.duration, 1),
        "parameters": _scrub(dict(node.metadata.papermill.parameters), project, brought),
    }
    places = project.source(notebook).parent, project.executed(profile, notebook).parent

    def there(markdown: str) -> str:
        return rebased(markdown, *places)

    for cell in node.cells:
        cell.source = _hidden(cell.source, brought)
        if cell.cell_type == "markdown":
            cell.source = there(cell.source)
        timing = cell.metadata.pop("papermill", {})
        cell.metadata.pop("execution", None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.id = "injected-parameters"  # papermill draws a new one each time
        if cell.cell_type != "code":
            continue
        if timing.get("duration") is not None:
            cell.metadata["papermill"] = {"duration": round(timing["duration"], 1)}
        cell.outputs = [_scrub(output, project, brought) for output in _merge_streams(cell.outputs)]
        describe(cell)
        for output in cell.outputs:
            if "text/markdown" in output.get("data", {}):
                output.data["text/markdown"] = there(output.data["text/markdown"])
    return node


def collapse(text: str) -> str:
    """What a terminal shows in the end: the last state of each bar."""
    shown = Lines()
    shown.feed(text)
    return "\n".join(line.rstrip() for line in shown.lines)


_BAR = re.compile(
    r"(?P<what>[^\r\n]*?): *\d+%\|[^|\n]*\| *(?P<done>[\d.]+\w?)/(?P<total>[\d.]+\w?) \[(?P<time>[\d:]+)<"
    r"(?:[^,\]\n]*, *(?:[\d.]+|\?)(?:s/)?[A-Za-z ]*(?:/s)?(?:, )?(?P<more>[^\]\n]*)\]|[^\]\n]*$)\n?",
    re.MULTILINE,
)  # one that was longer than its line lacks its end


def plain_bars(text: str) -> str:
    """The last state of each progress bar as a line for readers; what took less than ten seconds says nothing.

    >>> plain_bars("tracks: 100%|████| 248/248 [01:17<00:00,  3.20track/s, loss 0.5]")
    'tracks: 248 of 248 in 1:17 (loss 0.5)\\n'
    >>> plain_bars("a long name: 100%|█| 100/100 [01:40<00:00, 1.0ste")
    'a long name: 100 of 100 in 1:40\\n'
    """

    def line(match: re.Match[str]) -> str:
        if re.fullmatch("00:0.", match["time"]):
            return ""
        more = f" ({match['more']})" if match["more"] else ""
        return f"{match['what']}: {match['done']} of {match['total']} in {match['time'].removeprefix('0')}{more}\n"

    return _BAR.sub(line, text)


def _merge_streams(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Join neighbouring pieces of one stream, collapse them, and replace audio players."""
    merged: list[nbformat.NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream" and merged and merged[-1].get("name") == output.name:
            merged[-1].text += output.text
        elif any(kind.startswith("audio/") for kind in output.get("data", {})) or re.search(
            r"<audio|data:audio/", output.get("data", {}).get("text/html", "")
        ):
            merged.append(nbformat.v4.new_output("display_data", {"text/plain": AUDIO_NOTE}))
        else:
            merged.append(output)
    for output in merged:
        if output.output_type == "stream":
            shown = collapse(output.text)
            output.text = plain_bars(shown)
            if not _BAR.sub("", shown).strip():  # bars alone, so nothing to warn of: red is how readers see this stream
                output.name = "stdout"
    return [output for output in merged if output.output_type != "stream" or output.text.strip()]


def _hidden(text: str, brought: dict[Path, str]) -> str:
    for path, shown in brought.items():
        # As it is, and as papermill writes it into a cell.
        for written in {str(path), str(path).encode("unicode_escape").decode().replace('"', r"\"")}:
            text = re.sub(re.escape(written) + r"(?![\w.-])", shown, text)
    return text


def _scrub(value: Any, project: Project, brought: dict[Path, str]) -> Any:
    """Replace this machine's folders in all texts of an output."""
    if isinstance(value, dict):
        for key in value:
            if not key.startswith("image/") or key == "image/svg+xml":
                value[key] = _scrub(value[key], project, brought)
    elif isinstance(value, list):
        value = [_scrub(item, project, brought) for item in value]
    elif isinstance(value, str):
        value = _hidden(value, brought)
        value = re.sub(r"/\S*/ipykernel_\d+/\d+\.py", "<cell>", value)
        for folder, name in ((project.cache, ".cache"), (project.made, "."), (project.root, "."), (Path.home(), "~")):
            value = value.replace(f"{folder}/", f"{name}/" if name != "." else "")
            value = re.sub(re.escape(str(folder)) + r"(?![\w.-])", name, value)
    return value
