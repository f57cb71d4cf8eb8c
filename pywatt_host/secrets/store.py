"""All secrets of one host: found in the order of the sources, typed, and swapped as a set."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pywatt_host.exceptions import SecretError
from pywatt_host.manifest.model.secrets import SecretKey
from pywatt_host.manifest.values import SECRET_NAME
from pywatt_host.secrets.kinds import default_text, typed, typed_as
from pywatt_host.secrets.masking import SHORTEST, Masker
from pywatt_host.secrets.secret import Secret
from pywatt_host.secrets.source import SecretSource

logger = logging.getLogger("pywatt.secrets")

_LOOK = 0.25  # seconds between two looks at what can be looked at cheaply
_SETTLE = 0.2  # seconds that a change is left alone, so that a file that is being written is not read half
_AGAIN = 1.0  # seconds until what could not be read is looked at again
_READINGS = 3  # of a set, where files change while they are read
_UNDECLARED = SecretKey()
_NAME = re.compile(SECRET_NAME.removesuffix("$") + r"\Z")


@dataclass(frozen=True, slots=True)
class Refreshed:
    """Values that were fetched and are not in use yet: `texts` are all of the store as they will be, `changed` the
    names whose text is another one."""

    secret_values: Mapping[str, str]
    values: Mapping[str, Any]
    changed: tuple[str, ...]

    def secret(self, name: str) -> Secret[Any]:
        return Secret(name, self.values[name])


@dataclass(frozen=True, slots=True)
class _Values:
    """What is in use; replaced as a whole."""

    secret_values: Mapping[str, str]
    values: Mapping[str, Any]


class SecretStore:
    """`keys` are those that are declared; others are fetched when they are asked for."""

    def __init__(self, keys: Mapping[str, SecretKey], sources: Sequence[SecretSource], masker: Masker) -> None:
        self._keys = dict(keys)
        self._sources = tuple(sources)
        self._masker = masker
        self._now = _Values({}, {})
        self._found_in: dict[str, int] = {}  # the place in `sources` of the one that had it
        self._told: set[str] = set()  # what was warned of: once is enough

    # Reading --------------------------------------------------------------------------------------------------------

    def names(self) -> tuple[str, ...]:
        """Declared, or fetched since."""
        return tuple(self._keys)

    @property
    def secret_values(self) -> Mapping[str, str]:
        """The text of each secret that has one. For rendering `${secret:NAME}`; never for output."""
        return self._now.secret_values

    def current(self, name: str) -> Secret[Any]:
        """The present value. Raises SecretError where there is none."""
        values = self._now.values
        if name not in values:
            raise SecretError(f"there is no secret {name}", [(name, self._asked())])
        return Secret(name, values[name])

    def peek(self, name: str, type: type[Any] = str) -> Secret[Any] | None:
        """As `get`, of what is there already; None where it would have to be fetched. Raises SecretError."""
        text = self._now.secret_values.get(name)
        if text is None:
            return None
        return Secret(name, text if type is str else typed_as(name, text, type))

    async def get(self, name: str, type: type[Any] = str) -> Secret[Any]:
        """The present value as `type`; a name that was not declared is fetched. Raises SecretError."""
        if name not in self._now.secret_values:
            await self._learn(name)
        secret = self.peek(name, type)
        assert secret is not None
        return secret

    async def _learn(self, name: str) -> None:
        if not _NAME.match(name):
            raise SecretError(f"{name[:60]!r} is not the name of a secret: letters, digits, _ . - and no digit first")
        text = await self._find(name)
        if text is None:
            raise SecretError(f"there is no secret {name}", [(name, self._asked())])
        self._remember(name, text)
        value = typed(name, text, self._keys.setdefault(name, _UNDECLARED).type)
        now = self._now
        self._now = _Values({**now.secret_values, name: text}, {**now.values, name: value})

    # Fetching -------------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Fetch all that are declared. Raises SecretError with every one that is missing or of another type."""
        self.install(await self._fetched(self._keys))

    async def refresh(self, names: Iterable[str]) -> Refreshed:
        """Fetch these anew, beside what is in use. Raises SecretError."""
        return await self._fetched({name: self._keys[name] for name in names if name in self._keys})

    def install(self, refreshed: Refreshed) -> None:
        """Use what was fetched, all of it from one moment on."""
        now = self._now
        secret_values = {**now.secret_values, **{name: refreshed.secret_values[name] for name in refreshed.changed}}
        values = {**now.values, **{name: refreshed.values[name] for name in refreshed.changed}}
        self._now = _Values({**refreshed.secret_values, **secret_values}, {**refreshed.values, **values})

    async def _fetched(self, keys: Mapping[str, SecretKey]) -> Refreshed:
        found = await self._read(keys)
        now = self._now
        secret_values, values, faults = dict(now.secret_values), dict(now.values), []
        for (name, key), text in zip(keys.items(), found, strict=True):
            if isinstance(text, SecretError):
                faults.append((name, text.message))
            elif isinstance(text, BaseException):
                raise text
            elif text is not None:
                try:
                    self._remember(name, text)
                    secret_values[name], values[name] = text, typed(name, text, key.type)
                except SecretError as error:
                    faults.append((name, error.message))
            elif key.required:
                why = f"not found; {self._asked()}" + (f" ({key.description})" if key.description else "")
                faults.append((name, why))
            elif (default := default_text(key)) is not None:
                secret_values[name], values[name] = default, key.default
            else:
                secret_values.pop(name, None)
                values.pop(name, None)
        if faults:
            raise SecretError(
                "1 secret cannot be had" if len(faults) == 1 else f"{len(faults)} secrets cannot be had", faults
            )
        changed = tuple(name for name in secret_values if secret_values[name] != now.secret_values.get(name))
        return Refreshed(secret_values, values, changed)

    async def _read(self, names: Iterable[str]) -> list[str | BaseException | None]:
        """The texts, all of one moment: where a file has changed meanwhile, they are read again."""
        names = tuple(names)
        watched = [source for source in self._sources if source.watched]
        for left in reversed(range(_READINGS)):
            before = await asyncio.to_thread(_identities, watched)
            found = await asyncio.gather(*(self._find(name) for name in names), return_exceptions=True)
            if not left or not _files_differ(before, await asyncio.to_thread(_identities, watched)):
                break
        return found

    async def _find(self, name: str) -> str | None:
        """In order; a source that cannot be asked is not passed over, since one below may hold an older value.

        A watched source that had the value and has it no more, or has nothing but emptiness in its place, is most often
        being written: the value stays, and none is taken from below.
        """
        known = self._now.secret_values.get(name)
        for place, source in enumerate(self._sources):
            text = await source.get(name)
            had = known is not None and source.watched and self._found_in.get(name) == place
            if had and known and not text:
                self._warn(f"{name} is gone from {source.label}; its last value stays in use", once=f"gone {name}")
                return known
            if text is not None:
                self._found_in[name] = place
                self._told.discard(f"gone {name}")
                return text
        return None

    def _asked(self) -> str:
        return (
            f"asked: {', '.join(source.label for source in self._sources)}" if self._sources else "there is no source"
        )

    def _remember(self, name: str, text: str) -> None:
        """Mask it from now on, in use or not. What is in use counts as new as well, so that it is not forgotten."""
        used = self._now.secret_values.get(name)
        if used is not None and used != default_text(self._keys.get(name, _UNDECLARED)):
            self._masker.add(name, used)
        if not self._masker.add(name, text):
            why = f"{name} is shorter than {SHORTEST} octets, so that it cannot be masked in logs"
            self._warn(why, once=f"short {name}")

    def _warn(self, message: str, once: str) -> None:
        if once not in self._told:
            self._told.add(once)
            logger.warning("%s", message)

    # Watching -------------------------------------------------------------------------------------------------------

    async def watch(self, interval: float) -> AsyncIterator[frozenset[str]]:
        """The names whose text has changed in a source that may change by itself, whenever that happens.

        Files are looked at every quarter of a second, Vault every `interval` seconds. What cannot be read, has another
        type or is gone has not changed. Names that the caller does not install are given again with the next change.
        """
        watched = [source for source in self._sources if source.watched]
        if not watched:
            return
        loop = asyncio.get_running_loop()
        asked = loop.time()
        seen: tuple[object, ...] | None = None  # what changed since `load` is found by the first look
        while True:
            looked = await asyncio.to_thread(_identities, watched)
            due = seen is None or loop.time() - asked >= interval
            if seen is None or _files_differ(looked, seen) or (due and looked != seen):
                if seen is not None and _files_differ(looked, seen):
                    await asyncio.sleep(_SETTLE)
                    if _files_differ(looked, await asyncio.to_thread(_identities, watched)):
                        continue  # it is being written
                seen, asked = looked, loop.time()
                changed, faults = await self._changed()
                for fault in faults:
                    self._warn(f"{fault}; the value in use stays", once=f"look {fault}")
                self._told -= {each for each in self._told if each.startswith("look ") and each[5:] not in faults}
                if changed:
                    yield changed
                if faults:
                    await asyncio.sleep(min(interval, _AGAIN))
                    seen = None  # it may become right without another change
            await asyncio.sleep(_LOOK)

    async def _changed(self) -> tuple[frozenset[str], set[str]]:
        """The names whose text is another one in watched sources, and what is wrong with others."""
        changed, faults = set(), set()
        keys, now = tuple(self._keys.items()), self._now.secret_values
        found = await asyncio.gather(*(self._look(name) for name, _ in keys), return_exceptions=True)
        for (name, key), text in zip(keys, found, strict=True):
            try:
                if isinstance(text, BaseException):
                    raise text
                if text is not None and text != now.get(name):
                    typed(name, text, key.type)
                    changed.add(name)
            except SecretError as error:
                faults.add(error.message)
        return frozenset(changed), faults

    async def _look(self, name: str) -> str | None:
        """As `_find`, with nobody asked who is not watched: those have what they had."""
        place = self._found_in.get(name, len(self._sources))
        for at, source in enumerate(self._sources):
            if source.watched:
                text = await source.get(name)
                if text is not None and (text or at != place):
                    return text
            if at == place:
                return None
        return None


def _identities(sources: Sequence[SecretSource]) -> tuple[object, ...]:
    return tuple(source.identity() for source in sources)


def _files_differ(now: tuple[object, ...], seen: tuple[object, ...]) -> bool:
    """Whether a file has changed; a float is only the time, which always has."""
    return any(a != b and not isinstance(a, float) for a, b in zip(now, seen, strict=True))


class SecretsView(Mapping[str, Secret[Any]]):
    """`app_state.secrets`: the present values by name."""

    def __init__(self, store: SecretStore) -> None:
        self._store = store

    def __getitem__(self, name: str) -> Secret[Any]:
        try:
            return self._store.current(name)
        except SecretError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._store.secret_values))

    def __len__(self) -> int:
        return len(self._store.secret_values)
