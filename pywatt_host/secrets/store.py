"""All secrets of one host: searched for in the order of the sources, converted to their type, replaced as a set."""

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
from pywatt_host.secrets.doubts import doubt_about
from pywatt_host.secrets.kinds import default_text, typed, typed_as
from pywatt_host.secrets.masking import MIN_BYTES, Masker
from pywatt_host.secrets.secret import Secret
from pywatt_host.secrets.source import SecretSource

logger = logging.getLogger("pywatt.secrets")

_FILE_POLL_INTERVAL = 0.25  # seconds between two checks whether a file has changed
_DEBOUNCE = 0.2  # seconds for which a file must not change before it is read: it may still be being written
_RETRY_DELAY = 1.0  # seconds until a source that could not be read is read again
_MAX_READS = 3  # of a set of secrets, if files change while they are read
_UNDECLARED = SecretKey()
_NAME = re.compile(SECRET_NAME.removesuffix("$") + r"\Z")


@dataclass(frozen=True, slots=True)
class Refreshed:
    """Values that were fetched and are not in use yet.

    `secret_values` and `values` hold all secrets of the store as they will be. `changed` holds the names of those whose
    text differs from the one in use.
    """

    secret_values: Mapping[str, str]
    values: Mapping[str, Any]
    changed: tuple[str, ...]

    def secret(self, name: str) -> Secret[Any]:
        return Secret(name, self.values[name])


@dataclass(frozen=True, slots=True)
class _Values:
    """The values in use. The object is replaced as a whole."""

    secret_values: Mapping[str, str]
    values: Mapping[str, Any]


