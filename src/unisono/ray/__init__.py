"""Members in Ray actors, and ensembles as an application of Ray Serve."""

import os

# For how many seconds a process of Ray waits for the cluster's head before it ends itself. Ray reads it when it is first
# imported; with its own 60 a short absence would end the server, whose members may all be well.
os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "600")
