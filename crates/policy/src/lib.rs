//! YAML and CEL rules that allow, deny or hold a request
