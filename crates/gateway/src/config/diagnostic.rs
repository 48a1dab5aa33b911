//! What is wrong with a configuration, and where: file, line, column, and the closest valid name.

use std::{fmt, path::Path};

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A place in a configuration: `["policy", "rules", "2", "match"]`.
pub type FieldPath = Vec<String>;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where; empty for the whole document.
    pub field: FieldPath,
    /// What.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Problem {
    /// A problem at a dotted path: `policy.rules.2.match`.
    pub fn at(field: &str, message: impl Into<String>) -> Self {
        let field = field.split('.').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        Self { field, message: message.into(), help: None }
    }

    /// What to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// All that is wrong with one file, ready to be shown.
#[derive(Clone, Debug)]
pub struct Diagnostics {
    file: String,
    source: String,
    found: Vec<Located>,
}

#[derive(Clone, Debug)]
struct Located {
    message: String,
    help: Option<String>,
    /// Byte offset, line and column (both from 1); the file's beginning if nothing better is known.
    place: (usize, usize, usize),
}

impl Diagnostics {
    /// From what the parser said, and the field that it was about to read.
    pub(super) fn from_yaml(
        file: &Path,
        source: &str,
        error: &serde_path_to_error::Error<serde_yaml::Error>,
    ) -> Self {
        let field = field_path(error.path());
        let said = error.inner().location().map(|at| (at.index(), at.line(), at.column()));
        // It repeats the place in its words, and often the path; we print both ourselves.
        let message = error.inner().to_string();
        let message = message.rfind(" at line ").map_or(message.as_str(), |end| &message[..end]);
        let message = without_path(message, &field);
        let help = closest_name(message);
        // It places names that are unknown or missing well. Of a value that one of our types did not take, it knows only
        // which mapping it stands in.
        let is_name = message.starts_with("unknown field") || message.starts_with("missing field");
        let place = if is_name { said } else { locate(source, &field).or(said) };
        let message = match field.is_empty() {
            true => message.to_owned(),
            false => format!("{}: {message}", field.join(".")),
        };
        let found = vec![Located { message, help, place: place.unwrap_or((0, 1, 1)) }];
        Self { file: file.display().to_string(), source: source.to_owned(), found }
    }

    /// From problems found in a configuration that could be read.
    pub(super) fn from_problems(file: &Path, source: &str, problems: Vec<Problem>) -> Self {
        let found = problems
            .into_iter()
            .map(|problem| Located {
                place: locate(source, &problem.field).unwrap_or((0, 1, 1)),
                message: match problem.field.is_empty() {
                    true => problem.message,
                    false => format!("{}: {}", problem.field.join("."), problem.message),
                },
                help: problem.help,
            })
            .collect();
        Self { file: file.display().to_string(), source: source.to_owned(), found }
    }

    /// Where each problem is, as `(line, column)`, from 1.
    pub fn places(&self) -> Vec<(usize, usize)> {
        self.found.iter().map(|found| (found.place.1, found.place.2)).collect()
    }

    /// For people: each problem with the line it is on.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let mut text = String::new();
        for found in &self.found {
            let start = found.place.0.min(self.source.len());
            let length = self.source[start..].find(['\n', ':']).unwrap_or(self.source.len() - start).max(1);
            let end = (start + length).min(self.source.len());
            let snippet = Snippet::source(self.source.as_str())
                .path(self.file.as_str())
                .annotation(AnnotationKind::Primary.span(start..end));
            let mut group = Level::ERROR.primary_title(found.message.as_str()).element(snippet);
            if let Some(help) = &found.help {
                group = group.element(Level::HELP.message(help.as_str()));
            }
            text.push_str(&renderer.render(&[group]).to_string());
            text.push('\n');
        }
        text
    }
}

/// One line a problem: `file:line:column: message (help)`.
impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, found) in self.found.iter().enumerate() {
            let (_, line, column) = found.place;
            write!(f, "{}{}:{line}:{column}: {}", if n > 0 { "\n" } else { "" }, self.file, found.message)?;
            if let Some(help) = &found.help {
                write!(f, " ({help})")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

fn field_path(path: &serde_path_to_error::Path) -> FieldPath {
    use serde_path_to_error::Segment;
    path.iter()
        .filter_map(|segment| match segment {
            Segment::Seq { index } => Some(index.to_string()),
            Segment::Map { key } => Some(key.clone()),
            Segment::Enum { .. } | Segment::Unknown => None,
        })
        .collect()
}

/// The parser's message without the path it begins with: `rules[1].match`, down to some depth of the field.
fn without_path<'m>(message: &'m str, field: &[String]) -> &'m str {
    let mut path = String::new();
    let mut rest = message;
    for step in field {
        match step.parse::<usize>() {
            Ok(index) => path.push_str(&format!("[{index}]")),
            Err(_) if path.is_empty() => path.push_str(step),
            Err(_) => path.push_str(&format!(".{step}")),
        }
        rest = message.strip_prefix(path.as_str()).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(rest);
    }
    rest
}

