"""Studies of jeppa: each measures one question and writes the answer as `NAME.json` and `NAME.md` into this folder.

From the root of the repository: `python -m results.NAME`, and `--help` after it for the options. Studies import
`jeppa`; `jeppa` never imports them.
"""
