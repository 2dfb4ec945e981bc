"""Builds the Cython modules: every `.pyx` below `emuiavf/` becomes the extension of its path;
and the preload library of `emuiavf exec`, a plain shared object beside its sources.

EMUIAVF_DEBUG=1  bounds checks, -O0 -g; warnings of the preload library are errors
EMUIAVF_ASAN=1   AddressSanitizer and UndefinedBehaviorSanitizer, -O1 -g
EMUIAVF_BARE=1   no extensions: metadata and the `emuiavf` command alone, for an editable install

A "performance hint" of Cython ends the build: it means that a nogil function takes the GIL.
"""

import contextlib
import io
import os
import re
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DEBUG = os.environ.get("EMUIAVF_DEBUG") == "1"
ASAN = os.environ.get("EMUIAVF_ASAN") == "1"
BARE = os.environ.get("EMUIAVF_BARE") == "1"
SHIM = "emuiavf.shim.preload"
HEADERS = [str(path) for path in sorted(Path("emuiavf/include").glob("*.h"))]

# Wheels serve every CPU of an architecture: the baseline is x86-64-v2, wider versions of hot
# functions carry target attributes in include/ and are chosen at run time.  PREFETCHW is
# a hint that every 64-bit CPU at least ignores.
MACHINE = ["-march=x86-64-v2", "-mprfchw"] if os.uname().machine == "x86_64" else []
COMPILE = ["-std=gnu11", "-Wall", "-Wextra", "-Wno-unused-function", "-Wno-unused-parameter"]
LINK = ["-pthread"]
if ASAN:
    COMPILE += ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined"]
    LINK += ["-fsanitize=address,undefined"]
elif DEBUG:
    COMPILE += ["-O0", "-g"]
else:
    COMPILE += ["-O3", "-g1"]


def extension(path: Path) -> Extension:
    return Extension(
        ".".join(path.with_suffix("").parts),
        [str(path)],
        include_dirs=["emuiavf/include"],
        depends=HEADERS,
        extra_compile_args=MACHINE + COMPILE,
        extra_link_args=LINK,
        define_macros=[("CYTHON_CLINE_IN_TRACEBACK", "0")],
    )


def shim() -> Extension:
    """Not a module: loaded into other programs, which see its `EXPORT`s only.

    _FORTIFY_SOURCE and large-file names would rename the very calls that it defines.
    """
    return Extension(
        SHIM,
        [str(path) for path in sorted(Path("emuiavf/shim").glob("*.c"))],
        depends=[str(path) for path in sorted(Path("emuiavf/shim").glob("*.h"))],
        extra_compile_args=[
            *MACHINE,
            *COMPILE,
            "-O2",
            "-fvisibility=hidden",
            "-U_FORTIFY_SOURCE",
            "-U_FILE_OFFSET_BITS",
            *(["-Werror"] if DEBUG else []),
        ],
        extra_link_args=[*LINK, "-ldl"],
        define_macros=[("_GNU_SOURCE", None)],
    )


class Build(build_ext):
    """Gives the preload library a name without Python's version."""

    def get_ext_filename(self, fullname: str) -> str:
        if fullname in (SHIM, SHIM.rpartition(".")[2]):
            return os.path.join(*fullname.split(".")) + ".so"
        return super().get_ext_filename(fullname)


def generate(extensions: list[Extension]) -> list[Extension]:
    """Cythonize, and end the build at the first performance hint."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return cythonize(
                extensions,
                compiler_directives={
                    "language_level": 3,
                    "boundscheck": DEBUG,
                    "wraparound": False,
                    "initializedcheck": DEBUG,
                    "cdivision": True,
                    "embedsignature": True,
                    "freethreading_compatible": False,
                },
                show_all_warnings=False,
            )
    finally:
        sys.stderr.write(said.getvalue())
        if hinted := re.findall(r"performance hint: ([^:\n]+)\.pyx", said.getvalue()):
            for stem in set(hinted):  # so that the next build complains again
                Path(stem + ".c").unlink(missing_ok=True)
            raise SystemExit("setup.py: a nogil function takes the GIL, see the hints above")


setup(
    ext_modules=[]
    if BARE
    else [
        *generate([extension(path) for path in sorted(Path("emuiavf").rglob("*.pyx"))]),
        shim(),
    ],
    cmdclass={"build_ext": Build},
)
