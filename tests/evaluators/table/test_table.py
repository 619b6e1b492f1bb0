"""Tables of accuracies: each check fails on a planted fault and passes without the fault."""

import gzip
import re

import numpy as np
import pytest

from evaluators import check_table, explain
from evaluators.table import parse_column, read_table


def clean(rows=40, unit=100.0, digits=1):
    """Returns a table without faults: many steps beat one, larger epsilons give lower accuracy, black boxes are weaker."""
    generator = np.random.default_rng(0)
    top = generator.uniform(0.7, 0.95, rows)
    columns = {"name": np.array([f"net{i}" for i in range(rows)]), "clean": top, "val_acc": top + 0.03}
    for attack, steepness in {"square": 20, "fgsm": 40, "pgd": 50}.items():
        for epsilon in (0.5, 1.0, 2.0, 8.0):
            columns[f"{attack}_{epsilon}"] = top * np.exp(-steepness * epsilon / 255 * generator.uniform(1, 1.1, rows))
    return {name: v if name == "name" else np.round(unit * v, digits) for name, v in columns.items()}


def by_name(columns):
    return {check.name: check for check in check_table(columns)}


def failed(columns):
    return {name for name, check in by_name(columns).items() if not check.passed}


class TestColumns:
    @pytest.mark.parametrize(
        ("name", "attack", "kind", "norm", "epsilon"),
        [
            ("pgd_1.0", "pgd", "many steps", "linf", 1.0),
            ("fgsm_0.1", "fgsm", "single step", "linf", 0.1),
            ("square_2.0", "square", "black box", "linf", 2.0),
            ("PGD-20", "pgd_20", "many steps", "linf", None),
            ("PGD-20 (eps=8/255)", "pgd_20", "many steps", "linf", 8 / 255),
            ("Clean (%)", "clean", "clean", "linf", None),
            ("FGSM-8", "fgsm", "single step", "linf", 8.0),
            ("PGD20_8/255", "pgd20", "many steps", "linf", 8 / 255),
            ("pgd20 @ 8/255", "pgd20", "many steps", "linf", 8 / 255),
            ("pgd_l2_0.5", "pgd", "many steps", "l2", 0.5),
            ("fgsm_linf_4", "fgsm", "single step", "linf", 4.0),
            ("apgd-ce 8/255", "apgd_ce", "many steps", "linf", 8 / 255),
            ("mi_fgsm_4", "mi_fgsm", "many steps", "linf", 4.0),
            ("hop_skip_jump_0.5", "hop_skip_jump", "black box", "linf", 0.5),
            ("AutoAttack", "autoattack", "many steps", "linf", None),
            ("pgd20", "pgd20", "many steps", "linf", None),
            ("step_ll_2", "step_ll", "single step", "linf", 2.0),
            ("gaussian_noise_8", "gaussian_noise", "noise", "linf", 8.0),
            ("robust_acc_pgd_8", "pgd", "many steps", "linf", 8.0),
            ("pgd_.5", "pgd", "many steps", "linf", 0.5),
            ("clean", "clean", "clean", "linf", None),
            ("Test Accuracy", "clean", "clean", "linf", None),
            ("accuracy", "clean", "clean", "linf", None),
            ("val_acc", "val", "other split", "linf", None),
        ],
    )
    def test_names_that_are_understood(self, name, attack, kind, norm, epsilon):
        column = parse_column(name)
        assert (column.name, column.attack, column.kind, column.norm) == (name, attack, kind, norm)
        assert column.epsilon == (None if epsilon is None else pytest.approx(epsilon))

    @pytest.mark.parametrize(
        "name",
        ["", "arch", "params_m", "flops_m", "edgegpu_latency_ms", "layer_1", "l2", "epoch", "8/255", "pgdx_1", "val_loss"],
    )
    def test_names_that_are_ignored(self, name):
        assert parse_column(name) is None


