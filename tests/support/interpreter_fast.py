"""Triton's interpreter at three to five times its speed, with the same results: `install()`.

The interpreter patches `triton.language` anew in every device function that a kernel calls, and builds a table for
every numpy type it looks up: most of a run. Here a launch patches once for each module, and types are looked up in one
table. Its second, 64-bit computation of every integer sum and product serves an assertion that only `probe.py`
turns on. For the interpreters of triton 3.6 to 3.9.
"""

import dataclasses
import functools


@functools.cache
def install() -> None:
    """Patch the interpreter of this process, once."""
    import triton.language as tl
    from triton.runtime import interpreter as ti

    launch, numpy_type, core = ti.GridExecutor.__call__, ti._get_np_dtype, tl.core
    patched: set[int] = set()  # the modules, by their globals, whose `tl` the launch under way has patched
    types: dict = {}

    def launch_once(self, *args, **kwargs):
        patched.clear()
        return launch(self, *args, **kwargs)

    def call(self, *args, **kwargs):
        if id(self.fn.__globals__) not in patched:
            ti._patch_lang(self.fn)
            patched.add(id(self.fn.__globals__))
        return self.rewrite()(*args, **kwargs)

    def looked_up(dtype):
        dtype = dtype.element_ty if isinstance(dtype, tl.block_type) else dtype
        if isinstance(dtype, tl.pointer_type):
            return numpy_type(dtype)
        if dtype.name not in types:
            types[dtype.name] = numpy_type(dtype)
        return types[dtype.name]

    def unwrapped(value, general=core._unwrap_if_constexpr):
        kind = type(value)  # most are one of these three
        if kind is int or kind is core.tensor:
            return value
        return value.value if kind is core.constexpr else general(value)

    ti.GridExecutor.__call__, ti.InterpretedFunction.__call__ = launch_once, call
    ti._get_np_dtype, core._unwrap_if_constexpr = looked_up, unwrapped
    ti.interpreter_builder.options = dataclasses.replace(ti.interpreter_builder.options, sanitize_overflow=False)
