"""Loading the user's application: what works works plainly, and each fault says which of the possible ones it is."""

from __future__ import annotations

import asyncio
import os
import sys
import textwrap
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pywatt_host.app.loading import LoadedApp, import_object, load_app
from pywatt_host.exceptions import AppLoadError
from pywatt_host.manifest.values import Interpolated


class Project:
    """A folder of the user's with modules in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, code: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(code), encoding="utf-8")

    def load(self, import_path: str = "main:app", **options: Any) -> LoadedApp:
        defaults: dict[str, Any] = {"interface": "auto", "factory": None, "args": {}, "state": STATE, "key": "app"}
        found = import_object(import_path, working_dir=self.folder)
        return asyncio.run(load_app(import_path, found=found, **(defaults | options)))

    def fault(self, import_path: str = "main:app", **options: Any) -> AppLoadError:
        with pytest.raises(AppLoadError) as caught:
            self.load(import_path, **options)
        assert str(caught.value).startswith(f"{import_path}: ")
        return caught.value


STATE = object()
ASGI = "async def app(scope, receive, send): ...\n"


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    path, modules = sys.path[:], set(sys.modules)
    yield Project(tmp_path)
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


# What works -----------------------------------------------------------------------------------------------------------


def test_an_application_is_loaded_with_its_interface(project: Project) -> None:
    project.write("main.py", ASGI + "def legacy(environ, start_response): ...")
    assert project.load() == LoadedApp(sys.modules["main"].app, "asgi", "", "main:app")
    assert project.load("main:legacy").interface == "wsgi"


@pytest.mark.parametrize("in_factory", [False, True])
def test_a_source_that_is_edited_twice_in_a_second_is_read_again(
    project: Project, monkeypatch: pytest.MonkeyPatch, in_factory: bool
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    now = int(time.time())
    code = "def app():\n    import part\n    return part.app\n" if in_factory else "from part import app"
    project.write("main.py", code)
    for name in ("one", "two"):
        project.write("part.py", f"async def app(scope, receive, send): ...\napp.version = {name!r}\n")
        os.utime(project.folder / "part.py", (now, now))
        assert project.load(factory=in_factory).app.version == name
        for module in ("main", "part"):
            del sys.modules[module]


def test_a_source_that_is_older_keeps_its_bytecode(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    project.write("main.py", ASGI)
    os.utime(project.folder / "main.py", (1_000_000_000, 1_000_000_000))
    project.load()
    assert list((project.folder / "__pycache__").glob("main.*.pyc"))


def test_attributes_and_packages_may_be_dotted(project: Project) -> None:
    project.write("users/__init__.py", "")
    project.write("users/api.py", f"class Site:\n    @staticmethod\n    {ASGI}")
    assert project.load("users.api:Site.app").app is sys.modules["users.api"].Site.app


def test_the_framework_is_named(project: Project) -> None:
    project.write("main.py", "import flask, starlette.applications as s\napp = flask.Flask('x')\napi = s.Starlette()")
    assert (project.load().framework, project.load().interface) == ("flask", "wsgi")
    assert project.load("main:api").framework == "starlette"
    assert project.load("main:app.wsgi_app").framework == "flask"


def test_the_working_directory_stands_first_on_the_path_once(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write("main.py", ASGI)
    monkeypatch.chdir(project.folder.parent)
    sys.path.append(str(project.folder))
    for _ in range(2):
        import_object("main:app", working_dir=Path(project.folder.name))
    assert sys.path[0] == str(project.folder)
    assert sys.path.count(str(project.folder)) == 1


@pytest.mark.parametrize(
    "factory",
    [
        "def app(): return inner",
        "async def app(): return inner",
        "def app(state): seen.append(state); return inner",
        "async def app(app_state): seen.append(app_state); return inner",
        "def app(config=None, *, host: 'AppState'): seen.append(host); assert config is None; return inner",
        "def app(state=None): seen.append(state); return inner",
        "def app(anything, /): seen.append(anything); return inner",
        "import functools\ndef make(s, state): s.append(state); return inner\napp = functools.partial(make, seen)",
    ],
)
def test_a_factory_is_called_with_the_state_if_it_takes_it(project: Project, factory: str) -> None:
    project.write("main.py", "seen = []\nasync def inner(scope, receive, send): ...\n" + factory)
    assert project.load().app is sys.modules["main"].inner
    assert sys.modules["main"].seen in ([], [STATE])
    assert bool(sys.modules["main"].seen) == (".append" in factory)


def test_a_class_is_called_only_when_the_manifest_says_so(project: Project) -> None:
    project.write("main.py", "class app:\n    async def __call__(self, scope, receive, send): ...")
    assert project.fault().hint == "write app.factory: true if calling it makes the application"
    assert isinstance(project.load(factory=True).app, sys.modules["main"].app)


def test_a_callable_without_a_readable_shape_is_what_the_manifest_declares(project: Project) -> None:
    project.write("main.py", "def app(*args): ...")
    assert project.fault().hint == "write app.factory: true if calling it makes the application"
    assert project.load(interface="wsgi").interface == "wsgi"
    assert project.load(interface="asgi").interface == "asgi"


# Arguments of a factory -----------------------------------------------------------------------------------------------

TYPED = """
    from __future__ import annotations
    import dataclasses, datetime, enum, pathlib

    class Colour(enum.Enum):
        RED = "red"

    class Engine: ...

    @dataclasses.dataclass
    class Page:
        size: int

    async def inner(scope, receive, send): ...

    def app(state, *, size: int = 1, ratio: float = 0, on: bool = False, folder: pathlib.Path | None = None,
            day: datetime.date | None = None, colour: Colour = Colour.RED, sizes: tuple[int, ...] = (),
            page: Page | None = None, title: str = "", free=None, lost: NoSuchType = None, own: Engine = None):
        app.seen = {name: value for name, value in locals().items() if name != "state"}
        return inner