class SecretStore:
    """Loads, keeps and replaces the secrets of a host.

    `keys` are the declared secrets. Any other secret is fetched when the application first gets it.
    """

    def __init__(self, keys: Mapping[str, SecretKey], sources: Sequence[SecretSource], masker: Masker) -> None:
        self._keys = dict(keys)
        self._sources = tuple(sources)
        self._masker = masker
        self._now = _Values({}, {})
        self._found_in: dict[str, int] = {}  # for each name, the position in `sources` of the source that had it
        self._warned: set[str] = set()  # warnings that were logged and are not repeated

    # Reading --------------------------------------------------------------------------------------------------------

    def names(self) -> tuple[str, ...]:
        """Return the names that are declared or were fetched since."""
        return tuple(self._keys)

    @property
    def secret_values(self) -> Mapping[str, str]:
        """The text of each secret that has a value. For rendering `${secret:NAME}`; never for output."""
        return self._now.secret_values

    def mask(self, text: str) -> str:
        """The text without the values of secrets."""
        return self._masker.mask(text)

    def current(self, name: str) -> Secret[Any]:
        """Return the value in use. Raises SecretError if there is none."""
        values = self._now.values
        if name not in values:
            raise _not_loaded([(name, self._not_found())])
        return Secret(name, values[name])

    def peek(self, name: str, type: type[Any] = str) -> Secret[Any] | None:
        """Return the value in use as `type`, or None if the secret would have to be fetched. Raises SecretError."""
        text = self._now.secret_values.get(name)
        if text is None:
            return None
        return Secret(name, text if type is str else typed_as(name, text, type))

    async def get(self, name: str, type: type[Any] = str) -> Secret[Any]:
        """Return the value in use as `type`. A secret that is not declared is fetched first. Raises SecretError."""
        if name not in self._now.secret_values:
            await self._fetch_undeclared(name)
        secret = self.peek(name, type)
        assert secret is not None
        return secret

    async def _fetch_undeclared(self, name: str) -> None:
        if not _NAME.match(name):
            raise SecretError(
                f"{name[:60]!r} is not a valid secret name: use letters, digits, _ . and -, and no digit first"
            )
        text = await self._find(name)
        if text is None:
            raise _not_loaded([(name, self._not_found())])
        self._remember(name, text)
        self._doubt(name, text, required=True)
        value = typed(name, text, self._keys.setdefault(name, _UNDECLARED).type)
        now = self._now
        self._now = _Values({**now.secret_values, name: text}, {**now.values, name: value})

    # Fetching -------------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Fetch all declared secrets. Raises SecretError with every secret that is missing or has the wrong type."""
        self.install(await self._fetch(self._keys))

    async def refresh(self, names: Iterable[str]) -> Refreshed:
        """Fetch the secrets `names` again and return them, without using them yet. Raises SecretError."""
        return await self._fetch({name: self._keys[name] for name in names if name in self._keys})

    def install(self, refreshed: Refreshed) -> None:
        """Put the fetched values to use, all at once."""
        now = self._now
        secret_values = {**now.secret_values, **{name: refreshed.secret_values[name] for name in refreshed.changed}}
        values = {**now.values, **{name: refreshed.values[name] for name in refreshed.changed}}
        self._now = _Values({**refreshed.secret_values, **secret_values}, {**refreshed.values, **values})

    async def _fetch(self, keys: Mapping[str, SecretKey]) -> Refreshed:
        found = await self._read(keys)
        now = self._now
        secret_values, values = dict(now.secret_values), dict(now.values)
        faults: list[tuple[str, str]] = []
        for (name, key), text in zip(keys.items(), found, strict=True):
            if isinstance(text, SecretError):
                faults.append((name, f"could not be read: {text.message}"))
            elif isinstance(text, BaseException):
                raise text
            elif text is not None:
                try:
                    self._remember(name, text)
                    self._doubt(name, text, required=key.required)
                    secret_values[name], values[name] = text, typed(name, text, key.type)
                except SecretError as error:
                    faults += error.missing
            elif key.required:
                faults.append((name, self._not_found(key.description)))
            elif (default := default_text(key)) is not None:
                secret_values[name], values[name] = default, key.default
            else:
                secret_values.pop(name, None)
                values.pop(name, None)
        if faults:
            raise _not_loaded(faults)
        changed = tuple(name for name in secret_values if secret_values[name] != now.secret_values.get(name))
        return Refreshed(secret_values, values, changed)

    async def _read(self, names: Iterable[str]) -> list[str | BaseException | None]:
        """Return the texts as they were at one moment: if a file changes in the meantime, they are read again."""
        names = tuple(names)
        watched = [source for source in self._sources if source.watched]
        for left in reversed(range(_MAX_READS)):
            before = await asyncio.to_thread(_identities, watched)
            found = await asyncio.gather(*(self._find(name) for name in names), return_exceptions=True)
            if not left or not _files_differ(before, await asyncio.to_thread(_identities, watched)):
                break
        return found

    async def _find(self, name: str) -> str | None:
        """Search the sources in order and return the text, or None if no source has it. Raises SecretError.

        A source that cannot be read is an error and is not skipped, because a later source may hold an older value.
        If a watched source had the value and now has none or an empty one, the file is most likely being written. The
        value in use then stays, and later sources are not searched.
        """
        known = self._now.secret_values.get(name)
        for place, source in enumerate(self._sources):
            text = await source.get(name)
            had = known is not None and source.watched and self._found_in.get(name) == place
            if had and known and not text:
                message = f"Secret {name} is no longer in {source.label}; its last value stays in use"
                self._warn(message, once=f"gone {name}")
                return known
            if text is not None:
                self._found_in[name] = place
                self._warned.discard(f"gone {name}")
                return text
        return None

    def _not_found(self, description: str | None = None) -> str:
        """Return what is wrong with a secret that no source has, as the part of a sentence after its name."""
        labels = ", ".join(source.label for source in self._sources)
        where = f"looked in: {labels}" if labels else "there is no source to look in"
        return f"was not found ({where}{f'; description: {description}' if description else ''})"

    def _remember(self, name: str, text: str) -> None:
        """Mask `text` from now on, whether it is in use or not.

        The value in use is added to the masker again, so that refused values never push it out.
        """
        used = self._now.secret_values.get(name)
        if used is not None and used != default_text(self._keys.get(name, _UNDECLARED)):
            self._masker.add(name, used)
        if not self._masker.add(name, text) and text:
            message = f"Secret {name} is shorter than {MIN_BYTES} bytes; it is not masked in logs"
            self._warn(message, once=f"short {name}")

    def _doubt(self, name: str, text: str, *, required: bool) -> None:
        doubt = doubt_about(text, required=required)
        if doubt is None:
            self._warned -= {f"empty {name}", f"invisible {name}"}
            return
        label = self._sources[self._found_in[name]].label
        kind = "empty" if not text else "invisible"
        self._warn(f"Secret {name} {doubt.message} (found in: {label}): {doubt.hint}", once=f"{kind} {name}")

    def _warn(self, message: str, once: str) -> None:
        if once not in self._warned:
            self._warned.add(once)
            logger.warning("%s", message)

    # Watching -------------------------------------------------------------------------------------------------------

    async def watch(self, interval: float) -> AsyncIterator[frozenset[str]]:
        """Yield the names of secrets whose text has changed in a watched source, whenever that happens.

        Files are checked every 0.25 seconds, Vault every `interval` seconds. A value that cannot be read, has the wrong
        type or is gone does not count as changed. Names that the caller does not install are yielded again with the
        next change.
        """
        watched = [source for source in self._sources if source.watched]
        if not watched:
            return
        loop = asyncio.get_running_loop()
        last_read = loop.time()
        seen: tuple[object, ...] | None = None  # None: read at once, to find what changed since `load`
        while True:
            present = await asyncio.to_thread(_identities, watched)
            due = seen is None or loop.time() - last_read >= interval
            if seen is None or _files_differ(present, seen) or (due and present != seen):
                if seen is not None and _files_differ(present, seen):
                    await asyncio.sleep(_DEBOUNCE)
                    if _files_differ(present, await asyncio.to_thread(_identities, watched)):
                        continue  # the file is still being written
                seen, last_read = present, loop.time()
                changed, faults = await self._changed()
                if _files_differ(present, await asyncio.to_thread(_identities, watched)):
                    seen = None  # some values may be older than others
                    await asyncio.sleep(_DEBOUNCE)
                    continue
                for fault in faults:
                    self._warn(f"{fault}; the value in use stays", once=f"watch {fault}")
                self._warned -= {each for each in self._warned if each.startswith("watch ") and each[6:] not in faults}
                if changed:
                    yield changed
                if faults:
                    await asyncio.sleep(min(interval, _RETRY_DELAY))
                    seen = None  # the fault may go away without another change
            await asyncio.sleep(_FILE_POLL_INTERVAL)

    async def _changed(self) -> tuple[frozenset[str], set[str]]:
        """Return the names whose text in a watched source differs from the one in use, and the faults of the others."""
        changed, faults = set(), set()
        keys, now = tuple(self._keys.items()), self._now.secret_values
        found = await asyncio.gather(*(self._find_watched(name) for name, _ in keys), return_exceptions=True)
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

    async def _find_watched(self, name: str) -> str | None:
        """Like `_find`, but reads watched sources only: the others still have what they had."""
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
    """Whether a file has changed. A float is only the time, which always differs."""
    return any(a != b and not isinstance(a, float) for a, b in zip(now, seen, strict=True))


def _not_loaded(faults: Sequence[tuple[str, str]]) -> SecretError:
    """Make the error for these secrets, each with what is wrong as the part of a sentence after its name."""
    text = "; ".join(f"{name} {why}" for name, why in faults)
    text = f"Secret {text}." if len(faults) == 1 else f"{len(faults)} secrets could not be loaded: {text}."
    if any(why.startswith("was not found") for _, why in faults):
        text += f" Set {'it' if len(faults) == 1 else 'them'}, or add a source under secrets.sources."
    return SecretError(text, faults)


class SecretsView(Mapping[str, Secret[Any]]):
    """`app_state.secrets`: a read-only mapping of names to the values in use. A missing name raises KeyError."""

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