class TestUnits:
    def test_steps_are_no_epsilons(self):
        columns = clean() | {"PGD-20": np.linspace(40, 50, 40), "PGD-100": np.linspace(45, 55, 40)}
        assert failed(columns) == set()

    def test_epsilons_of_both_units_are_put_in_one_order(self):
        table = {"pgd_8": np.linspace(50, 60, 20), "pgd_16/255": np.linspace(55, 65, 20), "clean": np.linspace(80, 90, 20)}
        assert failed(table) == {"falls_with_epsilon_pgd"}

    def test_whole_range_in_either_unit_is_left_out(self):
        rising = {
            "clean": np.linspace(80, 90, 20),
            "pgd_8/255": np.linspace(1, 2, 20),
            "pgd_255/255": np.linspace(9, 10, 20),
        }
        assert failed(rising) == set()

    def test_one_epsilon_in_two_units_is_one(self):
        table = {"fgsm_8": np.linspace(10, 20, 20), "pgd_8/255": np.linspace(30, 40, 20)}
        assert failed(table) == {"one_step_never_beats_many"}


class TestClean:
    @pytest.mark.parametrize(("unit", "digits"), [(100.0, 1), (100.0, 2), (1.0, 3), (1.0, 8)])
    def test_nothing_is_found(self, unit, digits):
        outcomes = by_name(clean(unit=unit, digits=digits))
        assert failed(clean(unit=unit, digits=digits)) == set()
        assert list(outcomes) == [
            "accuracies_in_range",
            "nothing_missing",
            "columns_vary",
            "rows_are_distinct",
            "falls_with_epsilon_square",
            "falls_with_epsilon_fgsm",
            "falls_with_epsilon_pgd",
            "one_step_never_beats_many",
            "black_box_never_beats_white_box",
            "adversarial_below_clean",
        ]
        assert outcomes["accuracies_in_range"].evidence["unit"] == ("percent" if unit == 100 else "shares")

    def test_a_single_row_is_a_table(self):
        one = {"clean": np.array([84.6]), "pgd20": np.array([55.9]), "autoattack": np.array([51.7])}
        assert failed(one) == set()

    def test_rounding_is_no_finding(self):
        # The accuracies are printed in whole points, so a difference of one point may be rounding.
        columns = {"clean": [91, 92, 93.0], "fgsm_8": [50, 51, 52.0], "pgd_8": [51, 52, 53.0], "square_8": [50, 60, 61.0]}
        assert failed({name: np.array(v) for name, v in columns.items()}) == set()

    def test_a_tenth_of_a_point_is_no_finding(self):
        columns = {"fgsm_8": [0.500, 0.5100], "pgd_8": [0.501, 0.5109]}
        assert failed({name: np.array(v) for name, v in columns.items()}) == set()
        # With few rows, all values of a column may end in 0 by chance. So the most digits of any column count.
        assert failed({"fgsm_8": np.array([0.5, 0.51]), "pgd_8": np.array([0.5012, 0.51])}) == {"one_step_never_beats_many"}


