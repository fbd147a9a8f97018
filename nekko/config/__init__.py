"""The settings of a process: what there is, where values come from, how their text is read.

- `settings`: the frozen classes, one field per setting with its default, its names and its meaning.
- `grammar`, `address`: text in, value out; pure.
- `file`: the YAML file, every scalar of it as text.
- `sources`: defaults < file < environment < flags, merged and structured, each with its origin.
- `checks`: what spans several settings, or asks this host.
- `plain`, `table`: settings shown, secrets redacted; the table of the README.

Every refusal is a `ConfigInvalidError` of one line that names the key and its origin and never holds a secret.
"""
