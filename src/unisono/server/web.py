"""The web framework: the one file that imports it."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

__all__ = ["CORSMiddleware", "ClientDisconnect", "FastAPI", "Request", "Response", "StreamingResponse"]
