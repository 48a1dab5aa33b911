//! Nothing leaks: values that are nowhere else are put into Secrets, their annotations, environment
//! variables and commands. Every byte that clients get back, and every file and log line of the gateway, is
//! searched for them, as they are and in base64.

mod credentials;
mod formats;
mod search;
mod story;
mod wire;
