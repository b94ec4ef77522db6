"""The returns that docs/results.md prints are those of the files it links, whose values may be rounded."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

DOCS = Path(__file__).resolve().parents[1] / "docs"
LONGER = "evaluations.csv"  # those of ``eval.py`` at the end of a run
OTHERS = {LONGER, "known_dropout.csv", "dropout_states.csv"}  # not curves

TRAINING = " (training)"  # after an agent's name: its training return, not an evaluation

Run = dict[str, float]  # frames, or the name of a longer evaluation's column -> return
Runs = dict[tuple[str, int], Run]  # by agent and seed
Rows = list[dict[str, str]]


def sections(page: str) -> dict[str, str]:
    """The text below each heading, up to the next one."""
    parts = re.split(r"^#+ (.+)$", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def tables(text: str) -> Iterator[Rows]:
    """Every table as rows by column."""
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        cells = [[cell.strip().strip("`") for cell in line[1:-1].split("|")] for line in block.splitlines()]
        yield [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def linked(text: str) -> set[str]:
    """The names of the files that a text links."""
    return {*re.findall(r"\(curves/(.+?\.csv)\)", text)}


def rows_of(name: str) -> Rows:
    with (DOCS / "curves" / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def runs_of(name: str) -> Runs:
    """A file of curves, a row for each value at a number of frames or updates, and longer evaluations at its end."""
    found: Runs = {}
    rows = rows_of(name)
    for row in rows:
        agent = row["agent"].removesuffix(TRAINING)
        run = found.setdefault((agent, int(row["seed"])), {})
        when = f"{float(row.get('frames') or row['updates']):.0f}" if agent == row["agent"] else "training"
        run[when] = float(row["value"])
    ends = {
        (row["task"], row["commit"], max(filter(str.isdigit, found[row["agent"], int(row["seed"])]), key=int))
        for row in rows
        if not row["agent"].endswith(TRAINING)
    }
    for row in rows_of(LONGER):
        if (row["task"], row["commit"], row["frames"]) in ends:
            key = f"eval_{row['episodes']}"
            found[row["agent"], int(row["seed"])] |= {
                f"{key}_mean": float(row["mean"]),
                f"{key}_std": float(row["std"]),
            }
    return found


def expected(column: str, runs: list[Run]) -> list[float] | None:
    """What a cell of this column holds for these runs of one agent; None if the file does not have it."""
    if short := re.fullmatch(r"(\d+)k", column):
        return [run[f"{short[1]}000"] for run in runs]
    if column.startswith("training"):
        return [run["training"] for run in runs]
    if at := re.match(r"at ([\d,]+)", column):
        return [run[at[1].replace(",", "")] for run in runs]
    if longer := re.match(r"eval\.py`?, (\d+) episodes", column):
        return [
            run[f"eval_{longer[1]}_{of}"] for run in runs for of in ("mean", "std") if f"eval_{longer[1]}_mean" in run
        ]
    curves = [{int(key): run[key] for key in run if key.isdigit()} for run in runs]
    if column == "mean":
        last = [curve[max(curve)] for curve in curves]
        return [float(np.mean(last)), float(np.std(last, ddof=1))] if len(last) > 1 else last
    return [max(curve.values()) for curve in curves] if column.startswith("best") else None


def compared(text: str, runs: Runs) -> Iterator[tuple[str, str, list[str], list[float]]]:
    """Row, column, numbers as printed, numbers of the file."""
    for table in tables(text):
        of_mean = any(column.startswith("at ") for column in table[0])
        for row in table:
            name, _, seed = next(iter(row.values())).partition(", seed ")
            same = [run for (agent, n), run in runs.items() if agent == name and (not seed or n == int(seed))]
            for column, cell in row.items():
                wanted = expected(column, same) if same and (column != "mean" or of_mean) else None
                if cell and wanted is not None:
                    yield name, column, re.findall(r"-?[\d.]+", cell.replace("\N{MINUS SIGN}", "-")), wanted


PAGE = sections((DOCS / "results.md").read_text(encoding="utf-8"))
FILES = {title: [*linked(text) - OTHERS] for title, text in PAGE.items()}


@pytest.mark.parametrize("title", [title for title, files in FILES.items() if files])
def test_printed_returns_are_those_of_the_file(title: str) -> None:
    runs = {key: run for file in FILES[title] for key, run in runs_of(file).items()}
    found = list(compared(PAGE[title], runs))
    assert found
    for name, column, printed, wanted in found:
        assert len(printed) == len(wanted), (name, column)
        for told, value in zip(printed, wanted, strict=True):
            assert abs(float(told) - value) < 10.0 ** -len(told.partition(".")[2]), (name, column, printed, wanted)


def test_every_table_of_returns_has_a_file() -> None:
    returns = [title for title, text in PAGE.items() if any("seed" in str(table) for table in tables(text))]
    assert [title for title in returns if not FILES[title] and not OTHERS & linked(PAGE[title])] == []


def test_every_file_is_linked() -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in DOCS.rglob("*.md"))
    assert [path.name for path in (DOCS / "curves").iterdir() if f"curves/{path.name}" not in pages] == []


def test_the_frames_that_useless_actions_cost_are_those_of_the_file() -> None:
    page = (DOCS / "studies.md").read_text(encoding="utf-8").split("curves/useless_cartpole.csv", 1)[1]
    runs = rows_of("useless_cartpole.csv")
    names, kind, found = {"DQN": "dqn", "soft Q": "soft_q", "MIRL": "mirl"}, "", 0
    for row in re.findall(r"^\| (?:(\w+): )?(DQN|soft Q|MIRL) \| (.+) \|$", page.split("![", 1)[0], re.MULTILINE):
        kind = row[0] or kind
        for number, cell in zip(("0", "4", "16", "64"), row[2].split(" | "), strict=True):
            same = [r for r in runs if (r["agent"], r["useless"]) == (names[row[1]], number)]
            same = [r for r in same if r["kind"] in ("", kind)]
            mean = f"{np.mean([float(r['frames']) for r in same]):,.0f}"
            reached = sum(r["reached"] == "True" for r in same)
            least = f"≥ {mean}, {reached} of {len(same)}"
            assert cell == least if reached < len(same) else cell.startswith(f"{mean} ± "), (row, number)
            found += 1
    assert found == 24


def test_what_the_belief_is_told_is_worth_what_the_file_has() -> None:
    found: dict[tuple[str, float, str], list[float]] = {}
    for row in rows_of("known_dropout.csv"):
        key = row["corruption"], float(row["level"]), row["known_dropout"]
        found.setdefault(key, []).append(float(row["return"]))
    clean = np.mean(found["clean", 0.0, "0"])
    (table,) = tables(PAGE["Known drop-out"])
    for row in table[1:]:
        _, untold, told, gain, share = row.values()
        kind, level = next(iter(row.values())).replace("`", "").split(",")[0].split()
        before, after = (np.array(found[kind, float(level), told]) for told in "01")
        half = stats.t.ppf(0.975, len(before) - 1) * stats.sem(after - before)
        assert (untold, told) == (f"{before.mean():.0f}", f"{after.mean():.0f}")
        assert gain == f"{(after - before).mean():.0f} ± {half:.0f}"
        assert share == f"{100 * (after - before).mean() / (clean - before.mean()):.0f} %"


def test_the_returns_under_drop_out_are_those_of_the_file() -> None:
    file = rows_of("dropout_states.csv")
    blocks = re.findall(r"(?:^\|.*\n)+", PAGE["A belief against drop-out"], re.MULTILINE)
    for task, block in zip(("cartpole_swingup", "cheetah_run"), blocks, strict=True):
        columns, _, *rows = ([cell.strip(" `") for cell in line[1:-1].split("|")] for line in block.splitlines())
        for sensors, *cells in rows:
            kind, level = ("clean", "0.0") if sensors == "all there" else sensors.replace("`", "").split()
            same = [row for row in file if (row["task"], row["corruption"], row["level"]) == (task, kind, level)]
            same.sort(key=lambda row: float(row["trained_group_dropout"]))  # on the left those without
            assert columns[1:] == [row["agent"] for row in same]
            assert cells == [f"{row['mean']} ± {row['std']}" for row in same]


def test_the_p_values_of_the_papers_table_are_those_of_welchs_test() -> None:
    text = sections((DOCS / "robustness.md").read_text(encoding="utf-8"))["Table 1 of the SMAC paper"]
    (table,) = tables(text)
    for row in table:
        (a, a_std), (b, b_std) = (map(float, row[agent].split(" ± ")) for agent in ("Latent-SAC", "SMAC"))
        found = stats.ttest_ind_from_stats(a, a_std, 5, b, b_std, 5, equal_var=False).pvalue
        assert row["p"] == f"{found:.3f}"
    assert sum(float(row["p"]) < 0.05 for row in table) == 4


def test_a_wrong_number_would_be_found() -> None:
    text = "| agent | at 2,000 frames, by seed | best |\n|---|---|---|\n| `sac` | 5, 7 | 6, 8 |\n"
    runs = {("sac", 1): {"1000": 6.0, "2000": 5.0}, ("sac", 2): {"1000": 8.0, "2000": 9.0}}
    assert [(p, w) for _, _, p, w in compared(text, runs)] == [(["5", "7"], [5, 9]), (["6", "8"], [6, 9])]
