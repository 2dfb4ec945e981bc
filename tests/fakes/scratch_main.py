"""The command `emuiavf` with the scratch device as one more model."""

import sys

from emuiavf.cli import main
from emuiavf.emudev import registry
from tests.fakes.scratch_device import MODEL

registry.models["emu_scratch"] = MODEL
sys.exit(main())
