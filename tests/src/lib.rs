//! End-to-end tests against a real API server through real clients
