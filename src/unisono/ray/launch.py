"""``unisono serve --ray``: runs the application until a signal."""

from __future__ import annotations

import signal
import threading

from ray import serve

from unisono.ray.application import NAME, app
