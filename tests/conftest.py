"""For all tests: waiting threads sleep, as in the program itself (app.cli.main), and kernels are cached in one place."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
