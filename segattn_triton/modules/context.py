"""Channels weighted, or shifted, by what the image holds at the pixels that it attends to."""

from collections import OrderedDict

from torch import Tensor, nn

from .. import functional as F
from ..reference.activations import Spec, activate
from ..runtime import checks as check
from ._children import apply_gate, call, is_plain
from ._gate import GateModule, by_rank
from .reduction import hidden_channels

FUSES = ("scale", "add")


class GlobalContext(GateModule):
    """y = x * gate(mlp(v)), or x + mlp(v), v = sum_p softmax_p(<w, x_p> + b) x_p: GCNet, Cao et al. 2019.

    x (N, C, *spatial); mlp: W2 act(layer_norm(W1 v + b1)) + b2. Keys, as of timm's GlobalContext: conv_attn.weight
    (1, C, 1, 1), conv_attn.bias, and under mlp_scale, or mlp_add with fuse="add": fc1.weight (Cr, C, 1, 1), fc1.bias,
    norm.weight (Cr,), norm.bias, fc2.weight (C, Cr, 1, 1), fc2.bias. Cr is `hidden`, or C / reduction, rounded. See
    `functional.global_context` and `functional.global_context_add`, which takes no gate.
    """

    def __init__(
        self,
        in_channels: int,
        reduction: float = 8,
        act: str | Spec = "relu",
        gate: str | Spec = "sigmoid",
        fuse: str = "scale",
        eps: float = 1e-6,
        *,
        hidden: int | None = None,
        spatial_dims: int | None = None,
        backend=None,
        device=None,
        dtype=None,
    ):
        check.epsilon(eps)
        check.choice("fuse", fuse, FUSES)
        hidden = hidden_channels(in_channels, reduction, "timm_cbam") if hidden is None else hidden
        shown = dict(in_channels=in_channels, hidden=hidden, fuse=fuse)
        super().__init__(shown, spatial_dims, backend, act=act, gate=gate, eps=eps)
        factory = dict(device=device, dtype=dtype)
        self.conv_attn = nn.Conv2d(in_channels, 1, 1, **factory)
        first, norm = nn.Conv2d(in_channels, hidden, 1, **factory), nn.LayerNorm(hidden, eps, **factory)
        layers = dict(fc1=first, norm=norm, fc2=nn.Conv2d(hidden, in_channels, 1, **factory))
        self.add_module(f"mlp_{fuse}", nn.Sequential(OrderedDict(layers)))

    @by_rank
    def forward(self, x: Tensor, return_map: bool = False):
        add = self.shown["fuse"] == "add"
        fc1, norm, fc2 = layers = self.mlp_add if add else self.mlp_scale
        if not is_plain(self.conv_attn, *layers):
            return self._as_children(x, add, return_map)
        options = dict(self.options, backend=self.backend, return_map=return_map)
        gate, attn = options.pop("gate"), self.conv_attn
        tensors = attn.weight, attn.bias, fc1.weight, fc1.bias, norm.weight, norm.bias, fc2.weight, fc2.bias
        if add:
            return F.global_context_add(x, *tensors, **options)
        return F.global_context(x, *tensors, gate=gate, **options)

    def _as_children(self, x: Tensor, add: bool, return_map: bool):
        fc1, norm, fc2 = self.mlp_add if add else self.mlp_scale
        flat = x.flatten(2).unsqueeze(3)  # the children are Conv2d
        a = call(self.conv_attn, flat).flatten(1).softmax(1)
        v = (flat * a.to(x.dtype)[:, None, :, None]).sum(2, keepdim=True)
        h = call(norm, call(fc1, v).flatten(1))
        z = call(fc2, activate(self.options["act"], h)[:, :, None, None]).flatten(1)
        if not add:
            return apply_gate(self.options["gate"], x, z, return_map)
        z = z.to(x.dtype)
        y = x + z.reshape(*z.shape, *[1] * (x.dim() - 2))
        return (y, z) if return_map else y
