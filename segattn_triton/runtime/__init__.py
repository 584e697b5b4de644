"""How a call runs: checks, dispatch, operators, programs, plans."""
