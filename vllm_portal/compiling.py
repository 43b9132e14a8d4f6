"""`python -m vllm_portal.compiling`: compiles the hot path (`vllm_portal.compiled`), unless that has been done or the
sources are to be run.

Where there is no C compiler, or Python's headers are missing, it says so and changes nothing: the portal runs all the
same, at more CPU a request. What fails to compile fails this command.
"""

import contextlib
import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

from vllm_portal.compiled import FOLDER, MODULES, ROOT, SWITCH, folder, source

DIRECTIVES = {
    "language_level": "3",
    # Types come from the .pxd files alone; annotations are for readers.
    "annotation_typing": False,
    # None where an object is expected is an error as in Python, not a crash.
    "nonecheck": True,
}


FLAGS = ["-O1", "-g0", "-w"]


def missing() -> str:
    """What a compiler needs and this machine has not; "": nothing."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if not shutil.which(compiler):
        return f"no C compiler ({compiler})"
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return "" if header.exists() else f"no {header}"


def build(place: Path) -> None:
    """Compiles into a folder of its own and then moves it into its place: two at once do not disturb each other."""
    from Cython.Build import cythonize
    from Cython.Compiler import Errors
    from setuptools import Extension
    from setuptools.dist import Distribution

    Errors.LEVEL = 2  # what is wrong, and no advice on annotations
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as work:
        sources = {name: str(source(name).relative_to(ROOT)) for name in MODULES}
        made = cythonize(
            [Extension(name, [path], extra_compile_args=FLAGS) for name, path in sources.items()],
            build_dir=f"{work}/c",
            nthreads=2,
            quiet=True,
            compiler_directives=DIRECTIVES,
        )
        command = Distribution({"name": "portal", "ext_modules": made}).get_command_obj("build_ext")
        command.build_lib, command.build_temp, command.parallel = f"{work}/lib", f"{work}/o", 2
        command.ensure_finalized()
        command.run()
        if place.exists():  # somebody else was faster
            return
        done = Path(work) / "done"
        done.mkdir()
        for file in Path(work, "lib").rglob("*.so"):
            file.rename(done / ".".join(file.relative_to(f"{work}/lib").parts))
        done.rename(place)


def main() -> None:
    place = folder()
    if place.is_dir() or os.environ.get(SWITCH) == "0":
        return
    if what := missing():
        print(f"the hot path is not compiled: {what}; the portal runs without, at more CPU a request", file=sys.stderr)
        return
    print("compiling the hot path (once for each version)", file=sys.stderr)
    with contextlib.chdir(ROOT):
        build(place)


if __name__ == "__main__":
    main()
