"""`python -m allod.cli`: the same as `allod`."""

import sys

from allod.cli.main import main

sys.exit(main())
