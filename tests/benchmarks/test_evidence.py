"""That tables of docs/evidence.md are what the files of results say."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def table(heading: str, number: int = 0) -> list[list[str]]:
    """The cells of a section's first table, or another one, without its head and without emphasis."""
    text = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
    (section,) = (part for part in text.split("\n## ")[1:] if part.startswith(f"{heading}\n"))
    lines = [line for line in section.split("\n\n")[2 if heading == "Colours" else 1 :] if line.startswith("|")][number]
    return [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines.splitlines()[2:]]


def shares(pair: list[float]) -> str:
    mean, half = (round(100 * value) for value in pair)
    return f"{mean} % \u00b1 {half}"


def test_the_main_table_is_that_of_both_runs():
    ten, found = (
        json.loads((RESULTS / f"semantics_controlnet{of}.json").read_text())["rows"] for of in ("", "_twenty")
    )
    names = (
        "truth",
        "no DINO",
        *(f"ControlNet, {name}" for name in ("no DINO", "DINO", "each tile's own caption", "the picture's caption")),
        *(f"ControlNet, {name}" for name in ("features of another picture", "objects exchanged")),
        *(f"ControlNet, {name}, untiled" for name in ("no DINO", "DINO")),
    )
    for row, name in zip(table("With a layout that is given"), names, strict=True):
        of = found.get(name, ten[name])
        assert (name in found) != row[0].endswith("(ten pictures)"), name
        follows = of.get("follows", [None])
        wanted = [shares(of["accuracy"]), "-" if None in follows else shares(follows), shares(of["agreement"])]
        wanted += [f"{of['outline'][0]:.2f}", shares(of["blank"])]
        assert row[1:] == [*wanted, *(f"{of[key][0]:.2f}" for key in ("colour", "sharpness", "seams"))], name


def test_the_table_of_other_adapters_and_reference_latents_is_that_of_its_file():
    rows = json.loads((RESULTS / "semantics_other.json").read_text())["rows"]
    names = (
        "ControlNet, no DINO",
        "ControlNet, DINO",
        "plain, ControlNet, DINO",
        "shares of the source documents, ControlNet, DINO",
        *(f"context{of}, ControlNet, DINO" for of in ("", " of 65 tokens", " of all tokens")),
        *(f"reference latents, {name}" for name in ("no DINO", "DINO", "each tile's own caption")),
    )
    for row, name in zip(table("With a layout that is given", 2), names, strict=True):
        of = rows[name]
        wanted = [shares(of["accuracy"]), shares(of["agreement"])]
        assert row[1:] == [*wanted, *(f"{of[key][0]:.2f}" for key in ("outline", "colour", "sharpness"))], name


def test_the_table_of_colours_is_that_of_the_named_command():
    found = json.loads((RESULTS / "color_match.json").read_text())
    text = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
    assert f"`{found['about']['command']}`" in text
    rows = iter(table("Colours"))
    for name, ways in found["rows"].items():
        if name == "photo, denoise 0.5":  # left out, for room
            continue
        for way, of in ways.items():
            row = next(rows)
            assert row[1:4] == [way, f"{of['colour error']:.2f}", f"{of['psnr']:.2f}"]
            texture = [f"{100 * of['right texture']:.0f} %", f"{of['sharpness']:.2f}"] if name[0] == "w" else ["-", "-"]
            assert row[4:] == [*texture, f"{of['seams']:.3f}"]
    assert next(rows, None) is None


def test_the_table_of_twenty_pictures_is_that_of_both_runs():
    found = json.loads((RESULTS / "semantics_twenty.json").read_text())["rows"]
    names = (
        "ControlNet, no DINO",
        "ControlNet, DINO",
        "encoder without labels, ControlNet, DINO",
        "ControlNet, each tile's own caption",
    )
    for row, name in zip(table("Twenty pictures"), names, strict=True):
        of = found[name]
        wanted = [shares(of["accuracy"]), shares(of["agreement"]), f"{of['outline'][0]:.2f}", f"{of['colour'][0]:.2f}"]
        assert row[1:] == wanted, name


def test_the_table_of_the_controlnet_that_could_know_is_that_of_its_file():
    rows = json.loads((RESULTS / "semantics_knowing.json").read_text())["rows"]
    for row, name in zip(table("A ControlNet that could know")[1:], ("no DINO", "DINO"), strict=True):
        for cell, tiles in zip(row[1:], (", tiles of 64", "", ", untiled"), strict=True):
            of = rows.get(f"ControlNet that could know, {name}{tiles}")
            assert cell == (shares(of["accuracy"]) if of else "-"), f"{name}{tiles}"


