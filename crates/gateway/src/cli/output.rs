//! How commands print: aligned tables for people, JSON and YAML for programs, colours on terminals only.
//!
//! **Invariant.** What is on record was written by strangers: no character of it that does more than be read gets to a terminal.
//! In JSON and YAML such a character is escaped, so that the value stays what it is; elsewhere it is U+FFFD.

use anstream::println;
use clap::{Args, ValueEnum};
use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use portcullis_sessions::clean;
use serde::{Serialize, de::IgnoredAny};
use serde_json::Value;

use super::CliError;

pub(crate) const RED: &str = "\x1b[1;31m";
pub(crate) const GREEN: &str = "\x1b[32m";
pub(crate) const BOLD: &str = "\x1b[1m";
pub(crate) const DIM: &str = "\x1b[2m";
pub(crate) const PLAIN: &str = "\x1b[0m";

/// `-o`
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct OutputArgs {
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
    Yaml,
}

impl OutputArgs {
    /// Prints `value`, as a program or as a person wants it.
    pub(crate) fn print<T: Serialize>(self, value: &T, for_people: impl FnOnce(&T)) -> Result<(), CliError> {
        match self.output {
            Format::Table => for_people(value),
            Format::Json => println!("{}", json(value)?),
            Format::Yaml => print!("{}", yaml(value)?),
        }
        Ok(())
    }
}

/// `-o` of what lists things that have ids.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct ListOutputArgs {
    /// How to print; `name` prints the ids alone, one a line, for other commands
    #[arg(short, long, value_enum, default_value_t = ListFormat::Table, value_name = "FORMAT")]
    output: ListFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ListFormat {
    Table,
    Json,
    Yaml,
    Name,
}

impl ListOutputArgs {
    /// As [`OutputArgs::print`], with the ids of what is listed.
    pub(crate) fn print<'a, T: Serialize>(
        self,
        value: &T,
        ids: impl Iterator<Item = &'a str>,
        for_people: impl FnOnce(&T),
    ) -> Result<(), CliError> {
        let output = match self.output {
            ListFormat::Table => Format::Table,
            ListFormat::Json => Format::Json,
            ListFormat::Yaml => Format::Yaml,
            ListFormat::Name => {
                for id in ids {
                    println!("{}", printable(id));
                }
                return Ok(());
            }
        };
        OutputArgs { output }.print(value, for_people)
    }
}

/// Prints rows under a header, aligned, wrapped to the terminal.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_header(header);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for row in rows {
        table.add_row(row);
    }
    for line in table.lines() {
        println!("{}", line.trim_end());
    }
}

/// Text on one line, each character that is not plain as U+FFFD; a tab as four blanks.
pub(crate) fn printable(text: &str) -> String {
    clean::line(&text.replace('\t', "    "))
}

/// A value as JSON, indented.
///
/// # Errors
/// When the value is none that JSON can hold.
pub(crate) fn json(value: &impl Serialize) -> Result<String, CliError> {
    Ok(clean::json(&serde_json::to_string_pretty(value)?))
}

/// A value as YAML. What its writer would leave as it is, is in a flow of JSON (YAML 1.2 §1.3) with escapes.
///
/// # Errors
/// When the value is none that JSON or YAML can hold.
pub(crate) fn yaml(value: &impl Serialize) -> Result<String, CliError> {
    let text = block(value)?;
    if is_harmless(&text) {
        return Ok(text);
    }
    let mut whole = String::new();
    match serde_json::to_value(value)? {
        // Each for itself: one does not make the others hard to read.
        Value::Array(items) => {
            for item in &items {
                let text = block(&[item])?;
                whole += &if is_harmless(&text) { text } else { format!("- {}\n", flow(item)) };
            }
        }
        Value::Object(fields) => {
            for (name, value) in fields {
                let text = block(&std::collections::BTreeMap::from([(&name, &value)]))?;
                let line = || format!("{}: {}\n", flow(&name.as_str().into()), flow(&value));
                whole += &if is_harmless(&text) { text } else { line() };
            }
        }
        value => whole = flow(&value) + "\n",
    }
    Ok(whole)
}

