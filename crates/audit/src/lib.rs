//! Tower layers that record every request durably, before and after it happens
