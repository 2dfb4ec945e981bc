"""VFIO for programs that know no vfio-user: a preload library in C, and the files it shows them."""

from pathlib import Path
from typing import Final

# Built beside its sources; preloaded into the program by `emuiavf exec`.
LIBRARY: Final = Path(__file__).with_name("preload.so")
# Names the private root to the library.
ROOT_VARIABLE: Final = "EMUIAVF_EXEC_DIR"
