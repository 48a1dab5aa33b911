//! Which rule has replaced which value, for those who ask: tests of rules.

use std::fmt::Write as _;

use super::masker::Core;
use crate::rules::RuleId;

/// What has been replaced so far: where, and by which rule.
pub(crate) type Trace = Vec<(String, RuleId)>;

impl Core {
    /// A rule has replaced the value at this path, or something in it.
    pub(super) fn note(&mut self, rule: RuleId, path: &[u8]) {
        if let Some(trace) = &mut self.trace {
            trace.push((place(path), rule));
        }
    }

    /// A rule has replaced the current value, whose path is written.
    pub(super) fn note_current(&mut self, rule: RuleId) {
        if let Some(trace) = &mut self.trace {
            trace.push((place(self.frames.path()), rule));
        }
    }

    /// What was replaced in the document that lies in the string at this path.
    pub(super) fn note_within(&mut self, path: &[u8], inner: Option<Trace>) {
        if let (Some(trace), Some(inner)) = (&mut self.trace, inner) {
            let outer = place(path);
            trace.extend(inner.into_iter().map(|(inner, rule)| (format!("{outer} | {inner}"), rule)));
        }
    }
}

/// The [path](super::frame::Frames::path) to a value as people write it: `spec.env[0]["a.b"]`.
fn place(path: &[u8]) -> String {
    let mut place = String::new();
    let mut rest = path;
    while let Some((kind, after)) = rest.split_first() {
        if let (1, Some((index, after))) = (kind, after.split_first_chunk()) {
            let _ = write!(place, "[{}]", u32::from_be_bytes(*index));
            rest = after;
            continue;
        }
        let end = after.iter().position(|byte| *byte < 2).unwrap_or(after.len());
        add_key(&mut place, &String::from_utf8_lossy(&after[..end]));
        rest = &after[end..];
    }
    place
}

/// Adds the step to a member.
pub(crate) fn add_key(place: &mut String, key: &str) {
    if key.is_empty() || key.contains(['.', '[', ']', '"', '*', '\\', ' ', '|']) {
        let _ = write!(place, "[\"{}\"]", key.replace('\\', r"\\").replace('"', "\\\""));
    } else {
        place.push_str(if place.is_empty() { "" } else { "." });
        place.push_str(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_shown_as_rules_write_them() {
        let mut path = b"\0spec\0a.b\0c\"d".to_vec();
        path.extend_from_slice(&[1, 0, 0, 1, 0]);
        path.extend_from_slice(b"\0x");
        assert_eq!(place(&path), r#"spec["a.b"]["c\"d"][256].x"#);
        assert_eq!(place(b""), "");
    }
}
