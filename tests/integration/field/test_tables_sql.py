"""Tables in databases: read by a Block without writing, results back into a table, and no credential in any text."""

from __future__ import annotations

import logging
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prefect_sqlalchemy import AsyncSqlAlchemyConnector, SqlAlchemyConnector

from prefect_genmedia import JeniusCredentials, errors
from prefect_genmedia.flows.batch import _run_name, generate_batch
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.simulator.media import Recipe
from prefect_genmedia.simulator.world import World

pytestmark = pytest.mark.usefixtures("prefect_server")

PHOTO = "https://example.com/a.jpg"
SECRET = "correct-horse-battery"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    file = tmp_path / "shop.db"
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE posters (id INTEGER, image_url TEXT, scene TEXT, price REAL)")
        database.executemany(
            "INSERT INTO posters VALUES (?, ?, ?, ?)", [(1, PHOTO, "firework", 9.5), (2, PHOTO, "firework", None)]
        )
        database.commit()
    SqlAlchemyConnector(connection_info=f"sqlite:///{file}").save("shop", overwrite=True, _sync=True)
    return file


@pytest.fixture
def options(simulator: RunningSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    rendered = World._rendered

    async def few_frames(world: World, recipe: Recipe) -> bytes:
        return await rendered(world, Recipe(None, short_side=720, ratio=16 / 9, rate=1, frames=5))

    monkeypatch.setattr(World, "_rendered", few_frames)
    account = JeniusCredentials(api_key=simulator.key, base_url=simulator.jenius_url)
    return {"kind": "poster", "credentials": account, "output": str(tmp_path / "out")}


def selected(file: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(file)) as database:
        return database.execute(query).fetchall()


async def test_a_table_is_read_and_its_results_go_back_into_a_table(
    shop: Path, options: dict[str, Any], simulator: RunningSimulator
) -> None:
    for _ in range(2):
        report = await generate_batch("sql://shop/posters", **options, results="sql://shop/poster_results")
        assert (report.batch_id, report.results) == ("posters", "sql://shop/poster_results")
        assert (report.delivered, simulator.accepted) == (2, 2)
        rows = selected(shop, "SELECT id, state, price, width FROM poster_results ORDER BY id")
        assert [(row[0], row[1], row[2]) for row in rows] == [("1", "delivered", "9.5"), ("2", "delivered", None)]
        assert all(isinstance(row[3], int) for row in rows)


async def test_a_query_is_read_and_needs_a_name(shop: Path, options: dict[str, Any]) -> None:
    query = "sql://shop/SELECT * FROM posters WHERE scene LIKE 'fire%' AND price > 2;"
    plan = await generate_batch(query, **options, batch_id="dear ones", dry_run=True)
    assert plan.states == {"submit": 1}
    with pytest.raises(errors.InvalidRequest, match="batch_id: is needed: a query has no name"):
        await generate_batch(query, **options, dry_run=True)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("sql://shop/DELETE FROM posters", "must be a table's name, or one SELECT"),
        ("sql://shop/SELECT 1; DROP TABLE posters", "without ';'"),
        ("sql://user:pass@host/shop", "names a Block of prefect-sqlalchemy, never a URL"),
        ("sql://shop", "names a Block"),
        ("sql://absent/posters", "there is no Block sqlalchemy-connector/absent"),
        ("sql://shop/WITH x AS (SELECT 1) DELETE FROM posters", "readonly database"),
        ("sql://shop/absent", "no such table: absent"),
        ("sql://shop/SELECT id, id FROM posters", "the column 'id' twice"),
        ("sql://shop/SELECT * FROM posters WHERE 0", "it has no rows"),
    ],
)
async def test_what_is_no_table_is_refused_and_nothing_is_written(
    table: str, said: str, shop: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(errors.InvalidRequest) as caught:
        await generate_batch(table, **options, batch_id="b", dry_run=True)
    assert said in str(caught.value)
    assert len(selected(shop, "SELECT * FROM posters")) == 2


async def test_results_never_replace_a_table_of_the_users(shop: Path, options: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidRequest, match="results: is the table itself"):
        await generate_batch("sql://shop/posters", **options, results="sql://shop/posters")
    rows = [{"id": "a", "image_url": PHOTO, "scene": "firework"}]
    with pytest.raises(errors.InvalidRequest, match="has no columns account, attempts"):
        await generate_batch(rows, **options, results="sql://shop/posters")
    assert len(selected(shop, "SELECT * FROM posters")) == 2


async def test_a_missing_package_names_its_pip_line(
    shop: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "prefect_sqlalchemy", None)
    with pytest.raises(errors.InvalidRequest, match=r"pip install 'prefect-genmedia\[sql\]'"):
        await generate_batch("sql://shop/posters", **options, dry_run=True)


async def test_no_credential_of_the_block_is_shown(options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    url = f"postgresql+asyncpg://anna:{SECRET}@127.0.0.1:9/shop"
    await AsyncSqlAlchemyConnector(connection_info=url).save("far", overwrite=True)
    with caplog.at_level(logging.DEBUG), pytest.raises(errors.InvalidRequest) as caught:
        await generate_batch("sql://far/posters", **options, dry_run=True)
    assert "sql://far/posters cannot be read" in str(caught.value)
    assert SECRET not in str(caught.value) + caplog.text


def test_a_runs_name_has_nothing_of_a_query(monkeypatch: pytest.MonkeyPatch) -> None:
    class Run:
        parameters = {"table": "sql://shop/SELECT 'secret'", "batch_id": "", "shard": None}  # noqa: RUF012

    monkeypatch.setattr("prefect_genmedia.flows.batch.flow_run", Run)
    assert _run_name() == "batch · shop/…"
