//! A Tower layer that redacts secret values in streaming responses
