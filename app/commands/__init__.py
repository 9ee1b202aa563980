"""The commands: a file for each, with its options and its body.  `app.cli` lists them.

Options that several commands share are in app.options.  What needs torch or textual is imported inside the functions: `--help`
and wrong usage must not wait for it.
"""
