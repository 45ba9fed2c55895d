"""HTTP below the routes: uvicorn, stricter about requests, and with limits on connections."""
