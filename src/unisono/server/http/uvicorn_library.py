"""uvicorn: the one file that imports it."""

from __future__ import annotations

from uvicorn import Config, Server
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

__all__ = ["Config", "FlowControl", "H11Protocol", "RequestResponseCycle", "Server"]