"""


def test_arguments_arrive_with_their_annotated_types(project: Project) -> None:
    project.write("main.py", TYPED)
    given = {
        "size": 50,
        "ratio": 2,
        "on": True,
        "folder": "a/b",
        "day": "2026-11-22",
        "colour": "red",
        "sizes": (1, 2),
        "page": {"size": 3},
        "title": "5",
        "free": {"x": (Interpolated("1"),)},
        "lost": 7,
        "own": "x",
    }
    project.load(args=given)
    main = sys.modules["main"]
    seen = main.app.seen
    assert (seen["size"], seen["ratio"], seen["on"], seen["title"]) == (50, 2.0, True, "5")
    assert (seen["folder"], seen["day"].day, seen["colour"]) == (Path("a/b"), 22, main.Colour.RED)
    assert (seen["sizes"], seen["page"], seen["free"]) == ((1, 2), main.Page(3), {"x": ["1"]})
    assert type(seen["free"]["x"][0]) is str
    assert (seen["lost"], seen["own"]) == (7, "x")


def test_interpolated_text_takes_the_annotated_type(project: Project) -> None:
    project.write("main.py", TYPED)
    project.load(args={"size": Interpolated("50"), "on": Interpolated("true"), "sizes": [Interpolated("1"), 2]})
    seen = sys.modules["main"].app.seen
    assert (seen["size"], seen["on"], seen["sizes"]) == (50, True, (1, 2))


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({"size": "50"}, "app.args.size does not fit int: input should be a valid integer"),
        ({"size": 1.5}, "app.args.size does not fit int: input should be a valid integer"),
        ({"on": "yes"}, "app.args.on does not fit bool: input should be a valid boolean"),
        ({"title": 5}, "app.args.title does not fit str: input should be a valid string"),
        ({"sizes": [1, "2"]}, "app.args.sizes[1] does not fit tuple[int, ...]"),
        ({"page": {"size": "x"}}, "app.args.page.size does not fit Page | None"),
        ({"sise": 1}, "app.args.sise is not a parameter of the factory (did you mean size?)"),
        ({"size": Interpolated("s3cr3t-value")}, "app.args.size does not fit int"),
        ({"zz": 1, "on": 1}, "app.args.on does not fit bool"),
    ],
)
def test_an_argument_that_does_not_fit_is_named_with_its_type(project: Project, args: Any, expected: str) -> None:
    project.write("main.py", TYPED)
    fault = project.fault(args=args)
    assert fault.reason == "factory-arguments"
    assert expected in fault.message
    assert "s3cr3t" not in str(fault)


def test_every_argument_at_fault_is_named_at_once(project: Project) -> None:
    project.write("main.py", "def app(state, size: int, title): ...")
    fault = project.fault(args={"size": "x", "colour": 1}, key="mounts[0]")
    for name in (
        "size does not fit int",
        "colour is not a parameter of the factory (it takes size, title)",
        "title is missing",
    ):
        assert f"mounts[0].args.{name}" in fault.message


def test_further_keyword_arguments_are_passed_on(project: Project) -> None:
    project.write(
        "main.py",
        "async def inner(scope, receive, send): ...\ndef app(size, /, **more): app.seen = size, more; return inner",
    )
    project.load(args={"size": 1, "colour": "red"})
    assert sys.modules["main"].app.seen == (1, {"colour": "red"})


@pytest.mark.parametrize("name", ["partial", "wrapped", "method", "instance", "cls"])
def test_annotations_are_resolved_where_the_factory_is_defined(project: Project, name: str) -> None:
    project.write(
        "main.py",
        """
        from __future__ import annotations
        import functools
        from decimal import Decimal as Money

        async def inner(scope, receive, send): ...
        def make(first, *, price: Money): assert type(price) is Money; return inner
        partial = functools.partial(make, 1)
        wrapped = functools.wraps(make)(lambda *args, **kwargs: make(*args, **kwargs))
        class Shop:
            def create(self, state, *, price: Money): return make(state, price=price)
            def __call__(self, price: Money): return make(1, price=price)
        instance = Shop()
        method = Shop().create
        class cls:
            def __init__(self, *, price: Money): make(1, price=price)
            async def __call__(self, scope, receive, send): ...
        """,
    )
    factory = True if name in ("instance", "cls") else None
    project.load(f"main:{name}", factory=factory, args={"price": "1.50"})
    assert "price does not fit Money" in project.fault(f"main:{name}", factory=factory, args={"price": "x"}).message


def test_an_object_that_no_file_can_hold_is_passed_as_it_is(project: Project) -> None:
    project.write(
        "main.py", "async def inner(scope, receive, send): ...\ndef app(*, size: object): app.seen = size; return inner"
    )
    given = object()
    project.load(args={"size": given})
    assert sys.modules["main"].app.seen is given


def test_a_factory_without_a_readable_signature_gets_the_arguments_as_they_are(project: Project) -> None:
    project.write(
        "main.py",
        """
        async def inner(scope, receive, send): ...
        class Compiled:
            __signature__ = "none"
            def __call__(self, **args): Compiled.seen = args; return inner
        app = Compiled()
        """,
    )
    project.load(factory=True, args={"size": 1})
    assert sys.modules["main"].Compiled.seen == {"size": 1}


def test_arguments_for_what_is_no_factory_are_a_fault(project: Project) -> None:
    project.write("main.py", ASGI)
    fault = project.fault(args={"size": 1})
    assert (fault.reason, fault.message) == (
        "factory-arguments",
        "app.args is given, but the function `main.app` is not a factory that takes them",
    )


# Faults of the import -------------------------------------------------------------------------------------------------


def test_a_module_that_is_not_there_is_named_with_its_near_miss(project: Project) -> None:
    project.write("main.py", ASGI)
    fault = project.fault("mian:app")
    assert (fault.reason, fault.hint) == ("no-module", "did you mean main?")
    assert fault.message == f"there is no module `mian` in {project.folder}"
    assert fault.__cause__ is None


def test_the_part_of_a_dotted_name_that_is_missing_is_named(project: Project) -> None:
    project.write("users/__init__.py", "")
    project.write("users/api.py", ASGI)
    fault = project.fault("users.apy.v1:app")
    assert fault.message == f"there is no module `users.apy` (for `users.apy.v1`) in {project.folder / 'users'}"
    assert fault.hint == "did you mean users.api?"
    fault = project.fault("users.api.app:app")
    assert "`users.api` is a module" in fault.message
    assert fault.hint == "did you mean users.api:app?"


def test_a_module_in_src_is_pointed_at(project: Project) -> None:
    project.write("src/shop/__init__.py", ASGI)
    assert project.fault("shop:app").hint == "src/ has `shop`: write working_dir: src"


def test_a_working_directory_that_is_not_there(project: Project) -> None:
    project.folder = project.folder / "gone"
    assert project.fault().reason == "no-directory"


def test_a_second_module_of_a_name_is_refused_instead_of_served_as_the_first(project: Project) -> None:
    project.write("one/main.py", ASGI)
    project.write("two/main.py", ASGI)
    import_object("main:app", working_dir=project.folder / "one")
    with pytest.raises(AppLoadError, match="the name `main` is taken") as caught:
        import_object("main:app", working_dir=project.folder / "two")
    assert caught.value.reason == "no-module"


def test_a_missing_dependency_is_not_a_missing_module(project: Project) -> None:
    project.write("main.py", "import no_such_dependency.inner")
    fault = project.fault()
    assert fault.reason == "module-raised"
    assert "the module `main` imports `no_such_dependency`" in fault.message
    assert f"{project.folder / 'main.py'}:1" in fault.message
    assert fault.hint == ""
    assert isinstance(fault.__cause__, ModuleNotFoundError)


def test_a_missing_framework_says_what_to_install(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "sanic" not in sys.modules
    monkeypatch.setattr(sys, "meta_path", [Hidden("sanic"), *sys.meta_path])
    project.write("main.py", "import sanic")
    assert project.fault().hint == "pip install sanic"


class Hidden:
    """An import finder to which one package does not exist."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == self.name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize(
    ("code", "cause", "said"),
    [
        ("def f():\n    raise ValueError('of mine')\nf()", ValueError, "ValueError: of mine at "),
        ("from os import no_such_name", ImportError, "ImportError: cannot import name"),
        ("def f(:\n", SyntaxError, "(main.py, line 1)"),
        ("import sys\nsys.exit('stop')", SystemExit, "SystemExit: stop"),
        ("import other", ModuleNotFoundError, "`inner.missing`"),
    ],
)
def test_a_module_that_raises_shows_the_users_traceback_and_nothing_of_ours(
    project: Project, code: str, cause: type[BaseException], said: str
) -> None:
    project.write("main.py", code)
    project.write("other.py", "import inner.missing")
    project.write("inner/__init__.py", "")
    fault = project.fault()
    assert fault.reason == "module-raised"
    assert said in fault.message
    assert type(fault.__cause__) is cause
    frames = traceback.extract_tb(fault.__cause__.__traceback__)
    assert all(frame.filename.startswith((str(project.folder), "<frozen importlib")) for frame in frames)
    assert not frames or frames[0].filename == str(project.folder / "main.py")
    assert bool(frames) == (cause is not SyntaxError)


