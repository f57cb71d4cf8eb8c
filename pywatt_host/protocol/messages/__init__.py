"""Every operation of the protocol in both directions, as frozen messages. Import them from here.

Each file holds the messages of one subject; `table` knows all of them by their `op`.
"""

from pywatt_host.protocol.messages.http import HttpRequest, HttpResponse, PortRequest, PortResponse
from pywatt_host.protocol.messages.lifecycle import (
    Announce,
    AnnouncedEndpoint,
    Draining,
    Heartbeat,
    HeartbeatAck,
    Identify,
    Init,
    IpcChannelOffer,
    Shutdown,
    TcpChannelOffer,
)
from pywatt_host.protocol.messages.members import EXTENSIONS, Document, Extensions, service_type_of
from pywatt_host.protocol.messages.routing import (
    Event,
    Publish,
    RoutedMessage,
    RoutedResponse,
    RouteToModule,
    Subscribe,
    Unsubscribe,
)
from pywatt_host.protocol.messages.secrets import GetSecret, Rotated, RotationAck, SecretValue
from pywatt_host.protocol.messages.services import Deregister, Discover, Discovered, Provider, Register, Registered
from pywatt_host.protocol.messages.stores import (
    ServiceOperation,
    ServiceOperationResult,
    ServiceRequest,
    ServiceResponse,
)
from pywatt_host.protocol.messages.table import (
    MESSAGES,
    Error,
    Message,
    Received,
    ToModule,
    ToOrchestrator,
    Unknown,
    message_of,
)

__all__ = [
    "EXTENSIONS",
    "MESSAGES",
    "Announce",
    "AnnouncedEndpoint",
    "Deregister",
    "Discover",
    "Discovered",
    "Document",
    "Draining",
    "Error",
    "Event",
    "Extensions",
    "GetSecret",
    "Heartbeat",
    "HeartbeatAck",
    "HttpRequest",
    "HttpResponse",
    "Identify",
    "Init",
    "IpcChannelOffer",
    "Message",
    "PortRequest",
    "PortResponse",
    "Provider",
    "Publish",
    "Received",
    "Register",
    "Registered",
    "Rotated",
    "RotationAck",
    "RouteToModule",
    "RoutedMessage",
    "RoutedResponse",
    "SecretValue",
    "ServiceOperation",
    "ServiceOperationResult",
    "ServiceRequest",
    "ServiceResponse",
    "Shutdown",
    "Subscribe",
    "TcpChannelOffer",
    "ToModule",
    "ToOrchestrator",
    "Unknown",
    "Unsubscribe",
    "message_of",
    "service_type_of",
]
