//! The query language: what people type, read into terms that an index and a single record can both be asked.
//!
//! ```text
//! user:ci-* verb:delete,patch resource:secrets since:24h -status:2xx "exit code 137"
//! ```
//!
//! All terms must hold. `field:value` compares a whole value, whatever its case; `,` between values means *or*, `*` at the
//! end any ending, `-` in front *not*. Words without a field are looked for in commands, messages, bodies and terminal
//! output; quotes keep words together, in that order. Engines know nothing of this text, and the text nothing of engines.

use std::fmt;
use std::ops::Range;

use jiff::{SignedDuration, Span, SpanRelativeTo};
use portcullis_core::Timestamp;

use crate::fields::{self, Field};
use crate::text::{self, MOST_VALUE, value, words};

/// The longest query, in bytes.
const MOST_QUERY: usize = 4096;
/// The most terms and values of one query.
const MOST_TERMS: usize = 128;

/// What to look for. The default finds everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    pub(crate) terms: Vec<Term>,
    pub(crate) since: Option<Timestamp>,
    pub(crate) until: Option<Timestamp>,
}

/// Something that must hold, or must not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Term {
    pub(crate) negated: bool,
    pub(crate) what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// The field has one of these values.
    Field(&'static Field, Vec<Pattern>),
    /// These words stand next to each other, in this order.
    Words(Phrase),
}

/// A value, or all that begin with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    pub(crate) text: String,
    pub(crate) prefix: bool,
}

/// Words in a row; of the last perhaps only the beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Phrase {
    pub(crate) words: Vec<String>,
    pub(crate) prefix: bool,
}

/// Why a query cannot be read, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} (at `{}`)", text.get(at.clone()).unwrap_or(text))]
pub struct QueryError {
    text: String,
    /// The bytes of the query that are meant.
    pub at: Range<usize>,
    /// What is wrong, and what to do.
    pub message: String,
}

impl Query {
    /// Reads a query. Relative times count back from `now`.
    ///
    /// # Errors
    /// [`QueryError`] says what cannot be read, and what would be.
    pub fn parse(text: &str, now: Timestamp) -> Result<Self, QueryError> {
        let mut query = Self::default();
        let mut parser = Parser { text, at: 0 };
        if text.len() > MOST_QUERY {
            return Err(parser.error(0..0, format!("a query has at most {MOST_QUERY} bytes")));
        }
        let mut size = 0;
        while let Some(item) = parser.item()? {
            size += item.values.len();
            if size > MOST_TERMS {
                return Err(
                    parser.error(item.at, format!("a query has at most {MOST_TERMS} terms and values"))
                );
            }
            query.add(item, now).map_err(|(at, message)| parser.error(at, message))?;
        }
        Ok(query)
    }

    fn add(&mut self, item: Item<'_>, now: Timestamp) -> Result<(), (Range<usize>, String)> {
        let Item { at, negated, field, values } = item;
        let what = match field {
            Some(name @ ("since" | "until")) => {
                let bound = if name == "since" { &mut self.since } else { &mut self.until };
                let [raw] = values.as_slice() else {
                    return Err((at, format!("`{name}` takes one time")));
                };
                if negated || bound.is_some() {
                    return Err((at, format!("`{name}` is said once, and not with `-`")));
                }
                *bound = Some(time(&raw.text, now).map_err(|message| (at, message))?);
                return Ok(());
            }
            Some(name) => match fields::named(name) {
                Some(field) => {
                    let patterns = values.iter().map(pattern).collect::<Result<_, _>>();
                    What::Field(field, patterns.map_err(|message| (at, message))?)
                }
                None => return Err((at, fields::unknown(name))),
            },
            None => {
                let Some(raw) = values.first() else { return Ok(()) };
                let words = words(&raw.text);
                if words.is_empty() {
                    return Err((
                        at,
                        "there is no word in it: only letters and digits are looked for".into(),
                    ));
                }
                What::Words(Phrase { words, prefix: raw.star })
            }
        };
        self.terms.push(Term { negated, what });
        Ok(())
    }
}

fn pattern(raw: &Raw) -> Result<Pattern, String> {
    if raw.text.is_empty() && !raw.star {
        return Err("a value is missing after the colon".into());
    }
    if raw.text.len() > MOST_VALUE {
        return Err(format!("a value has at most {MOST_VALUE} bytes"));
    }
    Ok(Pattern { text: value(&raw.text), prefix: raw.star })
}

/// A moment: `24h` and `7d` ago, a day (UTC), or RFC 3339.
fn time(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    if let Ok(day) = text.parse::<jiff::civil::Date>() {
        return day
            .to_zoned(jiff::tz::TimeZone::UTC)
            .map(|start| start.timestamp())
            .map_err(|error| error.to_string());
    }
    let ago = text.parse::<Span>().and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()));
    ago.ok()
        .map(SignedDuration::abs)
        .and_then(|ago| now.checked_sub(ago).ok())
        .ok_or_else(|| "a time is like 90s, 24h, 7d, 2026-11-28, or 2026-11-28T09:30:00Z".into())
}

struct Item<'a> {
    at: Range<usize>,
    negated: bool,
    field: Option<&'a str>,
    values: Vec<Raw>,
}