def test_the_table_of_windows_that_move_is_that_of_their_file():
    rows = json.loads((RESULTS / "semantics_moving.json").read_text())["rows"]
    for name, *cells in table("Without a ControlNet: adapters compared", 1):
        moves, overlap = name.replace("no overlap", "overlap 0").split(", ")
        of = rows[f"{moves}, balanced, {overlap}, with DINO"]
        wanted = [f"{of['sampled_over_output']:.2f}", shares(of["accuracy"]), shares(of["agreement"])]
        wanted += [f"{of[key][0]:.2f}" for key in ("sharpness", "colour")]
        assert cells == [*wanted, " \u00b1 ".join(f"{value:.2f}" for value in of["seams"])], name


def test_the_table_of_the_reader_is_what_it_reads():
    found = json.loads((RESULTS / "semantics_reader.json").read_text())["right texture"]
    assert [row[1] for row in table("How much a tile tells")] == [shares(pair) for pair in found.values()]


def test_what_follows_from_the_colours_is_in_the_table():
    rows = json.loads((RESULTS / "color_match.json").read_text())["rows"].values()
    less = [1 - row["wavelet"]["colour error"] / row["off"]["colour error"] for row in rows]
    text = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
    assert f"*wavelet* takes {100 * min(less):.0f} to {100 * max(less):.0f} % of the colour error away" in text


def test_the_rows_of_small_tiles_are_those_of_their_files():
    shown = table("How much a tile tells", 1)
    for column, side in ((1, 48), (2, 64)):
        rows = json.loads((RESULTS / f"semantics_tiles_{side}.json").read_text())["rows"]
        for cells, row in zip(shown, ("no DINO", "reader of its tile", "DINO"), strict=True):
            of = rows[f"ControlNet, {row}, tiles of {side}"]
            assert cells[column] == f"{shares(of['accuracy'])} (2 seeds)", (side, row)


def test_the_tables_of_rows_that_begin_at_the_source_are_those_of_their_files():
    found = json.loads((RESULTS / "semantics_from_source.json").read_text())["rows"]
    names = (
        "no DINO",
        "DINO: cross_attention, the shipped adapter",
        *(f"ControlNet from the source, {name}" for name in ("no DINO", "each tile's own caption")),
        *(f"from the source, {name}" for name in ("DINO", "features dropped", "objects exchanged")),
        "ControlNet from the source, DINO from the source",
    )
    shown, at_each = (table("At the denoise that people use", number) for number in (1, 2))
    for row, name in zip(shown, names, strict=True):
        of = found[name]
        follows = "-" if None in of["follows"] else shares(of["follows"])
        wanted = [
            shares(of["accuracy"]),
            follows,
            shares(of["agreement"]),
            f"{of['outline'][0]:.2f}",
            shares(of["blank"]),
        ]
        assert row[1:] == [*wanted, *(f"{of[key][0]:.2f}" for key in ("colour", "sharpness"))], name
    files = (f"semantics_from_source{at}.json" for at in ("_0.3", "", "_0.7", "_0.9"))
    of_each = [json.loads((RESULTS / file).read_text())["rows"] for file in files]
    for row, name in zip(at_each, (*names[:2], "from the source, DINO"), strict=True):
        assert row[1:] == [shares(rows[name]["accuracy"]) for rows in of_each], name


def test_the_table_of_faint_textures_is_that_of_its_file():
    rows = json.loads((RESULTS / "semantics_faint.json").read_text())["rows"]
    names = ("no DINO", "DINO", "DINO, objects exchanged", "DINO, features dropped", "no DINO, each tile's own caption")
    for row, name in zip(table("At the denoise that people use", 3), names, strict=True):
        assert row[1:] == [shares(rows[f"{denoise}, {name}"]["accuracy"]) for denoise in (0.3, 0.5, 0.7)], name


def test_the_tables_of_levels_are_those_of_their_files():
    levels = ("eighth", "faint")
    found = [json.loads((RESULTS / f"semantics_levels_{level}.json").read_text())[level] for level in levels]
    shown = table("At the denoise that people use", 4) + table("At the denoise that people use", 5)
    learned, oracle = "learned on all levels", "each tile's own caption"
    names = (
        "source",
        "0.5, no DINO",
        f"0.5, no DINO, {oracle}",
        "0.5, DINO: cross_attention, the shipped adapter",
        "0.5, from the source, DINO",
        f"0.5, {learned}, DINO",
        f"0.5, {learned}, features dropped",
        f"0.5, {learned}, features dropped, {oracle}",
        *(f"0.9, {of}ControlNet, {name}" for of in ("", f"{learned}, ") for name in ("no DINO", "DINO", oracle)),
    )
    for row, name in zip(shown, names, strict=True):
        assert row[1:] == [shares(rows[name]["accuracy"]) for rows in found], name
