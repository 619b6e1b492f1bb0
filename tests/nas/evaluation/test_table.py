"""Tabular evaluator: reading a table, messages, and a search on a table."""

import csv
import gzip
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import nas
from evaluators.table import read_table
from nas.config.evaluators import TableEvaluatorConfig
from nas.config.schema import ObjectiveConfig
from nas.errors import ConfigError, DataError, RunError
from nas.evaluation.table import open_table
from nas.executors import Job
from nas.pipeline.events import RunStarted, TrialFinished
from nas.pipeline.search import resume_events, search_events
from nas.runs.run import read_run
from nas.spaces.options import open_space
from nas.training.checkpoints import Checkpoint
from nas.training.early_stopping import Halving
from search_spaces import cell201

# Choices with values of every type. `order` has no effect: it is always "ab" in the canonical form.
SPACE = """
import math

from torch import nn

from search_spaces import Choice, SearchSpace


def build(architecture, input_shape, num_classes):
    width = architecture["width"]
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), width), nn.Linear(width, num_classes))


choices = {"width": Choice(2, 3, 4), "rate": Choice(0.5, None, "auto", True), "order": Choice("ab", "ba")}
space = SearchSpace(
    name="own", choices=choices, build=build, canonical=lambda architecture: {**architecture, "order": "ab"}
)
"""
WIDTHS, RATES, ORDERS = (2, 3, 4), (0.5, None, "auto", True), ("ab", "ba")
FIRST = {"width": 2, "rate": 0.5, "order": "ab"}
CELL = {
    "edge01": "conv3x3",
    "edge02": "skip",
    "edge12": "none",
    "edge03": "avgpool3x3",
    "edge13": "conv1x1",
    "edge23": "none",
}
ARCH = "|nor_conv_3x3~0|+|skip_connect~0|none~1|+|avg_pool_3x3~0|nor_conv_1x1~1|none~2|"


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A function that opens a table from the content of its file, for the space above or for cell201."""
    folder = tmp_path_factory.mktemp("tables")
    (folder / "own.py").write_text(SPACE, encoding="utf-8")
    config = nas.parse_config({"objective": {"minimise": ["macs"], "constraints": {}}})
    spaces = {
        "own": open_space(nas.parse_config({"space": f"{folder / 'own.py'}:space"}).space, trust=True),
        "cell201": cell201(4, 1, 1),
    }

    def open_(content, columns, *, name="table.csv", space="own", objective=("macs",), constraints=()):
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        table = TableEvaluatorConfig(path=str(path), columns=columns, image=(1, 4, 4), classes=3)
        objective = ObjectiveConfig(minimise=tuple(objective), constraints=dict(constraints))
        return open_table(replace(config, evaluator=table, objective=objective), spaces[space])

    return open_


def answer(table, proposed):
    """Returns the metrics of the precheck of an architecture, and the result of its trial."""
    job = Job(0, table.space.canonical(proposed), proposed, seed=0)
    known = table.precheck(job)
    steps = table.measure(job, Checkpoint())
    with pytest.raises(StopIteration) as stop:
        next(steps)
    assert not known.constant
    return known.metrics, stop.value.value


def rows_of(table):
    """Returns the metrics of each architecture, of which the table must have one training."""
    return {key: dict(row.metrics) for key, (row,) in table.rows.items()}


ONE_ROW = "width,rate,order,{}\n2,0.5,ab,{}\n"


TABLE = "width,rate,order,clean,ms\n2,0.5,ab,91.5,nan\n3,0.5,ba,91.5,2\n"
DIALECTS = {
    "plain": TABLE,
    "semicolons": TABLE.replace(",", ";"),
    "tabs": TABLE.replace(",", "\t"),
    "decimal commas": TABLE.replace(",", ";").replace(".", ","),
    "percent": TABLE.replace("91.5", "91.5 %"),
    "missing": TABLE.replace("nan", "n/a"),
    "a dash": TABLE.replace("nan", "-"),
    "spaces": TABLE.replace(",", " , "),
    "quotes": '"width", "rate", "order", "clean", "ms"\n"2", "0.5", "ab", "91.5", ""\n"3", "0.5", "ba", "91.5", "2"\n',
    "a separator in a name": TABLE.replace(",", ";").replace("\n", ';"1,2,3,4,5,6,7"\n').replace('"1,', '"a,', 1),
    "a line break in a cell": TABLE.replace("\n", ',"two\nlines"\n'),
    "a byte order mark": TABLE.encode("utf-8-sig"),
    "UTF-16": TABLE.replace(",", "\t").encode("utf-16"),
    "lines of Windows and blank ones": "\n" + TABLE.replace("\n", "\r\n") + " , , , , \r\n\r\n",
    "gzip": gzip.compress(TABLE.encode(), mtime=0),
    "an index without a name": TABLE.replace("width", ",width").replace("\n2", "\n0,2").replace("\n3", "\n1,3"),
}


class TestReading:
    def test_plain(self, opened):
        table = opened("width,rate,order,ms\n2,0.5,ab,1.5\n\n3 , None,\tba,2\n", {"latency": "ms"})
        assert rows_of(table) == {(2, 0.5, "ab"): {"latency": 1.5}, (3, None, "ba"): {"latency": 2.0}}
        assert table.source == "a table of 2 measured architectures"

    def test_order_of_columns_and_quotes_do_not_matter(self, opened):
        table = opened('ms,"order",rate,width\n"1.5",ab,auto,4\n', {"latency": "ms"})
        assert rows_of(table) == {(4, "auto", "ab"): {"latency": 1.5}}

    def test_gzip_and_byte_order_mark(self, opened):
        text = ONE_ROW.format("ms", "1.5")
        plain = opened(text, {"latency": "ms"})
        marked = opened(text.encode("utf-8-sig"), {"latency": "ms"})
        zipped = opened(gzip.compress(text.encode("utf-8-sig"), mtime=0), {"latency": "ms"}, name="table.csv.gz")
        assert rows_of(plain) == rows_of(marked) == rows_of(zipped) == {(2, 0.5, "ab"): {"latency": 1.5}}
        assert len({plain.digest, marked.digest, zipped.digest}) == 3

    def test_values_have_the_types_of_the_choices(self, opened):
        body = [f"{w},{r},{o},{i}" for i, (w, r, o) in enumerate(itertools.product(WIDTHS, RATES, ORDERS))]
        table = opened("\n".join(["width,rate,order,ms", *body]), {"latency": "ms"})
        wanted = list(itertools.product(WIDTHS, RATES, ORDERS))
        assert list(table.rows) == wanted
        assert [[type(v) for v in row] for row in table.rows] == [[type(v) for v in row] for row in wanted]
        assert [row["latency"] for row in rows_of(table).values()] == list(range(24))

    def test_none_may_be_an_empty_cell(self, opened):
        """csv.writer and pandas write None as an empty cell. The cell of a choice without None must not be empty."""
        assert list(opened("width,rate,order,ms\n2,,ab,1\n2,None,ba,1\n", {"x": "ms"}).rows) == [
            (2, None, "ab"),
            (2, None, "ba"),
        ]
        with pytest.raises(DataError, match=r"line 2: .*'order' must be one of \['ab', 'ba'\], got ''$"):
            opened("width,rate,order,ms\n2,auto,,1\n", {"x": "ms"})

    @pytest.mark.parametrize("dialect", DIALECTS)
    def test_dialects_of_check_table_are_read(self, opened, dialect):
        content = DIALECTS[dialect]
        name = "table.csv.gz" if dialect == "gzip" else "table.csv"
        table = opened(content, {"clean_error": "1 - clean / 100", "latency": "ms"}, name=name)
        wanted = {"clean_error": pytest.approx(0.085), "latency": None}
        assert rows_of(table) == {(2, 0.5, "ab"): wanted, (3, 0.5, "ba"): wanted | {"latency": 2.0}}
        columns = read_table(table.config.evaluator.path)
        np.testing.assert_array_equal(columns["clean"], [91.5, 91.5])
        np.testing.assert_array_equal(columns["ms"], [np.nan, 2])

    def test_same_row_twice_is_one(self, opened):
        assert len(opened("width,rate,order,ms\n2,0.5,ab,1\n2,0.5,ab,1\n", {"latency": "ms"}).rows) == 1

    def test_architectures_of_nasbench201(self, opened):
        table = opened(f"arch,ms\n{ARCH},7\n", {"latency": "ms"}, space="cell201")
        names = list(cell201().choices)
        assert rows_of(table) == {tuple(CELL[name] for name in names): {"latency": 7.0}}

    def test_columns_of_the_choices_go_before_arch(self, opened):
        header, cells = ",".join(CELL), ",".join(CELL.values())
        table = opened(f"{header},arch,ms\n{cells},model-17,7\n", {"latency": "ms"}, space="cell201")
        assert len(table.rows) == 1


class TestFormula:
    @pytest.mark.parametrize(
        ("formula", "value"),
        [
            ("a", 6.0),
            ("1 - pgd_1.0 / 100", 0.75),
            ("pgd_1", 40.0),
            ("pgd_1.0 + pgd_1", 65.0),
            ("params*1e6", 3e6),
            ("params_m", 4.0),
            ("params_m - params", 1.0),
            ("-(a + params) * 2", -18.0),
            ("a - params - 1", 2.0),
            ("a / params / 2", 1.0),
            ("+a", 6.0),
            ("test acc (top-1) / 2", 45.0),
            ("test acc (top-1)-a", 84.0),
            ("a.b + a", 14.0),
            ("1", 1.0),
            ("1 + 1", 2.0),
            ("b/a", 0.0),
            ("a/b", None),
            ("a * empty", None),
            ("nan + 1", None),
            ("nan / b", None),
            ("huge * huge", None),
            ("huge * huge - huge * huge", None),
            ("infinite", None),
        ],
    )
    def test_closed_forms(self, opened, formula, value):
        columns = {
            "a": 6, "b": 0, "pgd_1.0": 25, "pgd_1": 40, "params": 3, "params_m": 4, "test acc (top-1)": 90, "test acc": 70,
            "a.b": 8, "empty": "", "nan": "NaN", "huge": "1e200", "infinite": "-inf", "1": 50,
        }  # fmt: skip
        table = opened(ONE_ROW.format(",".join(columns), ",".join(map(str, columns.values()))), {"x": formula})
        assert rows_of(table) == {(2, 0.5, "ab"): {"x": value}}

    @given(
        st.recursive(
            st.sampled_from(["a", "a_b", "ab", "b", "2", "0.5"]),
            lambda inner: st.one_of(
                st.tuples(inner, st.sampled_from([" + ", "-", "*", " / "]), inner).map("".join),
                inner.map(lambda text: f"({text})"),
                inner.map(lambda text: f"-({text})"),
            ),
            max_leaves=8,
        )
    )
    def test_is_what_python_computes(self, opened, formula):
        values = {"a": 3.0, "a_b": 0.0, "ab": -7.5, "b": 0.25}
        table = opened(ONE_ROW.format(",".join(values), ",".join(map(str, values.values()))), {"x": formula})
        try:
            wanted = float(eval(formula, {}, values))
        except ZeroDivisionError:
            wanted = None
        assert rows_of(table)[2, 0.5, "ab"]["x"] == (wanted if wanted is None or math.isfinite(wanted) else None)

    @pytest.mark.parametrize(
        ("formula", "message"),
        [
            ("latency", "there is no column 'latency'; columns: width, rate, order, ms"),
            ("ms_2", "there is no column 'ms_2'; columns: width, rate, order, ms"),
            ("ms +", "is not a formula of the columns width, rate, order, ms"),
            ("", "is not a formula of the columns width, rate, order, ms"),
            ("ms ms", "is not a formula of the columns width, rate, order, ms"),
            ("ms ** 2", "only columns, numbers, + - * / and brackets can be used"),
            ("abs(ms)", "only columns, numbers, + - * / and brackets can be used"),
            ("ms if ms else ms", "only columns, numbers, + - * / and brackets can be used"),
            ("ms.real", "only columns, numbers, + - * / and brackets can be used"),
            ("ms + 'a'", "'a' is neither a column nor a number"),
            ("ms + 1j", "1j is neither a column nor a number"),
        ],
    )
    def test_what_is_no_formula_is_refused(self, opened, formula, message):
        with pytest.raises(DataError) as caught:
            opened(ONE_ROW.format("ms", 1), {"latency": formula})
        assert str(caught.value).endswith(f"table.csv: column of latency: {formula!r}: {message}")


ROW = "width,rate,order,ms\n2,0.5,ab,1\n"
# mtime=0, because a time stamp in the bytes would make the test ids differ between processes.
PACKED = gzip.compress(ROW.encode(), mtime=0)


class TestMessages:
    @pytest.mark.parametrize(
        ("content", "name", "message"),
        [
            (ROW, "table.csv.gz", r"table\.csv\.gz: must be gzipped, because its name ends in \.gz$"),
            (PACKED[:-9], "table.csv.gz", r"is not a text table \(EOFError\)$"),
            (b"\x1f\x8b\x08\0\0\0\0\0\0\3\xff" + b"\xff" * 40, "table.csv.gz", r"is not a text table \(error\)$"),
            (PACKED, "table.csv", r"is not a text table \(UnicodeDecodeError\)$"),
            ("", "table.csv", r"table\.csv: must hold a header and at least one row, got an empty file$"),
            ("width,rate,order,ms\n", "table.csv", r"table\.csv: must hold at least one row below the header$"),
            ("width,rate,order,ms\n\n\n", "table.csv", r"table\.csv: must hold at least one row below the header$"),
            (ROW + "2,0.5,ab\n", "table.csv", r"table\.csv, line 3: must have 4 cells, like the header, got 3$"),
            ("width,rate,order,ms,ms\n2,0.5,ab,1,2\n", "table.csv", r"names must be unique, got 'ms' more than once"),
            ("width,rate,order,ms\n2,0.5,ab," + "1" * 140_000, "table.csv", r"table\.csv: must be CSV: field larger than"),
            (
                "width,ms\n2,1\n",
                "table.csv",
                r"must hold a column for each choice of own, or .* arch .* cells; missing: rate, order$",
            ),
            (ROW.replace("2", "5"), "table.csv", r"line 2: not an architecture of own: .*'width' must be .*, got '5'$"),
            (ROW.replace("2,", "2.0,"), "table.csv", r"line 2: .*'width' must be one of \[2, 3, 4\], got '2\.0'"),
            (ROW + "3,0.5,ab,fast\n", "table.csv", r"table\.csv, line 3: ms must be a number, got 'fast'$"),
            (ROW + "2,0.5,ab,3\n", "table.csv", r"line 3: .*earlier row.*: \{'wi"),
        ],
    )  # fmt: skip
    def test_faults_of_a_file_are_refused(self, opened, content, name, message):
        with pytest.raises(DataError, match=message):
            opened(content, {"latency": "ms"}, name=name)

    def test_file_that_is_not_there(self, tmp_path):
        settings = {"evaluator": {"name": "table", "path": str(tmp_path / "gone.csv"), "columns": {"latency": "ms"}}}
        config = nas.parse_config({**settings, "objective": {"minimise": ["latency"], "constraints": {}}})
        with pytest.raises(DataError, match=r"gone\.csv: No such file or directory$"):
            search_events(config, tmp_path / "run")
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("metric", ["adversarial_error", "clean_error", "adversarial_error@0.1_error"])
    def test_accuracy_where_an_error_is_due(self, opened, metric):
        content = ONE_ROW.format("acc", 91.5)
        with pytest.raises(DataError) as caught:
            opened(content, {metric: "acc"})
        message = str(caught.value)
        assert f"table.csv, line 2: {metric} must be" in message
        assert "from 0 to 1, got 91.5; " in message
        assert message.endswith("1 - COLUMN / 100")
        assert rows_of(opened(content, {metric: "1 - acc / 100"}))[2, 0.5, "ab"][metric] == pytest.approx(0.085)
        with pytest.raises(DataError, match=r"from 0 to 1, got -0\.915"):
            opened(content, {metric: "-acc / 100"})

    @pytest.mark.parametrize(
        ("arch", "message"),
        [
            ("model-17", r"arch must be written as \|nor_conv_3x3~0\|\+\|skip_connect~0\|none~1\|\+\.\.\., got 'model-17'$"),
            ("|conv~0|", r"arch must be written as .*, got '\|conv~0\|'$"),
            ("|none~0|", r"line 2: not an architecture of cell201: choice 'edge02' is missing"),
            (ARCH.replace("none~2", "none~5"), r"line 2: not an architecture of cell201: unknown choice 'edge53'"),
        ],
    )
    def test_what_is_no_cell_of_nasbench201(self, opened, arch, message):
        with pytest.raises(DataError, match=message):
            opened(f"arch,ms\n{arch},7\n", {"latency": "ms"}, space="cell201")


class TestAnswers:
    def test_no_row_is_a_failure_with_its_reason(self, opened):
        table = opened(ROW, {"latency": "ms"}, objective=["latency"])
        _, outcome = answer(table, {**FIRST, "width": 3})
        assert outcome.metrics == {}
        assert "table does not hold" in outcome.reason

    def test_empty_cell_is_a_failure_only_where_it_is_asked_for(self, opened):
        content, columns = "width,rate,order,a,b,c\n2,0.5,ab,1,,\n", {"a": "a", "b": "b", "c": "c"}
        assert answer(opened(content, columns, objective=["a"]), FIRST)[1].metrics == {"a": 1.0}
        _, outcome = answer(opened(content, columns, objective=["a", "b"], constraints={"c": 1}), FIRST)
        assert outcome.metrics == {}
        assert "table holds no b, c" in outcome.reason

    def test_proposed_row_goes_before_the_canonical_one(self, opened):
        content = "width,rate,order,ms\n2,0.5,ab,1\n2,0.5,ba,2\n3,0.5,ab,3\n"
        table = opened(content, {"latency": "ms"}, objective=["latency"])
        proposals = [FIRST, {**FIRST, "order": "ba"}, {**FIRST, "width": 3, "order": "ba"}]
        assert [answer(table, proposed)[1].metrics["latency"] for proposed in proposals] == [1.0, 2.0, 3.0]

    @pytest.mark.parametrize("width", WIDTHS)
    def test_parameters_and_macs_are_counted_where_the_table_lacks_them(self, opened, width):
        content = f"width,rate,order,ms\n{width},0.5,ab,1\n"
        table = opened(content, {"latency": "ms"}, objective=["latency", "macs"], constraints={"parameters": 1e9})
        known, outcome = answer(table, {**FIRST, "width": width})
        # 16 pixels and 3 classes.
        assert known == {"parameters": 17 * width + 3 * (width + 1), "macs": 16 * width + 3 * width}
        assert outcome.metrics == {"latency": 1.0}

    def test_column_goes_before_counting(self, opened):
        content = "width,rate,order,params,ms\n2,0.5,ab,0.5,1\n3,0.5,ab,,1\n"
        table = opened(content, {"parameters": "params * 1000000", "latency": "ms"}, objective=["parameters", "latency"])
        known, outcome = answer(table, FIRST)
        assert known["parameters"] == outcome.metrics["parameters"] == 500_000
        known, outcome = answer(table, {**FIRST, "width": 3})
        assert (known["parameters"], outcome.reason) == (17 * 3 + 3 * 4, None)

    def test_no_network_is_built_where_the_objective_needs_no_counts(self, opened, monkeypatch):
        monkeypatch.setattr("nas.evaluation.table.parameters", lambda network: 1 / 0)
        assert answer(opened(ROW, {"latency": "ms"}, objective=["latency"]), FIRST)[0] == {}


ERRORS = {"adversarial_error": "adv", "clean_error": "1 - acc / 100"}
TRAININGS = (
    "width,rate,order,seed,state,adv,acc,adv[1],acc[1],adv[2],acc[2],acc[3]\n"
    "2,0.5,ab,0,complete,0.25,90,0.75,60,0.5,70,80\n"
    "2,0.5,ab,1,complete,0.125,95,0.625,65,0.375,75,85\n"
    "3,0.5,ab,0,infeasible,,,,,,,\n"
    "4,0.5,ab,0,failed,,,0.875,50,,,\n"
)


class TestTrainings:
    """Several trainings of an architecture, and their epochs."""

    @pytest.fixture
    def table(self, opened):
        return opened(TRAININGS, ERRORS, objective=["adversarial_error"])

    @staticmethod
    def run(table, width, seed):
        """Returns the events of a trial and its result."""
        architecture = {"width": width, "rate": 0.5, "order": "ab"}
        events, steps = [], table(Job(0, architecture, architecture, seed=seed), Checkpoint())
        while True:
            try:
                events.append(next(steps))
            except StopIteration as stop:
                return events, stop.value

    def test_seed_draws_a_training(self, table):
        drawn = [self.run(table, 2, seed)[1].metrics["adversarial_error"] for seed in range(200)]
        assert set(drawn) == {0.25, 0.125}
        assert 60 <= drawn.count(0.25) <= 140  # 100, with a standard deviation of 7.
        assert drawn == [self.run(table, 2, seed)[1].metrics["adversarial_error"] for seed in range(200)]

    def test_epochs_are_those_of_the_drawn_training(self, table):
        for seed in range(10):
            (_, *epochs), result = self.run(table, 2, seed)
            after = {0.25: [(0.75, 0.4), (0.5, 0.3)], 0.125: [(0.625, 0.35), (0.375, 0.25)]}
            wanted = after[result.metrics["adversarial_error"]]
            assert [(e.adversarial_error, pytest.approx(e.clean_error)) for e in epochs] == wanted
            assert [(e.epoch, e.epochs, e.loss, e.rung) for e in epochs] == [(1, 2, None, False), (2, 2, None, False)]
            assert result.epochs == tuple(epochs)

    def test_network_without_a_path_is_infeasible(self, table):
        events, result = self.run(table, 3, 0)
        assert [event.constant for event in events] == [True]
        assert result.infeasible == "no path leads from the image to the logits"

    def test_training_without_all_epochs_fails_under_early_stopping(self, table):
        stopping = Halving(first=0.5, reduction=3)
        config = replace(table.config, search=replace(table.config.search, stopping=stopping))
        table = replace(table, config=config)
        assert self.run(table, 4, 0)[1].reason == "the table holds no adversarial_error[2] for this architecture"

    def test_same_seed_twice_is_refused(self, opened):
        with pytest.raises(DataError, match=r"line 6: repeats the architecture of an earlier row, with other values"):
            opened(TRAININGS + "2,0.5,ab,1,complete,0.5,95,0.625,65,0.375,75,85\n", ERRORS)

    def test_early_stopping_stops_at_rungs_of_the_table(self, tmp_path):
        """The error falls with the width at every epoch, so a wider network never stops after narrower ones."""
        rows = [f"{w},{r},{o},{(9 - w) / 10},{(9 - w) / 5 / 2}" for w, r, o in itertools.product(WIDTHS, RATES, ORDERS)]
        (tmp_path / "own.py").write_text(SPACE, encoding="utf-8")
        (tmp_path / "t.csv").write_text("\n".join(["width,rate,order,adv,adv[1]", *rows]), encoding="utf-8")
        settings = {
            "space": f"{tmp_path / 'own.py'}:space",
            "evaluator": {"name": "table", "path": str(tmp_path / "t.csv"), "columns": {"adversarial_error": "adv"}},
            "objective": {"constraints": {}},
            "search": {"trials": 12, "stopping": {"first": 0.5, "reduction": 3}},
        }
        with pytest.raises(DataError, match=r"t\.csv: search\.stopping has no rung in its 1 epochs; lower"):
            search_events(nas.parse_config(settings), tmp_path / "few")
        rows = [f"{row},{row.rpartition(',')[2]}" for row in rows]
        (tmp_path / "t.csv").write_text("\n".join(["width,rate,order,adv,adv[1],adv[2]", *rows]), encoding="utf-8")
        run = nas.search(nas.parse_config(settings), tmp_path / "run")
        assert {trial.state for trial in run.trials} == {"complete", "pruned"}
        best_so_far = 0
        for trial in run.trials:
            assert [rung["epoch"] for rung in trial.rungs] == [1]
            if trial.architecture["width"] > best_so_far:
                assert trial.state == "complete"
            best_so_far = max(best_so_far, trial.architecture["width"])

    def test_stopping_without_epochs_is_refused(self, config, tmp_path):
        config = replace(config, search=replace(config.search, stopping=Halving()))
        with pytest.raises(DataError) as caught:
            search_events(config, tmp_path / "run")
        assert str(caught.value) == (
            f"{tmp_path / 'table.csv'}: has no adversarial_error after each epoch, which search.stopping needs: columns "
            "that end in [1], [2] and so on, for each column of its formula, as `hardcell tabulate` writes them; or set "
            "search.stopping to null"
        )

    def test_missing_epochs_do_not_matter_without_early_stopping(self, opened):
        gap = opened("width,rate,order,adv,adv[1],adv[3],acc,acc[1],acc[2]\n2,0.5,ab,0.25,0.75,0.5,90,80,70\n", ERRORS)
        events, result = self.run(gap, 2, 0)
        assert (len(events), result.reason, gap.epochs) == (2, None, 1)
        hole = opened("width,rate,order,adv,adv[1],adv[2]\n2,0.5,ab,0.25,0.75,\n", {"adversarial_error": "adv"})
        events, result = self.run(hole, 2, 0)
        assert (len(events), result.metrics) == (2, {"adversarial_error": 0.25})

    def test_first_objective_that_needs_training_is_compared(self, opened):
        table = opened("width,rate,order,adv,adv[1]\n2,0.5,ab,0.25,0.75\n", {"robust": "adv"}, objective=["macs", "robust"])
        (_, epoch), _ = self.run(table, 2, 0)
        assert (table.error, epoch.adversarial_error) == ("robust", 0.75)


class TestSettings:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"columns": {"a": "b"}}, "path must name a CSV file"),
            ({"path": "t.csv"}, "columns must hold at least one metric, such as adversarial_error: 1 - pgd_1.0 / 100"),
            (
                {"path": "t.csv", "columns": {"a": "b"}, "image": [3, 0, 32]},
                "image must hold sizes of at least 1, and classes",
            ),
            (
                {"path": "t.csv", "columns": {"a": "b"}, "classes": 1},
                "image must hold sizes of at least 1, and classes must be",
            ),
        ],
    )
    def test_invalid_settings_are_refused(self, settings, message):
        with pytest.raises(ConfigError) as caught:
            nas.parse_config({"evaluator": {"name": "table", **settings}})
        assert any(f"config: evaluator is refused: {message}" in fault for fault in caught.value.faults)

    @pytest.mark.parametrize("key", ["minimise", "constraints"])
    def test_metric_that_no_column_holds(self, key):
        objective = {"minimise": ["latency"], "constraints": {}}
        objective[key] = ["latency", "flops"] if key == "minimise" else {"flops": 1}
        with pytest.raises(ConfigError) as caught:
            nas.parse_config(
                {"evaluator": {"name": "table", "path": "t.csv", "columns": {"latency": "ms"}}, "objective": objective}
            )
        assert caught.value.faults == (
            f"config: objective.{key} must hold metrics of evaluator.columns (latency, parameters, macs), got 'flops'; "
            "if it comes from a default, set objective.minimise, or objective.constraints: {}",
        )

    def test_path_is_relative_to_the_config(self, tmp_path):
        path = tmp_path / "table.yaml"
        evaluator = {"name": "table", "path": "t.csv", "columns": {"latency": "ms"}}
        path.write_text(yaml.safe_dump({"evaluator": evaluator, "objective": {"minimise": ["latency"], "constraints": {}}}))
        assert nas.load_config(path).evaluator.path == str(tmp_path / "t.csv")


def latency(width, rate, order):
    """Returns a distinct number for every architecture, including the two orders."""
    return 10 * width + RATES.index(rate) + 0.5 * ORDERS.index(order)


@pytest.fixture
def config(tmp_path):
    """A config with a table that lacks width 3 with rate None."""
    (tmp_path / "own.py").write_text(SPACE, encoding="utf-8")
    with (tmp_path / "table.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["width", "rate", "order", "ms", "acc"])
        for row in itertools.product(WIDTHS, RATES, ORDERS):
            if row[:2] != (3, None):
                table.writerow([*row, latency(*row), 50 + latency(*row)])
    return nas.parse_config(
        {
            "space": f"{tmp_path / 'own.py'}:space",
            "evaluator": {
                "name": "table",
                "path": str(tmp_path / "table.csv"),
                "columns": {"latency": "ms", "adversarial_error": "1 - acc / 100"},
                "image": [1, 4, 4],
                "classes": 3,
            },
            "objective": {"minimise": ["latency", "adversarial_error"], "constraints": {"parameters": 80}},
            "search": {"trials": 12, "random_trials": 6},
        }
    )


def test_search_from_the_config_to_the_report(config, tmp_path, study_content, monkeypatch):
    monkeypatch.setattr("nas.pipeline.prepare.open_data", lambda *args: 1 / 0)
    run = nas.search(config, tmp_path / "run")
    # Each of the 12 distinct functions is tried once. Widths 2, 3 and 4 have 43, 63 and 83 parameters; the bound is 80.
    assert len({trial.key for trial in run.trials}) == 12
    states = {}
    for trial, in_study in zip(run.trials, study_content(run.folder.path), strict=True):
        proposed = in_study["attributes"]["proposed"]
        states.setdefault(trial.state, set()).add((proposed["width"], proposed["rate"]))
        if trial.state == "complete":
            value, width = latency(**proposed), proposed["width"]
            assert in_study["values"] == [value, pytest.approx(0.5 - value / 100)]
            counted = {"parameters": 17 * width + 3 * (width + 1), "macs": 19 * width}
            assert trial.metrics == {"latency": value, "adversarial_error": in_study["values"][1], **counted}
        elif trial.state == "infeasible":
            assert trial.reason == "parameters 83 exceeds 80"
        else:
            assert trial.reason == "the table does not hold this architecture"
    assert states == {
        "complete": {(width, rate) for width in (2, 3) for rate in RATES} - {(3, None)},
        "infeasible": {(4, rate) for rate in RATES},
        "failed": {(3, None)},
    }
    assert run.bundles == ()
    assert not run.folder.bundles.exists()
    assert len(run.folder.leaderboard.read_text().splitlines()) == 13
    page = run.folder.report.read_text()
    assert f"From the table <code>{tmp_path / 'table.csv'}</code>" in page
    assert "bundle" not in page.lower()


def test_metrics_of_ones_own_alone_make_a_report(config, tmp_path):
    columns = replace(config.evaluator, columns={"latency": "ms"})
    for minimise in (("latency",), ("latency", "macs", "parameters")):
        objective = ObjectiveConfig(minimise=minimise, constraints={})
        run = nas.search(replace(config, evaluator=columns, objective=objective), tmp_path / str(len(minimise)))
        assert run.folder.report.exists()


def test_resumed_search_is_as_uninterrupted(config, tmp_path, study_content):
    nas.search(config, tmp_path / "whole")
    events = search_events(config, tmp_path / "broken")
    next(event for event in events if isinstance(event, TrialFinished))
    events.close()
    nas.resume(tmp_path / "broken")
    assert study_content(tmp_path / "broken") == study_content(tmp_path / "whole")


def test_changed_table_is_refused(config, tmp_path):
    events = search_events(config, tmp_path / "run")
    next(event for event in events if isinstance(event, TrialFinished))
    events.close()
    table = tmp_path / "table.csv"
    content = table.read_bytes()
    table.write_bytes(content + b"3,None,ab,1,60\r\n")
    with pytest.raises(RunError, match=r"run: the table has changed .*; start a new run$"):
        resume_events(tmp_path / "run")
    assert read_run(tmp_path / "run").trials  # Reading a run does not need its table.
    table.write_bytes(content)
    assert isinstance(next(resume_events(tmp_path / "run")), RunStarted)


def test_command_line_searches_names_the_table_and_refuses_to_export(config, tmp_path, cli):
    from nas.config.writer import dump_config

    path = tmp_path / "table.yaml"
    path.write_text(dump_config(config))
    code, out, err = cli("search", path, "--run", tmp_path / "run")
    assert (code, err) == (0, "")
    assert "a table of 22 measured architectures" in out
    assert str(tmp_path / "run" / "report.html") in out
    code, _, err = cli("export", tmp_path / "run")
    assert code == 2
    assert "run: its trials come from a table" in err
    assert not (tmp_path / "run" / "bundles").exists()
