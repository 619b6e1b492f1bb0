"""Metrics computed from the columns of a table."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from nas.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from evaluators.table import TableText


_OPERATORS: dict[type[ast.AST], Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


@final
@dataclass(frozen=True)
class Formula:
    """A formula over the columns of a table.

    Attributes:
        tree: The parsed expression.
        columns: Name of the column that each variable of the expression stands for. Variables are column0, column1, ...
    """

    tree: ast.expr
    columns: Mapping[str, str]


def parse_formula(text: str, header: Sequence[str], place: str) -> Formula:
    """Returns the parsed formula. Names of columns in the text may contain any characters.

    Args:
        text: The formula, such as 1 - pgd_1.0 / 100.
        header: Names of the columns.
        place: File and key, for messages.

    Raises:
        DataError: the text is not a formula of columns, numbers, + - * / and brackets.
    """
    # Numbers have precedence over columns with a numeric name such as 1.
    named = [name for name in header if name and not re.fullmatch(r"[\d.]+", name)]
    names = "|".join(re.escape(name) for name in sorted(named, key=len, reverse=True)) or "(?!)"
    columns: dict[str, str] = {}

    def stands_for(match: re.Match[str]) -> str:
        columns[f"column{len(columns)}"] = match[0]
        return f" column{len(columns) - 1} "

    written = re.sub(rf"(?<![\w.])(?:{names})(?![\w.])", stands_for, str(text))
    try:
        tree = ast.parse(written.strip(), mode="eval").body
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and node.id not in columns:
                raise ValueError(f"there is no column {node.id!r}; columns: {', '.join(header)}")
            if isinstance(node, ast.Constant) and not isinstance(node.value, int | float):
                raise ValueError(f"{node.value!r} is neither a column nor a number")
            known = (ast.Name, ast.Constant, ast.BinOp, ast.UnaryOp, ast.Load, *_OPERATORS)
            if not isinstance(node, known):
                raise ValueError("only columns, numbers, + - * / and brackets can be used")
    except (SyntaxError, ValueError) as error:
        message = f"is not a formula of the columns {', '.join(header)}" if isinstance(error, SyntaxError) else str(error)
        raise DataError(f"{place}: {text!r}: {message}") from error
    return Formula(tree, columns)


def evaluate_formula(formula: Formula, table: TableText, cells: Mapping[str, str], path: Path, line: int) -> float | None:
    """Returns the value of a formula in a row; None if a required cell is empty or the value is not finite.

    Raises:
        DataError: a required cell is not a number.
    """
    numbers: dict[str, float] = {}
    for name, column in formula.columns.items():
        number = table.number(cells[column])
        if number is None:
            raise DataError(f"{path}, line {line}: {column} must be a number, got {cells[column]!r}")
        if math.isnan(number):
            return None
        numbers[name] = number

    def compute(node: ast.AST) -> float:
        match node:
            case ast.Name():
                return numbers[node.id]
            case ast.BinOp():
                return float(_OPERATORS[type(node.op)](compute(node.left), compute(node.right)))
            case ast.UnaryOp():
                return float(_OPERATORS[type(node.op)](compute(node.operand)))
            case _:
                assert isinstance(node, ast.Constant)
                return float(node.value)  # type: ignore[arg-type]

    try:
        value = compute(formula.tree)
    except (ZeroDivisionError, OverflowError):
        return None
    return value if math.isfinite(value) else None
