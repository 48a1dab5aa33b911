//! The vocabulary Portcullis layers share: requests, identities, grants, verdicts, refusals
