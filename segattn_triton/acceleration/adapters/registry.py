"""The known classes: gates, and the residual blocks around them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from ... import functional
from .parts import Parts


class Inline(Protocol):
    """The forward of a block that holds the layers of its gates itself. Each of `gates` is an accelerated one, called
    with the map and the maps beside it: gate(x), gate(x, source=..., shortcut=...). `names` are those of the Python
    module that defines the block, args and kwargs what its forward takes."""

    def __call__(
        self, block: nn.Module, gates: Sequence[Callable[..., Tensor]], names: dict, *args, **kwargs
    ) -> Tensor: ...


class Arguments(Protocol):
    """What the forward of a block takes, to try it: new(channels, times) is a map, `times` as wide and high."""

    def __call__(self, block: nn.Module, new: Callable[..., Tensor]) -> tuple[Tensor | dict[str, Tensor], ...]: ...


class Gate(NamedTuple):
    """kernel: a function of `segattn_triton.functional`. read: module -> Parts; ValueError says why not, None that
    there is no gate. children, attributes: all that an instance may have, where they are known. inline: of a block
    that holds the gate's layers; arguments: where its forward takes more than a map of its first convolution.
    way: how a gate of it is known, by name, by register_adapter, or by structure."""

    kernel: str
    read: Callable[[nn.Module], Parts | None]
    children: frozenset[str] | None = None
    attributes: frozenset[str] = frozenset()
    inline: Inline | None = None
    arguments: Arguments | None = None
    way: str = "name"


class Block(NamedTuple):
    """A residual block, y = act(gate(body(x)) + shortcut(x)): the names of its children, `body` in order.

    absent: attributes that are None where the block computes just this.
    """

    body: tuple[str, ...]
    gate: str
    shortcut: str
    act: str
    absent: tuple[str, ...] = ()
    attributes: frozenset[str] = frozenset()


ADAPTERS: dict[str, Gate] = {}
BLOCKS: dict[str, Block] = {}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def gate(*classes: str, kernel: str = "squeeze_excite", children: str, attributes: str = "", **inline):
    """Register the decorated reader for these qualified names."""

    def register(read):
        for cls in classes:
            ADAPTERS[cls] = Gate(kernel, read, _words(children), _words(attributes), **inline)
        return read

    return register


def block(*classes: str, body: str, gate: str, shortcut: str, act: str, absent: str = "", attributes: str = "") -> None:
    for cls in classes:
        names = tuple(absent.split())
        BLOCKS[cls] = Block(tuple(body.split()), gate, shortcut, act, names, _words(attributes) | {*names})


def register_adapter(cls: str, kernel: str):
    """Teach `accelerate` a gate of your own: y = kernel(x, *tensors, **options), read from each instance.

        @register_adapter("mypackage.gates.MySE", "channel_gate")
        def read(module):
            if module.dropout.p:
                raise ValueError("it has dropout")
            fc1, fc2 = module.fc1, module.fc2
            return (fc1.weight, fc1.bias, fc2.weight, fc2.bias), {"gate": "hard_sigmoid"}

    cls is the qualified name of the class, subclasses not included; kernel the name of a function of
    `segattn_triton.functional`, which shows its tensors, shapes and options. The reader runs at every forward, so that
    what the module holds then is used, and reads parameters only. A ValueError that it raises leaves the gate as it
    is, with the message as the reason. The module's forward takes x alone; with other arguments, and while one of
    its children has hooks, its own forward runs.
    Errors: ValueError for a kernel that does not exist, or a class that is known already; TypeError for no string, or
    for a reader that is no function; `accelerate` raises RuntimeError where a call of this has decorated no reader.
    """
    if not isinstance(cls, str):
        raise TypeError(f"cls: got {cls!r}, expected the qualified name of a class, such as 'mypackage.gates.MySE'")
    kernels = [name for name, f in vars(functional).items() if getattr(f, "__module__", "") == functional.__name__]
    if kernel not in kernels:
        raise ValueError(f"kernel: got {kernel!r}, expected one of {', '.join(map(repr, kernels))}")
    if cls in ADAPTERS:
        raise ValueError(f"cls: {cls} has an adapter already")

    def register(read):
        if not callable(read):
            raise TypeError(f"read: got {read!r}, expected a function from a module to its tensors and options")
        ADAPTERS[cls] = Gate(kernel, lambda module: Parts(*read(module)), way="register_adapter")
        WITHOUT_READER.pop(cls, None)
        return read

    WITHOUT_READER[cls] = kernel
    return register


WITHOUT_READER: dict[str, str] = {}  # classes that register_adapter was called for, and no reader decorated


def check_readers() -> None:
    """Raise for a register_adapter that decorates nothing, and so would do nothing."""
    for cls, kernel in WITHOUT_READER.items():
        raise RuntimeError(
            f'register_adapter("{cls}", "{kernel}"): it has no reader, expected a function under it as under a '
            f"decorator: @register_adapter(...) above def read(module), which returns its tensors and options"
        )
