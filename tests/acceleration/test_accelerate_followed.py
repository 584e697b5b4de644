"""Whatever changes in a gate after `accelerate` is followed at the next call, as is its return: no weight is stale."""

import contextlib
import copy
from collections.abc import Callable, Iterator

import copies
import pytest
import standins
import support
import torch
from gates import KINDS, C, assert_same_results, make_map
from torch import nn
from torch.distributed import fsdp
from torch.nn.utils import parametrizations, parametrize, prune

import segattn_triton as sat

GATES = {
    **KINDS,
    **{cls.__name__: cls for cls in (copies.Convolved, copies.Moskomule, copies.ECALayer, copies.SSE, copies.SCSE)},
    "residual block": lambda: standins.SEResNetBottleneck().eval(),
}
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)


def place(module: nn.Module) -> tuple[nn.Module, str, nn.Module]:
    """The last layer of the gate, its parent, and its name there."""
    gate = module._modules.get("se_module", module)
    path = [name for name, m in gate.named_modules() if isinstance(m, LAYERS)][-1]
    home, _, name = path.rpartition(".")
    return gate.get_submodule(home), name, gate.get_submodule(path)


def other(layer: nn.Module) -> nn.Module:
    """A layer of the same sizes and other weights."""
    torch.manual_seed(7)
    twin = copy.deepcopy(layer)
    for p in twin.parameters():
        nn.init.normal_(p)
    return twin


Way = Callable[[nn.Module], contextlib.AbstractContextManager]
WAYS: dict[str, Way] = {}


def way(change: Callable[[nn.Module], Iterator]) -> None:
    """A generator that changes a module, and takes the change back after its yield."""
    WAYS[change.__name__.replace("_", " ")] = contextlib.contextmanager(change)


@way
def in_place(module):
    _, _, layer = place(module)
    before = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.copy_(other(layer).weight)
    yield
    with torch.no_grad():
        layer.weight.copy_(before)


@way
def load_state_dict_assign(module):
    _, _, layer = place(module)
    before = {key: t.clone() for key, t in layer.state_dict().items()}
    layer.load_state_dict(other(layer).state_dict(), assign=True)
    yield
    layer.load_state_dict(before, assign=True)


@way
def load_state_dict(module):
    before = copy.deepcopy(module.state_dict())
    module.load_state_dict({key: t * 0.5 if t.is_floating_point() else t for key, t in before.items()})
    yield
    module.load_state_dict(before)


@way
def data_of_a_parameter(module):
    _, _, layer = place(module)
    before = layer.weight.data
    layer.weight.data = other(layer).weight.data
    yield
    layer.weight.data = before


@way
def a_replaced_parameter(module):
    _, _, layer = place(module)
    before = layer.weight
    layer.weight = other(layer).weight
    yield
    layer.weight = before


@way
def a_parameter_less(module):
    _, _, layer = place(module)
    before, layer.bias = layer.bias, None
    yield
    layer.bias = before


@way
def swapped_tensors(module):
    """As of torch.__future__.set_swap_module_params_on_conversion."""
    _, _, layer = place(module)
    more = other(layer).weight
    torch.utils.swap_tensors(layer.weight, more)
    yield
    torch.utils.swap_tensors(layer.weight, more)


@way
def a_replaced_child(module):
    home, name, layer = place(module)
    setattr(home, name, other(layer))
    yield
    setattr(home, name, layer)


