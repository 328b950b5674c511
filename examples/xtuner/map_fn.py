"""An exported row as xtuner is to read it: dataset_map_fn for grait.json (plain.json, replicated.json: None).

This file imports nothing: mmengine reads it as part of a config, where an imported module cannot be called.
"""


def weighted_turns(row: dict) -> dict:
    """The conversation as exported, if it has what GRAIT's fork needs in its first turn: loss = alpha * loss + beta."""
    alpha, beta = (row["conversation"][0].get(name) for name in ("alpha", "beta"))
    if beta != 0 or not isinstance(alpha, int | float) or not 0 <= alpha < float("inf"):
        raise ValueError(
            f"The row {row.get('sample_id')} has alpha={alpha!r} and beta={beta!r}, expected a finite number >= 0 and "
            "0: pass grait.json of an export to xtuner."
        )
    return {"conversation": row["conversation"]}


def plain_text(row: dict) -> dict:
    """For a model without a chat template, with template_map_fn=None: the space between prompt and answer again.

    An export to xtuner leaves it out, as chat templates put their own characters there; without it the tokens are
    others than those the gradients were taken of.
    """
    turns = [
        {**turn, "output": ("" if turn["input"][-1:].isspace() else " ") + turn["output"]}
        for turn in row["conversation"]
    ]
    return {"conversation": turns}
