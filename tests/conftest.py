"""Settings for all tests: waiting threads sleep, as in the program itself (app.cli.main), and tests neither read nor write the
user's own folder of runs and measurements."""

import os
import tempfile

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

_state = tempfile.TemporaryDirectory(prefix="lattice-tui-tests-")
os.environ["XDG_STATE_HOME"] = _state.name
