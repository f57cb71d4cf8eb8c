"""`${secret:NAME}` in values: what it becomes, where it may stand, and what is shown of it."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywatt_host.exceptions import ManifestError
from pywatt_host.manifest import InitLayer, Loaded, Manifest, Problem, SecretTemplate, Source, dump, load
from pywatt_host.manifest.model import TcpChannel
from pywatt_host.manifest.values import SecretReference, TcpAddress, UnixAddress

SECRETS = """\
app:
  import_path: main:app
  env: {DATABASE_URL: "${secret:DATABASE_URL}", URL: "postgresql://${secret:USER}:${secret:PW}@h/db", MODE: prod}
mounts: [{route_prefix: /b, import_path: "b:app", env: {"A.B": "${secret:USER}"}}]
secrets:
  sources: [{vault: {address: "https://v", path: secret/users, token: "${TOKEN}"}}]
  keys: {USER: {description: Who}, OPTIONAL: {required: false}, PW: {required: false}}
channels: {tcp: {listen: ":9000", token: swordfish}}
"""


def loaded(text: str = SECRETS, *, overrides: tuple[str, ...] = (), **environ: str) -> Loaded:
    return load(Source.of_text(text), environ={"TOKEN": "hunter22", **environ}, overrides=overrides)


def template(text: str) -> SecretTemplate:
    found = SecretTemplate.parse(text)
    assert found is not None
    return found


def problems(data: dict[str, object]) -> tuple[Problem, ...]:
    with pytest.raises(ManifestError) as caught:
        load(Source.of_data(data, name="main.py"), environ={})
    return caught.value.problems


def tcp(manifest: Manifest) -> TcpChannel:
    assert manifest.channels.tcp is not None
    return manifest.channels.tcp


# Templates ------------------------------------------------------------------------------------------------------------


def test_a_template_keeps_its_texts_and_names_in_order() -> None:
    found = template("a${secret:X}b${secret:Y}${secret:X}")
    assert found.parts == ("a", SecretReference("X"), "b", SecretReference("Y"), SecretReference("X"))
    assert found.names == ("X", "Y")
    assert str(found) == "a${secret:X}b${secret:Y}${secret:X}"
    assert repr(found) == "SecretTemplate('a${secret:X}b${secret:Y}${secret:X}')"


@pytest.mark.parametrize("text", ["", "plain", "$${secret:X}", "${X}", "${secret:}", "${secret:a b}", "$secret:X"])
def test_a_text_without_a_secret_is_no_template(text: str) -> None:
    assert SecretTemplate.parse(text) is None


def test_a_template_is_frozen_and_can_be_compared_copied_and_pickled() -> None:
    found = template("a${secret:X}")
    with pytest.raises(AttributeError):
        found.parts = ()
    assert found == copy.deepcopy(found) == pickle.loads(pickle.dumps(found)) == template("a${secret:X}")
    assert found != template("b${secret:X}")
    assert len({found, template("a${secret:X}")}) == 1


def test_values_are_put_in_as_they_are_outside_of_urls() -> None:
    assert template("a ${secret:X} ${secret:Y}").render({"X": "p@/?", "Y": "${secret:X}"}) == "a p@/? ${secret:X}"
    assert template("${secret:URL}").render({"URL": "postgresql://u:p@h/db?a=b"}) == "postgresql://u:p@h/db?a=b"


def test_a_value_that_is_not_there_is_named() -> None:
    with pytest.raises(KeyError, match="'Y'"):
        template("${secret:X}${secret:Y}").render({"X": "secret"})


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_user_password_and_query_of_a_url_come_out_as_they_went_in(user: str, password: str, query: str) -> None:
    found = template("postgresql+x://${secret:U}:${secret:P}@h:5/db?a=${secret:Q}&b=1#f")
    try:
        url = urlsplit(found.render({"U": user, "P": password, "Q": query}))
    except UnicodeEncodeError:  # lone surrogates are in no text that a source can give
        return
    assert (url.hostname, url.port, url.path, url.fragment) == ("h", 5, "/db", "f")
    assert parse_qs(url.query, keep_blank_values=True, errors="strict")["a"] == [query]


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("redis://:${secret:X}@h/0", "redis://:a%40%2F@h/0"),
        ("nats://u:${secret:X}@a,nats://u:${secret:X}@b", "nats://u:a%40%2F@a,nats://u:a%40%2F@b"),
        ("https://${secret:X}/path", "https://a@//path"),
        ("https://h/${secret:X}", "https://h/a@/"),
        ("https://h/?q=${secret:X}", "https://h/?q=a%40%2F"),
        ("https://h/#${secret:X}?", "https://h/#a@/?"),
        ("see https://u:${secret:X}@h", "see https://u:a@/@h"),
    ],
)
def test_only_user_password_and_query_are_encoded(text: str, rendered: str) -> None:
    assert template(text).render({"X": "a@/"}) == rendered


# In a manifest --------------------------------------------------------------------------------------------------------


def test_references_are_listed_by_their_path() -> None:
    found = loaded().manifest.secret_references()
    assert {path: str(value) for path, value in found.items()} == {
        "app.env.DATABASE_URL": "${secret:DATABASE_URL}",
        "app.env.URL": "postgresql://${secret:USER}:${secret:PW}@h/db",
        'mounts[0].env["A.B"]': "${secret:USER}",
    }


def test_a_reference_declares_its_secret_and_makes_it_required() -> None:
    keys = loaded().manifest.secret_keys
    assert {name: key.required for name, key in keys.items()} == {
        "USER": True,
        "OPTIONAL": False,
        "PW": True,
        "DATABASE_URL": True,
    }
    assert keys["USER"].description == "Who"


def test_a_header_of_every_response_holds_no_secret() -> None:
    with pytest.raises(ManifestError) as caught:
        loaded('app: main:app\nserver: {headers: {X-Token: "${secret:TOKEN}"}}')
    (problem,) = caught.value.problems
    assert (problem.code, problem.path) == ("secret-not-here", "server.headers.X-Token")


def test_a_reference_to_a_secret_with_a_default_leaves_it_optional() -> None:
    text = "app: {import_path: m:a, env: {A: '${secret:A}'}}\nsecrets: {keys: {A: {required: false, default: x}}}"
    assert loaded(text).manifest.secret_keys["A"].required is False


def test_a_reference_is_never_interpolated_again_and_a_doubled_dollar_is_literal() -> None:
    text = "app: {import_path: m:a, env: {A: '${X}', B: '$${secret:B}'}}"
    manifest = loaded(text, X="${secret:A}").manifest
    assert manifest.app is not None
    assert manifest.app.env == {"A": "${secret:A}", "B": "${secret:B}"}
    assert manifest.secret_keys == {}


def test_what_is_a_secret_itself_is_masked() -> None:
    result = loaded()
    shown = {path: value for path, value, _ in result.origins()}
    assert shown["channels.tcp.token"] == shown["secrets.sources[0].vault.token"] == "***"
    assert shown["app.env.URL"] == "postgresql://${secret:USER}:${secret:PW}@h/db"
    assert shown["app.env.MODE"] == "prod"
    masked = str(dump(result.manifest, masked=True))
    assert "swordfish" not in masked
    assert "hunter22" not in masked
    assert "swordfish" in str(dump(result.manifest))


def test_what_is_dumped_for_code_gives_an_equal_manifest() -> None:
    text = SECRETS + "config: {a: '$${x}', n: null}\n"
    manifest = loaded(text).manifest
    again = load(Source.of_data(dump(manifest, escaped=False), name="main.py"), environ={}).manifest
    assert again == manifest


def test_code_may_hold_templates_where_secrets_may_stand() -> None:
    data = {"app": {"import_path": "m:a", "env": {"A": template("x${secret:A}"), "B": "${secret:B}"}}}
    manifest = load(Source.of_data(data, name="main.py"), environ={}).manifest
    assert list(manifest.secret_references()) == ["app.env.A"]
    assert manifest.app is not None
    assert manifest.app.env["B"] == "${secret:B}"


@pytest.mark.parametrize(
    "data",
    [
        {"app": "m:a", "module": {"id": template("${secret:X}")}},
        {"app": template("${secret:X}")},
        {"app": "m:a", "config": {"a": [{"b": template("${secret:X}")}]}},
    ],
    ids=["scalar", "short form", "free-form"],
)
def test_code_may_hold_them_nowhere_else(data: dict[str, object]) -> None:
    assert [problem.code for problem in problems(data)] == ["secret-not-here"]


def test_an_override_may_hold_a_reference_but_no_secret() -> None:
    manifest = loaded(
        overrides=("channels.tcp.token=${secret:T}",), PYWATT__APP__ENV__MODE="from the environment"
    ).manifest
    assert tcp(manifest).token == template("${secret:T}")
    assert manifest.app is not None
    assert manifest.app.env["MODE"] == "from the environment"
    with pytest.raises(ManifestError) as caught:
        loaded(overrides=("channels.tcp.token=opensesame",))
    (problem,) = caught.value.problems
    assert problem.code == "secret-in-argument"
    assert "PYWATT__CHANNELS__TCP__TOKEN" in problem.hint
    assert "opensesame" not in repr(problem)


def test_the_placeholder_of_a_command_is_left_to_it() -> None:
    text = "app: m:a\nsecrets: {sources: [{command: [op, '${name}', '${X}-${name}']}]}\n"
    text += "profiles: {dev: {secrets: {sources: [{command: [cat, '/run/${name}']}]}}}"

    def commands(profile: str) -> list[object]:
        manifest = load(Source.of_text(text), environ={"X": "x", "name": "wrong"}, profile=profile).manifest
        again = load(Source.of_data(dump(manifest, escaped=False), name="code"), environ={}).manifest
        assert again.secrets == manifest.secrets
        return [source.command for source in manifest.secrets.sources or ()]

    assert commands("") == [("op", "${name}", "x-${name}")]
    assert commands("dev") == [("cat", "/run/${name}")]
    # Everywhere else it is a variable like any other.
    assert loaded("app: m:a\nmodule: {description: '${name}'}", name="ann").manifest.module.description == "ann"


def test_profiles_add_to_the_short_form() -> None:
    text = "app: m:a\nsecrets: [A, B]\nprofiles: {dev: {secrets: {keys: {B: {required: false}}}}}"
    manifest = load(Source.of_text(text), environ={}, profile="dev").manifest
    assert {name: key.required for name, key in manifest.secrets.keys.items()} == {"A": True, "B": False}


# What the orchestrator says -------------------------------------------------------------------------------------------


def test_the_init_wins_over_the_profile_and_gives_way_to_overrides() -> None:
    text = "app: m:a\nserver: {listen: ':1'}\nmodule: {id: a}\nprofiles: {dev: {server: {listen: ':2'}}}"
    init = InitLayer("127.0.0.1:3", "orchestrated")

    def of(**environ: str) -> Loaded:
        return load(Source.of_text(text), environ=environ, profile="dev", init=init)

    result = of()
    assert result.manifest.server.listen == (TcpAddress("127.0.0.1", 3),)
    assert result.manifest.module_id == "orchestrated"
    assert result.origin("server.listen") == result.origin("module.id") == "init"
    assert of(PYWATT__SERVER__LISTEN=":4").manifest.server.listen == (TcpAddress("", 4),)


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("/run/x.sock", UnixAddress("/run/x.sock")),
        ("run/x.sock", UnixAddress("run/x.sock")),
        ("unix:x", UnixAddress("x")),
        ("[::1]:0", TcpAddress("::1", 0)),
        ("localhost:80", TcpAddress("localhost", 80)),
    ],
)
def test_the_init_listens_on_an_address_or_a_path(listen: str, address: object) -> None:
    assert load(Source.of_text("app: m:a"), environ={}, init=InitLayer(listen)).manifest.server.listen == (address,)


def test_the_environment_of_the_init_feeds_variables_but_overrides_nothing() -> None:
    init = InitLayer(env={"X": "b", "PYWATT__MODULE__VERSION": "9"})
    manifest = load(Source.of_text("app: '${X}:a'"), environ={"X": "a"}, init=init).manifest
    assert manifest.app is not None
    assert (manifest.app.import_path, manifest.module.version) == ("b:a", None)


def test_a_fault_in_the_init_says_so() -> None:
    with pytest.raises(ManifestError, match=r"^init: module\.id: "):
        load(Source.of_text("app: m:a"), environ={}, init=InitLayer(module_id="two words"))


# Cost -----------------------------------------------------------------------------------------------------------------


def test_a_manifest_without_secrets_and_channels_builds_no_validators_for_them(tmp_path: Path) -> None:
    code = """
from pywatt_host.manifest import Source, dump, load
from pywatt_host.manifest.model import Channels, Secrets
manifest = load(Source.of_text("app: main:app"), environ={}).manifest
assert not Secrets.__pydantic_complete__ and not Channels.__pydantic_complete__
assert dump(manifest)["channels"]["stdio"] == "auto" and dump(manifest)["secrets"]["keys"] == {}
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=tmp_path)
