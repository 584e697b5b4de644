"""Triton's interpreter with its own lookups made once, and the same results: `install()`.

The interpreter patches `triton.language` anew in every device function that a kernel calls, looking through all of it,
builds a table for every numpy type it looks up, and makes each tensor's shape and each block's type anew: most of a
run. Here a launch patches once, what is to be patched is known, and types and shapes are looked up. Its second, 64-bit
computation of every integer sum and product serves an assertion that only `probe.py` turns on. For the interpreters of
triton 3.6 to 3.9.
"""

import dataclasses
import functools
import inspect
import math


@functools.cache
def install() -> None:
    """Patch the interpreter of this process, once."""
    import triton.language as tl
    from triton.runtime import interpreter as ti

    _patch_once_a_launch(ti, tl)
    _patch_what_is_known(ti, tl)
    _look_up_types(ti, tl)
    _look_up_shapes(tl.core)
    _pass_equals(ti.TritonSemantic, tl.core.tensor)
    ti.interpreter_builder.options = dataclasses.replace(ti.interpreter_builder.options, sanitize_overflow=False)


def _patch_once_a_launch(ti, tl) -> None:
    launch, patch = ti.GridExecutor.__call__, ti._patch_lang
    patched: set = set()  # by the launch under way: modules, by their globals, and which of `tl` and its core they see

    def launch_once(self, *args, **kwargs):
        patched.clear()
        return launch(self, *args, **kwargs)

    def call(self, *args, **kwargs):
        space = self.fn.__globals__
        if id(space) not in patched:
            patched.add(id(space))
            seen = frozenset(id(value) for value in space.values() if value is tl or value is tl.core)
            if seen not in patched:
                patched.add(seen)
                patch(self.fn)
        return self.rewrite()(*args, **kwargs)

    ti.GridExecutor.__call__, ti.InterpretedFunction.__call__ = launch_once, call


def _patch_what_is_known(ti, tl) -> None:
    patch_attribute, is_builtin = ti._patch_attr, tl.core.is_builtin
    semantic = getattr(ti, "interpreter_semantic", None) or ti.TritonSemantic(ti.interpreter_builder)
    checking = tl.core.builtin(lambda: None).__code__  # of what only asks whether there is a `_semantic`
    places = (tl, tl.core, tl.tensor, tl.math, tl.core.tensor_descriptor_base)

    def bound(member):
        inner = member.__wrapped__ if getattr(member, "__code__", None) is checking else member

        def call(*args, **kwargs):
            kwargs["_semantic"] = semantic
            return inner(*args, **kwargs)

        return call

    known = {
        place: [(name, member, bound(member)) for name, member in inspect.getmembers(place, is_builtin)]
        for place in places
    }

    def patch_builtin(place, builder, scope):
        for name, member, own in known[place]:
            now = getattr(place, name)
            if now is member:
                scope.set_attr(place, name, own)
            elif is_builtin(now):  # a test has put another one there
                patch_attribute(place, name, now, builder, scope)

    ti._patch_builtin = patch_builtin


def _look_up_types(ti, tl) -> None:
    numpy_type, core = ti._get_np_dtype, tl.core
    equal, types = core.dtype.__eq__, {}

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

    ti._get_np_dtype, core._unwrap_if_constexpr = looked_up, unwrapped
    core.dtype.__eq__ = lambda self, other: self is other or equal(self, other)


def _look_up_shapes(core) -> None:
    make_block, blocks, shapes = core.block_type.__init__, {}, {}

    def block(self, element_ty, shape):
        sizes = shape.values if type(shape) is core.tuple else shape
        key = (element_ty.name, *sizes)
        if key not in blocks:
            make_block(self, element_ty, shape)
            blocks[key] = self.shape, self.numel, self.name
        self.element_ty = element_ty
        self.shape, self.numel, self.name = blocks[key]

    def tensor(self, handle, type):
        sizes = tuple(type.shape.values) if type.is_block() else ()
        if sizes not in shapes:
            shapes[sizes] = core.constexpr(math.prod(sizes)), core.tuple([core.constexpr(size) for size in sizes])
        self.handle, self.type, self.dtype = handle, type, type.scalar
        self.numel, self.shape = shapes[sizes]

    core.block_type.__init__, core.tensor.__init__ = block, tensor


def _pass_equals(semantic, tensor) -> None:
    """Of one type: no cast. Of one shape: no broadcast. A number that a tensor's type holds is of it."""
    checked, broadcast = semantic.binary_op_type_checking_impl, semantic.broadcast_impl_value

    @functools.lru_cache(maxsize=4096)
    def constant(own, value, kind, dtype):
        return own.scalar_constant(value, dtype)

    @functools.cache
    def holds(dtype, kind) -> tuple[float, float] | None:
        """The least and the largest number of this kind that needs no other type."""
        if dtype.is_bool():
            return None
        if dtype.is_floating():
            return (-math.inf, math.inf)
        return (dtype.get_int_min_value(), dtype.get_int_max_value()) if kind is int else None

    def of_type(own, value, dtype):
        """A tensor of the type as it is, a number as one of it; nothing where Triton decides."""
        kind = type(value)
        if dtype.is_ptr():
            return None
        if kind is tensor:
            return value if value.dtype is dtype else None
        # of the two zeros that are floats, 0.0 == -0.0, the table of constants has none
        limits = holds(dtype, kind) if kind is int or (kind is float and value) else None
        return constant(own, value, kind, dtype) if limits and limits[0] <= value <= limits[1] else None

    def check(self, lhs, rhs, allow_lhs_ptr=False, allow_rhs_ptr=False, arithmetic_check=True, div_or_mod=False):
        known = lhs if type(lhs) is tensor else rhs
        if type(known) is tensor and arithmetic_check and not div_or_mod:
            dtype = known.dtype
            left, right = of_type(self, lhs, dtype), of_type(self, rhs, dtype)
            if left is not None and right is not None:
                return self.broadcast_impl_value(left, right)
        return checked(self, lhs, rhs, allow_lhs_ptr, allow_rhs_ptr, arithmetic_check, div_or_mod)

    def pair(self, lhs, rhs):
        return (lhs, rhs) if lhs.shape is rhs.shape else broadcast(self, lhs, rhs)

    semantic.binary_op_type_checking_impl, semantic.broadcast_impl_value = check, pair
