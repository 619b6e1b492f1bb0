"""Resolution of names in YAML, and its messages."""

import math
import re
import sys

import pytest

from nas.resolve import absolute, resolve

TABLE = {"red": 1, "green": 2, "blue": 3}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text("thing = object()\n")
    (tmp_path / "broken.py").write_text("import no_such_module_at_all\n")
    (tmp_path / "wrong.py").write_text("def (\n")
    return tmp_path


def test_a_name_of_the_table_is_its_entry():
    assert [resolve(name, TABLE) for name in TABLE] == [1, 2, 3]


def test_the_table_comes_before_files_and_modules():
    assert resolve("math:pi", {"math:pi": 3}) == 3


def test_a_name_in_a_module_is_its_attribute():
    assert resolve("math:pi", TABLE) == math.pi
    assert resolve("os.path:sep", TABLE) == "/"


def test_a_file_is_relative_to_the_folder(folder):
    thing = resolve("mine.py:thing", TABLE, folder)
    assert thing is resolve(f"{folder}/mine.py:thing", TABLE)
    assert thing is resolve(f"{folder}/../{folder.name}/mine.py:thing", TABLE)


def test_a_file_is_relative_to_the_working_directory_without_a_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert resolve("mine.py:thing", TABLE) is resolve("mine.py:thing", TABLE, folder)


def test_files_of_one_name_in_two_folders_do_not_meet(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "space.py").write_text(f"where = {name!r}\n")
    assert [resolve("space.py:where", TABLE, tmp_path / name) for name in ("a", "b")] == ["a", "b"]


def test_a_colon_in_the_path_is_part_of_the_path(tmp_path):
    (tmp_path / "a:b.py").write_text("x = 1\n")
    assert resolve("a:b.py:x", TABLE, tmp_path) == 1


def test_a_file_that_exits_is_refused(tmp_path):
    (tmp_path / "space.py").write_text("import sys\n\nsys.exit(3)\n")
    with pytest.raises(ValueError, match=r"space\.py is a script"):
        resolve("space.py:choices", TABLE, tmp_path)


def test_a_dict_with_one_key_twice_is_refused(tmp_path):
    """Python keeps only the second value of a key, so the first one would be lost."""
    (tmp_path / "space.py").write_text("choices = {\n    'width': 1,\n    'depth': 2,\n    'width': 3,\n}\n")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"space\.py, line 4: duplicate key 'width'"):
            resolve("space.py:choices", TABLE, tmp_path)


def test_the_line_that_led_to_an_error_is_named(tmp_path):
    (tmp_path / "space.py").write_text(
        "from search_spaces import Choice\n\nwidth = Choice(1, 2)\nkernel = Choice([3], [5])\n"
    )
    with pytest.raises(ValueError, match=r"space\.py, line 4, does not import: TypeError: a choice must hold plain values"):
        resolve("space.py:width", TABLE, tmp_path)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("gren", r"^must be one of red, green, blue, or FILE\.py:NAME, got 'gren'; did you mean 'green'\?$"),
        ("zzz", r"^must be one of red, green, blue, or FILE\.py:NAME, got 'zzz'$"),
        ("", r"got ''$"),
        ("none.py:thing", r"none\.py does not exist$"),
        ("broken.py:thing", r"broken\.py, line \d+, does not import: ModuleNotFoundError: No module named 'no_such_module_"),
        ("wrong.py:thing", r"wrong\.py does not import: SyntaxError: "),
        ("mine.py:other", r"^mine\.py has no 'other'$"),
        ("mine.py:", r"^mine\.py has no ''$"),
        ("math:pie", r"^math has no 'pie'$"),
        ("no_such_module:x", r"^module 'no_such_module' does not import: ModuleNotFoundError: "),
        (".relative:x", r"^module '\.relative' does not import: TypeError: "),
        (":x", r"^module '' does not import: ValueError: "),
    ],
)
def test_what_does_not_exist_is_refused(folder, reference, message):
    with pytest.raises(ValueError, match=message):
        resolve(reference, TABLE, folder)


def test_a_file_that_failed_is_read_again_when_mended(folder):
    with pytest.raises(ValueError, match="does not import"):
        resolve("broken.py:x", TABLE, folder)
    assert not any("broken" in name for name in sys.modules if name.startswith("hardcell_user"))
    (folder / "broken.py").write_text("x = 1\n")
    assert resolve("broken.py:x", TABLE, folder) == 1


def test_absolute_changes_relative_files_alone(folder, monkeypatch):
    for same in ("red", "zzz", "math:pi", f"{folder}/mine.py:thing"):
        assert absolute(same, TABLE, folder) == same
    assert absolute("mine.py:thing", TABLE, folder) == f"{folder.resolve()}/mine.py:thing"
    assert absolute("./sub/../mine.py:thing", TABLE, folder) == f"{folder.resolve()}/mine.py:thing"
    monkeypatch.chdir(folder)
    assert absolute("mine.py:thing", TABLE) == f"{folder.resolve()}/mine.py:thing"
    assert re.fullmatch(r"/.*/mine\.py:thing", absolute("mine.py:thing", TABLE))


def test_absolute_means_the_same_thing_elsewhere(folder, tmp_path_factory, monkeypatch):
    reference = absolute("mine.py:thing", TABLE, folder)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert resolve(reference, TABLE) is resolve("mine.py:thing", TABLE, folder)
