//! The Portcullis gateway: one binary that stacks the layers
