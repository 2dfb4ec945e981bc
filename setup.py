"""Builds the Cython modules: every `.pyx` below `emuiavf/` becomes the extension of its path.

EMUIAVF_DEBUG=1  bounds checks, -O0 -g
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

DEBUG = os.environ.get("EMUIAVF_DEBUG") == "1"
ASAN = os.environ.get("EMUIAVF_ASAN") == "1"
BARE = os.environ.get("EMUIAVF_BARE") == "1"
HEADERS = [str(path) for path in sorted(Path("emuiavf/include").glob("*.h"))]

# Wheels serve every CPU of an architecture: the baseline is x86-64-v2, wider versions of hot
# functions carry target attributes in include/ and are chosen at run time.
MACHINE = ["-march=x86-64-v2"] if os.uname().machine == "x86_64" else []
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
    ext_modules=generate(
        [] if BARE else [extension(path) for path in sorted(Path("emuiavf").rglob("*.pyx"))]
    )
)
