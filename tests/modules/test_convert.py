"""`convert_state_dict`: checkpoints by the names of other libraries, into our modules and back."""

import pytest
import standins
import support
import torch
from torch import nn

import segattn_triton as sat
from segattn_triton.modules import checkpoints

C = 8
OURS = {  # the table of families -> a gate that comes in them, and its own layers
    "TWO_LAYERS": lambda: sat.SqueezeExcite(C, hidden=3),
    "ONE_LAYER": lambda: sat.EffectiveSE(C),
    "ONE_LAYER_AND_NORM": lambda: sat.EffectiveSE(C, norm=True),
    "CHANNEL_AND_PIXEL": lambda: sat.SCSE(C, reduction=4),
    "CHANNEL_THEN_PIXEL": lambda: sat.CBAM(C, 4, norm=False, spatial_bias=True),
    "CHANNEL_THEN_PIXEL_AND_NORM": lambda: sat.CBAM(C, 4),
    "ONE_LAYER_THEN_PIXEL": lambda: sat.CBAM(C, hidden=0, pool="avg", norm=False),
    "PIXEL": lambda: sat.SpatialAttention(C),
    "SKIP": lambda: sat.AttentionGate(C),
    "BAND": lambda: sat.ECA(C),
}
FAMILIES = [(table, family) for table in OURS for family in getattr(checkpoints, table)]


@pytest.mark.parametrize(("table", "family"), FAMILIES, ids="-".join)
def test_there_and_back(table, family):
    torch.manual_seed(0)
    gate = OURS[table]()
    theirs = sat.convert_state_dict(gate.state_dict(), gate, to=family)
    layers = getattr(checkpoints, table)[family]
    assert {key.rpartition(".")[0] for key in theirs} == set(layers)
    assert len(theirs) == len(gate.state_dict())
    twin = OURS[table]()
    twin.load_state_dict(sat.convert_state_dict(theirs, twin))
    for got, expected in zip(twin.state_dict().values(), gate.state_dict().values(), strict=True):
        support.assert_equal(got, expected)


def theirs_and_ours():
    mmseg = standins.SELayer(C, 2)
    return [
        (standins.SEModule(C, 2), sat.SqueezeExcite(C, hidden=2)),
        (standins.SqueezeExcitation(C, 2), sat.ChannelAttention(C, 4)),
        (standins.ChannelSELayer(2, C), sat.SqueezeExcite(C, hidden=4)),
        (mmseg, sat.SqueezeExcite(C, hidden=2, gate="hard_sigmoid")),
        (standins.SCSEModule(C), sat.SCSE(C, 4)),
        (standins.EffectiveSEModule(C), sat.EffectiveSE(C)),
    ]


@pytest.mark.parametrize("index", range(6))
def test_same_function(index):
    torch.manual_seed(index)
    theirs, ours = theirs_and_ours()[index]
    ours.load_state_dict(sat.convert_state_dict(theirs.state_dict(), ours))
    x = torch.randn(2, C, 5, 6)
    torch.testing.assert_close(ours(x), theirs(x))


def test_a_model_converts_where_its_gates_stand():
    """Keys of other modules stay, also those that look like a gate's."""

    def model(gate):
        return nn.ModuleDict({"gate": gate, "mlp": nn.ModuleDict({"fc1": nn.Linear(C, 3), "fc2": nn.Linear(3, C)})})

    ours, theirs = model(sat.ChannelAttention(C)), model(standins.SqueezeExcitation(C, C // 2))
    converted = sat.convert_state_dict(theirs.state_dict(), ours)
    ours.load_state_dict(converted)
    assert converted["mlp.fc1.weight"].shape == (3, C)
    assert theirs.state_dict().keys() != converted.keys()


def test_own_keys_pass():
    gate = sat.SCSE(C, 4)
    converted = sat.convert_state_dict(gate.state_dict(), gate)
    assert converted.keys() == gate.state_dict().keys()
    for key, value in gate.state_dict().items():
        assert converted[key].data_ptr() == value.data_ptr()


WITHOUT_BIAS = {
    "TWO_LAYERS": lambda bias: sat.ChannelAttention(C, bias=bias),
    "ONE_LAYER": lambda bias: sat.EffectiveSE(C, bias=bias),
    "CHANNEL_AND_PIXEL": lambda bias: sat.SCSE(C, reduction=4, bias=bias),
    "PIXEL": lambda bias: sat.SpatialAttention(C, bias=bias),
    "BAND": lambda bias: sat.ECA(C, bias=bias),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("table", WITHOUT_BIAS)
def test_a_checkpoint_with_other_biases_names_the_module_that_fits(table, bias):
    """As of senet.pytorch, whose layers have none."""
    make = WITHOUT_BIAS[table]
    for family in getattr(checkpoints, table):
        theirs = sat.convert_state_dict(make(bias).state_dict(), make(bias), to=family)
        make(bias).load_state_dict(sat.convert_state_dict(theirs, make(bias)))
        with pytest.raises(ValueError, match=rf"bias: (given|missing) in the checkpoint.*bias={bias}\)"):
            sat.convert_state_dict(theirs, make(not bias))


def test_a_checkpoint_of_another_gate_names_its_module():
    for theirs, gate, made in [
        (standins.SEModule(C, 2), sat.EffectiveSE(C), "SqueezeExcite, ChannelAttention"),
        (standins.SCSEModule(C), sat.SqueezeExcite(C, hidden=2), "SCSE"),
        (standins.EffectiveSEModule(C), sat.ChannelAttention(C), "EffectiveSE"),
    ]:
        with pytest.raises(ValueError, match=f"expected another module: {made}"):
            sat.convert_state_dict(theirs.state_dict(), gate)


def test_errors():
    gate, state = sat.SqueezeExcite(C, hidden=2), standins.ChannelSELayer(2, C).state_dict()
    with pytest.raises(ValueError, match=r"fc\.0\.weight: got shape \(4, 8\), expected as many .* \(2, 8, 1, 1\)"):
        sat.convert_state_dict(state, gate)
    with pytest.raises(ValueError, match=r"to: got 'keras', expected one of 'catalyst', .*'timm'"):
        sat.convert_state_dict(state, gate, to="keras")
    with pytest.raises(ValueError, match="module: Linear holds no gate of segattn_triton that comes in families"):
        sat.convert_state_dict(state, nn.Linear(1, 1))
    with pytest.raises(TypeError, match=r"module: got str, expected a torch\.nn\.Module"):
        sat.convert_state_dict(state, "gate")
    with pytest.raises(RuntimeError, match="Missing key"):
        gate.load_state_dict(sat.convert_state_dict({"unknown.weight": torch.ones(1)}, gate))
