"""Values and parsers of the OCI world: what text and bytes from outside mean, and nothing else.

A *digest* names exact bytes, a *descriptor* points at a blob, a *manifest* or *index* lists descriptors, a *reference*
names a manifest in a registry, an *artifact* is a manifest around something that is not a container image.

Everything here is a frozen value or a plain function over `str` and `bytes`: no I/O, no `async`, no clock. Whatever
the input, a parser either gives a value that holds its promises or raises a subclass of `InvalidError`.
"""