class TestFaults:
    def test_an_error_that_falls_with_epsilon(self):
        columns = clean()
        columns["pgd_8.0"][7] = columns["pgd_1.0"][7] + 1.5
        columns["pgd_2.0"][[3, 9]] = columns["pgd_1.0"][[3, 9]] + 0.5
        check = by_name(columns)["falls_with_epsilon_pgd"]
        assert not check.passed
        evidence = check.evidence
        assert (evidence["rows"], evidence["of"], evidence["largest_in"]) == (3, 40, "net7")
        assert evidence["largest_at"] == "pgd_8.0"
        # The rise is measured from the lowest accuracy at a smaller epsilon, here that at 2.
        assert evidence["largest_points"] == pytest.approx(columns["pgd_8.0"][7] - columns["pgd_2.0"][7])
        assert evidence["counts"] == "pgd_2.0: 2; pgd_8.0: 1"
        assert evidence["first_rows"] == "net3; net7; net9"
        assert {name for name in failed(columns) if name.startswith("falls")} == {"falls_with_epsilon_pgd"}

    def test_small_rises_add_up(self):
        columns = {f"pgd_{e}": np.array([50.0, 60.0]) + 0.1 * i for i, e in enumerate((1, 2, 4))}
        assert by_name(columns)["falls_with_epsilon_pgd"].evidence["counts"] == "pgd_4: 2"

    def test_norms_are_checked_separately(self):
        columns = {"pgd_l2_0.5": np.array([60.0, 61]), "pgd_8": np.array([30.0, 31]), "fgsm_l2_8": np.array([20.0, 21])}
        assert failed(columns) == set()
        assert "falls_with_epsilon_pgd" not in by_name(columns)

    def test_an_epsilon_of_the_whole_range_is_left_out(self):
        columns = clean() | {"fgsm_255.0": np.full(40, 99.0)}
        columns["fgsm_255.0"][0] = 98
        check = by_name(columns)["falls_with_epsilon_fgsm"]
        assert (check.passed, check.evidence["left_aside"]) == (True, "fgsm_255.0")

    def test_one_step_that_beats_many(self):
        columns = clean()
        columns["fgsm_2.0"][5] = columns["pgd_2.0"][5] - 0.4
        assert failed(columns) == {"one_step_never_beats_many"}
        evidence = by_name(columns)["one_step_never_beats_many"].evidence
        assert (evidence["rows"], evidence["largest_in"]) == (1, "net5")
        assert evidence["largest_points"] == pytest.approx(0.4)
        assert evidence["largest_at"] == "fgsm_2.0 below pgd_2.0"

    def test_the_worst_case_over_the_many_step_attacks_counts(self):
        columns = clean()
        weak = columns["fgsm_2.0"] + 2
        assert failed(columns | {"bim_2.0": weak}) == set()
        del columns["pgd_2.0"]
        assert failed(columns | {"bim_2.0": weak}) == {"one_step_never_beats_many"}

    def test_a_black_box_that_beats_the_white_box(self):
        columns = clean()
        columns["square_8.0"][2] = columns["pgd_8.0"][2] - 1
        assert failed(columns) == {"black_box_never_beats_white_box"}
        assert by_name(columns)["black_box_never_beats_white_box"].evidence["largest_in"] == "net2"

    def test_noise_that_beats_the_attacks(self):
        columns = clean()
        assert failed(columns | {"noise_8.0": columns["clean"] - 0.2}) == set()
        assert failed(columns | {"noise_8.0": columns["pgd_8.0"] - 0.2}) == {"noise_never_beats_attacks"}

    def test_an_adversarial_accuracy_above_the_clean_one(self):
        columns = clean()
        columns["clean"][4] = columns["square_0.5"][4] - 1
        assert failed(columns) == {"adversarial_below_clean"}
        evidence = by_name(columns)["adversarial_below_clean"].evidence
        assert (evidence["largest_in"], evidence["largest_at"]) == ("net4", "square_0.5")
        assert evidence["largest_points"] == pytest.approx(1)

    def test_the_accuracy_of_another_split_fails_no_check(self):
        columns = clean()
        del columns["clean"]
        columns["val_acc"] = columns["square_0.5"] - 2
        check = by_name(columns)["adversarial_below_clean"]
        assert check.passed
        message = explain(check)
        assert message.startswith("Not decided: ")
        assert "val_acc is of another split; 40 of 40 rows " in message
        del columns["val_acc"]
        assert "another split" not in explain(by_name(columns)["adversarial_below_clean"])

    def test_repeated_rows_and_names(self):
        columns = clean()
        for name, values in columns.items():
            if name != "name":
                values[[11, 12]] = values[3]
        check = by_name(columns)["rows_are_distinct"]
        assert not check.passed
        assert check.evidence == {"repeated_names": 0, "repeating_rows": 2, "of": 40, "example": "net11 as net3"}
        columns = clean()
        columns["name"][5] = "net4"
        check = by_name(columns)["rows_are_distinct"]
        assert (check.passed, check.evidence["repeated_names"], check.evidence["example"]) == (False, 1, "net4, 2 times")

    def test_rows_of_few_columns_may_agree_by_chance(self):
        columns = {"clean": np.array([90.1, 90.1, 90.3]), "pgd_8": np.array([40.0, 40.0, 41.0])}
        assert failed(columns) == set()

    def test_a_constant_column(self):
        columns = clean() | {"pgd_8.0": np.full(40, 0.1)}
        assert "columns_vary" in failed(columns)
        assert by_name(columns)["columns_vary"].evidence == {"columns": "pgd_8.0"}
        # Two rows may agree by chance.
        assert "columns_vary" not in by_name({"clean": np.array([90.0, 90.0])})

    def test_missing_cells(self):
        columns = clean()
        columns["pgd_1.0"][[2, 8]] = np.nan
        columns["clean"][8] = np.nan
        assert failed(columns) == {"nothing_missing"}
        evidence = by_name(columns)["nothing_missing"].evidence
        assert evidence == {"cells": 3, "columns": "clean, pgd_1.0", "rows": "net2; net8"}

    @pytest.mark.parametrize(("unit", "value"), [(100.0, 100.2), (100.0, -0.1), (1.0, 1.2), (1.0, 84.0), (1.0, np.inf)])
    def test_accuracies_out_of_range(self, unit, value):
        columns = clean(unit=unit, digits=3)
        columns["square_8.0"][6] = value
        assert "accuracies_in_range" in failed(columns)
        evidence = by_name(columns)["accuracies_in_range"].evidence
        assert (evidence["cells"], evidence["columns"], evidence["rows"]) == (1, "square_8.0", "net6")
        assert evidence["unit"] == ("percent" if unit == 100 else "shares")

    def test_rows_without_names_are_numbered(self):
        columns = clean()
        del columns["name"]
        columns["fgsm_2.0"][5] = columns["pgd_2.0"][5] - 0.4
        assert by_name(columns)["one_step_never_beats_many"].evidence["largest_in"] == "row 6"

    def test_every_outcome_has_a_sentence(self):
        broken = clean() | {"noise_8.0": np.full(40, 0.0)}
        broken["clean"][:] = 12
        broken["clean"][1] = np.nan
        broken["fgsm_2.0"][3] = 200
        broken["fgsm_1.0"][4] = broken["square_1.0"][5] = 0
        broken["pgd_8.0"][2] = 99
        broken["name"][1] = "net0"
        for columns in (clean(), clean() | {"noise_8.0": clean()["clean"]}, broken):
            for check in check_table(columns):
                message = explain(check)
                assert message.endswith(".")
                assert "{" not in message
                assert not message.startswith(check.name)
        assert len(failed(broken)) >= 8

    def test_a_table_without_accuracies_is_refused(self):
        with pytest.raises(ValueError, match=r"no accuracy columns among arch, size; .*clean, test_acc, val_acc.* pgd_1\.0"):
            check_table({"arch": np.array(["a"]), "size": np.array([1.0])})
        with pytest.raises(ValueError, match="no accuracy columns among no columns"):
            check_table({})

    def test_columns_of_different_lengths_are_refused(self):
        with pytest.raises(ValueError, match=re.escape("the same number of rows, at least one, got [1, 2]")):
            check_table({"clean": np.array([1.0]), "pgd_8": np.array([1.0, 2.0])})
        with pytest.raises(ValueError, match=re.escape("at least one, got [0]")):
            check_table({"clean": np.array([])})


