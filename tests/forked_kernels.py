"""The runner's command line with kernels that are forked from one process, which has imported what notebooks need.

For the tests that run many notebooks at toy size, where starting a kernel and importing torch, pandas and matplotlib
takes longer than most cells. All else is the runner's own: papermill, its client, the kernel, and what becomes of the
copy. Kernels started in the usual way are tested in `test_run.py` and `test_interrupts.py`.
"""

import ast
import atexit
import contextlib
import gc
import importlib
import multiprocessing
import os
import socket
import sys
from multiprocessing import forkserver

import matplotlib
import numpy
from jupyter_client.provisioning import local_provisioner

from keymyna_lib.__main__ import main
from keymyna_lib.base import paths
from keymyna_lib.run.parameters import read_cells

CONTEXT = multiprocessing.get_context("forkserver")
LATE = """essentia.standard ipykernel.debugger ipykernel.kernelapp librosa.core librosa.effects librosa.feature
    librosa.filters matplotlib.backends.backend_pdf matplotlib.pyplot pandas.io.formats.style scipy.linalg
    scipy.sparse.csgraph seaborn sklearn.feature_extraction.text sklearn.linear_model sklearn.manifold
    sklearn.preprocessing torch._dynamo""".split()  # what functions import


def import_all():
    """Import what notebooks import, and what the functions that they call import or compile late."""
    from keymyna_lib.bench import growth, step
    from keymyna_lib.experiments.controls import template_keys
    from keymyna_lib.report import figures

    found = set(LATE)
    for path in paths.NOTEBOOKS.glob("*.ipynb"):
        for cell in read_cells(path):
            if cell["cell_type"] == "code":
                for node in ast.walk(ast.parse(cell["source"])):
                    if isinstance(node, ast.Import):
                        found.update(each.name for each in node.names)
                    elif isinstance(node, ast.ImportFrom):  # of a package, a module perhaps
                        found.update([node.module], (f"{node.module}.{each.name}" for each in node.names))
    for name in sorted(found):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    template_keys(numpy.random.default_rng(0).normal(size=32000))
    figures.use_style = quick(figures.use_style)
    for module in (growth, step):  # a process that imports all this anew, for each measurement of memory
        module.in_fresh_process = lambda function, *arguments: function(*arguments)


def quick(use_style):
    """The same style in a coarse picture, drawn once, as it is not cut to its content, and with no font cut to size."""

    def use():
        use_style()
        matplotlib.rcParams.update({"figure.dpi": 40, "savefig.dpi": 40, "savefig.bbox": None, "pdf.fonttype": 3})

    return use


def kernel(arguments, environment, folder, ready):
    """A kernel that leads a process group, as one that was started does."""
    os.setsid()
    ready.send(None)
    os.environ.clear()
    os.environ.update(environment, JPY_PARENT_PID=str(os.getppid()))  # it ends when that process does
    os.chdir(folder)
    from ipykernel.kernelapp import launch_new_instance

    try:
        launch_new_instance(argv=arguments)
    finally:
        atexit._run_exitfuncs()  # which a forked process leaves out


class Forked:
    """As much of a Popen as a kernel's manager uses."""

    stdin = stdout = stderr = None

    def __init__(self, command, env, cwd=None, **_):
        ready, child = CONTEXT.Pipe(duplex=False)
        self._process = CONTEXT.Process(target=kernel, args=(command[3:], env, cwd or os.getcwd(), child))
        self._process.start()
        child.close()
        ready.recv()
        self.pid = self._process.pid

    def poll(self):
        return self._process.exitcode

    def wait(self):
        self._process.join()
        return self._process.exitcode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        self._process.kill()

    def terminate(self):
        self._process.terminate()


def serve():
    """From here on, kernels and the workers of their pools are forked from a copy of this process."""
    server = forkserver._forkserver
    server.ensure_running = lambda: None  # it is, for them as well
    listener, (read, server._forkserver_alive_fd) = socket.socket(socket.AF_UNIX), os.pipe()
    listener.bind("")
    listener.listen()
    server._forkserver_address = listener.getsockname()
    if not os.fork():
        os.close(server._forkserver_alive_fd)
        forkserver.main(listener.detach(), read, [])  # to the end of the processes that may ask
    listener.close()
    os.close(read)


if __name__ == "__main__":
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # read when matplotlib is first imported
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # a note of the debugger, which kernels import
    import_all()
    gc.freeze()  # or each process looks through, and so copies, all that was imported
    serve()
    local_provisioner.launch_kernel = Forked
    main(["run", *sys.argv[1:]], prog_name="run_all.sh")
