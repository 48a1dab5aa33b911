//! Paths into JSON: `spec.**.env[*].value`, `metadata.annotations["a.b/c"]`.

use std::fmt;

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// The member of this name.
    Key(String),
    /// `*`: any member.
    AnyKey,
    /// `[*]`: any element.
    AnyIndex,
    /// `**`: anything, any number of levels down, none included.
    AnyDepth,
}

/// Reads a path. The error says what is wrong, and where.
pub(crate) fn parse(path: &str) -> Result<Vec<Step>, PathError> {
    read(path, false)
}

/// Reads a path to one value, in which an element may have its number, `[0]`, which is as good as any other. In rules a number
/// would promise that only this element is meant.
pub(crate) fn parse_value(path: &str) -> Result<Vec<Step>, PathError> {
    read(path, true)
}

fn read(path: &str, numbers: bool) -> Result<Vec<Step>, PathError> {
    let mut steps = Vec::new();
    let mut rest = path;
    let error = |rest: &str, message| PathError { at: path.len() - rest.len(), message };
    while !rest.is_empty() {
        if let Some(bracket) = rest.strip_prefix('[') {
            let (step, after) = match bracket.strip_prefix("*]").or_else(|| number(bracket, numbers)) {
                Some(after) => (Step::AnyIndex, after),
                None => quoted(bracket).ok_or_else(|| error(rest, "expected `[*]` or `[\"key\"]`"))?,
            };
            steps.push(step);
            rest = after;
        } else {
            if !steps.is_empty() {
                rest = rest.strip_prefix('.').ok_or_else(|| error(rest, "expected `.` or `[`"))?;
            }
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            let step = match &rest[..end] {
                "" => return Err(error(rest, "expected a name, `*` or `**`")),
                "*" => Step::AnyKey,
                "**" => Step::AnyDepth,
                name if name.contains('*') => {
                    return Err(error(
                        rest,
                        "`*` stands for a whole name; match parts of a name with `keys`",
                    ));
                }
                name => Step::Key(name.to_owned()),
            };
            steps.push(step);
            rest = &rest[end..];
        }
    }
    match steps.last() {
        None => Err(error(rest, "an empty path")),
        Some(Step::AnyDepth) => Err(error(rest, "`**` must be followed by something")),
        Some(_) => Ok(steps),
    }
}

/// What comes after `0]`.
fn number(text: &str, allowed: bool) -> Option<&str> {
    let (digits, after) = text.split_once(']')?;
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    (allowed && is_number).then_some(after)
}

/// `"key"]`, with `\"` and `\\` for themselves.
fn quoted(text: &str) -> Option<(Step, &str)> {
    let mut name = String::new();
    let mut characters = text.strip_prefix('"')?.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((Step::Key(name), text[at + 2..].strip_prefix(']')?)),
            '\\' => name.push(characters.next()?.1),
            _ => name.push(character),
        }
    }
    None
}

/// A path that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PathError {
    at: usize,
    message: &'static str,
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at character {}", self.message, self.at + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: &[Step]) {
        assert_eq!(parse(path).as_deref(), Ok(expected), "{path}");
    }

    fn key(name: &str) -> Step {
        Step::Key(name.into())
    }

    #[test]
    fn paths_are_read() {
        check("data.*", &[key("data"), Step::AnyKey]);
        check(
            "spec.**.env[*].value",
            &[key("spec"), Step::AnyDepth, key("env"), Step::AnyIndex, key("value")],
        );
        check(r#"a["b.c/d"].e"#, &[key("a"), key("b.c/d"), key("e")]);
        check(r#"["q\"\\"][*]"#, &[key("q\"\\"), Step::AnyIndex]);
        check("**.password", &[Step::AnyDepth, key("password")]);
    }

    #[test]
    fn numbers_stand_for_any_element_in_paths_to_values() {
        assert_eq!(parse_value("a[0][12].b"), parse("a[*][*].b"));
        for path in ["a[]", "a[-1]", "a[0", "a[1x]", "a[+1]"] {
            assert!(parse_value(path).is_err(), "{path}");
        }
    }

    #[test]
    fn mistakes_are_shown() {
        let shown = |path: &str| parse(path).map_err(|error| error.to_string());
        for (path, expected) in [
            ("", "an empty path at character 1"),
            ("a..b", "expected a name, `*` or `**` at character 3"),
            ("a.", "expected a name, `*` or `**` at character 3"),
            ("a[1]", "expected `[*]` or `[\"key\"]` at character 2"),
            ("a[*]b", "expected `.` or `[` at character 5"),
            ("a.**", "`**` must be followed by something at character 5"),
            ("a.*b", "`*` stands for a whole name; match parts of a name with `keys` at character 3"),
            (r#"a["b"#, "expected `[*]` or `[\"key\"]` at character 2"),
        ] {
            assert_eq!(shown(path), Err(expected.to_owned()), "{path}");
        }
    }
}
