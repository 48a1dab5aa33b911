//! Sans-I/O codecs for what Kubernetes speaks on the wire
