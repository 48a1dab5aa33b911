//! Task-scoped grants: OAuth token exchange, scope enforcement, revocation