/// For "unknown field `x`, expected one of `a`, `b`": the valid name that is most like it.
fn closest_name(message: &str) -> Option<String> {
    let mut quoted = message.split('`').skip(1).step_by(2);
    if !message.contains("unknown ") {
        return None;
    }
    let wrong = quoted.next()?;
    let (score, name) = quoted
        .map(|name| (strsim::jaro_winkler(wrong, name), name))
        .max_by(|(one, _), (other, _)| one.total_cmp(other))?;
    (score > 0.75).then(|| format!("did you mean `{name}`?"))
}

/// Where a field stands in the source. The parser knows; we ask it by failing exactly there.
fn locate(source: &str, field: &[String]) -> Option<(usize, usize, usize)> {
    // A missing field is reported where its parent stands.
    (0..=field.len()).rev().find_map(|depth| {
        let seed = FailAt(&field[..depth]);
        let error = seed.deserialize(serde_yaml::Deserializer::from_str(source)).err()?;
        error.location().map(|at| (at.index(), at.line(), at.column()))
    })
}

/// Reads a document and fails at one place in it.
struct FailAt<'p>(&'p [String]);

impl<'de> DeserializeSeed<'de> for FailAt<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

macro_rules! fail_if_here {
    ($($visit:ident: $type:ty),*) => {
        $(fn $visit<E: serde::de::Error>(self, _: $type) -> Result<(), E> { self.leaf() })*
    };
}

impl FailAt<'_> {
    fn leaf<E: serde::de::Error>(self) -> Result<(), E> {
        if self.0.is_empty() { Err(E::custom("here")) } else { Ok(()) }
    }
}

impl<'de> Visitor<'de> for FailAt<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fail_if_here!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str);

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.leaf()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Some((first, rest)) = self.0.split_first() else { return Err(A::Error::custom("here")) };
        let wanted: Option<usize> = first.parse().ok();
        let mut index = 0;
        loop {
            let more = match wanted == Some(index) {
                true => seq.next_element_seed(FailAt(rest))?.is_some(),
                false => seq.next_element::<IgnoredAny>()?.is_some(),
            };
            if !more {
                return Ok(());
            }
            index += 1;
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((first, rest)) = self.0.split_first() else { return Err(A::Error::custom("here")) };
        while let Some(key) = map.next_key::<String>()? {
            match key == *first {
                true => map.next_value_seed(FailAt(rest))?,
                false => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str =
        "listen:\n  address: nowhere\nrules:\n  - name: one\n  - name: two\n    action: hodl\n";

    fn check(field: &str, line: usize, column: usize) {
        let problems = vec![Problem::at(field, "is wrong")];
        let found = Diagnostics::from_problems(Path::new("p.yaml"), SOURCE, problems);
        assert_eq!(found.places(), [(line, column)], "{field}: {found}");
    }

    #[test]
    fn problems_are_found_where_they_stand() {
        check("listen.address", 2, 12);
        check("rules.1.action", 6, 13);
        check("rules.1.missing", 5, 5);
        check("missing", 1, 1);
    }

    #[test]
    fn a_message_loses_the_parsers_path_and_nothing_else() {
        let check = |message: &str, expected: &str| {
            let field = ["rules", "1", "match"].map(str::to_owned);
            assert_eq!(without_path(message, &field), expected);
        };
        check("rules[1].match: no such verb", "no such verb");
        check("rules[1]: no such verb", "no such verb");
        check("rules: no such verb", "no such verb");
        check("other: no such verb", "other: no such verb");
        check("no such verb", "no such verb");
    }

    #[test]
    fn the_closest_name_is_offered() {
        let help = closest_name("unknown field `adress`, expected one of `address`, `tls`");
        assert_eq!(help.as_deref(), Some("did you mean `address`?"));
        assert_eq!(closest_name("unknown field `zzz`, expected one of `address`, `tls`"), None);
        assert_eq!(closest_name("invalid type: `a`, expected `b`"), None);
    }

    #[test]
    fn people_see_the_line() {
        let problems = vec![Problem::at("rules.1.action", "no such action").help("try `hold`")];
        let shown = Diagnostics::from_problems(Path::new("p.yaml"), SOURCE, problems).render(false);
        assert!(shown.contains("p.yaml:6:13") && shown.contains("action: hodl"), "{shown}");
        assert!(shown.contains("try `hold`"), "{shown}");
    }
}
