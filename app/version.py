"""The program's version.  It is the same as in pyproject.toml; a test checks this."""

VERSION = "0.1.0"