class TestReading:
    def test_numbers_and_names(self, tmp_path):
        path = tmp_path / "table.csv"
        path.write_text("arch,clean,pgd_8/255,params,note\n a ,91.5,40%,1.5,\nb,,39.5,n/a,fast\n\n")
        table = read_table(path)
        assert list(table) == ["arch", "clean", "pgd_8/255", "params", "note"]
        assert table["arch"].tolist() == ["a", "b"]
        np.testing.assert_array_equal(table["clean"], [91.5, np.nan])
        np.testing.assert_array_equal(table["pgd_8/255"], [40, 39.5])
        np.testing.assert_array_equal(table["params"], [1.5, np.nan])
        assert table["note"].tolist() == ["", "fast"]
        assert failed(table) == {"nothing_missing"}

    @pytest.mark.parametrize("separator", [",", ";", "\t"])
    @pytest.mark.parametrize("zipped", [False, True])
    def test_separators_and_gzip(self, tmp_path, separator, zipped):
        text = 'name,clean\r\n"a, b",90\r\n'.replace(",", separator).replace(f"a{separator} b", "a, b")
        path = tmp_path / ("table.csv.gz" if zipped else "table.csv")
        path.write_bytes(gzip.compress(text.encode("utf-8-sig")) if zipped else text.encode("utf-8-sig"))
        table = read_table(str(path))
        assert (table["name"].tolist(), table["clean"].tolist()) == (["a, b"], [90.0])

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "must hold a header and at least one row, got an empty file"),
            (b"clean,pgd_8\n", "must hold at least one row below the header"),
            (b"arch,size\na,1\n", "line 1: no accuracy columns among arch, size; "),
            (b"a,pgd_8\nx,1\n\ny,high\n", "line 4: pgd_8 must be a number, got 'high'"),
            (b"a,pgd_8\nx,1,2\n", "line 2: must have 2 cells, like the header, got 3"),
            (b"clean,clean\n1,2\n", "line 1: column names must be unique, got 'clean' more than once"),
            (b"name;clean\na;1.234,5\n", "line 2: clean must be a number, got '1.234,5'"),
            (b"name,clean\na,1_0\n", "line 2: clean must be a number, got '1_0'"),
            (b'name,clean\na,"' + b"1" * 140_000, "must be CSV: field larger than"),
            (b"\xff\xfe\x00", "is not a text table (UnicodeDecodeError)"),
        ],
    )
    def test_errors_in_a_file_name_the_file(self, tmp_path, content, message):
        path = tmp_path / "table.csv"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(f"{path}") + ".*" + re.escape(message)):
            read_table(path)

    def test_a_file_that_is_not_there(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=re.escape(f"{tmp_path / 'none.csv'}: no such file")):
            read_table(tmp_path / "none.csv")
        with pytest.raises(IsADirectoryError):
            read_table(tmp_path)

    def test_a_file_that_is_gzipped_only_by_name(self, tmp_path):
        path = tmp_path / "table.csv.gz"
        path.write_text("clean\n90\n")
        with pytest.raises(ValueError, match=r"must be gzipped.* \.gz"):
            read_table(path)
        path.write_bytes(gzip.compress(b"clean\n90\n")[:-6])
        with pytest.raises(ValueError, match=r"is not a text table \(EOFError\)"):
            read_table(path)