def test_a_keyboard_interrupt_passes(project: Project) -> None:
    project.write("main.py", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        import_object("main:app", working_dir=project.folder)


@pytest.mark.parametrize(
    ("code", "wanted", "hint"),
    [
        ("application = 1\n" + ASGI, "main:aplication", "did you mean main:application?"),
        ("def create_app(): ...", "main:server", "did you mean main:create_app?"),
        ("import flask\nshop = flask.Flask('x')", "main:wsgi", "did you mean main:shop?"),
        ("import flask\na = flask.Flask('x')\nb = flask.Flask('y')", "main:wsgi", ""),
        ("class Site:\n    application = 1", "main:Site.applicatoin", "did you mean main:Site.application?"),
        ("", "main:app", ""),
    ],
)
def test_an_attribute_that_is_not_there_comes_with_the_likely_one(
    project: Project, code: str, wanted: str, hint: str
) -> None:
    project.write("main.py", code)
    fault = project.fault(wanted)
    assert (fault.reason, fault.hint) == ("no-attribute", hint)
    assert f"has no `{wanted.rpartition(':')[2].rpartition('.')[2]}`" in fault.message


def test_an_attribute_that_is_a_module_of_the_package(project: Project) -> None:
    project.write("users/__init__.py", "")
    project.write("users/api.py", ASGI)
    assert project.fault("users:api").hint == "`users.api` is a module: write users.api:app"


def test_an_attribute_that_raises_when_read_is_the_users_fault(project: Project) -> None:
    project.write("main.py", "def __getattr__(name):\n    raise OSError('of mine')")
    fault = project.fault()
    assert (fault.reason, type(fault.__cause__)) == ("module-raised", OSError)


# Faults of what was found ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "said", "hint"),
    [
        ("app = 5", "this is 5", ""),
        ("app = None", "this is None", ""),
        ("app = 'postgres://u:s3cr3t@h/db'", "this is an object of type `str`", ""),
        (
            "import json as app",
            "this is the module `json`",
            "write json:app, or the name of the application in the module",
        ),
        (
            "class app: ...",
            "this is the class `main.app`",
            "write app.factory: true if calling it makes the application",
        ),
        (
            "class A:\n    def __call__(self): ...\napp = A()",
            "type `main.A`",
            "write app.interface: asgi or wsgi if it is one",
        ),
        ("def app(): return {}", "the factory returned an object of type `dict`", ""),
        ("def app(): return app", "the factory returned the function `main.app`", ""),
    ],
)
def test_what_is_no_application_is_described(project: Project, code: str, said: str, hint: str) -> None:
    project.write("main.py", code)
    fault = project.fault()
    assert (fault.reason, fault.hint) == ("not-an-app", hint)
    assert said in fault.message
    assert "s3cr3t" not in str(fault)


