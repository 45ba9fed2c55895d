"""Members in Ray actors, and ensembles as an application of Ray Serve."""

import os

# Seconds for which a process of Ray waits for the head of its cluster before it ends itself. Ray reads it when it is
# first imported. With its own 60, a short absence would end the server, whose members may all be well.
os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "600")
