"""The store: the order of sources, types, everything missing at once, and swapping as a set."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import pytest

from pywatt_host.exceptions import SecretError
from pywatt_host.manifest.model.secrets import SecretKey
from pywatt_host.secrets import Masker, SecretStore, SecretsView
from tests.hosting import run


class Given:
    """A source that has what it is given, or is broken; it counts how often it is asked."""

    watched = False

    def __init__(self, label: str, values: Mapping[str, str] | None, broken: str = "") -> None:
        self.label = label
        self.values = dict(values or {})
        self.broken = broken
        self.asked: list[str] = []

    async def get(self, name: str) -> str | None:
        self.asked.append(name)
        await asyncio.sleep(0)
        if self.broken:
            raise SecretError(f"{self.label} {self.broken}")
        return self.values.get(name)

    def identity(self) -> object:
        return None


def store(keys: Mapping[str, SecretKey], *sources: Any, masker: Masker | None = None) -> SecretStore:
    return SecretStore(keys, sources, masker or Masker())


def keys(*names: str, **more: Any) -> dict[str, SecretKey]:
    return {name: SecretKey(**more) for name in names}


def test_the_first_source_that_has_a_secret_wins() -> None:
    async def main() -> None:
        upper, lower = Given("upper", {"A": "upper a"}), Given("lower", {"A": "lower a", "B": "lower b"})
        secrets = store(keys("A", "B"), upper, lower)
        await secrets.load()
        assert dict(secrets.secret_values) == {"A": "upper a", "B": "lower b"}
        assert lower.asked == ["B"]

    run(main)


def test_a_broken_source_is_not_passed_over_but_one_below_is_not_asked() -> None:
    async def main() -> None:
        has, broken = Given("has", {"A": "its own value"}), Given("vault", {}, "cannot be reached")
        await store(keys("A"), has, broken).load()
        assert broken.asked == []
        with pytest.raises(SecretError) as caught:
            await store(keys("A"), broken, has).load()
        assert caught.value.missing == (("A", "could not be read: vault cannot be reached"),)
        assert str(caught.value) == "Secret A could not be read: vault cannot be reached."

    run(main)


def test_all_that_is_missing_or_of_another_type_is_told_at_once_and_no_value_with_it() -> None:
    async def main() -> None:
        declared = {
            "HERE": SecretKey(),
            "URL": SecretKey(description="Where users live"),
            "KEY": SecretKey(),
            "COUNT": SecretKey(type="int"),
            "FLAG": SecretKey(type="bool"),
            "DOC": SecretKey(type="json"),
            "RATIO": SecretKey(type="float"),
            "MAYBE": SecretKey(required=False),
        }
        wrong = {"HERE": "hunter-1", "COUNT": "hunter-2", "FLAG": "hunter-3", "DOC": "hunter-4", "RATIO": "nan"}
        with pytest.raises(SecretError) as caught:
            await store(declared, Given("env", wrong), Given("dotenv .env", {})).load()
        assert caught.value.exit_code == 3
        assert caught.value.missing == (
            ("URL", "was not found (looked in: env, dotenv .env; description: Where users live)"),
            ("KEY", "was not found (looked in: env, dotenv .env)"),
            ("COUNT", "is not of type int"),
            ("FLAG", "is not of type bool"),
            ("DOC", "is not of type json"),
            ("RATIO", "is not of type float"),
        )
        assert str(caught.value) == (
            "6 secrets could not be loaded: "
            "URL was not found (looked in: env, dotenv .env; description: Where users live); "
            "KEY was not found (looked in: env, dotenv .env); COUNT is not of type int; FLAG is not of type bool; "
            "DOC is not of type json; RATIO is not of type float. Set them, or add a source under secrets.sources."
        )

    run(main)


def test_one_missing_secret_says_where_the_store_looked_and_what_to_do() -> None:
    async def main() -> None:
        with pytest.raises(SecretError) as caught:
            await store(keys("API_KEY"), Given("env", {}), Given("dotenv .env", {})).load()
        assert str(caught.value) == (
            "Secret API_KEY was not found (looked in: env, dotenv .env). Set it, or add a source under secrets.sources."
        )
        with pytest.raises(SecretError, match=r"Secret A was not found \(there is no source to look in\)\. Set it"):
            await store(keys("A")).load()

    run(main)


def test_nothing_declared_and_no_source_is_no_fault() -> None:
    run(store({}).load)


@pytest.mark.parametrize(
    ("kind", "text", "wanted", "value"),
    [
        ("str", " a ", str, " a "),
        ("int", " 42\n", int, 42),
        ("float", "1.5", float, 1.5),
        ("bool", "Yes", bool, True),
        ("bool", "0", bool, False),
        ("json", '{"a": [1]}', dict, {"a": [1]}),
        ("json", "[1]", list, [1]),
        ("int", "42", str, "42"),
        ("str", "42", int, 42),
    ],
)
def test_types(kind: Any, text: str, wanted: type[Any], value: Any) -> None:
    async def main() -> None:
        secrets = store(keys("A", type=kind), Given("env", {"A": text}))
        await secrets.load()
        assert (await secrets.get("A", wanted)).expose_secret() == value
        assert secrets.secret_values["A"] == text

    run(main)


def test_another_type_than_the_text_spells_is_an_error_without_the_text() -> None:
    async def main() -> None:
        secrets = store({}, Given("env", {"A": "hunter2", "J": "[1]"}))
        for name, wanted in (("A", int), ("A", bool), ("A", dict), ("J", dict), ("A", bytes)):
            with pytest.raises(SecretError) as caught:
                await secrets.get(name, wanted)
            assert "hunter2" not in str(caught.value)

    run(main)


@pytest.mark.parametrize(("kind", "default", "text"), [("int", 5, "5"), ("bool", False, "false"), ("json", "a", '"a"')])
def test_a_default_stands_where_no_source_has_one_and_is_not_masked(kind: Any, default: Any, text: str) -> None:
    async def main() -> None:
        masker = Masker()
        secrets = store(
            {"A": SecretKey(required=False, type=kind, default=default)}
            | {"LONG": SecretKey(required=False, default="public-default")},
            Given("env", {}),
            masker=masker,
        )
        await secrets.load()
        assert secrets.current("A").expose_secret() == default
        assert secrets.secret_values["A"] == text
        assert masker.mask("public-default") == "public-default"

    run(main)


def test_an_optional_secret_without_a_value_is_absent_until_a_source_has_it() -> None:
    async def main() -> None:
        source = Given("env", {})
        secrets = store(keys("A", required=False), source)
        await secrets.load()
        with pytest.raises(SecretError, match=r"Secret A was not found \(looked in: env\)"):
            await secrets.get("A")
        source.values["A"] = "come later"
        assert (await secrets.get("A")).expose_secret() == "come later"

    run(main)


def test_a_name_that_was_not_declared_is_fetched_once_and_masked() -> None:
    async def main() -> None:
        masker, source = Masker(), Given("env", {"A": "undeclared-value"})
        secrets = store({}, source, masker=masker)
        assert (await secrets.get("A")).expose_secret() == "undeclared-value"
        await secrets.get("A")
        assert source.asked == ["A"]
        assert secrets.names() == ("A",)
        assert masker.mask("x undeclared-value") == "x ***"

    run(main)


@pytest.mark.parametrize("name", ["", "../A", "a/b", "-rf", "A B", "A\n", "A\0", "$A", "A" * 129])
def test_what_is_no_name_reaches_no_source(name: str) -> None:
    async def main() -> None:
        source = Given("env", {name: "value of it"})
        with pytest.raises(SecretError, match="is not a valid secret name"):
            await store({}, source).get(name)
        assert source.asked == []

    run(main)


def test_a_refresh_is_not_in_use_until_it_is_installed_and_then_as_a_set() -> None:
    async def main() -> None:
        source = Given("env", {"A": "a-1", "B": "b-1", "C": "c-1"})
        secrets = store(keys("A", "B", "C"), source)
        await secrets.load()
        before = secrets.current("A")
        source.values.update(A="a-2", B="b-2")
        refreshed = await secrets.refresh(["A", "B", "C", "UNKNOWN"])
        assert refreshed.changed == ("A", "B")
        assert dict(refreshed.secret_values) == {"A": "a-2", "B": "b-2", "C": "c-1"}
        assert refreshed.secret("A").expose_secret() == "a-2"
        seen = secrets.secret_values
        assert dict(seen) == {"A": "a-1", "B": "b-1", "C": "c-1"}
        secrets.install(refreshed)
        assert dict(secrets.secret_values) == {"A": "a-2", "B": "b-2", "C": "c-1"}
        assert dict(seen) == {"A": "a-1", "B": "b-1", "C": "c-1"}  # what a reader holds does not change under it
        assert before.expose_secret() == "a-1"
        assert (await secrets.get("A")).expose_secret() == "a-2"

    run(main)


def test_a_refresh_that_fails_leaves_everything_as_it_was() -> None:
    async def main() -> None:
        source = Given("vault", {"A": "1", "B": "2"})
        secrets = store(keys("A", "B", type="int"), source)
        await secrets.load()
        source.values.update(A="11", B="two")
        with pytest.raises(SecretError, match="B is not of type int"):
            await secrets.refresh(["A", "B"])
        assert dict(secrets.secret_values) == {"A": "1", "B": "2"}
        source.broken = "is sealed"
        with pytest.raises(SecretError, match="vault is sealed"):
            await secrets.refresh(["A"])
        assert dict(secrets.secret_values) == {"A": "1", "B": "2"}

    run(main)


def test_old_and_refused_values_stay_masked_and_the_one_in_use_is_never_forgotten() -> None:
    async def main() -> None:
        masker, source = Masker(), Given("env", {"A": "value-number-0"})
        secrets = store(keys("A"), source, masker=masker)
        await secrets.load()
        for number in range(1, 20):  # fetched, and each one refused
            source.values["A"] = f"value-number-{number}"
            await secrets.refresh(["A"])
        assert masker.mask("value-number-0 value-number-18 value-number-19") == "*** *** ***"

    run(main)


def test_a_short_secret_is_warned_of_once_without_its_value(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        secrets = store(keys("PIN", "LONG"), Given("env", {"PIN": "4711", "LONG": "long enough"}))
        await secrets.load()
        await secrets.refresh(["PIN"])

    with caplog.at_level(logging.WARNING):
        run(main)
    assert caplog.messages == ["Secret PIN is shorter than 8 bytes; it is not masked in logs"]


def test_a_value_that_is_probably_not_what_was_meant_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    values = {
        "EMPTY": "",
        "LINE": "a secret value\n",
        "WINDOWS": "a secret value\r\n",
        "MARK": "\ufeffa secret value",
        "LINES": "-----BEGIN KEY-----\nabc\n-----END KEY-----\n",
        "FINE": "a secret value",
    }

    async def main() -> None:
        secrets = store({**keys(*values), **keys("OPTIONAL", required=False)}, Given("env", {**values, "OPTIONAL": ""}))
        await secrets.load()
        await secrets.refresh(values)

    with caplog.at_level(logging.WARNING):
        run(main)
    assert caplog.messages == [
        "Secret EMPTY is empty (found in: env): set it, or declare it with required: false",
        "Secret LINE ends with a line break (found in: env): set it without one, such as with printf %s",
        "Secret WINDOWS ends with a line break (found in: env): set it without one, such as with printf %s",
        "Secret MARK begins with a byte order mark (found in: env): save it as UTF-8 without one",
    ]


def test_the_view_shows_the_present_values_and_none_in_its_text() -> None:
    async def main() -> None:
        source = Given("env", {"A": "hunter2-1"})
        secrets = store(keys("A") | keys("B", required=False), source)
        await secrets.load()
        view = SecretsView(secrets)
        assert list(view) == ["A"]
        assert len(view) == 1
        assert "B" not in view
        source.values["A"] = "hunter2-2"
        secrets.install(await secrets.refresh(["A"]))
        assert view["A"].expose_secret() == "hunter2-2"
        assert "hunter2" not in f"{view!r} {dict(view)}"
        with pytest.raises(KeyError):
            view["B"]

    run(main)
