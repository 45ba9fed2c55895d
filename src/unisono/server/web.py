"""What the server takes of FastAPI and Starlette."""

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse

__all__ = ["CORSMiddleware", "ClientDisconnect", "FastAPI", "Request", "Response", "StreamingResponse"]
