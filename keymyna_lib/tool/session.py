"""One call of `keymyna predict`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence

from tqdm import tqdm

from keymyna_lib.base.device import pick_device
from keymyna_lib.base.errors import unreadable
from keymyna_lib.base.progress import bar
from keymyna_lib.base.terminal import echo, plain, quiet_libraries
from keymyna_lib.compute.processes import cores
from keymyna_lib.predict import KeyFinder
from keymyna_lib.tool.answers import Answer, AsCsv, AsJson, AsTable, ask, summary
from keymyna_lib.tool.open_model import open_model
from keymyna_lib.tool.sound_files import sound_files


def predict_files(
    given: Sequence[str],
    *,
    model: tuple[str, str, str | None],
    shown: str,
    notation: str,
    tagging: str,
    dry_run: bool,
    jobs: int | None,
    device: str,
    segments: bool = False,
) -> int:
    """Print the answers of files and folders, and the exit status: 1 if any file or folder could not be dealt with.

    Parameters
    ----------
    given : paths. model : name, head and patches, see `open_model`.
    shown : "table", "json" or "csv", on standard output; all else goes to standard error.
    notation : the only one in the table; empty for all. tagging, dry_run : see `answers.ask`, the notation of new tags.
    jobs : files at a time; None for one per core.
    segments : show the keys over time too, in a table or JSON.

    Raises
    ------
    KeyMynaError
        When the model or the device is not there.
    """
    name, head, patch = model
    finder = KeyFinder(open_model(name, head, patch=patch), device=pick_device(device))
    refused: list[OSError] = []
    files = sound_files(given, refused.append)
    for error in refused:
        echo(plain(f"error: {unreadable(error.filename, error)}"), err=True)
    if not files:
        echo(plain(f"error: there is no sound file in {', '.join(given)}."), err=True)
    printer: AsTable | AsJson | AsCsv
    if shown == "table":
        printer = AsTable(echo, plain, notation=notation, dry_run=dry_run)
    elif shown == "json":
        printer = AsJson(echo, segments=segments)
    else:
        printer = AsCsv(echo)
    answers: list[Answer] = []
    asking = ask(finder, files, jobs=jobs or cores(), notation=tagging, dry_run=dry_run, over_time=segments)
    try:
        with quiet_libraries(), _bar(len(files)) as progress, contextlib.closing(asking):
            for answer in asking:
                answers.append(answer)
                if answer.error:
                    echo(plain(f"error: {answer.error}"), err=True)
                printer.add(answer)
                progress.update()
    finally:  # what is there is shown, whatever stops the rest
        printer.end()
        if len(files) > 1:
            echo(summary(answers) + " (dry run: no tag was written)" * dry_run, err=True)
    return int(not files or bool(refused) or any(answer.error for answer in answers))


def _bar(files: int) -> tqdm:
    return bar(desc="keys", total=files, unit="file", show=files > 1 and sys.stderr.isatty())