/// A value as it was typed, without its quotes and its star.
struct Raw {
    text: String,
    star: bool,
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn item(&mut self) -> Result<Option<Item<'a>>, QueryError> {
        self.at += self.rest().len() - self.rest().trim_start().len();
        if self.rest().is_empty() {
            return Ok(None);
        }
        let start = self.at;
        let negated = self.take('-');
        let name = self.rest().split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
        let field = (!name.is_empty() && self.rest()[name.len()..].starts_with(':')).then_some(name);
        if let Some(name) = field {
            self.at += name.len() + 1;
        }
        let mut values = vec![self.value(field.is_some())?];
        while field.is_some() && self.take(',') {
            values.push(self.value(true)?);
        }
        Ok(Some(Item { at: start..self.at, negated, field, values }))
    }

    fn value(&mut self, listed: bool) -> Result<Raw, QueryError> {
        let start = self.at;
        let mut text = String::new();
        let mut star = false;
        while let Some(c) = self.rest().chars().next().filter(|c| !(c.is_whitespace() || listed && *c == ','))
        {
            if star {
                let message = "`*` may stand at the end of a value only; quotes keep it as it is";
                return Err(self.error(start..self.at, message.into()));
            }
            self.at += c.len_utf8();
            match c {
                '"' => self.quoted(start, &mut text)?,
                '*' => star = true,
                c => text.push(c),
            }
        }
        Ok(Raw { text, star })
    }

    fn quoted(&mut self, start: usize, text: &mut String) -> Result<(), QueryError> {
        loop {
            let Some(c) = self.rest().chars().next() else {
                return Err(self.error(start..self.at, "a quotation mark is missing".into()));
            };
            self.at += c.len_utf8();
            match c {
                '"' => return Ok(()),
                '\\' if self.rest().starts_with(['"', '\\']) => {
                    text.extend(self.rest().chars().next());
                    self.at += 1;
                }
                c => text.push(c),
            }
        }
    }

    fn take(&mut self, c: char) -> bool {
        let found = self.rest().starts_with(c);
        self.at += if found { c.len_utf8() } else { 0 };
        found
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn error(&self, at: Range<usize>, message: String) -> QueryError {
        QueryError { text: self.text.to_owned(), at, message }
    }
}

/// The query in the language it is read from, with times as they were understood.
impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut items = Vec::new();
        for Term { negated, what } in &self.terms {
            let minus = if *negated { "-" } else { "" };
            items.push(match what {
                What::Field(field, patterns) => {
                    let values: Vec<_> =
                        patterns.iter().map(|pattern| quote(&pattern.text, pattern.prefix)).collect();
                    format!("{minus}{}:{}", field.name, values.join(","))
                }
                What::Words(phrase) => format!("{minus}{}", quote(&phrase.words.join(" "), phrase.prefix)),
            });
        }
        for (name, bound) in [("since", self.since), ("until", self.until)] {
            items.extend(bound.map(|bound| format!("{name}:{bound}")));
        }
        f.write_str(&items.join(" "))
    }
}

fn quote(value: &str, prefix: bool) -> String {
    let text = text::spaced(value);
    let plain = |c: char| c.is_alphanumeric() || "_./@=-".contains(c);
    let star = if prefix { "*" } else { "" };
    match !text.is_empty() && text.chars().all(plain) && !text.starts_with('-') || text.is_empty() && prefix {
        true => format!("{text}{star}"),
        false => format!("\"{}\"{star}", text.replace('\\', "\\\\").replace('"', "\\\"")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn now() -> Timestamp {
        "2026-11-28T12:00:00Z".parse().unwrap()
    }

    fn read(text: &str) -> String {
        Query::parse(text, now()).map_or_else(|error| error.to_string(), |query| query.to_string())
    }

    #[test]
    fn queries_are_read() {
        let check = |text: &str, want: &str| assert_eq!(read(text), want, "{text}");
        check("", "");
        check("  user:ci-*   verb:delete,patch ", "user:ci-* verb:delete,patch");
        check("-status:2xx resource:pods/exec", "-status:2xx resource:pods/exec");
        check("ns:Kube-System", "namespace:kube-system");
        check(r#"task:"deploy the shop""#, r#"task:"deploy the shop""#);
        check(r#"Delete "Exit Code" kube-sys*"#, r#"delete "exit code" "kube sys"*"#);
        check(r#"user:"a\"b,c""#, r#"user:"a\"b,c""#);
        check("approver:*", "approver:*");
        check("since:24h until:2026-11-28", "since:2026-11-27T12:00:00Z until:2026-11-28T00:00:00Z");
        check("since:7d", "since:2026-11-21T12:00:00Z");
        check("since:2026-11-28T09:30:00+01:00", "since:2026-11-28T08:30:00Z");
    }

    #[test]
    fn what_cannot_be_read_is_told_where() {
        let check = |text: &str, want: &str| assert!(read(text).contains(want), "{text}: {}", read(text));
        check("usr:ann", "did you mean `user`?");
        check("https://x", "quotes");
        check("user:", "a value is missing");
        check("user:a,", "a value is missing");
        check("user:*-ci", "at the end");
        check(r#""open"#, "quotation mark");
        check("since:yesterday", "a time is like");
        check("since:1h since:2h", "once");
        check("-until:1h", "not with `-`");
        check("///", "only letters and digits");
        check(&"a".repeat(5000), "at most 4096 bytes");
        check(&"a ".repeat(200), "at most 128 terms");
    }

    proptest! {
        #[test]
        fn reading_never_panics_and_what_is_shown_reads_the_same(text in "[-a-z:,\"*\\\\ é0-9_]{0,40}|\\PC{0,40}") {
            if let Ok(query) = Query::parse(&text, now()) {
                prop_assert_eq!(Query::parse(&query.to_string(), now()), Ok(query));
            }
        }
    }
}