def test_known_faults_of_the_nasbench201_table_are_found(shared_data):
    # The published table of NAS-Bench-201 under attack.
    columns = read_table(shared_data / "nasbench201-robustness.csv.gz")
    assert len(columns["arch"]) == 15625
    outcomes = by_name(columns)
    # At 0.1/255 PGD is weaker than FGSM on nearly every cell.
    steps = outcomes["one_step_never_beats_many"]
    assert not steps.passed
    at = dict(part.rsplit(": ", 1) for part in steps.evidence["counts"].split("; "))
    weaker = int(at["fgsm_0.1 below pgd_0.1"].replace(",", ""))
    assert weaker > 0.95 * 15625
    # The printed values give the same count of differences above 0.1 points.
    tenths = np.round(10 * (columns["pgd_0.1"] - columns["fgsm_0.1"]))
    assert weaker == int((tenths > 1).sum())
    # FGSM accuracy is not monotone in epsilon on hundreds of cells.
    rises = outcomes["falls_with_epsilon_fgsm"]
    assert not rises.passed
    assert 500 < rises.evidence["rows"] < 2000
    assert outcomes["falls_with_epsilon_pgd"].passed
    assert outcomes["falls_with_epsilon_square"].passed
    assert outcomes["accuracies_in_range"].passed
    assert outcomes["nothing_missing"].passed
    # The table has no clean accuracy of the attacked images.
    assert "val_acc is of another split" in explain(outcomes["adversarial_below_clean"])


def test_a_table_that_is_too_large_after_decompression_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("evaluators.table.file.LARGEST_TABLE", 1000)
    path = tmp_path / "table.csv.gz"
    path.write_bytes(gzip.compress(b"clean\n" + b"9\n" * 10_000))
    with pytest.raises(ValueError, match="must hold at most 1,000 bytes"):
        read_table(path)
