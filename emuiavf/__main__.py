"""`python -m emuiavf` is the command `emuiavf`."""

import sys

from emuiavf.cli import main

sys.exit(main())
