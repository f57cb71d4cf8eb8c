"""Events: what is published on a topic goes to every process that subscribed to it (extension `events`)."""

from __future__ import annotations

from collections import defaultdict

from pywatt_host.orchestrator.replica import Replica
from pywatt_host.protocol.messages import Event, Publish

MAX_TOPICS = 1000  # of one process
MAX_TOPIC_LENGTH = 200  # characters


class EventRouter:
    """Delivers at most once: a process that is not connected, or does not read, misses the event."""

    def __init__(self) -> None:
        self._subscribed: defaultdict[str, dict[Replica, None]] = defaultdict(dict)

    def subscribe(self, topic: str, replica: Replica) -> str | None:
        """Subscribe a process to a topic. Returns why that is refused, or None."""
        if len(topic) > MAX_TOPIC_LENGTH:
            return f"a topic is longer than {MAX_TOPIC_LENGTH} characters"
        if sum(replica in replicas for replicas in self._subscribed.values()) >= MAX_TOPICS:
            return f"this module has {MAX_TOPICS} topics already"
        self._subscribed[topic][replica] = None
        return None

    def unsubscribe(self, topic: str, replica: Replica) -> None:
        """End a subscription, if there is one."""
        replicas = self._subscribed.get(topic)
        if replicas is not None:
            replicas.pop(replica, None)
            if not replicas:
                del self._subscribed[topic]

    def publish(self, message: Publish, source: str) -> int:
        """Send an event to every subscriber that is in use, also to the publisher if it has subscribed. Returns how
        many got it."""
        event = Event(message.topic, source, message.payload)
        reached = 0
        for replica in tuple(self._subscribed.get(message.topic, ())):
            if not replica.in_use:
                continue  # during a reload: only one of a replica and its successor gets an event
            connection = replica.connection()
            reached += connection is not None and connection.send(event)
        return reached

    def gone(self, replica: Replica) -> None:
        """End the subscriptions of a process that has ended."""
        for topic in tuple(self._subscribed):
            self.unsubscribe(topic, replica)
