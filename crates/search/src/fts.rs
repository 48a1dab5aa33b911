//! A query in the language of SQLite's full-text search (<https://www.sqlite.org/fts5.html#full_text_query_syntax>).

use sqlx::SqlitePool;

use crate::error::IndexError;
use crate::fields::Field;
use crate::query::{Pattern, Phrase, Query, Term, What};

/// How many values a `*` is spelt out to. FTS5 merges the whole lists of all that begin with something before it answers;
/// values by name it walks through from the newest on.
const MOST_SPELT: i64 = 400;

/// What stands before `MATCH` as a parameter. Nothing of it is ever text of a query unquoted.
pub(crate) struct Expression(pub(crate) String);

impl Expression {
    /// The expression for a query's terms; `None`, when the index knows that there is nothing.
    pub(crate) async fn of(query: &Query, pool: &SqlitePool) -> Result<Option<Self>, IndexError> {
        let (mut wanted, mut unwanted) = (Vec::new(), Vec::new());
        for Term { negated, what } in &query.terms {
            let part = match what {
                What::Words(Phrase { words, prefix }) => {
                    Some(format!("text:{}", string(&words.join(" "), *prefix)))
                }
                What::Field(field, patterns) => any(field, patterns, pool).await?,
            };
            match (part, negated) {
                (Some(part), false) => wanted.push(part),
                (Some(part), true) => unwanted.push(part),
                (None, false) => return Ok(None),
                (None, true) => {}
            }
        }
        if wanted.is_empty() {
            // FTS5 knows no "all": each document has one of these.
            wanted.push(r#"(field:"type=request" OR field:"type=event" OR field:"type=log")"#.into());
        }
        let mut expression = format!("({})", wanted.join(" AND "));
        if !unwanted.is_empty() {
            expression.push_str(&format!(" NOT ({})", unwanted.join(" OR ")));
        }
        Ok(Some(Self(expression)))
    }
}

/// That a field has one of these values; `None`, when nothing has.
async fn any(field: &Field, patterns: &[Pattern], pool: &SqlitePool) -> Result<Option<String>, IndexError> {
    let mut parts = Vec::new();
    for Pattern { text, prefix } in patterns {
        let whole = |value: &str| format!("field:{}", string(&format!("{}={value}", field.name), false));
        if !prefix {
            parts.push(whole(text));
            continue;
        }
        let spelt = if field.few { values(field, text, pool).await? } else { None };
        match spelt {
            Some(values) => parts.extend(values.iter().map(|value| whole(value))),
            None => parts.push(format!("field:{}", string(&format!("{}={text}", field.name), true))),
        }
    }
    Ok((!parts.is_empty()).then(|| format!("({})", parts.join(" OR "))))
}

/// The values that begin with `prefix`, unless they are too many.
async fn values(field: &Field, prefix: &str, pool: &SqlitePool) -> Result<Option<Vec<String>>, IndexError> {
    let values: Vec<String> = sqlx::query_scalar(
        "SELECT value FROM value WHERE field = ?1 AND value >= ?2 AND value < ?2 || char(0x10ffff) LIMIT ?3",
    )
    .bind(field.name)
    .bind(prefix)
    .bind(MOST_SPELT + 1)
    .fetch_all(pool)
    .await?;
    Ok((i64::try_from(values.len()).is_ok_and(|count| count <= MOST_SPELT)).then_some(values))
}

/// A string of FTS5: everything in it is text.
fn string(text: &str, prefix: bool) -> String {
    format!("\"{}\"{}", text.replace('"', "\"\""), if prefix { " *" } else { "" })
}