fn block(value: &impl Serialize) -> Result<String, CliError> {
    serde_yaml::to_string(value).map_err(|error| CliError::Other(error.into()))
}

fn is_harmless(text: &str) -> bool {
    text.chars().all(|character| clean::is_plain(character) || matches!(character, '\n' | '\t'))
}

/// JSON on one line as YAML reads it, too: an escape is one character there, never half of one (YAML 1.2 §5.7).
fn flow(value: &Value) -> String {
    let mut line = String::new();
    for character in value.to_string().chars() {
        match u32::from(character) {
            _ if clean::is_plain(character) => line.push(character),
            code @ ..=0xffff => line += &format!("\\u{code:04x}"),
            code => line += &format!("\\U{code:08x}"),
        }
    }
    line
}

/// A stored record as one line of JSON, as it is stored but that each control and invisible character is escaped; `null` for
/// what is no JSON.
pub(crate) fn json_line(raw: &[u8]) -> String {
    let is_json = serde_json::from_slice::<IgnoredAny>(raw).is_ok();
    match std::str::from_utf8(raw) {
        // Within strings there are none of these in JSON.
        Ok(text) if is_json => clean::json(&text.trim().replace(['\n', '\r', '\t'], " ")),
        _ => "null".to_owned(),
    }
}

/// A word as a shell reads it back, so that what is printed can be copied whatever is in it.
pub(crate) fn shell_word(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=@%+,".contains(&byte);
    match !text.is_empty() && text.bytes().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_record_is_escaped_in_json_and_in_yaml_and_stays_what_it_is() {
        let evil = "a\u{9b}2J\u{202e}\u{7f}\u{e0041}\u{1b}]0;x\u{7}\u{feff}\n\tb: - \"c\" \\";
        let fine = serde_json::json!({"name": "fine", "script": "a\n\tb\n", "count": 1, "no": null});
        for value in [
            serde_json::json!([{"who": evil, (evil): [evil, 1.5, true]}, fine]),
            serde_json::json!({"who": evil, (evil): {"deep": [evil]}, "fine": fine}),
            serde_json::json!(evil),
            serde_json::json!({"only": "\u{202e}"}),
            serde_json::json!({"next line": "a\u{85}b\u{2028}c"}),
            fine.clone(),
        ] {
            let text = yaml(&value).unwrap();
            assert!(is_harmless(&text), "{text:?}");
            assert_eq!(serde_yaml::from_str::<Value>(&text).unwrap(), value, "{text}");
            let line = json_line(serde_json::to_string_pretty(&value).unwrap().as_bytes());
            assert!(line.chars().all(clean::is_plain), "{line:?}");
            assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), value, "{line}");
        }
        let list = yaml(&[serde_json::json!({"who": evil}), fine]).unwrap();
        assert!(list.contains("\n  name: fine\n"), "the others are as they were: {list}");
    }

    #[test]
    fn a_stored_record_stays_as_it_is_stored_but_for_what_is_not_plain() {
        assert_eq!(
            json_line(b"{\"b\":1.0,\"a\":1e3,\"b\":\"\xc2\x9b\"}\n"),
            r#"{"b":1.0,"a":1e3,"b":"\u009b"}"#
        );
        for raw in [&b"{\"a\":"[..], b"", b"\xff", b"\"\xff\"", b"{}\n{}", b"\x1b[2J"] {
            assert_eq!(json_line(raw), "null");
        }
    }

    #[test]
    fn text_for_people_is_on_one_line_and_plain() {
        assert_eq!(printable("a\tb\u{9b}\u{202e}\n\u{200b}c"), "a    b\u{fffd}\u{fffd}\u{fffd}\u{fffd}c");
    }

    #[test]
    fn a_shell_reads_words_back() {
        assert_eq!(shell_word("/tmp/portcullis-demo-x1/ca.crt"), "/tmp/portcullis-demo-x1/ca.crt");
        assert_eq!(shell_word("/tmp/my demo"), "'/tmp/my demo'");
        assert_eq!(shell_word("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(shell_word(""), "''");
    }
}