@way
def a_child_of_another_kind(module):
    """As adapters of low rank and quantisation wrap a layer: the weight is no more all that it computes."""

    class LoRA(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base, self.scale = base, nn.Parameter(torch.tensor(0.3))

        def forward(self, x):
            return self.base(x) + self.scale * x.mean()

    home, name, layer = place(module)
    setattr(home, name, LoRA(layer))
    yield
    setattr(home, name, layer)


@way
def another_class(module):
    """A class that is put on a layer, as quantisation in place does."""
    _, _, layer = place(module)
    cls = type(layer)
    layer.__class__ = type("Twice", (cls,), {"forward": lambda self, x: 2 * cls.forward(self, x)})
    yield
    layer.__class__ = cls


@way
def a_parametrisation(module):
    _, _, layer = place(module)
    before = layer.weight.detach().clone()
    parametrizations.weight_norm(layer)
    layer.parametrizations.weight.original0.data.mul_(1.5)
    yield
    parametrize.remove_parametrizations(layer, "weight")
    layer.weight.data.copy_(before)


@way
def pruning(module):
    _, _, layer = place(module)
    before = layer.weight.detach().clone()
    prune.l1_unstructured(layer, "weight", amount=0.5)
    yield
    prune.remove(layer, "weight")
    layer.weight.data.copy_(before)


@way
def a_hook_of_a_child(module):
    _, _, layer = place(module)
    handle = layer.register_forward_hook(lambda m, args, y: y * 2)
    yield
    handle.remove()


@way
def hooks_that_are_thrown_away(module):
    """The dictionary itself is replaced, by an empty one and by one with a hook."""
    _, _, layer = place(module)
    layer._forward_hooks = type(layer._forward_hooks)()
    handle = layer.register_forward_hook(lambda m, args, y: y * 2)
    yield
    handle.remove()
    layer._forward_hooks = type(layer._forward_hooks)()


@way
def a_forward_of_the_instance(module):
    _, _, layer = place(module)
    own = layer.forward
    layer.forward = lambda x: 2 * own(x)
    yield
    del layer.forward


@way
def averaged_weights(module):
    """An EMA's weights in place of the model's, and back."""
    average = torch.optim.swa_utils.AveragedModel(module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    torch.manual_seed(7)
    for p in average.parameters():
        nn.init.normal_(p, std=0.3)
    pairs = list(zip(module.parameters(), average.module.parameters(), strict=True))

    def exchange():
        for p, q in pairs:
            p.data, q.data = q.data, p.data

    exchange()
    yield
    exchange()


@way
def a_dictionary_of_its_own(module):
    """The containers of a layer, replaced as whole."""
    _, _, layer = place(module)
    before = layer._parameters
    layer._parameters = dict(other(layer)._parameters)
    yield
    layer._parameters = before


@way
def float64(module):
    module.double()
    yield
    module.float()


each_gate = pytest.mark.parametrize("kind", GATES)


def made(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return GATES[kind]()


def same(fast: nn.Module, plain: nn.Module) -> None:
    dtype = next(plain.parameters()).dtype
    for _ in range(2):
        assert_same_results(fast, plain, make_map().to(dtype))


@each_gate
@pytest.mark.parametrize("name", WAYS)
def test_a_change_and_its_return_are_followed(kind, name):
    plain, fast = made(kind), sat.accelerate(made(kind), strict=True)
    same(fast, plain)
    x = make_map()
    before = plain(x).detach()
    with WAYS[name](plain), WAYS[name](fast):
        same(fast, plain)
        if name not in ("float64", "a parameter less"):
            assert not torch.equal(plain(x), before), "the change changes nothing"
    same(fast, plain)
    torch.testing.assert_close(plain(x).detach(), before)


@each_gate
def test_deepcopies_go_apart(kind):
    plain, fast = made(kind), sat.accelerate(made(kind), strict=True)
    fast(make_map())
    twin, plain_twin = copy.deepcopy(fast), copy.deepcopy(plain)
    for module in (twin, plain_twin):
        torch.manual_seed(3)
        for p in module.parameters():
            nn.init.normal_(p, std=0.3)
    same(twin, plain_twin)
    same(fast, plain)


@each_gate
def test_weights_of_a_call(kind):
    """torch.func.functional_call puts other tensors there for one call."""
    plain, fast = made(kind), sat.accelerate(made(kind), strict=True)
    weights = {name: torch.randn_like(p) * 0.3 for name, p in plain.named_parameters()}
    for _ in range(2):
        got, expected = (torch.func.functional_call(m, weights, (make_map(),)) for m in (fast, plain))
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    same(fast, plain)


def test_a_norm_that_is_fused_or_made_synchronous():
    """Left with the norm, taken once it is fused, left again with another; SyncBatchNorm is none that runs here."""
    plain = standins.SEModule(C, 2, norm=nn.BatchNorm2d).eval()
    nn.init.uniform_(plain.bn.running_var, 0.5, 2.0)
    expected, norm, conv = plain(make_map()), plain.bn, plain.fc1
    plain.fc1, plain.bn = torch.nn.utils.fusion.fuse_conv_bn_eval(conv, norm), nn.Identity()
    fast = sat.accelerate(plain, strict=True)
    torch.testing.assert_close(fast(make_map()), expected)
    fast.fc1, fast.bn = conv, norm
    torch.testing.assert_close(fast(make_map()), expected)
    nn.SyncBatchNorm.convert_sync_batchnorm(fast)
    assert type(fast.bn) is nn.SyncBatchNorm
    torch.testing.assert_close(fast(make_map()), expected)
    fast.fc1, fast.bn = torch.nn.utils.fusion.fuse_conv_bn_eval(conv, norm), nn.Identity()
    torch.testing.assert_close(fast(make_map()), expected)


def test_quantised_later():
    plain, fast = standins.ChannelSELayer(2, C), None
    fast = sat.accelerate(copy.deepcopy(plain), strict=True)
    fast(make_map())
    for module in (plain, fast):
        with pytest.warns():
            torch.ao.quantization.quantize_dynamic(module, {nn.Linear}, inplace=True)
    support.assert_equal(fast(make_map()), plain(make_map()))


def test_sharded_later():
    """fully_shard replaces the parameters before a forward, and back after it."""
    from torch import distributed

    plain = nn.Sequential(made("timm"), made("scse"))
    fast = sat.accelerate(copy.deepcopy(plain), strict=True)
    same(fast, plain)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        fsdp.fully_shard(fast, mesh=distributed.init_device_mesh("cpu", (1,)))
        for step in range(3):
            torch.testing.assert_close(fast(make_map()), plain(make_map()), msg=str(step))
            for module in (fast, plain):
                module(make_map()).square().mean().backward()
                torch.optim.SGD(module.parameters(), lr=0.5).step()
                module.zero_grad()
    finally:
        distributed.destroy_process_group()
