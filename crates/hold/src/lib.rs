//! A Tower layer that parks a risky request until people decide
