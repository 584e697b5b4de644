"""FlexAttention's backward by the account: one launch of two kinds of programs, each with loops of its own."""

from collections.abc import Iterator

from ..account.account import Account, account_of
from ..account.assumptions import TYPICAL
from ..account.launch import Launch

BACKWARD = "flex_attention_backward"


def shares(launch: Launch) -> tuple[float, ...]:
    """Where along the grid the programs are that stand for all: the first half sums dk and dv, the other one dq."""
    template = BACKWARD in launch.name and "_tem_" in launch.name
    return (TYPICAL / 2, (1 + TYPICAL) / 2) if template else (TYPICAL,)


def accounts(launch: Launch) -> Iterator[Account]:
    """One of each kind of programs, as if all of the launch were: its time is their mean."""
    for share in shares(launch):
        yield account_of(launch, share=share)
