"""How many hidden channels a channel gate has, by the rules of the libraries whose checkpoints have as many."""

from ..runtime import checks as check


def _divisible(value: float, least: float) -> int:
    """The multiple of 8 nearest to the value, at least 8 and at least this share of the value."""
    nearest = max(8, int(value + 4) // 8 * 8)
    return nearest + 8 if nearest < least * value else nearest


RULES = {
    "timm": lambda C, reduction: _divisible(C / reduction, 0.0),  # SEModule
    "timm_cbam": lambda C, reduction: max(1, int(C / reduction + 0.5)),
    "timm_efficientnet": lambda C, reduction: round(C / reduction),
    "torchvision": lambda C, reduction: _divisible(C // reduction, 0.9),  # MobileNetV3
    "torchvision_efficientnet": lambda C, reduction: max(1, C // reduction),
    "smp": lambda C, reduction: C // reduction,
    "smp_efficientnet": lambda C, reduction: max(1, int(C / reduction)),
    "monai": lambda C, reduction: C // reduction,
    "mmseg": lambda C, reduction: _divisible(C // reduction, 0.9),
}


def hidden_channels(in_channels: int, reduction: float, rule: str) -> int:
    """The hidden channels of a gate of in_channels as a library chooses them: its checkpoints have as many.

    EfficientNets reduce the channels that enter the block: give those as in_channels.
    """
    check.choice("rule", rule, tuple(RULES))
    hidden = RULES[rule](in_channels, reduction) if reduction > in_channels / 2**31 else 0
    if hidden < 1:
        raise ValueError(
            f"reduction: got {reduction} for in_channels {in_channels}, expected more than 0 and at most in_channels: "
            f'by the rule "{rule}" this gate has {hidden} hidden channels'
        )
    return hidden
