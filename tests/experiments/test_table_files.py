"""A user's own table: what is read of it, and what is said of one that cannot be used."""

import csv
import json

import numpy as np
import pytest

from experiments import imbalance, tabular
from experiments.data.long_tail import pool_of_file
from experiments.data.table_files import TableConfig, read_table_file, read_task
from experiments.models.pipelines import POISSON, suits
from train.errors import UsageError

ROWS = [
    {
        "id": f"h{i}",
        "area": "" if i % 9 == 0 else str(20 + i),
        "city": "NA" if i % 10 == 3 else ("Ankara", "Izmir")[i % 2],
        "price": str(3 * i + 0.5),
        "dear": "yes" if i % 4 == 0 else "no",
    }
    for i in range(120)
]


def write(path, rows, delimiter=",", encoding="utf-8"):
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps({k: v or None for k, v in row.items()}) for row in rows))
        return path
    with path.open("w", newline="", encoding=encoding) as file:
        table = csv.DictWriter(file, rows[0], delimiter=delimiter)
        table.writeheader()
        table.writerows(rows)
    return path


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.csv", {}),
        ("a.csv", {"encoding": "utf-8-sig"}),
        ("a.csv", {"delimiter": ";"}),
        ("a.tsv", {"delimiter": "\t"}),
        ("a.jsonl", {}),
    ],
)
def test_all_kinds_of_files_hold_the_same_table(name, options, tmp_path):
    path = write(tmp_path / name, ROWS, **options)
    table, classes = read_table_file(TableConfig(str(path), "price"))
    assert (table.name, classes) == (name, ())
    assert table.columns == ("area", "city Ankara", "city Izmir", "dear no", "dear yes")  # each id is rare
    np.testing.assert_array_equal(table.target, np.arange(120, dtype=np.float32) * 3 + 0.5)
    np.testing.assert_array_equal(np.isnan(table.features[:, 0]), np.arange(120) % 9 == 0)
    assert table.features[3, 1:3].tolist() == [0, 0]
    assert table.features[4, 1:3].tolist() == [1, 0]
    table, classes = read_table_file(TableConfig(str(path), "dear"))
    assert classes == ("no", "yes")  # the rarer class is 1
    np.testing.assert_array_equal(table.target, np.arange(120) % 4 == 0)


def change(**values):
    return [row | values if i == 7 else row for i, row in enumerate(ROWS)]


@pytest.mark.parametrize(
    ("rows", "target", "message"),
    [
        (ROWS[:99], "price", "has 99 rows, expected at least 100"),
        (ROWS, "prize", "should name the column 'prize', but it has 'id', 'area'.*--data.target"),
        (
            change(price=""),
            "price",
            "Line 9 of a.csv .*'price' is empty, expected a word or a number.*--data.skip-budget",
        ),
        (change(area="12 m"), "price", "column 'area' of a.csv has numbers, but line 9 has '12 m'; write a number"),
        (change(price="much"), "price", "column 'price' of a.csv has numbers, but line 9 has 'much'"),
        ([row | {"price": "7"} for row in ROWS], "price", "is '7' in all rows; give one that differs"),
        ([{"price": row["price"], "x": "1"} for row in ROWS], "price", "no column of a.csv but 'price' has different"),
        ([row | {"price": str(i % 3)} for i, row in enumerate(ROWS)], "price", "has 3 classes, expected two"),
        (ROWS[:110], "price", "has 110 rows, and 115 are needed"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(rows, target, message, tmp_path):
    path = write(tmp_path / "a.csv", rows)
    with pytest.raises(UsageError, match=message):
        read_task(TableConfig(str(path), target), least=115)


def test_words_are_no_numbers_and_names_are_not_given_twice(tmp_path):
    path = write(tmp_path / "a.csv", ROWS)
    with pytest.raises(UsageError, match="has words such as 'yes', expected numbers for a regression"):
        read_table_file(TableConfig(str(path), "dear", task="regression"))
    path.write_text("a,a,price\n1,2,3\n")
    with pytest.raises(UsageError, match="has 'a' twice; give each column a name of its own"):
        read_table_file(TableConfig(str(path), "price"))
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"price": i, "x": [i]}) for i in range(120)))
    with pytest.raises(UsageError, match=r"'x' in line 1 of a.jsonl is no number and no word"):
        read_table_file(TableConfig(str(path), "price"))


def test_a_pool_of_a_users_table_has_no_gaps_and_the_same_scale(tmp_path):
    path = write(tmp_path / "a.csv", ROWS)
    pool = pool_of_file(TableConfig(str(path), "dear"), seed=0)
    assert (len(pool.x), len(pool.test_x), pool.classes) == (90, 30, 2)
    np.testing.assert_allclose(pool.x.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(pool.x.std(0), 1, rtol=1e-5)
    assert np.isfinite(pool.test_x).all()
    with pytest.raises(UsageError, match=r"needs a classification, but 'price' of a.csv is for a regression"):
        pool_of_file(TableConfig(str(path), "price"), seed=0)
    path = write(tmp_path / "b.csv", [row | {"dear": "maybe"} if i < 11 else row for i, row in enumerate(ROWS)])
    with pytest.raises(UsageError, match=r"class 'maybe' of b.csv has 11 rows, expected at least 12"):
        pool_of_file(TableConfig(str(path), "dear"), seed=0)


def test_arms_that_do_not_suit_a_table_are_left_out(tmp_path):
    path = write(tmp_path / "a.csv", [row | {"price": f"-{row['price']}"} for row in ROWS])
    table = read_task(TableConfig(str(path), "price"), least=100)["regression"]
    assert not suits(POISSON, table, 32)
    assert suits("MAE", table, 32)
    assert not suits("rows dropped", table, 64)  # 106 rows are complete


@pytest.mark.full
def test_rare_classes_of_a_users_table(tmp_path):
    path = write(tmp_path / "a.csv", ROWS)
    config = imbalance.Config(data=TableConfig(str(path), "dear"), workdir=str(tmp_path / "run")).fast()
    summary = imbalance.main(config)
    assert {row["data"] for row in summary["runs"]} == {imbalance.OWN}
    assert all([*question["at"]] == [imbalance.OWN] for question in summary["questions"] if question["comparisons"])


@pytest.mark.full
@pytest.mark.parametrize("target", ["price", "dear"])
def test_the_study_runs_on_a_users_table(target, tmp_path):
    path = write(tmp_path / "a.csv", ROWS)
    config = tabular.Config(data=TableConfig(str(path), target), workdir=str(tmp_path / "run")).fast()
    summary = tabular.main(config)
    assert summary["title"].endswith(str(path))
    assert {row["task"] for row in summary["runs"]} == {"regression" if target == "price" else "classification"}
    assert all(question["by"] == "task" for question in summary["questions"])
