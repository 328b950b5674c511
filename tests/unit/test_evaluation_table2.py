"""CRaFT (arXiv 2410.06913) Table 2: THS of all 56 cells from their own P_c and P_w."""

import pytest

from gradstore.evaluation import Shares, ths

ROWS = ("Init-Basic", "Init-Refuse", "Van-Tuning", "Cor-RAIT", "CRaFT", "w/o Flow", "w/o Cer")
SETS = ("MMLU", "ARC-c", "TriviaQA", "NQ")
# P_c / P_w / THS in per cent, rows as ROWS, columns as SETS.
TABLE = {
    "LLaMA2-7B-Chat": """
        45.6/52.8/0     53.9/46.0/0     54.0/46.0/0     29.3/70.7/0
        36.4/38.9/3.9   44.4/35.7/2.6   37.0/21.7/11.5  20.8/38.6/4.8
        46.9/53.1/1.2   54.5/45.5/1.2   48.6/44.5/-3.7  18.3/50.2/-2.5
        44.5/39.6/11.3  55.8/38.1/11.1  41.3/18.3/19.7  16.2/27.6/4.7
        43.9/36.4/12.5  54.7/35.9/12.6  38.5/12.9/23.3  15.8/22.4/6.5
        39.7/31.0/13.0  51.4/32.3/13.5  45.2/20.5/21.1  21.2/38.8/5.2
        38.4/32.1/11.5  52.5/32.9/13.9  38.5/15.7/20.1  14.6/22.1/5.4
    """,
    "LLaMA3-8B-Instruct": """
        66.8/33.1/0     80.6/19.5/0     66.8/33.2/0      40.3/59.7/0
        50.0/17.0/15.6  65.3/14.4/5.6   53.9/20.8/12.0   31.1/38.6/5.0
        69.5/30.5/8.0   80.3/19.7/-1.3  55.0/38.1/-21.8  21.0/48.5/-11.7
        63.9/21.6/20.4  79.4/16.2/12.2  45.4/13.2/18.8   17.2/25.6/-0.1
        53.3/9.6/34.0   74.1/12.7/21.4  43.5/10.9/21.5   19.0/27.5/0.4
        57.5/15.3/27.2  75.8/14.9/13.9  49.1/18.0/12.8   22.3/41.6/-5.8
        62.1/18.4/25.0  78.2/17.3/6.5   43.0/11.2/20.5   15.8/23.5/-0.1
    """,
}
# Printed THS that does not follow from the printed shares; ours − printed. That column mixes baselines.
INCONSISTENT = {
    ("LLaMA2-7B-Chat", "Init-Refuse", "MMLU"): -1.10,
    ("LLaMA2-7B-Chat", "Cor-RAIT", "MMLU"): -1.00,
    ("LLaMA2-7B-Chat", "w/o Cer", "MMLU"): -0.82,
    ("LLaMA3-8B-Instruct", "w/o Flow", "MMLU"): -0.58,
}
ROUNDING = 0.35  # P_c and P_w are printed to 0.1, and P_c1/P_w1 is up to 4.1: ±0.05 · (1 + 4.1 + …)


def cells() -> dict[tuple[str, str, str], tuple[float, float, float]]:
    found = {}
    for model, text in TABLE.items():
        for row, line in zip(ROWS, text.strip().splitlines(), strict=True):
            for name, cell in zip(SETS, line.split(), strict=True):
                correct, wrong, printed = map(float, cell.split("/"))
                found[model, row, name] = correct, wrong, printed
    return found


CELLS = cells()


def per_cent(correct: float, wrong: float) -> Shares:
    return Shares(correct / 100, wrong / 100, 1 - (correct + wrong) / 100, 0.0, 1000)


def test_the_table_is_whole():
    assert len(CELLS) == 7 * 4 * 2
    assert INCONSISTENT.keys() <= CELLS.keys()


@pytest.mark.parametrize("cell", CELLS, ids=" ".join)
def test_the_printed_cell_follows_from_its_shares_and_init_basic(cell):
    model, _, name = cell
    correct, wrong, printed = CELLS[cell]
    first = CELLS[model, "Init-Basic", name]
    difference = 100 * ths(per_cent(correct, wrong), per_cent(*first[:2])) - printed
    if cell in INCONSISTENT:
        assert abs(difference) > ROUNDING
        assert difference == pytest.approx(INCONSISTENT[cell], abs=0.01)
    else:
        assert abs(difference) <= ROUNDING
