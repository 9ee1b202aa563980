"""The commands.  Each has a file with its options and its body.  `app.cli` lists them.

Options that several commands share are in app.options.  Modules that need torch or textual are imported inside functions,
because `--help` and wrong usage must not wait for them.
"""
