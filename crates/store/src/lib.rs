//! Where tickets and grants are kept: SQLite
