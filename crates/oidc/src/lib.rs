//! A Tower layer that turns a bearer JWT into a verified identity
