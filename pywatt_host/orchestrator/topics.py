"""Events: what is published on a topic goes to every process that subscribed to it (extension `events`)."""

from __future__ import annotations

from collections import defaultdict

from pywatt_host.orchestrator.replica import Replica
from pywatt_host.protocol.messages import Event, Publish

MOST = 1000  # topics of one process
LONGEST = 200  # characters of a topic


class EventRouter:
    """At most once: who is not there, or does not read, misses it."""

    def __init__(self) -> None:
        self._subscribed: defaultdict[str, dict[Replica, None]] = defaultdict(dict)

    def subscribe(self, topic: str, replica: Replica) -> str | None:
        """Why not; None where it is subscribed."""
        if len(topic) > LONGEST:
            return f"a topic is longer than {LONGEST} characters"
        if sum(replica in replicas for replicas in self._subscribed.values()) >= MOST:
            return f"this module has {MOST} topics already"
        self._subscribed[topic][replica] = None
        return None

    def unsubscribe(self, topic: str, replica: Replica) -> None:
        replicas = self._subscribed.get(topic)
        if replicas is not None:
            replicas.pop(replica, None)
            if not replicas:
                del self._subscribed[topic]

    def publish(self, message: Publish, source: str) -> int:
        """To how many it went, the publisher among them where it has subscribed."""
        event = Event(message.topic, source, message.payload)
        reached = 0
        for replica in tuple(self._subscribed.get(message.topic, ())):
            connection = replica.connection()
            reached += connection is not None and connection.send(event)
        return reached

    def gone(self, replica: Replica) -> None:
        for topic in tuple(self._subscribed):
            self.unsubscribe(topic, replica)
