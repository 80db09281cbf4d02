"""On a machine that has torch and little else: do the work of a bundle, and pack what comes of it.

`bundle.write` packs this library, the notebooks and what they need there; its run.py starts this module. The notebooks
run one after another by `plain`, the one that was asked for first comes first, and after each the results so far are
packed anew: index, runs, tables, figures and executed copies. Corpus, weights and features stay where they are. Started
again, it goes on where it stopped, by the runner's own rules.
"""

from __future__ import annotations

import argparse
import re
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keymyna_lib.base import files, hashing, paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.report import provenance, publication
from keymyna_lib.run import pipeline, plain, warmup
from keymyna_lib.run.project import Project

ARCHIVE = "results.tar.gz"
MANIFEST = "results.json"  # the archive's first member
PART = 15 << 20  # bytes of a file that comes back; a larger archive is cut into parts


def work(project: Project, bundle: dict[str, Any], asked: Sequence[str], to: Path) -> dict[str, str]:
    """Run notebooks and what they need, in the order asked for; all of the profile's when none is asked for.

    A notebook that fails stops only those that need it.

    Parameters
    ----------
    bundle : what `bundle.write` noted.
    asked : numbers or names.
    to : folder for the archive.

    Returns
    -------
    The notebooks that failed or could not run, each with the reason.
    """
    notebooks, profile = pipeline.load_notebooks(project), bundle["profile"]
    overrides = [(name, text) for name, text in bundle["overrides"]]
    order: list[str] = []
    for each in [[one] for one in asked] or [[]]:
        order += [name for name in pipeline.select(notebooks, each, None)[0] if name not in order]
    failed: dict[str, str] = {}
    for position, name in enumerate(order, 1):
        if absent := [need for need in notebooks[name].needs if need in failed]:
            failed[name] = f"needs {', '.join(absent)}"
            print(f"[{position}/{len(order)}] {name}  left out: it {failed[name]}", flush=True)
            continue

        def say(line: str, name: str = name, head: str = f"[{position}/{len(order)}]") -> None:
            if re.match(rf"\[\d+/\d+\] {name} ", line):  # the others are up to date, or have failed
                print(re.sub(r"^\[\d+/\d+\]", head, line), flush=True)

        try:
            pipeline.run(project, profile, only=[name], overrides=overrides, say=say, execute=plain.execute)
        except Exception as error:  # a package that is missing, perhaps: the others may do without
            failed[name] = str(error) if isinstance(error, KeyMynaError) else f"{type(error).__name__}: {error}"
            print(f"error: {failed[name]}", file=sys.stderr, flush=True)
        pack(project, bundle, to)
    return failed


def pack(project: Project, bundle: dict[str, Any], to: Path) -> list[Path]:
    """Write what the notebooks have published so far as one archive, in parts if it is larger than PART.

    The archive holds MANIFEST (what ran, where, by which code, and the sha256 of every file), then the files under
    the names that they have in the clone once published.
    """
    profile, ran, names = bundle["profile"], {}, set()
    for notebook in pipeline.load_notebooks(project):
        if project.state(profile, notebook).exists():
            state = files.read_json(project.state(profile, notebook))
            ran[notebook] = {key: state[key] for key in ("fingerprint", "parameters", "seconds", "finished")}
            own = (project.index(profile, notebook), project.executed(profile, notebook))
            names |= {project.named(path) for path in own}
            names |= set(publication.read_index(own[0])["files"])
    names = {name for name in names if (project.made / name).is_file()}  # the others are of the cache
    manifest = {
        "profile": profile,
        "overrides": bundle["overrides"],
        "origin": provenance.environment(),
        "root": str(project.root),
        "cache": str(project.cache),
        "notebooks": ran,
        "files": {name: hashing.sha256_file(project.made / name) for name in sorted(names)},
    }
    with tempfile.TemporaryDirectory(dir=to) as folder:
        whole, listed = Path(folder, ARCHIVE), Path(folder, MANIFEST)
        files.write_json(listed, {**manifest, "checksum": hashing.sha256_json(manifest)})
        with tarfile.open(whole, "w:gz") as archive:
            archive.add(listed, MANIFEST)
            for name in sorted(names):
                archive.add(project.made / name, name)
        content = whole.read_bytes()
    parts = [content[start : start + PART] for start in range(0, len(content), PART)]
    written = [to / (ARCHIVE if len(parts) == 1 else f"{ARCHIVE}.{i}") for i in range(1, len(parts) + 1)]
    for old in set(to.glob(f"{ARCHIVE}*")) - set(written):
        old.unlink()
    for path, part in zip(written, parts):
        with files.atomic_path(path) as temporary:
            temporary.write_bytes(part)
    return written


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of a bundle's run.py."""
    parser = argparse.ArgumentParser(
        prog="run.py",
        description="Run the notebooks of this bundle; start it again to go on after a stop. The results come as "
        f"{ARCHIVE}, to be handed to `keymyna unbundle` where the bundle was made.",
    )
    parser.add_argument(
        "notebooks", nargs="*", help="numbers, such as 50 60: these and what they need, in this order; default: all"
    )
    parser.add_argument("--to", type=Path, default=paths.ROOT, metavar="DIR", help="where the results go")
    asked = parser.parse_args(arguments)
    bundle = files.read_json(paths.BUNDLE)
    began = time.monotonic()
    try:
        if provenance.code_hash() != bundle["code_hash"]:
            raise KeyMynaError("this bundle's code was changed after it was packed; unpack it anew.")
        asked.to.mkdir(parents=True, exist_ok=True)
        origin = provenance.environment()
        print(f"profile {bundle['profile']}, commit {bundle['commit']}, on {origin['device']}", flush=True)
        try:
            warmup.compile_librosa()
        except KeyMynaError as error:  # the notebooks that use it will say so
            print(f"note: {error}", file=sys.stderr, flush=True)
        failed = work(Project(), bundle, asked.notebooks, asked.to)
    except KeyMynaError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\nstopped; start it again to go on.")
    found = ", ".join(str(path) for path in sorted(asked.to.glob(f"{ARCHIVE}*")))
    print(f"{'Done' if not failed else 'Ended'} in {pipeline.duration(time.monotonic() - began)}. Results: {found}")
    if failed:
        sys.exit("\n".join(["Did not run:", *(f"  {name}: {why.splitlines()[0]}" for name, why in failed.items())]))


if __name__ == "__main__":
    main()
