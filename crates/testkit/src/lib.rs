//! An in-memory API server, identity provider and clock for tests and demos
