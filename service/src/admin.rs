//! Admin HTTP: `/metrics`, `/healthz`, `/readyz`, `/status`, `/loglevel`.