def test_a_factory_that_raises_shows_the_users_traceback(project: Project) -> None:
    project.write("main.py", "def app(state):\n    raise ValueError('of mine')")
    fault = project.fault()
    assert (fault.reason, str(fault.__cause__)) == ("factory-raised", "of mine")
    assert fault.message == f"the factory raised ValueError: of mine at {project.folder / 'main.py'}:2"
    assert fault.__cause__ is not None
    frames = traceback.extract_tb(fault.__cause__.__traceback__)
    assert [frame.filename for frame in frames] == [str(project.folder / "main.py")]


def test_a_factory_that_forgets_to_return(project: Project) -> None:
    project.write("main.py", "async def app(): ...")
    fault = project.fault()
    assert (fault.reason, fault.hint) == ("factory-returned-nothing", "return app")


def test_a_factory_that_cannot_be_called_or_is_an_application_already(project: Project) -> None:
    project.write("main.py", "import flask\napp = flask.Flask('x')\nnumber = 5")
    assert project.fault("main:number", factory=True).reason == "not-an-app"
    assert project.fault(factory=True).hint == "leave app.factory out"


def test_an_interface_that_is_not_the_declared_one(project: Project) -> None:
    project.write("main.py", ASGI)
    fault = project.fault(interface="wsgi")
    assert (fault.reason, fault.hint) == ("wrong-interface", "write app.interface: asgi or leave it out")


def test_asgi_2_is_refused_with_the_way_out(project: Project) -> None:
    project.write(
        "main.py", "class app:\n    def __init__(self, scope): ...\n    async def __call__(self, receive, send): ..."
    )
    for interface in ("auto", "asgi"):
        fault = project.fault(interface=interface)
        assert fault.reason == "asgi2"
        assert "asgiref.compatibility.guarantee_single_callable(app)" in fault.hint
